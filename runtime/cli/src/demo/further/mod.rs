//! The two other kinds of tasks, on the same agents and the same backbone: a forecast that labels itself, and a watch
//! for anomalies that nobody labels.

mod report;

pub(crate) use report::{FurtherReport, FurtherRun};

use super::error::DemoError;
use super::plant::Answered;
use crate::data::{DataSet, Future};
use crate::evaluate::{Bench, Features};
use loadonce_backbone::Backbone;
use loadonce_control::{ForecastSpec, ModuleKind, TaskKind, TaskManifest};
use loadonce_module::metrics::roc_auc;
use loadonce_module::{ANOMALOUS, Decider, NORMAL, Random, Recipe, Served};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Days at the end of the series that no gateway learns from.
const TEST_DAYS: usize = 14;
/// Test windows, the same for all gateways.
const WINDOWS: usize = 40;
/// Points of a gateway's stretch of the series with `--quick`.
const QUICK_STRETCH: usize = 200;
/// Normal and anomalous test pictures, the same for all gateways.
const PICTURES: [usize; 2] = [40, 20];
/// The share of test samples with `--quick`.
const QUICK: usize = 4;
/// Class of the pictures that count as normal.
const RIGHT: &str = "3";

/// A task, and which gateway sends what.
#[derive(Debug)]
pub(crate) struct Further {
    /// The manifest.
    pub(crate) manifest: TaskManifest,
    /// The same as TOML, for the aggregator.
    pub(crate) toml: String,
    /// What is sent, by row.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Rows that each gateway sends, in order.
    pub(crate) sent: Vec<Vec<usize>>,
    /// Those of them that will have a label.
    pub(crate) labelled: Vec<Vec<usize>>,
    /// Rows that every gateway is tested on, in order.
    pub(crate) tests: Vec<usize>,
    /// The same samples for the judge.
    set: DataSet,
    /// What seasonal naive says to each test window.
    naive: Vec<Vec<f64>>,
}

/// A manifest of `tasks/` and its text.
fn manifest(models: &Path, name: &str) -> Result<(TaskManifest, String), DemoError> {
    let path = models.join("tasks").join(format!("{name}.toml"));
    let file = |source| DemoError::File { doing: "read", path: path.clone(), source };
    let text = std::fs::read_to_string(&path).map_err(file)?;
    match TaskManifest::from_toml(&text) {
        Ok(manifest) => Ok((manifest, text)),
        Err(error) => Err(DemoError::Content { path, what: error.to_string() }),
    }
}

/// The same with other numbers of gateways and labels.
fn fitted(
    name: &str,
    text: &str,
    gateways: usize,
    labels: usize,
) -> Result<(TaskManifest, String), DemoError> {
    let content = |what: String| DemoError::Content { path: format!("{name}.toml").into(), what };
    // One contribution of each gateway, with all its labels, makes the one version.
    let line = |line: &str| match line.split_once(" = ").map(|(key, _)| key) {
        Some(key @ ("quorum" | "minimum")) => format!("{key} = {gateways}\n"),
        Some(key @ ("min_labels" | "learn")) => format!("{key} = {labels}\n"),
        _ => format!("{line}\n"),
    };
    let toml: String = text.lines().map(line).collect();
    let manifest = TaskManifest::from_toml(&toml).map_err(|error| content(error.to_string()))?;
    let rounds = (manifest.rounds.quorum, manifest.rounds.minimum, manifest.sync.min_labels);
    if manifest.name != name
        || rounds != (gateways, gateways, labels)
        || manifest.module.kind != ModuleKind::Moments
    {
        let what = format!(
            "must be named `{name}`, be solved by moments and have lines `quorum = …`, `minimum = …`, `min_labels = …`"
        );
        return Err(content(what));
    }
    Ok((manifest, toml))
}

