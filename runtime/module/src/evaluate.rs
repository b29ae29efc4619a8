//! Held-out figures, a slice of samples per call.

use crate::data::{Dataset, Target};
use crate::forward::forward;
use crate::head::Head;
use crate::loss::Objective;
use crate::prior::argmax;
use crate::shape::Shape;

/// Samples evaluated per call, so that a call stays about as short as an optimizer step.
pub(crate) const EVAL_SLICE: usize = 32;

/// Mean figures of one exit over a set of samples, the offset added to its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExitEval {
    /// Weighted mean of the [`Objective`]'s loss.
    pub loss: f32,
    /// Share of samples whose top class is right; 0 for the kinds without classes.
    pub accuracy: f32,
}

/// Figures over a set of samples; all zero when it is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Eval {
    /// Samples evaluated.
    pub samples: usize,
    /// Weighted mean over samples of the sum over exits of the loss: what training minimizes.
    pub loss: f32,
    /// Each exit's own figures.
    pub exits: Vec<ExitEval>,
}

impl Eval {
    /// Figures of the last exit.
    pub fn last(&self) -> ExitEval {
        self.exits.last().copied().unwrap_or_default()
    }
}

/// An evaluation in slices.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    done: usize,
    weight: f64,
    loss: Vec<f64>,
    right: Vec<usize>,
    outputs: Vec<f32>,
}

impl Evaluation {
    pub(crate) fn new(shape: &Shape) -> Self {
        Self {
            done: 0,
            weight: 0.0,
            loss: vec![0.0; shape.exits],
            right: vec![0; shape.exits],
            outputs: vec![0.0; shape.exits * shape.outputs],
        }
    }

    /// Evaluates up to [`EVAL_SLICE`] more samples; the figures once all are done.
    pub(crate) fn advance(
        &mut self,
        shape: &Shape,
        params: &[f32],
        data: &Dataset,
        objective: &Objective,
        offset: &[f32],
    ) -> Option<Eval> {
        let end = data.n().min(self.done + EVAL_SLICE);
        for i in self.done..end {
            forward(shape, params, data.row(i), &mut self.outputs);
            let target = data.targets.at(i);
            let weight = f64::from(objective.weight(target));
            self.weight += weight;
            for (k, outputs) in self.outputs.chunks_exact_mut(shape.outputs).enumerate() {
                for (output, offset) in outputs.iter_mut().zip(offset) {
                    *output += offset;
                }
                let right = shape.head == Head::Classify && Target::Class(argmax(outputs) as u16) == target;
                self.right[k] += usize::from(right);
                self.loss[k] += weight * f64::from(objective.exit(shape, outputs, target));
            }
        }
        self.done = end;
        (end == data.n()).then(|| self.figures())
    }

    fn figures(&self) -> Eval {
        let n = self.done.max(1) as f64;
        let weight = if self.weight > 0.0 { self.weight } else { 1.0 };
        let exits = self.loss.iter().zip(&self.right);
        Eval {
            samples: self.done,
            loss: (self.loss.iter().sum::<f64>() / weight) as f32,
            exits: exits
                .map(|(loss, right)| ExitEval {
                    loss: (loss / weight) as f32,
                    accuracy: (*right as f64 / n) as f32,
                })
                .collect(),
        }
    }
}
