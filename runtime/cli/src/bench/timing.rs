//! Passes in turn.

use super::input::Timed;
use loadonce_backbone::{Backbone, EngineError, Prepared};
use serde::Serialize;
use std::time::{Duration, Instant};

const WARM_UP: usize = 10;
/// Fewest passes a median is made of.
const LEAST: usize = 11;
/// Features a task would take, shared by the channels.
const FEATURES: usize = 256;

/// Figures of one input.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// `window`, `picture`, `colour` or `text`.
    pub(crate) modality: &'static str,
    /// Points, side or tokens.
    pub(crate) size: usize,
    /// Tokens of all channels.
    pub(crate) tokens: usize,
    /// Passes that were timed.
    pub(crate) passes: usize,
    /// From the input to each exit.
    pub(crate) exits: Vec<Exit>,
    /// Median of the other form, all of it, milliseconds.
    pub(crate) single_ms: Option<f64>,
    /// Whole passes a second, one after the other.
    pub(crate) throughput: f64,
    /// The same up to the first exit.
    pub(crate) throughput_first: f64,
    /// The same of the other form.
    pub(crate) throughput_single: Option<f64>,
}

/// Figures of one exit.
#[derive(Debug, Serialize)]
pub(crate) struct Exit {
    /// From 1.
    #[serde(rename = "exit")]
    pub(crate) number: usize,
    /// Median, milliseconds.
    pub(crate) int8_ms: f64,
    /// 95th percentile, milliseconds.
    pub(crate) p95_ms: f64,
    /// Median over that of the other form.
    pub(crate) ratio: Option<f64>,
}

/// Time to each exit of one pass.
pub(crate) fn pass(backbone: &Backbone, sample: &Prepared) -> Result<Vec<Duration>, EngineError> {
    let per_channel = backbone.bundle().features_per_channel(sample.channels().len(), FEATURES);
    let (mut times, mut out) = (Vec::with_capacity(backbone.bundle().exits()), Vec::new());
    let begun = Instant::now();
    let mut pass = backbone.begin(sample);
    while pass.next_exit(per_channel, &mut out)? {
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Times both forms in turn until `repeats` passes or `budget` are over.
pub(crate) fn measure(
    backbone: &Backbone,
    other: Option<&Backbone>,
    timed: &Timed,
    sample: &Prepared,
    repeats: usize,
    budget: Duration,
) -> Result<Row, EngineError> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); backbone.bundle().exits()];
    let mut single = Vec::new();
    let begun = Instant::now();
    for turn in 0..WARM_UP + repeats.max(LEAST) {
        let own = pass(backbone, sample)?;
        let whole = other.map(|other| pass(other, sample)).transpose()?;
        if turn < WARM_UP {
            continue;
        }
        times.iter_mut().zip(own).for_each(|(times, time)| times.push(time));
        single.extend(whole.and_then(|times| times.last().copied()));
        if begun.elapsed() > budget && times[0].len() >= LEAST {
            break;
        }
    }
    let passes = times[0].len();
    let single_ms = (!single.is_empty()).then(|| quantile(&mut single, 50));
    let exits: Vec<Exit> = times
        .iter_mut()
        .enumerate()
        .map(|(k, times)| {
            let int8_ms = quantile(times, 50);
            let ratio = single_ms.map(|single| int8_ms / single);
            Exit { number: k + 1, int8_ms, p95_ms: quantile(times, 95), ratio }
        })
        .collect();
    let rate = |ms: f64| 1e3 / ms;
    Ok(Row {
        modality: timed.word(),
        size: timed.size(sample),
        tokens: sample.channels().iter().map(loadonce_backbone::Channel::tokens).sum(),
        passes,
        throughput: rate(exits.last().map_or(f64::NAN, |exit| exit.int8_ms)),
        throughput_first: rate(exits.first().map_or(f64::NAN, |exit| exit.int8_ms)),
        throughput_single: single_ms.map(rate),
        exits,
        single_ms,
    })
}

/// A percentile in milliseconds, by nearest rank; there is at least one time.
fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "whole milliseconds")]
    fn quantiles_are_ranks() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut times, 50), 51.0);
        assert_eq!(quantile(&mut times, 95), 96.0);
        assert_eq!(quantile(&mut times[..1], 95), 1.0);
    }
}