/// The series of `demand.csv`: time of the first value, values.
fn series(path: &Path) -> Result<(f64, Vec<f64>), DemoError> {
    let file = |source| DemoError::File { doing: "read", path: path.to_owned(), source };
    let content = |what: &str| DemoError::Content { path: path.to_owned(), what: what.to_owned() };
    let text = std::fs::read_to_string(path).map_err(file)?;
    let row = |line: &str| {
        let (time, value) = line.split_once(',')?;
        Some((time.parse::<f64>().ok()?, value.parse::<f64>().ok()?))
    };
    let rows: Option<Vec<(f64, f64)>> = text.lines().skip(1).map(row).collect();
    let rows = rows.ok_or_else(|| content("its rows are not `time,MW`"))?;
    let start = rows.first().ok_or_else(|| content("it has no rows"))?.0;
    Ok((start, rows.into_iter().map(|(_, value)| value).collect()))
}

impl Further {
    /// The load of a country: every gateway has another stretch of it, and all are asked about the two weeks after.
    pub(crate) fn demand(models: &Path, gateways: usize, quick: bool) -> Result<Self, DemoError> {
        let path = models.join("data/demand.csv");
        let (start, values) = series(&path)?;
        let (first, text) = manifest(models, "demand")?;
        let too_short =
            || DemoError::Content { path: path.clone(), what: "it is too short for the task".into() };
        let Some(ForecastSpec { horizon, every, season: Some(season), step_s: Some(step_s), .. }) =
            first.forecast
        else {
            return Err(DemoError::Content { path, what: "the task needs season and step_s".into() });
        };
        let loadonce_control::Input::Window { length: Some(length), .. } = first.input else {
            return Err(DemoError::Content { path, what: "the task needs windows of a length".into() });
        };
        let learned = values.len().checked_sub(TEST_DAYS * season).ok_or_else(too_short)?;
        let stretch = (learned / gateways).min(if quick { QUICK_STRETCH } else { usize::MAX });
        if stretch < length + horizon {
            return Err(too_short());
        }
        let tested = if quick { WINDOWS / QUICK } else { WINDOWS };
        let room = (values.len() - learned).checked_sub(length + horizon).ok_or_else(too_short)?;

        let mut rows = Rows { values: &values, start, step_s, length, horizon, ..Rows::default() };
        let (mut sent, mut labelled) = (Vec::new(), Vec::new());
        for gateway in 0..gateways {
            let starts = (0..=stretch - length).step_by(every);
            let all: Vec<(usize, usize)> =
                starts.map(|at| (at, rows.push(gateway * learned / gateways + at, "line"))).collect();
            // A window has its label once the last one brought all its values.
            let last = all.last().map_or(0, |(at, _)| *at);
            labelled.push(all.iter().filter(|(at, _)| at + horizon <= last).map(|(_, row)| *row).collect());
            sent.push(all.into_iter().map(|(_, row)| row).collect::<Vec<_>>());
        }
        // Backwards, so that no window brings the values that an earlier one is asked about.
        let tests: Vec<usize> =
            (0..tested).rev().map(|i| rows.push(learned + i * room / (tested - 1).max(1), "test")).collect();
        let naive = tests.iter().map(|&row| rows.naive(row, season)).collect();
        let labels = labelled.iter().map(Vec::len).min().unwrap_or(0);
        let (manifest, toml) = fitted("demand", &text, gateways, labels)?;
        let (set, payloads) = rows.finish(&sent, &tests, learned);
        Ok(Self { manifest, toml, payloads, sent, labelled, tests, set, naive })
    }

