//! Gateways with their samples; training as an agent trains, judging on the even test set.

use crate::demo::partition::by_mix;
use crate::evaluate::Prepared;
use loadonce_module::{
    Dataset, Head, Objective, Progress, Random, Recipe, Runner, Shape, TrainConfig, Trainer, argmax,
    label_counts, log_prior,
};

/// Labelled samples of a gateway.
const LABELLED: usize = 30;
/// Every so many of them is held out.
const HELD_OUT: usize = 5;

struct Gateway {
    train: Dataset,
    heldout: Dataset,
    /// Its log label prior, the offset of prior-free training.
    offset: Vec<f32>,
}

/// A fleet with data.
pub(crate) struct Fleet {
    pub(crate) shape: Shape,
    config: TrainConfig,
    objective: Objective,
    gateways: Vec<Gateway>,
    test: Dataset,
}

impl Fleet {
    /// `gateways` with samples drawn by `seed`; `None` where the data set is too small.
    pub(crate) fn draw(prepared: &Prepared, gateways: usize, seed: u64) -> Option<Self> {
        let Prepared { manifest, set, features } = prepared;
        let shape = Shape {
            recipe: Recipe::Probe,
            head: Head::Classify,
            exits: features.exits,
            features: features.width,
            outputs: set.classes.len(),
        };
        let gather = |samples: &[usize]| {
            let mut out = Dataset::default();
            for &sample in samples {
                out.push(features.row(sample), set.labels[sample]);
            }
            out
        };
        let parts = by_mix(&mut Random::new(seed), set.pool(), gateways, LABELLED)?;
        let gateways = parts
            .iter()
            .map(|own| {
                let (heldout, train): (Vec<_>, Vec<_>) =
                    own.iter().enumerate().partition(|(at, _)| at % HELD_OUT == 0);
                let plain =
                    |list: Vec<(usize, &usize)>| list.into_iter().map(|(_, s)| *s).collect::<Vec<_>>();
                let (train, heldout) = (gather(&plain(train)), gather(&plain(heldout)));
                let counts = label_counts(train.classes(), shape.outputs);
                Gateway { offset: log_prior(&counts, manifest.personal.smoothing), train, heldout }
            })
            .collect();
        Some(Self {
            shape,
            config: manifest.training.clone(),
            objective: manifest.objective(),
            gateways,
            test: gather(&set.test),
        })
    }

    /// Gateways.
    pub(crate) fn len(&self) -> usize {
        self.gateways.len()
    }

    /// Training samples of a gateway: the weight of its steps.
    pub(crate) fn weight(&self, gateway: usize) -> u32 {
        self.gateways[gateway].train.n() as u32
    }

    /// The step a gateway makes from `base`.
    ///
    /// # Panics
    /// Never: shape, samples and configuration were checked when the manifest was read.
    pub(crate) fn step(&self, gateway: usize, base: &[f32]) -> Vec<f32> {
        let Gateway { train, heldout, offset } = &self.gateways[gateway];
        let mut trainer = Trainer::new(
            self.shape,
            base.to_vec(),
            train.clone(),
            heldout.clone(),
            self.objective.clone(),
            offset.clone(),
            self.config.clone(),
        )
        .expect("drawn samples fit the shape they were drawn for");
        while trainer.step() != Progress::Done {}
        trainer.finish().params.iter().zip(base).map(|(new, old)| new - old).collect()
    }

    /// Share of the test samples that the last exit answers rightly.
    pub(crate) fn accuracy(&self, params: &[f32]) -> f64 {
        let (mut runner, mut logits) = (Runner::new(self.shape), vec![0.0; self.shape.outputs]);
        let mut right = 0usize;
        for (at, &class) in self.test.classes().iter().enumerate() {
            for (k, z) in self.test.row(at).chunks_exact(self.shape.features).enumerate() {
                runner.exit(params, k, z, &mut logits);
            }
            right += usize::from(argmax(&logits) == usize::from(class));
        }
        right as f64 / self.test.n().max(1) as f64
    }
}

#[cfg(test)]
impl Fleet {
    /// A fleet whose three classes are easily told apart; every gateway lacks one of them.
    pub(crate) fn made_up(gateways: usize) -> Self {
        let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 2, features: 4, outputs: 3 };
        let mut random = Random::new(7);
        let mut samples = |classes: &[u16], n: usize| {
            let mut out = Dataset::default();
            for at in 0..n {
                let class = classes[at % classes.len()];
                let z: Vec<f32> = (0..8)
                    .map(|i| 0.3 * random.normal() + if i % 4 == usize::from(class) { 2.0 } else { 0.0 })
                    .collect();
                out.push(&z, class);
            }
            out
        };
        let of = |gateway: usize| [(gateway % 3) as u16, ((gateway + 1) % 3) as u16];
        let gateways = (0..gateways)
            .map(|gateway| {
                let train = samples(&of(gateway), 20);
                let offset = log_prior(&label_counts(train.classes(), 3), 0.03);
                Gateway { train, heldout: samples(&of(gateway), 6), offset }
            })
            .collect();
        let config = TrainConfig { learning_rate: 0.02, ..TrainConfig::default() };
        Self { shape, config, objective: Objective::default(), gateways, test: samples(&[0, 1, 2], 90) }
    }
}
