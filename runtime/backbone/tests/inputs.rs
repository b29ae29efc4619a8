//! Files as people send them become what the Python reference makes of them (`models/loadonce_models/inputs.py`).

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;

use loadonce_backbone::{InputError, InputSpec, PictureSpec, Prepared, Preparer, Range, WindowSpec};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use support::{bundle, distance, patches, prepare, root};

#[derive(Deserialize)]
struct Case {
    file: String,
    spec: InputSpec,
    error: Option<String>,
    tolerance: Option<f32>,
    treatment: Option<Treatment>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Treatment {
    filled: usize,
    clipped: usize,
    constant: usize,
    rate_changed: bool,
}

fn treatment(prepared: &Prepared) -> Treatment {
    let done = prepared.treatment();
    Treatment {
        filled: done.filled,
        clipped: done.clipped,
        constant: done.constant,
        rate_changed: done.rate_changed,
    }
}

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = tensors.tensor(name).unwrap();
    match view.dtype() {
        Dtype::F32 => {
            view.data().as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
        }
        Dtype::I32 => {
            view.data().as_chunks::<4>().0.iter().map(|&b| f64::from(i32::from_le_bytes(b))).collect()
        }
        Dtype::F64 => view.data().as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

fn narrow(numbers: Vec<f64>) -> Vec<f32> {
    numbers.into_iter().map(|v| v as f32).collect()
}

#[test]
fn every_file_becomes_what_the_reference_makes_of_it() {
    let folder = root().join("tests/golden/inputs");
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 40, "{}", cases.len());
    let file = fs::read(root().join("tests/golden/inputs.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for (name, case) in &cases {
        let payload = fs::read(folder.join(&case.file)).unwrap();
        let prepared = match (prepare(&case.spec, &payload), &case.error) {
            (Ok(prepared), None) => prepared,
            (Err(error), Some(code)) => {
                assert_eq!(error.code(), code, "{name}: {error}");
                continue;
            }
            (got, wanted) => panic!("{name}: {:?}, expected {wanted:?}", got.map(|_| "prepared")),
        };
        let tolerance = case.tolerance.unwrap();
        let close = |what: &str, got: Vec<f32>| {
            let off = distance(&got, &narrow(numbers(&tensors, &format!("{name}.{what}"))));
            println!("{name} {what} off by {off:e}");
            assert!(off <= tolerance, "{name}: {what} is off by {off}");
        };
        close("tokens", patches(&prepared));
        let ids = prepared.channels().iter().flat_map(|channel| channel.token_ids().to_vec());
        assert_eq!(
            ids.map(|id| id as f64).collect::<Vec<_>>(),
            numbers(&tensors, &format!("{name}.ids")),
            "{name}"
        );
        let each = |value: fn(&loadonce_backbone::Channel) -> f64| {
            prepared.channels().iter().map(|channel| value(channel) as f32).collect::<Vec<_>>()
        };
        close("mean", each(loadonce_backbone::Channel::mean));
        close("deviation", each(loadonce_backbone::Channel::deviation));
        close("levels", prepared.levels().to_vec());
        assert_eq!(&treatment(&prepared), case.treatment.as_ref().unwrap(), "{name}");
        let preparer = Preparer::new(bundle(), &case.spec).unwrap();
        assert_eq!(
            (preparer.channels(), preparer.levels()),
            (prepared.channels().len(), prepared.levels().len())
        );
    }
}

#[test]
fn the_tail_is_the_end_of_the_repaired_window_at_the_declared_rate() {
    let spec = InputSpec::Window(WindowSpec {
        channels: 2,
        rate: Some(10.0),
        length: Some(5),
        ..WindowSpec::default()
    });
    let preparer = Preparer::new(bundle(), &spec).unwrap();
    let payload = br#"{"rate":10,"channels":[[1,2,null,4,5],[6,7,8,9,10]]}"#;
    assert!(preparer.prepare(payload).unwrap().channels()[0].tail().is_empty(), "not asked for");
    let preparer = preparer.keep_tail(3);
    let prepared = preparer.prepare(payload).unwrap();
    assert_eq!(prepared.channels()[0].tail(), [3.0, 4.0, 5.0]);
    assert_eq!(prepared.channels()[1].tail(), [8.0, 9.0, 10.0]);
    let faster = br#"{"rate":20,"channels":[[1,3,2,4,3,5,4,6,5,7],[0,0,0,0,0,0,0,0,0,0]]}"#;
    assert_eq!(preparer.prepare(faster).unwrap().channels()[0].tail(), [4.0, 5.0, 6.0]);
    let numbers = vec![vec![1.0, 2.0, f64::NAN, 4.0, 5.0], vec![6.0, 7.0, 8.0, 9.0, 10.0]];
    let same = preparer.prepare_numbers(numbers).unwrap();
    assert_eq!(same.channels(), prepared.channels());
    assert_eq!(same.treatment().filled, 1);
}

#[test]
fn a_declaration_the_bundle_does_not_offer_is_refused() {
    let window = |spec: WindowSpec| InputSpec::Window(WindowSpec { channels: 2, ..spec });
    let range =
        |range: Range| window(WindowSpec { range: Some(range), levels: true, ..WindowSpec::default() });
    let cases = [
        (
            window(WindowSpec { points: Some(100), ..WindowSpec::default() }),
            "wrong_backbone_input",
            "points is 100",
        ),
        (
            InputSpec::Picture(PictureSpec { side: Some(24), ..PictureSpec::default() }),
            "wrong_backbone_input",
            "side is 24",
        ),
        (InputSpec::Text {}, "wrong_backbone_input", "it takes no text"),
        (
            window(WindowSpec { levels: true, ..WindowSpec::default() }),
            "bad_input_spec",
            "levels needs range",
        ),
        (window(WindowSpec { rate: Some(0.0), ..WindowSpec::default() }), "bad_input_spec", "rate is 0"),
        (
            window(WindowSpec { units: Some(String::new()), ..WindowSpec::default() }),
            "bad_input_spec",
            "units",
        ),
        (range(Range::All([1.0, 1.0])), "bad_input_spec", "low < high"),
        (range(Range::All([f64::NEG_INFINITY, 1.0])), "bad_input_spec", "low < high"),
        (range(Range::All([-1e308, 1e308])), "bad_input_spec", "low < high"),
        (range(Range::Each(vec![[0.0, 1.0]])), "bad_input_spec", "each of the 2 channels"),
    ];
    for (spec, code, says) in cases {
        let error: InputError = Preparer::new(bundle(), &spec).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_time_is_kept_where_it_is_a_number() {
    let time = |json: &str| {
        let payload = format!(r#"{{"time":{json},"channels":[[1,2]]}}"#);
        prepare(&InputSpec::window(1), payload.as_bytes()).unwrap().time()
    };
    assert_eq!(time("1767225600.5"), Some(1_767_225_600.5));
    assert_eq!((time("0"), time("-3600")), (Some(0.0), Some(-3600.0)));
    for other in ["null", "true", "\"2026-01-01T00:00:00Z\"", "[1,[2],{}]", "{\"s\":{\"t\":1}}"] {
        assert_eq!(time(other), None, "{other}");
    }
}

#[test]
fn other_formats_of_pictures_are_named() {
    for (payload, says) in [
        (&b"GIF89a......"[..], "a GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP"),
        (b"BM\x10\0\0\0", "a BMP"),
        (b"II*\0\x08\0\0\0", "a TIFF"),
        (b"\0\0\0\x18ftypheic", "a HEIF"),
    ] {
        let error = prepare(&InputSpec::picture(), payload).unwrap_err();
        assert_eq!(error.code(), "picture_format");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn levels_stay_in_bounds_whatever_the_range() {
    let spec = |low, high| {
        InputSpec::Window(WindowSpec {
            channels: 1,
            range: Some(Range::All([low, high])),
            levels: true,
            ..WindowSpec::default()
        })
    };
    let levels = |spec: InputSpec, payload: &[u8]| prepare(&spec, payload).unwrap().levels().to_vec();
    assert_eq!(levels(spec(0.0, 1e-300), b"[1e30,2e30]"), [8.0, 8.0]);
    assert_eq!(levels(spec(0.0, 1.0), b"[-100,-100]"), [-8.0, -4.0]);
    // In the middle with a deviation of a sixteenth of the range.
    let alternating = format!("[{}-1,1]", "-1,1,".repeat(127));
    let middle = levels(spec(-8.0, 8.0), alternating.as_bytes());
    assert!(middle[0].abs() < 1e-6 && middle[1].abs() < 0.01, "{middle:?}");
}
