use super::*;
use crate::evaluate::EVAL_SLICE;
use crate::head::Head;
use crate::shape::Recipe;
use crate::solve::tests::gaussian;

pub(crate) fn data(shape: &Shape, n: usize, seed: u64) -> Dataset {
    let mut random = Random::new(seed);
    let mut data = Dataset::default();
    for i in 0..n {
        let label = (i % shape.outputs) as u16;
        data.push(&gaussian(&mut random, shape.exits, shape.features, label), label);
    }
    data
}

/// A trainer of the usual objective.
fn trainer(
    shape: Shape,
    start: Vec<f32>,
    train: Dataset,
    heldout: Dataset,
    offset: Vec<f32>,
    config: TrainConfig,
) -> Result<Trainer, TrainError> {
    Trainer::new(shape, start, train, heldout, Objective::default(), offset, config)
}

fn run(mut trainer: Trainer) -> Trained {
    while trainer.step() != Progress::Done {}
    trainer.finish()
}

const LADDER: Shape =
    Shape { recipe: Recipe::Ladder { rank: 4 }, head: Head::Classify, exits: 2, features: 6, outputs: 3 };

#[test]
fn training_learns_and_a_seed_repeats_it_bit_for_bit() {
    let config = TrainConfig { epochs: 30, learning_rate: 1e-2, seed: 5, ..TrainConfig::default() };
    let make = |config: &TrainConfig| {
        let (train, heldout) = (data(&LADDER, 60, 1), data(&LADDER, 60, 2));
        trainer(LADDER, LADDER.initial(0), train, heldout, vec![0.0; 3], config.clone()).expect("valid")
    };
    let trained = run(make(&config));
    assert!(trained.heldout_before.last().accuracy < 0.6, "{:?}", trained.heldout_before);
    assert!(trained.heldout_after.last().accuracy > 0.65, "{:?}", trained.heldout_after);
    assert_eq!(trained, run(make(&config)));
    assert_ne!(trained.params, run(make(&TrainConfig { seed: 6, ..config })).params);
}

#[test]
fn early_stop_keeps_the_best_parameters() {
    let config =
        TrainConfig { epochs: 200, learning_rate: 0.02, dropout: 0.0, patience: 3, ..TrainConfig::default() };
    let (train, heldout) = (data(&LADDER, 30, 1), data(&LADDER, 30, 2));
    let mut trainer =
        trainer(LADDER, LADDER.initial(0), train, heldout.clone(), vec![0.0; 3], config).expect("valid");
    let mut lowest = f32::INFINITY;
    loop {
        match trainer.step() {
            Progress::Epoch { heldout_loss } => {
                lowest = lowest.min(heldout_loss.expect("held-out"));
            }
            Progress::Done => break,
            Progress::Step { .. } | Progress::Evaluating => {}
        }
    }
    let trained = trainer.finish();
    assert!(trained.epochs < 200, "stopped after {}", trained.epochs);
    assert!(trained.heldout_after.loss < trained.heldout_before.loss);
    assert_eq!(trained.heldout_after.loss, lowest);
    let again = Evaluation::new(&LADDER)
        .advance(&LADDER, &trained.params, &heldout, &Objective::default(), &[0.0; 3])
        .expect("one slice");
    assert_eq!(again, trained.heldout_after);
}

#[test]
fn too_few_held_out_samples_never_stop_training() {
    let config = TrainConfig { epochs: 40, patience: 1, learning_rate: 0.05, ..TrainConfig::default() };
    let (train, heldout) = (data(&LADDER, 9, 1), data(&LADDER, MIN_EARLY_STOP - 1, 2));
    let trained =
        run(trainer(LADDER, LADDER.initial(0), train, heldout, vec![0.0; 3], config).expect("valid"));
    assert_eq!((trained.epochs, trained.steps), (40, 40));
}

#[test]
fn one_call_evaluates_one_slice_only() {
    let heldout = data(&LADDER, 3 * EVAL_SLICE, 2);
    let mut trainer = trainer(
        LADDER,
        LADDER.initial(0),
        data(&LADDER, 3, 1),
        heldout,
        vec![0.0; 3],
        TrainConfig { epochs: 1, ..TrainConfig::default() },
    )
    .expect("valid");
    let calls: Vec<Progress> = (0..8).map(|_| trainer.step()).collect();
    assert_eq!(calls[..3], [Progress::Evaluating; 3]);
    assert!(matches!(calls[3], Progress::Step { .. }));
    assert_eq!(calls[4..6], [Progress::Evaluating; 2]);
    assert!(matches!(calls[6], Progress::Epoch { heldout_loss: Some(_) }));
    assert_eq!(calls[7], Progress::Done);
}

#[test]
fn a_skewed_prior_in_the_offset_stays_out_of_the_parameters() {
    // Nine of ten samples are class 0, features say nothing: all there is to learn is the prior.
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
    let labels: Vec<u16> = (0..100).map(|i| u16::from(i % 10 == 0)).collect();
    let train = Dataset { z: vec![0.0; 100], targets: Targets::Classes(labels) };
    let config = TrainConfig { epochs: 60, learning_rate: 0.05, weight_decay: 0.0, ..TrainConfig::default() };
    let learn = |offset: Vec<f32>| {
        let trainer =
            trainer(shape, shape.initial(0), train.clone(), Dataset::default(), offset, config.clone());
        let params = run(trainer.expect("valid")).params;
        params[2] - params[3]
    };
    assert!(learn(vec![0.0; 2]) > 1.5);
    assert!(learn(crate::log_prior(&[90, 10], 1e-6)).abs() < 0.1);
}