    /// A line that stamps one digit: every gateway has seen a few of it, everything else is a misprint.
    pub(crate) fn misprint(
        models: &Path,
        gateways: usize,
        quick: bool,
        random: &mut Random,
    ) -> Result<Self, DemoError> {
        let path = models.join("data/digits.safetensors");
        let mut set = DataSet::read(&path)?;
        let right = set.classes.iter().position(|class| class == RIGHT);
        let class = |label: u16| if Some(usize::from(label)) == right { NORMAL } else { ANOMALOUS };
        set.labels = set.labels.iter().map(|&label| class(label)).collect();
        set.classes = vec!["normal".to_owned(), "anomalous".to_owned()];
        let (first, text) = manifest(models, "misprint")?;
        let mut normals = set.by_class(&set.train).swap_remove(usize::from(NORMAL));
        random.shuffle(&mut normals);
        let each = usize::try_from(first.anomaly.learn).unwrap_or(usize::MAX).min(normals.len() / gateways);
        if each < 2 {
            let what = format!("{} normal pictures are too few for {gateways} gateways", normals.len());
            return Err(DemoError::Content { path, what });
        }
        let sent: Vec<Vec<usize>> = normals.chunks(each).take(gateways).map(<[usize]>::to_vec).collect();
        let mut tests = Vec::new();
        for (mut class, count) in set.by_class(&set.test).into_iter().zip(PICTURES) {
            random.shuffle(&mut class);
            tests.extend(class.into_iter().take(if quick { count / QUICK } else { count }));
        }
        let (manifest, toml) = fitted("misprint", &text, gateways, each)?;
        let (payloads, labelled) = (set.payloads.clone(), sent.clone());
        Ok(Self { manifest, toml, payloads, sent, labelled, tests, set, naive: Vec::new() })
    }

    /// What each gateway reaches with its own samples only.
    pub(crate) fn alone(&self, backbone: &Backbone) -> Result<Vec<f64>, DemoError> {
        let name = &self.manifest.name;
        let failed = |what: String| DemoError::Evaluation { task: name.clone(), what };
        let features = Features::compute(backbone, &self.manifest, &self.set, Path::new(name), 1)
            .map_err(|error| failed(error.to_string()))?;
        let bench = Bench { manifest: &self.manifest, set: &self.set, features: &features, early: false };
        let shape = bench.shape(Recipe::Moments);
        let mut decider = Decider::new(shape);
        let one = |rows: &Vec<usize>| {
            let params = bench.fit(Recipe::Moments, rows, 0).map_err(failed)?;
            let offset = vec![0.0; shape.offset_len()];
            let served = Served { params: &params, offset: &offset, alarms: &[] };
            let mut said = Vec::new();
            for &row in &self.tests {
                for (k, z) in features.row(row).chunks_exact(features.width).enumerate() {
                    decider.exit(&served, k, z);
                }
                said.push(match self.manifest.kind {
                    TaskKind::Forecast => {
                        let (level, unit) = features.scales[row];
                        let count = self.manifest.forecast.as_ref().map_or(1, |f| f.quantiles.len());
                        let median = self.manifest.forecast.as_ref().map_or(0, |f| f.quantiles.median());
                        let steps = decider.outputs().chunks_exact(count);
                        Said::Path(steps.map(|q| level + unit * f64::from(q[median])).collect())
                    }
                    TaskKind::Anomaly | TaskKind::Classify => Said::Score(decider.score()),
                });
            }
            self.figure(&said).map_err(failed)
        };
        self.labelled.iter().map(one).collect()
    }

    /// The task's figure of what was said to the test samples.
    fn figure(&self, said: &[Said]) -> Result<f64, String> {
        match self.manifest.kind {
            TaskKind::Forecast => {
                let (mut error, mut naive) = (0.0, 0.0);
                for ((said, &row), before) in said.iter().zip(&self.tests).zip(&self.naive) {
                    let (Said::Path(path), Some(future)) = (said, &self.set.future) else {
                        return Err("an answer holds no forecast".into());
                    };
                    let actual = &future.values[row * future.horizon..][..future.horizon];
                    for ((said, naively), &actual) in path.iter().zip(before).zip(actual) {
                        error += (said - f64::from(actual)).abs();
                        naive += (naively - f64::from(actual)).abs();
                    }
                }
                if naive > 0.0 { Ok(error / naive) } else { Err("seasonal naive is never wrong".into()) }
            }
            TaskKind::Anomaly | TaskKind::Classify => {
                let score = |said: &Said| match said {
                    Said::Score(score) => Ok(*score),
                    Said::Path(_) => Err("an answer holds no score".to_owned()),
                };
                let scores = said.iter().map(score).collect::<Result<Vec<_>, _>>()?;
                let bad: Vec<bool> =
                    self.tests.iter().map(|&row| self.set.labels[row] == ANOMALOUS).collect();
                roc_auc(&scores, &bad).ok_or_else(|| "the test pictures are all of one kind".to_owned())
            }
        }
    }

