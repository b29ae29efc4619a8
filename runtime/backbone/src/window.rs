//! Windows: JSON or raw little-endian f32.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::input::{InputError, MAX_CHANNELS, MAX_NUMBERS};
use crate::picture;

/// How many leading bytes decide between text and raw numbers. Random bytes are this long a text less often
/// than once in 10^20.
const SNIFFED: usize = 64;
/// Some programs put this before every text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The window's channels, each at least one finite number of f32's range.
pub(crate) fn read(
    channels: usize,
    length: Option<usize>,
    payload: &[u8],
) -> Result<Vec<Vec<f64>>, InputError> {
    let window = if let Some(text) = text_of(payload) {
        let window = read_json(text)?;
        if window.len() != channels {
            return Err(InputError::WrongChannels { expected: channels, got: window.len() });
        }
        window
    } else {
        read_raw(channels, length, payload)?
    };
    for (channel, numbers) in window.iter().enumerate() {
        if numbers.is_empty() {
            return Err(InputError::EmptyChannel { channel });
        }
        if let Some(expected) = length.filter(|&expected| expected != numbers.len()) {
            return Err(InputError::WrongLength { channel, expected, got: numbers.len() });
        }
        if let Some(index) = numbers.iter().position(|&v| !(v as f32).is_finite()) {
            return Err(InputError::NotFinite { channel, index });
        }
    }
    Ok(window)
}

fn read_raw(channels: usize, length: Option<usize>, payload: &[u8]) -> Result<Vec<Vec<f64>>, InputError> {
    let is_picture = match picture::sniff(payload) {
        Some(image::ImageFormat::Png) => true,
        // Three magic bytes are too few to refuse numbers by; a JPEG has its end marker as well.
        Some(_) => picture::jpeg_ends(payload),
        None => false,
    };
    if is_picture {
        return Err(InputError::WrongModality { expected: "a window", got: "a picture" });
    }
    if !payload.len().is_multiple_of(4 * channels) {
        return Err(InputError::RawLength { bytes: payload.len(), channels });
    }
    let numbers = payload.len() / 4;
    if numbers > MAX_NUMBERS {
        return Err(InputError::TooManyNumbers);
    }
    let got = numbers / channels;
    if let Some(expected) = length.filter(|&expected| expected != got) {
        return Err(InputError::WrongLength { channel: 0, expected, got });
    }
    Ok(payload
        .chunks_exact(4 * got)
        .map(|channel| channel.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect())
        .collect())
}

/// The payload as text to be read as JSON, or `None` when it is raw numbers. Text that is not JSON (a CSV line,
/// say) must end in an error, never in numbers made of its letters; a text too short to tell counts as raw
/// unless it opens with a bracket.
fn text_of(payload: &[u8]) -> Option<&[u8]> {
    let text = payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload);
    let start = &text[..text.len().min(SNIFFED)];
    let known = match str::from_utf8(start) {
        Ok(known) => known,
        // A character cut by the sniffed length is no contradiction.
        Err(error) if error.error_len().is_none() => str::from_utf8(&start[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let printable = known.chars().all(|c| !c.is_control() || c.is_ascii_whitespace());
    let bracket = known.trim_start().starts_with(['[', '{']);
    (printable && (bracket || text.len() >= SNIFFED)).then_some(text)
}

fn read_json(payload: &[u8]) -> Result<Vec<Vec<f64>>, InputError> {
    let mut budget = Budget { numbers: MAX_NUMBERS, spent: false };
    let mut text = serde_json::Deserializer::from_slice(payload);
    let window =
        WindowSeed(&mut budget).deserialize(&mut text).and_then(|window| text.end().map(|()| window));
    match window {
        _ if budget.spent => Err(InputError::TooManyNumbers),
        Ok(window) => Ok(window),
        Err(error) => Err(InputError::Json { what: error.to_string() }),
    }
}

/// What is left to read, over all channels.
struct Budget {
    numbers: usize,
    spent: bool,
}

impl Budget {
    fn exhaust<E: serde::de::Error>(&mut self) -> E {
        self.spent = true;
        E::custom("the window is too long")
    }

    fn take<E: serde::de::Error>(&mut self) -> Result<(), E> {
        match self.numbers.checked_sub(1) {
            Some(left) => {
                self.numbers = left;
                Ok(())
            }
            None => Err(self.exhaust()),
        }
    }
}

/// A number or a channel of numbers.
enum Item {
    Number(f64),
    Channel(Vec<f64>),
}

struct ItemSeed<'b>(&'b mut Budget);

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = Item;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or an array of numbers")
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Item, E> {
        self.0.take()?;
        Ok(Item::Number(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Item, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Item, E> {
        self.visit_f64(value as f64)
    }

    /// `null` is how JSON writers spell a missing or non-finite number; it is refused later, by its place.
    fn visit_unit<E: serde::de::Error>(self) -> Result<Item, E> {
        self.visit_f64(f64::NAN)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut channel = Vec::new();
        while let Some(item) = items.next_element_seed(ItemSeed(&mut *self.0))? {
            match item {
                Item::Number(number) => channel.push(number),
                Item::Channel(_) => return Err(A::Error::custom("arrays are nested deeper than channels")),
            }
        }
        Ok(Item::Channel(channel))
    }
}

struct WindowSeed<'b>(&'b mut Budget);

impl<'de> DeserializeSeed<'de> for WindowSeed<'_> {
    type Value = Vec<Vec<f64>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for WindowSeed<'_> {
    type Value = Vec<Vec<f64>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object with the key \"channels\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut channels = Vec::new();
        let mut only = Vec::new();
        while let Some(item) = items.next_element_seed(ItemSeed(&mut *self.0))? {
            match item {
                Item::Number(number) if channels.is_empty() => only.push(number),
                Item::Channel(_) if channels.len() == MAX_CHANNELS => return Err(self.0.exhaust()),
                Item::Channel(channel) if only.is_empty() => channels.push(channel),
                _ => return Err(A::Error::custom("numbers and channels are mixed")),
            }
        }
        if channels.is_empty() {
            channels.push(only);
        }
        Ok(channels)
    }

    /// Other keys (a time stamp, a sensor's name) are passed over.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut window = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "channels" {
                map.next_value::<IgnoredAny>()?;
            } else if window.is_some() {
                return Err(A::Error::custom("the key \"channels\" stands twice"));
            } else {
                window = Some(map.next_value_seed(WindowSeed(&mut *self.0))?);
            }
        }
        window.ok_or_else(|| A::Error::custom("the key \"channels\" is missing"))
    }
}
