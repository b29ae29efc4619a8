//! What is summed, and how many integers that takes.

use crate::head::{Head, MAX_HORIZON};
use crate::shape::{MAX_CLASSES, MIN_OUTPUTS};

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// Per class the count and the sum of the features; one second-moment matrix of all samples.
    Classes,
    /// The same with the classes [`super::NORMAL`] and [`super::ANOMALOUS`], but only normal samples enter the matrix.
    Anomaly,
    /// For targets y₁ … y_H: the count, Σ z, Σ z zᵀ, Σ y_h z, Σ y_h, Σ y_h².
    Forecast,
}

impl Statistic {
    /// The statistic a module of this head is solved from.
    pub fn of(head: Head) -> Self {
        match head {
            Head::Classify => Self::Classes,
            Head::Anomaly => Self::Anomaly,
            Head::Forecast { .. } => Self::Forecast,
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Classes => 0,
            Self::Anomaly => 1,
            Self::Forecast => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Classes, Self::Anomaly, Self::Forecast].into_iter().find(|statistic| statistic.code() == code)
    }

    /// Integers before those of the exits: counts, or count, Σ y and Σ y².
    pub(super) const fn head(self, outputs: usize) -> usize {
        match self {
            Self::Classes | Self::Anomaly => outputs,
            Self::Forecast => 1 + 2 * outputs,
        }
    }

    /// Integers of Σ z per exit that are not in the cross sums already.
    pub(super) const fn plain(self, features: usize) -> usize {
        match self {
            Self::Classes | Self::Anomaly => 0,
            Self::Forecast => features,
        }
    }

    pub(super) const fn entries(self, exits: usize, features: usize, outputs: usize) -> usize {
        self.head(outputs)
            + exits * (self.plain(features) + outputs * features + features * (features + 1) / 2)
    }

    pub(super) fn takes(self, outputs: usize) -> bool {
        match self {
            Self::Classes => (MIN_OUTPUTS..=MAX_CLASSES).contains(&outputs),
            Self::Anomaly => outputs == 2,
            Self::Forecast => (1..=MAX_HORIZON).contains(&outputs),
        }
    }
}
