use proptest::prelude::*;

use super::*;
use crate::head::MAX_HORIZON;

fn sample(exits: usize, features: usize, outputs: usize) -> impl Strategy<Value = (Vec<i16>, u16)> {
    (proptest::collection::vec(any::<i16>(), exits * features), 0..outputs as u16)
}

fn total<'a>(samples: impl IntoIterator<Item = &'a (Vec<i16>, u16)>) -> Sums {
    let mut sums = Sums::zero(2, 5, 3).expect("within limits");
    for (z, label) in samples {
        sums.add(z, *label, 1).expect("fits");
    }
    sums
}

proptest! {
    #[test]
    fn sums_are_identical_for_every_order_and_split(
        samples in proptest::collection::vec(sample(2, 5, 3), 0..24),
        seed in any::<u64>(),
        parts in 1usize..5,
    ) {
        let whole = total(&samples);
        let mut random = crate::Random::new(seed);
        let mut shuffled = samples.clone();
        random.shuffle(&mut shuffled);
        let mut split: Vec<Vec<_>> = vec![Vec::new(); parts];
        for sample in &shuffled {
            split[random.below(parts)].push(sample);
        }
        let mut merged = Sums::zero(2, 5, 3).expect("within limits");
        for part in split {
            merged.merge(&total(part)).expect("fits");
        }
        prop_assert_eq!(merged.to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged.samples(), samples.len() as i64);
    }

    #[test]
    fn what_is_removed_leaves_no_trace(
        kept in proptest::collection::vec(sample(2, 5, 3), 0..8),
        gone in proptest::collection::vec(sample(2, 5, 3), 0..8),
    ) {
        let mut sums = total(kept.iter().chain(&gone));
        for (z, label) in &gone {
            sums.add(z, *label, -1).expect("fits");
        }
        prop_assert_eq!(&sums, &total(&kept));
        let mut forgotten = total(kept.iter().chain(&gone));
        forgotten.subtract(&total(&gone)).expect("fits");
        prop_assert_eq!(&forgotten, &total(&kept));
    }

    #[test]
    fn bytes_round_trip(samples in proptest::collection::vec(sample(2, 5, 3), 0..8)) {
        let sums = total(&samples);
        let bytes = sums.to_bytes();
        prop_assert_eq!(&Sums::from_bytes(&bytes).expect("own bytes"), &sums);
        for cut in [0, 3, HEADER, bytes.len() - 1] {
            prop_assert!(Sums::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..512),
        header in any::<bool>(),
        sizes in (0u8..3, 0u8..4, 0u8..4, 0u8..4),
    ) {
        if header && bytes.len() >= HEADER {
            bytes[..12].copy_from_slice(&[b'L', b'O', b'S', b'M', 1, 0, sizes.0, 0, sizes.1, 0, sizes.2, 0]);
            bytes[12] = sizes.3;
            bytes[13..16].fill(0);
        }
        if let Ok(sums) = Sums::from_bytes(&bytes) {
            prop_assert_eq!(sums.to_bytes(), bytes);
        }
    }

    #[test]
    fn quantize_rounds_to_nearest_even_and_saturates(z in -20.0f32..20.0) {
        let q = quantize(z);
        let exact = (f64::from(z).clamp(-8.0, 8.0) * 4096.0).round_ties_even().min(32767.0);
        prop_assert_eq!(f64::from(q), exact);
        prop_assert_eq!(quantize(dequantize(q)), q);
    }
}

#[test]
fn integers_are_what_the_definition_says() {
    let mut sums = Sums::zero(1, 2, 2).expect("within limits");
    sums.add(&[4096, -8192], 1, 1).expect("fits");
    sums.add(&[2, 3], 0, 1).expect("fits");
    assert_eq!(sums.counts(), [1, 1]);
    assert_eq!(sums.cross(0), [2, 3, 4096, -8192]);
    assert_eq!(sums.gram(0), [4096 * 4096 + 4, -4096 * 8192 + 6, 8192 * 8192 + 9]);
}

#[test]
fn bad_samples_change_nothing() {
    let mut sums = Sums::zero(1, 2, 2).expect("within limits");
    assert_eq!(sums.add(&[1], 0, 1), Err(SumsError::Length { what: "features", got: 1, want: 2 }));
    assert_eq!(sums.add(&[1, 2], 2, 1), Err(SumsError::Label { label: 2, outputs: 2 }));
    assert_eq!(sums.add(&[1, 2], 0, 2), Err(SumsError::Sign(2)));
    assert!(sums.is_zero());
    let other = Sums::zero(1, 3, 2).expect("within limits");
    assert!(matches!(sums.merge(&other), Err(SumsError::Mismatch { .. })));
    let mut out = [0; 2];
    assert_eq!(quantize_all(&[0.0, f32::NAN], &mut out), Err(SumsError::NotFinite { index: 1 }));
    assert_eq!(quantize_all(&[f32::INFINITY, 0.0], &mut out), Err(SumsError::NotFinite { index: 0 }));
}

#[test]
fn totals_are_full_before_they_can_overflow() {
    let mut values = vec![0; Statistic::Classes.entries(1, 1, 2)];
    values[0] = MAX_SAMPLES as i64;
    values[4] = 1 << 62;
    let mut full = Sums::from_values(1, 1, 2, values.clone()).expect("the most that fits");
    assert_eq!(full.add(&[1], 0, 1), Err(SumsError::Full));
    assert_eq!(full.clone().merge(&full), Err(SumsError::Full));
    assert_eq!(full.samples(), MAX_SAMPLES as i64);
    full.subtract(&Sums::zero(1, 1, 2).expect("within limits")).expect("nothing to subtract");
    values[4] += 1;
    assert!(Sums::from_values(1, 1, 2, values.clone()).is_err());
    values[4] = i64::MIN;
    assert!(Sums::from_values(1, 1, 2, values).is_err());
}

/// One sample of any kind: features of two exits, a class or three targets.
#[derive(Clone, Debug)]
struct Any {
    z: Vec<i16>,
    label: u16,
    y: Vec<i16>,
}

fn any_sample() -> impl Strategy<Value = Any> {
    let numbers = |n| proptest::collection::vec(any::<i16>(), n);
    (numbers(8), 0u16..2, numbers(3)).prop_map(|(z, label, y)| Any { z, label, y })
}

fn zero(statistic: Statistic) -> Sums {
    let outputs = if statistic == Statistic::Forecast { 3 } else { 2 };
    Sums::zero_of(statistic, 2, 4, outputs).expect("within limits")
}

fn put(sums: &mut Sums, sample: &Any, sign: i64) {
    match sums.statistic() {
        Statistic::Forecast => sums.add_values(&sample.z, &sample.y, sign),
        Statistic::Classes | Statistic::Anomaly => sums.add(&sample.z, sample.label, sign),
    }
    .expect("fits");
}

fn total_of<'a>(statistic: Statistic, samples: impl IntoIterator<Item = &'a Any>) -> Sums {
    let mut sums = zero(statistic);
    for sample in samples {
        put(&mut sums, sample, 1);
    }
    sums
}

