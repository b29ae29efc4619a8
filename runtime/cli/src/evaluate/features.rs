//! Features of every sample at every exit, as a gateway would store them, computed once and kept in a file.

use super::error::EvaluateError;
use crate::data::DataSet;
use loadonce_backbone::{Backbone, Channel, InputSpec, Prepared, Preparer};
use loadonce_control::{ForecastSpec, Input, TaskManifest};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest feature file that is read.
const MAX_BYTES: u64 = 1 << 30;
/// Samples a thread takes at a time.
const SLICE: usize = 16;
/// What standardizing adds to a deviation; `docs/bundle-format.md`.
const FLOOR: f64 = 1e-4;

/// `n × exits × features` numbers, and what they are made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Features {
    /// Exits.
    pub(crate) exits: usize,
    /// Features per exit.
    pub(crate) width: usize,
    /// The numbers.
    pub(crate) z: Vec<f32>,
    /// Mean of each sample's first or forecast channel and what its values are divided by, one pair per sample.
    pub(crate) scales: Vec<(f64, f64)>,
    /// What a module of them would be bound to: input, features per channel, fingerprint of the backbone.
    pub(crate) of: String,
    /// blake3 of the data file.
    pub(crate) data: String,
}

impl Features {
    /// Features of one sample, `exits × features`.
    pub(crate) fn row(&self, sample: usize) -> &[f32] {
        let size = self.exits * self.width;
        &self.z[sample * size..(sample + 1) * size]
    }

    /// Runs every sample through the product's own pre-processing and backbone, on `threads` threads.
    pub(crate) fn compute(
        backbone: &Backbone,
        manifest: &TaskManifest,
        set: &DataSet,
        path: &Path,
        threads: usize,
    ) -> Result<Self, EvaluateError> {
        let bundle = backbone.bundle();
        let (exits, directions) = (bundle.exits(), bundle.directions());
        let failed = |e: &dyn std::fmt::Display| EvaluateError::Backbone(e.to_string());
        // Both sides write the declaration alike.
        let spec: InputSpec =
            serde_json::to_value(&manifest.input).and_then(serde_json::from_value).map_err(|e| failed(&e))?;
        let lags = manifest.forecast.as_ref().map(ForecastSpec::lags).unwrap_or_default();
        let preparer = Preparer::new(bundle, &spec).map_err(|e| failed(&e))?;
        let preparer = preparer.keep_tail(manifest.forecast.as_ref().map_or(0, ForecastSpec::reach));
        let per_channel = manifest.features_per_channel(directions);
        let width = per_channel * manifest.input.channels() + manifest.extras();
        let one = |sample: usize| -> Result<(Vec<f32>, (f64, f64)), EvaluateError> {
            let refused = |what: String| EvaluateError::Sample { sample, path: path.to_owned(), what };
            let payload = &set.payloads[sample];
            // The data file says that these are numbers; nobody has to guess it from their bytes.
            let input = match manifest.input {
                Input::Window { .. } => preparer.prepare_numbers(numbers(payload, manifest.input.channels())),
                Input::Picture { .. } | Input::Text {} => preparer.prepare(payload),
            };
            let input = input.map_err(|e| refused(e.to_string()))?;
            let (extras, scale) = extras(manifest, set, sample, &input, &lags).map_err(refused)?;
            let mut pass = backbone.begin(&input);
            let (mut all, mut z) = (Vec::with_capacity(exits * width), Vec::new());
            while pass.next_exit(per_channel, &mut z).map_err(|e| failed(&e))? {
                all.extend_from_slice(&z);
                all.extend_from_slice(&extras);
            }
            Ok((all, scale))
        };
        let n = set.payloads.len();
        let slices = in_parallel(n.div_ceil(SLICE), threads, |slice| {
            (slice * SLICE..n.min((slice + 1) * SLICE)).map(one).collect::<Result<Vec<_>, _>>()
        })?;
        let (mut z, mut scales) = (Vec::with_capacity(n * exits * width), Vec::with_capacity(n));
        for (row, scale) in slices.into_iter().flatten() {
            z.extend(row);
            scales.push(scale);
        }
        let of = manifest.features_of(bundle.fingerprint(), directions);
        Ok(Self { exits, width, z, scales, of, data: set.hash.clone() })
    }

