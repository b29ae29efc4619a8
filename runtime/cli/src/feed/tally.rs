//! A line per answer, and what all of them come to.

use super::source::Entry;
use loadonce_control::{AlarmAnswer, ForecastAnswer, Label, Prediction, UNKNOWN};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// Classes of the summary: the most frequent ones.
const SHOWN: usize = 12;
/// Steps of a forecast that a line shows.
const STEPS: usize = 4;

/// Counts of everything that came back.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answered: usize,
    refused: usize,
    last_refusal: String,
    /// Answers while there was no module.
    empty: usize,
    exits: usize,
    latencies: Vec<f64>,
    classes: BTreeMap<String, usize>,
    /// Labelled samples, those answered with a class, those rightly.
    judged: [usize; 2],
    forecasts: Errors,
    alarms: Alarms,
}

/// What forecasts missed by, where the values that came are known.
#[derive(Debug, Default)]
struct Errors {
    windows: usize,
    values: usize,
    absolute: f64,
    inside: usize,
    /// Share of values that the outer quantiles should hold.
    promised: f64,
}

#[derive(Debug, Default)]
struct Alarms {
    scores: usize,
    /// Answers that say whether it is an alarm, and alarms.
    decided: [usize; 2],
    /// The same of samples labelled normal, and of those labelled anomalous.
    by_label: BTreeMap<String, [usize; 2]>,
}

impl Tally {
    /// Counts a refusal; gives its line.
    pub(super) fn refusal(&mut self, what: &str) -> String {
        self.refused += 1;
        what.clone_into(&mut self.last_refusal);
        format!("refused: {what}")
    }

    /// What the last refusal said.
    pub(super) fn last_refusal(&self) -> &str {
        &self.last_refusal
    }

    /// Counts an answer; gives its line.
    pub(super) fn answer(&mut self, entry: &Entry, prediction: &Prediction) -> String {
        self.answered += 1;
        self.exits += prediction.exit;
        self.latencies.push(prediction.latency_ms);
        let said = if let Some(forecast) = &prediction.forecast {
            self.forecasts.add(forecast, entry.label.as_ref());
            path(forecast)
        } else if let Some(anomaly) = &prediction.anomaly {
            self.alarms.add(anomaly, entry.label.as_ref());
            alarm(anomaly)
        } else if let Some(label) = &prediction.label {
            self.class(label, entry.label.as_ref());
            format!("{label}, {:.1} %", 100.0 * prediction.confidence.unwrap_or_default())
        } else {
            self.empty += 1;
            return "taken; there is no module yet".to_owned();
        };
        format!(
            "{said} (exit {}, {:.1} ms, version {})",
            prediction.exit, prediction.latency_ms, prediction.version
        )
    }

    fn class(&mut self, label: &str, truth: Option<&Label>) {
        *self.classes.entry(label.to_owned()).or_default() += 1;
        if let Some(Label::Name(truth)) = truth {
            self.judged[0] += 1;
            self.judged[1] += usize::from(truth == label);
        }
    }
}

/// The levels' outer paths and the one nearest to the median.
fn paths(forecast: &ForecastAnswer) -> Option<[&[f64]; 3]> {
    let levels = forecast.quantiles.iter().map(|level| (level - 0.5).abs());
    let middle = levels.enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?.0;
    let path = |at: usize| forecast.paths.get(at).map(Vec::as_slice);
    Some([path(0)?, path(middle)?, path(forecast.quantiles.len() - 1)?])
}

fn path(forecast: &ForecastAnswer) -> String {
    let Some([low, median, high]) = paths(forecast) else { return "an empty forecast".to_owned() };
    let first: Vec<String> = median.iter().take(STEPS).map(|value| short(*value)).collect();
    let more = if median.len() > STEPS { format!(" … in {} steps", median.len()) } else { String::new() };
    let around = match (low.first(), high.first()) {
        (Some(low), Some(high)) if forecast.quantiles.len() > 1 => {
            format!("; the first within {} to {}", short(*low), short(*high))
        }
        _ => String::new(),
    };
    format!("{}{more}{around}", first.join(", "))
}

/// A number as people write it.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        1000.0.. => 0,
        10.0.. => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn alarm(anomaly: &AlarmAnswer) -> String {
    let said = match anomaly.alarm {
        Some(true) => "alarm",
        Some(false) => "as usual",
        None => "too few normal samples for an alarm yet",
    };
    let threshold = anomaly.threshold.map(|t| format!(", alarms above {t:.3}")).unwrap_or_default();
    format!("{said}, score {:.3}{threshold}", anomaly.score)
}

impl Errors {
    fn add(&mut self, forecast: &ForecastAnswer, truth: Option<&Label>) {
        let (Some([low, median, high]), Some(Label::Values(truth))) = (paths(forecast), truth) else {
            return;
        };
        self.windows += 1;
        self.promised = forecast.quantiles.last().copied().unwrap_or_default()
            - forecast.quantiles.first().copied().unwrap_or_default();
        for (((low, median), high), truth) in low.iter().zip(median).zip(high).zip(truth) {
            self.values += 1;
            self.absolute += (median - truth).abs();
            self.inside += usize::from((low..=high).contains(&truth));
        }
    }
}

