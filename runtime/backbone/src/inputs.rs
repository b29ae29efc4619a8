//! The `[input]` tables of `backbone.toml`: which windows, pictures and texts a backbone takes, and the row of its
//! embedding table that every token uses.

use serde::Deserialize;

use crate::spec::Modality;

/// Numbers of one token of a window or picture.
pub(crate) const PATCH: usize = 16;
/// Rows and columns of one token of a picture.
pub(crate) const PATCH_SIDE: usize = 4;
/// A picture's side is a multiple of this, so that the half-sized chroma planes of colour divide into tokens.
const SIDE_STEP: usize = 16;
/// Longest window, in points.
const MAX_LENGTH: usize = 4096;
/// Largest picture, in pixels of a side.
const MAX_SIDE: usize = 256;
/// Most lengths or sides a bundle offers.
const MAX_CHOICES: usize = 16;
/// Most rows of the embedding table.
const MAX_TOKEN_ROWS: i64 = 1 << 16;
/// Most tokens of a text; attention grows with their square.
const MAX_TEXT_TOKENS: usize = 1024;

/// At least one table is there; text stands alone, because its first segment takes other inputs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    pub(crate) window: Option<WindowInput>,
    pub(crate) picture: Option<PictureInput>,
    pub(crate) text: Option<TextInput>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowInput {
    /// Points a channel may be resampled to, rising.
    pub(crate) lengths: Vec<usize>,
    pub(crate) default: usize,
    pub(crate) patch: usize,
    pub(crate) first_token: i64,
    pub(crate) positions: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PictureInput {
    /// Pixels a side may be resampled to, rising.
    pub(crate) sides: Vec<usize>,
    pub(crate) default: usize,
    pub(crate) patch_side: usize,
    pub(crate) first_token: i64,
    /// Rows and columns of the grid of embedding rows.
    pub(crate) positions: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextInput {
    pub(crate) tokenizer: String,
    /// Special tokens included.
    pub(crate) max_tokens: usize,
}

/// Middle of cell `index` of `count`, on a scale of `positions` cells.
fn strided(index: usize, count: usize, positions: usize) -> i64 {
    ((2 * index + 1) * positions / (2 * count)) as i64
}

impl WindowInput {
    /// Embedding rows of a window of `length` points.
    pub(crate) fn token_ids(&self, length: usize) -> Vec<i64> {
        let count = length / PATCH;
        (0..count).map(|index| self.first_token + strided(index, count, self.positions)).collect()
    }
}

impl PictureInput {
    /// Embedding rows of a plane of `side` × `side` pixels, row-major.
    pub(crate) fn token_ids(&self, side: usize) -> Vec<i64> {
        let count = side / PATCH_SIDE;
        let at = |index| strided(index, count, self.positions);
        (0..count * count)
            .map(|index| self.first_token + at(index / count) * self.positions as i64 + at(index % count))
            .collect()
    }
}

impl Inputs {
    pub(crate) fn takes(&self, modality: Modality) -> bool {
        match modality {
            Modality::Window => self.window.is_some(),
            Modality::Picture => self.picture.is_some(),
            Modality::Text => self.text.is_some(),
        }
    }

    /// Names of the inputs of the first segment.
    pub(crate) fn first_segment_takes(&self) -> &'static [&'static str] {
        if self.text.is_some() { &["token_ids"] } else { &["patches", "token_ids"] }
    }

    /// Token counts of the inputs that are offered by default, for engines that plan ahead.
    #[cfg_attr(not(feature = "tract"), allow(dead_code))]
    pub(crate) fn usual_tokens(&self) -> Vec<usize> {
        let window = self.window.iter().map(|window| window.default / PATCH);
        let picture = self.picture.iter().map(|picture| (picture.default / PATCH_SIDE).pow(2));
        window.chain(picture).collect()
    }

    /// First thing this runtime cannot do, in words.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let fixed = [
            ("window] patch", self.window.as_ref().map(|window| window.patch), PATCH),
            ("picture] patch_side", self.picture.as_ref().map(|picture| picture.patch_side), PATCH_SIDE),
        ];
        for (key, got, want) in fixed {
            if let Some(got) = got.filter(|&got| got != want) {
                return Some(format!("[input.{key} is {got}, this runtime prepares {want}"));
            }
        }
        match (&self.window, &self.picture, &self.text) {
            (None, None, None) => return Some("[input] has no window, picture or text".into()),
            (None, None, Some(text)) => {
                return (!(3..=MAX_TEXT_TOKENS).contains(&text.max_tokens)).then(|| {
                    format!(
                        "[input.text] max_tokens is {}, allowed are 3 to {MAX_TEXT_TOKENS}",
                        text.max_tokens
                    )
                });
            }
            (_, _, Some(_)) => {
                return Some("[input.text] stands beside another input; give it a bundle of its own".into());
            }
            _ => {}
        }
        let window = self.window.as_ref().and_then(|window| {
            choices("[input.window] lengths", &window.lengths, window.default, PATCH, MAX_LENGTH)
                .or_else(|| rows("[input.window]", window.first_token, window.positions, 1))
        });
        window.or_else(|| {
            let picture = self.picture.as_ref()?;
            choices("[input.picture] sides", &picture.sides, picture.default, SIDE_STEP, MAX_SIDE)
                .or_else(|| rows("[input.picture]", picture.first_token, picture.positions, 2))
        })
    }
}