    /// Writes the file; a reader never sees half of it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), EvaluateError> {
        let bytes: Vec<u8> = self.z.iter().flat_map(|z| z.to_le_bytes()).collect();
        let n = self.z.len() / (self.exits * self.width);
        let view = TensorView::new(Dtype::F32, vec![n, self.exits, self.width], &bytes);
        let wrong = |e: String| EvaluateError::Content { path: path.to_owned(), what: e };
        let view = view.map_err(|e| wrong(e.to_string()))?;
        let metadata =
            HashMap::from([("of".to_owned(), self.of.clone()), ("data".to_owned(), self.data.clone())]);
        let scales: Vec<u8> = self
            .scales
            .iter()
            .flat_map(|(mean, unit)| [mean.to_le_bytes(), unit.to_le_bytes()])
            .flatten()
            .collect();
        let scales = TensorView::new(Dtype::F64, vec![self.scales.len(), 2], &scales);
        let tensors = [("z", view), ("scales", scales.map_err(|e| wrong(e.to_string()))?)];
        let file = safetensors::serialize(tensors, Some(metadata)).map_err(|e| wrong(e.to_string()))?;
        let part = path.with_extension("part");
        std::fs::write(&part, file)
            .and_then(|()| std::fs::rename(&part, path))
            .map_err(|source| EvaluateError::File { doing: "write", path: path.to_owned(), source })
    }

    /// Reads a file that [`Self::write`] or `models/` wrote.
    pub(crate) fn read(path: &Path) -> Result<Self, EvaluateError> {
        let file = |source| EvaluateError::File { doing: "read", path: path.to_owned(), source };
        let wrong = |what: String| EvaluateError::Content { path: path.to_owned(), what };
        let size = std::fs::metadata(path).map_err(file)?.len();
        if size > MAX_BYTES {
            return Err(wrong(format!("{size} bytes; at most {MAX_BYTES} are read")));
        }
        Self::parse(&std::fs::read(path).map_err(file)?).map_err(wrong)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, head) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let known = |key: &str| {
            let found = head.metadata().as_ref().and_then(|map| map.get(key)).cloned();
            found.ok_or_else(|| format!("the metadata lacks `{key}`"))
        };
        let (of, data) = (known("of")?, known("data")?);
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let z = tensors.tensor("z").map_err(|e| format!("tensor z: {e}"))?;
        let (Dtype::F32, &[n, exits, width]) = (z.dtype(), z.shape()) else {
            return Err(format!(
                "z is {:?} {:?}, but must be F32 [n, exits, features]",
                z.dtype(),
                z.shape()
            ));
        };
        if exits == 0 || width == 0 {
            return Err("z is empty".into());
        }
        let z: Vec<f32> =
            z.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if let Some(at) = z.iter().position(|z| !z.is_finite()) {
            return Err(format!("number {at} of z is not finite"));
        }
        let scales = match tensors.tensor("scales") {
            Err(_) => vec![(0.0, 1.0); n],
            Ok(scales) if scales.dtype() == Dtype::F64 && scales.shape() == [n, 2] => {
                let numbers: Vec<f64> =
                    scales.data().as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
                numbers.as_chunks::<2>().0.iter().map(|&[mean, unit]| (mean, unit)).collect()
            }
            Ok(_) => return Err("scales must be F64 [n, 2]".into()),
        };
        if scales.iter().any(|(mean, unit)| !mean.is_finite() || !unit.is_finite() || *unit <= 0.0) {
            return Err("a scale is not finite, or not above 0".into());
        }
        Ok(Self { exits, width, z, scales, of, data })
    }

    /// Refuses features of other samples.
    pub(crate) fn check(&self, set: &DataSet, path: &Path) -> Result<(), EvaluateError> {
        let n = set.payloads.len();
        if self.data == set.hash && self.z.len() == n * self.exits * self.width {
            return Ok(());
        }
        Err(EvaluateError::Content {
            path: path.to_owned(),
            what: "these are features of another data file; remove the file to make them again".into(),
        })
    }
}