    /// The figures of what the gateways answered live.
    pub(crate) fn run(
        &self,
        alone: Vec<f64>,
        live: &[&Answered],
        versions: u64,
    ) -> Result<FurtherRun, String> {
        let mut exits = Vec::new();
        // By gateway, then by test row.
        let mut said: BTreeMap<usize, BTreeMap<usize, Said>> = BTreeMap::new();
        let (mut held, mut asked, mut found) = (0, 0, [0, 0]);
        let mut promised = 0.0;
        for answer in live {
            let (row, prediction) = (answer.shipment.sample, &answer.prediction);
            exits.resize(exits.len().max(prediction.exit), 0);
            if let Some(exit) = prediction.exit.checked_sub(1) {
                exits[exit] += 1;
            }
            let own = said.entry(answer.gateway).or_default();
            if let (Some(forecast), Some(future)) = (&prediction.forecast, &self.set.future) {
                let levels = &forecast.quantiles;
                let median = levels.iter().position(|level| (level - 0.5).abs() < 1e-9);
                let (Some(median), Some(low), Some(high)) = (
                    median.and_then(|at| forecast.paths.get(at)),
                    forecast.paths.first(),
                    forecast.paths.last(),
                ) else {
                    return Err("a forecast has no median".into());
                };
                promised = levels[levels.len() - 1] - levels[0];
                for ((low, high), &actual) in low.iter().zip(high).zip(&future.values[row * future.horizon..])
                {
                    asked += 1;
                    held += usize::from((*low..=*high).contains(&f64::from(actual)));
                }
                own.insert(row, Said::Path(median.clone()));
            } else if let Some(anomaly) = &prediction.anomaly {
                let bad = self.set.labels[row] == ANOMALOUS;
                promised = anomaly.false_alarms;
                if let Some(alarm) = anomaly.alarm {
                    if bad {
                        found[0] += usize::from(alarm);
                        found[1] += 1;
                    } else {
                        asked += 1;
                        held += usize::from(alarm);
                    }
                }
                own.insert(row, Said::Score(anomaly.score));
            } else {
                return Err(format!("task {}: an answer without a module", self.manifest.name));
            }
        }
        let federated = said
            .values()
            .map(|own| {
                let in_order: Option<Vec<Said>> =
                    self.tests.iter().map(|row| own.get(row).cloned()).collect();
                self.figure(&in_order.ok_or("a test sample has no answer")?)
            })
            .collect::<Result<Vec<f64>, String>>()?;
        let (metric, before) = match self.manifest.kind {
            TaskKind::Forecast => ("relative_error", 1.0),
            TaskKind::Anomaly | TaskKind::Classify => ("roc_auc", 0.5),
        };
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        Ok(FurtherRun {
            name: self.manifest.name.clone(),
            kind: if self.manifest.kind == TaskKind::Forecast { "forecast" } else { "anomaly" },
            metric,
            before,
            alone,
            federated,
            promised,
            held: share(held, asked),
            found: share(found[0], found[1]),
            samples: self.sent.iter().map(Vec::len).sum(),
            versions,
            exits,
        })
    }
}

/// An answer, as far as the figure needs it.
#[derive(Debug, Clone)]
enum Said {
    /// The median of a forecast, step by step.
    Path(Vec<f64>),
    /// The score of an anomaly task.
    Score(f32),
}

/// Windows of a series, as they are sent and as the judge takes them.
#[derive(Debug, Default)]
struct Rows<'a> {
    values: &'a [f64],
    start: f64,
    step_s: f64,
    length: usize,
    horizon: usize,
    /// Place of each window's first value.
    firsts: Vec<usize>,
    sent: Vec<Vec<u8>>,
}