impl Alarms {
    fn add(&mut self, anomaly: &AlarmAnswer, truth: Option<&Label>) {
        self.scores += 1;
        let Some(alarm) = anomaly.alarm else { return };
        let count = |counts: &mut [usize; 2]| {
            counts[0] += 1;
            counts[1] += usize::from(alarm);
        };
        count(&mut self.decided);
        if let Some(Label::Name(truth)) = truth {
            count(self.by_label.entry(truth.clone()).or_default());
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered, {} refused", self.answered, self.refused)?;
        if self.empty > 0 {
            write!(f, "\n  {} without a module: the task has none yet", self.empty)?;
        }
        let mut frequent: Vec<_> = self.classes.iter().collect();
        frequent.sort_by(|a, b| b.1.cmp(a.1));
        if !frequent.is_empty() {
            let shown: Vec<String> =
                frequent.iter().take(SHOWN).map(|(class, n)| format!("{class} ×{n}")).collect();
            let more = frequent.len().saturating_sub(SHOWN);
            write!(f, "\n  answered {}", shown.join(", "))?;
            if more > 0 {
                write!(f, " and {more} more classes")?;
            }
            if let Some(unknown) = self.classes.get(UNKNOWN) {
                write!(f, "; {unknown} too unsure for a class")?;
            }
        }
        let [labelled, right] = self.judged;
        if labelled > 0 {
            write!(f, "\n  {right} of {labelled} with a label rightly, {}", percent(right, labelled))?;
        }
        let Errors { windows, values, absolute, inside, promised } = &self.forecasts;
        if *values > 0 {
            write!(
                f,
                "\n  {windows} forecasts whose values are known: mean absolute error {}; {} of the values within \
                 the outer quantiles, which promise {:.0} %",
                short(absolute / *values as f64),
                percent(*inside, *values),
                100.0 * promised
            )?;
        }
        let Alarms { scores, decided: [decided, alarms], by_label } = &self.alarms;
        if *scores > 0 {
            write!(f, "\n  {alarms} alarms in {decided} answers")?;
            if decided < scores {
                write!(f, "; {} more came before there was a threshold", scores - decided)?;
            }
            for (label, [labelled, alarms]) in by_label {
                write!(f, "\n  of those labelled {label}: {alarms} alarms in {labelled}")?;
            }
        }
        let mut latencies = self.latencies.clone();
        latencies.sort_by(f64::total_cmp);
        if let (Some(median), Some(longest)) = (latencies.get(latencies.len() / 2), latencies.last()) {
            let exit = self.exits as f64 / self.answered as f64;
            write!(f, "\n  mean exit {exit:.2}, {median:.1} ms in the middle, {longest:.1} ms at most")?;
        }
        Ok(())
    }
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(label: Option<Label>) -> Entry {
        Entry { id: "s".into(), payload: Vec::new().into(), label }
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what may be missing")]
    fn name(text: &str) -> Option<Label> {
        Some(Label::Name(text.to_owned()))
    }

    #[test]
    fn classes_are_counted_and_judged() {
        let mut tally = Tally::default();
        let answer = |label: Option<&str>| Prediction {
            label: label.map(ToOwned::to_owned),
            confidence: label.map(|_| 0.75),
            exit: 1,
            ..Prediction::default()
        };
        assert!(tally.answer(&entry(name("a")), &answer(None)).contains("no module"));
        assert!(tally.answer(&entry(name("a")), &answer(Some("a"))).starts_with("a, 75.0 % (exit 1"));
        tally.answer(&entry(name("b")), &answer(Some("a")));
        tally.answer(&entry(None), &answer(Some("b")));
        tally.answer(&entry(None), &answer(Some(UNKNOWN)));
        tally.refusal("too large");
        let text = tally.to_string();
        for word in [
            "5 answered, 1 refused",
            "1 without a module",
            "a ×2",
            "1 too unsure",
            "1 of 2 with a label",
            "50.0 %",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }

    #[test]
    fn forecasts_are_held_against_what_came() {
        let mut tally = Tally::default();
        let forecast = ForecastAnswer {
            start: None,
            quantiles: vec![0.1, 0.5, 0.9],
            paths: vec![vec![1.0, 2.0], vec![2.0, 4.0], vec![3.0, 6.0]],
        };
        let answer = Prediction { forecast: Some(forecast), exit: 3, ..Prediction::default() };
        let line = tally.answer(&entry(Some(Label::Values(vec![2.5, 7.0]))), &answer);
        assert!(line.starts_with("2.000, 4.000; the first within 1.000 to 3.000"), "{line}");
        tally.answer(&entry(None), &answer);
        let text = tally.to_string();
        for word in ["1 forecasts", "error 1.750", "50.0 % of the values", "promise 80 %"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }

    #[test]
    fn alarms_are_counted_by_label() {
        let mut tally = Tally::default();
        let answer = |alarm: Option<bool>| Prediction {
            anomaly: Some(AlarmAnswer {
                score: 2.0,
                alarm,
                threshold: alarm.map(|_| 1.5),
                false_alarms: 0.01,
                interval: None,
                normals: 0,
            }),
            ..Prediction::default()
        };
        assert!(tally.answer(&entry(None), &answer(None)).contains("too few normal samples"));
        assert!(
            tally.answer(&entry(name("anomalous")), &answer(Some(true))).starts_with("alarm, score 2.000")
        );
        tally.answer(&entry(name("normal")), &answer(Some(false)));
        let text = tally.to_string();
        for word in [
            "1 alarms in 2 answers",
            "1 more came before",
            "labelled anomalous: 1 alarms in 1",
            "normal: 0 alarms in 1",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }
}
