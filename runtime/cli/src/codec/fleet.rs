//! Rounds of a small fleet, with the product's training and averaging and a codec in between.

use super::coding::Coding;
use super::settings::Setting;
use super::{Options, wire};
use loadonce_delta::{Budget, encode_patch};
use loadonce_module::{
    Dataset, Dtype, ModuleFile, Progress, Random, Role, Runner, Sums, TrainConfig, Trainer, argmax,
    label_counts, log_prior, quantize_all,
};
use loadonce_rounds::{Share, StepTotals, from_steps, from_sums, publishable};

/// One run.
pub(crate) struct Plan<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) split: &'a [Vec<usize>],
    pub(crate) coding: Coding,
    pub(crate) seed: u64,
    pub(crate) options: &'a Options,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Accuracy of the first version.
    pub(crate) start: f64,
    /// Accuracy of the shared module at the last exit on the test samples, after every round.
    pub(crate) accuracy: Vec<f64>,
    /// Mean bytes of MQTT of an accepted step, both directions.
    pub(crate) step_bytes: f64,
    /// Mean bytes of a step's blob.
    pub(crate) blob_bytes: f64,
    /// Mean bytes of MQTT of a new version, both directions.
    pub(crate) version_bytes: f64,
    /// Mean share of a step's energy that is left for the next.
    pub(crate) lost: f64,
    /// Share of steps by the number of their codec, 3 and 4.
    pub(crate) chosen: [f64; 2],
    /// The steps of the first two rounds, as they were to be encoded.
    pub(crate) first_steps: Vec<Vec<f32>>,
}

struct Gateway {
    data: Dataset,
    prior: Vec<f32>,
    residual: Vec<f32>,
}

