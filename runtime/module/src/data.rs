//! Labelled features in memory.

use crate::head::Head;
use crate::shape::Shape;
use crate::sums::ANOMALOUS;
use crate::train::TrainError;

/// What a sample's outputs are compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target<'a> {
    /// A class; of an anomaly task [`crate::NORMAL`] or [`ANOMALOUS`].
    Class(u16),
    /// The values of a forecast's steps, in units of the window's standard deviation.
    Values(&'a [f32]),
}

/// Targets of many samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// One class per sample.
    Classes(Vec<u16>),
    /// `n × horizon` values.
    Values {
        /// Steps.
        horizon: usize,
        /// Values.
        values: Vec<f32>,
    },
}

impl Default for Targets {
    fn default() -> Self {
        Self::Classes(Vec::new())
    }
}

impl Targets {
    /// Samples.
    pub fn n(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Values { horizon, values } => values.len() / (*horizon).max(1),
        }
    }

    /// The target of sample `i`.
    ///
    /// # Panics
    /// If there is no sample `i`.
    pub fn at(&self, i: usize) -> Target<'_> {
        match self {
            Self::Classes(classes) => Target::Class(classes[i]),
            Self::Values { horizon, values } => Target::Values(&values[i * horizon..(i + 1) * horizon]),
        }
    }

    /// Appends a target. Without any the kind is that of the first.
    ///
    /// # Panics
    /// If the target is of another kind or length than those before it.
    pub fn push(&mut self, target: Target<'_>) {
        if self.n() == 0 {
            *self = match target {
                Target::Class(_) => Self::default(),
                Target::Values(values) => Self::Values { horizon: values.len(), values: Vec::new() },
            };
        }
        match (self, target) {
            (Self::Classes(classes), Target::Class(class)) => classes.push(class),
            (Self::Values { horizon, values }, Target::Values(more)) if more.len() == *horizon => {
                values.extend_from_slice(more);
            }
            _ => panic!("targets of two kinds in one set"),
        }
    }

    /// Replaces the target of sample `i` by one of the same kind.
    ///
    /// # Panics
    /// If there is no sample `i`, or the target is of another kind or length.
    pub fn replace(&mut self, i: usize, target: Target<'_>) {
        match (self, target) {
            (Self::Classes(classes), Target::Class(class)) => classes[i] = class,
            (Self::Values { horizon, values }, Target::Values(new)) => {
                values[i * *horizon..(i + 1) * *horizon].copy_from_slice(new);
            }
            _ => panic!("targets of two kinds in one set"),
        }
    }

    /// The classes; empty where targets are values.
    pub fn classes(&self) -> &[u16] {
        match self {
            Self::Classes(classes) => classes,
            Self::Values { .. } => &[],
        }
    }

    /// Forgets all targets, keeping their kind.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Classes(classes) => classes.clear(),
            Self::Values { values, .. } => values.clear(),
        }
    }
}

/// Labelled features of one task on one gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// `n × exits × features`.
    pub z: Vec<f32>,
    /// One per sample.
    pub targets: Targets,
}

impl Dataset {
    /// Samples.
    pub fn n(&self) -> usize {
        self.targets.n()
    }

