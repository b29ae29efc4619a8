//! `loadonce feed`: plays samples to one gateway as a camera, a meter and a person would, samples first, labels after.
//!
//! | file | holds |
//! |---|---|
//! | `source` | files, folders and data sets as samples with labels |
//! | `table` | CSV: rows that are samples, or windows of a long series |
//! | `tally` | a line per answer, and what all of them come to |

mod source;
mod table;
mod tally;

use crate::demo::{DemoError, Plant, Shipment, Stopped};
use loadonce_control::Label;
use loadonce_link::Broker;
use loadonce_link::tls::TlsFiles;
use source::Entry;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use table::Cut;
use tally::Tally;
use tokio::time::MissedTickBehavior;

/// Refusals one after the other, from the first sample on, after which the rest is not tried.
const GIVE_UP: usize = 10;

/// What is read, for `--help`.
const READS: &str = "\
What is read, and where a sample's label is:
  FOLDER         png, jpg, json, csv, f32, txt: each file a sample. Label: <name>.label beside it,
                 or the name of the folder within FOLDER that it is in
  FILE.csv       each row a sample, channel after channel. With --window each row a point in time with a
                 cell per channel. A header may name columns label, id, time, series
  FILE.jsonl     each line [..], [[..],[..]], {\"channels\":[[..]],\"time\":..} or {\"text\":\"..\"}; objects may bear
                 \"label\" and \"id\"
  FILE.txt       each line a text, without labels
  FILE.safetensors  the training samples of a data set as `loadonce evaluate` reads it
A label is a class, `normal` or `anomalous`, or for a forecast the values that came: [1.5,2].

Examples:
  loadonce feed --site plant --gateway press-7 --task digits --data photos/
  loadonce feed --site plant --gateway press-7 --task demand --data load.csv --window 336 --every 24
  loadonce feed --site plant --gateway press-7 --task spindle --data normal.jsonl --rate 10";

/// Command line of `loadonce feed`.
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub struct Options {
    /// Broker of the gateway's data plane
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    broker: String,
    /// For a broker that speaks TLS: PEM file of the CA that signed its certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of the certificate to show the broker
    #[arg(long, value_name = "FILE", requires = "ca", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Site
    #[arg(long)]
    site: String,
    /// Gateway
    #[arg(long)]
    gateway: String,
    /// Task
    #[arg(long)]
    task: String,
    /// File or folder of samples, see below
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Samples to send at most, from the first on
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Samples per second at most; without it the next one goes out as soon as one is answered
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Cut windows of N rows out of a CSV table whose rows are points in time
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Rows from one window to the next; without it windows do not overlap
    #[arg(long, value_name = "M", requires = "window")]
    every: Option<usize>,
    /// Send no labels: the gateway only answers
    #[arg(long)]
    unlabelled: bool,
    /// Print the summary only, not every answer
    #[arg(long)]
    quiet: bool,
    /// Longest wait for an answer, seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    patience: u64,
}

impl Options {
    fn check(&self) -> Result<(), DemoError> {
        let usage = |what: String| Err(DemoError::Usage { what });
        let broker =
            Broker::parse(&self.broker).map_err(|error| DemoError::Usage { what: error.to_string() })?;
        if broker.tls != self.ca.is_some() {
            return usage(format!("{broker}: mqtts:// and --ca go together"));
        }
        for (option, name) in [("site", &self.site), ("gateway", &self.gateway), ("task", &self.task)] {
            if loadonce_wire::Name::new(name).is_none() {
                return usage(format!(
                    "--{option} is {name:?}, but must be 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot"
                ));
            }
        }
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= 10_000.0)
        {
            return usage(format!("--rate is {rate}, allowed is above 0 to 10000"));
        }
        if self.window == Some(0) || self.every == Some(0) || self.count == Some(0) || self.patience == 0 {
            return usage("--window, --every, --count and --patience must be at least 1".into());
        }
        Ok(())
    }

    fn tls(&self) -> Option<TlsFiles> {
        let identity = self.certificate.clone().zip(self.key.clone());
        self.ca.clone().map(|ca| TlsFiles { ca, identity })
    }

    fn cut(&self) -> Option<Cut> {
        self.window.map(|rows| Cut { rows, every: self.every.unwrap_or(rows) })
    }

    /// What is said when nothing comes back.
    fn silent(&self, missing: usize) -> DemoError {
        DemoError::Unanswered {
            gateway: self.gateway.clone(),
            what: format!(
                "no answer for {} s, {missing} samples of task {} at site {} are missing",
                self.patience, self.task, self.site
            ),
        }
    }
}

