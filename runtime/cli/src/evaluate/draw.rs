//! Which samples a draw takes. The order is blake3's, so that `models/` draws the same ones.

use std::fmt;
use std::str::FromStr;

/// Labels per class: a number, or all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    /// At most so many.
    Each(usize),
    /// The whole training split.
    All,
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "all" => Ok(Self::All),
            Ok(0) | Err(_) => Err("a number of labels per class from 1, or `all`".into()),
            Ok(each) => Ok(Self::Each(each)),
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(each) => each.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// `rows` in the order of the blake3 of "`salt` row".
pub(crate) fn order(salt: &str, rows: &[usize]) -> Vec<usize> {
    let mut keyed: Vec<_> =
        rows.iter().map(|&row| (*blake3::hash(format!("{salt} {row}").as_bytes()).as_bytes(), row)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// Samples of draw `seed`: of every class the first ones in its order; sorted by number.
pub(crate) fn draw(train: &[usize], classes: &[u16], labels: Labels, seed: u64) -> Vec<usize> {
    let Labels::Each(each) = labels else { return train.to_vec() };
    let mut drawn = Vec::new();
    for class in 0..=classes.iter().copied().max().unwrap_or(0) {
        let own: Vec<usize> = train.iter().copied().filter(|&row| classes[row] == class).collect();
        drawn.extend(order(&seed.to_string(), &own).into_iter().take(each));
    }
    drawn.sort_unstable();
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_takes_as_many_of_each_class_and_the_same_as_the_python_side() {
        let train: Vec<usize> = (0..40).collect();
        let classes: Vec<u16> = (0..40).map(|row| row / 30).collect();
        let drawn = draw(&train, &classes, Labels::Each(3), 7);
        // models/tests/test_data.py holds the same numbers.
        assert_eq!(drawn, [17, 23, 26, 30, 34, 35]);
        assert_eq!(draw(&train, &classes, Labels::Each(15), 0).len(), 25);
        assert_eq!(draw(&train, &classes, Labels::All, 0), train);
    }

    #[test]
    fn labels_are_a_number_or_all() {
        assert_eq!("all".parse(), Ok(Labels::All));
        assert_eq!("5".parse(), Ok(Labels::Each(5)));
        for wrong in ["0", "-1", "few"] {
            assert!(wrong.parse::<Labels>().is_err());
        }
        assert_eq!(Labels::Each(5).to_string() + &Labels::All.to_string(), "5all");
    }
}
