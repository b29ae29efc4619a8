//! Every module file ever shipped is read for ever and, being canonical, written again to the same bytes. The
//! golden files come from `models/reference/module_reference.py`.

use loadonce_module::{Dtype, Head, ModuleFile, Quantiles, Recipe, Role, Shape};

fn check(file: &str, dtype: Dtype, role: Role, base: &str, prior: &[f32]) {
    let path = format!("{}/../../tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("the golden file is committed");
    let shape = Shape {
        recipe: Recipe::Ladder { rank: 2 },
        head: Head::Classify,
        exits: 3,
        features: 10,
        outputs: 4,
    };
    let want = ModuleFile {
        task: "inspect-lid".to_owned(),
        shape,
        classes: ["ok", "scratch", "dent", "傷"].map(str::to_owned).to_vec(),
        backbone: "0123456789abcdef".repeat(4),
        version: 3,
        base: base.to_owned(),
        role,
        offset: prior.to_vec(),
        params: (0..shape.parameters()).map(|i| i as f32 / 64.0 - 1.0).collect(),
    };
    assert_eq!(ModuleFile::decode(&bytes).as_ref(), Ok(&want));
    assert_eq!(want.encode(dtype).expect("valid"), bytes);
}

#[test]
fn shared_module_of_format_1() {
    check("module-v1.safetensors", Dtype::F16, Role::Shared, "", &[]);
}

#[test]
fn personal_module_of_format_1() {
    let base = "fedcba9876543210".repeat(4);
    check("module-v1-personal.safetensors", Dtype::F32, Role::Personal, &base, &[-0.5, -1.25, -2.0, -0.0625]);
}

/// Parameters i / 64 − 1 for a shape of three exits and ten features.
fn kind(file: &str, dtype: Dtype, want: ModuleFile) {
    let path = format!("{}/../../tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("the golden file is committed");
    let params = (0..want.shape.parameters()).map(|i| i as f32 / 64.0 - 1.0).collect();
    let want = ModuleFile { params, ..want };
    assert_eq!(ModuleFile::decode(&bytes).as_ref(), Ok(&want));
    assert_eq!(want.encode(dtype).expect("valid"), bytes);
}

#[test]
fn modules_of_the_other_kinds_of_format_1() {
    let head = Head::Forecast { horizon: 3, quantiles: Quantiles::USUAL };
    let shape = Shape { recipe: Recipe::Ladder { rank: 2 }, head, exits: 3, features: 10, outputs: 9 };
    let forecast = ModuleFile {
        task: "demand".to_owned(),
        shape,
        classes: Vec::new(),
        backbone: "0123456789abcdef".repeat(4),
        version: 3,
        base: "fedcba9876543210".repeat(4),
        role: Role::Personal,
        offset: (0..27u8).map(|i| f32::from(i) / 8.0).collect(),
        params: Vec::new(),
    };
    kind("module-v1-forecast.safetensors", Dtype::F32, forecast.clone());
    let anomaly = ModuleFile {
        task: "spindle".to_owned(),
        shape: Shape { recipe: Recipe::Probe, head: Head::Anomaly, outputs: 4, ..shape },
        base: String::new(),
        role: Role::Shared,
        offset: Vec::new(),
        ..forecast
    };
    kind("module-v1-anomaly.safetensors", Dtype::F16, anomaly);
}
