//! Answering a sample: run the backbone exit by exit until the module is sure enough.

use crate::record::Scale;
use crate::task::Task;
use loadonce_backbone::{EngineError, Pass};
use loadonce_control::{AlarmAnswer, ForecastAnswer, Prediction, Ranked, UNKNOWN};
use loadonce_module::{Alarm, Choice, Decider, Head, Kept, Served, Shape};

/// The module a task serves: the content of its active slot.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    /// Version in the lineage.
    pub version: u64,
    /// blake3 of the shared module's file.
    pub hash: [u8; 32],
    /// Parameters of the shared module, the base of the next step.
    pub shared: Vec<f32>,
    /// Parameters that answer.
    pub personal: Vec<f32>,
    /// Added to the outputs: the log prior, or the quantiles' shifts.
    pub offset: Vec<f32>,
    /// Sureness at which each exit may answer; [`loadonce_module::NEVER`] keeps an exit off.
    pub thresholds: Vec<f32>,
    /// Alarms of every exit of an anomaly task; empty until enough normal samples have set them.
    pub alarms: Vec<Alarm>,
    /// Their thresholds.
    pub alarm_thresholds: Vec<f32>,
    /// Held-out labelled anomalies, and those of them that the last exit's alarm finds.
    pub recall: (u32, u32),
    /// Confidence below which the answer is "unknown".
    pub reject: Option<f32>,
    /// Which candidate the held-out data chose.
    pub kept: Kept,
    /// Closed form or trained; absent where there was nothing to choose from.
    pub choice: Option<Choice>,
    /// Labelled samples behind the personal module.
    pub labels: usize,
}

impl Active {
    /// What answers.
    pub(crate) fn served(&self) -> Served<'_> {
        Served { params: &self.personal, offset: &self.offset, alarms: &self.alarm_thresholds }
    }

    /// Takes alarms over.
    pub(crate) fn set_alarms(&mut self, alarms: Vec<Alarm>) {
        self.alarm_thresholds = alarms.iter().map(|alarm| alarm.threshold).collect();
        self.alarms = alarms;
    }
}

/// Runs `pass` until an exit answers; appends every exit's features to `features`, each followed by `extras`. Without
/// a module no exit can answer, so all of them run and the features are still worth keeping. Returns the exit that
/// answered, with its outputs, and how many ran.
pub(crate) fn answer(
    shape: &Shape,
    per_channel: usize,
    active: Option<&Active>,
    pass: &mut Pass<'_>,
    extras: &[f32],
    features: &mut Vec<f32>,
) -> Result<(Option<Decider>, usize), EngineError> {
    let mut decider = Decider::new(*shape);
    let mut z = Vec::with_capacity(shape.features);
    for k in 0..shape.exits {
        pass.next_exit(per_channel, &mut z)?;
        z.extend_from_slice(extras);
        features.extend_from_slice(&z);
        let Some(active) = active else { continue };
        let sureness = decider.exit(&active.served(), k, &z);
        let last = k + 1 == shape.exits;
        if last || active.thresholds.get(k).is_some_and(|&threshold| sureness >= threshold) {
            return Ok((Some(decider), k + 1));
        }
    }
    Ok((None, shape.exits))
}

/// The message that says what exit `exit`, counted from 1, answered.
pub(crate) fn prediction(
    task: &Task,
    decider: Option<&Decider>,
    exit: usize,
    scale: Option<Scale>,
    time: Option<f64>,
) -> Prediction {
    let active = task.active.as_ref();
    let mut prediction = Prediction {
        exit,
        version: task.version(),
        personal: active.is_some_and(|active| active.kept != Kept::Shared),
        ..Prediction::default()
    };
    let (Some(decider), Some(active)) = (decider, active) else { return prediction };
    let outputs = decider.outputs();
    match task.shape.head {
        Head::Classify => {
            let mut order: Vec<usize> = (0..outputs.len()).collect();
            // Stable: of equals the first, as everywhere.
            order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]));
            let ranked = |&class: &usize| Ranked {
                label: task.manifest.classes[class].clone(),
                confidence: outputs[class],
            };
            let top = task.manifest.classify.top;
            if let Some(best) = order.first().map(ranked) {
                let sure = active.reject.is_none_or(|least| best.confidence >= least);
                prediction.confidence = Some(best.confidence);
                prediction.label = Some(if sure { best.label } else { UNKNOWN.to_owned() });
            }
            if top > 1 {
                prediction.top = order.iter().take(top).map(ranked).collect();
            }
        }
        Head::Forecast { quantiles, .. } => {
            let Some(Scale { mean, deviation }) = scale else { return prediction };
            let value = |x: &f32| mean + deviation * f64::from(*x);
            let path = |q: usize| outputs.iter().skip(q).step_by(quantiles.len()).map(value).collect();
            let step_s = task.manifest.forecast.as_ref().and_then(|forecast| forecast.step_s);
            prediction.forecast = Some(ForecastAnswer {
                start: time.zip(step_s).map(|(time, step_s)| time + step_s),
                quantiles: quantiles.levels().collect(),
                paths: (0..quantiles.len()).map(path).collect(),
            });
        }
        Head::Anomaly => {
            let score = decider.score();
            let alarm = active.alarms.get(exit - 1);
            prediction.anomaly = Some(AlarmAnswer {
                score,
                alarm: alarm.map(|alarm| score > alarm.threshold),
                threshold: alarm.map(|alarm| alarm.threshold),
                false_alarms: task.manifest.anomaly.false_alarms,
                interval: alarm.map(|alarm| alarm.interval),
                normals: alarm.map_or(0, |alarm| alarm.normals),
            });
        }
    }
    prediction
}
