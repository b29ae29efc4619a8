//! Gateways that all want something else, averaged through the codec, arrive where exact steps lead, and not much later.
#![allow(missing_docs)]

use loadonce_delta::{Budget, Codec, decode_step, encode_auto};

const PARAMETERS: usize = 512;
const GATEWAYS: usize = 20;

/// About normal numbers from a seed.
struct Normal(u64);

impl Normal {
    fn next(&mut self) -> f32 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / 16_777_216.0;
        }
        sum
    }
}

/// Mean squared distance from the gateways' mean optimum after every round, through `send`, which turns a step into
/// what arrives of it.
fn rounds(mut send: impl FnMut(usize, usize, Vec<f32>) -> Vec<f32>) -> Vec<f64> {
    let mut normal = Normal(1);
    let common: Vec<f32> = (0..PARAMETERS).map(|_| normal.next()).collect();
    let own: Vec<Vec<f32>> =
        (0..GATEWAYS).map(|_| common.iter().map(|c| c + 2.0 * normal.next()).collect()).collect();
    let mean = |at: usize| own.iter().map(|own| own[at]).sum::<f32>() / GATEWAYS as f32;
    let mut shared = vec![0.0f32; PARAMETERS];
    let mut distances = Vec::new();
    for round in 0..15 {
        let mut total = vec![0.0f32; PARAMETERS];
        for (gateway, own) in own.iter().enumerate() {
            let step = own.iter().zip(&shared).map(|(own, shared)| 0.27 * (own - shared)).collect();
            let arrived = send(gateway, round, step);
            total.iter_mut().zip(arrived).for_each(|(total, value)| *total += value);
        }
        shared.iter_mut().zip(&total).for_each(|(shared, total)| *shared += total / GATEWAYS as f32);
        let distance = shared.iter().enumerate().map(|(at, shared)| f64::from(shared - mean(at)).powi(2));
        distances.push(distance.sum::<f64>() / PARAMETERS as f64);
    }
    distances
}

#[test]
fn twenty_gateways_arrive_where_exact_steps_lead() {
    let exact = rounds(|_, _, step| step);
    let mut residuals = vec![vec![0.0f32; PARAMETERS]; GATEWAYS];
    let mut told = Codec::StepSparse;
    let coded = rounds(|gateway, round, mut step| {
        let residual = &mut residuals[gateway];
        step.iter_mut().zip(residual.iter()).for_each(|(value, rest)| *value += rest);
        let budget = Budget { bits: 0.8, seed: (gateway * 1000 + round) as u32, row: 0 };
        let (codec, encoded) = encode_auto(&mut step, &budget).expect("finite numbers");
        *residual = step;
        told = codec;
        decode_step(codec, &encoded.blob, PARAMETERS).expect("what was encoded")
    });
    println!("exact {exact:.4?}\ncoded {coded:.4?}");
    assert_eq!(told, Codec::StepRotated, "normal steps are told turned");
    // The first round leads more than half as far, and from the third on the codec is not a round behind.
    // An exact round leaves 0.73 of the way, so 0.73² of its square.
    let start = exact[0] / (0.73 * 0.73);
    assert!(start - coded[0] > 0.6 * (start - exact[0]), "{} {}", coded[0], exact[0]);
    assert!(coded[3] < exact[2] + 0.02 && coded[5] < exact[4] + 0.03);
    // The errors of the last rounds stay: each gateway's optimum is 4 away from the mean one.
    assert!(coded[14] < 0.05, "{}", coded[14]);
    let energy =
        |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / PARAMETERS as f64;
    // Own steps end near 0.27² · 4; residuals stay of that order.
    assert!(residuals.iter().all(|rest| energy(rest) < 4.0 * 0.29), "a residual grows without bound");
}
