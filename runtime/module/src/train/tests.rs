use super::*;
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
        Trainer::new(LADDER, LADDER.initial(0), train, heldout, vec![0.0; 3], config.clone()).expect("valid")
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
        Trainer::new(LADDER, LADDER.initial(0), train, heldout.clone(), vec![0.0; 3], config).expect("valid");
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
    let again =
        Evaluation::new(&LADDER).advance(&LADDER, &trained.params, &heldout, &[0.0; 3]).expect("one slice");
    assert_eq!(again, trained.heldout_after);
}

#[test]
fn too_few_held_out_samples_never_stop_training() {
    let config = TrainConfig { epochs: 40, patience: 1, learning_rate: 0.05, ..TrainConfig::default() };
    let (train, heldout) = (data(&LADDER, 9, 1), data(&LADDER, MIN_EARLY_STOP - 1, 2));
    let trained =
        run(Trainer::new(LADDER, LADDER.initial(0), train, heldout, vec![0.0; 3], config).expect("valid"));
    assert_eq!((trained.epochs, trained.steps), (40, 40));
}

#[test]
fn one_call_evaluates_one_slice_only() {
    let heldout = data(&LADDER, 3 * EVAL_SLICE, 2);
    let mut trainer = Trainer::new(
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
    let train = Dataset { z: vec![0.0; 100], labels };
    let config = TrainConfig { epochs: 60, learning_rate: 0.05, weight_decay: 0.0, ..TrainConfig::default() };
    let learn = |offset: Vec<f32>| {
        let trainer =
            Trainer::new(shape, shape.initial(0), train.clone(), Dataset::default(), offset, config.clone());
        let params = run(trainer.expect("valid")).params;
        params[2] - params[3]
    };
    assert!(learn(vec![0.0; 2]) > 1.5);
    assert!(learn(crate::log_prior(&[90, 10], 1e-6)).abs() < 0.1);
}

#[test]
fn divergence_ends_training_with_finite_parameters() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
    let train = Dataset { z: vec![f32::MAX, f32::MAX], labels: vec![0, 1] };
    let trained = run(Trainer::new(
        shape,
        vec![4.0; 4],
        train,
        Dataset::default(),
        vec![0.0; 2],
        TrainConfig::default(),
    )
    .expect("valid"));
    assert!(trained.diverged);
    assert_eq!(trained.params, [4.0; 4]);
}

#[test]
fn bad_input_is_refused_by_type() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
    let good = Dataset { z: vec![0.5], labels: vec![1] };
    let make = |start: Vec<f32>, train: &Dataset, offset: Vec<f32>, config: TrainConfig| {
        Trainer::new(shape, start, train.clone(), Dataset::default(), offset, config).map(|_| ())
    };
    let start = shape.initial(0);
    let offset = vec![0.0; 2];
    let plain = TrainConfig::default();
    assert_eq!(make(start.clone(), &good, offset.clone(), plain.clone()), Ok(()));
    let empty = make(start.clone(), &Dataset::default(), offset.clone(), plain.clone());
    assert_eq!(empty, Err(TrainError::NoSamples));
    let label = Dataset { labels: vec![2], ..good.clone() };
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
