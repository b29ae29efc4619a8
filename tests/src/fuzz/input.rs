//! What a camera or a sensor may send.

use std::sync::OnceLock;

use loadonce_backbone::{Bundle, InputSpec, MAX_TAIL, Preparer};

use super::{golden, seed};
use crate::data;
use crate::programs::{bundle, root};

/// One declaration for each way through the decoders.
const SPECS: [&str; 5] = [
    r#"{"modality":"window","channels":1,"points":64,"levels":true,"range":[-10,10]}"#,
    r#"{"modality":"window","channels":2,"length":40,"points":64,"rate":10.0,"units":"g","range":[[0,1],[-1,1]]}"#,
    r#"{"modality":"window","channels":3,"points":64}"#,
    r#"{"modality":"picture","levels":true}"#,
    r#"{"modality":"picture","colour":true}"#,
];

fn preparers() -> &'static [Preparer] {
    static PREPARERS: OnceLock<Vec<Preparer>> = OnceLock::new();
    PREPARERS.get_or_init(|| {
        let bundle = Bundle::open(&bundle()).expect("the committed bundle opens");
        let specs = SPECS.iter().map(|text| {
            let spec: InputSpec = serde_json::from_str(text).expect("a declaration");
            Preparer::new(&bundle, &spec)
                .unwrap_or_else(|error| panic!("{text}: {error}"))
                .keep_tail(MAX_TAIL)
        });
        specs.collect()
    })
}

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    let at = usize::from(decoder) % (SPECS.len() + 1);
    let Some(preparer) = preparers().get(at) else {
        let _said = loadonce_agent::fuzz::window_stamp(rest);
        return;
    };
    let Ok(prepared) = preparer.prepare(rest) else { return };
    assert_eq!(prepared.channels().len(), preparer.channels());
    assert_eq!(prepared.levels().len(), preparer.levels());
    assert!(prepared.levels().iter().all(|level| level.is_finite()), "{:?}", prepared.levels());
    for channel in prepared.channels() {
        assert!(channel.mean().is_finite() && channel.deviation().is_finite());
        assert!(channel.tail().len() <= MAX_TAIL && channel.tail().iter().all(|value| value.is_finite()));
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let folder = root().join("tests/golden/inputs");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").file_name().into_string().expect("plain names"))
        .filter(|name| name != "cases.json")
        .collect();
    names.sort();
    for name in names {
        let bytes = golden(&format!("inputs/{name}"));
        let picture = [".png", ".jpg", ".gif"].iter().any(|end| name.ends_with(end));
        for decoder in if picture { 3..5 } else { 0..3 } {
            seeds.push(seed(decoder, &bytes));
        }
    }
    let (pictures, windows) = (data::digits(), data::motion());
    let png = &pictures.train[0].payload;
    seeds.push(seed(3, png));
    seeds.push(seed(4, &data::jpeg(png)));
    let json = data::json(&windows.train[0].payload[..240], 3);
    seeds.push(seed(2, &json));
    let stamped = br#"{"channels":[[1,2,null,4],[1e3,-2.5,0,1]],"rate":10,"units":"g","time":"2026-01-02T03:04:05Z","series":"hall-2"}"#;
    seeds.push(seed(1, stamped));
    seeds.push(seed(5, stamped));
    seeds.push(seed(5, br#"{"time":1700000000.5,"channels":[[1]]}"#));
    seeds
}
