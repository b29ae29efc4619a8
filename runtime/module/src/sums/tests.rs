use proptest::prelude::*;

use super::*;

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
        sizes in (0u8..3, 0u8..4, 0u8..4),
    ) {
        if header && bytes.len() >= HEADER {
            bytes[..12].copy_from_slice(&[b'L', b'O', b'S', b'M', 1, 0, sizes.0, 0, sizes.1, 0, sizes.2, 0]);
            bytes[12..16].fill(0);
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
    let mut values = vec![0; entries(1, 1, 2)];
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
