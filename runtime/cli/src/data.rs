//! Labelled data sets, as the payloads a camera, a sensor or a person would send. `models/data/README.md` describes
//! the files.

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use miette::Diagnostic;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Largest data file that is read.
const MAX_BYTES: u64 = 512 << 20;
/// Longest side of a picture in it, and most points of a channel.
const MAX_SIDE: usize = 1 << 16;

/// Why a data set cannot be used.
#[derive(Debug, Error, Diagnostic)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{}: {what}", path.display())]
    #[diagnostic(help("models/data/README.md describes the form of a data set"))]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A data set, ready to send.
#[derive(Debug)]
pub(crate) struct DataSet {
    /// Class names.
    pub(crate) classes: Vec<String>,
    /// One payload per sample: a PNG picture, little-endian f32 channel after channel, or UTF-8 text.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Class of each sample.
    pub(crate) labels: Vec<u16>,
    /// Samples that gateways may see, in file order.
    pub(crate) train: Vec<usize>,
    /// Samples that only the evaluation sees, in file order.
    pub(crate) test: Vec<usize>,
    /// What follows each window, where it is to be forecast.
    pub(crate) future: Option<Future>,
    /// Event each sample belongs to, 0 for none, where anomalies are marked.
    pub(crate) events: Option<Vec<i32>>,
    /// Training samples that calibrate alarms, where the data says which.
    pub(crate) calibrate: Option<Vec<bool>>,
    /// blake3 of the file.
    pub(crate) hash: String,
}

/// Values to forecast.
#[derive(Debug)]
pub(crate) struct Future {
    /// Steps.
    pub(crate) horizon: usize,
    /// `n × horizon`.
    pub(crate) values: Vec<f32>,
    /// Time of each window's last value, in seconds since the epoch; empty where nobody knows it.
    pub(crate) times: Vec<f64>,
    /// The series before the first test origin.
    pub(crate) history: Vec<f64>,
}

impl DataSet {
    /// Reads samples (`x`, or `text` with `ends`), `y`, `test` and the class names.
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        let file = |source| DataError::File { path: path.to_owned(), source };
        let content = |what| DataError::Content { path: path.to_owned(), what };
        let size = std::fs::metadata(path).map_err(file)?.len();
        if size > MAX_BYTES {
            return Err(content(format!("{size} bytes; at most {MAX_BYTES} are read")));
        }
        let bytes = std::fs::read(path).map_err(file)?;
        Self::parse(&bytes).map_err(content)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, head) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let classes = head.metadata().as_ref().and_then(|map| map.get("classes"));
        let classes: Vec<String> = match classes {
            Some(classes) => serde_json::from_str(classes).map_err(|e| format!("class names: {e}"))?,
            None if tensors.tensor("future").is_ok() => Vec::new(),
            None => return Err("no class names".into()),
        };
        let tensor = |name: &str| tensors.tensor(name).map_err(|e| format!("tensor {name}: {e}"));
        let payloads = match tensors.tensor("text") {
            Ok(text) => texts(&text, &tensor("ends")?)?,
            Err(_) => samples(&tensor("x")?, tensors.tensor("lengths").ok().as_ref())?,
        };
        let n = payloads.len();
        let bytes_of = |name: &str| -> Result<Vec<u8>, String> {
            let tensor = tensor(name)?;
            if tensor.dtype() != Dtype::U8 || tensor.shape() != [n] {
                return Err(format!("{name} must hold one U8 per sample"));
            }
            Ok(tensor.data().to_vec())
        };
        let future = match tensors.tensor("future") {
            Ok(values) => Some(future(&tensors, &values, n)?),
            Err(_) => None,
        };
        let labels: Vec<u16> = match &future {
            Some(_) => Vec::new(),
            None => bytes_of("y")?.into_iter().map(u16::from).collect(),
        };
        if labels.iter().any(|&label| usize::from(label) >= classes.len()) {
            return Err("y names a class that has no name".into());
        }
        let events = tensors.tensor("events").ok().map(|events| i32s("events", &events, n)).transpose()?;
        let calibrate = tensors.tensor("calibrate").is_ok().then(|| bytes_of("calibrate")).transpose()?;
        let calibrate = calibrate.map(|flags| flags.into_iter().map(|flag| flag != 0).collect());
        let held = bytes_of("test")?;
        let (test, train) = (0..n).partition(|&i| held[i] != 0);
        let hash = blake3::hash(bytes).to_hex().to_string();
        Ok(Self { classes, payloads, labels, train, test, future, events, calibrate, hash })
    }

    /// Training samples of each class.
    pub(crate) fn pool(&self) -> Vec<Vec<usize>> {
        self.by_class(&self.train)
    }

    /// `samples` by class.
    pub(crate) fn by_class(&self, samples: &[usize]) -> Vec<Vec<usize>> {
        let mut pool = vec![Vec::new(); self.classes.len()];
        for &sample in samples {
            pool[usize::from(self.labels[sample])].push(sample);
        }
        pool
    }

    /// Labels of `samples`.
    pub(crate) fn labels_of(&self, samples: &[usize]) -> Vec<u16> {
        samples.iter().map(|&sample| self.labels[sample]).collect()
    }
}

