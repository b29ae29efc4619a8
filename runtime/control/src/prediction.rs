//! What the data plane carries besides samples.

use loadonce_module::MAX_HORIZON;
use serde::{Deserialize, Serialize};

/// The answer to a sample, on `out/<task>/<sample-id>`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Predicted class, or `unknown`; absent for the other kinds and while the task has no module.
    pub label: Option<String>,
    /// Probability of the most probable class, 0 to 1.
    pub confidence: Option<f32>,
    /// The most probable classes, where the task asks for more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Ranked>,
    /// The values to come, of a forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastAnswer>,
    /// The score, of an anomaly task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<AlarmAnswer>,
    /// Exit that answered, from 1.
    pub exit: usize,
    /// From taking the sample to the answer, milliseconds.
    pub latency_ms: f64,
    /// Version of the module that answered; 0 for none.
    pub version: u64,
    /// Whether the personal module answered.
    pub personal: bool,
}

/// A class and its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The class.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
}

/// Quantiles of the values to come, in the input's own units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastAnswer {
    /// Time of the first value, seconds since the epoch, where the sample told its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// The levels, between 0 and 1, rising.
    pub quantiles: Vec<f64>,
    /// For each level its path: one value per step.
    pub paths: Vec<Vec<f64>>,
}

/// How unusual a sample is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmAnswer {
    /// The score: the higher, the more unusual.
    pub score: f32,
    /// Whether it is an alarm; absent while too few normal samples have set a threshold.
    pub alarm: Option<bool>,
    /// Scores above it are alarms.
    pub threshold: Option<f32>,
    /// Share of normal samples that may raise an alarm, as asked.
    pub false_alarms: f64,
    /// The interval that holds that share on this gateway with 95 % confidence.
    pub interval: Option<(f64, f64)>,
    /// Normal samples that set the threshold.
    pub normals: u32,
}

/// A refusal, on the same topic: what was wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable word, the same as the counter's.
    pub error: String,
    /// For a person.
    pub message: String,
}

/// What a label says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// A class; `normal` or `anomalous` of an anomaly task.
    Name(String),
    /// The values that came, one per step of a forecast, in the input's own units.
    Values(Vec<f64>),
}

/// A label, on `label/<task>/<sample-id>`: either this object, the bare class name, or the bare array of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMessage {
    /// What it says.
    pub label: Label,
}

/// Longest name of a class, and longest array, in bytes.
const MAX_NAME: usize = 256;
const MAX_VALUES: usize = 32 * MAX_HORIZON;

impl LabelMessage {
    /// Reads a label: a JSON object `{"label":"7"}` or `{"label":[1.5,2]}`, a JSON string or array, or the bare class
    /// name.
    pub fn parse(payload: &[u8]) -> Option<Label> {
        if payload.len() > MAX_VALUES {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?.trim();
        let label = match text.chars().next()? {
            '{' => serde_json::from_str::<Self>(text).ok()?.label,
            '"' | '[' => serde_json::from_str(text).ok()?,
            _ => Label::Name(text.to_owned()),
        };
        match &label {
            Label::Name(name) => name.len() <= MAX_NAME,
            Label::Values(values) => values.len() <= MAX_HORIZON && values.iter().all(|v| v.is_finite()),
        }
        .then_some(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Label {
        Label::Name(text.to_owned())
    }

    #[test]
    fn three_ways_to_write_a_label() {
        for text in [r#"{"label":"7"}"#, r#""7""#, "7", " 7\n"] {
            assert_eq!(LabelMessage::parse(text.as_bytes()), Some(name("7")), "{text}");
        }
        for text in ["", r#"{"lable":"7"}"#, "{", "\u{0}\u{0}".repeat(200).as_str()] {
            assert_eq!(LabelMessage::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(LabelMessage::parse(&[0xff]), None);
    }

    #[test]
    fn values_come_as_an_array() {
        for text in ["[1.5, 2]", r#"{"label":[1.5,2.0]}"#] {
            assert_eq!(LabelMessage::parse(text.as_bytes()), Some(Label::Values(vec![1.5, 2.0])), "{text}");
        }
        let long = format!("[{}1]", "1,".repeat(MAX_HORIZON));
        for text in ["[1,", "[\"a\"]", "[1e999]", "[[1]]", "[null]", long.as_str()] {
            assert_eq!(LabelMessage::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_prediction_of_classes_has_no_other_keys() {
        let text = serde_json::to_string(&Prediction { exit: 1, ..Prediction::default() }).unwrap();
        assert!(!text.contains("top") && !text.contains("forecast") && !text.contains("anomaly"), "{text}");
        assert!(text.contains(r#""label":null"#), "{text}");
    }
}
