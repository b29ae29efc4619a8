//! Sums of every kind: taken for their own task, refused for another, and cut into versions.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ACCEPTED, DIGITS, Entry, Gateway, open, refused, send, settings, task};
use loadonce_delta::{Codec, encode_sums};
use loadonce_module::{Statistic, Sums};
use loadonce_wire::{ContributionKind, Reason};

const DEMAND: &str = r#"
    name = "demand"
    kind = "forecast"
    backbone = "sense-tiny"
    input = { modality = "window", channels = 1 }
    module = { kind = "ladder", rank = 2, features = 4 }
    forecast = { horizon = 3 }
    rounds = { quorum = 3, minimum = 3, deadline_s = 0, steps = 2 }
"#;
const SPINDLE: &str = r#"
    name = "spindle"
    kind = "anomaly"
    backbone = "sense-tiny"
    input = { modality = "window", channels = 1 }
    module = { kind = "moments", features = 4 }
    rounds = { quorum = 3, minimum = 3, deadline_s = 0 }
"#;

/// Sums of five samples.
fn sums_of(statistic: Statistic, outputs: usize, gateway: u8) -> Sums {
    let mut sums = Sums::zero_of(statistic, 2, 4, outputs).unwrap();
    let mut x = u64::from(gateway) * 7919 + 1;
    let mut draw = |n: usize| -> Vec<i16> {
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 51) as i16 - 4096
        };
        (0..n).map(|_| next()).collect()
    };
    for sample in 0..5u16 {
        let z = draw(8);
        match statistic {
            Statistic::Forecast => sums.add_values(&z, &draw(outputs), 1),
            Statistic::Classes | Statistic::Anomaly => sums.add(&z, u16::from(sample == 4), 1),
        }
        .unwrap();
    }
    sums
}

fn entry(gateway: &mut Gateway, task: &loadonce_aggregator::Task, sums: &Sums) -> Entry {
    let out = encode_sums(&sums.to_bytes()).unwrap();
    let manifest = gateway.manifest(task, ContributionKind::Sum, Codec::Sums, out.raw_bytes, &out.blob);
    Entry::signed(&gateway.identity, manifest, out.blob)
}

#[test]
fn versions_are_cut_from_sums_of_every_kind() {
    for (toml, statistic, outputs) in [(DEMAND, Statistic::Forecast, 3), (SPINDLE, Statistic::Anomaly, 2)] {
        let task = task(toml);
        let name = task.manifest.name.clone();
        let cut = |order: [u8; 3]| {
            let mut core = open(settings(&[toml]));
            for number in order {
                let mut gateway = Gateway::new(number);
                let sent = entry(&mut gateway, &task, &sums_of(statistic, outputs, number));
                assert_eq!(send(&mut core, &gateway, &sent), ACCEPTED, "{name}");
            }
            core.on_tick(60_000).unwrap();
            let totals = core.totals(&name).unwrap().unwrap();
            let totals = Sums::from_bytes(&totals).unwrap();
            assert_eq!((totals.statistic(), totals.samples()), (statistic, 15));
            let entry = *core.lineage(&name).unwrap().last().expect("the quorum is there");
            assert_eq!((entry.version, entry.weight, entry.gateways), (1, 15, 3));
            entry.module
        };
        assert_eq!(cut([1, 2, 3]), cut([3, 1, 2]), "{name}: the order never shows");
    }
}

#[test]
fn invariant_04_a_sum_of_another_kind_is_refused_however_well_it_fits() {
    let mut core = open(settings(&[DIGITS, DEMAND, SPINDLE]));
    let mut gateway = Gateway::new(1);
    // Two classes and normal/anomalous are sums of one size.
    let (digits, spindle) = (task(DIGITS), task(SPINDLE));
    let sent = entry(&mut gateway, &digits, &sums_of(Statistic::Anomaly, 2, 1));
    assert_eq!(send(&mut core, &gateway, &sent), refused(Reason::WrongShape));
    let sent = entry(&mut gateway, &spindle, &sums_of(Statistic::Classes, 2, 1));
    assert_eq!(send(&mut core, &gateway, &sent), refused(Reason::WrongShape));
    let sent = entry(&mut gateway, &spindle, &sums_of(Statistic::Forecast, 3, 1));
    assert_eq!(send(&mut core, &gateway, &sent), refused(Reason::TooLarge));
    for name in ["digits", "spindle"] {
        assert!(core.totals(name).unwrap().is_none(), "{name}");
    }
}
