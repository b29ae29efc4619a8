//! Text to token ids: the `WordPiece` tokenizers of the BERT family, as their `tokenizer.json` describes them.
//!
//! The steps and their order are those of Hugging Face's `tokenizers` (`BertNormalizer`,
//! `BertPreTokenizer`, `WordPiece`, `TemplateProcessing`), with the same two tables of Unicode, so that ids are equal. Characters stream through, and
//! reading stops when enough tokens are there: a text of any length costs bounded memory.

use std::cmp::Reverse;

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use self::file::File;
use self::words::Words;

mod file;
mod words;

/// Tokens of one text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<i64>,
    /// Whether the text had more tokens than were asked for.
    pub(crate) cut: bool,
}

/// A `WordPiece` tokenizer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the four switches of `BertNormalizer`")]
pub(crate) struct Tokenizer {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: bool,
    lowercase: bool,
    /// Words that are recognized as they stand, such as `[MASK]`, before anything else.
    special: Vec<(String, u32)>,
    starts: Words,
    continuations: Words,
    unknown: u32,
    longest_word: usize,
    /// Ids before and behind every text.
    frame: [Vec<u32>; 2],
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `Err` says what is not known here.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        file.into_tokenizer()
    }

    /// The ids of `text`, at most `most` with the frame; the end is cut. `None` when nothing but the frame is left.
    pub(crate) fn encode(&self, text: &str, most: usize) -> Option<Tokens> {
        let [before, behind] = &self.frame;
        let room = most.saturating_sub(before.len() + behind.len());
        // One more than there is room for tells that something was cut.
        let mut line =
            Line { tokenizer: self, ids: Vec::new(), most: room + 1, word: String::new(), chars: 0 };
        // Where each special word comes next; searched again only once it is passed, so all of it is linear.
        let next = |from: usize, word: &str| text[from..].find(word).map_or(usize::MAX, |at| from + at);
        let mut places: Vec<usize> = self.special.iter().map(|(word, _)| next(0, word)).collect();
        let mut from = 0;
        while from < text.len() && !line.full() {
            let found = places.iter().zip(&self.special).filter(|&(&at, _)| at < text.len());
            let Some((&at, (word, id))) = found.min_by_key(|&(&at, (word, _))| (at, Reverse(word.len())))
            else {
                line.piece(&text[from..]);
                break;
            };
            line.piece(&text[from..at]);
            line.ids.push(*id);
            from = at + word.len();
            for (place, (word, _)) in places.iter_mut().zip(&self.special) {
                if *place < from {
                    *place = next(from, word);
                }
            }
        }
        let mut ids = line.ids;
        let cut = ids.len() > room;
        ids.truncate(room);
        if ids.is_empty() {
            return None;
        }
        let framed = before.iter().chain(&ids).chain(behind).map(|&id| i64::from(id)).collect();
        Some(Tokens { ids: framed, cut })
    }
}

/// A text on its way through.
struct Line<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    most: usize,
    /// The word so far, of at most `longest_word` characters.
    word: String,
    /// Characters of the whole word.
    chars: usize,
}

impl Line<'_> {
    fn full(&self) -> bool {
        self.ids.len() >= self.most
    }

    /// Text between special words.
    fn piece(&mut self, text: &str) {
        let Tokenizer { clean_text, handle_chinese_chars, strip_accents, lowercase, .. } = *self.tokenizer;
        let cleaned = text
            .chars()
            .filter(move |&c| !clean_text || !is_dropped(c))
            .map(move |c| if clean_text && c.is_whitespace() { ' ' } else { c });
        let spaced = cleaned.flat_map(move |c| {
            let apart = handle_chinese_chars && is_chinese(c);
            [apart.then_some(' '), Some(c), apart.then_some(' ')].into_iter().flatten()
        });
        if strip_accents {
            let bare = spaced.nfd().map(|(c, _)| c).filter(|c| !c.is_mark_nonspacing());
            self.words(bare, lowercase);
        } else {
            self.words(spaced, lowercase);
        }
        self.end_word();
    }

    fn words(&mut self, chars: impl Iterator<Item = char>, lowercase: bool) {
        for c in chars {
            if self.full() {
                return;
            }
            if lowercase {
                c.to_lowercase().for_each(|c| self.char(c));
            } else {
                self.char(c);
            }
        }
    }

    fn char(&mut self, c: char) {
        if c.is_whitespace() {
            self.end_word();
        } else if c.is_ascii_punctuation() || c.is_punctuation() {
            self.end_word();
            self.push(c);
            self.end_word();
        } else {
            self.push(c);
        }
    }

    fn push(&mut self, c: char) {
        if self.chars < self.tokenizer.longest_word {
            self.word.push(c);
        }
        self.chars += 1;
    }

    /// Cuts the word into the longest known parts, from its start.
    fn end_word(&mut self) {
        if self.chars == 0 {
            return;
        }
        let Tokenizer { starts, continuations, unknown, longest_word, .. } = self.tokenizer;
        let begun = self.ids.len();
        let mut rest = if self.chars > *longest_word { "" } else { self.word.as_str() };
        while !rest.is_empty() {
            let words = if self.ids.len() == begun { starts } else { continuations };
            let Some((id, length)) = words.longest(rest) else { break };
            self.ids.push(id);
            rest = &rest[length..];
        }
        if !rest.is_empty() || self.chars > *longest_word {
            self.ids.truncate(begun);
            self.ids.push(*unknown);
        }
        self.word.clear();
        self.chars = 0;
    }
}

