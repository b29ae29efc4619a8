//! `loadonce evaluate` on made features whose answer is known, for every kind of task.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use loadonce_cli::evaluate::{Options, run};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Uniform numbers between −1 and 1, the same every time (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], metadata: &[(&str, &str)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    std::fs::write(path, serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// Runs the command on a data file, features `z` of two exits and a manifest; returns the figures.
fn evaluate(
    data: &[(&str, Dtype, Vec<usize>, Vec<u8>)],
    classes: Option<&str>,
    z: &[f32],
    width: usize,
    manifest: &str,
    more: &str,
) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("data"), data, &classes.map(|classes| ("classes", classes)).into_iter().collect::<Vec<_>>());
    let hash = blake3::hash(&std::fs::read(at("data")).unwrap()).to_hex().to_string();
    let shape = vec![z.len() / (2 * width), 2, width];
    write(&at("z"), &[("z", Dtype::F32, shape, f32s(z))], &[("of", "made"), ("data", &hash)]);
    std::fs::write(at("task.toml"), manifest).unwrap();
    let line = format!(
        "evaluate --task {} --data {} --features {} --out {} {more}",
        at("task.toml").display(),
        at("data").display(),
        at("z").display(),
        at("out").display()
    );
    run(&Line::parse_from(line.split_whitespace()).options).unwrap();
    serde_json::from_slice(&std::fs::read(at("out")).unwrap()).unwrap()
}

fn number(figures: &Value, pointer: &str) -> f64 {
    figures.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {figures:#}"))
}

/// One window of one point per sample: only the features count.
fn windows(n: usize) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    ("x", Dtype::F32, vec![n, 1, 1], f32s(&vec![0.0; n]))
}

