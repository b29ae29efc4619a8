//! The features of the committed bundle on ONNX Runtime.
#![cfg(feature = "ort")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use loadonce_backbone::{Channel, EngineError, InputSpec, PictureSpec, Preparer};
use support::{Golden, cosine, distance, features, load, onnxruntime, root};

#[test]
fn the_builders_features_are_reproduced() {
    let golden = Golden::read("features.safetensors");
    let backbone = load(&onnxruntime());
    for sample in golden.samples() {
        let input = golden.prepared(&sample);
        let exits = features(&backbone, &input, 128);
        assert_eq!(exits.len(), 3);
        for (index, got) in exits.iter().enumerate() {
            let expected = golden.tensor(&format!("{sample}.z{}", index + 1)).numbers;
            let (off, alike) = (distance(got, &expected), cosine(got, &expected));
            println!("{sample} exit {} off {off:.2e} cosine {alike:.7}", index + 1);
            // The integers are the same everywhere, but every processor's kernels sum floats in an order of their
            // own, and an activation that falls on the other side of a rounding edge moves by a whole step. That
            // happens more often between instruction sets, most of all for a window of nothing but zeros (window_5).
            let (least, most) = if cfg!(target_arch = "x86_64") { (0.9999, 0.05) } else { (0.999, 0.2) };
            assert!(alike >= least, "{sample} exit {}: cosine {alike}", index + 1);
            assert!(off <= most, "{sample} exit {} is off by {off}", index + 1);
        }
    }
}

#[test]
fn an_early_exit_does_not_run_later_segments() {
    let golden = Golden::read("features.safetensors");
    let backbone = load(&onnxruntime());
    let input = golden.prepared("window_2");
    assert_eq!(input.channels().len(), 3);
    let mut out = vec![1.0; 7];

    let mut pass = backbone.begin(&input);
    assert_eq!((pass.exits_done(), backbone.runs()), (0, vec![0, 0, 0]), "beginning runs nothing");
    assert!(pass.next_exit(85, &mut out).unwrap());
    assert_eq!((pass.exits_done(), out.len()), (1, 3 * 85));
    drop(pass);
    assert_eq!(backbone.runs(), [3, 0, 0], "one run per channel, of the first segment only");

    let mut pass = backbone.begin(&input);
    for exit in 1..=3 {
        assert!(pass.next_exit(1, &mut out).unwrap());
        assert_eq!((pass.exits_done(), out.len()), (exit, 3));
    }
    assert!(!pass.next_exit(1, &mut out).unwrap());
    assert!(out.is_empty());
    assert_eq!(backbone.runs(), [6, 3, 3]);
}

#[test]
fn a_colour_picture_runs_as_three_channels_of_two_sizes() {
    let backbone = load(&onnxruntime());
    let spec = InputSpec::Picture(PictureSpec { colour: true, ..PictureSpec::default() });
    let preparer = Preparer::new(backbone.bundle(), &spec).unwrap();
    let file = |name: &str| std::fs::read(root().join("tests/golden/inputs").join(name)).unwrap();
    let colour = preparer.prepare(&file("colour.png")).unwrap();
    let tokens: Vec<usize> = colour.channels().iter().map(Channel::tokens).collect();
    assert_eq!((tokens[1], tokens[2]), (tokens[0] / 4, tokens[0] / 4));
    let grey = preparer.prepare(&file("grey.png")).unwrap();
    let per_channel = backbone.bundle().features_per_channel(3, 256);
    let (colour, grey) = (features(&backbone, &colour, per_channel), features(&backbone, &grey, per_channel));
    assert_eq!(backbone.runs(), [6, 6, 6]);
    for (colour, grey) in colour.iter().zip(&grey) {
        let channel = |z: &[f32], at: usize| z[at * per_channel..(at + 1) * per_channel].to_vec();
        assert_eq!(channel(grey, 1), channel(grey, 2), "chroma of grey is zero twice");
        assert!(distance(&channel(colour, 1), &channel(grey, 1)) > 0.1);
        assert!(distance(&channel(colour, 1), &channel(colour, 2)) > 0.1);
    }
}

#[test]
fn fewer_directions_are_the_first_of_more() {
    let golden = Golden::read("features.safetensors");
    let backbone = load(&onnxruntime());
    let input = golden.prepared("window_3");
    let (all, few) = (features(&backbone, &input, 128), features(&backbone, &input, 5));
    for (all, few) in all.iter().zip(&few) {
        let first: Vec<f32> = all.chunks(128).flat_map(|channel| channel[..5].to_vec()).collect();
        assert_eq!(&first, few);
    }
}

#[test]
fn an_impossible_number_of_directions_is_refused_and_runs_nothing() {
    let backbone = load(&onnxruntime());
    let input = Preparer::new(backbone.bundle(), &InputSpec::window(1)).unwrap().prepare(b"[1,2,3]").unwrap();
    let mut pass = backbone.begin(&input);
    for asked in [0, 129, usize::MAX] {
        let mut out = vec![1.0];
        let error = pass.next_exit(asked, &mut out).unwrap_err();
        assert!(matches!(error, EngineError::Directions { directions: 128, .. }), "{error}");
        assert!(out.is_empty());
    }
    assert_eq!((pass.exits_done(), backbone.runs()), (0, vec![0, 0, 0]));
    assert!(pass.next_exit(128, &mut Vec::new()).unwrap());
}

#[test]
fn threads_share_one_backbone_and_get_the_same_features() {
    let golden = Golden::read("features.safetensors");
    let backbone = Arc::new(load(&onnxruntime()));
    let inputs = Arc::new(golden.samples().iter().map(|sample| golden.prepared(sample)).collect::<Vec<_>>());
    let alone: Vec<_> = inputs.iter().map(|input| features(&backbone, input, 4)).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (backbone, inputs) = (Arc::clone(&backbone), Arc::clone(&inputs));
            std::thread::spawn(move || {
                inputs.iter().map(|input| features(&backbone, input, 4)).collect::<Vec<_>>()
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), alone);
    }
}
