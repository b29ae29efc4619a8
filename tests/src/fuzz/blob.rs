//! What `runtime/delta` reads, and the sums inside. A codec that is added to the crate is added here.

use loadonce_delta::{
    Budget, Codec, apply_patch, decode_step, decode_sums, encode_lossy, encode_patch, encode_step,
    encode_sums,
};
use loadonce_module::{Statistic, Sums};

use super::{golden, seed};

pub(super) fn run(data: &[u8]) {
    let Some((&[decoder, low, high], rest)) = data.split_first_chunk::<3>() else { return };
    let size = usize::from(u16::from_le_bytes([low, high]));
    match decoder % 9 {
        0 => step(Codec::StepF32, rest, size),
        1 => step(Codec::StepF16, rest, size),
        2 => {
            if let Ok(bytes) = decode_sums(rest, size) {
                assert_eq!(bytes.len(), size);
                sums(&bytes);
            }
        }
        3 => sums(rest),
        6 => step(Codec::StepRotated, rest, size),
        7 => step(Codec::StepSparse, rest, size),
        8 => patch(rest, size),
        // What the compressor would not let through is compressed first.
        4 => {
            let encoded = encode_sums(rest).expect("a short input");
            let bytes = decode_sums(&encoded.blob, encoded.raw_bytes).expect("what was encoded");
            assert_eq!(bytes, rest);
            // The size is signed and the shape's; a range coder finds numbers in any bytes, but only so many.
            assert!(decode_sums(&encoded.blob, size).map_or(true, |bytes| bytes.len() == size));
            sums(&bytes);
        }
        _ => {
            let values: Vec<f32> = rest.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            for codec in [Codec::StepF32, Codec::StepF16] {
                let Ok(step) = encode_step(codec, &values) else { continue };
                let decoded = decode_step(codec, &step.encoded.blob, values.len()).expect("what was encoded");
                assert!(decoded.iter().map(|v| v.to_bits()).eq(step.decoded.iter().map(|v| v.to_bits())));
                assert!(decode_step(codec, &step.encoded.blob, size).is_err() || size == values.len());
            }
            for codec in [Codec::StepRotated, Codec::StepSparse] {
                let budget = Budget { bits: 0.5 + f32::from(low % 8), seed: 3, row: usize::from(high) };
                let mut left = values.clone();
                let Ok(encoded) = encode_lossy(codec, &mut left, &budget) else { continue };
                assert!(encoded.blob.len() <= codec.most_blob_bytes(values.len()).expect("it carries steps"));
                let decoded = decode_step(codec, &encoded.blob, values.len()).expect("what was encoded");
                let same = values
                    .iter()
                    .zip(&decoded)
                    .zip(&left)
                    .all(|((v, d), l)| (v - d).to_bits() == l.to_bits());
                assert!(same, "the sender keeps what receivers lack");
                step(codec, &encoded.blob, size);
            }
        }
    }
}

fn step(codec: Codec, blob: &[u8], parameters: usize) {
    if let Ok(step) = decode_step(codec, blob, parameters) {
        assert!(step.len() == parameters && step.iter().all(|value| value.is_finite()));
    }
}

fn patch(bytes: &[u8], parameters: usize) {
    let base: Vec<f32> = (0..parameters).map(|i| (i % 50) as f32 / 16.0).collect();
    if let Ok(params) = apply_patch(&base, bytes) {
        assert!(params.len() == parameters && params.iter().all(|value| value.abs() <= 65_504.0));
    }
}

fn sums(bytes: &[u8]) {
    let Ok(mut sums) = Sums::from_bytes(bytes) else { return };
    assert_eq!(sums.to_bytes(), bytes, "sums have one encoding");
    let before = sums.clone();
    if sums.merge(&before).is_ok() && sums.subtract(&before).is_ok() {
        assert_eq!(sums, before, "addition is exact or refused");
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let sized =
        |decoder, size: usize, rest: &[u8]| seed(decoder, &[&(size as u16).to_le_bytes()[..], rest].concat());
    let values: Vec<f32> = (0..60).map(|i| (i as f32 - 30.0) / 64.0).collect();
    let mut seeds = Vec::new();
    for (decoder, codec) in [(0, Codec::StepF32), (1, Codec::StepF16)] {
        let step = encode_step(codec, &values).expect("finite values");
        seeds.push(sized(decoder, values.len(), &step.encoded.blob));
    }
    for name in ["module-sums-v1.bin", "module-sums-v1-anomaly.bin", "module-sums-v1-forecast.bin"] {
        let bytes = golden(name);
        let encoded = encode_sums(&bytes).expect("a small file");
        seeds.push(sized(2, bytes.len(), &encoded.blob));
        seeds.push(sized(3, 0, &bytes));
    }
    for statistic in [Statistic::Classes, Statistic::Anomaly, Statistic::Forecast] {
        if let Ok(small) = Sums::zero_of(statistic, 1, 1, 2) {
            seeds.push(sized(3, 0, &small.to_bytes()));
            seeds.push(sized(4, 7, &small.to_bytes()));
        }
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    seeds.push(sized(5, 3, &bytes));
    let budget = Budget { bits: 2.0, seed: 5, row: 10 };
    for (decoder, codec) in [(6, Codec::StepRotated), (7, Codec::StepSparse)] {
        let encoded = encode_lossy(codec, &mut values.clone(), &budget).expect("finite values");
        seeds.push(sized(decoder, values.len(), &encoded.blob));
    }
    let base: Vec<f32> = (0..values.len()).map(|i| (i % 50) as f32 / 16.0).collect();
    let wanted: Vec<f32> = base.iter().zip(&values).map(|(base, value)| base + value).collect();
    let patch = encode_patch(&base, &wanted, &budget).expect("finite values");
    seeds.push(sized(8, base.len(), &patch.bytes));
    seeds
}