/// Windows or pictures.
fn samples(x: &TensorView<'_>, lengths: Option<&TensorView<'_>>) -> Result<Vec<Vec<u8>>, String> {
    let shape = x.shape();
    let n = shape.first().copied().unwrap_or(0);
    if n == 0 || shape[1..].iter().any(|&size| size == 0 || size > MAX_SIDE) {
        return Err(format!("x is {shape:?}: it is empty, or a side is longer than {MAX_SIDE}"));
    }
    let lengths = lengths.map(|lengths| i32s("lengths", lengths, n)).transpose()?;
    match (x.dtype(), &shape[1..]) {
        (Dtype::F32, &[channels, points]) => {
            let cut = |(i, window): (usize, &[u8])| {
                let length = lengths.as_ref().map_or(Ok(points), |all| usize::try_from(all[i]));
                let length = length.ok().filter(|length| (1..=points).contains(length));
                let length = length.ok_or(format!("sample {i} has a length outside 1 to {points}"))?;
                Ok(window
                    .chunks_exact(4 * points)
                    .flat_map(|channel| &channel[..4 * length])
                    .copied()
                    .collect())
            };
            x.data().chunks_exact(4 * channels * points).enumerate().map(cut).collect()
        }
        (Dtype::U8, &[rows, columns]) => {
            let picture = |grey: &[u8]| png(grey, columns, rows, ExtendedColorType::L8);
            x.data().chunks_exact(rows * columns).map(picture).collect()
        }
        (Dtype::U8, &[rows, columns, 3]) => {
            let picture = |colour: &[u8]| png(colour, columns, rows, ExtendedColorType::Rgb8);
            x.data().chunks_exact(rows * columns * 3).map(picture).collect()
        }
        (other, _) => Err(format!(
            "x is {other:?} {shape:?}, but must be F32 [n, channels, length], U8 [n, h, w] or U8 [n, h, w, 3]"
        )),
    }
}

/// Texts, one after the other, with the byte at which each ends.
fn texts(text: &TensorView<'_>, ends: &TensorView<'_>) -> Result<Vec<Vec<u8>>, String> {
    if text.dtype() != Dtype::U8 || ends.dtype() != Dtype::I64 {
        return Err("text must be U8 and ends I64".into());
    }
    let mut start = 0;
    let end_of = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_le_bytes);
    let ends =
        ends.data().chunks_exact(8).map(|bytes| end_of(bytes).and_then(|end| usize::try_from(end).ok()));
    ends.map(|end| {
        let end = end.filter(|&end| end >= start && end <= text.data().len());
        let end = end.ok_or("ends must rise and stay within text")?;
        let sample = text.data()[start..end].to_vec();
        start = end;
        Ok(sample)
    })
    .collect()
}

/// What follows each window.
fn future(tensors: &SafeTensors<'_>, values: &TensorView<'_>, n: usize) -> Result<Future, String> {
    let (Dtype::F32, &[rows, horizon]) = (values.dtype(), values.shape()) else {
        return Err("future must be F32 [n, horizon]".into());
    };
    if rows != n || horizon == 0 {
        return Err("future must hold the same steps for every sample".into());
    }
    let values: Vec<f32> = values.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let history = tensors.tensor("history").map_err(|e| format!("tensor history: {e}"))?;
    let history = f64s("history", &history)?;
    let times =
        tensors.tensor("time").ok().map(|times| f64s("time", &times)).transpose()?.unwrap_or_default();
    if !(times.is_empty() || times.len() == n) {
        return Err("time must hold one F64 per sample".into());
    }
    let finite = values.iter().all(|v| v.is_finite()) && history.iter().chain(&times).all(|v| v.is_finite());
    if finite { Ok(Future { horizon, values, times, history }) } else { Err("a value is not finite".into()) }
}

