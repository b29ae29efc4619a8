//! Topic names, built and parsed in one place.

use crate::limits::{MAX_NAME, MAX_TOPIC};
use core::fmt::{self, Write};

/// First levels of every topic; `v1` rises when the topic tree changes incompatibly.
pub const PREFIX: &str = "loadonce/v1";

/// A site, gateway, task or sample name: 1 to 64 of `[A-Za-z0-9._-]`, not starting with a dot, so that it is
/// safe as a topic level and as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(heapless::String<MAX_NAME>);

impl Name {
    /// Accepts `text` if it is a valid name.
    pub fn new(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.starts_with('.') || !text.bytes().all(good) {
            return None;
        }
        heapless::String::try_from(text).ok().map(Self)
    }
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic below `loadonce/v1/<site>/`, borrowed from its text. Fields are the names of the levels.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Retained birth and last will of a gateway.
    State { gateway: &'a str },
    /// JSON figures of a gateway.
    Report { gateway: &'a str },
    /// Frames from a gateway.
    Up { gateway: &'a str },
    /// Frames to a gateway.
    Down { gateway: &'a str },
    /// Retained signed task manifest.
    Task { task: &'a str },
    /// Retained signed pointer for one backbone (the first 16 hex digits of its fingerprint).
    Pointer { task: &'a str, backbone: &'a str },
    /// A sample for a task, on the data plane.
    In { gateway: &'a str, task: &'a str, sample: &'a str },
    /// The label of a sample, on the data plane.
    Label { gateway: &'a str, task: &'a str, sample: &'a str },
    /// A prediction, on the data plane.
    Out { gateway: &'a str, task: &'a str, sample: &'a str },
}

/// A topic's text.
pub type TopicText = heapless::String<MAX_TOPIC>;

/// Hex digits of a backbone fingerprint that name its pointer topic.
pub const FINGERPRINT_PREFIX: usize = 16;

impl<'a> Topic<'a> {
    /// Parses `text`; `None` when it is not a topic of `site` or a level is not a valid name.
    pub fn parse(site: &str, text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?.strip_prefix('/')?.strip_prefix(site)?.strip_prefix('/')?;
        let mut levels: heapless::Vec<&str, 6> = heapless::Vec::new();
        for level in rest.split('/') {
            Name::new(level)?;
            levels.push(level).ok()?;
        }
        Some(match levels[..] {
            ["gw", gateway, "state"] => Self::State { gateway },
            ["gw", gateway, "report"] => Self::Report { gateway },
            ["gw", gateway, "up"] => Self::Up { gateway },
            ["gw", gateway, "down"] => Self::Down { gateway },
            ["gw", gateway, "in", task, sample] => Self::In { gateway, task, sample },
            ["gw", gateway, "label", task, sample] => Self::Label { gateway, task, sample },
            ["gw", gateway, "out", task, sample] => Self::Out { gateway, task, sample },
            ["task", task] => Self::Task { task },
            ["task", task, "module", backbone] if is_prefix(backbone) => Self::Pointer { task, backbone },
            _ => return None,
        })
    }

    /// The topic's text below `site`.
    ///
    /// # Panics
    /// Never for valid names: [`MAX_TOPIC`] holds the longest combination.
    pub fn text(&self, site: &str) -> TopicText {
        let mut out = TopicText::new();
        let fits = match *self {
            Self::State { gateway } => write!(out, "{PREFIX}/{site}/gw/{gateway}/state"),
            Self::Report { gateway } => write!(out, "{PREFIX}/{site}/gw/{gateway}/report"),
            Self::Up { gateway } => write!(out, "{PREFIX}/{site}/gw/{gateway}/up"),
            Self::Down { gateway } => write!(out, "{PREFIX}/{site}/gw/{gateway}/down"),
            Self::Task { task } => write!(out, "{PREFIX}/{site}/task/{task}"),
            Self::Pointer { task, backbone } => {
                let prefix = backbone.get(..FINGERPRINT_PREFIX).unwrap_or(backbone);
                write!(out, "{PREFIX}/{site}/task/{task}/module/{prefix}")
            }
            Self::In { gateway, task, sample } => {
                write!(out, "{PREFIX}/{site}/gw/{gateway}/in/{task}/{sample}")
            }
            Self::Label { gateway, task, sample } => {
                write!(out, "{PREFIX}/{site}/gw/{gateway}/label/{task}/{sample}")
            }
            Self::Out { gateway, task, sample } => {
                write!(out, "{PREFIX}/{site}/gw/{gateway}/out/{task}/{sample}")
            }
        };
        fits.expect("MAX_TOPIC holds every combination of valid names");
        out
    }
}

/// Whether a level is what [`Topic::text`] writes of a fingerprint: a topic has one text.
fn is_prefix(level: &str) -> bool {
    level.len() == FINGERPRINT_PREFIX && level.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_safe_as_levels_and_files() {
        for good in ["a", "press-7", "A.b_c-9"] {
            assert!(Name::new(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a+b", "#", "ä", "a b", &"x".repeat(65)] {
            assert!(Name::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn every_topic_survives_a_round_trip() {
        let (gateway, task, sample) = ("g1", "digits", "s-1");
        for topic in [
            Topic::State { gateway },
            Topic::Report { gateway },
            Topic::Up { gateway },
            Topic::Down { gateway },
            Topic::Task { task },
            Topic::Pointer { task, backbone: "0123456789abcdef" },
            Topic::In { gateway, task, sample },
            Topic::Label { gateway, task, sample },
            Topic::Out { gateway, task, sample },
        ] {
            let text = topic.text("plant");
            assert_eq!(Topic::parse("plant", &text), Some(topic));
            assert_eq!(Topic::parse("other", &text), None);
        }
    }

    #[test]
    fn the_longest_topic_fits() {
        let long = "x".repeat(MAX_NAME);
        let text = Topic::Label { gateway: &long, task: &long, sample: &long }.text(&long);
        assert_eq!(text.len(), PREFIX.len() + 4 * MAX_NAME + "//gw//label//".len());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = Topic::parse("plant", &text);
        }
    }
}
