//! What a module's outputs mean, by the task's kind.

use serde::{Deserialize, Serialize};

/// Most steps a forecast may look ahead.
pub const MAX_HORIZON: usize = 192;
/// Most quantiles of a forecast.
pub const MAX_QUANTILES: usize = 9;

/// Levels of a forecast's quantiles, in thousandths, rising; 500, the median, is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Quantiles {
    /// Unused ones are zero.
    levels: [u16; MAX_QUANTILES],
    count: u8,
}

/// Levels that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantiles must be 1 to {MAX_QUANTILES} rising levels between 0.001 and 0.999 in steps of 0.001, with 0.5 among them"
)]
pub struct QuantilesError;

impl Quantiles {
    /// The usual three: 0.1, 0.5, 0.9.
    pub const USUAL: Self = Self { levels: [100, 500, 900, 0, 0, 0, 0, 0, 0], count: 3 };
    /// The median alone.
    pub const MEDIAN: Self = Self { levels: [500, 0, 0, 0, 0, 0, 0, 0, 0], count: 1 };

    /// From thousandths.
    pub fn new(thousandths: &[u16]) -> Result<Self, QuantilesError> {
        let sound = (1..=MAX_QUANTILES).contains(&thousandths.len())
            && thousandths.is_sorted_by(|a, b| a < b)
            && thousandths.iter().all(|level| (1..1000).contains(level))
            && thousandths.contains(&500);
        if !sound {
            return Err(QuantilesError);
        }
        let mut levels = [0; MAX_QUANTILES];
        levels[..thousandths.len()].copy_from_slice(thousandths);
        Ok(Self { levels, count: thousandths.len() as u8 })
    }

    /// Thousandths, rising.
    pub fn thousandths(&self) -> &[u16] {
        &self.levels[..usize::from(self.count)]
    }

    /// How many.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Levels between 0 and 1, rising.
    pub fn levels(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.thousandths().iter().map(|&level| f64::from(level) / 1000.0)
    }

    /// Position of the median.
    pub fn median(&self) -> usize {
        self.thousandths().iter().position(|&level| level == 500).unwrap_or(0)
    }
}

impl TryFrom<Vec<f64>> for Quantiles {
    type Error = QuantilesError;

    fn try_from(levels: Vec<f64>) -> Result<Self, QuantilesError> {
        let thousandths = levels.iter().map(|level| {
            let rounded = (level * 1000.0).round();
            let whole = (level * 1000.0 - rounded).abs() < 1e-6 && (1.0..1000.0).contains(&rounded);
            whole.then_some(rounded as u16).ok_or(QuantilesError)
        });
        Self::new(&thousandths.collect::<Result<Vec<_>, _>>()?)
    }
}

impl From<Quantiles> for Vec<f64> {
    fn from(quantiles: Quantiles) -> Self {
        quantiles.levels().collect()
    }
}

/// What the outputs of an exit mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// One logit per class.
    Classify,
    /// `horizon × quantiles` values, step after step, in units of the window's own standard deviation around its
    /// own mean.
    Forecast {
        /// Steps ahead, 1 to [`MAX_HORIZON`].
        horizon: u16,
        /// Levels of the quantiles of each step.
        quantiles: Quantiles,
    },
    /// Coordinates in which normal samples lie around the origin with unit variance; their mean square is the
    /// anomaly score.
    Anomaly,
}

impl Head {
    /// The kind's name in files and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Forecast { .. } => "forecast",
            Self::Anomaly => "anomaly",
        }
    }

    /// Lines that the shape's fingerprint says about the kind.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Classify | Self::Anomaly => format!("kind {}\n", self.name()),
            Self::Forecast { horizon, quantiles } => {
                let levels: Vec<String> = quantiles.thousandths().iter().map(ToString::to_string).collect();
                format!("kind forecast\nhorizon {horizon}\nquantiles {}\n", levels.join(" "))
            }
        }
    }
}

/// The anomaly score of an exit's outputs: their mean square. Near 1 for normal samples of a closed form,
/// a little below where its covariance was shrunk.
pub fn anomaly_score(outputs: &[f32]) -> f32 {
    outputs.iter().map(|x| x * x).sum::<f32>() / outputs.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked_and_travel_as_numbers() {
        for bad in [&[][..], &[100, 900], &[500, 500], &[900, 500], &[0, 500], &[500, 1000]] {
            assert_eq!(Quantiles::new(bad), Err(QuantilesError), "{bad:?}");
        }
        assert_eq!(Quantiles::new(&[100, 500, 900]), Ok(Quantiles::USUAL));
        let json = serde_json::to_string(&Quantiles::USUAL).expect("serializes");
        assert_eq!(json, "[0.1,0.5,0.9]");
        assert_eq!(serde_json::from_str::<Quantiles>(&json).expect("parses"), Quantiles::USUAL);
        assert!(serde_json::from_str::<Quantiles>("[0.0005,0.5]").is_err());
        assert!(serde_json::from_str::<Quantiles>("[0.1234,0.5]").is_err());
        assert_eq!((Quantiles::USUAL.median(), Quantiles::MEDIAN.median()), (1, 0));
    }

    #[test]
    fn the_score_of_white_coordinates_is_about_one() {
        assert!((anomaly_score(&[1.0, -1.0, 1.0]) - 1.0).abs() < 1e-6);
        assert!(anomaly_score(&[]).abs() < 1e-6);
    }
}
