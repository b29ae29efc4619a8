//! The real data sets of the demo, as the payloads a camera or a sensor would send.

use super::error::DemoError;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// Largest data file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A data set, ready to send.
#[derive(Debug)]
pub(crate) struct DataSet {
    /// Class names.
    pub(crate) classes: Vec<String>,
    /// One payload per sample: a PNG picture, or little-endian f32 channel after channel.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Class of each sample.
    pub(crate) labels: Vec<u16>,
    /// Samples that gateways may see, in file order.
    pub(crate) train: Vec<usize>,
    /// Samples that only the evaluation sees, in file order.
    pub(crate) test: Vec<usize>,
}

impl DataSet {
    /// Reads `x` (U8 [n, h, w] pictures or F32 [n, channels, length] windows), `y`, `test` and the class names;
    /// `models/data/README.md` describes the files.
    pub(crate) fn read(path: &Path) -> Result<Self, DemoError> {
        let size = std::fs::metadata(path).map_err(|source| file_error(path, source))?.len();
        if size > MAX_BYTES {
            return Err(content(path, format!("{size} bytes are more than a data set of the demo has")));
        }
        let bytes = std::fs::read(path).map_err(|source| file_error(path, source))?;
        Self::parse(&bytes).map_err(|what| content(path, what))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, head) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let classes = head.metadata().as_ref().and_then(|map| map.get("classes")).ok_or("no class names")?;
        let classes: Vec<String> = serde_json::from_str(classes).map_err(|e| format!("class names: {e}"))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let tensor = |name: &str| tensors.tensor(name).map_err(|e| format!("tensor {name}: {e}"));
        let (x, y, test) = (tensor("x")?, tensor("y")?, tensor("test")?);
        let [n, rows, columns] = *x.shape() else { return Err("x has not three dimensions".into()) };
        for (name, tensor) in [("y", &y), ("test", &test)] {
            if tensor.dtype() != Dtype::U8 || tensor.shape() != [n] {
                return Err(format!("{name} must hold one U8 per sample"));
            }
        }
        if n == 0 || rows == 0 || columns == 0 {
            return Err("x is empty".into());
        }
        let labels: Vec<u16> = y.data().iter().map(|&label| u16::from(label)).collect();
        if labels.iter().any(|&label| usize::from(label) >= classes.len()) {
            return Err("y names a class that has no name".into());
        }
        let payloads = match x.dtype() {
            Dtype::F32 => x.data().chunks_exact(4 * rows * columns).map(<[u8]>::to_vec).collect(),
            Dtype::U8 => {
                let picture = |grey: &[u8]| png(grey, columns as u32, rows as u32);
                x.data().chunks_exact(rows * columns).map(picture).collect::<Result<_, _>>()?
            }
            other => return Err(format!("x is {other:?}, but must be U8 or F32")),
        };
        let (test, train) = (0..n).partition(|&i| test.data()[i] != 0);
        Ok(Self { classes, payloads, labels, train, test })
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

fn png(grey: &[u8], width: u32, height: u32) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    PngEncoder::new(&mut out)
        .write_image(grey, width, height, ExtendedColorType::L8)
        .map_err(|e| format!("a picture cannot be written as PNG: {e}"))?;
    Ok(out)
}

fn content(path: &Path, what: String) -> DemoError {
    DemoError::Content { path: path.to_owned(), what }
}

fn file_error(path: &Path, source: std::io::Error) -> DemoError {
    DemoError::File { doing: "read", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    fn file(dtype: Dtype, shape: &[usize], x: &[u8], y: &[u8]) -> Vec<u8> {
        let n = shape[0];
        let test: Vec<u8> = (0..n).map(|i| u8::from(i + 1 == n)).collect();
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let tensors = [
            ("x", view(dtype, shape, x)),
            ("y", view(Dtype::U8, &[n], y)),
            ("test", view(Dtype::U8, &[n], &test)),
        ];
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
    fn wrong_content_is_named() {
        assert!(DataSet::parse(&[1; 9]).is_err());
        let error = DataSet::parse(&file(Dtype::U8, &[2, 2, 2], &[0; 8], &[0, 9])).unwrap_err();
        assert!(error.contains("class"), "{error}");
        let error = DataSet::parse(&file(Dtype::I8, &[2, 2, 2], &[0; 8], &[0, 0])).unwrap_err();
        assert!(error.contains("I8"), "{error}");
    }
}
