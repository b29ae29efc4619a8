//! A loaded backbone and its passes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bundle::Bundle;
use crate::engine::{Engine, EngineError, EngineOptions, Provider, SegmentInput, SegmentOutput};
use crate::memory::process_resident_bytes;
use crate::prepared::Prepared;
use crate::projection::Projection;
use crate::spec::Modality;

static LOADS: AtomicU64 = AtomicU64::new(0);

/// A backbone in memory: load it once per process and share it behind an `Arc`.
pub struct Backbone {
    bundle: Bundle,
    projections: Vec<Projection>,
    engine: Engine,
    runs: Vec<AtomicU64>,
    resident_bytes: u64,
}

impl Backbone {
    /// Loads every segment and the projections.
    pub fn load(bundle: Bundle, options: &EngineOptions) -> Result<Self, EngineError> {
        let before = process_resident_bytes();
        let projections = Projection::load(&bundle)?;
        let engine = Engine::load(&bundle, options)?;
        LOADS.fetch_add(1, Ordering::Relaxed);
        let resident_bytes = process_resident_bytes().saturating_sub(before);
        tracing::info!(
            backbone = bundle.name(),
            version = bundle.version(),
            fingerprint = bundle.fingerprint(),
            resident_bytes,
            "backbone loaded"
        );
        let runs = bundle.segments().iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self { bundle, projections, engine, runs, resident_bytes })
    }

    /// The bundle this was loaded from.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Starts a pass over `input`; nothing runs yet.
    pub fn begin<'a>(&'a self, input: &'a Prepared) -> Pass<'a> {
        Pass { backbone: self, input, exits_done: 0, hidden: Vec::new() }
    }

    /// What computes it: not always what was asked for, see [`EngineOptions::provider`].
    pub fn provider(&self) -> Provider {
        self.engine.provider()
    }

    /// Backbones loaded by this process so far.
    pub fn loads() -> u64 {
        LOADS.load(Ordering::Relaxed)
    }

    /// How often each segment has run, one run per channel.
    pub fn runs(&self) -> Vec<u64> {
        self.runs.iter().map(|runs| runs.load(Ordering::Relaxed)).collect()
    }

    /// By how much loading raised this process's resident memory, in bytes; the engine's library is part of it
    /// on the process's first load, scratch memory of passes is not.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}

impl fmt::Debug for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backbone")
            .field("bundle", &self.bundle)
            .field("runs", &self.runs())
            .finish_non_exhaustive()
    }
}

/// One sample on its way through the segments.
#[derive(Debug)]
pub struct Pass<'a> {
    backbone: &'a Backbone,
    input: &'a Prepared,
    exits_done: usize,
    /// Of each channel, after the last segment run.
    hidden: Vec<Vec<f32>>,
}

impl Pass<'_> {
    /// Runs the next segment and replaces `out` by that exit's features: for each channel in order its first
    /// `per_channel` directions (see [`Bundle::features_per_channel`]). `false` when all exits are done;
    /// then, and after an error, `out` is empty. After an error the same exit can be tried again.
    pub fn next_exit(&mut self, per_channel: usize, out: &mut Vec<f32>) -> Result<bool, EngineError> {
        out.clear();
        let done = self.advance(per_channel, out);
        if done.is_err() {
            out.clear();
        }
        done
    }

    fn advance(&mut self, per_channel: usize, out: &mut Vec<f32>) -> Result<bool, EngineError> {
        let Backbone { bundle, projections, engine, runs, .. } = self.backbone;
        let index = self.exits_done;
        let Some(projection) = projections.get(index) else { return Ok(false) };
        if !(1..=bundle.directions()).contains(&per_channel) {
            return Err(EngineError::Directions {
                backbone: bundle.name().into(),
                asked: per_channel,
                directions: bundle.directions(),
            });
        }
        let modality = self.input.modality();
        if !bundle.takes(modality) {
            return Err(EngineError::Modality {
                backbone: bundle.name().into(),
                modality: modality.as_str(),
            });
        }

        let channels = self.input.channels();
        let mut hidden = Vec::with_capacity(channels.len());
        for (at, channel) in channels.iter().enumerate() {
            let tokens = channel.tokens();
            let input = match self.hidden.get(at) {
                Some(hidden) => SegmentInput::Hidden { hidden, tokens },
                None if modality == Modality::Text => SegmentInput::Tokens { token_ids: channel.token_ids() },
                None => SegmentInput::Patches { patches: channel.patches(), token_ids: channel.token_ids() },
            };
            runs[index].fetch_add(1, Ordering::Relaxed);
            let output = engine.run(index, &input)?;
            self.check(&output, tokens, projection.pooled())?;
            projection.project(&output.pooled, per_channel, out);
            hidden.push(output.hidden);
        }
        self.hidden = hidden;
        self.exits_done += 1;
        Ok(true)
    }

    /// Exits whose features were handed out.
    pub fn exits_done(&self) -> usize {
        self.exits_done
    }

    fn check(&self, output: &SegmentOutput, tokens: usize, pooled: usize) -> Result<(), EngineError> {
        let segment = &self.backbone.bundle.segments()[self.exits_done];
        let what = if output.pooled.len() != pooled {
            format!("{} has {} numbers, backbone.toml says {pooled}", segment.pooled, output.pooled.len())
        } else if segment.hidden.is_some()
            && (output.hidden.is_empty() || !output.hidden.len().is_multiple_of(tokens))
        {
            format!("the hidden state has {} numbers for {tokens} tokens", output.hidden.len())
        } else if !output.pooled.iter().all(|v| v.is_finite()) {
            format!("{} holds a number that is not finite", segment.pooled)
        } else {
            return Ok(());
        };
        Err(EngineError::Engine { file: segment.file.clone(), doing: "running", what })
    }
}