fn statistics() -> impl Strategy<Value = Statistic> {
    prop_oneof![Just(Statistic::Classes), Just(Statistic::Anomaly), Just(Statistic::Forecast)]
}

proptest! {
    #[test]
    fn every_statistic_is_the_same_for_every_order_and_split_and_forgets(
        statistic in statistics(),
        samples in proptest::collection::vec(any_sample(), 0..16),
        seed in any::<u64>(),
        parts in 1usize..4,
    ) {
        let whole = total_of(statistic, &samples);
        let mut random = crate::Random::new(seed);
        let mut shuffled = samples.clone();
        random.shuffle(&mut shuffled);
        let mut split: Vec<Vec<_>> = vec![Vec::new(); parts];
        for sample in &shuffled {
            split[random.below(parts)].push(sample);
        }
        let mut merged = zero(statistic);
        for part in &split {
            merged.merge(&total_of(statistic, part.iter().copied())).expect("fits");
        }
        prop_assert_eq!(merged.to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged.samples(), samples.len() as i64);
        prop_assert!(merged.bound() >= samples.len() as u64);
        prop_assert_eq!(&Sums::from_bytes(&whole.to_bytes()).expect("own bytes"), &whole);
        let first = total_of(statistic, split[0].iter().copied());
        merged.subtract(&first).expect("fits");
        for sample in &split[0] {
            put(&mut merged, sample, 1);
            put(&mut merged, sample, -1);
        }
        prop_assert_eq!(merged, total_of(statistic, split[1..].iter().flatten().copied()));
    }

    #[test]
    fn forecast_integers_are_what_the_definition_says(samples in proptest::collection::vec(any_sample(), 0..12)) {
        let sums = total_of(Statistic::Forecast, &samples);
        let of = |how: &dyn Fn(&Any) -> i64| samples.iter().map(how).sum::<i64>();
        prop_assert_eq!(sums.counts(), [samples.len() as i64]);
        let wide = |x: i16| i64::from(x);
        for h in 0..3 {
            prop_assert_eq!(sums.targets().0[h], of(&|s| wide(s.y[h])));
            prop_assert_eq!(sums.targets().1[h], of(&|s| wide(s.y[h]) * wide(s.y[h])));
        }
        for k in 0..2 {
            for i in 0..4 {
                prop_assert_eq!(sums.plain(k)[i], of(&|s| wide(s.z[4 * k + i])));
                for h in 0..3 {
                    prop_assert_eq!(sums.cross(k)[4 * h + i], of(&|s| wide(s.y[h]) * wide(s.z[4 * k + i])));
                }
                for j in i..4 {
                    let at = i * 4 - i * (i + 1) / 2 + j;
                    prop_assert_eq!(sums.gram(k)[at], of(&|s| wide(s.z[4 * k + i]) * wide(s.z[4 * k + j])));
                }
            }
        }
    }
}

