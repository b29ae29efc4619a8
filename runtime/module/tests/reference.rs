//! The crate against `models/reference/module_reference.py`, which is written apart from it, in f64.

use loadonce_module::{
    Batch, Head, Recipe, Scratch, Shape, Shrinkage, Sums, dequantize, forward, ladder_start,
    loss_and_gradient, quantize, solve,
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
    let batch = Batch { z: &z, labels: &labels, offset: &offset, weights: Some(&weights) };
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
