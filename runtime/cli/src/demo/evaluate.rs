//! The judge: features of the test set by the same backbone engine, accuracy of a gateway's modules on its own
//! class mix, and what the gateway would have reached alone.

use super::error::DemoError;
use super::metrics::{accuracy_on_mix, class_mix, least, mean};
use crate::data::DataSet;
use loadonce_backbone::{Backbone, InputSpec, Preparer};
use loadonce_control::TaskManifest;
use loadonce_module::{
    Dataset, Personalizer, Progress, Recipe, Shape, Sums, TrainConfig, Trainer, argmax, dequantize, forward,
    label_counts, ladder_start, log_prior, quantize_all, solve,
};
use std::collections::{BTreeSet, HashMap};

/// Epochs that training alone tries, besides those of the manifest and of all federated rounds together.
const LENGTHS: [u32; 3] = [10, 30, 100];

/// A task as the judge sees it.
#[derive(Debug)]
pub(crate) struct Judge {
    /// The manifest.
    pub(crate) manifest: TaskManifest,
    /// The module's shape on the backbone.
    pub(crate) shape: Shape,
    test: Dataset,
    train: HashMap<usize, Vec<f32>>,
    outputs: usize,
}

/// Parameters and what is added to their logits.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// Flat parameters.
    pub(crate) params: Vec<f32>,
    /// One number per class; zeros for none.
    pub(crate) offset: Vec<f32>,
    /// Their shape.
    pub(crate) shape: Shape,
}

/// What the gateways reach without each other.
#[derive(Debug, Clone)]
pub(crate) struct Alone {
    /// The way of training that is best in the mean over gateways.
    pub(crate) recipe: String,
    /// Its accuracy on each gateway's own class mix.
    pub(crate) accuracy: Vec<f64>,
    /// Mean of every way that was tried, by name.
    pub(crate) tried: Vec<(String, f64)>,
}

impl Judge {
    /// Runs the backbone over the whole test set and over the samples `trained_on`.
    pub(crate) fn new(
        backbone: &Backbone,
        manifest: TaskManifest,
        data: &DataSet,
        trained_on: impl IntoIterator<Item = usize>,
    ) -> Result<Self, DemoError> {
        let bundle = backbone.bundle();
        let failed = |what: String| DemoError::Evaluation { task: manifest.name.clone(), what };
        if manifest.classes != data.classes {
            return Err(failed(format!(
                "the manifest's classes are not those of the data, {:?}",
                data.classes
            )));
        }
        let shape = manifest.shape(bundle.exits(), bundle.directions()).map_err(|e| failed(e.to_string()))?;
        let per_channel = manifest.features_per_channel(bundle.directions());
        if manifest.extras() > 0 {
            return Err(failed("the demo has no levels, lags or calendar".to_owned()));
        }
        // Both sides write the declaration alike.
        let spec: InputSpec = serde_json::to_value(&manifest.input)
            .and_then(serde_json::from_value)
            .map_err(|e| failed(e.to_string()))?;
        let preparer = Preparer::new(bundle, &spec).map_err(|e| failed(e.to_string()))?;
        let features = |sample: usize| -> Result<Vec<f32>, DemoError> {
            let input = preparer.prepare(&data.payloads[sample]).map_err(|e| failed(e.to_string()))?;
            let mut pass = backbone.begin(&input);
            let (mut all, mut z) = (Vec::with_capacity(shape.exits * shape.features), Vec::new());
            while pass.next_exit(per_channel, &mut z).map_err(|e| DemoError::Backbone(e.to_string()))? {
                all.extend_from_slice(&z);
            }
            Ok(all)
        };
        let mut test = Dataset::default();
        for &sample in &data.test {
            test.push(&features(sample)?, data.labels[sample]);
        }
        let mut train = HashMap::new();
        for sample in trained_on {
            train.insert(sample, features(sample)?);
        }
        Ok(Self { outputs: shape.outputs, manifest, shape, test, train })
    }

    fn failed(&self, what: impl std::fmt::Display) -> DemoError {
        DemoError::Evaluation { task: self.manifest.name.clone(), what: what.to_string() }
    }

    /// Class that `module` gives each test sample at the last exit.
    pub(crate) fn answers(&self, module: &Module) -> Vec<u16> {
        let mut logits = vec![0.0; module.shape.exits * self.outputs];
        let last = (module.shape.exits - 1) * self.outputs;
        (0..self.test.n())
            .map(|i| {
                forward(&module.shape, &module.params, self.test.row(i), &mut logits);
                let scores: Vec<f32> =
                    logits[last..].iter().zip(&module.offset).map(|(l, o)| l + o).collect();
                argmax(&scores) as u16
            })
            .collect()
    }

    /// Accuracy of `answers` on a class mix.
    pub(crate) fn accuracy(&self, answers: &[u16], mix: &[f64]) -> f64 {
        let right: Vec<bool> = answers.iter().zip(self.test.classes()).map(|(a, b)| a == b).collect();
        accuracy_on_mix(&right, self.test.classes(), mix)
    }

    /// Accuracy of `answers` where every class counts the same.
    pub(crate) fn even(&self, answers: &[u16]) -> f64 {
        self.accuracy(answers, &vec![1.0 / self.outputs as f64; self.outputs])
    }

    /// Accuracy without any module: always the gateway's most frequent label.
    pub(crate) fn before(&self, labels: &[u16]) -> f64 {
        let mut top = 0;
        let counts = label_counts(labels, self.outputs);
        for (class, count) in counts.iter().enumerate() {
            if *count > counts[top] {
                top = class;
            }
        }
        self.accuracy(&vec![top as u16; self.test.n()], &class_mix(labels, self.outputs))
    }

