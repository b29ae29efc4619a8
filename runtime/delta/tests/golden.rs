//! Golden blobs: what was sent once is read for ever. Of zstd's blobs only the decoding is compared byte by byte, since
//! another zstd may compress the same content to other bytes; the others are written alike by every machine.
//! `LOADONCE_WRITE_GOLDEN=1` writes files that are missing.
#![allow(missing_docs)]

use loadonce_delta::{
    Budget, Codec, apply_patch, decode_step, decode_sums, encode_lossy, encode_patch, encode_step,
    encode_sums,
};
use std::path::PathBuf;

fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/wire-{name}.bin"));
    if !path.exists() && std::env::var_os("LOADONCE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, fresh).expect("the folder of golden files can be written");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Numbers that f16 holds exactly, of both signs and many sizes.
fn step() -> Vec<f32> {
    (0..300i16).map(|i| f32::from(i - 150) / f32::from(1i16 << (i % 11))).collect()
}

#[test]
fn steps_of_codecs_1_and_2() {
    for (codec, name) in [(Codec::StepF32, "step-f32"), (Codec::StepF16, "step-f16")] {
        let fresh = encode_step(codec, &step()).expect("finite numbers");
        let kept = golden(name, &fresh.encoded.blob);
        assert_eq!(decode_step(codec, &kept, 300), Ok(step()), "{name}");
    }
}

#[test]
fn sums_of_codec_16() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/module-sums-v1.bin");
    let sums = std::fs::read(path).expect("the golden sums are committed");
    let fresh = encode_sums(&sums).expect("sums are whole words");
    let kept = golden("sums", &fresh.blob);
    assert_eq!(kept, fresh.blob);
    assert_eq!(decode_sums(&kept, sums.len()), Ok(sums));
}

/// About normal numbers in rows of unlike size, 5,000 of them: blocks of 4,096, 512, 256, 128 and 8.
fn learned() -> Vec<f32> {
    let mut x = 1u64;
    let mut uniform = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / 16_777_216.0
    };
    let mut value = |i: u16| ((0..4).map(|_| uniform()).sum::<f32>() - 2.0) / f32::from(1 + i / 100 % 7);
    (0..5000).map(|i| value(i) / 64.0).collect()
}

/// The values' own bytes, one after the other.
fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn steps_of_codecs_3_and_4() {
    let cases = [
        (Codec::StepRotated, 0.8, "step-rotated"),
        (Codec::StepRotated, 4.0, "step-rotated-4-bits"),
        (Codec::StepSparse, 0.8, "step-sparse"),
        (Codec::StepSparse, 2.0, "step-sparse-2-bits"),
    ];
    for (codec, bits, name) in cases {
        let mut left = learned();
        let fresh =
            encode_lossy(codec, &mut left, &Budget { bits, seed: 12_345, row: 100 }).expect("finite numbers");
        let kept = golden(name, &fresh.blob);
        assert!(kept == fresh.blob, "{name}: this machine encodes to other bytes");
        let decoded = decode_step(codec, &kept, 5000).expect("what was sent once is read for ever");
        assert_eq!(golden(&format!("{name}-decoded"), &hash(&decoded)), hash(&decoded), "{name}");
        assert!(decoded.iter().zip(&left).zip(learned()).all(|((d, l), v)| (v - d).to_bits() == l.to_bits()));
    }
}

#[test]
fn patches() {
    let base: Vec<f32> = learned().iter().map(|v| half::f16::from_f32(v * 40.0).to_f32()).collect();
    let wanted: Vec<f32> = base.iter().zip(learned().iter().rev()).map(|(b, v)| b + v).collect();
    let fresh =
        encode_patch(&base, &wanted, &Budget { bits: 1.5, seed: 7, row: 100 }).expect("finite numbers");
    let kept = golden("patch", &fresh.bytes);
    assert!(kept == fresh.bytes, "this machine encodes to other bytes");
    let params = apply_patch(&base, &kept).expect("what was sent once is read for ever");
    assert_eq!(golden("patch-params", &hash(&params)), hash(&params));
    assert_eq!(params, fresh.params);
}

/// blake3 of the values' own bytes.
fn hash(values: &[f32]) -> Vec<u8> {
    blake3::hash(&bytes_of(values)).as_bytes().to_vec()
}
