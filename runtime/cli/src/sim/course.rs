//! What a run does: connect, then round for round prepare, send, wait for the version, fetch it and compare.

use loadonce_control::{Pointer, Stable, SyncPolicy, Wants};
use loadonce_trust::{decode_hex, encode_hex};
use loadonce_wire::Name;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::gateway::{Common, Gateway};
use super::payload::{Pool, Truth};
use super::report::{Report, Round, Storm};
use super::{Options, SimError, address};

/// The broker's own throughput: the same steps from the same connections to a subscriber that does nothing.
pub(crate) fn null(options: &Options) -> Result<Report, SimError> {
    let zeros = Common { task: name(&options.task)?, backbone: [0; 32], shape: [0; 32], base: (0, [0; 32]) };
    let mut fleet = connected(options, zeros.clone(), true)?;
    let encoding = (options.codec, SyncPolicy::default().bits);
    let pool =
        Pool::steps(options.seed, options.distinct, encoding, (options.parameters, 0)).map_err(wrong)?;
    contribute(&mut fleet, &zeros, &pool);
    let mut round = Round::new("null", options.gateways);
    send(&mut fleet, options, &mut round, options.in_flight)?;
    let mut report = Report::new(options, options.parameters, options.codec);
    report.rounds.push(round);
    fleet.close();
    Ok(report)
}

/// Rounds with an aggregator.
pub(crate) fn rounds(options: &Options) -> Result<Report, SimError> {
    let unknown =
        Common { task: name(&options.task)?, backbone: [0; 32], shape: [0; 32], base: (0, [0; 32]) };
    let mut fleet = connected(options, unknown, false)?;
    let patience = Duration::from_secs(options.patience);
    fleet.run("the task's manifest and pointer", patience, |fleet| {
        fleet.manifest().is_some() && fleet.pointer().is_some()
    })?;
    let (mut truth, pointer) = truth(&fleet, options)?;
    let parameters = truth.shape.parameters();
    let backbone = hex(&pointer.backbone)?;
    let mut common =
        Common { task: fleet.common.task.clone(), backbone, shape: hex(&pointer.shape)?, base: (0, [0; 32]) };
    fleet.common = common.clone();
    let mut report = Report::new(options, parameters, truth.manifest.sync.codec);
    let total = options.rounds + 1 + u64::from(options.storm);
    for number in 1..=total {
        let pointer = fleet.pointer().cloned().expect("the first one was waited for");
        let storm = options.storm && number == total;
        let seed = options.seed.wrapping_add(number << 32).wrapping_add(options.run << 48);
        let (kind, pool) = match (&pointer.wants, &pointer.stable) {
            (Wants::Sum, None) => (
                "sum",
                Pool::sums(seed, options.distinct.min(options.gateways), &truth.shape).map_err(wrong)?,
            ),
            (Wants::Step, Some(Stable { version, hash, .. })) => {
                common.base = (*version, hex(hash)?);
                let sync = &truth.manifest.sync;
                let (distinct, shape) = (options.distinct.min(options.gateways), &truth.shape);
                let sizes = (parameters, shape.features);
                ("step", Pool::steps(seed, distinct, (sync.codec, sync.bits), sizes).map_err(wrong)?)
            }
            (wants, stable) => {
                let version = stable.as_ref().map_or(0, |stable| stable.version);
                return Err(SimError::Task(format!(
                    "the lineage is at version {version} and wants {wants:?}; a simulation starts with a task of its own"
                )));
            }
        };
        contribute(&mut fleet, &common, &pool);
        let expected = truth.next(&pool, options.gateways).map_err(wrong)?.clone();
        let mut round = Round::new(kind, options.gateways);
        eprintln!("sim: round {number} ({kind}): {} gateways hold unacknowledged work", options.gateways);
        let before = fleet.answers();
        if storm {
            round.storm = Some(weather(&mut fleet, options, &mut round)?);
        } else {
            send(&mut fleet, options, &mut round, options.in_flight)?;
        }
        round.answers = std::array::from_fn(|status| fleet.answers()[status] - before[status]);
        let acked = Instant::now();
        fleet.run("the next version at every gateway", patience, |fleet| {
            fleet.connected() == options.gateways && fleet.all_at(number)
        })?;
        round.cut_seconds = acked.elapsed().as_secs_f64();
        fetch(&mut fleet, options, &mut round, &expected)?;
        eprintln!(
            "sim: round {number} ({kind}): version {number} is {}",
            if round.exact { "exact" } else { "WRONG" }
        );
        report.rounds.push(round);
    }
    let key = fleet.aggregator.expect("a pointer was believed");
    report.acks_checked = fleet.acks.len() as u64;
    report.acks_forged = fleet.acks.iter().filter(|answer| !answer.believed(&key)).count() as u64;
    report.wrong_frames = fleet.counts.wrong_frames;
    fleet.close();
    Ok(report)
}

