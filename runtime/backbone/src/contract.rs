//! `backbone.toml`, format 2: its keys, and what they must say for this runtime.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::inputs::Inputs;

/// The one format this runtime reads.
const FORMAT: u32 = 2;
/// Most segments of a bundle.
const MAX_SEGMENTS: usize = 16;
/// Most files of a bundle.
const MAX_FILES: usize = 64;
/// Most pooled features of an exit.
const MAX_POOLED: usize = 8192;
/// Most rows of a projection: a module sees at most this many features per exit.
const MAX_DIRECTIONS: usize = 256;

#[derive(Clone, Debug, Deserialize)]
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
    pub(crate) input: Inputs,
    pub(crate) features: Features,
    pub(crate) segments: Vec<Segment>,
    pub(crate) files: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Features {
    pub(crate) file: String,
    pub(crate) pooled: usize,
    pub(crate) directions: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    pub(crate) file: String,
    pub(crate) layers: u32,
    pub(crate) exit: usize,
    pub(crate) inputs: Vec<String>,
    pub(crate) hidden: Option<String>,
    pub(crate) pooled: String,
}

/// The format alone, to name it before a key of another format is called unknown.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn wrong_format(format: u32) -> String {
    format!("format is {format}, this runtime reads format {FORMAT}")
}

impl Contract {
    /// Parses the text; the outer error is about TOML and keys, the inner one names another format.
    pub(crate) fn parse(text: &str) -> Result<Result<Self, String>, toml::de::Error> {
        let FormatOnly { format } = toml::from_str(text)?;
        if format != FORMAT {
            return Ok(Err(wrong_format(format)));
        }
        Ok(Ok(toml::from_str(text)?))
    }

    /// First contradiction between this text and what the runtime does, in words.
    pub(crate) fn contradiction(&self) -> Option<String> {
        (self.format != FORMAT)
            .then(|| wrong_format(self.format))
            .or_else(|| self.input.contradiction())
            .or_else(|| self.features_contradiction())
            .or_else(|| self.segments_contradiction())
            .or_else(|| self.files_contradiction())
    }

    fn features_contradiction(&self) -> Option<String> {
        let Features { pooled, directions, .. } = self.features;
        if !(1..=MAX_DIRECTIONS).contains(&directions) {
            return Some(format!("[features] directions is {directions}, allowed are 1 to {MAX_DIRECTIONS}"));
        }
        (!(1..=MAX_POOLED).contains(&pooled))
            .then(|| format!("[features] pooled is {pooled}, allowed are 1 to {MAX_POOLED}"))
    }

    fn segments_contradiction(&self) -> Option<String> {
        let count = self.segments.len();
        if !(1..=MAX_SEGMENTS).contains(&count) {
            return Some(format!("there are {count} [[segments]], allowed are 1 to {MAX_SEGMENTS}"));
        }
        let mut inputs: Vec<String> =
            self.input.first_segment_takes().iter().map(ToString::to_string).collect();
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
        let segments = self.segments.iter().map(|segment| segment.file.as_str());
        let tokenizer = self.input.text.as_ref().map(|text| text.tokenizer.as_str());
        segments.chain([self.features.file.as_str()]).chain(tokenizer)
    }
}
