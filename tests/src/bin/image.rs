//! `make test-image`: the gateway image on an emulated arm64 machine, from a flashed card to a trained module, with the
//! power cut during the module swap and during training. `CPU` is qemu's name of the processor (cortex-a72). Figures
//! go to `target/bench/image.json`, the console to `target/bench/image-console.log`; the program ends with 1 if
//! anything was lost, counted twice or wrong.

use std::env;
use std::process::ExitCode;

use loadonce_tests::image::{Options, relay, run};
use loadonce_tests::programs::root;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, port] = arguments.as_slice()
        && word == "relay"
    {
        let port = port.parse().expect("qemu was given a port");
        // Whoever opened this connection sees its end; that is all there is to tell.
        let _ended = relay(port);
        return ExitCode::SUCCESS;
    }
    let image = root().join("target/image/loadonce-arm64.img");
    assert!(image.is_file(), "{} is missing; run `make image`", image.display());
    let cpu = env::var("CPU").ok().filter(|cpu| !cpu.is_empty()).unwrap_or_else(|| "cortex-a72".to_owned());
    let out = root().join("target/bench");
    std::fs::create_dir_all(&out).expect("target/bench can be made");
    let report = run(&Options { image, cpu, console: out.join("image-console.log") });
    let path = out.join("image.json");
    std::fs::write(&path, format!("{report:#}\n")).expect("target/bench can be written");
    println!("{}\n{}", report["found"], path.display());
    ExitCode::from(u8::from(report["wrong"].as_array().is_none_or(|wrong| !wrong.is_empty())))
}
