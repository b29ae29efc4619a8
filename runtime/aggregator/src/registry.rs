//! Gateways: who is admitted, who is up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use loadonce_control::Presence;
use loadonce_trust::{PublicKey, decode_hex, encode_hex};
use serde::{Deserialize, Serialize};

use crate::journal::{GatewayRecord, Journal, JournalError};
use crate::settings::{Admission, Settings};

/// Most gateways of a site.
pub(crate) const MAX_GATEWAYS: usize = 16_384;
/// Sites of at most this many gateways have every arrival and departure in the log.
const SMALL_SITE: usize = 256;
/// Largest report of a gateway that is read, in bytes.
const MAX_REPORT: usize = 8 * 1024;
/// Module bytes a gateway may ask for at once, and per second after that: some large modules, or many repeats
/// of a usual one.
const BURST_BYTES: u64 = 8 * 1024 * 1024;
const BYTES_PER_SECOND: u64 = 512 * 1024;

/// What is kept of a gateway's report: a few numbers, for a report takes kilobytes and there may be ten thousand.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Vitals {
    /// Seconds since its agent started.
    pub uptime_s: f64,
    /// Resident memory of its agent in bytes.
    pub rss_bytes: u64,
    /// Bytes its uplink wrote since then.
    pub bytes_up: u64,
    /// Bytes its uplink read.
    pub bytes_down: u64,
    /// Contributions in its outbox.
    pub outbox_entries: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Everything it refused since its agent started.
    pub refusals: u64,
    /// Whether it writes nothing, because its storage failed.
    pub degraded: bool,
}

impl Vitals {
    /// What a report says; nought where it does not say. `None` if it is no report.
    fn of(payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Link {
            bytes_up: u64,
            bytes_down: u64,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Outbox {
            entries: u64,
            bytes: u64,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Report {
            uptime_s: f64,
            rss_bytes: u64,
            uplink: Link,
            outbox: Outbox,
            refusals: BTreeMap<String, u64>,
            degraded: Option<String>,
        }
        let starts_as_object = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let report: Report = serde_json::from_slice(payload).ok().filter(|_| starts_as_object)?;
        Some(Self {
            uptime_s: report.uptime_s,
            rss_bytes: report.rss_bytes,
            bytes_up: report.uplink.bytes_up,
            bytes_down: report.uplink.bytes_down,
            outbox_entries: report.outbox.entries,
            outbox_bytes: report.outbox.bytes,
            refusals: report.refusals.values().fold(0, |sum, n| sum.saturating_add(*n)),
            degraded: report.degraded.is_some(),
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) record: GatewayRecord,
    /// When it was last heard, by this process.
    pub(crate) heard_ms: Option<u64>,
    /// Of its newest report.
    pub(crate) vitals: Option<Vitals>,
    /// Bytes taken out of its allowance, and when that was reckoned.
    spent: (u64, u64),
}

impl Gateway {
    /// Takes `bytes` out of the allowance if it holds them.
    fn spend(&mut self, bytes: u64, now_ms: u64) -> bool {
        let (spent, at) = self.spent;
        let regained = now_ms.saturating_sub(at).saturating_mul(BYTES_PER_SECOND) / 1000;
        let spent = spent.saturating_sub(regained) + bytes;
        if spent > BURST_BYTES {
            return false;
        }
        self.spent = (spent, now_ms);
        true
    }
}

#[derive(Debug)]
pub(crate) struct Registry {
    admission: Admission,
    /// By the configuration, or enrolled.
    listed: BTreeMap<String, PublicKey>,
    /// Those of them that the configuration lists.
    configured: BTreeSet<String>,
    gateways: BTreeMap<String, Gateway>,
    /// Which name a key is bound to.
    owners: HashMap<PublicKey, String>,
}

/// All gateways in a few numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Fleet {
    /// Gateways that are listed, or were heard.
    pub(crate) known: usize,
    /// Those that are up.
    pub(crate) up: usize,
    /// Those of which this process has a report; the figures below are of their newest ones.
    pub(crate) reporting: usize,
    /// Those whose storage failed.
    pub(crate) degraded: usize,
    /// Contributions in their outboxes.
    pub(crate) outbox_entries: u64,
    /// Bytes of these.
    pub(crate) outbox_bytes: u64,
    /// The largest agent's memory in bytes.
    pub(crate) largest_rss_bytes: u64,
    /// Each by itself, in a small fleet.
    pub(crate) named: Vec<Named>,
}

/// A gateway by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) up: bool,
    /// Contributions accepted, ever.
    pub(crate) accepted: u64,
    pub(crate) vitals: Option<Vitals>,
}

/// What a message on a state topic led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PresenceOutcome {
    /// Noted.
    Noted,
    /// The will of an incarnation that is gone: a newer one is up.
    StaleWill,
    /// Not a presence.
    Malformed,
    /// Not a gateway of this site.
    NotAdmitted,
}

impl Registry {
    pub(crate) fn open(settings: &Settings, journal: &Journal) -> Result<Self, JournalError> {
        let mut registry = Self {
            admission: settings.admission,
            listed: settings.gateways.clone(),
            configured: settings.gateways.keys().cloned().collect(),
            gateways: BTreeMap::new(),
            owners: settings.gateways.iter().map(|(name, key)| (*key, name.clone())).collect(),
        };
        for (name, record) in journal.gateways()? {
            if let Some(key) = decode_hex(&record.key) {
                registry.owners.entry(key).or_insert_with(|| name.clone());
            }
            registry.gateways.insert(name, Gateway { record, ..Gateway::default() });
        }
        for name in settings.gateways.keys() {
            registry.gateways.entry(name.clone()).or_default();
        }
        Ok(registry)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Gateway)> {
        self.gateways.iter()
    }