impl Plan<'_> {
    pub(crate) fn budget(&self, gateway: usize, round: usize, bits: f32) -> Budget {
        let seed = (self.seed as u32).wrapping_mul(0x9e37_79b9) ^ ((gateway as u32) << 16) ^ round as u32;
        Budget { bits, seed, row: self.setting.shape.features }
    }

    fn start(&self, gateways: &[Gateway]) -> Result<Vec<f32>, String> {
        let shape = &self.setting.shape;
        if self.options.cold {
            let params = shape.initial(self.seed).into_iter().map(f64::from);
            return publishable(params).map_err(|e| e.to_string());
        }
        let mut totals = Sums::for_shape(shape).map_err(|e| e.to_string())?;
        let mut z = vec![0; shape.exits * shape.features];
        for gateway in gateways {
            for i in 0..gateway.data.n() {
                quantize_all(gateway.data.row(i), &mut z).map_err(|e| e.to_string())?;
                totals.add(&z, gateway.data.classes()[i], 1).map_err(|e| e.to_string())?;
            }
        }
        from_sums(shape, &totals, &self.setting.manifest.solve_options()).map_err(|e| e.to_string())
    }

    pub(crate) fn run(&self) -> Result<Outcome, String> {
        let Setting { shape, manifest, .. } = self.setting;
        let n = shape.parameters();
        let mut random = Random::new(self.seed ^ 0xc0de);
        let mut gateways: Vec<Gateway> = self
            .split
            .iter()
            .map(|samples| {
                let data = self.setting.dataset(samples);
                let counts = label_counts(data.classes(), shape.outputs);
                Gateway {
                    prior: log_prior(&counts, manifest.personal.smoothing),
                    data,
                    residual: vec![0.0; n],
                }
            })
            .collect();
        let mut base = self.start(&gateways)?;
        let file = self.file_bytes(&base)?;
        let mut lost_by_patches = vec![0f32; n];
        let mut outcome = Outcome { start: self.accuracy(&base), ..Outcome::default() };
        let (mut steps, mut patch_bytes) = (0.0, None);
        for round in 0..self.options.rounds {
            let mut totals = StepTotals::new(n);
            for (i, gateway) in gateways.iter_mut().enumerate() {
                let seed = self.seed.wrapping_mul(1_000_003) ^ ((i as u64) << 32) ^ round as u64;
                let trained = train(self.setting, self.options.cold, &base, gateway, seed)?;
                let mut step: Vec<f32> =
                    trained.iter().zip(&base).zip(&gateway.residual).map(|((t, b), r)| t - b + r).collect();
                if round < 2 && self.coding == Coding::F32 {
                    outcome.first_steps.push(step.clone());
                }
                let sent = self.coding.send(&step, &self.budget(i, round, self.options.bits), &mut random)?;
                let weight = gateway.data.n() as u32;
                totals
                    .add(&sent.decoded, weight, manifest.rounds.max_weight, Share::once(0))
                    .map_err(|e| e.to_string())?;
                let energy: f64 = step.iter().map(|&v| f64::from(v).powi(2)).sum();
                step.iter_mut().zip(&sent.decoded).for_each(|(s, d)| *s -= d);
                let left: f64 = step.iter().map(|&v| f64::from(v).powi(2)).sum();
                if self.coding.feeds_back() {
                    gateway.residual = step;
                }
                steps += 1.0;
                outcome.lost += left / energy.max(f64::MIN_POSITIVE);
                outcome.blob_bytes += sent.bytes as f64;
                outcome.step_bytes += wire::step(&manifest.name, sent.number, sent.bytes)? as f64;
                if let Some(chosen) = usize::from(sent.number).checked_sub(3).filter(|i| *i < 2) {
                    outcome.chosen[chosen] += 1.0;
                }
            }
            let wanted = from_steps(&base, &totals, &[]).map_err(|e| e.to_string())?;
            base = if self.coding.patches() {
                let wanted: Vec<f32> = wanted.iter().zip(&lost_by_patches).map(|(w, l)| w + l).collect();
                let budget = self.budget(gateways.len(), round, self.options.patch_bits);
                let patch = encode_patch(&base, &wanted, &budget).map_err(|e| e.to_string())?;
                if self.coding == Coding::AutoPatchFeedback {
                    lost_by_patches = wanted.iter().zip(&patch.params).map(|(w, p)| w - p).collect();
                }
                patch_bytes = Some(patch.bytes.len());
                patch.params
            } else {
                wanted
            };
            outcome.version_bytes += wire::version(&manifest.name, file, patch_bytes)? as f64;
            outcome.accuracy.push(self.accuracy(&base));
        }
        outcome.version_bytes /= self.options.rounds as f64;
        for sum in [&mut outcome.lost, &mut outcome.blob_bytes, &mut outcome.step_bytes] {
            *sum /= steps;
        }
        outcome.chosen = outcome.chosen.map(|count| count / steps);
        Ok(outcome)
    }

    fn file_bytes(&self, params: &[f32]) -> Result<usize, String> {
        let hash = "0".repeat(64);
        let file = ModuleFile {
            task: self.setting.manifest.name.clone(),
            shape: self.setting.shape,
            classes: self.setting.manifest.classes.clone(),
            backbone: hash.clone(),
            version: 1000,
            base: hash,
            role: Role::Shared,
            offset: Vec::new(),
            params: params.to_vec(),
        };
        file.encode(Dtype::F16).map(|bytes| bytes.len()).map_err(|e| e.to_string())
    }

    fn accuracy(&self, params: &[f32]) -> f64 {
        let Setting { shape, set, features, .. } = self.setting;
        let (mut runner, mut logits) = (Runner::new(*shape), vec![0.0; shape.outputs]);
        let right = set.test.iter().filter(|&&sample| {
            for (k, z) in features.row(sample).chunks_exact(shape.features).enumerate() {
                runner.exit(params, k, z, &mut logits);
            }
            argmax(&logits) == usize::from(set.labels[sample])
        });
        right.count() as f64 / set.test.len().max(1) as f64
    }
}

/// A gateway's share of a round: prior-free training from the base.
fn train(
    setting: &Setting,
    cold: bool,
    base: &[f32],
    gateway: &Gateway,
    seed: u64,
) -> Result<Vec<f32>, String> {
    let config = TrainConfig { seed, ..setting.training(cold) };
    let mut trainer = Trainer::new(
        setting.shape,
        base.to_vec(),
        gateway.data.clone(),
        Dataset::default(),
        setting.manifest.objective(),
        gateway.prior.clone(),
        config,
    )
    .map_err(|e| e.to_string())?;
    while trainer.step() != Progress::Done {}
    Ok(trainer.finish().params)
}
