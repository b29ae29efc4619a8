//! Texts become the reference tokenizer's ids, and the built bundle `text-minilm`, where it is, runs.
#![cfg(feature = "text")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use loadonce_backbone::{Bundle, BundleError, InputSpec, Preparer};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use support::root;

fn tokenizer() -> Vec<u8> {
    let file = fs::File::open(root().join("tests/golden/tokenizer.json.gz")).unwrap();
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
    text
}

/// A text bundle whose only real file is the tokenizer: enough to prepare, not to run.
fn tokenizer_bundle(dir: &Path, tokenizer: &[u8], max_tokens: usize) -> Result<Bundle, BundleError> {
    let mut listed = Vec::new();
    for (name, content) in
        [("tokenizer.json", tokenizer), ("segment-1.onnx", b"x"), ("features.safetensors", b"y")]
    {
        fs::write(dir.join(name), content).unwrap();
        let sha =
            Sha256::digest(content).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        listed.push(format!("\"{name}\" = \"{sha}\""));
    }
    let listed = listed.join("\n");
    let text = format!(
        r#"format = 2
name = "words"
family = "text"
scale = "none"
version = "1"
licence = "Apache-2.0"
parameters = 1
fp32_bytes = 4
opset = 17
quantization = "none"
[input.text]
tokenizer = "tokenizer.json"
max_tokens = {max_tokens}
[features]
file = "features.safetensors"
pooled = 768
directions = 256
[[segments]]
file = "segment-1.onnx"
layers = 2
exit = 1
inputs = ["token_ids"]
pooled = "pooled_1"
[files]
{listed}"#
    );
    fs::write(dir.join("backbone.toml"), text).unwrap();
    Bundle::open(dir)
}

fn preparer(max_tokens: usize) -> Preparer {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tokenizer_bundle(dir.path(), &tokenizer(), max_tokens).unwrap();
    Preparer::new(&bundle, &InputSpec::Text {}).unwrap()
}

/// Texts with the reference's ids.
fn golden() -> Vec<(String, Vec<i64>)> {
    let file = fs::read(root().join("tests/golden/tokens.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let ends = |name: &str| -> Vec<usize> {
        bytes(name).as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b) as usize).collect()
    };
    let (text, ids) = (bytes("text"), bytes("ids"));
    let ids: Vec<i64> = ids.as_chunks::<2>().0.iter().map(|&b| i64::from(u16::from_le_bytes(b))).collect();
    let mut from = (0, 0);
    let pairs = ends("text_ends").into_iter().zip(ends("ids_ends"));
    pairs
        .map(|to| {
            let line = String::from_utf8(text[from.0..to.0].to_vec()).unwrap();
            let pair = (line, ids[from.1..to.1].to_vec());
            from = to;
            pair
        })
        .collect()
}

#[test]
fn a_thousand_texts_have_the_references_ids() {
    let preparer = preparer(256);
    let texts = golden();
    assert!(texts.len() >= 1000, "only {}", texts.len());
    let (mut nothing, mut wrong) = (0, Vec::new());
    for (text, expected) in &texts {
        // The reference frames nothing; here nothing is refused.
        if expected.len() == 2 {
            let code = preparer.prepare(text.as_bytes()).unwrap_err().code();
            assert!(["empty_text", "empty_payload"].contains(&code), "{text:?}: {code}");
            nothing += 1;
            continue;
        }
        let prepared = preparer.prepare(text.as_bytes()).unwrap();
        let got = prepared.channels()[0].token_ids();
        if got != expected.as_slice() {
            wrong.push(format!("{text:?}\n  got      {got:?}\n  expected {expected:?}"));
        }
        assert!(prepared.channels()[0].patches().is_empty() && prepared.levels().is_empty());
    }
    println!("{} texts equal, {nothing} of them with nothing to read", texts.len() - wrong.len());
    assert!((5..40).contains(&nothing), "{nothing}");
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        texts.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
}