/// Channels of a window that is packed as little-endian f32.
fn numbers(payload: &[u8], channels: usize) -> Vec<Vec<f64>> {
    let all: Vec<f64> =
        payload.as_chunks::<4>().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect();
    all.chunks((all.len() / channels.max(1)).max(1)).map(<[f64]>::to_vec).collect()
}

/// Levels, lags and calendar of a sample, and the scale of its forecast channel.
fn extras(
    manifest: &TaskManifest,
    set: &DataSet,
    sample: usize,
    input: &Prepared,
    lags: &[usize],
) -> Result<(Vec<f32>, (f64, f64)), String> {
    let mut extras = input.levels().to_vec();
    let target = manifest.forecast.as_ref().map_or(0, |forecast| forecast.target);
    let channel = input.channels().get(target).ok_or("it has no such channel")?;
    let (mean, deviation) = (channel.mean(), channel.deviation());
    let scale = manifest
        .forecast
        .as_ref()
        .map_or((mean, deviation + FLOOR), |forecast| forecast.scale(mean, deviation, channel.tail()));
    extras.extend(lags.iter().map(|&lag| lagged(channel, lag, scale)).collect::<Result<Vec<_>, _>>()?);
    if manifest.forecast.as_ref().is_some_and(|forecast| !forecast.calendar.is_empty()) {
        let times = set.future.as_ref().map(|future| future.times.as_slice()).unwrap_or_default();
        let time = *times.get(sample).ok_or("the calendar needs `time` in the data file")?;
        manifest.append_calendar(time, &mut extras);
    }
    Ok((extras, scale))
}

/// The value `lag` steps from the window's end, standardized.
fn lagged(channel: &Channel, lag: usize, (mean, unit): (f64, f64)) -> Result<f32, String> {
    let tail = channel.tail();
    let value = tail.len().checked_sub(lag).and_then(|at| tail.get(at));
    value
        .map(|value| ((value - mean) / unit) as f32)
        .ok_or(format!("it has no value {lag} steps from its end"))
}

/// Does pieces of work 0 to `count` on `threads` threads; results in order, or the first error seen.
pub(crate) fn in_parallel<T: Send, E: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    let piece = next.fetch_add(1, Ordering::Relaxed);
                    if piece >= count || failed.load(Ordering::Relaxed) != usize::MAX {
                        return;
                    }
                    let result = work(piece);
                    if result.is_err() {
                        failed.fetch_min(piece, Ordering::Relaxed);
                    }
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((piece, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(piece, _)| *piece);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.safetensors");
        let features = Features {
            exits: 2,
            width: 3,
            z: (0..12u8).map(f32::from).collect(),
            scales: vec![(0.5, 2.0), (-1.0, 1e-4)],
            of: "window 1x3 abc".into(),
            data: "def".into(),
        };
        features.write(&path).unwrap();
        assert_eq!(Features::read(&path).unwrap(), features);
        assert_eq!(features.row(1), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let mut bad = features.clone();
        bad.z[5] = f32::NAN;
        bad.write(&path).unwrap();
        assert!(Features::read(&path).unwrap_err().to_string().contains("number 5"));
    }

    #[test]
    fn pieces_come_back_in_order_and_an_error_ends_the_work() {
        let squares = in_parallel(100, 3, |i| Ok::<_, ()>(i * i)).unwrap();
        assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<_>>());
        assert_eq!(in_parallel(100, 3, |i| if i == 40 { Err(i) } else { Ok(i) }), Err(40));
        assert_eq!(in_parallel(0, 3, |_| Ok::<u8, ()>(1)), Ok(vec![]));
    }
}
