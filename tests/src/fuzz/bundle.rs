//! What a bundle holds besides the segments, which are the engine's.

use std::io::Read as _;

use loadonce_backbone::fuzz;
use safetensors::tensor::{Dtype, TensorView};

use super::seed;

/// Sizes of the feature file that is asked for.
const SIZES: (usize, usize, usize) = (2, 3, 2);

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    match decoder % 4 {
        0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                let _sound = fuzz::contract(text);
            }
        }
        1 => {
            let _reads = fuzz::tokenizer(rest, "it's a Test, [MASK] tést 試 ##x\u{200b}");
        }
        2 => {
            let text = String::from_utf8_lossy(rest);
            assert!(fuzz::tokenizer(small_tokenizer().as_bytes(), &text), "the small tokenizer reads");
        }
        _ => {
            let bytes = [&(rest.len() as u64).to_le_bytes()[..], rest].concat();
            let (exits, pooled, directions) = SIZES;
            let _reads = fuzz::features(rest, exits, pooled, directions)
                || fuzz::features(&bytes, exits, pooled, directions);
        }
    }
}

/// A whole tokenizer in a few hundred bytes.
fn small_tokenizer() -> String {
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            {"id": 1, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}}
        },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[MASK]": 1, "[CLS]": 2, "te": 3, "##st": 4, "a": 5, "試": 6}
        }
    })
    .to_string()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let contract = crate::programs::bundle().join("backbone.toml");
    let contract = std::fs::read(&contract).unwrap_or_else(|e| panic!("{}: {e}", contract.display()));
    let mut seeds = vec![seed(0, &contract), seed(1, small_tokenizer().as_bytes())];
    let text = "name = \"text\"\n[input.text]\ntokenizer = \"tokenizer.json\"\nmax_tokens = 128\n";
    seeds.push(seed(0, text.as_bytes()));
    // The head of a real one; whole it is 700 KiB and mutations would hardly ever meet its rules.
    let mut head = Vec::new();
    let packed = super::golden("tokenizer.json.gz");
    let unpacked = flate2::read::GzDecoder::new(&packed[..]).take(6000).read_to_end(&mut head);
    unpacked.expect("the golden tokenizer is gzip");
    seeds.push(seed(1, &head));
    for text in ["it's a test", "[MASK]a試te[MASK", "\u{301}\u{0}A\u{1F600}"] {
        seeds.push(seed(2, text.as_bytes()));
    }
    let (exits, pooled, directions) = SIZES;
    let numbers = [0u8; 64];
    let mut tensors = Vec::new();
    for exit in 1..=exits {
        for (name, shape) in [("mean", vec![pooled]), ("projection", vec![directions, pooled])] {
            let bytes = &numbers[..2 * shape.iter().product::<usize>()];
            let view = TensorView::new(Dtype::F16, shape, bytes).expect("the shape fits");
            tensors.push((format!("exit_{exit}.{name}"), view));
        }
    }
    let file = safetensors::serialize(tensors, None).expect("a small file");
    seeds.push(seed(3, &file));
    seeds.push(seed(3, &file[8..]));
    seeds
}