#[test]
fn a_long_text_is_cut_where_the_reference_cuts_it() {
    let (short, long) = (preparer(16), preparer(256));
    let mut cut = 0;
    for (text, ids) in golden().iter().filter(|(_, ids)| ids.len() > 2) {
        let prepared = short.prepare(text.as_bytes()).unwrap();
        let got = prepared.channels()[0].token_ids();
        let kept = ids.len().min(16) - 1;
        assert_eq!((&got[..kept], got[kept]), (&ids[..kept], 102), "{text:?}");
        assert_eq!(
            prepared.treatment().cut,
            ids.len() > 16 || long.prepare(text.as_bytes()).unwrap().treatment().cut
        );
        cut += usize::from(prepared.treatment().cut);
    }
    assert!(cut > 100);
}

#[test]
fn bytes_that_are_no_text_say_where() {
    let preparer = preparer(256);
    for (payload, code, says) in [
        (&b"fine until \xff"[..], "not_utf8", "byte 11"),
        (b"cut \xe6\xb8", "not_utf8", "byte 4"),
        (b" \r\n\t", "empty_text", "nothing that can be read"),
        (b"", "empty_payload", "empty"),
    ] {
        let error = preparer.prepare(payload).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(says), "{error}");
    }
    let endless = "[MASK] pump ".repeat(300_000);
    let prepared = preparer.prepare(endless.as_bytes()).unwrap();
    assert!(prepared.treatment().cut);
    assert_eq!(prepared.channels()[0].tokens(), 256);
}

#[test]
fn a_tokenizer_of_another_kind_is_refused_with_its_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let text = String::from_utf8(tokenizer()).unwrap();
    for (from, to, says) in [
        (r#""type":"BertNormalizer""#, r#""type":"NFC""#, "NFC"),
        (r#""type":"WordPiece","unk"#, r#""type":"Unigram","unk"#, "Unigram"),
        (r#""clean_text":true"#, r#""clean_text":true,"surprise":true"#, "surprise"),
        (r#""unk_token":"[UNK]""#, r#""unk_token":"[GONE]""#, "lacks \"[GONE]\""),
        (r#""lstrip":false"#, r#""lstrip":true"#, "rules that are not known"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let error = tokenizer_bundle(dir.path(), changed.as_bytes(), 256).unwrap_err();
        assert!(matches!(error, BundleError::Tokenizer { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = tokenizer_bundle(dir.path(), text.as_bytes(), 2).unwrap_err().to_string();
    assert!(error.contains("max_tokens is 2"), "{error}");
}

/// The bundle is built by `models/build-text.sh`, not committed. Where it is absent this test says so; with
/// `LOADONCE_TEXT_BUNDLE` set, absence is a failure.
#[cfg(feature = "ort")]
#[test]
fn the_built_text_bundle_runs_and_exits_early() {
    use loadonce_backbone::Backbone;
    use support::{cosine, features, onnxruntime};

    let asked = std::env::var_os("LOADONCE_TEXT_BUNDLE").map(PathBuf::from);
    let dir = asked.clone().unwrap_or_else(|| root().join("models/build/text-minilm"));
    if asked.is_none() && !dir.join("backbone.toml").exists() {
        eprintln!("!! text-minilm is not built (models/build-text.sh): running it was NOT checked");
        return;
    }
    let backbone = Backbone::load(Bundle::open(&dir).unwrap(), &onnxruntime()).unwrap();
    let preparer = Preparer::new(backbone.bundle(), &InputSpec::Text {}).unwrap();
    let run = |text: &str| features(&backbone, &preparer.prepare(text.as_bytes()).unwrap(), 256);
    let (pump, again, lunch) = (
        run("The pump on line four makes a loud noise."),
        run("A loud noise comes from the pump of line 4."),
        run("Lunch is served in the canteen from noon."),
    );
    assert_eq!((pump.len(), pump[0].len()), (3, 256));
    for exit in 0..3 {
        let (near, far) = (cosine(&pump[exit], &again[exit]), cosine(&pump[exit], &lunch[exit]));
        println!("exit {}: same meaning {near:.3}, another {far:.3}", exit + 1);
        assert!(near > far, "exit {}", exit + 1);
    }
    let long = "pump ".repeat(1000);
    assert_eq!(run(&long).len(), 3, "the longest text runs");

    let before = backbone.runs();
    let input = preparer.prepare(b"early").unwrap();
    backbone.begin(&input).next_exit(256, &mut Vec::new()).unwrap();
    let after = backbone.runs();
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [1, 0, 0]);
}