    /// See [`Fleet`]; `most` gateways are named, or none where there are more.
    pub(crate) fn fleet(&self, most: usize) -> Fleet {
        let mut fleet = Fleet { known: self.gateways.len(), ..Fleet::default() };
        for gateway in self.gateways.values() {
            fleet.up += usize::from(gateway.record.up);
            if let Some(vitals) = &gateway.vitals {
                fleet.reporting += 1;
                fleet.degraded += usize::from(vitals.degraded);
                fleet.outbox_entries = fleet.outbox_entries.saturating_add(vitals.outbox_entries);
                fleet.outbox_bytes = fleet.outbox_bytes.saturating_add(vitals.outbox_bytes);
                fleet.largest_rss_bytes = fleet.largest_rss_bytes.max(vitals.rss_bytes);
            }
        }
        if self.gateways.len() <= most {
            let named = self.gateways.iter().map(|(name, gateway)| Named {
                name: name.clone(),
                up: gateway.record.up,
                accepted: gateway.record.accepted,
                vitals: gateway.vitals,
            });
            fleet.named = named.collect();
        }
        fleet
    }

    pub(crate) fn record(&self, name: &str) -> GatewayRecord {
        self.gateways.get(name).map(|gateway| gateway.record.clone()).unwrap_or_default()
    }

    /// Whether a contribution that `key` signed may come from `name`; otherwise why not, for the log.
    pub(crate) fn admits(&self, name: &str, key: &PublicKey) -> Result<(), &'static str> {
        if let Some(listed) = self.listed.get(name) {
            return if listed == key {
                Ok(())
            } else {
                Err("the configuration lists another key for this name")
            };
        }
        if self.admission == Admission::Listed {
            return Err("the configuration does not list this name; add it under `gateways`");
        }
        if let Some(owner) = self.owners.get(key) {
            return if owner == name { Ok(()) } else { Err("this key belongs to another name") };
        }
        match self.gateways.get(name) {
            Some(gateway) if !gateway.record.key.is_empty() => {
                Err("this name is bound to another key; list name and key under `gateways` to replace it")
            }
            Some(_) => Ok(()),
            None if self.owners.len() < MAX_GATEWAYS => Ok(()),
            None => Err("the registry is full"),
        }
    }

