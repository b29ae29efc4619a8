//! What a task answers, kind by kind.

use super::{Input, ManifestError, check};
use loadonce_module::{ForecastLoss, MAX_HORIZON, Quantiles, Regressors};
use serde::{Deserialize, Serialize};

/// The answer of a classify task that is not sure enough; no class may have this name where answers are rejected.
pub const UNKNOWN: &str = "unknown";
/// Longest distance of a lag from the window's end, in steps.
pub const MAX_LAG: usize = 4096;
/// Seconds of a mean Gregorian year.
const YEAR_S: f64 = 31_556_952.0;

/// What a task answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// One of the declared classes.
    Classify,
    /// Values to come, as quantiles.
    Forecast,
    /// How unusual a sample is, and whether that is an alarm.
    Anomaly,
}

/// When a classify task answers "unknown".
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// Below a confidence that keeps the share of wrong answers among those given at most this, with the confidence
    /// of `exits.confidence`; everything is unknown until held-out labels prove such a confidence.
    Risk(f64),
    /// Below this confidence.
    Confidence(f64),
}

/// The table `[classify]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifySpec {
    /// Weight of each class, in the order of the classes; empty weighs all alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f32>,
    /// When to answer "unknown".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject: Option<Reject>,
    /// Classes named in a prediction, most probable first.
    pub top: usize,
}

impl Default for ClassifySpec {
    fn default() -> Self {
        Self { weights: Vec::new(), reject: None, top: 1 }
    }
}

impl ClassifySpec {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn validate(&self, classes: &[String]) -> Result<(), ManifestError> {
        let n = classes.len();
        let weights = self.weights.len();
        check("classify.weights", &weights, weights == 0 || weights == n, "one number per class")?;
        for weight in &self.weights {
            check(
                "classify.weights",
                weight,
                (0.001..=1000.0).contains(weight),
                "numbers from 0.001 to 1000",
            )?;
        }
        check("classify.top", &self.top, (1..=n).contains(&self.top), "1 to the number of classes")?;
        if let Some(Reject::Risk(share) | Reject::Confidence(share)) = self.reject {
            check("classify.reject", &share, share > 0.0 && share < 1.0, "between 0 and 1")?;
            let free = !classes.iter().any(|class| class == UNKNOWN);
            check("classify.reject", &UNKNOWN, free, "no class, where it is the answer to what is rejected")?;
        }
        Ok(())
    }
}

/// A period of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Period {
    /// Of the clock, in UTC.
    Named(NamedPeriod),
    /// So many steps of the series, counted from the epoch.
    Steps(u32),
}

/// A period with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedPeriod {
    /// 86,400 seconds.
    Day,
    /// Seven days.
    Week,
    /// 365.2425 days.
    Year,
}