#[test]
fn classes_that_the_second_exit_tells_apart() {
    let (n, mut noise) = (400, Noise(1));
    let y: Vec<u8> = (0..n).map(|i| (i % 2) as u8).collect();
    let test: Vec<u8> = (0..n).map(|i| u8::from(i >= n / 2)).collect();
    let mut z = Vec::new();
    for &class in &y {
        let side = if class == 0 { -1.0 } else { 1.0 };
        z.extend([0.3 * side + 2.0 * noise.next(), noise.next(), side + 0.2 * noise.next(), noise.next()]);
    }
    let data = [windows(n), ("y", Dtype::U8, vec![n], y), ("test", Dtype::U8, vec![n], test)];
    let manifest = r#"
        name = "sides"
        kind = "classify"
        backbone = "made"
        classes = ["left", "right"]
        input = { modality = "window", channels = 1 }
        module = { kind = "moments" }
    "#;
    let figures =
        evaluate(&data, Some(r#"["left","right"]"#), &z, 2, manifest, "--labels 10,all --draws 3 --exits");
    let draws = figures["draws"].as_array().unwrap();
    assert_eq!(draws.len(), 3 * (3 + 1), "three recipes, three draws and all");
    let all = draws.iter().find(|d| d["recipe"] == "moments" && d["labels"] == "all").unwrap();
    assert!(number(all, "/accuracy/0") < 0.75 && number(all, "/accuracy/1") > 0.99, "{all:#}");
    // 100 samples cannot prove that one answer in a hundred differs.
    assert!(number(all, "/early/threshold") > 1.0 && (number(all, "/early/mean_exit") - 2.0).abs() < 1e-9);
    let few = draws.iter().find(|d| d["recipe"] == "probe" && d["labels"] == "10").unwrap();
    assert!(few["samples"] == 20 && number(few, "/accuracy/1") > 0.95, "{few:#}");
}

#[test]
fn values_that_the_second_exit_knows() {
    let (n, mut noise) = (300, Noise(2));
    let test: Vec<u8> = (0..n).map(|i| u8::from(i >= 200)).collect();
    let (mut z, mut future) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let value = noise.next();
        z.extend([noise.next(), noise.next(), value, noise.next()]);
        future.extend([3.0 * value + 0.01 * noise.next(), 1.0 - value]);
    }
    let history: Vec<u8> = (0..60).flat_map(|i| f64::from(i % 3).to_le_bytes()).collect();
    let data = [
        windows(n),
        ("future", Dtype::F32, vec![n, 2], f32s(&future)),
        ("history", Dtype::F64, vec![60], history),
        ("test", Dtype::U8, vec![n], test),
    ];
    let manifest = r#"
        name = "values"
        kind = "forecast"
        backbone = "made"
        input = { modality = "window", channels = 1 }
        module = { kind = "moments" }
        forecast = { horizon = 2, season = 1 }
    "#;
    let figures = evaluate(&data, None, &z, 2, manifest, "--recipes moments,probe");
    assert_eq!(figures["kind"], "forecast");
    // The history moves by 4/3 a step: a forecast without knowledge is off by about 1, one with knowledge by 0.01.
    assert!(number(&figures, "/draws/0/mase/0") > 0.4 && number(&figures, "/draws/0/mase/1") < 0.02);
    assert!(number(&figures, "/draws/0/coverage/1") > 0.7);
    assert!(number(&figures, "/draws/1/mase/1") < 0.2, "{figures:#}");
    // A fifth of the 200 training windows decides; the closed form knows all there is to know, and so it stays.
    let choice = &figures["draws"][1]["choice"];
    assert!(choice["samples"] == 40 && choice["trained"] == false, "{choice:#}");
    assert_eq!(figures["draws"][1]["mase"], figures["draws"][0]["mase"]);
    assert!(figures["draws"][0].get("choice").is_none());
    let forced = manifest.replace(r#"kind = "moments" }"#, r#"kind = "probe", choose = "trained" }"#);
    let forced = evaluate(&data, None, &z, 2, &forced, "--recipes probe");
    assert!(forced["draws"][0].get("choice").is_none());
    assert_ne!(forced["draws"][0]["mase"], figures["draws"][0]["mase"]);
}

#[test]
fn events_far_from_the_normal_samples() {
    let (n, mut noise) = (700, Noise(3));
    // 500 normal to train on, 180 normal and 20 anomalous to test, in four events of five.
    let y: Vec<u8> = (0..n).map(|i| u8::from(i >= 680)).collect();
    let test: Vec<u8> = (0..n).map(|i| u8::from(i >= 500)).collect();
    let events: Vec<u8> =
        (0..n as i32).flat_map(|i| (if i >= 680 { 1 + (i - 680) / 5 } else { 0 }).to_le_bytes()).collect();
    let mut z = Vec::new();
    for (i, &bad) in y.iter().enumerate() {
        // The first sample of every event looks normal.
        let far = if bad == 1 && i % 5 != 0 { 6.0 } else { 0.0 };
        z.extend([noise.next(), noise.next(), noise.next() + far, noise.next()]);
    }
    let data = [
        windows(n),
        ("y", Dtype::U8, vec![n], y),
        ("test", Dtype::U8, vec![n], test),
        ("events", Dtype::I32, vec![n], events),
    ];
    let manifest = r#"
        name = "far"
        kind = "anomaly"
        backbone = "made"
        input = { modality = "window", channels = 1 }
        module = { kind = "moments" }
    "#;
    let classes = Some(r#"["normal","anomalous"]"#);
    let figures = evaluate(&data, classes, &z, 2, manifest, "--recipes moments");
    let draw = &figures["draws"][0];
    assert_eq!((&draw["normals"], &draw["calibrated_on"]), (&250.into(), &250.into()));
    assert!(number(draw, "/exits/0/roc_auc") < 0.7 && number(draw, "/exits/1/roc_auc") > 0.85, "{draw:#}");
    assert!((number(draw, "/exits/1/event_recall") - 1.0).abs() < 1e-9, "every event has a far sample");
    assert!(number(draw, "/exits/1/false_alarms") < 0.04);
    assert!(number(draw, "/exits/1/promised/1") < 0.04);
}
