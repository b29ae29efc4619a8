//! Payloads become the builder's patches, or a refusal that says what and where.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use image::ColorType;
use loadonce_backbone::{
    InputError, InputSpec, MAX_CHANNELS, MAX_NUMBERS, MAX_PAYLOAD_BYTES, MAX_PICTURE_SIDE, PictureSpec,
    Range, WindowSpec,
};
use proptest::prelude::*;
use support::{Golden, distance, encode, fixed_window, patches, png, prepare};

fn window(channels: usize) -> InputSpec {
    InputSpec::window(channels)
}

fn picture() -> InputSpec {
    InputSpec::picture()
}

fn raw(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn refusal(spec: &InputSpec, payload: &[u8]) -> InputError {
    match prepare(spec, payload) {
        Ok(prepared) => panic!("accepted as {prepared:?}"),
        Err(error) => error,
    }
}

#[test]
fn the_builders_patches_are_reproduced() {
    let golden = Golden::read("preprocess.safetensors");
    for sample in golden.samples() {
        let prepared = golden.prepared(&sample);
        for (c, channel) in prepared.channels().iter().enumerate() {
            let expected = |what: &str| golden.tensor(&format!("{sample}.{what}{}", c + 1)).numbers;
            let off = distance(channel.patches(), &expected("out"));
            assert!(off <= 1e-6, "{sample} channel {c} is off by {off}");
            let ids: Vec<f32> = channel.token_ids().iter().map(|&id| id as f32).collect();
            assert_eq!(ids, expected("ids"), "{sample} channel {c}");
        }
        let off = distance(prepared.levels(), &golden.tensor(&format!("{sample}.levels")).numbers);
        assert!(off <= 1e-6, "levels of {sample} are off by {off}");
    }
}

#[test]
fn the_manifests_words_are_read_and_unknown_ones_refused() {
    let read = |text: &str| serde_json::from_str::<InputSpec>(text);
    let full = read(r#"{"modality":"window","channels":6,"length":100}"#).unwrap();
    assert_eq!(full, fixed_window(6, 100));
    assert_eq!(read(r#"{"modality":"window","channels":6}"#).unwrap(), window(6));
    assert_eq!(read(r#"{"modality":"picture"}"#).unwrap(), picture());
    assert_eq!(serde_json::to_string(&picture()).unwrap(), r#"{"modality":"picture"}"#);
    assert_eq!(serde_json::to_string(&window(2)).unwrap(), r#"{"modality":"window","channels":2}"#);
    assert!(read(r#"{"modality":"window","channels":6,"colour":true}"#).is_err());
    assert!(read(r#"{"modality":"picture","channels":5}"#).is_err());
    assert!(read(r#"{"modality":"text","channels":5}"#).is_err());
    let whole = r#"{"modality":"window","channels":2,"length":100,"points":128,"rate":10.0,"units":"m/s2","range":[-20.0,20.0],"levels":true}"#;
    assert_eq!(serde_json::to_string(&read(whole).unwrap()).unwrap(), whole);
    let each = r#"{"modality":"window","channels":2,"range":[[0.0,1.0],[-5.0,5.0]]}"#;
    assert_eq!(serde_json::to_string(&read(each).unwrap()).unwrap(), each);
    assert_eq!(read(r#"{"modality":"text"}"#).unwrap(), InputSpec::Text {});
    assert!(read(r#"{"modality":"sound"}"#).is_err());
}

#[test]
fn packed_numbers_may_begin_like_text() {
    // 0.1 is cd cc cc 3d; this one is "ABC>" sixteen times and more, then something that is no UTF-8.
    let mut numbers = vec![f32::from_le_bytes(*b"ABC>"); 40];
    numbers.push(0.1);
    let prepared = prepare(&window(1), &raw(&numbers)).unwrap();
    let spelled = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    assert_eq!(patches(&prepared), patches(&prepare(&window(1), spelled.as_bytes()).unwrap()));
}

#[test]
fn every_spelling_of_a_window_is_the_same_window() {
    let expected = patches(&prepare(&window(2), &raw(&[1.0, 2.5, -3.0, 0.25, 7.0, 7.5])).unwrap());
    for text in [
        r#"{"channels":[[1,2.5,-3],[0.25,7,7.5]]}"#,
        r#" { "time": [9], "channels": [ [1.0, 2.5, -3e0], [0.25, 7, 7.5] ] } "#,
        r#"{"sensor":"温度","channels":[[1,2.5,-3],[0.25,7,7.5]]}"#,
        "[[1,2.5,-3],[0.25,7,7.5]]",
        "\u{feff}[[1,2.5,-3],[0.25,7,7.5]]",
        "[[1,2.5,-3],\n[0.25,7,7.5]]\n",
    ] {
        assert_eq!(patches(&prepare(&window(2), text.as_bytes()).unwrap()), expected, "{text}");
    }
    let one = patches(&prepare(&window(1), &raw(&[1.0, 2.0])).unwrap());
    assert_eq!(patches(&prepare(&window(1), b"[1,2]").unwrap()), one);
    assert_eq!(patches(&prepare(&window(1), b"[[1,2]]").unwrap()), one);
}

#[test]
fn raw_numbers_that_begin_like_text_stay_numbers() {
    for opening in [*b"[1,2", *b"{\"ch", *b"\xff\xd8\xff\xe0"] {
        let mut numbers = vec![0.5f32; 64];
        numbers[0] = f32::from_le_bytes(opening);
        let prepared = prepare(&window(1), &raw(&numbers)).unwrap();
        assert_eq!(prepared.channels().len(), 1);
    }
}

#[test]
fn text_that_is_no_window_never_becomes_numbers() {
    let lines = "12.5,13.25,11.0,9.75\n".repeat(16);
    assert!(lines.len().is_multiple_of(4));
    assert_eq!(refusal(&window(1), lines.as_bytes()).code(), "bad_csv");
}

#[test]
fn a_refused_window_says_what_and_where() {
    let two_of_three = fixed_window(2, 3);
    let many = format!("[{}1]", "1,".repeat(MAX_NUMBERS));
    let wide = format!("[{}[1]]", "[1],".repeat(MAX_CHANNELS));
    let nan = raw(&[1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0]);
    let infinite = raw(&[1.0, f32::INFINITY, 3.0, 4.0, 5.0, 6.0]);
    let cases: [(&InputSpec, &[u8], &str, &str); 24] = [
        (&two_of_three, b"", "empty_payload", "empty"),
        (&two_of_three, &vec![0; MAX_PAYLOAD_BYTES + 1], "payload_too_large", "4194305 bytes"),
        (&two_of_three, b"[[1,2,3]]", "wrong_channels", "1 channels, the task declares 2"),
        (&two_of_three, b"[1,2,3]", "wrong_channels", "1 channels, the task declares 2"),
        (&two_of_three, b"[[1,2,3],[1,2]]", "wrong_length", "channel 1 has 2 numbers, the task declares 3"),
        (&two_of_three, &raw(&[1.0; 8]), "wrong_length", "channel 0 has 4 numbers"),
        (&two_of_three, &raw(&[1.0; 7]), "raw_length", "28 bytes do not divide into 2 channels"),
        (&two_of_three, &nan, "too_many_gaps", "1 of the 3 numbers of channel 1 are missing"),
        (&two_of_three, &infinite, "not_finite", "channel 0 holds no finite number at index 1"),
        (&two_of_three, b"[[1,2,3],[1,null,3]]", "too_many_gaps", "1 of the 3 numbers of channel 1"),
        (
            &two_of_three,
            b"[[1,2,3],[1,2,1e300]]",
            "not_finite",
            "channel 1 holds no finite number at index 2",
        ),
        (&two_of_three, b"[[1,2,3],[1,2,1e999]]", "bad_json", "out of range"),
        (&two_of_three, b"[[1,2,3],[1,NaN,3]]", "bad_json", "line 1 column"),
        (&two_of_three, b"[[1,2,3],[1,2", "bad_json", "EOF"),
        (&two_of_three, b"[[1,2,3],[1,2,3]] x", "bad_json", "trailing"),
        (&two_of_three, b"[[1,2,3],4]", "bad_json", "mixed"),
        (&two_of_three, b"[[1,2,[3]],[1,2,3]]", "bad_json", "nested"),
        (&two_of_three, b"[[1,\"2\",3],[1,2,3]]", "bad_json", "expected a number"),
        (&two_of_three, b"{\"channel\":[[1,2,3],[1,2,3]]}", "bad_json", "\"channels\" is missing"),
        (&two_of_three, b"{\"channels\":[],\"channels\":[]}", "bad_json", "stands twice"),
        (&window(1), b"[]", "empty_channel", "channel 0 is empty"),
        (&window(2), b"[[1],[]]", "empty_channel", "channel 1 is empty"),
        (&window(1), many.as_bytes(), "too_many_numbers", "1048576 numbers"),
        (&window(1), wide.as_bytes(), "too_many_numbers", "64 channels"),
    ];
    for (spec, payload, code, says) in cases {
        let error = refusal(spec, payload);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn the_widest_and_the_longest_window_are_read() {
    let numbers = raw(&vec![1.5; MAX_NUMBERS]);
    assert_eq!(prepare(&window(MAX_CHANNELS), &numbers).unwrap().channels().len(), MAX_CHANNELS);
    assert_eq!(prepare(&window(1), &numbers).unwrap().channels().len(), 1);
}

#[test]
fn a_declaration_nothing_can_meet_is_refused() {
    for spec in [
        window(0),
        window(MAX_CHANNELS + 1),
        fixed_window(1, 0),
        fixed_window(2, MAX_NUMBERS / 2 + 1),
        fixed_window(1, usize::MAX),
    ] {
        assert_eq!(refusal(&spec, b"[1]").code(), "bad_input_spec");
    }
}

/// A colour ramp: red, green, blue of every pixel.
fn ramp(width: u32, height: u32) -> Vec<u8> {
    (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [(7 * x) as u8, (5 * y) as u8, (3 * (x + y)) as u8]))
        .collect()
}

#[test]
fn depth_and_alpha_do_not_change_a_picture() {
    let (width, height) = (40, 36);
    let rgb = ramp(width, height);
    let wide = |samples: &[u8]| -> Vec<u8> {
        samples.iter().flat_map(|&v| (257 * u16::from(v)).to_ne_bytes()).collect()
    };
    let with_alpha = |samples: &[u8], colors: usize| -> Vec<u8> {
        samples.chunks(colors).enumerate().flat_map(|(at, pixel)| [pixel, &[at as u8]].concat()).collect()
    };
    let read =
        |samples: &[u8], color| patches(&prepare(&picture(), &png(samples, width, height, color)).unwrap());

    let expected = read(&rgb, ColorType::Rgb8);
    assert_eq!(read(&with_alpha(&rgb, 3), ColorType::Rgba8), expected);
    assert!(distance(&read(&wide(&rgb), ColorType::Rgb16), &expected) <= 1e-6);
    assert!(distance(&read(&wide(&with_alpha(&rgb, 3)), ColorType::Rgba16), &expected) <= 1e-6);

    let grey: Vec<u8> = rgb.chunks(3).map(|pixel| pixel[1]).collect();
    let expected = read(&grey, ColorType::L8);
    assert_eq!(read(&with_alpha(&grey, 1), ColorType::La8), expected);
    assert!(distance(&read(&wide(&grey), ColorType::L16), &expected) <= 1e-6);
    // Equal colours are that grey.
    let tripled: Vec<u8> = grey.iter().flat_map(|&v| [v; 3]).collect();
    assert!(distance(&read(&tripled, ColorType::Rgb8), &expected) <= 1e-6);
}

#[test]
fn a_jpeg_is_nearly_its_png() {
    let samples: Vec<u8> = (0..64 * 64u32).map(|at| (2 * (at % 64) + at / 64) as u8).collect();
    let jpeg = encode(&samples, 64, 64, ColorType::L8, image::ImageFormat::Jpeg);
    let from_jpeg = patches(&prepare(&picture(), &jpeg).unwrap());
    let from_png = patches(&prepare(&picture(), &png(&samples, 64, 64, ColorType::L8)).unwrap());
    assert!(distance(&from_jpeg, &from_png) < 0.1);
    let padded = [jpeg.as_slice(), &[0; 100]].concat();
    assert_eq!(patches(&prepare(&picture(), &padded).unwrap()), from_jpeg, "cameras pad their files");
}

#[test]
fn a_cut_picture_says_that_it_is_truncated() {
    let samples = ramp(64, 64);
    for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg] {
        let whole = encode(&samples, 64, 64, ColorType::Rgb8, format);
        for cut in (8..whole.len() * 9 / 10).step_by(whole.len() / 40 + 1) {
            let error = refusal(&picture(), &whole[..cut]);
            assert_eq!(
                error.code(),
                "picture_truncated",
                "{format:?} cut at {cut} of {}: {error}",
                whole.len()
            );
            assert!(error.to_string().contains(&format!("truncated after {cut} bytes")), "{error}");
        }
    }
}

#[test]
fn a_damaged_picture_is_refused() {
    let mut file = png(&ramp(64, 64), 64, 64, ColorType::Rgb8);
    let middle = file.len() / 2;
    file[middle] ^= 0xff;
    assert_eq!(refusal(&picture(), &file).code(), "picture_damaged");
}

/// CRC-32 of a PNG chunk (PNG specification, annex D).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[test]
fn a_picture_past_the_bounds_is_refused_before_it_is_decoded() {
    let sides = [(MAX_PICTURE_SIDE + 1, 1), (1, MAX_PICTURE_SIDE + 1)];
    for (width, height) in sides {
        let file = png(&vec![0; (width * height) as usize], width, height, ColorType::L8);
        assert_eq!(refusal(&picture(), &file).code(), "picture_too_large");
    }
    // The largest side is read.
    let file = png(&vec![9; MAX_PICTURE_SIDE as usize], MAX_PICTURE_SIDE, 1, ColorType::L8);
    assert_eq!(prepare(&picture(), &file).unwrap().channels()[0].tokens(), 64);
    // A bomb: a few bytes that claim 4 billion pixels, and one that is wide in depth only.
    for (width, height, depth) in [(65_535u32, 65_535u32, 8u8), (4096, 4096, 16), (8192, 8192, 8)] {
        let mut file = png(&[1, 2, 3], 1, 1, ColorType::Rgb8);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        file[24] = depth;
        let sum = crc(&file[12..29]);
        file[29..33].copy_from_slice(&sum.to_be_bytes());
        let error = refusal(&picture(), &file);
        assert_eq!(error.code(), "picture_too_large", "{error}");
        assert!(error.to_string().contains(&format!("{width}x{height}")), "{error}");
    }
}

#[test]
fn the_wrong_kind_of_payload_is_named() {
    let file = png(&ramp(30, 30), 30, 30, ColorType::Rgb8);
    let jpeg = encode(&ramp(30, 30), 30, 30, ColorType::Rgb8, image::ImageFormat::Jpeg);
    for payload in [&file, &jpeg] {
        let error = refusal(&window(1), payload);
        assert_eq!(error.code(), "wrong_modality");
        assert!(error.to_string().contains("a picture, the task declares a window"), "{error}");
    }
    assert_eq!(refusal(&picture(), b"[[1,2]]").code(), "wrong_modality");
}

#[test]
fn the_source_identifies_the_payload() {
    let prepared = prepare(&window(1), b"[1,2]").unwrap();
    assert_eq!(prepared.source(), *blake3::hash(b"[1,2]").as_bytes());
    assert_ne!(prepare(&window(1), b"[1,3]").unwrap().source(), prepared.source());
}

/// Whatever is accepted has the declared shape and finite numbers.
fn holds(spec: &InputSpec, payload: &[u8]) {
    match prepare(spec, payload) {
        Ok(prepared) => {
            assert_eq!((prepared.modality(), prepared.channels().len()), (spec.modality(), spec.channels()));
            assert!(patches(&prepared).iter().all(|v| v.is_finite()));
        }
        Err(error) => assert!(!error.code().is_empty() && !error.to_string().is_empty()),
    }
}

fn specs() -> impl Strategy<Value = InputSpec> {
    let colour = PictureSpec { side: Some(48), colour: true, levels: true };
    let rated = |channels: usize, length: Option<usize>, levels: bool| {
        InputSpec::Window(WindowSpec {
            channels,
            length,
            points: levels.then_some(64),
            rate: levels.then_some(10.0),
            range: levels.then_some(Range::All([-1.0, 1.0])),
            levels,
            ..WindowSpec::default()
        })
    };
    prop_oneof![
        Just(picture()),
        Just(InputSpec::Picture(colour)),
        (0usize..70, proptest::option::of(0usize..40), any::<bool>())
            .prop_map(move |(channels, length, levels)| rated(channels, length, levels)),
        (1usize..4, any::<bool>()).prop_map(move |(channels, levels)| rated(channels, None, levels)),
    ]
}

/// Valid payloads of every kind, to be damaged.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(png(&ramp(9, 7), 9, 7, ColorType::Rgb8)),
        Just(encode(&ramp(9, 7), 9, 7, ColorType::Rgb8, image::ImageFormat::Jpeg)),
        Just(br#"{"channels":[[1,2.5,-3],[0.25,7,7.5]]}"#.to_vec()),
        Just(b"[[1,2,3],[4,5,6]]".to_vec()),
        Just(br#"{"rate":20,"units":"g","channels":[[1,null,3,4,5],[4,5,6,7,8]]}"#.to_vec()),
        Just(b"a;b\n1,5;2\n;3\n4;5\n6;7\n8;9\n10;11\n".to_vec()),
        Just(b"1,2,nan,4,5,6,7,8,9,10".to_vec()),
        Just(raw(&[1.0, 2.0, 3.0, 4.0])),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(spec in specs(), payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        holds(&spec, &payload);
    }

    #[test]
    fn damaged_payloads_never_panic(
        spec in specs(),
        mut payload in valid(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
    ) {
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        holds(&spec, &payload[..=keep.index(payload.len())]);
        holds(&spec, &payload);
    }

    #[test]
    fn json_and_raw_agree(numbers in proptest::collection::vec(-1e6f32..1e6, 1..600), channels in 1usize..5) {
        let length = numbers.len();
        let window: Vec<_> = (0..channels).map(|_| numbers.clone()).collect();
        let spec = fixed_window(channels, length);
        // JSON carries the f32 exactly when it is written as the f64 it equals.
        let wide: Vec<Vec<f64>> = window.iter().map(|c| c.iter().map(|&v| f64::from(v)).collect()).collect();
        let from_json = prepare(&spec, &serde_json::to_vec(&wide).unwrap()).unwrap();
        let from_raw = prepare(&spec, &raw(&window.concat())).unwrap();
        prop_assert_eq!(patches(&from_json), patches(&from_raw));
    }
}

#[test]
fn a_progressive_jpeg_is_held_to_less_because_it_takes_more() {
    let mut file = std::fs::read(support::root().join("tests/golden/inputs/progressive.jpg")).unwrap();
    assert!(prepare(&picture(), &file).is_ok());
    // Its frame header, given a size of 24 MiB in three colours.
    let header = file.windows(2).position(|pair| pair == [0xff, 0xc2]).unwrap();
    file[header + 5..header + 9].copy_from_slice(&[0x08, 0x00, 0x10, 0x00]);
    let error = refusal(&picture(), &file);
    assert_eq!(error.code(), "picture_too_large", "{error}");
    assert!(error.to_string().contains("4096x2048") && error.to_string().contains("20 MiB"), "{error}");
    // The same size in a sequential file is within the bounds; what is wrong with this one is its pixels.
    file[header + 1] = 0xc0;
    let other = prepare(&picture(), &file).err().map(|error| error.code());
    assert_ne!(other, Some("picture_too_large"));
}
