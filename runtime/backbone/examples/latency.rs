//! Latency per exit and resident memory of a bundle: `latency [BUNDLE] [ort|tract] [THREADS]`.
//!
//! ONNX Runtime is found as on a gateway: set `ORT_DYLIB_PATH`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use loadonce_backbone::{
    Backbone, Bundle, EngineKind, EngineOptions, InputSpec, Modality, PictureSpec, Prepared, Preparer,
    process_resident_bytes,
};

const WARM_UP: usize = 20;
const REPEATS: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(|| PathBuf::from("models/bundles/sense-tiny"), PathBuf::from);
    let kind = match arguments.next().as_deref() {
        None | Some("ort") => EngineKind::Ort,
        Some("tract") => EngineKind::Tract,
        Some(other) => return Err(format!("engine {other:?} is not known; say ort or tract").into()),
    };
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;

    let empty = process_resident_bytes();
    let started = Instant::now();
    let backbone = Backbone::load(
        Bundle::open(&dir)?,
        &EngineOptions { kind, library: None, threads, ..EngineOptions::default() },
    )?;
    let load = started.elapsed();
    let bundle = backbone.bundle();
    println!("{} {} on {kind:?}, {threads} thread(s), {REPEATS} passes", bundle.name(), bundle.version());
    println!(
        "exits after layers {:?}; milliseconds to each exit, median and 95th percentile",
        bundle.depths()
    );

    for (name, spec) in inputs(bundle) {
        let input = sample(bundle, &spec)?;
        print!("{name:<20}");
        for mut times in times(&backbone, &input)? {
            times.sort();
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            print!(
                "  {:7.3} {:7.3}",
                milliseconds(times[REPEATS / 2]),
                milliseconds(times[REPEATS * 95 / 100])
            );
        }
        println!();
    }

    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("bundle on disk {:.2} MiB, loaded in {} ms", mib(bundle.bytes()), load.as_millis());
    println!(
        "resident: {:.1} MiB before, +{:.1} MiB by loading, {:.1} MiB after the passes",
        mib(empty),
        mib(backbone.resident_bytes()),
        mib(process_resident_bytes())
    );
    Ok(())
}

fn inputs(bundle: &Bundle) -> Vec<(&'static str, InputSpec)> {
    let colour = InputSpec::Picture(PictureSpec { colour: true, ..PictureSpec::default() });
    let all = [
        ("window, 1 channel", InputSpec::window(1)),
        ("window, 6 channels", InputSpec::window(6)),
        ("picture, grey", InputSpec::picture()),
        ("picture, colour", colour),
        ("text", InputSpec::Text {}),
    ];
    all.into_iter().filter(|(_, spec)| bundle.takes(spec.modality())).collect()
}

/// A sample without any meaning, but with variation everywhere; the text has about 64 tokens.
fn sample(bundle: &Bundle, spec: &InputSpec) -> Result<Prepared, Box<dyn std::error::Error>> {
    let preparer = Preparer::new(bundle, spec)?;
    let wave = |at: usize| (at as f32 * 0.37).sin() + (at as f32 * 0.011).cos();
    Ok(match spec.modality() {
        Modality::Window => {
            let channel = |c: usize| (0..256).map(|at| f64::from(wave(256 * c + at))).collect();
            preparer.prepare_numbers((0..spec.channels()).map(channel).collect())?
        }
        Modality::Picture => {
            let pixels: Vec<u8> = (0..3 * 64 * 64).map(|at| (127.0 + 60.0 * wave(at)) as u8).collect();
            let mut file = std::io::Cursor::new(Vec::new());
            let (rgb, png) = (image::ColorType::Rgb8, image::ImageFormat::Png);
            image::write_buffer_with_format(&mut file, &pixels, 64, 64, rgb, png)?;
            preparer.prepare(&file.into_inner())?
        }
        Modality::Text => {
            preparer.prepare("the pump on line four is getting loud again ".repeat(7).as_bytes())?
        }
    })
}

/// Time from the start of a pass to each exit.
fn times(backbone: &Backbone, input: &Prepared) -> Result<Vec<Vec<Duration>>, Box<dyn std::error::Error>> {
    let per_channel = backbone.bundle().features_per_channel(input.channels().len(), 256);
    let mut times = vec![Vec::with_capacity(REPEATS); backbone.bundle().exits()];
    let mut out = Vec::new();
    for repeat in 0..WARM_UP + REPEATS {
        let started = Instant::now();
        let mut pass = backbone.begin(input);
        while pass.next_exit(per_channel, &mut out)? {
            if repeat >= WARM_UP {
                times[pass.exits_done() - 1].push(started.elapsed());
            }
        }
    }
    Ok(times)
}