/// Runs it.
pub async fn run(options: Options) -> Result<(), DemoError> {
    options.check()?;
    let mut entries = source::read(&options.data, options.cut())?;
    entries.truncate(options.count.unwrap_or(usize::MAX));
    let (gateway, task) = (options.gateway.clone(), options.task.clone());
    let mut plant =
        Plant::connect(&options.broker, options.tls(), &options.site, vec![gateway], vec![task]).await?;
    let told = play(&mut plant, &options, &entries).await;
    plant.close().await;
    told
}

async fn play(plant: &mut Plant, options: &Options, entries: &[Entry]) -> Result<(), DemoError> {
    let mut pace = options.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let (mut tally, mut taken) = (Tally::default(), Vec::new());
    for (at, entry) in entries.iter().enumerate() {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let line = match ask(plant, options, at, entry).await {
            Ok(prediction) => {
                taken.push(at);
                tally.answer(entry, &prediction)
            }
            Err(Stopped::Refused(_, _, what)) => tally.refusal(&what),
            Err(Stopped::Silent(..)) => return Err(options.silent(entries.len() - at)),
            Err(Stopped::Error(error)) => return Err(error),
        };
        if !options.quiet {
            println!("{}: {line}", entry.id);
        }
        if taken.is_empty() && at + 1 == GIVE_UP.min(entries.len()) {
            return Err(DemoError::Unanswered {
                gateway: options.gateway.clone(),
                what: format!("all of the first {} samples are refused: {}", at + 1, tally.last_refusal()),
            });
        }
    }
    println!("{} samples sent to {}: {tally}", entries.len(), options.gateway);
    if !options.unlabelled {
        teach(plant, options, entries, &taken).await?;
    }
    Ok(())
}

/// Sends one sample and waits for its answer.
async fn ask(
    plant: &mut Plant,
    options: &Options,
    at: usize,
    entry: &Entry,
) -> Result<loadonce_control::Prediction, Stopped> {
    let payload = entry.payload.read().map_err(|error| Stopped::Error(error.into()))?;
    let queue = VecDeque::from([shipment(at, entry)]);
    let patience = Duration::from_secs(options.patience);
    let answered = plant.exchange(vec![queue], |_| payload.clone(), patience, |_| Ok(())).await?;
    let answer = answered.into_iter().next().ok_or(Stopped::Silent(0, 1))?;
    Ok(answer.prediction)
}

fn shipment(at: usize, entry: &Entry) -> Shipment {
    Shipment { task: 0, sample: at, id: entry.id.clone() }
}

/// Sends the labels of the samples that were taken.
async fn teach(
    plant: &mut Plant,
    options: &Options,
    entries: &[Entry],
    taken: &[usize],
) -> Result<(), DemoError> {
    let mut sent = 0;
    for &at in taken {
        let entry = &entries[at];
        let text = match &entry.label {
            None => continue,
            Some(Label::Name(name)) => name.clone(),
            Some(Label::Values(values)) => serde_json::json!(values).to_string(),
        };
        plant.label(0, &shipment(at, entry), &text).await?;
        sent += 1;
    }
    let Some(&last) = taken.last().filter(|_| sent > 0) else {
        println!("no labels sent: the data have none");
        return Ok(());
    };
    // Labels are answered only when they are refused. A gateway takes what comes in order, and a sample it knows
    // once: when the last sample is answered again, every refusal is here. One of its own label comes first.
    let mut answer = ask(plant, options, last, &entries[last]).await;
    if let Err(Stopped::Refused(_, id, what)) = answer {
        plant.refused(id, what);
        answer = ask(plant, options, last, &entries[last]).await;
    }
    match answer {
        Ok(_) => {}
        Err(Stopped::Refused(_, _, what)) => {
            return Err(DemoError::Unanswered { gateway: options.gateway.clone(), what });
        }
        Err(Stopped::Silent(..)) => return Err(options.silent(1)),
        Err(Stopped::Error(error)) => return Err(error),
    }
    let (refused, first) = plant.problems();
    match first {
        None => println!("{sent} labels sent"),
        Some((id, what)) => {
            println!("{sent} labels sent, {refused} of them refused; the first, of {id}: {what}");
        }
    }
    Ok(())
}