    /// Trains every gateway on its own samples only and keeps, for all of them together, the way with the best
    /// mean. Ways are the three recipes, trained prior-free with the gateway's
    /// prior added afterwards, or plainly; from the gateway's own sums or from nothing; for as many epochs as the
    /// manifest asks, as all federated rounds have together, and [`LENGTHS`]; with the personal fine-tune. Alone
    /// nothing is held out: all labels train. The choice is made on the test set, which favours *alone*.
    pub(crate) fn alone(&self, gateways: &[Vec<usize>], labels: &[Vec<u16>]) -> Result<Alone, DemoError> {
        let mixes: Vec<Vec<f64>> = labels.iter().map(|own| class_mix(own, self.outputs)).collect();
        let mut ways: Vec<(String, Vec<f64>)> = Vec::new();
        for (gateway, samples) in gateways.iter().enumerate() {
            let mut own = Dataset::default();
            for (sample, &label) in samples.iter().zip(&labels[gateway]) {
                let z =
                    self.train.get(sample).ok_or_else(|| self.failed("a labelled sample has no features"))?;
                own.push(&quantized(z).map_err(|e| self.failed(e))?, label);
            }
            for (way, (name, module)) in self.ways_alone(&own)?.into_iter().enumerate() {
                if ways.len() == way {
                    ways.push((name, Vec::new()));
                }
                ways[way].1.push(self.accuracy(&self.answers(&module), &mixes[gateway]));
            }
        }
        let better = |a: &(String, Vec<f64>), b: &(String, Vec<f64>)| {
            mean(&a.1).total_cmp(&mean(&b.1)).then(least(&a.1).total_cmp(&least(&b.1)))
        };
        let tried = ways.iter().map(|(name, accuracy)| (name.clone(), mean(accuracy))).collect();
        let best = ways.into_iter().max_by(better);
        let (recipe, accuracy) = best.ok_or_else(|| self.failed("no gateway"))?;
        Ok(Alone { recipe, accuracy, tried })
    }

    fn ways_alone(&self, own: &Dataset) -> Result<Vec<(String, Module)>, DemoError> {
        let mut sums =
            Sums::zero(self.shape.exits, self.shape.features, self.outputs).map_err(|e| self.failed(e))?;
        let mut quanta = vec![0; self.shape.exits * self.shape.features];
        for i in 0..own.n() {
            quantize_all(own.row(i), &mut quanta).map_err(|e| self.failed(e))?;
            sums.add(&quanta, own.classes()[i], 1).map_err(|e| self.failed(e))?;
        }
        let (config, shrinkage) = (&self.manifest.training, self.manifest.module.shrinkage);
        let prior = log_prior(&label_counts(own.classes(), self.outputs), self.manifest.personal.smoothing);
        let none = vec![0.0; self.outputs];
        let rank = self.manifest.module.rank;
        let all_rounds = config.epochs * self.manifest.rounds.steps.clamp(1, 100) as u32;
        let lengths: BTreeSet<u32> = LENGTHS.into_iter().chain([config.epochs, all_rounds]).collect();
        let mut ways = Vec::new();
        for recipe in [Recipe::Moments, Recipe::Probe, Recipe::Ladder { rank }] {
            let shape = Shape { recipe, ..self.shape };
            let start = match recipe {
                Recipe::Ladder { rank } => ladder_start(&sums, rank, shrinkage),
                Recipe::Moments | Recipe::Probe => solve(&sums, shrinkage),
            };
            let start = start.map_err(|e| self.failed(e))?;
            let module = |params, offset: &Vec<f32>| Module { params, offset: offset.clone(), shape };
            let name = recipe.name();
            ways.push((format!("{name}, prior"), module(start.clone(), &prior)));
            if recipe == Recipe::Moments {
                ways.push((name.to_owned(), module(start, &none)));
                continue;
            }
            ways.push((format!("{name}, prior, fine-tuned"), self.personal(shape, start.clone(), own)?));
            for &epochs in &lengths {
                for (how, offset) in [("prior", &prior), ("plain", &none)] {
                    let config = TrainConfig { epochs, ..config.clone() };
                    for (from, start) in
                        [("from sums", start.clone()), ("from nothing", shape.initial(config.seed))]
                    {
                        let mut trainer = Trainer::new(
                            shape,
                            start,
                            own.clone(),
                            Dataset::default(),
                            self.manifest.objective(),
                            offset.clone(),
                            config.clone(),
                        )
                        .map_err(|e| self.failed(e))?;
                        while !matches!(trainer.step(), Progress::Done) {}
                        let way = format!("{name}, {how}, {epochs} epochs {from}");
                        ways.push((way, module(trainer.finish().params, offset)));
                    }
                }
            }
        }
        Ok(ways)
    }

    /// The personal module that the agent's own code derives from `shared` with `own` samples.
    fn personal(&self, shape: Shape, shared: Vec<f32>, own: &Dataset) -> Result<Module, DemoError> {
        let config = self.manifest.personal.clone();
        let mut personalizer = Personalizer::new(
            shape,
            shared,
            own.clone(),
            Dataset::default(),
            self.manifest.objective(),
            config,
        )
        .map_err(|e| self.failed(e))?;
        while !matches!(personalizer.step(), Progress::Done) {}
        let personal = personalizer.finish();
        Ok(Module { params: personal.params, offset: personal.offset, shape })
    }
}

/// Features as an agent's store keeps them.
fn quantized(z: &[f32]) -> Result<Vec<f32>, loadonce_module::SumsError> {
    let mut quanta = vec![0; z.len()];
    quantize_all(z, &mut quanta)?;
    Ok(quanta.into_iter().map(dequantize).collect())
}
