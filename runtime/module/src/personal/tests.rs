use super::*;
use crate::data::{Target, Targets};
use crate::head::Head;
use crate::head::Quantiles;
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
    let mut personalizer =
        Personalizer::new(SHAPE, shared(), train, heldout, Objective::default(), config).expect("valid");
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
            if let Some(eval) = evaluation.advance(&SHAPE, params, &test, &Objective::default(), offset) {
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
    let mut moved = train.classes().to_vec();
    moved.rotate_left(1);
    train.targets = Targets::Classes(moved);
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
    let mut personalizer = Personalizer::new(
        SHAPE,
        shared(),
        train,
        Dataset::default(),
        Objective::default(),
        PersonalConfig::default(),
    )
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
        Personalizer::new(SHAPE, shared(), train, heldout, Objective::default(), config).map(|_| ())
    };
    let good = data(&[0, 1], 1);
    let plain = PersonalConfig::default();
    let bad = Dataset { targets: Targets::Classes(vec![0, 4]), ..good.clone() };
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

fn forecasts(n: usize, seed: u64, bias: f32) -> Dataset {
    let (mut random, mut set) = (Random::new(seed), Dataset::default());
    for _ in 0..n {
        let (z, mut y) = crate::ridge::tests::sample(&mut random);
        for y in &mut y {
            *y += bias;
        }
        set.push_target(&z, Target::Values(&y));
    }
    set
}

#[test]
fn a_gateway_that_runs_higher_shifts_its_forecasts() {
    let head = Head::Forecast { horizon: 4, quantiles: Quantiles::USUAL };
    let shape = Shape { recipe: Recipe::Probe, head, exits: 2, features: 6, outputs: 12 };
    let sums = crate::ridge::tests::sums(400, 1);
    let shared = crate::closed_form(&shape, &sums, &crate::SolveOptions::default()).expect("solvable");
    let derive = |train, heldout, epochs| {
        let config = PersonalConfig { epochs, ..PersonalConfig::default() };
        let objective = Objective::default();
        let mut personalizer =
            Personalizer::new(shape, shared.clone(), train, heldout, objective, config).expect("valid");
        while personalizer.step() != Progress::Done {}
        personalizer.finish()
    };
    let personal = derive(forecasts(60, 2, 1.0), forecasts(60, 3, 1.0), 0);
    assert_eq!((personal.kept, &personal.params), (Kept::Calibrated, &shared));
    assert!(personal.offset.iter().all(|shift| (shift - 1.0).abs() < 0.4), "{:?}", personal.offset);
    let test = forecasts(1000, 4, 1.0);
    let mut out = vec![0.0; 24];
    let mut below = [0usize; 3];
    for i in 0..test.n() {
        crate::forward(&shape, &personal.params, test.row(i), &mut out);
        let Target::Values(values) = test.targets.at(i) else { panic!("values") };
        for (h, y) in values.iter().enumerate() {
            for (q, below) in below.iter_mut().enumerate() {
                *below += usize::from(*y <= out[12 + 3 * h + q] + personal.offset[12 + 3 * h + q]);
            }
        }
    }
    for (count, level) in below.iter().zip([0.1, 0.5, 0.9]) {
        assert!((*count as f64 / 4000.0 - level).abs() < 0.06, "{count} of 4000 at {level}");
    }
    // The offset alone is learnt by fine-tuning, too; with nine held-out samples no outer quantile moves.
    let tuned = derive(forecasts(200, 5, 1.0), forecasts(9, 6, 1.0), 40);
    assert_eq!(tuned.kept, Kept::FineTuned);
    assert!(tuned.evidence.fine_tuned < tuned.evidence.shared);
    assert!(tuned.offset.iter().enumerate().all(|(i, shift)| i % 3 == 1 || *shift == 0.0));
    let none = derive(forecasts(10, 5, 0.0), Dataset::default(), 0);
    assert_eq!((none.kept, none.offset), (Kept::Shared, vec![0.0; 24]));
    let untrained = derive(Dataset::default(), forecasts(20, 5, 1.0), 20);
    assert_eq!(untrained.kept, Kept::Calibrated);
}

#[test]
fn an_anomaly_module_stays_as_it_is() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Anomaly, exits: 1, features: 2, outputs: 2 };
    let mut train = Dataset::default();
    train.push(&[0.0, 1.0], 0);
    let shared = vec![1.0; shape.parameters()];
    let (objective, config) = (Objective::default(), PersonalConfig::default());
    let mut personalizer =
        Personalizer::new(shape, shared.clone(), train, Dataset::default(), objective, config)
            .expect("valid");
    assert_eq!(personalizer.step(), Progress::Done);
    let personal = personalizer.finish();
    assert_eq!((personal.kept, personal.params, personal.offset), (Kept::Shared, shared, Vec::new()));
}