fn is_dropped(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && (c == '\0' || c == '\u{fffd}' || c.is_other())
}

/// The ideographs that are words of their own; kana and hangul are not.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ids 0 to 3 are the specials, then the words in order.
    fn file(words: &[&str]) -> Vec<u8> {
        let specials = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"];
        let vocab: serde_json::Map<_, _> = specials
            .iter()
            .chain(words)
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), id.into()))
            .collect();
        let special = |id: usize| {
            serde_json::json!({
                "id": id, "content": specials[id], "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false
            })
        };
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0), special(1), special(2), special(3)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 10, "vocab": vocab}
        });
        serde_json::to_vec(&file).unwrap()
    }

    fn tokenizer(words: &[&str]) -> Tokenizer {
        Tokenizer::read(&file(words)).unwrap()
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
        tokenizer.encode(text, 100).map(|tokens| tokens.ids).unwrap_or_default()
    }

    #[test]
    fn words_are_cut_into_their_longest_known_parts() {
        let t = tokenizer(&["pump", "pumps", "##s", "##ing", "!", "轴", "e"]);
        assert_eq!(ids(&t, "Pumps PUMPING!"), [1, 5, 4, 7, 8, 2]);
        assert_eq!(ids(&t, "pump\u{0}\u{200b}s"), [1, 5, 2], "control characters vanish inside words");
        assert_eq!(ids(&t, "pump轴é"), [1, 4, 9, 10, 2]);
        assert_eq!(ids(&t, "pumpx pump"), [1, 0, 4, 2]);
        assert_eq!(ids(&t, &"pump".repeat(3)), [1, 0, 2], "longer than 10 characters");
        assert_eq!(ids(&t, "pump[MASK]s"), [1, 4, 3, 0, 2]);
        assert_eq!(ids(&t, "[mask]"), [1, 0, 0, 0, 2]);
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let t = tokenizer(&["a"]);
        let cut = |text: &str, most| t.encode(text, most).map(|tokens| (tokens.ids.len(), tokens.cut));
        assert_eq!(cut("a a a", 5), Some((5, false)));
        assert_eq!(cut("a a a a", 5), Some((5, true)));
        assert_eq!(cut(&"a ".repeat(100_000), 5), Some((5, true)));
        assert_eq!(cut(" \t\u{0}", 5), None);
        assert_eq!(cut("", 5), None);
    }

    #[test]
    fn another_kind_of_tokenizer_is_refused() {
        for (text, says) in [("{", "EOF"), (r#"{"model":{"type":"BPE"}}"#, "BPE")] {
            let error = Tokenizer::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_framed_and_bounded(text in "\\PC{0,60}|.{0,60}", most in 0usize..9) {
            let t = tokenizer(&["a", "##a", "b", "é", "字"]);
            if let Some(Tokens { ids, .. }) = t.encode(&text, most) {
                prop_assert!(ids.len() <= most && ids[0] == 1 && ids[ids.len() - 1] == 2);
            }
        }

        #[test]
        fn a_damaged_tokenizer_is_refused_or_works(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file(&["a", "##a", "b"]);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for bytes in [&bytes[..], &bytes[..keep.index(bytes.len())]] {
                if let Ok(t) = Tokenizer::read(bytes) {
                    t.encode("aa b! [MASK] 字", 9);
                }
            }
        }
    }
}