#[test]
fn divergence_ends_training_with_finite_parameters() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
    let train = Dataset { z: vec![f32::MAX, f32::MAX], targets: Targets::Classes(vec![0, 1]) };
    let trained =
        run(trainer(shape, vec![4.0; 4], train, Dataset::default(), vec![0.0; 2], TrainConfig::default())
            .expect("valid"));
    assert!(trained.diverged);
    assert_eq!(trained.params, [4.0; 4]);
}

#[test]
fn bad_input_is_refused_by_type() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
    let good = Dataset { z: vec![0.5], targets: Targets::Classes(vec![1]) };
    let make = |start: Vec<f32>, train: &Dataset, offset: Vec<f32>, config: TrainConfig| {
        trainer(shape, start, train.clone(), Dataset::default(), offset, config).map(|_| ())
    };
    let start = shape.initial(0);
    let offset = vec![0.0; 2];
    let plain = TrainConfig::default();
    assert_eq!(make(start.clone(), &good, offset.clone(), plain.clone()), Ok(()));
    let empty = make(start.clone(), &Dataset::default(), offset.clone(), plain.clone());
    assert_eq!(empty, Err(TrainError::NoSamples));
    let label = Dataset { targets: Targets::Classes(vec![2]), ..good.clone() };
    assert!(matches!(
        make(start.clone(), &label, offset.clone(), plain.clone()),
        Err(TrainError::Label { .. })
    ));
    let nan = Dataset { z: vec![f32::NAN], ..good.clone() };
    assert!(matches!(
        make(start.clone(), &nan, offset.clone(), plain.clone()),
        Err(TrainError::NotFinite(_))
    ));
    assert!(matches!(make(vec![], &good, offset.clone(), plain.clone()), Err(TrainError::Length { .. })));
    assert!(matches!(make(start.clone(), &good, vec![], plain.clone()), Err(TrainError::Length { .. })));
    for bad in [
        TrainConfig { epochs: 0, ..plain.clone() },
        TrainConfig { batch: 0, ..plain.clone() },
        TrainConfig { learning_rate: f32::NAN, ..plain.clone() },
        TrainConfig { weight_decay: -1.0, ..plain.clone() },
        TrainConfig { dropout: 1.0, ..plain },
    ] {
        assert!(matches!(make(start.clone(), &good, offset.clone(), bad), Err(TrainError::Config { .. })));
    }
}

#[test]
fn a_forecast_learns_quantiles_from_its_closed_form_and_from_nothing() {
    use crate::head::Quantiles;
    use crate::ridge::tests::{sample, sums};
    use crate::{SolveOptions, Target, closed_form};
    let head = Head::Forecast { horizon: 4, quantiles: Quantiles::USUAL };
    let draw = |n, seed| {
        let (mut random, mut set) = (Random::new(seed), Dataset::default());
        for _ in 0..n {
            let (z, y) = sample(&mut random);
            set.push_target(&z, Target::Values(&y));
        }
        set
    };
    for recipe in [Recipe::Probe, Recipe::Ladder { rank: 4 }] {
        let shape = Shape { recipe, head, exits: 2, features: 6, outputs: 12 };
        let solved = closed_form(&shape, &sums(60, 3), &SolveOptions::default()).expect("solvable");
        let config = TrainConfig {
            epochs: 60,
            learning_rate: 0.02,
            // Of a forecast neither counts.
            dropout: 0.9,
            weight_decay: 10.0,
            patience: 0,
            ..TrainConfig::default()
        };
        let learn = |start: Vec<f32>| {
            let (train, heldout) = (draw(400, 1), draw(400, 2));
            run(trainer(shape, start, train, heldout, vec![0.0; 12], config.clone()).expect("valid"))
        };
        let (from_sums, from_nothing) = (learn(solved), learn(shape.initial(0)));
        assert!(from_sums.heldout_after.loss < from_sums.heldout_before.loss, "{recipe:?}");
        assert!(from_nothing.heldout_after.loss < 0.5 * from_nothing.heldout_before.loss, "{recipe:?}");
        assert!(from_sums.heldout_after.loss < 1.05 * from_nothing.heldout_after.loss, "{recipe:?}");
    }
}

#[test]
fn deep_sad_learns_what_the_labelled_anomalies_have_in_common() {
    // Anomalies are shifted in a direction of large normal variance, where Mahalanobis is nearly blind.
    let shape = Shape { recipe: Recipe::Probe, head: Head::Anomaly, exits: 1, features: 4, outputs: 4 };
    let draw = |n: usize, seed| {
        let (mut random, mut set) = (Random::new(seed), Dataset::default());
        for i in 0..n {
            let anomalous = i % 5 == 4;
            let mut z: Vec<f32> = (0..4).map(|_| random.normal()).collect();
            z[0] += if anomalous { 2.0 } else { 0.0 };
            set.push(&z, anomalous.into());
        }
        set
    };
    let mut start = shape.initial(0);
    (0..4).for_each(|i| start[5 * i] = 1.0);
    let auc = |params: &[f32]| {
        let (set, mut out) = (draw(1000, 9), vec![0.0; 4]);
        let mut scores = Vec::new();
        for i in 0..set.n() {
            crate::forward(&shape, params, set.row(i), &mut out);
            scores.push(crate::anomaly_score(&out));
        }
        let anomalous: Vec<bool> = set.classes().iter().map(|&c| c == 1).collect();
        crate::metrics::roc_auc(&scores, &anomalous).expect("both kinds")
    };
    let config = TrainConfig { epochs: 60, learning_rate: 0.02, dropout: 0.0, ..TrainConfig::default() };
    let trained =
        run(trainer(shape, start.clone(), draw(400, 1), Dataset::default(), vec![0.0; 4], config)
            .expect("valid"));
    let (before, after) = (auc(&start), auc(&trained.params));
    assert!(after > before + 0.05, "{before} {after}");
}
