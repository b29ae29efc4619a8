//! Where the tests find the repository's bundle, golden vectors and ONNX Runtime.
// Every test binary compiles this and uses a part.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use loadonce_backbone::{
    Backbone, Bundle, EngineKind, EngineOptions, InputError, InputSpec, Prepared, Preparer, WindowSpec,
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

/// A contract with several lengths and sides: the committed bundle's, its input tables replaced.
pub(crate) fn many_sizes() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let copy = bundle_copy();
        edit(copy.path(), |text| {
            let (before, rest) = text.split_once("[input.").unwrap();
            let (_, after) = rest.split_once("[features]").unwrap();
            format!("{before}{MANY_SIZES}[features]{after}")
        });
        // The files are read again when an engine loads; only the contract is needed here.
        Bundle::open(copy.path()).unwrap()
    })
}

const MANY_SIZES: &str = "\
[input.window]
lengths = [64, 128, 256, 512, 1024]
default = 256
patch = 16
first_token = 0
positions = 64

[input.picture]
sides = [16, 32, 48, 64]
default = 32
patch_side = 4
first_token = 64
positions = 16

";

/// What a task with this declaration makes of a payload, on [`many_sizes`].
pub(crate) fn prepare(spec: &InputSpec, payload: &[u8]) -> Result<Prepared, InputError> {
    Preparer::new(many_sizes(), spec)?.prepare(payload)
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
    EngineOptions { kind: EngineKind::Ort, library: Some(library), threads: 1 }
}

pub(crate) fn load(options: &EngineOptions) -> Backbone {
    Backbone::load(Bundle::open(&bundle_dir()).unwrap(), options).unwrap()
}

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

    /// The sample as its source would send it: raw numbers or a PNG.
    pub(crate) fn payload(&self, sample: &str) -> (InputSpec, Vec<u8>) {
        let Tensor { shape, numbers } = self.tensor(&format!("{sample}.in"));
        if sample.starts_with("window") {
            let payload = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
            (fixed_window(shape[0], shape[1]), payload)
        } else {
            let bytes: Vec<u8> = numbers.iter().map(|&v| v as u8).collect();
            let color = if shape.len() == 3 { image::ColorType::Rgb8 } else { image::ColorType::L8 };
            (InputSpec::picture(), png(&bytes, shape[1] as u32, shape[0] as u32, color))
        }
    }

    pub(crate) fn prepared(&self, sample: &str) -> Prepared {
        let (spec, payload) = self.payload(sample);
        Preparer::new(&Bundle::open(&bundle_dir()).unwrap(), &spec).unwrap().prepare(&payload).unwrap()
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
