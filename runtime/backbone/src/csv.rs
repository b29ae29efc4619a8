//! Windows as comma-separated values: what loggers and spreadsheets write.

use crate::refusal::InputError;
use crate::spec::MAX_NUMBERS;

/// Most of a cell that an error repeats, in characters.
const SHOWN: usize = 24;

fn wrong(what: String) -> InputError {
    InputError::Csv { what }
}

/// The channels of a CSV text, gaps as NaN. One line holds channel after channel; of several, each is a point in
/// time with a cell per channel. A first line without a number is a header.
pub(crate) fn read(channels: usize, text: &str) -> Result<Vec<Vec<f64>>, InputError> {
    let separator = [';', '\t'].into_iter().find(|&separator| text.contains(separator)).unwrap_or(',');
    // With another separator the comma may be the decimal mark, as in much of Europe.
    let decimal_comma = separator != ',';
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
    if let Some((_, first)) = lines.peek()
        && first.split(separator).all(|cell| number(cell, decimal_comma).is_none())
    {
        lines.next();
    }

    let mut rows: Vec<Vec<f64>> = Vec::new();
    let mut numbers = 0;
    for (at, line) in lines {
        let mut row = Vec::new();
        for (column, cell) in line.split(separator).enumerate() {
            numbers += 1;
            if numbers > MAX_NUMBERS {
                return Err(InputError::TooManyNumbers);
            }
            row.push(number(cell, decimal_comma).ok_or_else(|| {
                let shown: String = cell.trim().chars().take(SHOWN).collect();
                wrong(format!("line {}, cell {}: {shown:?} is no number", at + 1, column + 1))
            })?);
        }
        // Of several lines each is one point in time; the first is judged when a second comes.
        let several = !rows.is_empty();
        if several && (row.len() != channels || rows[0].len() != channels) {
            let got = if row.len() == channels { rows[0].len() } else { row.len() };
            return Err(wrong(format!(
                "of several lines, up to line {}, one has {got} cells, the task declares {channels} channels",
                at + 1
            )));
        }
        rows.push(row);
    }
    match rows.as_slice() {
        [] => Err(wrong("it holds no line with numbers".into())),
        [only] if !only.len().is_multiple_of(channels) => {
            Err(wrong(format!("its line has {} cells, which {channels} channels do not divide", only.len())))
        }
        [only] => Ok(only.chunks_exact(only.len() / channels).map(<[f64]>::to_vec).collect()),
        rows => Ok((0..channels).map(|channel| rows.iter().map(|row| row[channel]).collect()).collect()),
    }
}

/// A cell's number, NaN for a gap, `None` for anything else.
fn number(cell: &str, decimal_comma: bool) -> Option<f64> {
    let cell = cell.trim();
    let cell = cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"')).unwrap_or(cell).trim();
    if cell.is_empty() || ["nan", "na", "n/a", "null"].iter().any(|gap| cell.eq_ignore_ascii_case(gap)) {
        return Some(f64::NAN);
    }
    // Of a word, only an infinity is a number, and it is refused later by its place.
    match cell.parse::<f64>() {
        Ok(number) if !number.is_nan() => Some(number),
        Err(_) if decimal_comma && !cell.contains('.') => cell.replacen(',', ".", 1).parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &[Vec<f64>], b: &[&[f64]]) -> bool {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a.len() == b.len() && a.iter().zip(*b).all(|(a, b)| a.to_bits() == b.to_bits()))
    }

    #[test]
    fn every_spelling_of_a_table_is_read() {
        let gap = f64::NAN;
        let table: &[&[f64]] = &[&[1.5, gap, 3.0], &[-4.0, 5.0, 6e3]];
        for text in [
            "1.5,,3,-4,5,6e3",
            "1.5,NaN,3.0,-4,+5,6000\r\n",
            "a,b\n1.5,-4\n,5\n3,6e3\n",
            "1,5;-4\nn/a;5\n3;6e3",
            "x\ty\n\n1.5\t-4\nNULL\t 5 \n3\t\"6e3\"\n",
        ] {
            let read = read(2, text).unwrap();
            assert!(same(&read, table), "{text:?} is {read:?}");
        }
        assert!(same(&read(1, "7\n8\n9").unwrap(), &[&[7.0, 8.0, 9.0]]));
        assert!(same(&read(1, "7,8,9").unwrap(), &[&[7.0, 8.0, 9.0]]));
        assert!(read(1, "1,inf").unwrap()[0][1].is_infinite());
    }

    #[test]
    fn what_is_no_table_says_where() {
        for (channels, text, says) in [
            (2, "1,2,3", "3 cells, which 2 channels"),
            (2, "1,2\n3,4,5", "line 2, one has 3 cells"),
            (2, "1,2,3\n3,4", "one has 3 cells"),
            (2, "1,2\n3,x", "line 2, cell 2: \"x\""),
            (2, "a,b", "no line with numbers"),
            (1, "1,2\na,b", "line 2, cell 1: \"a\""),
            (1, "1.5.2;3", "1.5.2"),
        ] {
            let error = read(channels, text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