    /// Features of sample `i`, `exits × features`.
    ///
    /// # Panics
    /// If there is no sample `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.z.len() / self.n();
        &self.z[i * width..(i + 1) * width]
    }

    /// Appends a sample of a class.
    pub fn push(&mut self, z: &[f32], class: u16) {
        self.push_target(z, Target::Class(class));
    }

    /// Appends a sample.
    ///
    /// # Panics
    /// If the target is of another kind or length than those before it.
    pub fn push_target(&mut self, z: &[f32], target: Target<'_>) {
        self.z.extend_from_slice(z);
        self.targets.push(target);
    }

    /// The classes; empty where targets are values.
    pub fn classes(&self) -> &[u16] {
        self.targets.classes()
    }

    /// The samples of the given indices, in their order.
    ///
    /// # Panics
    /// If an index has no sample.
    #[must_use]
    pub fn subset(&self, indices: &[usize]) -> Self {
        let mut subset = Self::default();
        for &i in indices {
            subset.push_target(self.row(i), self.targets.at(i));
        }
        subset
    }

    pub(crate) fn check(&self, shape: &Shape) -> Result<(), TrainError> {
        let want = self.n() * shape.exits * shape.features;
        if self.z.len() != want {
            return Err(TrainError::Length { what: "features", got: self.z.len(), want });
        }
        if self.n() > 0 {
            self.check_targets(shape)?;
        }
        if self.z.iter().any(|z| !z.is_finite()) {
            return Err(TrainError::NotFinite("features"));
        }
        Ok(())
    }

    fn check_targets(&self, shape: &Shape) -> Result<(), TrainError> {
        let kind = shape.head.name();
        match (shape.head, &self.targets) {
            (Head::Classify, Targets::Classes(_)) => {
                let outputs = shape.outputs;
                let bad = self.classes().iter().find(|&&label| usize::from(label) >= outputs);
                bad.map_or(Ok(()), |&label| Err(TrainError::Label { label, outputs }))
            }
            (Head::Anomaly, Targets::Classes(_)) => {
                let bad = self.classes().iter().find(|&&label| label > ANOMALOUS);
                bad.map_or(Ok(()), |&label| Err(TrainError::Label { label, outputs: 2 }))
            }
            (Head::Forecast { horizon: want, .. }, Targets::Values { horizon, values }) => {
                let want = usize::from(want);
                if *horizon != want {
                    return Err(TrainError::Length { what: "target values per sample", got: *horizon, want });
                }
                if values.len() != want * self.n() {
                    return Err(TrainError::Length {
                        what: "target values",
                        got: values.len(),
                        want: want * self.n(),
                    });
                }
                if values.iter().any(|y| !y.is_finite()) {
                    return Err(TrainError::NotFinite("targets"));
                }
                Ok(())
            }
            _ => Err(TrainError::Targets(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Quantiles;
    use crate::shape::Recipe;

    fn shape(head: Head, outputs: usize) -> Shape {
        Shape { recipe: Recipe::Probe, head, exits: 1, features: 2, outputs }
    }

    #[test]
    fn sets_take_the_kind_of_their_first_target() {
        let mut set = Dataset::default();
        set.push_target(&[1.0, 2.0], Target::Values(&[0.5, 0.6, 0.7]));
        set.push_target(&[3.0, 4.0], Target::Values(&[0.1, 0.2, 0.3]));
        assert_eq!((set.n(), set.row(1)), (2, &[3.0, 4.0][..]));
        assert_eq!(set.targets.at(1), Target::Values(&[0.1, 0.2, 0.3]));
        assert_eq!(set.subset(&[1]).targets.at(0), Target::Values(&[0.1, 0.2, 0.3]));
        set.targets.replace(0, Target::Values(&[9.0; 3]));
        assert_eq!(set.targets.at(0), Target::Values(&[9.0; 3]));
        assert!(set.classes().is_empty());
    }

    #[test]
    fn targets_of_another_kind_are_refused() {
        let classify = shape(Head::Classify, 2);
        let forecast = shape(Head::Forecast { horizon: 1, quantiles: Quantiles::MEDIAN }, 1);
        let anomaly = shape(Head::Anomaly, 2);
        let classes = Dataset { z: vec![0.0; 2], targets: Targets::Classes(vec![1]) };
        let values =
            |horizon, values| Dataset { z: vec![0.0; 2], targets: Targets::Values { horizon, values } };
        assert_eq!(classes.check(&classify).and(classes.check(&anomaly)), Ok(()));
        assert_eq!(classes.check(&forecast), Err(TrainError::Targets("forecast")));
        assert_eq!(values(1, vec![0.5]).check(&forecast), Ok(()));
        assert_eq!(values(1, vec![0.5]).check(&classify), Err(TrainError::Targets("classify")));
        assert!(matches!(values(2, vec![0.5; 2]).check(&forecast), Err(TrainError::Length { .. })));
        assert_eq!(values(1, vec![f32::NAN]).check(&forecast), Err(TrainError::NotFinite("targets")));
        let third = Dataset { z: vec![0.0; 2], targets: Targets::Classes(vec![2]) };
        assert!(matches!(third.check(&anomaly), Err(TrainError::Label { label: 2, outputs: 2 })));
        assert_eq!(Dataset::default().check(&forecast), Ok(()));
    }
}