/// Harmonics of a period: 2 features each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CalendarText")]
pub struct Calendar {
    /// The period.
    pub period: Period,
    /// Harmonics, 1 to 8.
    pub harmonics: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CalendarText {
    Bare(Period),
    Full(CalendarTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarTable {
    period: Period,
    #[serde(default = "usual_harmonics")]
    harmonics: u32,
}

fn usual_harmonics() -> u32 {
    2
}

impl From<CalendarText> for Calendar {
    fn from(text: CalendarText) -> Self {
        match text {
            CalendarText::Bare(period) => Self { period, harmonics: usual_harmonics() },
            CalendarText::Full(CalendarTable { period, harmonics }) => Self { period, harmonics },
        }
    }
}

impl Calendar {
    fn text(&self) -> String {
        let period = match self.period {
            Period::Named(NamedPeriod::Day) => "day".to_owned(),
            Period::Named(NamedPeriod::Week) => "week".to_owned(),
            Period::Named(NamedPeriod::Year) => "year".to_owned(),
            Period::Steps(steps) => steps.to_string(),
        };
        format!(" {period}x{}", self.harmonics)
    }

    /// Appends sin and cos of every harmonic at `time`, in seconds since the epoch.
    pub(super) fn append(&self, time: f64, step_s: f64, out: &mut Vec<f32>) {
        let phase = match self.period {
            Period::Named(NamedPeriod::Day) => time / 86_400.0,
            Period::Named(NamedPeriod::Week) => time / 604_800.0,
            Period::Named(NamedPeriod::Year) => time / YEAR_S,
            Period::Steps(steps) => time / (step_s * f64::from(steps)),
        };
        let turn = std::f64::consts::TAU * phase.rem_euclid(1.0);
        for harmonic in 1..=self.harmonics {
            let (sin, cos) = (turn * f64::from(harmonic)).sin_cos();
            out.extend([sin as f32, cos as f32]);
        }
    }
}

/// What is added to a unit, as in standardizing.
const LEAST_UNIT: f64 = 1e-4;

/// How far from a window's end the value lies that is one season before step `h` to come, counted from 0.
fn before(season: usize, h: usize) -> usize {
    season - h % season
}

/// The table `[forecast]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastSpec {
    /// Steps ahead.
    pub horizon: usize,
    /// Levels of the quantiles, 0.5 among them.
    #[serde(default = "usual_quantiles")]
    pub quantiles: Quantiles,
    /// Channel that is forecast, counted from 0.
    #[serde(default)]
    pub target: usize,
    /// Values of the target's window that are features, by their distance from its end: 1 is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lags: Option<Vec<usize>>,
    /// Periods whose phase at the first value to come is a feature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calendar: Vec<Calendar>,
    /// Steps after which the series roughly repeats; sets the usual lags and what values are measured in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub season: Option<usize>,
    /// Steps from one window of a series to the next.
    #[serde(default = "usual_every", skip_serializing_if = "is_usual_every")]
    pub every: usize,
    /// Seconds from one value to the next; with it, and a time in every sample, samples label each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_s: Option<f64>,
    /// What training minimizes.
    #[serde(default)]
    pub loss: ForecastLoss,
}

fn usual_every() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_usual_every(every: &usize) -> bool {
    *every == usual_every()
}

fn usual_quantiles() -> Quantiles {
    Quantiles::USUAL
}

impl ForecastSpec {
    /// The lags: those declared; otherwise, with a season, the last value, the one a season before it and the values
    /// one season before each step to come; otherwise none. Rising.
    pub fn lags(&self) -> Vec<usize> {
        let mut lags = match (&self.lags, self.season) {
            (Some(lags), _) => lags.clone(),
            (None, Some(season)) if season > 0 => {
                let steps = (0..self.horizon).map(|h| before(season, h));
                [1, season + 1].into_iter().chain(steps).collect()
            }
            (None, _) => Vec::new(),
        };
        lags.sort_unstable();
        lags.dedup();
        lags
    }

    /// The values of a window's end that its features and [`Self::scale`] look at, at most.
    pub fn reach(&self) -> usize {
        let lags = self.lags();
        lags.last().copied().unwrap_or(0).max(self.season.unwrap_or(0))
    }

    /// What a window's values are measured from and in, given the target's mean and deviation as resampled and at
    /// least the last [`Self::reach`] of its values, or all. Without a season these are mean and deviation. With one,
    /// the last season tells level and amplitude of today, the whole window those of its past: the level lies halfway
    /// between their means, and the unit is the last season's deviation, or half the window's where that is more. A
    /// unit is never 0.
    pub fn scale(&self, mean: f64, deviation: f64, values: &[f64]) -> (f64, f64) {
        let (level, unit) = match self.season {
            Some(season) if !values.is_empty() => {
                let last = &values[values.len().saturating_sub(season.max(1))..];
                let count = last.len() as f64;
                let today = last.iter().sum::<f64>() / count;
                let spread = last.iter().map(|x| (x - today) * (x - today)).sum::<f64>() / count;
                (f64::midpoint(mean, today), spread.sqrt().max(deviation / 2.0))
            }
            _ => (mean, deviation),
        };
        (level, unit + LEAST_UNIT)
    }

    /// What the closed form may know of the features and windows.
    pub fn regressors(&self) -> Regressors {
        let (lags, calendar) = (self.lags(), self.calendar_features());
        let extras = lags.len() + calendar;
        let place = |lag: usize| lags.binary_search(&lag).ok().map(|at| extras - at);
        let season = self.season.filter(|&season| season > 0);
        let of_steps = season.and_then(|s| (0..self.horizon).map(|h| place(before(s, h))).collect());
        Regressors {
            extras,
            season: of_steps.unwrap_or_default(),
            last: place(1),
            before: season.and_then(|season| place(season + 1)),
            every: self.every,
        }
    }

    /// Features of the calendar.
    pub fn calendar_features(&self) -> usize {
        self.calendar.iter().map(|calendar| 2 * calendar.harmonics as usize).sum()
    }

    pub(super) fn validate(&self, input: &Input) -> Result<(), ManifestError> {
        check("forecast.horizon", &self.horizon, (1..=MAX_HORIZON).contains(&self.horizon), "1 to 192")?;
        let Input::Window { channels, length, .. } = input else {
            return Err(ManifestError::Modality { kind: "forecast", modality: input.modality() });
        };
        check("forecast.target", &self.target, self.target < *channels, "below the number of channels")?;
        if let Some(season) = self.season {
            check("forecast.season", &season, (1..MAX_LAG).contains(&season), "1 to 4095")?;
        }
        check("forecast.every", &self.every, (1..=MAX_LAG).contains(&self.every), "1 to 4096")?;
        let most = length.unwrap_or(MAX_LAG).min(MAX_LAG);
        for lag in self.lags() {
            check(
                "forecast.lags",
                &lag,
                (1..=most).contains(&lag),
                "from 1 to the window's length, at most 4096",
            )?;
        }
        check("forecast.calendar", &self.calendar.len(), self.calendar.len() <= 8, "8 periods at most")?;
        for Calendar { period, harmonics } in &self.calendar {
            check("forecast.calendar", harmonics, (1..=8).contains(harmonics), "1 to 8 harmonics")?;
            if let Period::Steps(steps) = period {
                check("forecast.calendar", steps, *steps >= 2, "day, week, year or 2 steps and more")?;
            }
        }
        let step_s = self.step_s.unwrap_or(1.0);
        let sound = (0.001..=31_622_400.0).contains(&step_s);
        check("forecast.step_s", &step_s, sound, "0.001 to 31622400 seconds")?;
        let known = self.calendar.is_empty() || self.step_s.is_some();
        check("forecast.step_s", &"missing", known, "given where there is a calendar")
    }

    /// What the features' text says of a forecast: target, season, lags, calendar.
    pub fn text(&self) -> String {
        let lags: Vec<String> = self.lags().iter().map(ToString::to_string).collect();
        let mut text = vec![format!(" target {}", self.target)];
        text.extend(self.season.map(|season| format!(" season {season}")));
        if !lags.is_empty() {
            text.push(format!(" lags {}", lags.join(",")));
        }
        if !self.calendar.is_empty() {
            text.push(" calendar".to_owned());
            text.extend(self.calendar.iter().map(Calendar::text));
        }
        text.extend(self.step_s.map(|step_s| format!(" step {step_s:?}")));
        text.concat()
    }
}

/// The table `[anomaly]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalySpec {
    /// Share of normal samples that may raise an alarm.
    pub false_alarms: f64,
    /// Of a gateway's first so many samples those that nobody labels count as normal.
    pub learn: u64,
}

impl Default for AnomalySpec {
    fn default() -> Self {
        Self { false_alarms: 0.01, learn: 0 }
    }
}

impl AnomalySpec {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn validate(&self) -> Result<(), ManifestError> {
        let share = self.false_alarms;
        check("anomaly.false_alarms", &share, (0.0001..=0.5).contains(&share), "0.0001 to 0.5")?;
        check("anomaly.learn", &self.learn, self.learn <= 1_000_000, "at most 1000000")
    }
}
