use proptest::prelude::*;

use super::*;

fn module(recipe: Recipe, role: Role, seed: u64) -> ModuleFile {
    let shape = Shape { recipe, head: Head::Classify, exits: 3, features: 5, outputs: 4 };
    let mut random = crate::Random::new(seed);
    ModuleFile {
        task: "digits".to_owned(),
        shape,
        classes: ["zero", "one \"quoted\"", "zwei", "三"].map(str::to_owned).to_vec(),
        backbone: "ab".repeat(32),
        version: 7,
        base: "01".repeat(32),
        role,
        offset: if role == Role::Personal { (0..4).map(|_| random.normal()).collect() } else { Vec::new() },
        params: (0..shape.parameters()).map(|_| random.normal()).collect(),
    }
}

fn recipes() -> impl Strategy<Value = Recipe> {
    prop_oneof![
        Just(Recipe::Moments),
        Just(Recipe::Probe),
        (1usize..5).prop_map(|rank| Recipe::Ladder { rank }),
    ]
}

proptest! {
    #[test]
    fn round_trip(recipe in recipes(), personal in any::<bool>(), seed in any::<u64>(), version in any::<u64>()) {
        let role = if personal { Role::Personal } else { Role::Shared };
        let module = ModuleFile { version, ..module(recipe, role, seed) };
        let bytes = module.encode(Dtype::F32).expect("valid");
        prop_assert_eq!(&ModuleFile::decode(&bytes).expect("own bytes"), &module);
        let half = module.encode(Dtype::F16).expect("valid");
        let rounded = ModuleFile::decode(&half).expect("own bytes");
        prop_assert!(half.len() < bytes.len());
        for (a, b) in rounded.params.iter().zip(&module.params) {
            prop_assert!((a - b).abs() <= b.abs() / 1024.0 + 1e-7);
        }
        // What is read writes the same bytes again, so a version has one spelling.
        prop_assert_eq!(rounded.encode(Dtype::F16).expect("valid"), half);
    }

    #[test]
    fn prior_keeps_every_bit(bits in proptest::collection::vec(any::<u32>(), 4)) {
        let prior: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let module = ModuleFile { offset: prior, ..module(Recipe::Probe, Role::Personal, 0) };
        match module.encode(Dtype::F32) {
            Ok(bytes) => {
                let read = ModuleFile::decode(&bytes).expect("own bytes").offset;
                prop_assert!(read.iter().zip(&module.offset).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            Err(error) => {
                prop_assert!(module.offset.iter().any(|p| !p.is_finite()), "{}", error);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(ModuleFile::decode(&bytes).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = module(Recipe::Ladder { rank: 2 }, Role::Personal, 3).encode(Dtype::F16).expect("valid");
        let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
        bytes[at] = to;
        if let Ok(read) = ModuleFile::decode(&bytes) {
            prop_assert!(read.check().is_ok());
        }
        prop_assert!(ModuleFile::decode(&bytes[..cut]).is_err());
    }
}

/// The file of `module` with one piece of its header text replaced; lengths stay equal.
fn patched(module: &ModuleFile, from: &str, to: &str) -> Result<ModuleFile, FileError> {
    assert_eq!(from.len(), to.len());
    let bytes = module.encode(Dtype::F32).expect("valid");
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the text is there");
    let mut bytes = bytes;
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    ModuleFile::decode(&bytes)
}

#[test]
fn every_deviation_has_its_own_error() {
    let good = module(Recipe::Ladder { rank: 2 }, Role::Shared, 1);
    assert_eq!(patched(&good, "\"version\":\"7\"", "\"version\":\"7\"").as_ref(), Ok(&good));
    let metadata = |result: Result<ModuleFile, FileError>, want: &str| match result {
        Err(FileError::Metadata { key, .. }) => assert_eq!(key, want),
        other => panic!("{want}: {other:?}"),
    };
    assert!(
        matches!(patched(&good, "module/1", "module/2"), Err(FileError::Format(f)) if f == "loadonce-module/2")
    );
    metadata(patched(&good, "classify", "forecast"), "horizon");
    metadata(patched(&good, "classify", "classifi"), "kind");
    metadata(patched(&good, "\"role\":\"shared\"", "\"role\":\"sharet\""), "role");
    metadata(patched(&good, "\"version\":\"7\"", "\"version\":\"x\""), "version");
    metadata(patched(&good, "\"base\":\"0", "\"base\":\"G"), "base");
    metadata(patched(&good, "abab", "ABAB"), "backbone");
    metadata(patched(&good, "\"task\"", "\"tusk\""), "task");
    metadata(patched(&good, "\"recipe\":\"ladder\"", "\"recipe\":\"lodder\""), "recipe");
    metadata(patched(&good, "\"recipe\":\"ladder\"", "\"recipe\":\"probe\" "), "rank");
    metadata(patched(&good, "zwei", "zero"), "classes");
    assert!(matches!(patched(&good, "\"rank\":\"2\"", "\"rank\":\"3\""), Err(FileError::Tensor { .. })));
    assert!(matches!(patched(&good, "\"exits\":\"3\"", "\"exits\":\"4\""), Err(FileError::Tensor { .. })));
    assert!(matches!(patched(&good, "\"exits\":\"3\"", "\"exits\":\"2\""), Err(FileError::Tensor { .. })));
    assert!(matches!(patched(&good, "\"exits\":\"3\"", "\"exits\":\"9\""), Err(FileError::Shape(_))));
    assert!(matches!(patched(&good, "exit_2.gate", "exit_2.gato"), Err(FileError::Tensor { .. })));
    assert!(matches!(patched(&good, "F32", "I32"), Err(FileError::Tensor { .. })));
    assert!(matches!(ModuleFile::decode(&vec![0; MAX_FILE_BYTES + 1]), Err(FileError::TooLong(_))));
    assert!(matches!(ModuleFile::decode(b"not a module"), Err(FileError::Container(_))));
}

#[test]
fn an_unknown_metadata_key_is_refused() {
    let good = module(Recipe::Probe, Role::Shared, 1);
    let bytes = good.encode(Dtype::F32).expect("valid");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("text");
    let header = header.replacen("\"base\"", "\"a\":\"b\",\"base\"", 1);
    let mut padded = header.trim_end().to_owned();
    while !padded.len().is_multiple_of(8) {
        padded.push(' ');
    }
    let mut changed = (padded.len() as u64).to_le_bytes().to_vec();
    changed.extend_from_slice(padded.as_bytes());
    changed.extend_from_slice(&bytes[8 + length..]);
    assert!(matches!(ModuleFile::decode(&changed), Err(FileError::Metadata { key, .. }) if key == "(any)"));
}

#[test]
fn what_is_not_finite_is_neither_written_nor_read() {
    let mut bad = module(Recipe::Probe, Role::Shared, 1);
    bad.params[17] = 70_000.0;
    assert!(bad.encode(Dtype::F32).is_ok());
    assert!(matches!(bad.encode(Dtype::F16), Err(FileError::NotFinite(_))));
    bad.params[17] = f32::NAN;
    assert!(matches!(bad.encode(Dtype::F32), Err(FileError::NotFinite(_))));
    let good = module(Recipe::Probe, Role::Shared, 1);
    let mut bytes = good.encode(Dtype::F32).expect("valid");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(ModuleFile::decode(&bytes), Err(FileError::NotFinite("exit_3.bias".to_owned())));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let good = module(Recipe::Probe, Role::Personal, 1);
    let long = "x".repeat(MAX_TASK + 1);
    let cases = [
        ModuleFile { task: String::new(), ..good.clone() },
        ModuleFile { task: long, ..good.clone() },
        ModuleFile { classes: good.classes[..3].to_vec(), ..good.clone() },
        ModuleFile { backbone: "ab".to_owned(), ..good.clone() },
        ModuleFile { offset: Vec::new(), ..good.clone() },
        ModuleFile { role: Role::Shared, ..good.clone() },
        ModuleFile { offset: vec![f32::NEG_INFINITY; 4], ..good.clone() },
        ModuleFile { params: vec![0.0; 3], ..good },
    ];
    for case in cases {
        assert!(case.encode(Dtype::F32).is_err(), "{case:?}");
    }
}

#[test]
fn the_longest_module_fits_the_bound() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 8, features: 256, outputs: 256 };
    let module = ModuleFile {
        classes: (0..256).map(|i| format!("{i:0>128}")).collect(),
        shape,
        params: shape.initial(0),
        ..module(Recipe::Probe, Role::Shared, 0)
    };
    let bytes = module.encode(Dtype::F32).expect("fits");
    assert_eq!(ModuleFile::decode(&bytes).as_ref(), Ok(&module));
}

/// A module of the other kinds.
fn other(head: Head, recipe: Recipe, role: Role) -> ModuleFile {
    let outputs = match head {
        Head::Forecast { horizon, quantiles } => usize::from(horizon) * quantiles.len(),
        _ => 5,
    };
    let shape = Shape { recipe, head, exits: 3, features: 5, outputs };
    let mut random = crate::Random::new(4);
    let mut draw = |n| (0..n).map(|_| random.normal()).collect::<Vec<f32>>();
    let offset = if role == Role::Personal { draw(shape.offset_len()) } else { Vec::new() };
    let params = draw(shape.parameters());
    ModuleFile { shape, classes: Vec::new(), offset, params, ..module(Recipe::Probe, role, 0) }
}

#[test]
fn every_kind_makes_the_round_trip() {
    let forecast = Head::Forecast { horizon: 4, quantiles: Quantiles::USUAL };
    let ladder = Recipe::Ladder { rank: 2 };
    for (head, recipe) in [
        (forecast, Recipe::Moments),
        (forecast, ladder),
        (Head::Anomaly, Recipe::Moments),
        (Head::Anomaly, Recipe::Probe),
    ] {
        for role in [Role::Shared, Role::Personal] {
            let module = other(head, recipe, role);
            let bytes = module.encode(Dtype::F32).expect("valid");
            assert_eq!(ModuleFile::decode(&bytes).as_ref(), Ok(&module));
            let named = ModuleFile { classes: vec!["a".to_owned()], ..module.clone() };
            assert!(named.encode(Dtype::F32).is_err(), "only classify has classes");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let shifted = role == Role::Personal && head == forecast;
            assert_eq!(text.contains("\"shift\""), shifted, "{head:?}");
        }
    }
}

#[test]
fn a_forecast_with_impossible_levels_is_refused() {
    let head = Head::Forecast { horizon: 4, quantiles: Quantiles::USUAL };
    let good = other(head, Recipe::Probe, Role::Shared);
    for (from, to, key) in [("[100,500,900]", "[100,600,900]", "quantiles"), ("\"4\"", "\"x\"", "horizon")] {
        assert!(matches!(patched(&good, from, to), Err(FileError::Metadata { key: k, .. }) if k == key));
    }
    assert!(matches!(patched(&good, "\"horizon\":\"4\"", "\"horizon\":\"5\""), Err(FileError::Shape(_))));
}
