//! What is compared: the product's codecs, and three known ones written down here as their papers have them.

use loadonce_delta::{Budget, Codec, DeltaError, decode_step, encode_auto, encode_lossy, encode_step};
use loadonce_module::Random;

/// Values of one norm in QSGD.
const BUCKET: usize = 128;
/// Levels of QSGD above zero.
const LEVELS: f32 = 2.0;

/// A way to send a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    F32,
    F16,
    Rotated,
    Sparse,
    Auto,
    /// `Auto`, and new versions as patches.
    AutoPatch,
    /// The same, and the aggregator keeps what a patch loses for the next one.
    AutoPatchFeedback,
    /// `Auto`, and what is lost is lost.
    AutoForgetful,
    /// Half precision words in one zstd frame of level 19.
    F16Zstd,
    /// Alistarh et al. 2017: stochastic levels of each bucket's norm, Elias codes of gaps and levels. Unbiased, without
    /// error feedback.
    Qsgd,
    /// The largest values as f32 with their positions as u32, error feedback (Stich et al. 2018).
    TopK,
}

/// What arrives.
pub(crate) struct Sent {
    /// The codec's number in the manifest; 0 for what the product does not have.
    pub(crate) number: u8,
    /// Bytes of the blob.
    pub(crate) bytes: usize,
    /// The step as the aggregator decodes it.
    pub(crate) decoded: Vec<f32>,
}

impl Coding {
    pub(crate) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Rotated,
        Self::Sparse,
        Self::Auto,
        Self::AutoPatch,
        Self::AutoPatchFeedback,
        Self::AutoForgetful,
        Self::F16Zstd,
        Self::Qsgd,
        Self::TopK,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Rotated => "rotated",
            Self::Sparse => "sparse",
            Self::Auto => "auto",
            Self::AutoPatch => "auto+patch",
            Self::AutoPatchFeedback => "auto+patch+feedback",
            Self::AutoForgetful => "auto-without-feedback",
            Self::F16Zstd => "f16+zstd",
            Self::Qsgd => "qsgd",
            Self::TopK => "topk-feedback",
        }
    }

    /// Whether new versions come as patches.
    pub(crate) fn patches(self) -> bool {
        matches!(self, Self::AutoPatch | Self::AutoPatchFeedback)
    }

    /// Whether a sender adds to its next step what was lost of this one.
    pub(crate) fn feeds_back(self) -> bool {
        !matches!(self, Self::F32 | Self::AutoForgetful | Self::F16Zstd | Self::Qsgd)
    }

    /// The blob of a step: this is what is timed. `step` is used up.
    pub(crate) fn encode(
        self,
        step: &mut [f32],
        budget: &Budget,
        random: &mut Random,
    ) -> Result<(Option<Codec>, Vec<u8>), String> {
        let text = |e: DeltaError| e.to_string();
        let own = |codec, encoded: loadonce_delta::Encoded| (Some(codec), encoded.blob);
        match self {
            Self::F32 => {
                encode_step(Codec::StepF32, step).map(|s| own(Codec::StepF32, s.encoded)).map_err(text)
            }
            Self::F16 => {
                encode_step(Codec::StepF16, step).map(|s| own(Codec::StepF16, s.encoded)).map_err(text)
            }
            Self::Rotated => encode_lossy(Codec::StepRotated, step, budget)
                .map(|e| own(Codec::StepRotated, e))
                .map_err(text),
            Self::Sparse => {
                encode_lossy(Codec::StepSparse, step, budget).map(|e| own(Codec::StepSparse, e)).map_err(text)
            }
            Self::Auto | Self::AutoPatch | Self::AutoPatchFeedback | Self::AutoForgetful => {
                encode_auto(step, budget).map(|(codec, e)| own(codec, e)).map_err(text)
            }
            Self::F16Zstd => {
                let words: Vec<u8> =
                    step.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
                zstd::bulk::compress(&words, 19).map(|blob| (None, blob)).map_err(|e| e.to_string())
            }
            Self::Qsgd => Ok((None, qsgd(step, random))),
            Self::TopK => Ok((None, top_k(step, f64::from(budget.bits)))),
        }
    }

    /// What a receiver makes of the blob.
    pub(crate) fn decode(self, codec: Option<Codec>, blob: &[u8], n: usize) -> Result<Vec<f32>, String> {
        match (self, codec) {
            (_, Some(codec)) => decode_step(codec, blob, n).map_err(|e| e.to_string()),
            (Self::F16Zstd, None) => {
                let words = zstd::bulk::decompress(blob, 2 * n).map_err(|e| e.to_string())?;
                Ok(words.as_chunks::<2>().0.iter().map(|&w| half::f16::from_le_bytes(w).to_f32()).collect())
            }
            (Self::Qsgd, None) => Ok(qsgd_back(blob, n)),
            _ => Ok(top_k_back(blob, n)),
        }
    }

    /// Encodes and decodes a step.
    pub(crate) fn send(self, step: &[f32], budget: &Budget, random: &mut Random) -> Result<Sent, String> {
        let (codec, blob) = self.encode(&mut step.to_vec(), budget, random)?;
        let decoded = self.decode(codec, &blob, step.len())?;
        Ok(Sent { number: codec.map_or(0, Codec::number), bytes: blob.len(), decoded })
    }
}