fn name(text: &str) -> Result<Name, SimError> {
    Name::new(text).ok_or_else(|| SimError::Usage(format!("`{text}` is no name of a task")))
}

fn wrong(error: impl std::fmt::Display) -> SimError {
    SimError::Task(error.to_string())
}

fn hex(text: &str) -> Result<[u8; 32], SimError> {
    decode_hex(text).ok_or_else(|| SimError::Task("the pointer holds a hash that is none".into()))
}

fn connected(options: &Options, common: Common, null: bool) -> Result<Fleet, SimError> {
    let gateways =
        (0..options.gateways).map(|index| Gateway::new(options.seed, options.run, index)).collect();
    let task = common.task.as_str().to_owned();
    let mut fleet =
        Fleet::new(address(options)?, (&options.site, &task), common, gateways, options.in_flight)?;
    if null {
        fleet.with_null()?;
    }
    let begun = Instant::now();
    fleet.run("connections", Duration::from_secs(options.patience), |fleet| {
        fleet.connected() == options.gateways
    })?;
    eprintln!("sim: {} gateways connected in {:.1} s", options.gateways, begun.elapsed().as_secs_f64());
    Ok(fleet)
}

fn truth(fleet: &Fleet, options: &Options) -> Result<(Truth, Pointer), SimError> {
    let manifest = fleet.manifest().cloned().expect("it was waited for");
    let pointer = fleet.pointer().cloned().expect("it was waited for");
    let shape = manifest.shape(options.exits, options.directions).map_err(wrong)?;
    let features_of = manifest.features_of(&pointer.backbone, options.directions);
    if encode_hex(&shape.fingerprint(&manifest.classes, &features_of)) != pointer.shape {
        return Err(SimError::Task(format!(
            "the task's backbone has not {} exits and {} directions; give --exits and --directions",
            options.exits, options.directions
        )));
    }
    if manifest.rounds.quorum != options.gateways || manifest.rounds.deadline_s != 0 {
        return Err(SimError::Task(format!(
            "the task's rounds close with {} gateways or after {} s; set quorum = {} and deadline_s = 0, so that the \
             right result is known",
            manifest.rounds.quorum, manifest.rounds.deadline_s, options.gateways
        )));
    }
    Ok((Truth::new(manifest, shape, pointer.backbone.clone()), pointer))
}

fn contribute(fleet: &mut Fleet, common: &Common, pool: &Pool) {
    fleet.common = common.clone();
    for (index, gateway) in fleet.gateways.iter_mut().enumerate() {
        let (payload, weight) = pool.of(index);
        gateway.contribute(common, payload, weight);
    }
}

/// Sends what all gateways hold, until every one has its answer.
fn send(fleet: &mut Fleet, options: &Options, round: &mut Round, window: usize) -> Result<(), SimError> {
    let (begun, sent, before) = (Instant::now(), fleet.counts.sent_bytes, repeats(fleet));
    fleet.send(window);
    let mut progress = Progress::default();
    fleet.run("an answer to every contribution", Duration::from_secs(options.patience), |fleet| {
        progress.tell(fleet, options.gateways);
        fleet.unanswered == 0 && fleet.idle()
    })?;
    round.took(begun.elapsed(), fleet.counts.sent_bytes - sent);
    note_repeats(fleet, round, before);
    Ok(())
}

