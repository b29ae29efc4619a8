//! The crate against `models/reference/module_reference.py`, which is written apart from it, in f64.

use loadonce_module::{
    Batch, ForecastLoss, Head, Objective, Penalty, Quantiles, Recipe, Regressors, Scratch, Shape, Shrinkage,
    SolveOptions, Statistic, Sums, Targets, closed_form, dequantize, forward, ladder_start,
    loss_and_gradient, metrics, quantize, solve,
};
use safetensors::SafeTensors;

const SHAPE: Shape =
    Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 3, features: 10, outputs: 4 };
const LADDER: Shape = Shape { recipe: Recipe::Ladder { rank: 2 }, ..SHAPE };

struct Case {
    bytes: Vec<u8>,
}

impl Case {
    fn open() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/module-reference.safetensors");
        Self { bytes: std::fs::read(path).expect("the golden file is committed") }
    }

    fn read<T, const N: usize>(&self, name: &str, from: fn([u8; N]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let data = tensors.tensor(name).expect(name).data().to_vec();
        data.chunks_exact(N).map(|b| from(b.try_into().expect("exact chunks"))).collect()
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.read(name, f64::from_le_bytes)
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.read(name, f32::from_le_bytes)
    }

    fn labels(&self) -> Vec<u16> {
        self.read("labels", u16::from_le_bytes)
    }

    fn q(&self) -> Vec<i16> {
        self.read("q", i16::from_le_bytes)
    }

    fn z(&self) -> Vec<f32> {
        self.q().into_iter().map(dequantize).collect()
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::zero(SHAPE.exits, SHAPE.features, SHAPE.outputs).expect("within limits");
        for (z, label) in self.q().chunks_exact(SHAPE.exits * SHAPE.features).zip(self.labels()) {
            sums.add(z, label, 1).expect("fits");
        }
        sums
    }
}

/// Largest difference, relative to the larger of 1 and the value.
fn difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs() / w.abs().max(1.0)).fold(0.0, f64::max)
}

fn check(shape: Shape, recipe: &str) {
    let case = Case::open();
    let params = case.f32(&format!("{recipe}.params"));
    let (z, labels) = (case.z(), case.labels());
    let mut logits = vec![0.0; labels.len() * shape.exits * shape.outputs];
    let rows = z.chunks_exact(shape.exits * shape.features);
    for (z, logits) in rows.zip(logits.chunks_exact_mut(shape.exits * shape.outputs)) {
        forward(&shape, &params, z, logits);
    }
    assert!(difference(&logits, &case.f64(&format!("{recipe}.logits"))) < 1e-5);
    let (offset, weights) = (case.f32("offset"), case.f32("weights"));
    let (targets, objective) = (Targets::Classes(labels), Objective::default());
    let batch =
        Batch { z: &z, targets: &targets, objective: &objective, offset: &offset, weights: Some(&weights) };
    let mut grad = vec![0.0; params.len()];
    let loss = loss_and_gradient(&shape, &params, batch, &mut grad, &mut Scratch::new(&shape));
    assert!(difference(&[loss], &case.f64(&format!("{recipe}.loss"))) < 1e-5);
    assert!(difference(&grad, &case.f64(&format!("{recipe}.gradient"))) < 1e-5);
}

#[test]
fn probe_agrees_with_the_reference() {
    check(SHAPE, "probe");
}

#[test]
fn ladder_agrees_with_the_reference() {
    check(LADDER, "ladder");
}

#[test]
fn sums_are_those_of_the_reference() {
    let case = Case::open();
    assert_eq!(case.sums().values(), case.read("sums", i64::from_le_bytes));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/module-sums-v1.bin");
    let golden = std::fs::read(path).expect("the golden file is committed");
    assert_eq!(case.sums().to_bytes(), golden);
    assert_eq!(Sums::from_bytes(&golden), Ok(case.sums()));
    assert!(case.q().iter().zip(case.z()).all(|(q, z)| quantize(z) == *q));
}

#[test]
fn solved_modules_agree_with_the_reference() {
    let case = Case::open();
    for (name, shrinkage) in [("auto", Shrinkage::Auto), ("fixed", Shrinkage::Fixed(0.2))] {
        let solved = solve(&case.sums(), shrinkage).expect("solvable");
        assert!(difference(&solved, &case.f64(&format!("solved.{name}"))) < 1e-5, "{name}");
        let start = ladder_start(&case.sums(), 2, shrinkage).expect("solvable");
        assert!(difference(&start, &case.f64(&format!("start.{name}"))) < 1e-5, "{name}");
    }
}

const FORECAST: Shape = Shape {
    head: Head::Forecast { horizon: 3, quantiles: Quantiles::USUAL },
    recipe: Recipe::Moments,
    outputs: 9,
    ..SHAPE
};
const ANOMALY: Shape = Shape { head: Head::Anomaly, recipe: Recipe::Moments, outputs: 10, ..SHAPE };

impl Case {
    fn y(&self) -> Vec<i16> {
        self.read("y", i16::from_le_bytes)
    }

    fn anomalous(&self) -> Vec<u16> {
        self.read("anomalous", u16::from_le_bytes)
    }

    fn kind_sums(&self, statistic: Statistic) -> Sums {
        let outputs = if statistic == Statistic::Forecast { 3 } else { 2 };
        let mut sums = Sums::zero_of(statistic, SHAPE.exits, SHAPE.features, outputs).expect("within limits");
        let (q, y, anomalous) = (self.q(), self.y(), self.anomalous());
        for (i, z) in q.chunks_exact(SHAPE.exits * SHAPE.features).enumerate() {
            match statistic {
                Statistic::Forecast => sums.add_values(z, &y[3 * i..3 * i + 3], 1),
                _ => sums.add(z, anomalous[i], 1),
            }
            .expect("fits");
        }
        sums
    }
}

