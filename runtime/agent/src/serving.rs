//! Answering a sample: run the backbone exit by exit until the module is sure enough.

use loadonce_backbone::{EngineError, Pass};
use loadonce_module::{Kept, Runner, Shape, argmax, softmax};

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
    /// Log prior added to the logits, one per class.
    pub offset: Vec<f32>,
    /// Confidence at which each exit may answer; [`loadonce_module::NEVER`] keeps an exit off.
    pub thresholds: Vec<f32>,
    /// Which candidate the held-out data chose.
    pub kept: Kept,
    /// Labelled samples behind the personal module.
    pub labels: usize,
}

/// A prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answer {
    /// Class index.
    pub class: usize,
    /// Its probability.
    pub confidence: f32,
}

/// Logits of exit `k` with the prior added, turned into probabilities in `out`.
pub(crate) fn probabilities(runner: &mut Runner, active: &Active, k: usize, z: &[f32], out: &mut [f32]) {
    runner.exit(&active.personal, k, z, out);
    for (logit, offset) in out.iter_mut().zip(&active.offset) {
        *logit += offset;
    }
    softmax(out);
}

/// Runs `pass` until an exit answers; appends every exit's features to `features`. Without a module no exit can
/// answer, so all of them run and the features are still worth keeping. Returns the answer and the exits run.
pub(crate) fn answer(
    shape: &Shape,
    per_channel: usize,
    active: Option<&Active>,
    pass: &mut Pass<'_>,
    features: &mut Vec<f32>,
) -> Result<(Option<Answer>, usize), EngineError> {
    let mut runner = Runner::new(*shape);
    let mut scores = vec![0.0; shape.outputs];
    let mut z = Vec::with_capacity(shape.features);
    for k in 0..shape.exits {
        z.clear();
        pass.next_exit(per_channel, &mut z)?;
        features.extend_from_slice(&z);
        let Some(active) = active else { continue };
        probabilities(&mut runner, active, k, &z, &mut scores);
        let class = argmax(&scores);
        let confidence = scores[class];
        let last = k + 1 == shape.exits;
        if last || active.thresholds.get(k).is_some_and(|&threshold| confidence >= threshold) {
            return Ok((Some(Answer { class, confidence }), k + 1));
        }
    }
    Ok((None, shape.exits))
}