#[test]
fn only_normal_samples_enter_the_gram_matrix_of_an_anomaly_task() {
    let mut sums = Sums::zero_of(Statistic::Anomaly, 1, 2, 2).expect("within limits");
    sums.add(&[3, 5], NORMAL, 1).expect("fits");
    let gram = sums.gram(0).to_vec();
    sums.add(&[100, 200], ANOMALOUS, 1).expect("fits");
    assert_eq!((sums.counts(), sums.cross(0)), (&[1, 1][..], &[3, 5, 100, 200][..]));
    assert_eq!((sums.gram(0), gram), (&[9, 15, 25][..], vec![9, 15, 25]));
}

#[test]
fn kinds_do_not_mix() {
    let (mut classes, mut anomaly) = (zero(Statistic::Classes), zero(Statistic::Anomaly));
    let mut forecast = zero(Statistic::Forecast);
    assert!(matches!(classes.merge(&anomaly), Err(SumsError::Mismatch { .. })));
    assert_eq!(forecast.add(&[0; 8], 0, 1), Err(SumsError::Target(Statistic::Forecast)));
    assert_eq!(anomaly.add_values(&[0; 8], &[0; 3], 1), Err(SumsError::Target(Statistic::Anomaly)));
    let short = SumsError::Length { what: "targets", got: 2, want: 3 };
    assert_eq!(forecast.add_values(&[0; 8], &[0; 2], 1), Err(short));
    assert!(forecast.is_zero());
    let mut bytes = anomaly.to_bytes();
    bytes[12] = 3;
    assert_eq!(Sums::from_bytes(&bytes), Err(SumsError::Malformed("unknown statistic")));
    assert!(Sums::zero_of(Statistic::Anomaly, 1, 2, 3).is_err());
    assert!(Sums::zero_of(Statistic::Forecast, 1, 2, MAX_HORIZON + 1).is_err());
    assert!(Sums::zero_of(Statistic::Forecast, 1, 2, 1).is_ok());
}

#[test]
fn forecast_totals_are_full_before_they_can_overflow() {
    let zero = Sums::zero_of(Statistic::Forecast, 1, 1, 1).expect("within limits");
    // Count, Σ y, Σ y², Σ z, Σ y z, Σ z².
    let most = [1i64 << 32, 1 << 47, 1 << 62, -(1 << 47), -(1 << 62), 1 << 62];
    let full = zero.clone().filled(most.to_vec()).expect("the most that fits");
    assert_eq!(full.clone().add_values(&[1], &[1], 1), Err(SumsError::Full));
    for i in 0..most.len() {
        let mut values = most.to_vec();
        values[i] += values[i].signum();
        assert!(zero.clone().filled(values.clone()).is_err(), "{i}");
        values[i] = i64::MIN;
        assert!(zero.clone().filled(values).is_err(), "{i}");
    }
    let longest = Statistic::Forecast.entries(MAX_EXITS, MAX_FEATURES, MAX_HORIZON);
    assert!(HEADER + 8 * longest <= MAX_SUMS_BYTES);
}
