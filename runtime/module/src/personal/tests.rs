use super::*;
use crate::head::Head;
use crate::shape::Recipe;
use crate::solve::tests::gaussian;
use crate::{Shrinkage, ladder_start, quantize_all};

const SHAPE: Shape =
    Shape { recipe: Recipe::Ladder { rank: 4 }, head: Head::Classify, exits: 2, features: 6, outputs: 4 };

/// Samples of the given classes, noisy enough that classes overlap.
fn data(labels: &[u16], seed: u64) -> Dataset {
    let mut random = Random::new(seed);
    let mut data = Dataset::default();
    for &label in labels {
        let mut z = gaussian(&mut random, SHAPE.exits, SHAPE.features, label);
        for z in &mut z {
            *z += random.normal();
        }
        data.push(&z, label);
    }
    data
}

fn shared() -> Vec<f32> {
    let labels: Vec<u16> = (0..80).map(|i| i % 4).collect();
    let all = data(&labels, 1);
    let mut sums = crate::Sums::zero(SHAPE.exits, SHAPE.features, SHAPE.outputs).expect("within limits");
    let mut q = vec![0; SHAPE.exits * SHAPE.features];
    for (i, label) in labels.into_iter().enumerate() {
        quantize_all(all.row(i), &mut q).expect("finite");
        sums.add(&q, label, 1).expect("fits");
    }
    ladder_start(&sums, 4, Shrinkage::Auto).expect("solvable")
}

fn derive(train: Dataset, heldout: Dataset, config: PersonalConfig) -> Personal {
    let mut personalizer = Personalizer::new(SHAPE, shared(), train, heldout, config).expect("valid");
    while personalizer.step() != Progress::Done {}
    personalizer.finish()
}

/// Of 20 labels 18 are class 0 and 2 class 3.
fn skewed() -> Vec<u16> {
    (0..20).map(|i| if i % 10 == 9 { 3 } else { 0 }).collect()
}

#[test]
fn a_personal_module_beats_the_shared_one_on_the_gateways_own_mix() {
    let personal = derive(data(&skewed(), 2), data(&[0, 0, 3], 3), PersonalConfig::default());
    let labels: Vec<u16> = skewed().into_iter().cycle().take(400).collect();
    let test = data(&labels, 4);
    let accuracy = |params: &[f32], offset: &[f32]| {
        let mut evaluation = Evaluation::new(&SHAPE);
        loop {
            if let Some(eval) = evaluation.advance(&SHAPE, params, &test, offset) {
                return eval.last().accuracy;
            }
        }
    };
    let (shared, own) = (accuracy(&shared(), &[0.0; 4]), accuracy(&personal.params, &personal.offset));
    assert!(own > shared + 0.03, "{own} against {shared}");
    assert_ne!(personal.kept, Kept::Shared);
    assert_eq!(personal.evidence.samples, 23);
}

#[test]
fn the_prior_that_serves_counts_held_out_labels_too() {
    let config = PersonalConfig { smoothing: 0.5, ..PersonalConfig::default() };
    let personal = derive(data(&[0, 0, 1], 2), data(&[2], 3), config);
    assert_eq!(personal.offset, log_prior(&[2, 1, 1, 0], 0.5));
}

#[test]
fn held_out_data_that_disagree_keep_the_shared_parameters() {
    // Training samples are mislabelled, held-out ones are not.
    let labels: Vec<u16> = (0..40).map(|i| i % 4).collect();
    let mut train = data(&labels, 5);
    train.labels.rotate_left(1);
    let config = PersonalConfig { epochs: 100, learning_rate: 0.02, ..PersonalConfig::default() };
    let personal = derive(train, data(&labels[..24], 6), config);
    assert_eq!(personal.params, shared());
    assert!(personal.evidence.fine_tuned > personal.evidence.prior_only);
    assert_eq!(personal.evidence.samples, 24);
}

#[test]
fn a_changed_sensor_is_learnt_where_held_out_data_agree() {
    let labels: Vec<u16> = (0..80).map(|i| i % 4).collect();
    let config = PersonalConfig { epochs: 60, learning_rate: 0.02, ..PersonalConfig::default() };
    let moved = |n: usize, seed| {
        let mut data = data(&labels[..n], seed);
        data.z.iter_mut().step_by(6).for_each(|z| *z += 2.5);
        data
    };
    let personal = derive(moved(80, 7), moved(40, 8), config);
    assert_eq!(personal.kept, Kept::FineTuned);
    assert!(personal.heldout.last().loss < personal.heldout_shared.last().loss);
    assert_eq!(personal.heldout.samples, 40);
}

#[test]
fn a_prior_that_held_out_data_refute_is_dropped() {
    // Trained labels are all of class 0, held-out ones are even.
    let labels: Vec<u16> = (0..40).map(|i| i % 4).collect();
    let personal = derive(data(&[0; 30], 9), data(&labels, 10), PersonalConfig::default());
    assert_eq!(personal.kept, Kept::Shared);
    assert_eq!((personal.params, personal.offset), (shared(), vec![0.0; 4]));
}

#[test]
fn the_smallest_inputs_are_served() {
    for (train, heldout) in [(&[1u16][..], &[][..]), (&[1, 2], &[]), (&[1], &[3])] {
        let personal = derive(data(train, 1), data(heldout, 2), PersonalConfig::default());
        assert!(personal.params.iter().chain(&personal.offset).all(|x| x.is_finite()));
    }
    let config = PersonalConfig { epochs: 0, ..PersonalConfig::default() };
    let personal = derive(data(&skewed(), 2), Dataset::default(), config);
    assert_eq!((personal.kept, personal.params), (Kept::PriorOnly, shared()));
}

#[test]
fn an_unfinished_derivation_gives_the_shared_module_with_the_prior() {
    let train = data(&skewed(), 2);
    let mut personalizer =
        Personalizer::new(SHAPE, shared(), train, Dataset::default(), PersonalConfig::default())
            .expect("valid");
    for _ in 0..10 {
        personalizer.step();
    }
    let personal = personalizer.finish();
    assert_eq!((personal.kept, personal.params), (Kept::PriorOnly, shared()));
}

#[test]
fn a_gateway_without_training_samples_serves_the_shared_module_with_its_prior() {
    for heldout in [&[][..], &[1, 1]] {
        let personal = derive(Dataset::default(), data(heldout, 2), PersonalConfig::default());
        assert_eq!((personal.kept, personal.params), (Kept::PriorOnly, shared()));
        let own = personal.offset[1] - personal.offset[0];
        assert_eq!(own > 0.0, !heldout.is_empty(), "{:?}", personal.offset);
    }
}

#[test]
fn bad_input_is_refused_by_type() {
    let make = |train: Dataset, heldout: Dataset, config| {
        Personalizer::new(SHAPE, shared(), train, heldout, config).map(|_| ())
    };
    let good = data(&[0, 1], 1);
    let plain = PersonalConfig::default();
    let bad = Dataset { labels: vec![0, 4], ..good.clone() };
    assert!(matches!(make(bad.clone(), good.clone(), plain.clone()), Err(TrainError::Label { .. })));
    assert!(matches!(make(good.clone(), bad, plain.clone()), Err(TrainError::Label { .. })));
    for config in [
        PersonalConfig { smoothing: 0.0, ..plain.clone() },
        PersonalConfig { folds: 1, ..plain.clone() },
        PersonalConfig { batch: 0, ..plain },
    ] {
        assert!(matches!(make(good.clone(), good.clone(), config), Err(TrainError::Config { .. })));
    }
}
