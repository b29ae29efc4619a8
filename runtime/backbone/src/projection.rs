//! From an exit's pooled features to the numbers a module sees.

use half::f16;
use safetensors::{Dtype, SafeTensors};

use crate::bundle::{Bundle, BundleError};

/// Mean and ordered principal directions of one exit.
#[derive(Debug)]
pub(crate) struct Projection {
    mean: Vec<f32>,
    /// `directions × mean.len()`, row after row.
    rows: Vec<f32>,
}

impl Projection {
    /// Reads `exit_k.mean` and `exit_k.projection` (F16) of every exit.
    pub(crate) fn load(bundle: &Bundle) -> Result<Vec<Self>, BundleError> {
        let bytes = bundle.read(bundle.features_file())?;
        read(&bytes, bundle.exits(), bundle.pooled(), bundle.directions())
            .map_err(|what| bundle.bad_features(what))
    }

    /// Numbers this takes.
    pub(crate) fn pooled(&self) -> usize {
        self.mean.len()
    }

    /// Appends the first `count` features of `pooled`, which has [`Self::pooled`] numbers: row · (pooled − mean).
    pub(crate) fn project(&self, pooled: &[f32], count: usize, out: &mut Vec<f32>) {
        let centred: Vec<f32> = pooled.iter().zip(&self.mean).map(|(p, m)| p - m).collect();
        let rows = self.rows.chunks_exact(self.mean.len()).take(count);
        out.extend(rows.map(|row| row.iter().zip(&centred).map(|(r, c)| r * c).sum::<f32>()));
    }
}

/// The projections in the bytes of a feature file; `Err` says what does not fit.
pub(crate) fn read(
    bytes: &[u8],
    exits: usize,
    pooled: usize,
    directions: usize,
) -> Result<Vec<Projection>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let tensor = |name: &str, shape: &[usize]| {
        let view = tensors.tensor(name).map_err(|error| error.to_string())?;
        if view.dtype() != Dtype::F16 || view.shape() != shape {
            return Err(format!("{name} is {:?} {:?}, expected F16 {shape:?}", view.dtype(), view.shape()));
        }
        let numbers: Vec<f32> =
            view.data().as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        if numbers.iter().all(|v| v.is_finite()) {
            Ok(numbers)
        } else {
            Err(format!("{name} holds a number that is not finite"))
        }
    };
    (1..=exits)
        .map(|exit| {
            Ok(Projection {
                mean: tensor(&format!("exit_{exit}.mean"), &[pooled])?,
                rows: tensor(&format!("exit_{exit}.projection"), &[directions, pooled])?,
            })
        })
        .collect()
}
