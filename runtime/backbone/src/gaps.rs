//! Missing numbers inside a channel.

/// At most one number in this many is bridged.
pub(crate) const MOST_GAPS: usize = 5;

/// Replaces the NaN of `x` by straight lines between their neighbours, and at the ends by the nearest number.
/// Returns how many there were; `Err` with that number, and `x` as it was, when it is over a share of
/// 1 / [`MOST_GAPS`].
pub(crate) fn fill(x: &mut [f64]) -> Result<usize, usize> {
    let missing = x.iter().filter(|v| v.is_nan()).count();
    if missing * MOST_GAPS > x.len() {
        return Err(missing);
    }
    if missing == 0 {
        return Ok(0);
    }
    let mut last: Option<usize> = None;
    for at in 0..x.len() {
        if x[at].is_nan() {
            continue;
        }
        let value = x[at];
        match last {
            None => x[..at].fill(value),
            Some(from) => {
                let (start, rise, steps) = (x[from], value - x[from], (at - from) as f64);
                for (step, gap) in x[from + 1..at].iter_mut().enumerate() {
                    *gap = start + rise * ((step + 1) as f64 / steps);
                }
            }
        }
        last = Some(at);
    }
    // Not all are missing, or the share above would have been too large.
    if let Some(from) = last {
        let value = x[from];
        x[from + 1..].fill(value);
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: f64 = f64::NAN;

    #[test]
    fn lines_bridge_and_ends_hold() {
        let mut x = [1.0, 2.0, GAP, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0];
        assert_eq!(fill(&mut x), Ok(1));
        assert!((x[2] - 3.0).abs() < 1e-12);
        let mut x = [GAP, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, GAP];
        assert_eq!(fill(&mut x), Ok(2));
        assert_eq!((x[0], x[9]), (2.0, 9.0), "the nearest number, exactly");
        let mut x = [0.0, GAP, GAP, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(fill(&mut x), Ok(2));
        assert_eq!((x[1], x[2]), (2.0, 4.0));
    }

    #[test]
    fn more_than_a_fifth_is_refused_and_touches_nothing() {
        let mut x = [GAP, 1.0, 2.0, 3.0];
        assert_eq!(fill(&mut x), Err(1));
        assert!(x[0].is_nan());
        assert_eq!(fill(&mut [GAP]), Err(1));
        assert_eq!(fill(&mut [GAP, 1.0, 2.0, 3.0, 4.0]), Ok(1));
    }
}