    /// Whether a gateway that redeemed a token may have this name and key; otherwise why not, for the gateway. `replaces`
    /// is the operator's word that it replaces one of the same name.
    pub(crate) fn may_enrol(&self, name: &str, key: &PublicKey, replaces: bool) -> Result<(), &'static str> {
        if self.configured.contains(name) {
            return if self.listed.get(name) == Some(key) {
                Ok(())
            } else {
                Err("the aggregator's configuration lists another key for this name")
            };
        }
        if self.owners.get(key).is_some_and(|owner| owner != name) {
            return Err(
                "the gateway's key belongs to another name; it is a copy of another gateway's state folder",
            );
        }
        let bound = self.gateways.get(name).map(|gateway| gateway.record.key.as_str()).unwrap_or_default();
        if !replaces && !bound.is_empty() && decode_hex(bound) != Some(*key) {
            return Err(
                "the aggregator has contributions of another gateway of this name; use another name, or --replace",
            );
        }
        if !self.listed.contains_key(name) && self.listed.len().max(self.owners.len()) >= MAX_GATEWAYS {
            return Err("the registry is full");
        }
        Ok(())
    }

    /// Admits a gateway that redeemed a token; what was known of the name before it counts no more.
    pub(crate) fn enrol(&mut self, name: &str, key: &PublicKey) {
        if self.configured.contains(name) {
            return;
        }
        self.owners.retain(|_, owner| owner != name);
        self.owners.insert(*key, name.to_owned());
        self.listed.insert(name.to_owned(), *key);
        self.gateways.entry(name.to_owned()).or_default();
    }

    /// Takes over the record that was written with an accepted contribution.
    pub(crate) fn accepted(&mut self, name: &str, key: &PublicKey, record: GatewayRecord, now_ms: u64) {
        self.owners.insert(*key, name.to_owned());
        let gateway = self.gateways.entry(name.to_owned()).or_default();
        gateway.record = record;
        gateway.heard_ms = Some(now_ms);
    }

    /// Notes that a known gateway was heard.
    pub(crate) fn heard(&mut self, name: &str, now_ms: u64) {
        if let Some(gateway) = self.gateways.get_mut(name) {
            gateway.heard_ms = Some(now_ms);
        }
    }

    /// Keeps a known gateway's figures; false where they are none.
    pub(crate) fn report(&mut self, name: &str, payload: &[u8]) -> bool {
        if !self.welcome(name) {
            return false;
        }
        let Some(gateway) = self.gateways.get_mut(name) else { return false };
        if payload.len() > MAX_REPORT {
            return false;
        }
        let vitals = Vitals::of(payload);
        gateway.vitals = vitals.or(gateway.vitals);
        vitals.is_some()
    }

    /// Whether `name` may have `bytes` of module files now.
    pub(crate) fn spend(&mut self, name: &str, bytes: u64, now_ms: u64) -> Option<bool> {
        if !self.make_room(name) {
            return None;
        }
        Some(self.gateways.entry(name.to_owned()).or_default().spend(bytes, now_ms))
    }

    /// Whether the configuration lets this name in at all.
    fn welcome(&self, name: &str) -> bool {
        self.admission == Admission::FirstUse || self.listed.contains_key(name)
    }

    /// Whether `name` is known or may become so. A name that never contributed is known to this process only and
    /// gives way when the registry is full, so that invented ones cannot fill it.
    fn make_room(&mut self, name: &str) -> bool {
        if !self.welcome(name) {
            return false;
        }
        if !self.gateways.contains_key(name) && self.gateways.len() >= MAX_GATEWAYS {
            let idle = self
                .gateways
                .iter()
                .filter(|(name, g)| g.record.key.is_empty() && !self.listed.contains_key(*name));
            let Some(oldest) = idle.min_by_key(|(_, g)| g.heard_ms).map(|(name, _)| name.clone()) else {
                return false;
            };
            self.gateways.remove(&oldest);
        }
        true
    }

    /// A birth or a last will. A will counts only for the newest incarnation that was born: a broker may
    /// publish an older one's long after its successor came up.
    pub(crate) fn presence(
        &mut self,
        journal: &mut Journal,
        name: &str,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<PresenceOutcome, JournalError> {
        let Ok(presence) = serde_json::from_slice::<Presence>(payload) else {
            return Ok(PresenceOutcome::Malformed);
        };
        if !self.make_room(name) {
            return Ok(PresenceOutcome::NotAdmitted);
        }
        let small = self.gateways.len() <= SMALL_SITE;
        let gateway = self.gateways.entry(name.to_owned()).or_default();
        let mut record = gateway.record.clone();
        record.up = matches!(presence, Presence::Up { .. });
        match presence {
            Presence::Up { incarnation, version, key, .. } => {
                record.incarnation = incarnation;
                record.agent = version.chars().take(64).collect();
                gateway.heard_ms = Some(now_ms);
                let expected = self.listed.get(name).map(|key| encode_hex(key)).unwrap_or(record.key.clone());
                if !expected.is_empty() && !expected.eq_ignore_ascii_case(&key) {
                    tracing::warn!(
                        gateway = name,
                        expected,
                        key,
                        "the gateway announces another key; its contributions will be refused until it is listed"
                    );
                }
            }
            Presence::Down { incarnation } if incarnation < record.incarnation => {
                return Ok(PresenceOutcome::StaleWill);
            }
            Presence::Down { .. } => {}
        }
        if record != gateway.record {
            if !record.key.is_empty() || self.listed.contains_key(name) {
                journal.put_gateway(name, &record)?;
            }
            if small {
                tracing::info!(gateway = name, up = record.up, incarnation = record.incarnation, "gateway");
            } else {
                tracing::debug!(gateway = name, up = record.up, incarnation = record.incarnation, "gateway");
            }
            gateway.record = record;
        }
        Ok(PresenceOutcome::Noted)
    }
}

#[cfg(test)]
mod tests;
