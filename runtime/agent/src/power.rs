//! When training pauses: too hot, on battery, too little voltage. Answers never pause.
//!
//! This decides on readings that it is given; [`crate::edge`] takes them from the kernel. A cause counts at once and
//! ends only when it has been gone for `power.settle_s`, so training does not flap. Something that can no longer be
//! read keeps its last word for [`FORGET_MS`] and is then as if it had never been.

use crate::config::PowerConfig;
use serde::Serialize;
use std::collections::BTreeMap;

/// How long a zone or battery that vanished counts as it was last seen.
const FORGET_MS: u64 = 60_000;
/// Training stops so far below the temperature at which the kernel slows the processor down…
const BELOW_PASSIVE_C: f64 = 5.0;
/// … or switches the machine off.
const BELOW_CRITICAL_C: f64 = 15.0;
/// A trip point below this is no limit of a warm machine but a placeholder.
const LEAST_TRIP_C: f64 = 50.0;
/// Percent by which a low battery must recover.
const RECOVERED: f64 = 10.0;

/// What the kernel said at one moment. What could not be read is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Thermal zones.
    pub zones: Vec<Zone>,
    /// Batteries that feed the machine.
    pub batteries: Vec<Battery>,
    /// Whether the supply's voltage is reported as too low.
    pub undervoltage: bool,
}

/// One thermal zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// Its folder's name and type, for example `thermal_zone0 cpu-thermal`.
    pub name: String,
    /// Its temperature.
    pub celsius: f64,
    /// Where the kernel begins to slow the processor down, if it says so.
    pub passive_c: Option<f64>,
    /// Where the kernel switches the machine off, if it says so.
    pub critical_c: Option<f64>,
}

/// One battery.
#[derive(Debug, Clone, PartialEq)]
pub struct Battery {
    /// Its folder's name.
    pub name: String,
    /// Whether the machine lives on it.
    pub discharging: bool,
    /// What is left, percent.
    pub percent: Option<f64>,
}

/// Why training pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A zone is too hot.
    Heat,
    /// The machine lives on a battery, or one is low.
    Battery,
    /// The supply gives too little voltage.
    Undervoltage,
}

impl Cause {
    /// The word in reports and in the birth message.
    pub fn word(self) -> &'static str {
        match self {
            Self::Heat => "heat",
            Self::Battery => "battery",
            Self::Undervoltage => "undervoltage",
        }
    }
}

/// A thing that was read, with whether it speaks against training.
#[derive(Debug)]
struct Seen {
    against: Option<String>,
    figure: Option<f64>,
    at_ms: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Power {
    config: PowerConfig,
    zones: BTreeMap<String, Seen>,
    batteries: BTreeMap<String, Seen>,
    undervoltage: bool,
    paused: Option<(Cause, String)>,
    /// Since when nothing speaks against training any more.
    clear_since_ms: Option<u64>,
    pauses: u64,
    paused_ms: u64,
    observed_ms: u64,
}

/// What a report tells.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PowerReport {
    training: &'static str,
    cause: Option<Cause>,
    why: Option<String>,
    pub(crate) hottest_c: Option<f64>,
    pub(crate) battery_percent: Option<f64>,
    pauses: u64,
    pub(crate) paused_s: u64,
}

impl Power {
    pub(crate) fn new(config: PowerConfig) -> Self {
        Self {
            config,
            zones: BTreeMap::new(),
            batteries: BTreeMap::new(),
            undervoltage: false,
            paused: None,
            clear_since_ms: None,
            pauses: 0,
            paused_ms: 0,
            observed_ms: 0,
        }
    }

