//! Tables of numbers: every row a sample, or windows out of a long series.

use super::source::{Entry, label_of, named};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Columns with a meaning of their own.
const SPECIAL: [&str; 4] = ["label", "id", "time", "series"];

/// How windows are cut out of a long table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Rows of a window.
    pub(super) rows: usize,
    /// Rows from one window to the next.
    pub(super) every: usize,
}

/// A table, cell by cell.
struct Table<'a> {
    separator: char,
    /// Where each special column is, in the order of [`SPECIAL`].
    special: [Option<usize>; 4],
    /// Line number and cells.
    rows: Vec<(usize, Vec<&'a str>)>,
}

/// The samples of a CSV text. `stem` begins their ids.
pub(super) fn read(text: &str, stem: &str, cut: Option<Cut>) -> Result<Vec<Entry>, String> {
    let table = Table::parse(text)?;
    match cut {
        None => table.rows(stem),
        Some(cut) => table.windows(stem, cut),
    }
}

impl<'a> Table<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let separator = [';', '\t'].into_iter().find(|&separator| text.contains(separator)).unwrap_or(',');
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut rows: Vec<(usize, Vec<&str>)> =
            lines.map(|(at, line)| (at + 1, line.split(separator).map(bare).collect())).collect();
        let mut special = [None; 4];
        let header = |cells: &[&str]| {
            cells.iter().all(|cell| number(cell, separator) == Some(Value::Null))
                || cells.iter().all(|cell| number(cell, separator).is_none())
        };
        if rows.first().is_some_and(|(_, cells)| header(cells)) {
            let (_, names) = rows.remove(0);
            special = SPECIAL.map(|name| names.iter().position(|cell| cell.eq_ignore_ascii_case(name)));
        }
        let width = rows.first().map(|(_, cells)| cells.len()).ok_or("it holds no row with numbers")?;
        match rows
            .iter()
            .find(|(_, cells)| cells.len() <= special.iter().flatten().max().copied().unwrap_or(0))
        {
            Some((line, cells)) => {
                Err(format!("line {line} has {} cells, the first row has {width}", cells.len()))
            }
            None => Ok(Self { separator, special, rows }),
        }
    }

    fn cell(&self, cells: &[&'a str], name: &str) -> Option<&'a str> {
        let at = SPECIAL.iter().position(|special| *special == name).and_then(|at| self.special[at])?;
        cells.get(at).copied().filter(|cell| !cell.is_empty())
    }

    /// The cells that are numbers, or should be.
    fn numbers<'b>(&'b self, cells: &'b [&'a str]) -> impl Iterator<Item = (usize, &'a str)> + 'b {
        let special = |at: &usize| self.special.contains(&Some(*at));
        cells.iter().copied().enumerate().filter(move |(at, _)| !special(at))
    }

    /// Every row is a sample: its channels one after the other.
    fn rows(&self, stem: &str) -> Result<Vec<Entry>, String> {
        if self.special[2].is_some() || self.special[3].is_some() {
            return Err("a column `time` or `series` tells when rows were taken: say with --window how many rows make a sample".into());
        }
        let each = |(at, (line, cells)): (usize, &(usize, Vec<&str>))| {
            let numbers: Vec<&str> = self.numbers(cells).map(|(_, cell)| cell).collect();
            Ok(Entry {
                id: named(self.cell(cells, "id"), stem, at + 1)
                    .map_err(|why| format!("line {line}: {why}"))?,
                payload: numbers.join(&self.separator.to_string()).into_bytes().into(),
                label: self.cell(cells, "label").map(label_of).transpose()?,
            })
        };
        self.rows.iter().enumerate().map(each).collect()
    }

    /// Rows are points in time; every window of them is a sample, of one series each.
    fn windows(&self, stem: &str, cut: Cut) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        for rows in self.series() {
            let last_start = rows.len().checked_sub(cut.rows);
            let starts = last_start.into_iter().flat_map(|last| (0..=last).step_by(cut.every));
            for start in starts {
                let rows = &self.rows[rows.start + start..rows.start + start + cut.rows];
                entries.push(self.window(stem, entries.len() + 1, rows)?);
            }
        }
        if entries.is_empty() {
            return Err(format!("no series in it has the {} rows of a window", cut.rows));
        }
        Ok(entries)
    }

    /// Runs of rows that belong to one series.
    fn series(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in 0..self.rows.len() {
            let name = |at: usize| self.cell(&self.rows[at].1, "series");
            match runs.last_mut() {
                Some(run) if name(run.start) == name(at) => run.end = at + 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    fn window(&self, stem: &str, n: usize, rows: &[(usize, Vec<&str>)]) -> Result<Entry, String> {
        let width = self.numbers(&rows[0].1).count();
        let mut channels = vec![Vec::with_capacity(rows.len()); width];
        for (line, cells) in rows {
            let numbers: Vec<_> = self.numbers(cells).collect();
            if numbers.len() != width {
                return Err(format!("line {line} has {} numbers, others have {width}", numbers.len()));
            }
            for (channel, (column, cell)) in channels.iter_mut().zip(numbers) {
                let number = number(cell, self.separator);
                channel.push(number.ok_or_else(|| {
                    format!("line {line}, cell {}: {cell:?} is no number; take the column out, or name it label, id, time or series in a header", column + 1)
                })?);
            }
        }
        let mut window = Map::from_iter([("channels".to_owned(), json!(channels))]);
        let last = &rows[rows.len() - 1].1;
        if let Some(time) = self.cell(last, "time") {
            // Anything but seconds is left to the gateway, which names what it takes.
            let time = number(time, self.separator).unwrap_or_else(|| json!(time));
            window.insert("time".to_owned(), time);
        }
        if let Some(series) = self.cell(last, "series") {
            window.insert("series".to_owned(), json!(series));
        }
        let first_label = self.cell(&rows[0].1, "label");
        // A window that lies over an edge between two labels is neither.
        let label =
            first_label.filter(|_| rows.iter().all(|(_, cells)| self.cell(cells, "label") == first_label));
        Ok(Entry {
            id: named(None, stem, n)?,
            payload: Value::Object(window).to_string().into_bytes().into(),
            label: label.map(label_of).transpose()?,
        })
    }
}

fn bare(cell: &str) -> &str {
    let cell = cell.trim();
    cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"')).unwrap_or(cell).trim()
}

/// A cell as JSON: a number, null for a gap, `None` for anything else. With another separator than the comma, that
/// may be the decimal mark.
fn number(cell: &str, separator: char) -> Option<Value> {
    if cell.is_empty() || ["nan", "na", "n/a", "null"].iter().any(|gap| cell.eq_ignore_ascii_case(gap)) {
        return Some(Value::Null);
    }
    let number = match cell.parse::<f64>() {
        Err(_) if separator != ',' && !cell.contains('.') => cell.replacen(',', ".", 1).parse(),
        parsed => parsed,
    };
    number.ok().filter(|number| number.is_finite()).map(|number| json!(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_control::Label;

    fn payloads(text: &str, cut: Option<Cut>) -> Vec<(String, String, Option<Label>)> {
        let text_of = |entry: &Entry| String::from_utf8(entry.payload.read().unwrap()).unwrap();
        let entries = read(text, "f", cut).unwrap();
        entries.into_iter().map(|entry| (entry.id.clone(), text_of(&entry), entry.label)).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what may be missing")]
    fn name(text: &str) -> Option<Label> {
        Some(Label::Name(text.to_owned()))
    }

    #[test]
    fn every_row_is_a_sample_and_the_header_says_which_cell_is_the_label() {
        let found = payloads("x1,x2,Label,x3\n1,2,good,3\n4,,\"bad\",6\n\n", None);
        let want = [("f-1", "1,2,3", "good"), ("f-2", "4,,6", "bad")];
        for ((id, payload, label), (want_id, want_payload, want_label)) in found.iter().zip(want) {
            assert_eq!((id.as_str(), payload.as_str()), (want_id, want_payload));
            assert_eq!(*label, name(want_label));
        }
        assert_eq!(payloads("1;2,5\n3;4\n", None)[0].1, "1;2,5");
        assert_eq!(payloads("id,a\nleft,7\n", None)[0].0, "left");
    }

    #[test]
    fn windows_are_cut_out_of_a_long_series_with_their_time() {
        let text = "time;value;label\n0;1,5;ok\n10;;ok\n20;3;odd\n2026-11-25T13:00:00Z;4;odd\n";
        let found = payloads(text, Some(Cut { rows: 2, every: 1 }));
        let payloads: Vec<&str> = found.iter().map(|(_, payload, _)| payload.as_str()).collect();
        assert_eq!(
            payloads,
            [
                r#"{"channels":[[1.5,null]],"time":10.0}"#,
                r#"{"channels":[[null,3.0]],"time":20.0}"#,
                r#"{"channels":[[3.0,4.0]],"time":"2026-11-25T13:00:00Z"}"#
            ]
        );
        let labels: Vec<_> = found.into_iter().map(|(.., label)| label).collect();
        assert_eq!(labels, [name("ok"), None, name("odd")]);
    }

    #[test]
    fn a_window_never_lies_over_two_series() {
        let text = "series,a,b\nnorth,1,2\nnorth,3,4\nsouth,5,6\nsouth,7,8\nsouth,9,0\n";
        let found = payloads(text, Some(Cut { rows: 2, every: 2 }));
        let all: Vec<&str> = found.iter().map(|(_, payload, _)| payload.as_str()).collect();
        assert_eq!(
            all,
            [
                r#"{"channels":[[1.0,3.0],[2.0,4.0]],"series":"north"}"#,
                r#"{"channels":[[5.0,7.0],[6.0,8.0]],"series":"south"}"#
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        let two = Some(Cut { rows: 2, every: 1 });
        for (text, cut, word) in [
            ("", None, "no row"),
            ("time,x\n1,2\n", None, "--window"),
            ("a,b\n1,2\n3,red\n", two, "line 3, cell 2: \"red\""),
            ("1,2\n3\n", two, "line 2"),
            ("1\n", two, "no series in it has the 2 rows"),
            ("id,x\na/b,1\n", None, "line 2"),
        ] {
            let error = read(text, "f", cut).map(|_| ()).unwrap_err();
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }
}
