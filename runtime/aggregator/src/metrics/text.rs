//! The text exposition format of Prometheus, version 0.0.4.

use std::fmt::Write;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only rises while the process lives.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Cumulative counts below bounds, with sum and count.
    Histogram,
    /// Sum and count.
    Summary,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// A text that grows by one metric after the other.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric; one without a value leaves no trace.
    pub(super) fn metric(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Metric<'_> {
        Metric { text: &mut self.0, name, kind, help, begun: false }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// One metric, and the place for its values.
pub(super) struct Metric<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Metric<'_> {
    /// A value with its labels. Every set of labels stands once.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.part("", labels, value)
    }

    /// A value of the part of the metric that `suffix` names.
    pub(super) fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let (name, help) = (self.name, self.help);
        if !self.begun {
            self.begun = true;
            let help = escaped(help, false);
            written(write!(self.text, "# HELP {name} {help}\n# TYPE {name} {}\n", self.kind.word()));
        }
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (place, (label, value)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            written(write!(self.text, "{open}{label}=\"{}\"", escaped(value, true)));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        written(if value.is_infinite() {
            writeln!(self.text, " {}", if value > 0.0 { "+Inf" } else { "-Inf" })
        } else {
            writeln!(self.text, " {value}")
        });
        self
    }
}

fn written(result: std::fmt::Result) {
    result.expect("a string takes what is written");
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_of_version_0_0_4() {
        let mut text = Text::default();
        text.metric("a_total", Kind::Counter, "Two\nlines \\ \"quoted\".").value(&[], 3.0);
        text.metric("empty", Kind::Gauge, "Without a value.");
        text.metric("b", Kind::Gauge, "Odd values.")
            .value(&[("x", "a\"b\\c\nd"), ("y", "")], 0.25)
            .value(&[("x", "e")], f64::INFINITY)
            .value(&[("x", "f")], f64::NEG_INFINITY)
            .value(&[("x", "g")], f64::NAN);
        assert_eq!(
            text.into_string(),
            "# HELP a_total Two\\nlines \\\\ \"quoted\".\n# TYPE a_total counter\na_total 3\n\
             # HELP b Odd values.\n# TYPE b gauge\nb{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 0.25\nb{x=\"e\"} +Inf\n\
             b{x=\"f\"} -Inf\nb{x=\"g\"} NaN\n"
        );
    }
}
