//! Real samples, as the payloads a camera or a sensor would send; `models/data/README.md` describes the files.

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};
use safetensors::SafeTensors;

use crate::programs::root;

/// A labelled sample.
#[derive(Debug, Clone)]
pub struct Sample {
    /// PNG bytes, or little-endian f32 channel after channel.
    pub payload: Vec<u8>,
    /// Class name.
    pub label: String,
}

/// Channels of a motion window.
pub const MOTION_CHANNELS: usize = 6;

/// Training and test samples of a set.
#[derive(Debug)]
pub struct Set {
    /// For gateways.
    pub train: Vec<Sample>,
    /// For questions afterwards.
    pub test: Vec<Sample>,
}

fn read(name: &str, payload: impl Fn(&[u8]) -> Vec<u8>) -> Set {
    let path = root().join("models/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, head) = SafeTensors::read_metadata(&bytes).expect("the committed data set is safetensors");
    let classes = head.metadata().as_ref().and_then(|map| map.get("classes")).expect("it names its classes");
    let classes: Vec<String> = serde_json::from_str(classes).expect("the class names are a JSON list");
    let tensors = SafeTensors::deserialize(&bytes).expect("the committed data set is safetensors");
    let tensor = |name| tensors.tensor(name).expect("x, y and test are there");
    let (x, y, test) = (tensor("x"), tensor("y"), tensor("test"));
    let mut set = Set { train: Vec::new(), test: Vec::new() };
    let rows = x.data().chunks_exact(x.data().len() / y.data().len());
    for ((x, &class), &test) in rows.zip(y.data()).zip(test.data()) {
        let sample = Sample { payload: payload(x), label: classes[usize::from(class)].clone() };
        if test == 0 { set.train.push(sample) } else { set.test.push(sample) }
    }
    set
}

/// Stamped digits, 8 by 8 grey pixels, as PNG.
pub fn digits() -> Set {
    read("digits.safetensors", |grey| {
        let mut out = Vec::new();
        PngEncoder::new(&mut out)
            .write_image(grey, 8, 8, ExtendedColorType::L8)
            .expect("64 grey bytes are a picture of 8 by 8");
        out
    })
}

/// Motion windows of 6 channels and 100 points, as raw little-endian f32.
pub fn motion() -> Set {
    read("motion.safetensors", <[u8]>::to_vec)
}

/// A raw window as JSON, channel after channel.
pub fn json(raw: &[u8], channels: usize) -> Vec<u8> {
    let channel = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    let window: Vec<Vec<f32>> = raw.chunks_exact(raw.len() / channels).map(channel).collect();
    serde_json::to_vec(&window).expect("finite numbers are JSON")
}

/// A PNG picture as a JPEG in colour.
pub fn jpeg(png: &[u8]) -> Vec<u8> {
    let picture = image::load_from_memory(png).expect("the test made this PNG");
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, 95)
        .encode_image(&picture.to_rgb8())
        .expect("a small picture can be written as JPEG");
    out
}