/// Bits, most significant first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn put(&mut self, bit: bool) {
        if self.at.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.bytes[self.at / 8] |= u8::from(bit) << (7 - self.at % 8);
        self.at += 1;
    }

    fn take(&mut self) -> bool {
        let bit = self.bytes.get(self.at / 8).is_some_and(|byte| byte >> (7 - self.at % 8) & 1 == 1);
        self.at += 1;
        bit
    }

    /// Elias gamma code of a number from 1.
    fn put_gamma(&mut self, number: u32) {
        let length = number.ilog2();
        (0..length).for_each(|_| self.put(false));
        (0..=length).rev().for_each(|i| self.put(number >> i & 1 == 1));
    }

    fn take_gamma(&mut self) -> u32 {
        let mut length = 0;
        while length < 31 && !self.take() {
            length += 1;
        }
        (0..length).fold(1, |number, _| (number << 1) | u32::from(self.take()))
    }
}

fn qsgd(step: &[f32], random: &mut Random) -> Vec<u8> {
    let mut bits = Bits::default();
    for bucket in step.chunks(BUCKET) {
        let norm = bucket.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
        norm.to_bits()
            .to_be_bytes()
            .iter()
            .for_each(|byte| (0..8).rev().for_each(|i| bits.put(byte >> i & 1 == 1)));
        let mut gap = 1;
        for &value in bucket {
            let level = if norm > 0.0 { (LEVELS * value.abs() / norm + random.uniform()) as u32 } else { 0 };
            if level == 0 {
                gap += 1;
                continue;
            }
            bits.put_gamma(gap);
            bits.put(value < 0.0);
            bits.put_gamma(level);
            gap = 1;
        }
        // A gap that leads past the bucket ends it.
        bits.put_gamma(gap);
    }
    bits.bytes
}

fn qsgd_back(blob: &[u8], n: usize) -> Vec<f32> {
    let mut bits = Bits { bytes: blob.to_vec(), at: 0 };
    let mut out = vec![0.0; n];
    for bucket in out.chunks_mut(BUCKET) {
        let norm = f32::from_bits((0..32).fold(0, |word, _| (word << 1) | u32::from(bits.take())));
        let mut at = 0;
        loop {
            at += bits.take_gamma() as usize;
            let Some(value) = bucket.get_mut(at - 1) else { break };
            let negative = bits.take();
            let size = norm * bits.take_gamma() as f32 / LEVELS;
            *value = if negative { -size } else { size };
        }
    }
    out
}

fn top_k(step: &[f32], bits: f64) -> Vec<u8> {
    let k = ((step.len() as f64 * bits / 64.0) as usize).clamp(1, step.len());
    let mut order: Vec<u32> = (0..step.len() as u32).collect();
    order.select_nth_unstable_by(k - 1, |&a, &b| step[b as usize].abs().total_cmp(&step[a as usize].abs()));
    order[..k].iter().flat_map(|&i| [i.to_le_bytes(), step[i as usize].to_le_bytes()]).flatten().collect()
}

fn top_k_back(blob: &[u8], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    for pair in blob.as_chunks::<8>().0 {
        let [a, b, c, d, value @ ..] = *pair;
        if let Some(place) = out.get_mut(u32::from_le_bytes([a, b, c, d]) as usize) {
            *place = f32::from_le_bytes(value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_do_what_their_papers_say() {
        let mut random = Random::new(1);
        let step: Vec<f32> = (0..1000).map(|_| random.normal()).collect();
        let budget = Budget { bits: 0.8, seed: 1, row: 0 };
        // QSGD is unbiased: its mean over many draws is the step.
        let mut mean = vec![0.0; step.len()];
        for _ in 0..400 {
            let sent = Coding::Qsgd.send(&step, &budget, &mut random).unwrap();
            mean.iter_mut().zip(&sent.decoded).for_each(|(m, d)| *m += d / 400.0);
        }
        let error = mean.iter().zip(&step).map(|(m, s)| (m - s).powi(2)).sum::<f32>() / 1000.0;
        assert!(error < 0.05, "{error}");
        let sent = Coding::TopK.send(&step, &budget, &mut random).unwrap();
        assert_eq!(sent.bytes, 12 * 8);
        let kept = sent.decoded.iter().zip(&step).filter(|(d, _)| **d != 0.0);
        assert!(kept.clone().all(|(d, s)| d.to_bits() == s.to_bits()) && kept.count() == 12);
        let sent = Coding::F16Zstd.send(&step, &budget, &mut random).unwrap();
        assert!(sent.decoded.iter().zip(&step).all(|(d, s)| (d - s).abs() < 0.002));
    }
}
