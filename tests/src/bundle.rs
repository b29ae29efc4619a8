//! A second backbone without training one: the committed bundle, cut after a segment.

use std::fs;
use std::path::{Path, PathBuf};

use loadonce_trust::{encode_hex, hash};

use crate::programs;

/// A bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its folder.
    pub folder: PathBuf,
    /// Its fingerprint, hexadecimal.
    pub fingerprint: String,
}

/// The committed bundle.
pub fn whole() -> Bundle {
    let folder = programs::bundle();
    let text = fs::read(folder.join("backbone.toml")).expect("the bundle is committed");
    Bundle { folder, fingerprint: encode_hex(&hash(&text)) }
}

/// In `folder`, the committed bundle under another `name`, or as another generation under its own, without its last
/// segment: a valid bundle of two exits whose second one gives just the features that it gives in the whole.
pub fn short(folder: &Path, name: &str) -> Bundle {
    let source = programs::bundle();
    fs::create_dir_all(folder).expect("a temporary folder can be made");
    for file in ["segment-1.onnx", "segment-2.onnx", "features.safetensors"] {
        fs::copy(source.join(file), folder.join(file)).expect("the bundle is committed");
    }
    let text = fs::read_to_string(source.join("backbone.toml")).expect("the bundle is committed");
    let mut text = text
        .replace("name = \"sense-tiny\"", &format!("name = {name:?}"))
        .replace("hidden = \"hidden_2\"\n", "");
    let last = text.find("[[segments]]\nfile = \"segment-3.onnx\"").expect("it has three segments");
    let files = text.find("[files]").expect("it lists its files");
    text.replace_range(last..files, "");
    let text: String = text.split_inclusive('\n').filter(|line| !line.contains("segment-3")).collect();
    fs::write(folder.join("backbone.toml"), &text).expect("a temporary folder can be written");
    Bundle { folder: folder.to_owned(), fingerprint: encode_hex(&hash(text.as_bytes())) }
}
