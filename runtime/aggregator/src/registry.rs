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
mod tests {
    use loadonce_store::Database;
    use loadonce_store::crash::PowerCutDisk;

    use super::*;

    fn settings(admission: Admission) -> Settings {
        let gateways = BTreeMap::from([("listed".to_owned(), [1; 32])]);
        Settings { site: "s".into(), admission, gateways, tasks: Vec::new(), history_bytes: 0 }
    }

    fn open(admission: Admission) -> (Registry, Journal) {
        let journal = Journal::open(Database::open_with(PowerCutDisk::new(), 1024 * 1024).unwrap()).unwrap();
        (Registry::open(&settings(admission), &journal).unwrap(), journal)
    }

    fn record(key: u8) -> GatewayRecord {
        GatewayRecord { key: encode_hex(&[key; 32]), ..GatewayRecord::default() }
    }

    #[test]
    fn listed_names_need_their_key_and_others_are_refused() {
        let (registry, _) = open(Admission::Listed);
        assert!(registry.admits("listed", &[1; 32]).is_ok());
        assert!(registry.admits("listed", &[2; 32]).is_err());
        assert!(registry.admits("other", &[2; 32]).is_err());
    }

    #[test]
    fn first_use_binds_name_and_key_for_good() {
        let (mut registry, mut journal) = open(Admission::FirstUse);
        assert!(registry.admits("new", &[2; 32]).is_ok());
        registry.accepted("new", &[2; 32], record(2), 0);
        journal.put_gateway("new", &record(2)).unwrap();
        journal.commit().unwrap();
        let reopened = Registry::open(&settings(Admission::FirstUse), &journal).unwrap();
        for registry in [registry, reopened] {
            assert!(registry.admits("new", &[2; 32]).is_ok());
            assert!(registry.admits("new", &[3; 32]).is_err());
            assert!(registry.admits("thief", &[2; 32]).is_err());
            assert!(registry.admits("thief", &[1; 32]).is_err());
            assert!(registry.admits("third", &[3; 32]).is_ok());
        }
    }

    #[test]
    fn invariant_03_the_registry_is_bounded() {
        let (mut registry, mut journal) = open(Admission::FirstUse);
        for i in 0..MAX_GATEWAYS {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&(i as u64).to_le_bytes());
            registry.accepted(&format!("g{i}"), &key, record(7), 0);
        }
        assert!(registry.admits("more", &[9; 32]).is_err());
        let birth = br#"{"state":"down","incarnation":1}"#;
        assert_eq!(registry.presence(&mut journal, "more", birth, 0).unwrap(), PresenceOutcome::NotAdmitted);
        assert_eq!(registry.spend("more", 1, 0), None);
    }

    #[test]
    fn invented_names_are_not_written_and_give_way() {
        let (mut registry, mut journal) = open(Admission::FirstUse);
        let birth = br#"{"state":"up","incarnation":1,"version":"1","key":"","backbones":[],"tasks":[]}"#;
        for i in 0..MAX_GATEWAYS + 10 {
            let noted = registry.presence(&mut journal, &format!("g{i}"), birth, i as u64).unwrap();
            assert_eq!(noted, PresenceOutcome::Noted);
        }
        assert_eq!((registry.gateways.len(), journal.gateways().unwrap().len()), (MAX_GATEWAYS, 0));
        assert!(registry.gateways.contains_key("listed") && registry.admits("real", &[5; 32]).is_ok());
    }

    #[test]
    fn a_gateway_that_is_no_longer_listed_gets_nothing() {
        let (mut registry, mut journal) = open(Admission::FirstUse);
        registry.accepted("old", &[2; 32], record(2), 0);
        journal.put_gateway("old", &record(2)).unwrap();
        journal.commit().unwrap();
        let mut registry = Registry::open(&settings(Admission::Listed), &journal).unwrap();
        assert!(registry.admits("old", &[2; 32]).is_err());
        assert_eq!((registry.spend("old", 1, 0), registry.report("old", b"{}")), (None, false));
        assert!(registry.spend("listed", 1, 0).is_some());
    }

    #[test]
    fn an_enrolled_gateway_is_admitted_under_every_rule_and_can_be_replaced() {
        for admission in [Admission::Listed, Admission::FirstUse] {
            let (mut registry, mut journal) = open(admission);
            assert!(registry.may_enrol("new", &[2; 32], false).is_ok());
            assert!(registry.may_enrol("listed", &[2; 32], true).is_err(), "the configuration stands above");
            assert!(registry.may_enrol("new", &[1; 32], false).is_err(), "the key of another");
            registry.enrol("new", &[2; 32]);
            assert!(registry.admits("new", &[2; 32]).is_ok() && registry.admits("new", &[3; 32]).is_err());
            assert!(registry.spend("new", 1, 0).is_some());
            registry.accepted("new", &[2; 32], record(2), 0);
            journal.put_gateway("new", &record(2)).unwrap();
            journal.commit().unwrap();
            // After a restart, and replaced.
            let mut registry = Registry::open(&settings(admission), &journal).unwrap();
            registry.enrol("new", &[2; 32]);
            assert!(registry.may_enrol("new", &[3; 32], false).is_err());
            assert!(registry.may_enrol("new", &[3; 32], true).is_ok());
            registry.enrol("new", &[3; 32]);
            assert!(registry.admits("new", &[3; 32]).is_ok() && registry.admits("new", &[2; 32]).is_err());
            assert!(registry.may_enrol("other", &[2; 32], false).is_ok(), "the old key is free");
        }
    }

    #[test]
    fn module_bytes_are_rationed() {
        let mut gateway = Gateway::default();
        assert!(gateway.spend(BURST_BYTES, 0));
        assert!(!gateway.spend(1, 0));
        assert!(gateway.spend(BYTES_PER_SECOND, 1000));
        assert!(!gateway.spend(1, 1000));
        assert!(gateway.spend(BURST_BYTES, 10_000_000));
    }

    #[test]
    fn reports_are_bounded_objects_of_known_gateways() {
        let (mut registry, _) = open(Admission::Listed);
        let report = br#"{"rss_bytes":12,"uplink":{"bytes_up":3,"connects":1},"outbox":{"entries":2},
            "refusals":{"too_large":1,"bad_frame":4},"degraded":null,"tasks":{}}"#;
        assert!(registry.report("listed", report));
        let vitals =
            Vitals { rss_bytes: 12, bytes_up: 3, outbox_entries: 2, refusals: 5, ..Vitals::default() };
        assert_eq!(registry.gateways["listed"].vitals, Some(vitals));
        assert!(!registry.report("listed", br#"{"rss_bytes":"many"}"#));
        assert_eq!(registry.gateways["listed"].vitals, Some(vitals), "the last good one stays");
        assert!(!registry.report("listed", b"[1]"));
        assert!(!registry.report("listed", &[b' '; MAX_REPORT + 1]));
        assert!(!registry.report("other", b"{}"));
    }
}
