//! How the numbers of quantized steps, and sums, would fare with other entropy coders.

use super::Options;
use super::settings::Setting;
use loadonce_delta::{Budget, Codec, LOSSY_HEADER, encode_lossy, encode_sums, symbols_of};
use loadonce_module::{Sums, quantize_all};
use serde::Serialize;
use std::collections::BTreeMap;

/// Largest trained dictionary, bytes.
const DICTIONARY: usize = 16 * 1024;

/// Mean bytes of the same numbers, coder by coder.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Entropy {
    pub(crate) task: String,
    pub(crate) codec: &'static str,
    /// Steps averaged over: the second half; the first trained the dictionaries.
    pub(crate) steps: usize,
    /// The product's range coder, without the blob's header.
    pub(crate) own: f64,
    /// Entropy of the numbers one by one: what no static code goes below (the `constriction` crate's coders and
    /// Huffman among them), its table not counted.
    pub(crate) static_bound: f64,
    /// Entropy of gaps between non-zero numbers, their sizes and signs, likewise.
    pub(crate) gaps_bound: f64,
    /// A byte a number, zstd level 19.
    pub(crate) zstd: f64,
    /// Gaps and sizes as bytes, zstd level 19.
    pub(crate) zstd_gaps: f64,
    /// The same with a dictionary trained on the steps of the round before.
    pub(crate) zstd_gaps_dictionary: f64,
}

/// Mean bytes of gateways' sums.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SumBytes {
    pub(crate) task: String,
    pub(crate) gateways: usize,
    pub(crate) integers: usize,
    pub(crate) raw: f64,
    /// Zigzag, byte planes, zstd level 19: how the product coded them before.
    pub(crate) planes_zstd: f64,
    pub(crate) own: f64,
}

fn entropy_of<T: Ord>(items: impl Iterator<Item = T>) -> f64 {
    let mut counts = BTreeMap::new();
    let mut n = 0.0;
    for item in items {
        *counts.entry(item).or_insert(0.0) += 1.0;
        n += 1.0;
    }
    counts.values().map(|count: &f64| count * (n / count).log2()).sum::<f64>() / 8.0
}

/// Gap before every number that is not zero, in bytes of 255 and a rest, then its size and sign in one byte.
fn gaps(symbols: &[i16]) -> Vec<u8> {
    let (mut out, mut gap) = (Vec::new(), 0usize);
    for &symbol in symbols {
        if symbol == 0 {
            gap += 1;
            continue;
        }
        out.extend(std::iter::repeat_n(255, gap / 255));
        out.push((gap % 255) as u8);
        out.push(symbol.clamp(-127, 127) as u8);
        gap = 0;
    }
    out
}

/// Compares coders on the steps of two rounds.
pub(crate) fn entropy(
    setting: &Setting,
    steps: &[Vec<f32>],
    options: &Options,
) -> Result<Vec<Entropy>, String> {
    let zstd_of =
        |bytes: &[u8]| zstd::bulk::compress(bytes, 19).map(|b| b.len() as f64).map_err(|e| e.to_string());
    let (first, second) = steps.split_at(steps.len() / 2);
    let mut out = Vec::new();
    for (codec, name) in [(Codec::StepRotated, "rotated"), (Codec::StepSparse, "sparse")] {
        let numbers = |(i, step): (usize, &Vec<f32>)| -> Result<(Vec<i16>, usize), String> {
            let budget = Budget { bits: options.bits, seed: i as u32, row: setting.shape.features };
            let blob = encode_lossy(codec, &mut step.clone(), &budget).map_err(|e| e.to_string())?.blob;
            let symbols = symbols_of(codec, &blob, step.len()).map_err(|e| e.to_string())?;
            Ok((symbols, blob.len() - LOSSY_HEADER))
        };
        let train = first.iter().enumerate().map(numbers).collect::<Result<Vec<_>, _>>()?;
        let test = second.iter().enumerate().map(numbers).collect::<Result<Vec<_>, _>>()?;
        let samples: Vec<Vec<u8>> = train.iter().map(|(symbols, _)| gaps(symbols)).collect();
        // So few samples may not do for a dictionary; then there is none to gain from.
        let dictionary = zstd::dict::from_samples(&samples, DICTIONARY).unwrap_or_default();
        let mut with_dictionary =
            zstd::bulk::Compressor::with_dictionary(19, &dictionary).map_err(|e| e.to_string())?;
        let mut sum = Entropy { task: setting.manifest.name.clone(), codec: name, ..Entropy::default() };
        for (symbols, own) in &test {
            let present = || symbols.iter().filter(|symbol| **symbol != 0);
            let pairs = gaps(symbols);
            sum.own += *own as f64;
            sum.static_bound += entropy_of(symbols.iter());
            let places = symbols.iter().enumerate().filter(|(_, symbol)| **symbol != 0).map(|(i, _)| i);
            let mut before = 0;
            let distances = places.map(|at| at - std::mem::replace(&mut before, at));
            sum.gaps_bound += entropy_of(distances) + entropy_of(present());
            let bytes: Vec<u8> = symbols.iter().map(|&symbol| symbol.clamp(-127, 127) as u8).collect();
            sum.zstd += zstd_of(&bytes)?;
            sum.zstd_gaps += zstd_of(&pairs)?;
            sum.zstd_gaps_dictionary +=
                with_dictionary.compress(&pairs).map_err(|e| e.to_string())?.len() as f64;
        }
        sum.steps = test.len();
        for bytes in [
            &mut sum.own,
            &mut sum.static_bound,
            &mut sum.gaps_bound,
            &mut sum.zstd,
            &mut sum.zstd_gaps,
            &mut sum.zstd_gaps_dictionary,
        ] {
            *bytes /= test.len().max(1) as f64;
        }
        out.push(sum);
    }
    Ok(out)
}

/// Zigzag words cut into planes in one zstd frame.
fn planes_zstd(bytes: &[u8]) -> Result<usize, String> {
    let words = bytes.as_chunks::<8>().0;
    let mut planes = vec![0; 8 * words.len()];
    for (i, word) in words.iter().enumerate() {
        let v = i64::from_le_bytes(*word);
        for (plane, byte) in ((v << 1) ^ (v >> 63)).to_le_bytes().into_iter().enumerate() {
            planes[plane * words.len() + i] = byte;
        }
    }
    zstd::bulk::compress(&planes, 19).map(|blob| blob.len()).map_err(|e| e.to_string())
}

/// Bytes of the sums of a split's gateways.
pub(crate) fn sums(setting: &Setting, split: &[Vec<usize>]) -> Result<SumBytes, String> {
    let mut out = SumBytes {
        task: setting.manifest.name.clone(),
        gateways: split.len(),
        integers: 0,
        raw: 0.0,
        planes_zstd: 0.0,
        own: 0.0,
    };
    let mut z = vec![0; setting.shape.exits * setting.shape.features];
    for samples in split {
        let mut sums = Sums::for_shape(&setting.shape).map_err(|e| e.to_string())?;
        for &sample in samples {
            quantize_all(setting.features.row(sample), &mut z).map_err(|e| e.to_string())?;
            sums.add(&z, setting.set.labels[sample], 1).map_err(|e| e.to_string())?;
        }
        let bytes = sums.to_bytes();
        out.integers = sums.values().len();
        out.raw += bytes.len() as f64 / split.len() as f64;
        out.planes_zstd += planes_zstd(&bytes)? as f64 / split.len() as f64;
        let own = encode_sums(&bytes).map_err(|e| e.to_string())?.blob.len();
        out.own += own as f64 / split.len() as f64;
    }
    Ok(out)
}
