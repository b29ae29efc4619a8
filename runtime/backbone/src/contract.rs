//! `backbone.toml`: its keys, and what they must say for this runtime.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::backbone::MAX_CHANNEL_FEATURES;
use crate::input::{Modality, PATCH, PICTURE_PATCH_SIDE, PICTURE_SIDE, WINDOW_LENGTH};

/// The one format this runtime reads.
const FORMAT: u32 = 1;
/// Most segments of a bundle.
const MAX_SEGMENTS: usize = 16;
/// Most files of a bundle.
const MAX_FILES: usize = 64;
/// Most pooled features of an exit.
const MAX_POOLED: usize = 8192;
/// Most rows of the embedding table.
const MAX_TOKEN_ROWS: i64 = 1 << 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contract {
    pub(crate) format: u32,
    pub(crate) name: String,
    pub(crate) family: String,
    pub(crate) scale: String,
    pub(crate) version: String,
    pub(crate) licence: String,
    pub(crate) parameters: u64,
    pub(crate) fp32_bytes: u64,
    pub(crate) opset: u32,
    pub(crate) quantization: String,
    pub(crate) input: Input,
    pub(crate) features: Features,
    pub(crate) segments: Vec<Segment>,
    pub(crate) files: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) modalities: Vec<Modality>,
    pub(crate) patch: usize,
    pub(crate) window_length: usize,
    pub(crate) window_first_token: i64,
    pub(crate) picture_side: usize,
    pub(crate) picture_patch_side: usize,
    pub(crate) picture_first_token: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Features {
    pub(crate) file: String,
    pub(crate) pooled: usize,
    pub(crate) directions: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    pub(crate) file: String,
    pub(crate) layers: u32,
    pub(crate) exit: usize,
    pub(crate) inputs: Vec<String>,
    pub(crate) hidden: Option<String>,
    pub(crate) pooled: String,
}

impl Contract {
    /// First contradiction between this text and what the runtime does, in words.
    pub(crate) fn contradiction(&self) -> Option<String> {
        (self.format != FORMAT)
            .then(|| format!("format is {}, this runtime reads format {FORMAT}", self.format))
            .or_else(|| self.input_contradiction())
            .or_else(|| self.features_contradiction())
            .or_else(|| self.segments_contradiction())
            .or_else(|| self.files_contradiction())
    }

    fn input_contradiction(&self) -> Option<String> {
        let input = &self.input;
        let fixed = [
            ("patch", input.patch, PATCH),
            ("window_length", input.window_length, WINDOW_LENGTH),
            ("picture_side", input.picture_side, PICTURE_SIDE),
            ("picture_patch_side", input.picture_patch_side, PICTURE_PATCH_SIDE),
        ];
        if let Some((key, got, want)) = fixed.into_iter().find(|(_, got, want)| got != want) {
            return Some(format!("[input] {key} is {got}, this runtime prepares {want}"));
        }
        if input.modalities.is_empty() {
            return Some("[input] modalities is empty".into());
        }
        let rows = 0..MAX_TOKEN_ROWS;
        (!rows.contains(&input.window_first_token) || !rows.contains(&input.picture_first_token))
            .then(|| format!("[input] a first token lies outside 0..{MAX_TOKEN_ROWS}"))
    }

    fn features_contradiction(&self) -> Option<String> {
        let Features { pooled, directions, .. } = self.features;
        if directions != MAX_CHANNEL_FEATURES {
            return Some(format!(
                "[features] directions is {directions}, format {FORMAT} has {MAX_CHANNEL_FEATURES}"
            ));
        }
        (!(1..=MAX_POOLED).contains(&pooled))
            .then(|| format!("[features] pooled is {pooled}, allowed are 1 to {MAX_POOLED}"))
    }

    fn segments_contradiction(&self) -> Option<String> {
        let count = self.segments.len();
        if !(1..=MAX_SEGMENTS).contains(&count) {
            return Some(format!("there are {count} [[segments]], allowed are 1 to {MAX_SEGMENTS}"));
        }
        let mut inputs = vec!["patches".to_owned(), "token_ids".to_owned()];
        for (index, segment) in self.segments.iter().enumerate() {
            let exit = index + 1;
            if segment.exit != exit {
                return Some(format!("segment {exit} says exit = {}", segment.exit));
            }
            if segment.inputs != inputs {
                return Some(format!("segment {exit} takes {:?}, it is given {inputs:?}", segment.inputs));
            }
            if segment.hidden.is_none() != (exit == count) {
                return Some(format!("segment {exit} of {count}: every segment but the last names `hidden`"));
            }
            inputs = segment.hidden.iter().cloned().collect();
        }
        None
    }

    fn files_contradiction(&self) -> Option<String> {
        if self.files.len() > MAX_FILES {
            return Some(format!("[files] lists {} files, at most {MAX_FILES} are read", self.files.len()));
        }
        self.files
            .iter()
            .find(|(_, hash)| {
                hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
            .map(|(file, hash)| {
                format!("[files] \"{file}\" = \"{hash}\" is no sha256 in lower-case hexadecimal")
            })
    }

    /// The files this runtime opens.
    pub(crate) fn used(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(|segment| segment.file.as_str()).chain([self.features.file.as_str()])
    }

    pub(crate) fn first_token(&self, modality: Modality) -> i64 {
        match modality {
            Modality::Window => self.input.window_first_token,
            Modality::Picture => self.input.picture_first_token,
        }
    }
}
