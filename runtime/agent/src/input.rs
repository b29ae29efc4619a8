//! The seam to the backbone: how a task's samples are described to it, and the numbers that follow its features.

use crate::record::Scale;
use crate::refusal::Refusal;
use crate::time::parse_time;
use loadonce_backbone::{Bundle, InputError, InputSpec, MAX_TAIL, Prepared, Preparer};
use loadonce_control::{ForecastSpec, Input, TaskManifest};
use serde::Deserialize;

/// Longest name of a series.
const MAX_SERIES: usize = 64;

/// The manifest's declaration as the backbone takes it; both write it alike.
pub(crate) fn describe(input: &Input) -> Result<InputSpec, InputError> {
    serde_json::to_value(input)
        .and_then(serde_json::from_value)
        .map_err(|error| InputError::Spec { what: error.to_string() })
}

/// Reads the samples of one task.
pub(crate) struct Reader {
    preparer: Preparer,
    forecast: Option<ForecastSpec>,
    lags: Vec<usize>,
}

/// A sample, read.
pub(crate) struct Sample {
    /// For the backbone.
    pub prepared: Prepared,
    /// Numbers that follow the features of every exit: levels, lags, calendar.
    pub extras: Vec<f32>,
    /// Of a forecast's target.
    pub scale: Option<Scale>,
    /// When and where it ends, if it said so.
    pub place: Option<Place>,
}

/// When a window ends, and of which series it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// Seconds since the epoch of the last value.
    pub time: f64,
    /// Name of the series; empty for the only one.
    pub series: String,
}

/// What a JSON window says besides its channels.
#[derive(Deserialize)]
struct Stamp {
    time: Option<serde_json::Value>,
    series: Option<String>,
}

impl Reader {
    /// Holds the manifest's input against what `bundle` takes.
    pub(crate) fn new(bundle: &Bundle, manifest: &TaskManifest) -> Result<Self, InputError> {
        let preparer = Preparer::new(bundle, &describe(&manifest.input)?)?;
        let forecast = manifest.forecast.clone();
        let lags = forecast.as_ref().map(ForecastSpec::lags).unwrap_or_default();
        // Later windows label earlier ones with all they hold, so all of it is kept for a moment.
        let tail = if forecast.is_some() { MAX_TAIL } else { 0 };
        Ok(Self { preparer: preparer.keep_tail(tail), forecast, lags })
    }

    /// Reads a payload.
    pub(crate) fn read(&self, manifest: &TaskManifest, payload: &[u8]) -> Result<Sample, Refusal> {
        let prepared = self.preparer.prepare(payload)?;
        let mut extras = prepared.levels().to_vec();
        let Some(forecast) = &self.forecast else {
            return Ok(Sample { prepared, extras, scale: None, place: None });
        };
        let place = place(payload)?;
        let channel = prepared.channels().get(forecast.target).ok_or(Refusal::NotFinite)?;
        let tail = channel.tail();
        let (mean, deviation) = forecast.scale(channel.mean(), channel.deviation(), tail);
        let scale = Scale { mean, deviation };
        for &lag in &self.lags {
            let value = tail.len().checked_sub(lag).map(|at| tail[at]);
            let value = value.ok_or(Refusal::ShortWindow { lag, length: tail.len() })?;
            extras.push(((value - scale.mean) / scale.deviation) as f32);
        }
        match &place {
            Some(place) => manifest.append_calendar(place.time, &mut extras),
            None if forecast.calendar.is_empty() => {}
            None => return Err(Refusal::MissingTime),
        }
        Ok(Sample { prepared, extras, scale: Some(scale), place })
    }

    /// The values of a window's target, oldest first, at most [`MAX_TAIL`].
    pub(crate) fn target<'a>(&self, prepared: &'a Prepared) -> &'a [f64] {
        let target = self.forecast.as_ref().and_then(|forecast| prepared.channels().get(forecast.target));
        target.map_or(&[], |channel| channel.tail())
    }
}

/// The time and series of a JSON window; other forms have none.
pub(crate) fn place(payload: &[u8]) -> Result<Option<Place>, Refusal> {
    let start = payload.iter().find(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte));
    if start != Some(&b'{') {
        return Ok(None);
    }
    let text = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
    let stamp: Stamp = serde_json::from_slice(text).map_err(|_| Refusal::BadTime)?;
    let Some(time) = stamp.time else { return Ok(None) };
    let time = parse_time(&time).ok_or(Refusal::BadTime)?;
    let series = stamp.series.unwrap_or_default();
    if series.len() > MAX_SERIES {
        return Err(Refusal::BadTime);
    }
    Ok(Some(Place { time, series }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_reaches_the_backbone_whole() {
        let manifest = r#"
            name = "a"
            kind = "anomaly"
            backbone = "b"
            input = { modality = "window", channels = 2, length = 9, points = 64, rate = 10.0, units = "g", range = [[0, 1], [-1, 1]], levels = true }
            module = { kind = "moments" }
        "#;
        let manifest = TaskManifest::from_toml(manifest).unwrap();
        let InputSpec::Window(spec) = describe(&manifest.input).unwrap() else { panic!("a window") };
        assert_eq!((spec.channels, spec.length, spec.points, spec.rate), (2, Some(9), Some(64), Some(10.0)));
        assert!(spec.levels && spec.range.is_some() && spec.units.as_deref() == Some("g"));
        for (text, picture) in
            [(Input::Picture { side: Some(48), colour: true, levels: true }, true), (Input::Text {}, false)]
        {
            let spec = describe(&text).unwrap();
            assert_eq!((spec.levels(), spec.channels()), (picture, if picture { 3 } else { 1 }));
        }
    }

    #[test]
    fn windows_say_when_they_end() {
        let at = |text: &str| place(text.as_bytes()).map_err(|refusal| refusal.code());
        assert_eq!(at("[1,2]"), Ok(None));
        assert_eq!(at(r#"{"channels":[[1]]}"#), Ok(None));
        let place = |time, series: &str| Ok(Some(Place { time, series: series.to_owned() }));
        assert_eq!(
            at("\u{feff} {\"channels\":[[1]],\"time\":3600}").map_err(|_| "bad"),
            place(3600.0, "").map_err(|()| "bad")
        );
        let text = r#"{"time":"1970-01-01T01:00:00Z","series":"north","channels":[[1]]}"#;
        assert_eq!(at(text), place(3600.0, "north").map_err(|()| "bad_time"));
        assert_eq!(at(r#"{"time":"noon"}"#), Err("bad_time"));
        assert_eq!(at(r#"{"time":1e300}"#), Err("bad_time"));
    }
}