/// Tells of every tenth part that is answered.
#[derive(Default)]
struct Progress(usize);

impl Progress {
    fn tell(&mut self, fleet: &Fleet, gateways: usize) {
        let answered = gateways - fleet.unanswered;
        if answered * 10 / gateways > self.0 {
            self.0 = answered * 10 / gateways;
            eprintln!("sim: {answered} of {gateways} answered");
        }
    }
}

/// How often work was sent or offered again, and how often the aggregator asked to wait.
fn repeats(fleet: &Fleet) -> (u64, u64) {
    fleet.gateways.iter().map(Gateway::repeats).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn note_repeats(fleet: &Fleet, round: &mut Round, before: (u64, u64)) {
    let after = repeats(fleet);
    (round.resent, round.turned_away) = (after.0 - before.0, after.1 - before.1);
    round.refused = fleet.counts.refused;
}

/// A round in which everybody sends at once and the broker dies.
fn weather(fleet: &mut Fleet, options: &Options, round: &mut Round) -> Result<Storm, SimError> {
    fleet.lost_at = None;
    let reconnects = fleet.counts.reconnects;
    let (begun, sent, before) = (Instant::now(), fleet.counts.sent_bytes, repeats(fleet));
    // Half of them are caught anywhere between sending and their answer; the others hold what they were about to send.
    fleet.send_some(0, |index| index % 2 == 0);
    let patience = Duration::from_secs(options.patience);
    fleet.run("the broker's failure", patience, |fleet| fleet.lost_at.is_some())?;
    let lost = fleet.lost_at.expect("it was waited for");
    let unanswered = fleet.unanswered;
    fleet.release();
    eprintln!("sim: the broker is gone, {unanswered} contributions are unanswered");
    let (mut all_up, mut progress) = (None, Progress::default());
    fleet.run("every answer after the broker's failure", patience, |fleet| {
        if fleet.connected() == options.gateways
            && fleet.counts.reconnects - reconnects >= options.gateways as u64
        {
            all_up.get_or_insert_with(|| lost.elapsed().as_secs_f64());
        }
        progress.tell(fleet, options.gateways);
        fleet.unanswered == 0 && fleet.idle()
    })?;
    round.took(begun.elapsed(), fleet.counts.sent_bytes - sent);
    note_repeats(fleet, round, before);
    Ok(Storm {
        unanswered_when_lost: unanswered as u64,
        lost_connections: fleet.counts.reconnects - reconnects,
        connected_seconds: all_up.unwrap_or_default(),
        recovered_seconds: lost.elapsed().as_secs_f64(),
    })
}

fn fetch(
    fleet: &mut Fleet,
    options: &Options,
    round: &mut Round,
    expected: &super::payload::Expected,
) -> Result<(), SimError> {
    let pointer = fleet.pointer().cloned().expect("it was waited for");
    let Some(stable) = pointer.stable else {
        return Err(SimError::Task("the pointer names no version".into()));
    };
    let (begun, bytes, mismatches) = (Instant::now(), fleet.counts.fetched_bytes, fleet.counts.mismatches);
    let fetched = fleet.counts.fetched;
    // Every gateway has the version before, so a patch is what it fetches where there is one.
    let named = match &stable.patch {
        Some(patch) => (hex(&patch.hash)?, patch.bytes),
        None => (hex(&stable.hash)?, stable.bytes),
    };
    round.patched = stable.patch.is_some();
    fleet.fetch(named, expected.patch.clone().or_else(|| Some(expected.file.clone())));
    fleet.run("the module file at every gateway", Duration::from_secs(options.patience), Fleet::idle)?;
    round.fetch_seconds = begun.elapsed().as_secs_f64();
    round.fetched_bytes = fleet.counts.fetched_bytes - bytes;
    round.fetched = fleet.counts.fetched - fetched;
    round.mismatches = fleet.counts.mismatches - mismatches;
    round.exact = round.mismatches == 0
        && round.fetched == options.gateways as u64
        && hex(&stable.hash)? == expected.hash
        && stable.patch.is_some() == expected.patch.is_some()
        && round.refused == 0;
    Ok(())
}
