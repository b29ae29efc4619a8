//! Where the tests find the repository's bundle, golden vectors and ONNX Runtime.
// Every test binary compiles this and uses a part.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use loadonce_backbone::{
    Backbone, Bundle, EngineKind, EngineOptions, InputError, InputSpec, PictureSpec, Prepared, Preparer,
    Range, WindowSpec,
};
use safetensors::{Dtype, SafeTensors};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn bundle_dir() -> PathBuf {
    root().join("models/bundles/sense-tiny")
}

/// A writable copy of the bundle.
pub(crate) fn bundle_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(bundle_dir()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Rewrites a copy's `backbone.toml`.
pub(crate) fn edit(dir: &Path, change: impl FnOnce(String) -> String) {
    let path = dir.join("backbone.toml");
    let text = fs::read_to_string(&path).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the edit must change the contract");
    fs::write(path, changed).unwrap();
}

/// The committed bundle, whose contract every test of pre-processing shares.
pub(crate) fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| Bundle::open(&bundle_dir()).unwrap())
}

/// What a task with this declaration makes of a payload, on the committed bundle.
pub(crate) fn prepare(spec: &InputSpec, payload: &[u8]) -> Result<Prepared, InputError> {
    Preparer::new(bundle(), spec)?.prepare(payload)
}

/// All channels' patches, one after the other.
pub(crate) fn patches(prepared: &Prepared) -> Vec<f32> {
    prepared.channels().iter().flat_map(|channel| channel.patches().to_vec()).collect()
}

/// A window with a fixed length and nothing else said.
pub(crate) fn fixed_window(channels: usize, length: usize) -> InputSpec {
    InputSpec::Window(WindowSpec { channels, length: Some(length), ..WindowSpec::default() })
}

/// `ORT_DYLIB_PATH`, else what the Makefile fetches.
pub(crate) fn onnxruntime() -> EngineOptions {
    let fetched = || root().join("target/onnxruntime").join(std::env::consts::ARCH).join("libonnxruntime.so");
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or_else(fetched, PathBuf::from);
    assert!(
        library.exists(),
        "{} is missing: run `cross/fetch-onnxruntime` into its folder",
        library.display()
    );
    EngineOptions { kind: EngineKind::Ort, library: Some(library), threads: 1, ..EngineOptions::default() }
}

pub(crate) fn load(options: &EngineOptions) -> Backbone {
    Backbone::load(Bundle::open(&bundle_dir()).unwrap(), options).unwrap()
}

/// Measuring range of the golden windows.
const GOLDEN_RANGE: [f64; 2] = [-10.0, 15.0];

pub(crate) struct Golden(Vec<u8>);

/// A tensor of the golden files; bytes of a picture come as numbers too.
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f32>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        Self(fs::read(root().join("tests/golden").join(name)).unwrap())
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let view = tensors.tensor(name).unwrap();
        let numbers = match view.dtype() {
            Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
            Dtype::U16 => {
                view.data().as_chunks::<2>().0.iter().map(|&b| f32::from(u16::from_le_bytes(b))).collect()
            }
            Dtype::I64 => {
                view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as f32).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        Tensor { shape: view.shape().to_vec(), numbers }
    }

    /// Names of the samples, such as `window_1`.
    pub(crate) fn samples(&self) -> Vec<String> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let mut names: Vec<_> = tensors
            .names()
            .into_iter()
            .filter_map(|name| Some(name.strip_suffix(".in")?.to_owned()))
            .collect();
        names.sort();
        assert!(names.len() >= 6, "only {names:?}");
        names
    }

    /// The sample as its source would send it, raw numbers or a PNG of 8 or 16 bits, and the task's declaration.
    pub(crate) fn payload(&self, sample: &str) -> (InputSpec, Vec<u8>) {
        let Tensor { shape, numbers } = self.tensor(&format!("{sample}.in"));
        let plan = self.tensor(&format!("{sample}.plan")).numbers;
        let (size, colour) = (Some(plan[0] as usize), plan[1] != 0.0);
        if sample.starts_with("window") {
            let payload = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
            let spec = WindowSpec {
                channels: shape[0],
                length: Some(shape[1]),
                points: size,
                range: Some(Range::All(GOLDEN_RANGE)),
                levels: true,
                ..WindowSpec::default()
            };
            return (InputSpec::Window(spec), payload);
        }
        let wide = numbers.iter().any(|&v| v > 255.0);
        let bytes: Vec<u8> = if wide {
            numbers.iter().flat_map(|&v| (v as u16).to_ne_bytes()).collect()
        } else {
            numbers.iter().map(|&v| v as u8).collect()
        };
        let color = match (shape.len(), wide) {
            (3, true) => image::ColorType::Rgb16,
            (3, false) => image::ColorType::Rgb8,
            (_, true) => image::ColorType::L16,
            (_, false) => image::ColorType::L8,
        };
        let spec = PictureSpec { side: size, colour, levels: true };
        (InputSpec::Picture(spec), png(&bytes, shape[1] as u32, shape[0] as u32, color))
    }

    pub(crate) fn prepared(&self, sample: &str) -> Prepared {
        let (spec, payload) = self.payload(sample);
        prepare(&spec, &payload).unwrap()
    }
}

/// Encodes samples in native byte order.
pub(crate) fn png(samples: &[u8], width: u32, height: u32, color: image::ColorType) -> Vec<u8> {
    encode(samples, width, height, color, image::ImageFormat::Png)
}

pub(crate) fn encode(
    samples: &[u8],
    width: u32,
    height: u32,
    color: image::ColorType,
    format: image::ImageFormat,
) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut file, samples, width, height, color, format).unwrap();
    file.into_inner()
}

/// Features of every exit.
pub(crate) fn features(backbone: &Backbone, input: &Prepared, per_channel: usize) -> Vec<Vec<f32>> {
    let mut pass = backbone.begin(input);
    let mut exits = Vec::new();
    let mut out = Vec::new();
    while pass.next_exit(per_channel, &mut out).unwrap() {
        assert_eq!(out.len(), input.channels().len() * per_channel);
        exits.push(out.clone());
    }
    exits
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