    /// Takes what was read now; whether the cause of a pause changed by it, or a pause began or ended.
    pub(crate) fn observe(&mut self, now_ms: u64, readings: &Readings) -> bool {
        if self.paused.is_some() {
            self.paused_ms += now_ms.saturating_sub(self.observed_ms);
        }
        self.observed_ms = now_ms;
        for zone in &readings.zones {
            let was = self.zones.get(&zone.name).is_some_and(|seen| seen.against.is_some());
            let limit = self.limit(zone);
            let until = if was { limit - self.config.cooler_c } else { limit };
            let text = || format!("{} is at {:.1} °C, its limit is {limit:.0} °C", zone.name, zone.celsius);
            let against = (zone.celsius >= until).then(text);
            let seen = Seen { against, figure: Some(zone.celsius), at_ms: now_ms };
            self.zones.insert(zone.name.clone(), seen);
        }
        for battery in &readings.batteries {
            let was = self.batteries.get(&battery.name).is_some_and(|seen| seen.against.is_some());
            let least = self.config.battery_percent + if was { RECOVERED } else { 0.0 };
            let low = battery.percent.is_some_and(|percent| percent < least.min(100.0));
            let against = if battery.discharging && !self.config.on_battery {
                Some(format!("this gateway lives on its battery {}", battery.name))
            } else {
                let percent = battery.percent.unwrap_or_default();
                low.then(|| format!("the battery {} is at {percent:.0} %", battery.name))
            };
            let seen = Seen { against, figure: battery.percent, at_ms: now_ms };
            self.batteries.insert(battery.name.clone(), seen);
        }
        for seen in [&mut self.zones, &mut self.batteries] {
            seen.retain(|_, seen| now_ms.saturating_sub(seen.at_ms) < FORGET_MS);
        }
        self.undervoltage = readings.undervoltage;
        self.decide(now_ms)
    }

    fn decide(&mut self, now_ms: u64) -> bool {
        let first = |seen: &BTreeMap<String, Seen>| seen.values().find_map(|seen| seen.against.clone());
        let heat = first(&self.zones).map(|why| (Cause::Heat, why));
        let battery = || first(&self.batteries).map(|why| (Cause::Battery, why));
        let supply = || Some((Cause::Undervoltage, "the supply's voltage is too low".to_owned()));
        let against = heat.or_else(battery).or_else(|| supply().filter(|_| self.undervoltage));
        let before = self.paused.as_ref().map(|(cause, _)| *cause);
        match against {
            Some(against) => {
                self.clear_since_ms = None;
                self.pauses += u64::from(before.is_none());
                self.paused = Some(against);
            }
            None if before.is_some() => {
                let since = *self.clear_since_ms.get_or_insert(now_ms);
                if now_ms.saturating_sub(since) >= self.config.settle_s * 1000 {
                    self.paused = None;
                    self.clear_since_ms = None;
                }
            }
            None => {}
        }
        before != self.paused.as_ref().map(|(cause, _)| *cause)
    }

    fn limit(&self, zone: &Zone) -> f64 {
        let below = |trip: Option<f64>, by: f64| {
            trip.filter(|trip| *trip >= LEAST_TRIP_C).map_or(f64::INFINITY, |trip| trip - by)
        };
        let kernels = below(zone.passive_c, BELOW_PASSIVE_C).min(below(zone.critical_c, BELOW_CRITICAL_C));
        self.config.hottest_c.min(kernels)
    }

    /// Why training pauses, if it does.
    pub(crate) fn paused(&self) -> Option<(Cause, &str)> {
        self.paused.as_ref().map(|(cause, why)| (*cause, why.as_str()))
    }

    pub(crate) fn report(&self) -> PowerReport {
        let figures = |seen: &BTreeMap<String, Seen>| seen.values().filter_map(|seen| seen.figure).collect();
        let (zones, batteries): (Vec<f64>, Vec<f64>) = (figures(&self.zones), figures(&self.batteries));
        PowerReport {
            training: if self.paused.is_some() { "paused" } else { "allowed" },
            cause: self.paused.as_ref().map(|(cause, _)| *cause),
            why: self.paused.as_ref().map(|(_, why)| why.clone()),
            hottest_c: zones.into_iter().reduce(f64::max),
            battery_percent: batteries.into_iter().reduce(f64::min),
            pauses: self.pauses,
            paused_s: self.paused_ms / 1000,
        }
    }
}

#[cfg(test)]
mod tests;
