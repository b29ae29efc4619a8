//! tract: pure Rust, one plan per segment and number of tokens, because int8 graphs load at fixed lengths only.

use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;

use crate::bundle::Bundle;
use crate::contract::Segment;
use crate::engine::{EngineError, SegmentInput, SegmentOutput};
use crate::inputs::PATCH;

/// Most numbers of tokens that are planned for at a time: each costs about the bundle's size in memory. The one used
/// longest ago goes; planning again takes a good part of a second.
const MAX_LENGTHS: usize = 4;

/// The plans of a bundle for the numbers of tokens in use, the latest used last.
pub(crate) struct Plans {
    bundle: Bundle,
    lengths: Mutex<Vec<Arc<LengthPlans>>>,
}

struct LengthPlans {
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
    /// Plans for the inputs a bundle takes by default; a text has no usual length, so its plans wait for one.
    pub(crate) fn load(bundle: &Bundle) -> Result<Self, EngineError> {
        let plans = Self { bundle: bundle.clone(), lengths: Mutex::default() };
        for tokens in bundle.inputs().usual_tokens() {
            plans.of(tokens)?;
        }
        Ok(plans)
    }

    pub(crate) fn run(&self, index: usize, input: &SegmentInput<'_>) -> Result<SegmentOutput, EngineError> {
        let tokens = match *input {
            SegmentInput::Patches { token_ids, .. } | SegmentInput::Tokens { token_ids } => token_ids.len(),
            SegmentInput::Hidden { tokens, .. } => tokens,
        };
        let plans = self.of(tokens)?;
        let plan = &plans.segments[index];
        plan.run(input).map_err(failed(&plan.file, "running"))
    }

    /// The plans for `tokens` tokens, made now where they are not at hand.
    fn of(&self, tokens: usize) -> Result<Arc<LengthPlans>, EngineError> {
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = lengths.iter().position(|plans| plans.tokens == tokens) {
            let plans = lengths.remove(at);
            lengths.push(Arc::clone(&plans));
            return Ok(plans);
        }
        if lengths.len() == MAX_LENGTHS {
            lengths.remove(0);
        }
        let plans = Arc::new(LengthPlans::load(&self.bundle, tokens)?);
        lengths.push(Arc::clone(&plans));
        Ok(plans)
    }
}

impl LengthPlans {
    fn load(bundle: &Bundle, tokens: usize) -> Result<Self, EngineError> {
        let text = bundle.inputs().text.is_some();
        let mut segments = Vec::with_capacity(bundle.segments().len());
        let mut width = PATCH;
        for (index, segment) in bundle.segments().iter().enumerate() {
            let bytes = bundle.read(&segment.file)?;
            let takes = match index {
                0 if text => Takes::Tokens,
                0 => Takes::Patches,
                _ => Takes::Hidden,
            };
            let plan = Plan::load(segment, &bytes, takes, tokens, width)
                .map_err(failed(&segment.file, "loading"))?;
            if let Some(hidden) = plan.hidden {
                width = plan.width(hidden).map_err(failed(&segment.file, "loading"))?;
            }
            segments.push(plan);
        }
        Ok(Self { tokens, segments })
    }
}

/// What a segment is run on.
#[derive(Clone, Copy)]
enum Takes {
    Patches,
    Tokens,
    Hidden,
}

impl Plan {
    fn load(
        segment: &Segment,
        mut bytes: &[u8],
        takes: Takes,
        tokens: usize,
        width: usize,
    ) -> TractResult<Self> {
        let model = tract_onnx::onnx().model_for_read(&mut bytes)?;
        let (numbers, ids) = (f32::fact([1, tokens, width]), i64::fact([tokens]));
        let model = match takes {
            Takes::Patches => model.with_input_fact(0, numbers.into())?.with_input_fact(1, ids.into())?,
            Takes::Tokens => model.with_input_fact(0, ids.into())?,
            Takes::Hidden => model.with_input_fact(0, numbers.into())?,
        };
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
            SegmentInput::Tokens { token_ids } => {
                tvec![Tensor::from_shape(&[token_ids.len()], token_ids)?.into_tvalue()]
            }
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