#[test]
fn sums_of_the_other_kinds_are_those_of_the_reference() {
    let case = Case::open();
    for (statistic, name) in [(Statistic::Forecast, "forecast"), (Statistic::Anomaly, "anomaly")] {
        let sums = case.kind_sums(statistic);
        assert_eq!(sums.values(), case.read(&format!("{name}.sums"), i64::from_le_bytes));
        let path = format!("{}/../../tests/golden/module-sums-v1-{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read(path).expect("the golden file is committed");
        assert_eq!(sums.to_bytes(), golden);
        assert_eq!(Sums::from_bytes(&golden), Ok(sums));
    }
}

#[test]
fn closed_forms_of_the_other_kinds_agree_with_the_reference() {
    let case = Case::open();
    let (forecast, anomaly) = (case.kind_sums(Statistic::Forecast), case.kind_sums(Statistic::Anomaly));
    for (name, shrinkage, penalty) in
        [("auto", Shrinkage::Auto, Penalty::Auto), ("fixed", Shrinkage::Fixed(0.2), Penalty::Fixed(0.2))]
    {
        let options = SolveOptions {
            shrinkage,
            penalty,
            class_weights: vec![1.0, 0.5, 3.0, 2.0],
            ..SolveOptions::default()
        };
        let season = vec![3, 2, 1];
        let regressors = Regressors { extras: 6, season, last: Some(6), before: Some(5), every: 1 };
        let patterned = SolveOptions { regressors, ..options.clone() };
        let params = closed_form(&FORECAST, &forecast, &patterned).expect("solvable");
        let off = difference(&params, &case.f64(&format!("forecast.patterned.{name}")));
        assert!(off < 2e-5, "forecast.patterned.{name}: {off}");
        let ladder = Shape { recipe: Recipe::Ladder { rank: 2 }, ..FORECAST };
        let probe = Shape { recipe: Recipe::Probe, outputs: 4, ..ANOMALY };
        for (shape, sums, array) in [
            (SHAPE, &case.sums(), "weighted"),
            (FORECAST, &forecast, "forecast.solved"),
            (ladder, &forecast, "forecast.start"),
            (ANOMALY, &anomaly, "anomaly.solved"),
            (probe, &anomaly, "anomaly.start"),
        ] {
            let params = closed_form(&shape, sums, &options).expect("solvable");
            let off = difference(&params, &case.f64(&format!("{array}.{name}")));
            assert!(off < 2e-5, "{array}.{name}: {off}");
        }
    }
}

#[test]
fn losses_of_the_other_kinds_agree_with_the_reference() {
    let case = Case::open();
    let values: Vec<f32> = case.y().into_iter().map(dequantize).collect();
    let values = Targets::Values { horizon: 3, values };
    let classes = Targets::Classes(case.anomalous());
    let ladder = Shape { recipe: Recipe::Ladder { rank: 2 }, ..FORECAST };
    let probe = Shape { recipe: Recipe::Probe, ..FORECAST };
    let sad = Shape { recipe: Recipe::Probe, outputs: 4, ..ANOMALY };
    for (name, shape, targets, forecast) in [
        ("pinball.probe", probe, &values, ForecastLoss::Pinball),
        ("pinball.ladder", ladder, &values, ForecastLoss::Pinball),
        ("huber.ladder", ladder, &values, ForecastLoss::Huber),
        ("anomaly.probe", sad, &classes, ForecastLoss::Pinball),
    ] {
        let params = case.f32(&format!("{name}.params"));
        let (z, offset) = (case.z(), vec![0.0; shape.outputs]);
        let objective = Objective { forecast, ..Objective::default() };
        let batch = Batch { z: &z, targets, objective: &objective, offset: &offset, weights: None };
        let mut grad = vec![0.0; params.len()];
        let loss = loss_and_gradient(&shape, &params, batch, &mut grad, &mut Scratch::new(&shape));
        assert!(difference(&[loss], &case.f64(&format!("{name}.loss"))) < 1e-5, "{name}");
        assert!(difference(&grad, &case.f64(&format!("{name}.gradient"))) < 1e-5, "{name}");
    }
}

#[test]
fn metrics_agree_with_the_reference() {
    let case = Case::open();
    let u16s = |name: &str| case.read(&format!("metrics.{name}"), u16::from_le_bytes);
    let (answers, labels) = (u16s("answers"), u16s("labels"));
    let (scores, actual) = (case.f32("metrics.scores"), case.f64("metrics.actual"));
    let anomalous: Vec<bool> = u16s("anomalous").iter().map(|a| *a == 1).collect();
    let quantiles = case.f64("metrics.quantiles");
    let median: Vec<f64> = quantiles.chunks_exact(3).map(|row| row[1]).collect();
    let got = [
        metrics::accuracy(&answers, &labels),
        metrics::balanced_accuracy(&answers, &labels),
        metrics::log_loss(&case.f32("metrics.probabilities"), &labels),
        metrics::mase(&median, &actual, &case.f64("metrics.history"), 7),
        metrics::weighted_quantile_loss(&quantiles, &[0.1, 0.5, 0.9], &actual).map(|(_, mean)| mean),
        metrics::roc_auc(&scores, &anomalous),
        metrics::average_precision(&scores, &anomalous),
        metrics::event_recall(&scores, &anomalous, 0.5),
        metrics::false_alarm_rate(&scores, &anomalous, 0.5),
    ];
    for (i, (got, want)) in got.iter().zip(case.f64("metrics.values")).enumerate() {
        assert!(got.is_some_and(|got| (got - want).abs() < 1e-9), "{i}: {got:?} {want}");
    }
}
