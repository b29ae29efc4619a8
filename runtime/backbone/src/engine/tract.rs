//! tract: pure Rust, one plan per segment and number of tokens, because int8 graphs load at fixed lengths only.

use std::sync::Arc;

use tract_onnx::prelude::*;

use crate::bundle::Bundle;
use crate::contract::Segment;
use crate::engine::{EngineError, SegmentInput, SegmentOutput};
use crate::input::{Modality, PATCH};

/// The plans of a bundle, for each modality it takes.
pub(crate) struct Plans(Vec<ModalityPlans>);

struct ModalityPlans {
    tokens: usize,
    segments: Vec<Plan>,
}

struct Plan {
    model: Arc<TypedRunnableModel>,
    file: String,
    /// Position among the outputs.
    hidden: Option<usize>,
    pooled: usize,
}

fn failed(file: &str, doing: &'static str) -> impl Fn(TractError) -> EngineError {
    move |error| EngineError::Engine { file: file.into(), doing, what: format!("{error:#}") }
}

impl Plans {
    pub(crate) fn load(bundle: &Bundle) -> Result<Self, EngineError> {
        let modalities =
            [Modality::Window, Modality::Picture].into_iter().filter(|&modality| bundle.takes(modality));
        let mut plans: Vec<_> = modalities
            .map(|modality| ModalityPlans { tokens: modality.tokens(), segments: Vec::new() })
            .collect();
        let mut width = PATCH;
        for (index, segment) in bundle.segments().iter().enumerate() {
            let bytes = bundle.read(&segment.file)?;
            let mut next_width = width;
            for plans in &mut plans {
                let plan = Plan::load(segment, &bytes, index == 0, plans.tokens, width)
                    .map_err(failed(&segment.file, "loading"))?;
                if let Some(hidden) = plan.hidden {
                    next_width = plan.width(hidden).map_err(failed(&segment.file, "loading"))?;
                }
                plans.segments.push(plan);
            }
            width = next_width;
        }
        Ok(Self(plans))
    }

    pub(crate) fn run(&self, index: usize, input: &SegmentInput<'_>) -> Result<SegmentOutput, EngineError> {
        let tokens = match *input {
            SegmentInput::Patches { token_ids, .. } => token_ids.len(),
            SegmentInput::Hidden { tokens, .. } => tokens,
        };
        let plans = self.0.iter().find(|plans| plans.tokens == tokens);
        let plan = &plans.expect("a pass refuses modalities its bundle does not take").segments[index];
        plan.run(input).map_err(failed(&plan.file, "running"))
    }
}

impl Plan {
    fn load(
        segment: &Segment,
        mut bytes: &[u8],
        first: bool,
        tokens: usize,
        width: usize,
    ) -> TractResult<Self> {
        let mut model = tract_onnx::onnx()
            .model_for_read(&mut bytes)?
            .with_input_fact(0, f32::fact([1, tokens, width]).into())?;
        if first {
            model = model.with_input_fact(1, i64::fact([tokens]).into())?;
        }
        let position = |name: &str| {
            let outlets = model.output_outlets()?;
            let found = outlets.iter().position(|&outlet| model.outlet_label(outlet) == Some(name));
            found.ok_or_else(|| TractError::msg(format!("it has no output {name}")))
        };
        let (hidden, pooled) =
            (segment.hidden.as_deref().map(position).transpose()?, position(&segment.pooled)?);
        let model = model.into_optimized()?.into_runnable()?;
        Ok(Self { model, file: segment.file.clone(), hidden, pooled })
    }

    /// Last dimension of an output.
    fn width(&self, output: usize) -> TractResult<usize> {
        let fact = self.model.model().output_fact(output)?;
        let width = fact.shape.as_concrete().and_then(|shape| shape.last().copied());
        width.ok_or_else(|| TractError::msg("the hidden state has no fixed width"))
    }

    fn run(&self, input: &SegmentInput<'_>) -> TractResult<SegmentOutput> {
        let inputs = match *input {
            SegmentInput::Patches { patches, token_ids } => tvec![
                Tensor::from_shape(&[1, token_ids.len(), PATCH], patches)?.into_tvalue(),
                Tensor::from_shape(&[token_ids.len()], token_ids)?.into_tvalue(),
            ],
            SegmentInput::Hidden { hidden, tokens } => {
                tvec![Tensor::from_shape(&[1, tokens, hidden.len() / tokens], hidden)?.into_tvalue()]
            }
        };
        let outputs = self.model.run(inputs)?;
        let numbers = |at: usize| -> TractResult<Vec<f32>> {
            let output = outputs.get(at).ok_or_else(|| TractError::msg("an output is missing"))?;
            Ok(output.to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        Ok(SegmentOutput {
            hidden: self.hidden.map(numbers).transpose()?.unwrap_or_default(),
            pooled: numbers(self.pooled)?,
        })
    }
}
