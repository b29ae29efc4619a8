use super::*;
use loadonce_module::{ForecastLoss, Quantiles, Regressors};
use proptest::prelude::*;

const SHORT: &str = r#"
    name = "digits"
    kind = "classify"
    backbone = "sense-tiny"
    classes = ["0", "1", "2"]
    input = { modality = "picture" }
    module = { kind = "ladder", rank = 16 }
"#;
const DEMAND: &str = r#"
    name = "demand"
    kind = "forecast"
    backbone = "sense-tiny"
    input = { modality = "window", channels = 2, length = 168 }
    module = { kind = "probe" }
    forecast = { horizon = 24, season = 24, step_s = 3600, calendar = ["week"] }
"#;
const SPINDLE: &str = r#"
    name = "spindle"
    kind = "anomaly"
    backbone = "sense-tiny"
    input = { modality = "window", channels = 3 }
    module = { kind = "moments" }
"#;

fn refused(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    TaskManifest::from_toml(&text.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn the_short_manifest_is_enough_and_travels_as_json() {
    for text in [SHORT, DEMAND, SPINDLE] {
        let manifest = TaskManifest::from_toml(text).unwrap();
        assert_eq!(manifest.module.features, 64);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<TaskManifest>(&json).unwrap(), manifest);
    }
    let shape = TaskManifest::from_toml(SHORT).unwrap().shape(3, 128).unwrap();
    assert_eq!((shape.features, shape.outputs, shape.head), (64, 3, Head::Classify));
}

#[test]
fn the_window_of_stale_bases_follows_the_mode_unless_it_is_said() {
    let rounds = |table: &str| {
        let text = SHORT.replace("module =", &format!("rounds = {{ {table} }}\nmodule ="));
        TaskManifest::from_toml(&text).unwrap().rounds
    };
    assert_eq!((rounds("").mode, rounds("").staleness()), (RoundMode::Sync, 1));
    assert_eq!(rounds(r#"mode = "buffered""#).staleness(), 16);
    assert_eq!(rounds(r#"mode = "buffered", staleness = 3"#).staleness(), 3);
    assert_eq!(rounds("staleness = 0").staleness(), 0);
    let json = serde_json::to_string(&rounds("")).unwrap();
    assert!(!json.contains("mode") && !json.contains("staleness"), "short manifests stay short: {json}");
    let buffered = rounds(r#"mode = "buffered", staleness = 0"#);
    let json = serde_json::to_string(&buffered).unwrap();
    assert_eq!(serde_json::from_str::<RoundPolicy>(&json).unwrap(), buffered);
}

#[test]
fn mistakes_are_named() {
    for (from, to, word) in [
        (r#""digits""#, r#""dig its""#, "dig its"),
        (r#""2"]"#, r#""1"]"#, "classes"),
        ("rank = 16", "rank = 16, features = 1000", "module.features"),
        ("rank = 16", "rank = 16, shrinkage = { fixed = 0.0 }", "module.shrinkage"),
        ("rank = 16", "rank = 16, penalty = { fixed = -1.0 }", "module.penalty"),
        ("rank = 16", "rank = 16, choose = \"best\"", "best"),
        (r#"kind = "ladder""#, r#"kind = "moments", choose = "trained""#, "module.choose"),
        (r#""2"]"#, r#""\t"]"#, "control"),
        ("module =", "personal = { folds = 1 }\nmodule =", "folds"),
        ("module =", "rounds = { mode = \"async\" }\nmodule =", "async"),
        ("module =", "rounds = { staleness = 257 }\nmodule =", "rounds.staleness"),
        ("module =", "training = { batch = 0 }\nmodule =", "batch"),
        ("module =", "exits = { tolerance = 0.0 }\nmodule =", "exits.tolerance"),
        (r#"kind = "classify""#, r#"kind = "translate""#, "translate"),
        (r#"modality = "picture""#, r#"modality = "window", channels = 99"#, "input.channels"),
        (r#"modality = "picture""#, r#"modality = "picture", side = 40"#, "input.side"),
        (r#"modality = "picture""#, r#"modality = "picture", color = true"#, "color"),
        ("backbone", "bakcbone", "bakcbone"),
        ("module =", "classify = { weights = [1.0] }\nmodule =", "classify.weights"),
        ("module =", "classify = { weights = [1.0, 1.0, 0.0] }\nmodule =", "classify.weights"),
        ("module =", "classify = { top = 4 }\nmodule =", "classify.top"),
        ("module =", "classify = { reject = { risk = 1.0 } }\nmodule =", "classify.reject"),
        ("module =", "forecast = { horizon = 3 }\nmodule =", "forecast"),
        ("module =", "anomaly = { learn = 3 }\nmodule =", "anomaly"),
    ] {
        let error = refused(SHORT, from, to);
        assert!(error.contains(word), "{error}");
    }
    let unknown = SHORT.replace(r#""2"]"#, r#""unknown"]"#);
    assert!(TaskManifest::from_toml(&unknown).is_ok());
    let error = refused(&unknown, "module =", "classify = { reject = { confidence = 0.5 } }\nmodule =");
    assert!(error.contains("unknown"), "{error}");
}

#[test]
fn mistakes_of_the_other_kinds_are_named() {
    for (from, to, word) in [
        ("horizon = 24,", "horizon = 0,", "forecast.horizon"),
        ("horizon = 24,", "horizon = 24, quantiles = [0.1, 0.9],", "0.5"),
        ("horizon = 24,", "horizon = 24, target = 2,", "forecast.target"),
        ("horizon = 24,", "horizon = 24, every = 0,", "forecast.every"),
        ("horizon = 24,", "horizon = 24, lags = [169],", "forecast.lags"),
        ("step_s = 3600, ", "", "forecast.step_s"),
        (r#"["week"]"#, r#"["fortnight"]"#, "calendar"),
        (r#"["week"]"#, r#"[{ period = "day", harmonics = 9 }]"#, "harmonics"),
        (r#"kind = "probe""#, r#"kind = "probe", features = 29"#, "module.features"),
        ("forecast =", "classes = [\"a\", \"b\"]\nforecast =", "classes"),
        (r#"modality = "window", channels = 2, length = 168"#, r#"modality = "picture""#, "windows"),
        ("channels = 2,", "channels = 2, levels = true,", "input.range"),
        ("channels = 2,", "channels = 2, range = [1.0, 1.0],", "input.range"),
        ("channels = 2,", "channels = 2, range = [[0.0, 1.0]],", "input.range"),
        ("channels = 2,", "channels = 2, rate = -1.0,", "input.rate"),
        ("channels = 2,", "channels = 2, points = 100,", "input.points"),
    ] {
        let error = refused(DEMAND, from, to);
        assert!(error.contains(word), "{word}: {error}");
    }
    let lines: Vec<&str> = DEMAND.lines().filter(|line| !line.contains("forecast =")).collect();
    assert!(TaskManifest::from_toml(&lines.join("\n")).unwrap_err().to_string().contains("forecast.horizon"));
    for (from, to, word) in [
        (r#"kind = "moments""#, r#"kind = "ladder""#, "ladder"),
        ("module =", "anomaly = { false_alarms = 0.0 }\nmodule =", "anomaly.false_alarms"),
        ("module =", "classify = { top = 2 }\nmodule =", "classify"),
    ] {
        let error = refused(SPINDLE, from, to);
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn extras_are_counted_and_named() {
    let demand = TaskManifest::from_toml(DEMAND).unwrap();
    // Lags 1 to 25, two harmonics of a week; the rest is shared by two channels.
    assert_eq!((demand.extras(), demand.features_per_channel(128)), (29, 17));
    let shape = demand.shape(3, 128).unwrap();
    assert_eq!((shape.features, shape.outputs), (63, 72));
    let lags: Vec<String> = (1..=25).map(|lag| lag.to_string()).collect();
    let text =
        format!("window 2x17 target 0 season 24 lags {} calendar weekx2 step 3600.0 ab", lags.join(","));
    assert_eq!(demand.features_of("ab", 128), text);
    let levels = DEMAND.replace("channels = 2,", "channels = 2, levels = true, range = [[0, 9.5], [-1, 1]],");
    let levels = TaskManifest::from_toml(&levels).unwrap();
    assert_eq!((levels.extras(), levels.shape(3, 128).unwrap().features), (33, 63));
    assert!(levels.features_of("ab", 128).starts_with("window 2x15 levels 0.0:9.5 -1.0:1.0 target 0"));
    let short = TaskManifest::from_toml(SHORT).unwrap();
    assert_eq!(short.features_of("ab", 128), "picture 1x64 ab");
    let colour = SHORT.replace(r#""picture""#, r#""picture", side = 48, colour = true, levels = true"#);
    let colour = TaskManifest::from_toml(&colour).unwrap();
    let text = "picture 3x19 side 48 colour levels 0.0:1.0 0.0:1.0 0.0:1.0 ab";
    assert_eq!((colour.features_of("ab", 128).as_str(), colour.shape(3, 128).unwrap().features), (text, 63));
}

#[test]
fn usual_lags_are_the_last_value_and_the_season_before_each_step() {
    let spec = |horizon, season, lags: Option<Vec<usize>>| {
        let text = DEMAND.replace("horizon = 24, season = 24", &format!("horizon = {horizon}"));
        let mut spec = TaskManifest::from_toml(&text).unwrap().forecast.unwrap();
        (spec.season, spec.lags) = (season, lags);
        spec.lags()
    };
    assert_eq!(spec(3, None, None), Vec::<usize>::new());
    assert_eq!(spec(3, Some(12), None), [1, 10, 11, 12, 13]);
    assert_eq!(spec(5, Some(2), None), [1, 2, 3]);
    assert_eq!(spec(5, Some(2), Some(vec![7, 3, 7])), [3, 7]);
}

#[test]
fn the_closed_form_knows_which_feature_is_what() {
    let mut spec = TaskManifest::from_toml(DEMAND).unwrap().forecast.unwrap();
    (spec.horizon, spec.season, spec.every) = (3, Some(2), 6);
    // Lags 1, 2, 3 and four numbers of the calendar, counted from the end.
    let known = Regressors { extras: 7, season: vec![6, 7, 6], last: Some(7), before: Some(5), every: 6 };
    assert_eq!((spec.regressors(), spec.reach()), (known.clone(), 3));
    spec.lags = Some(vec![2, 4]);
    let known = Regressors { extras: 6, season: vec![], last: None, before: None, ..known };
    assert_eq!((spec.regressors(), spec.reach()), (known, 4));
    (spec.season, spec.lags) = (None, Some(vec![1, 9]));
    assert_eq!((spec.regressors().last, spec.regressors().season.len(), spec.reach()), (Some(6), 0, 9));
}

#[test]
fn a_season_sets_level_and_unit() {
    let mut spec = TaskManifest::from_toml(DEMAND).unwrap().forecast.unwrap();
    spec.season = Some(4);
    let close = |(level, unit): (f64, f64), want: (f64, f64)| {
        assert!((level - want.0).abs() < 1e-9 && (unit - want.1 - 1e-4).abs() < 1e-9, "{level} {unit}");
    };
    // The last four have mean 6 and deviation 2.
    close(spec.scale(2.0, 3.0, &[9.0, 4.0, 8.0, 4.0, 8.0]), (4.0, 2.0));
    close(spec.scale(2.0, 5.0, &[4.0, 8.0, 4.0, 8.0]), (4.0, 2.5));
    close(spec.scale(2.0, 0.0, &[4.0, 8.0]), (4.0, 2.0));
    close(spec.scale(2.0, 3.0, &[]), (2.0, 3.0));
    spec.season = None;
    close(spec.scale(2.0, 3.0, &[4.0, 8.0]), (2.0, 3.0));
}

#[test]
fn kinds_have_their_shapes() {
    let spindle = TaskManifest::from_toml(SPINDLE).unwrap();
    let shape = spindle.shape(3, 128).unwrap();
    assert_eq!((shape.head, shape.features, shape.outputs), (Head::Anomaly, 63, 63));
    let probe = TaskManifest::from_toml(&SPINDLE.replace("moments", "probe")).unwrap();
    assert_eq!(probe.shape(3, 128).unwrap().outputs, 16);
    let long = DEMAND.replace("horizon = 24,", "horizon = 192,");
    assert!(TaskManifest::from_toml(&long).unwrap().shape(3, 128).is_err(), "576 outputs");
    let forced = TaskManifest::from_toml(&SHORT.replace("rank = 16", "choose = \"moments\"")).unwrap();
    assert_eq!((forced.steps(), TaskManifest::from_toml(SHORT).unwrap().steps()), (0, 3));
}

#[test]
fn the_calendar_turns_with_the_first_value_to_come() {
    let text = DEMAND.replace(r#"["week"]"#, r#"["day", { period = 4, harmonics = 1 }]"#);
    let manifest = TaskManifest::from_toml(&text).unwrap();
    let mut out = Vec::new();
    // A window that ends at 05:00 of the first day: the first value is that of 06:00, a quarter of the day.
    manifest.append_calendar(5.0 * 3600.0, &mut out);
    for (got, want) in out.iter().zip([1.0, 0.0, 0.0, -1.0, 0.0, -1.0]) {
        assert!((got - want).abs() < 1e-6, "{out:?}");
    }
    assert_eq!(out.len(), 6);
    let mut before = Vec::new();
    manifest.append_calendar(5.0 * 3600.0 - 86_400.0, &mut before);
    assert!(before.iter().zip(&out).all(|(a, b)| (a - b).abs() < 1e-6));
}

fn share() -> impl Strategy<Value = f64> {
    0.001..0.999f64
}

fn manifests() -> impl Strategy<Value = TaskManifest> {
    let bounds = (-1e6..0.0f64, 0.001..1e6f64).prop_map(|(low, high)| [low, high]);
    let range = prop_oneof![
        Just(None),
        bounds.clone().prop_map(|b| Some(Range::All(b))),
        (bounds.clone(), bounds).prop_map(|(a, b)| Some(Range::Each(vec![a, b]))),
    ];
    let window =
        (range, proptest::option::of(0.1..1e4f64), any::<bool>()).prop_map(|(range, rate, points)| {
            let levels = range.is_some();
            let (points, units) = (points.then_some(128), rate.map(|_| "m/s²".to_owned()));
            Input::Window { channels: 2, length: None, points, rate, units, range, levels }
        });
    let picture = (any::<bool>(), any::<bool>()).prop_map(|(colour, levels)| Input::Picture {
        side: colour.then_some(48),
        colour,
        levels,
    });
    let calendar = prop_oneof![
        (1u32..4).prop_map(|harmonics| Calendar { period: Period::Named(NamedPeriod::Day), harmonics }),
        (2u32..99, 1u32..4)
            .prop_map(|(steps, harmonics)| Calendar { period: Period::Steps(steps), harmonics }),
    ];
    let forecast = (1usize..20, proptest::collection::vec(calendar, 0..3), 1.0..1e5f64, any::<bool>())
        .prop_map(|(horizon, calendar, step_s, huber)| ForecastSpec {
            every: horizon,
            horizon,
            quantiles: if huber { Quantiles::MEDIAN } else { Quantiles::USUAL },
            target: usize::from(huber),
            lags: huber.then(|| vec![1, 2, 7]),
            calendar,
            season: (!huber).then_some(12),
            step_s: Some(step_s),
            loss: if huber { ForecastLoss::Huber } else { ForecastLoss::Pinball },
        });
    let classify = (0.01..99.0f32, share(), any::<bool>()).prop_map(|(weight, risk, some)| ClassifySpec {
        weights: if some { vec![weight, 1.0, 2.5] } else { Vec::new() },
        reject: some.then_some(Reject::Risk(risk)),
        top: 1 + usize::from(some),
    });
    let anomaly =
        (0.001..0.4f64, 0u64..1000).prop_map(|(false_alarms, learn)| AnomalySpec { false_alarms, learn });
    (0u8..3, window, picture, forecast, classify, anomaly, share()).prop_map(
        |(kind, window, picture, forecast, classify, anomaly, share)| {
            let mut manifest = TaskManifest::from_toml([SHORT, DEMAND, SPINDLE][usize::from(kind)]).unwrap();
            manifest.module.shrinkage = Shrinkage::Fixed(share);
            manifest.module.features = 200;
            manifest.module.choose = if kind == 2 { Choose::Moments } else { Choose::Trained };
            manifest.exits.tolerance = share;
            match kind {
                0 => (manifest.input, manifest.classify) = (picture, classify),
                1 => (manifest.input, manifest.forecast) = (window, Some(forecast)),
                _ => (manifest.input, manifest.anomaly) = (window, anomaly),
            }
            manifest
        },
    )
}

proptest! {
    #[test]
    fn a_manifest_is_the_same_as_toml_and_as_json(manifest in manifests()) {
        manifest.validate().unwrap();
        let json = serde_json::to_string(&manifest).unwrap();
        let read: TaskManifest = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &manifest);
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), json);
        prop_assert_eq!(read.features_of("ab", 128), manifest.features_of("ab", 128));
        let text = toml::to_string(&manifest).unwrap();
        prop_assert_eq!(TaskManifest::from_toml(&text).unwrap(), manifest);
    }
}