impl Rows<'_> {
    /// Adds the window that begins at `first`; gives its row.
    fn push(&mut self, first: usize, series: &str) -> usize {
        let window = &self.values[first..first + self.length];
        let time = self.time(first);
        self.sent
            .push(json!({ "channels": [window], "time": time, "series": series }).to_string().into_bytes());
        self.firsts.push(first);
        self.firsts.len() - 1
    }

    /// Of the last value of the window that begins at `first`.
    fn time(&self, first: usize) -> f64 {
        self.start + self.step_s * (first + self.length - 1) as f64
    }

    /// The values one season before those to come.
    fn naive(&self, row: usize, season: usize) -> Vec<f64> {
        let end = self.firsts[row] + self.length;
        (0..self.horizon).map(|h| self.values[end + h % season - season]).collect()
    }

    /// The data set of all windows, and what is sent of each; the first `learned` values are known beforehand.
    fn finish(self, sent: &[Vec<usize>], tests: &[usize], learned: usize) -> (DataSet, Vec<Vec<u8>>) {
        let f32s = |values: &[f64]| -> Vec<f32> { values.iter().map(|&value| value as f32).collect() };
        let raw = |&first: &usize| -> Vec<u8> {
            f32s(&self.values[first..first + self.length])
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        // The last windows of a stretch reach beyond the series only in what nobody reads.
        let coming = |&first: &usize| -> Vec<f32> {
            let end = first + self.length;
            let mut values = f32s(&self.values[end..(end + self.horizon).min(self.values.len())]);
            values.resize(self.horizon, f32::NAN);
            values
        };
        let set = DataSet {
            classes: Vec::new(),
            payloads: self.firsts.iter().map(raw).collect(),
            labels: Vec::new(),
            train: sent.iter().flatten().copied().collect(),
            test: tests.to_vec(),
            future: Some(Future {
                horizon: self.horizon,
                values: self.firsts.iter().flat_map(coming).collect(),
                times: self.firsts.iter().map(|&first| self.time(first)).collect(),
                history: self.values[..learned].to_vec(),
            }),
            events: None,
            calibrate: None,
            hash: String::new(),
        };
        (set, self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
    }

    #[test]
    fn no_gateway_sees_what_it_is_asked_about() {
        for (gateways, quick) in [(10, false), (16, false), (4, true)] {
            let demand = Further::demand(&models(), gateways, quick).unwrap();
            let future = demand.set.future.as_ref().unwrap();
            let first_test = demand.tests.iter().map(|&row| future.times[row]).fold(f64::MAX, f64::min);
            let last = demand.sent.iter().flatten().map(|&row| future.times[row]).fold(0.0, f64::max);
            // The first test window begins where the last stretch ended.
            assert!(last <= first_test - 1800.0 * 96.0, "{last} {first_test}");
            assert!(demand.labelled.iter().all(|own| own.len() == demand.manifest.sync.min_labels));
            let known = |&row: &usize| future.values[row * 24..][..24].iter().all(|value| value.is_finite());
            assert!(demand.labelled.iter().flatten().chain(&demand.tests).all(known));
            let times: Vec<f64> = demand.tests.iter().map(|&row| future.times[row]).collect();
            assert!(times.is_sorted_by(|a, b| a > b), "backwards: {times:?}");

            let misprint = Further::misprint(&models(), gateways, quick, &mut Random::new(1)).unwrap();
            let mut all: Vec<usize> = misprint.sent.iter().flatten().copied().collect();
            assert!(all.iter().all(|&row| misprint.set.labels[row] == NORMAL));
            let count = all.len();
            all.extend(&misprint.tests);
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count + misprint.tests.len());
            assert_eq!(count as u64, gateways as u64 * misprint.manifest.anomaly.learn);
            assert!(misprint.manifest.anomaly.learn >= 5, "fifty, or what there is");
        }
    }

    #[test]
    fn seasonal_naive_is_the_measure_of_a_forecast() {
        let demand = Further::demand(&models(), 4, true).unwrap();
        let naive: Vec<Said> = demand.naive.iter().cloned().map(Said::Path).collect();
        assert!((demand.figure(&naive).unwrap() - 1.0).abs() < 1e-12);
        let future = demand.set.future.as_ref().unwrap();
        let truth = demand.tests.iter().map(|&row| &future.values[row * 24..][..24]);
        let truth: Vec<Said> = truth.map(|v| Said::Path(v.iter().map(|&v| f64::from(v)).collect())).collect();
        assert_eq!(demand.figure(&truth), Ok(0.0));
    }
}
