//! One federation, from the first process to the figures.

use super::error::DemoError;
use super::fleet::{Figures, Fleet, Plan};
use super::judged::Slot;
use super::metrics::mean;
use super::plant::{Answered, Plant};
use super::progress::Progress;
use super::report::{AgentMemory, Bytes, Run};
use super::rounds;
use super::setup::{Setup, split};
use super::stage::Stage;
use std::path::Path;
use std::time::Instant;

/// Runs one federation.
pub(crate) async fn run(setup: &Setup, seed: u64, progress: &mut Progress) -> Result<Run, DemoError> {
    let started = Instant::now();
    let folder = setup.out.join(format!("run-{seed}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|source| DemoError::File {
            doing: "remove",
            path: folder.clone(),
            source,
        })?;
    }
    let site = format!("demo-{seed}{}", setup.suffix);
    let splits = split(setup, seed)?;
    let names: Vec<String> = setup.tasks.iter().map(|task| task.manifest.name.clone()).collect();
    let further: Vec<String> = setup.further.iter().map(|task| task.manifest.name.clone()).collect();
    let all: Vec<String> = names.iter().chain(&further).cloned().collect();
    let texts = setup.tasks.iter().map(|task| &task.toml);
    let texts = texts.chain(setup.further.iter().map(|task| &task.toml)).cloned();
    let tasks: Vec<(String, String)> = all.iter().cloned().zip(texts).collect();
    let mut fleet = Fleet::start(&Plan {
        folder: &folder,
        site: &site,
        broker: &setup.broker,
        gateways: &setup.gateways,
        aggregator: &setup.aggregator,
        agent: &setup.agent,
        bundle: &setup.bundle,
        library: setup.library.as_deref(),
        tasks: &tasks,
    })?;
    progress.stage(&format!(
        "started 1 aggregator and {} agents in {}",
        setup.gateways.len(),
        short(&folder).display()
    ));
    let mut plant = Plant::connect(&setup.broker, None, &site, setup.gateways.clone(), all).await?;
    let mut stage = Stage { setup, fleet: &mut fleet, plant: &mut plant, progress, names: &names };
    let learned = stage.learn(&splits).await?;
    let answers = stage.test(&splits).await?;
    let modules = stage.modules()?;
    let (alone, further_answers) = stage.further(&further).await?;
    let unchanged = stage.modules()? == modules;
    let figures = stage.last_figures(&splits).await?;
    fleet.end().await?;
    plant.tidy_up(setup.backbone.bundle().fingerprint()).await?;

    if !unchanged {
        let what = "training the further tasks changed the modules of the others".to_owned();
        return Err(DemoError::Nonsense { what, folder });
    }
    let lineages = rounds::read(&folder.join("aggregator").join("state"), &names)?;
    let nonsense = |what: String| DemoError::Nonsense { what, folder: folder.clone() };
    let mut task_runs = Vec::new();
    for (task, judged) in learned.iter().enumerate() {
        let slots: Vec<&Slot> = modules.iter().map(|gateway| &gateway[task]).collect();
        let live: Vec<&Answered> = answers.iter().filter(|answer| answer.shipment.task == task).collect();
        let name = &names[task];
        let versions: Vec<u64> =
            figures.iter().filter_map(|f| f.tasks.get(name)).map(|f| f.version).collect();
        let run = judged.run(setup, &splits[task], &slots, &live, &versions, task).map_err(nonsense)?;
        if run.versions != lineages[task].len() as u64 {
            let what = format!(
                "task {name}: gateways hold version {}, the lineage has {}",
                run.versions,
                lineages[task].len()
            );
            return Err(nonsense(what));
        }
        task_runs.push(run);
    }
    let mut further_runs = Vec::new();
    for (index, (task, alone)) in setup.further.iter().zip(alone).enumerate() {
        let at = names.len() + index;
        let live: Vec<&Answered> = further_answers.iter().filter(|a| a.shipment.task == at).collect();
        let versions = figures.iter().filter_map(|f| f.tasks.get(&further[index])).map(|f| f.version);
        let run = task.run(alone, &live, versions.max().unwrap_or(0));
        further_runs.push(run.map_err(nonsense)?);
    }
    let longest = lineages.iter().max_by_key(|rounds| rounds.len()).cloned().unwrap_or_default();
    let sum = |figure: &dyn Fn(&Figures) -> u64| figures.iter().map(figure).sum::<u64>();
    let bytes = Bytes::new(
        sum(&|figures| figures.uplink.bytes_up),
        sum(&|figures| figures.uplink.bytes_down),
        setup.backbone.bundle().fp32_bytes(),
        longest.iter().sum(),
    );
    let largest = figures.iter().max_by_key(|figures| figures.rss_bytes);
    let agent = largest.map_or(AgentMemory { rss_mb: 0.0, backbone_mb: 0.0 }, |figures| AgentMemory {
        rss_mb: figures.rss_bytes as f64 / 1e6,
        backbone_mb: figures.backbone_bytes as f64 / 1e6,
    });
    let run = Run {
        seed,
        tasks: task_runs,
        further: further_runs,
        bytes,
        agent,
        rounds: longest.len() as u64,
        seconds: started.elapsed().as_secs_f64(),
    };
    check(&run).map_err(nonsense)?;
    if !setup.keep {
        std::fs::remove_dir_all(&folder).map_err(|source| DemoError::File {
            doing: "remove",
            path: folder.clone(),
            source,
        })?;
    }
    Ok(run)
}
/// A path as a person would type it here.
fn short(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

/// Figures that cannot be right.
fn check(run: &Run) -> Result<(), String> {
    if run.bytes.up == 0 || run.bytes.down == 0 {
        return Err("the uplinks carried no bytes".into());
    }
    if run.agent.rss_mb <= 0.0 {
        return Err("the agents report no memory".into());
    }
    for task in &run.tasks {
        let all =
            [&task.accuracy.before, &task.accuracy.alone, &task.accuracy.shared, &task.accuracy.federated];
        if all.iter().any(|list| list.iter().any(|share| !(0.0..=1.0).contains(share))) {
            return Err(format!("task {}: an accuracy is outside 0 to 1", task.name));
        }
        if mean(&task.accuracy.federated) <= mean(&task.accuracy.before) {
            return Err(format!("task {}: the personal modules are no better than none", task.name));
        }
    }
    Ok(())
}
