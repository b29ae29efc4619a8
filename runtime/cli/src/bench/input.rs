//! What is timed.

use loadonce_backbone::{Bundle, InputSpec, Modality, PictureSpec, Prepared, Preparer, WindowSpec};
use std::str::FromStr;

/// A modality and its size; no size is the bundle's usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// One channel of so many points.
    Window(Option<usize>),
    /// A grey picture of this side.
    Picture(Option<usize>),
    /// A colour picture of this side.
    Colour(Option<usize>),
    /// A text of about so many tokens.
    Text(usize),
}

/// Tokens of a usual text.
const TEXT_TOKENS: usize = 64;
/// Points of the window, and side of the picture, that is prepared.
const POINTS: usize = 2048;
const SIDE: u32 = 96;

impl FromStr for Timed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, size) = text.split_once(':').map_or((text, None), |(kind, size)| (kind, Some(size)));
        let size = size.map(|size| size.parse::<usize>().ok().filter(|&size| size > 0));
        let size = match size {
            Some(None) => return Err("the size must be a whole number above 0".into()),
            Some(some) => some,
            None => None,
        };
        match kind {
            "window" => Ok(Self::Window(size)),
            "picture" => Ok(Self::Picture(size)),
            "colour" => Ok(Self::Colour(size)),
            "text" => Ok(Self::Text(size.unwrap_or(TEXT_TOKENS))),
            _ => Err("there are window, picture, colour and text, with :SIZE where wanted".into()),
        }
    }
}

impl Timed {
    /// All modalities that a bundle takes.
    pub(crate) fn usual(bundle: &Bundle) -> Vec<Self> {
        [Self::Window(None), Self::Picture(None), Self::Colour(None), Self::Text(TEXT_TOKENS)]
            .into_iter()
            .filter(|timed| bundle.takes(timed.spec().modality()))
            .collect()
    }

    /// The word used on the command line.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Window(_) => "window",
            Self::Picture(_) => "picture",
            Self::Colour(_) => "colour",
            Self::Text(_) => "text",
        }
    }

    /// As a task would declare it.
    pub(crate) fn spec(&self) -> InputSpec {
        match *self {
            Self::Window(points) => {
                InputSpec::Window(WindowSpec { channels: 1, points, ..WindowSpec::default() })
            }
            Self::Picture(side) => InputSpec::Picture(PictureSpec { side, ..PictureSpec::default() }),
            Self::Colour(side) => {
                InputSpec::Picture(PictureSpec { side, colour: true, ..PictureSpec::default() })
            }
            Self::Text(_) => InputSpec::Text {},
        }
    }

    /// A sample without any meaning, but with variation everywhere.
    pub(crate) fn sample(&self, preparer: &Preparer) -> Result<Prepared, String> {
        let wave = |at: usize| (at as f32 * 0.37).sin() + (at as f32 * 0.011).cos();
        let payload: Vec<u8> = match self.spec().modality() {
            Modality::Window => (0..POINTS).flat_map(|at| wave(at).to_le_bytes()).collect(),
            Modality::Picture => {
                let pixels: Vec<u8> =
                    (0..3 * SIDE * SIDE).map(|at| (127.0 + 60.0 * wave(at as usize)) as u8).collect();
                let mut file = std::io::Cursor::new(Vec::new());
                let (rgb, png) = (image::ColorType::Rgb8, image::ImageFormat::Png);
                image::write_buffer_with_format(&mut file, &pixels, SIDE, SIDE, rgb, png)
                    .map_err(|e| e.to_string())?;
                file.into_inner()
            }
            Modality::Text => {
                let Self::Text(tokens) = *self else { return Err("no text".into()) };
                // Every word is one token; two more are added around them.
                let words = ["the", "pump", "on", "line", "four", "is", "getting", "loud", "again"];
                let words = words.iter().cycle().take(tokens.saturating_sub(2).max(1));
                words.copied().collect::<Vec<_>>().join(" ").into_bytes()
            }
        };
        preparer.prepare(&payload).map_err(|e| e.to_string())
    }

    /// The size that was taken: points, side or tokens.
    pub(crate) fn size(&self, sample: &Prepared) -> usize {
        let tokens = sample.channels().first().map_or(0, loadonce_backbone::Channel::tokens);
        match self {
            Self::Window(_) => tokens * 16,
            Self::Picture(_) | Self::Colour(_) => 4 * tokens.isqrt(),
            Self::Text(_) => tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_a_modality_and_a_size() {
        for (text, timed) in [
            ("window", Timed::Window(None)),
            ("window:512", Timed::Window(Some(512))),
            ("colour:48", Timed::Colour(Some(48))),
            ("text:16", Timed::Text(16)),
        ] {
            assert_eq!(text.parse(), Ok(timed), "{text}");
        }
        for wrong in ["sound", "window:", "picture:0", "text:-1"] {
            assert!(wrong.parse::<Timed>().is_err(), "{wrong}");
        }
    }
}
