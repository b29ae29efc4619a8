//! `tokenizer.json`, as far as it is understood; anything else is refused rather than passed over.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Tokenizer;
use super::words::Words;

/// Most words of a vocabulary.
const MAX_WORDS: usize = 1 << 20;
/// Most characters of a word that is looked up.
const MAX_WORD_CHARS: usize = 1000;
/// Most words that are recognized as they stand; each is searched for in every text.
const MAX_SPECIAL: usize = 64;

/// Truncation and padding stand here too, but the bundle's contract says how long a text may be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(rename = "version", default)]
    _version: IgnoredAny,
    #[serde(rename = "truncation", default)]
    _truncation: IgnoredAny,
    #[serde(rename = "padding", default)]
    _padding: IgnoredAny,
    #[serde(rename = "decoder", default)]
    _decoder: IgnoredAny,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
    normalizer: Normalizer,
    pre_tokenizer: PreTokenizer,
    post_processor: PostProcessor,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of the file")]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(rename = "special", default)]
    _special: IgnoredAny,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Normalizer {
    BertNormalizer {
        clean_text: bool,
        handle_chinese_chars: bool,
        strip_accents: Option<bool>,
        lowercase: bool,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum PreTokenizer {
    BertPreTokenizer {},
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Model {
    WordPiece {
        unk_token: String,
        continuing_subword_prefix: String,
        max_input_chars_per_word: usize,
        vocab: HashMap<String, u32>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum PostProcessor {
    TemplateProcessing {
        single: Vec<Piece>,
        #[serde(rename = "pair")]
        _pair: IgnoredAny,
        special_tokens: HashMap<String, Special>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Piece {
    SpecialToken {
        id: String,
        #[serde(rename = "type_id")]
        _type_id: IgnoredAny,
    },
    Sequence {
        id: String,
        #[serde(rename = "type_id")]
        _type_id: IgnoredAny,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Special {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "tokens")]
    _tokens: IgnoredAny,
    ids: Vec<u32>,
}

impl File {
    pub(crate) fn into_tokenizer(self) -> Result<Tokenizer, String> {
        let Normalizer::BertNormalizer { clean_text, handle_chinese_chars, strip_accents, lowercase } =
            self.normalizer;
        let PreTokenizer::BertPreTokenizer {} = self.pre_tokenizer;
        let Model::WordPiece {
            unk_token,
            continuing_subword_prefix: prefix,
            max_input_chars_per_word,
            vocab,
        } = self.model;
        if vocab.len() > MAX_WORDS || max_input_chars_per_word > MAX_WORD_CHARS {
            return Err(format!(
                "it has {} words, looked up to {max_input_chars_per_word} characters; allowed are {MAX_WORDS} and {MAX_WORD_CHARS}",
                vocab.len()
            ));
        }
        let unknown = *vocab.get(&unk_token).ok_or_else(|| format!("its vocabulary lacks {unk_token:?}"))?;
        let mut special = Vec::new();
        for token in self.added_tokens {
            if token.single_word
                || token.lstrip
                || token.rstrip
                || token.normalized
                || token.content.is_empty()
            {
                return Err(format!("the added token {:?} has rules that are not known", token.content));
            }
            special.push((token.content, token.id));
        }
        if special.len() > MAX_SPECIAL {
            return Err(format!("it has {} added tokens, at most {MAX_SPECIAL} are read", special.len()));
        }
        let words = || vocab.iter().map(|(word, &id)| (word.as_str(), id));
        let continuations = words().filter_map(|(word, id)| Some((word.strip_prefix(prefix.as_str())?, id)));
        Ok(Tokenizer {
            clean_text,
            handle_chinese_chars,
            strip_accents: strip_accents.unwrap_or(lowercase),
            lowercase,
            special,
            starts: Words::new(words().collect()),
            continuations: Words::new(continuations.collect()),
            unknown,
            longest_word: max_input_chars_per_word,
            frame: frame(self.post_processor)?,
        })
    }
}

fn frame(
    PostProcessor::TemplateProcessing { single, special_tokens, .. }: PostProcessor,
) -> Result<[Vec<u32>; 2], String> {
    let mut frame = [Vec::new(), Vec::new()];
    let mut texts = 0;
    for piece in single {
        match piece {
            Piece::Sequence { id, .. } if id == "A" && texts == 0 => texts = 1,
            Piece::SpecialToken { id, .. } if special_tokens.contains_key(&id) => {
                frame[texts].extend(&special_tokens[&id].ids);
            }
            Piece::Sequence { id, .. } | Piece::SpecialToken { id, .. } => {
                return Err(format!("its post-processor places {id:?}, which is not known"));
            }
        }
    }
    if texts == 1 { Ok(frame) } else { Err("its post-processor leaves the text out".into()) }
}
