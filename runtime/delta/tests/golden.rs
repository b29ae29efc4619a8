//! Golden blobs: what was sent once is read for ever. Only decoding is compared byte by byte, since another zstd
//! may compress the same content to other bytes. `LOADONCE_WRITE_GOLDEN=1` writes files that are missing.
#![allow(missing_docs)]

use loadonce_delta::{Codec, decode_step, decode_sums, encode_step, encode_sums};
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
    assert_eq!(decode_sums(&kept, sums.len()), Ok(sums));
}
