//! What a sample is.

use super::{ManifestError, check};
use serde::{Deserialize, Serialize};

/// Lowest and highest value a sensor gives.
pub type Bounds = [f64; 2];

/// The range of a window's channels: one pair for all of them, or one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Range {
    /// The same for all channels.
    All(Bounds),
    /// One for each channel, in order.
    Each(Vec<Bounds>),
}

impl Range {
    /// The bounds of a channel.
    pub fn of(&self, channel: usize) -> Option<Bounds> {
        match self {
            Self::All(bounds) => Some(*bounds),
            Self::Each(each) => each.get(channel).copied(),
        }
    }

    fn list(&self) -> &[Bounds] {
        match self {
            Self::All(bounds) => std::slice::from_ref(bounds),
            Self::Each(each) => each,
        }
    }
}

/// What a sample is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "modality", rename_all = "lowercase", deny_unknown_fields)]
pub enum Input {
    /// A stretch of one or more sensor channels.
    Window {
        /// Channels per window.
        channels: usize,
        /// Points per channel, where fixed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<usize>,
        /// Points a channel is resampled to; the backbone's usual number where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        points: Option<usize>,
        /// Points per second.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<f64>,
        /// Unit of the values, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        units: Option<String>,
        /// What the sensors can give.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<Range>,
        /// Whether level and amplitude of each channel are features; needs `range`.
        #[serde(default, skip_serializing_if = "is_false")]
        levels: bool,
    },
    /// A PNG or JPEG picture.
    Picture {
        /// Rows and columns a picture is resampled to; the backbone's usual number where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        side: Option<usize>,
        /// Whether colour counts; otherwise pictures are turned to grey.
        #[serde(default, skip_serializing_if = "is_false")]
        colour: bool,
        /// Whether brightness and contrast are features.
        #[serde(default, skip_serializing_if = "is_false")]
        levels: bool,
    },
    /// Text in UTF-8.
    Text {},
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Input {
    /// Its name in manifests.
    pub fn modality(&self) -> &'static str {
        match self {
            Self::Window { .. } => "window",
            Self::Picture { .. } => "picture",
            Self::Text {} => "text",
        }
    }

    /// Channels that are encoded one by one.
    pub fn channels(&self) -> usize {
        match self {
            Self::Window { channels, .. } => *channels,
            Self::Picture { colour: true, .. } => 3,
            Self::Picture { .. } | Self::Text {} => 1,
        }
    }

    /// Whether two level features per channel follow the projected ones.
    pub fn levels(&self) -> bool {
        match self {
            Self::Window { levels, .. } | Self::Picture { levels, .. } => *levels,
            Self::Text {} => false,
        }
    }

    /// The range of a channel whose level is a feature: the declared one, 0 to 1 for a picture.
    pub fn range(&self, channel: usize) -> Option<Bounds> {
        match self {
            Self::Window { range, .. } => range.as_ref()?.of(channel),
            Self::Picture { .. } => Some([0.0, 1.0]),
            Self::Text {} => None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ManifestError> {
        let channels = self.channels();
        check("input.channels", &channels, (1..=64).contains(&channels), "1 to 64")?;
        let steps = |key, value: Option<usize>, most, range| {
            let value = value.unwrap_or(16);
            check(key, &value, (16..=most).contains(&value) && value.is_multiple_of(16), range)
        };
        match self {
            Self::Window { length, points, rate, units, range, levels, .. } => {
                let length = length.unwrap_or(1);
                check("input.length", &length, (1..=1 << 20).contains(&length), "1 to 1048576")?;
                steps("input.points", *points, 4096, "a multiple of 16 up to 4096")?;
                let rate = rate.unwrap_or(1.0);
                check(
                    "input.rate",
                    &rate,
                    rate > 0.0 && rate <= 1e9,
                    "points per second, above 0, at most 1e9",
                )?;
                let units = units.as_deref().unwrap_or("1");
                let sound = (1..=32).contains(&units.len()) && !units.contains(char::is_control);
                check("input.units", &units, sound, "1 to 32 bytes without control characters")?;
                check(
                    "input.levels",
                    levels,
                    !levels || range.is_some(),
                    "accompanied by `input.range`, for a level means nothing without one",
                )?;
                let list = range.as_ref().map_or(&[][..], Range::list);
                let many = !matches!(range, Some(Range::Each(_))) || list.len() == channels;
                check("input.range", &list.len(), many, "one pair, or one pair for each channel")?;
                for [low, high] in list {
                    let sound = low.is_finite() && high.is_finite() && low < high;
                    let given = format!("[{low}, {high}]");
                    check("input.range", &given, sound, "the lower number first, both finite")?;
                }
                Ok(())
            }
            Self::Picture { side, .. } => steps("input.side", *side, 256, "a multiple of 16 up to 256"),
            Self::Text {} => Ok(()),
        }
    }

    /// What of the declaration changes what features mean.
    pub(super) fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut put = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a string takes all text");
        match self {
            Self::Window { points, rate, .. } => {
                if let Some(points) = points {
                    put(format_args!(" points {points}"));
                }
                if let Some(rate) = rate {
                    put(format_args!(" rate {rate:?}"));
                }
            }
            Self::Picture { side, colour, .. } => {
                if let Some(side) = side {
                    put(format_args!(" side {side}"));
                }
                if *colour {
                    put(format_args!(" colour"));
                }
            }
            Self::Text {} => {}
        }
        if self.levels() {
            put(format_args!(" levels"));
            for [low, high] in (0..self.channels()).filter_map(|channel| self.range(channel)) {
                put(format_args!(" {low:?}:{high:?}"));
            }
        }
        text
    }
}
