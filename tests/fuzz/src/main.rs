//! One program for all targets: `LOADONCE_FUZZ` names the target, `LOADONCE_FUZZ_SEEDS` a folder that gets its seeds.
//! Everything else is libFuzzer's command line.

#![no_main]

mod meter;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use loadonce_tests::fuzz::{Target, target};

#[global_allocator]
static METER: meter::Meter = meter::Meter;

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("LOADONCE_FUZZ").expect("LOADONCE_FUZZ names a target");
        let target = target(&name).unwrap_or_else(|| panic!("there is no fuzz target `{name}`"));
        if let Some(folder) = std::env::var_os("LOADONCE_FUZZ_SEEDS") {
            for (number, seed) in (target.seeds)().iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("seed-{number:03}"));
                std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
        // What a target prepares once is no input's doing.
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        target
    })
}

fuzz_target!(init: { chosen(); }, |data: &[u8]| {
    let target = chosen();
    let data = &data[..data.len().min(target.longest)];
    let before = meter::begin();
    (target.run)(data);
    let peak = meter::peak().saturating_sub(before);
    assert!(peak <= target.memory, "{peak} bytes at once for an input of {}, allowed are {}", data.len(), target.memory);
});