fn f64s(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f64>, String> {
    if tensor.dtype() != Dtype::F64 {
        return Err(format!("{name} must be F64"));
    }
    Ok(tensor.data().as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}

fn i32s(name: &str, tensor: &TensorView<'_>, n: usize) -> Result<Vec<i32>, String> {
    if tensor.dtype() != Dtype::I32 || tensor.shape() != [n] {
        return Err(format!("{name} must hold one I32 per sample"));
    }
    Ok(tensor.data().as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect())
}

fn png(pixels: &[u8], width: usize, height: usize, colour: ExtendedColorType) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    PngEncoder::new(&mut out)
        .write_image(pixels, width as u32, height as u32, colour)
        .map_err(|e| format!("a picture cannot be written as PNG: {e}"))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    fn file(dtype: Dtype, shape: &[usize], x: &[u8], y: &[u8]) -> Vec<u8> {
        let n = shape[0];
        let test: Vec<u8> = (0..n).map(|i| u8::from(i + 1 == n)).collect();
        let tensors = [
            ("x", view(dtype, shape, x)),
            ("y", view(Dtype::U8, &[n], y)),
            ("test", view(Dtype::U8, &[n], &test)),
        ];
        pack(tensors.into_iter().collect())
    }

    fn view<'a>(dtype: Dtype, shape: &[usize], data: &'a [u8]) -> TensorView<'a> {
        TensorView::new(dtype, shape.to_vec(), data).unwrap()
    }

    fn pack(tensors: Vec<(&str, TensorView<'_>)>) -> Vec<u8> {
        let metadata = HashMap::from([("classes".to_owned(), r#"["a","b"]"#.to_owned())]);
        safetensors::serialize(tensors, Some(metadata)).unwrap()
    }

    #[test]
    fn pictures_become_png_and_windows_stay_numbers() {
        let data = DataSet::parse(&file(Dtype::U8, &[3, 2, 2], &[7; 12], &[0, 1, 1])).unwrap();
        assert_eq!((&data.train[..], &data.test[..]), (&[0, 1][..], &[2][..]));
        let picture = image::load_from_memory(&data.payloads[0]).unwrap();
        assert_eq!(picture.to_luma8().as_raw(), &[7; 4]);
        assert_eq!(data.pool(), [vec![0], vec![1]]);

        let numbers: Vec<u8> = (0..12u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let data = DataSet::parse(&file(Dtype::F32, &[2, 2, 3], &numbers, &[0, 1])).unwrap();
        assert_eq!(data.payloads[1], numbers[24..]);
    }

    #[test]
    fn colour_stays_colour_and_short_windows_lose_their_padding() {
        let data = DataSet::parse(&file(Dtype::U8, &[2, 1, 1, 3], &[1, 2, 3, 4, 5, 6], &[0, 1])).unwrap();
        assert_eq!(image::load_from_memory(&data.payloads[1]).unwrap().to_rgb8().as_raw(), &[4, 5, 6]);

        let numbers: Vec<u8> = (0..12u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let lengths = |of: [i32; 2]| of.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<_>>();
        let with = |lengths: &[u8]| {
            DataSet::parse(&pack(vec![
                ("x", view(Dtype::F32, &[2, 2, 3], &numbers)),
                ("lengths", view(Dtype::I32, &[2], lengths)),
                ("y", view(Dtype::U8, &[2], &[0, 1])),
                ("test", view(Dtype::U8, &[2], &[0, 1])),
            ]))
        };
        let data = with(&lengths([3, 1])).unwrap();
        assert_eq!(data.payloads[1], [6f32.to_le_bytes(), 9f32.to_le_bytes()].concat());
        assert!(with(&lengths([3, 4])).unwrap_err().contains("length"));
    }

    #[test]
    fn texts_are_cut_at_their_ends() {
        let with = |ends: [i64; 2]| {
            let ends: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
            DataSet::parse(&pack(vec![
                ("text", view(Dtype::U8, &[5], b"onetw")),
                ("ends", view(Dtype::I64, &[2], &ends)),
                ("y", view(Dtype::U8, &[2], &[0, 1])),
                ("test", view(Dtype::U8, &[2], &[0, 1])),
            ]))
        };
        assert_eq!(with([3, 5]).unwrap().payloads, [b"one".to_vec(), b"tw".to_vec()]);
        for ends in [[3, 6], [4, 3], [-1, 5]] {
            assert!(with(ends).unwrap_err().contains("ends"), "{ends:?}");
        }
    }

    #[test]
    fn wrong_content_is_named() {
        assert!(DataSet::parse(&[1; 9]).is_err());
        let error = DataSet::parse(&file(Dtype::U8, &[2, 2, 2], &[0; 8], &[0, 9])).unwrap_err();
        assert!(error.contains("class"), "{error}");
        let error = DataSet::parse(&file(Dtype::I8, &[2, 2, 2], &[0; 8], &[0, 0])).unwrap_err();
        assert!(error.contains("I8"), "{error}");
    }
}
