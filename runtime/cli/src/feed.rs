//! `loadonce feed`: plays a data set to one gateway as a camera and a person would, samples first, labels after.

use crate::data::DataSet;
use crate::demo::{Answered, DemoError, Plant, Shipment, Stopped};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

/// Command line of `loadonce feed`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Broker of the gateway's data plane
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    broker: String,
    /// Site
    #[arg(long)]
    site: String,
    /// Gateway
    #[arg(long)]
    gateway: String,
    /// Task
    #[arg(long)]
    task: String,
    /// Data set, as described in models/data/README.md
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Samples to send, the first of the training set
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Send no labels: the gateway only answers
    #[arg(long)]
    unlabelled: bool,
    /// Longest wait for an answer, seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    patience: u64,
}

/// Runs it.
pub async fn run(options: Options) -> Result<(), DemoError> {
    let Options { broker, site, gateway, task, data, count, unlabelled, patience } = options;
    let set = DataSet::read(&data)?;
    if set.labels.is_empty() {
        return Err(DemoError::Usage { what: "this data set has no labels to play".into() });
    }
    let mut plant = Plant::connect(&broker, &site, vec![gateway.clone()], vec![task.clone()]).await?;
    let queue: VecDeque<Shipment> = set
        .train
        .iter()
        .take(count)
        .map(|&sample| Shipment { task: 0, sample, id: format!("feed-{sample}") })
        .collect();
    let sent = queue.len();
    let payload = |shipment: &Shipment| set.payloads[shipment.sample].clone();
    let answered = plant.exchange(vec![queue], payload, Duration::from_secs(patience), |_| Ok(())).await;
    let answered = answered.map_err(|stopped| match stopped {
        Stopped::Refused(_, sample, what) => DemoError::Unanswered {
            gateway: gateway.clone(),
            what: format!("sample {sample} is refused: {what}"),
        },
        Stopped::Silent(_, missing) => DemoError::Unanswered {
            gateway: gateway.clone(),
            what: format!(
                "no answer for {patience} s, {missing} samples of task {task} at site {site} are missing"
            ),
        },
        Stopped::Error(error) => error,
    })?;
    println!("{sent} samples sent to {gateway}, {} answered{}", answered.len(), judged(&answered, &set));
    if unlabelled {
        plant.close().await;
        return Ok(());
    }
    for Answered { shipment, .. } in &answered {
        let class = usize::from(set.labels[shipment.sample]);
        plant.label(0, shipment, &set.classes[class]).await?;
    }
    plant.close().await;
    println!("{} labels sent", answered.len());
    Ok(())
}

/// How many answers were right, where there is a module to answer.
fn judged(answered: &[Answered], set: &DataSet) -> String {
    let given = answered.iter().filter_map(|a| a.prediction.label.as_ref().map(|label| (a, label)));
    let right = |(a, label): &(&Answered, &String)| {
        **label == set.classes[usize::from(set.labels[a.shipment.sample])]
    };
    let (all, right) = (given.clone().count(), given.filter(right).count());
    if all == 0 {
        ", without a label: there is no module yet".to_owned()
    } else {
        format!(", {right} of {all} rightly")
    }
}