fn choices(key: &str, offered: &[usize], default: usize, step: usize, most: usize) -> Option<String> {
    let fits = |&size: &usize| (step..=most).contains(&size) && size.is_multiple_of(step);
    if !(1..=MAX_CHOICES).contains(&offered.len())
        || !offered.iter().all(fits)
        || !offered.is_sorted_by(|a, b| a < b)
    {
        return Some(format!(
            "{key} are {offered:?}; allowed are 1 to {MAX_CHOICES} rising multiples of {step} up to {most}"
        ));
    }
    (!offered.contains(&default)).then(|| format!("{key} do not hold the default {default}"))
}

/// The embedding rows `first .. first + positions^power` must be countable.
fn rows(table: &str, first: i64, positions: usize, power: u32) -> Option<String> {
    let count = positions.checked_pow(power).and_then(|count| i64::try_from(count).ok());
    let end = count.and_then(|count| first.checked_add(count));
    let good = positions >= 1 && first >= 0 && end.is_some_and(|end| end <= MAX_TOKEN_ROWS);
    (!good).then(|| {
        format!("{table} first_token {first} and positions {positions} leave the embedding rows 0..{MAX_TOKEN_ROWS}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(positions: usize) -> WindowInput {
        WindowInput { lengths: vec![256], default: 256, patch: PATCH, first_token: 5, positions }
    }

    #[test]
    fn tokens_sit_in_the_middle_of_their_share_of_the_rows() {
        assert_eq!(window(16).token_ids(256), (5..21).collect::<Vec<i64>>());
        assert_eq!(window(64).token_ids(64), [13, 29, 45, 61]);
        assert_eq!(window(64).token_ids(1024), (5..69).collect::<Vec<i64>>());
        // More tokens than rows: neighbours share one.
        assert_eq!(window(2).token_ids(64), [5, 5, 6, 6]);
    }

    #[test]
    fn a_picture_strides_rows_and_columns_alike() {
        let picture = PictureInput {
            sides: vec![16],
            default: 16,
            patch_side: PATCH_SIDE,
            first_token: 64,
            positions: 16,
        };
        let at = [2, 6, 10, 14];
        let expected: Vec<i64> = at.iter().flat_map(|r| at.iter().map(move |c| 64 + 16 * r + c)).collect();
        assert_eq!(picture.token_ids(16), expected);
        assert_eq!(
            picture.token_ids(8),
            [64 + 4 * 16 + 4, 64 + 4 * 16 + 12, 64 + 12 * 16 + 4, 64 + 12 * 16 + 12]
        );
        assert_eq!(picture.token_ids(64), (64..320).collect::<Vec<i64>>());
    }
}
