//! Windows as JSON, read with a bound on what is allocated.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::refusal::InputError;
use crate::spec::{MAX_CHANNELS, MAX_NUMBERS};
use crate::window::Window;

pub(crate) fn read(payload: &[u8]) -> Result<Window, InputError> {
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

    /// `null` is how JSON writers spell a missing number.
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
    type Value = Window;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Window, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for WindowSeed<'_> {
    type Value = Window;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object with the key \"channels\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Window, A::Error> {
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
        Ok(Window { channels, ..Window::default() })
    }

    /// Keys without a meaning here (a time stamp, a sensor's name) are passed over.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Window, A::Error> {
        fn once<T, E: serde::de::Error>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), E> {
            let twice = slot.replace(value).is_some();
            if twice { Err(E::custom(format_args!("the key \"{key}\" stands twice"))) } else { Ok(()) }
        }
        let (mut channels, mut rate, mut units, mut time) = (None, None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "channels" => {
                    once(&mut channels, &key, map.next_value_seed(WindowSeed(&mut *self.0))?.channels)?;
                }
                "rate" => once(&mut rate, &key, map.next_value::<f64>()?)?,
                "units" => once(&mut units, &key, map.next_value::<String>()?)?,
                "time" => once(&mut time, &key, map.next_value::<Time>()?.0)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let channels = channels.ok_or_else(|| A::Error::custom("the key \"channels\" is missing"))?;
        Ok(Window { channels, rate, units, time: time.flatten() })
    }
}

/// A number, or `None` for anything else, which is passed over without keeping it.
struct Time(Option<f64>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor)
    }
}

struct TimeVisitor;

impl<'de> Visitor<'de> for TimeVisitor {
    type Value = Time;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Time, E> {
        Ok(Time(Some(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Time, E> {
        Ok(Time(Some(value as f64)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Time, E> {
        Ok(Time(Some(value as f64)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Time, E> {
        Ok(Time(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Time, E> {
        Ok(Time(None))
    }

    fn visit_unit<E>(self) -> Result<Time, E> {
        Ok(Time(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Time, A::Error> {
        IgnoredAny.visit_seq(items).map(|_| Time(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Time, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Time(None))
    }
}
