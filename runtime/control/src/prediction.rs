//! What the data plane carries besides samples.

use serde::{Deserialize, Serialize};

/// The answer to a sample, on `out/<task>/<sample-id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Predicted class; absent while the task has no module.
    pub label: Option<String>,
    /// Probability of that class, 0 to 1.
    pub confidence: Option<f32>,
    /// Exit that answered, from 1.
    pub exit: usize,
    /// From taking the sample to the answer, milliseconds.
    pub latency_ms: f64,
    /// Version of the module that answered; 0 for none.
    pub version: u64,
    /// Whether the personal module answered.
    pub personal: bool,
}

/// A refusal, on the same topic: what was wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable word, the same as the counter's.
    pub error: String,
    /// For a person.
    pub message: String,
}

/// A label, on `label/<task>/<sample-id>`: either this object or the bare class name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMessage {
    /// Class name.
    pub label: String,
}

impl LabelMessage {
    /// Reads a label: a JSON object `{"label":"7"}`, a JSON string, or the bare class name.
    pub fn parse(payload: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(payload).ok()?.trim();
        if text.is_empty() || text.len() > 256 {
            return None;
        }
        if text.starts_with('{') {
            return serde_json::from_str::<Self>(text).ok().map(|message| message.label);
        }
        if text.starts_with('"') {
            return serde_json::from_str(text).ok();
        }
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_to_write_a_label() {
        for text in [r#"{"label":"7"}"#, r#""7""#, "7", " 7\n"] {
            assert_eq!(LabelMessage::parse(text.as_bytes()).as_deref(), Some("7"), "{text}");
        }
        for text in ["", r#"{"lable":"7"}"#, "{", "\u{0}\u{0}".repeat(200).as_str()] {
            assert_eq!(LabelMessage::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(LabelMessage::parse(&[0xff]), None);
    }
}
