//! Every metric. `docs/operations.md` lists them, the dashboard and the alerts ask for them; tests compare all three
//! with what is served.
//!
//! Labels take their values from the configuration (tasks), from this program's own words (reasons, causes), or, in a
//! small fleet only, from the registry (gateways): nobody outside can make series without end.

use std::sync::atomic::Ordering;

use loadonce_control::Wants;
use loadonce_wire::Reason;

use super::server::Served;
use super::text::Kind::{Counter, Gauge, Histogram, Summary};
use super::text::Text;
use super::{Snapshot, machine::Machine};
use crate::figures::{CAUSES, TaskFigures};
use crate::intake::{MAX_PENDING, MAX_PENDING_BYTES};
use crate::registry::MAX_GATEWAYS;
use crate::run::{EVENT_BYTES, MAX_BATCH, QUEUE_BYTES};

/// The text of a snapshot.
pub(super) fn text(snapshot: &Snapshot, served: &Served) -> String {
    let mut text = Text::default();
    process(&mut text, snapshot, served);
    gateways(&mut text, snapshot);
    contributions(&mut text, snapshot);
    rounds(&mut text, &snapshot.figures.tasks);
    storage(&mut text, snapshot);
    link(&mut text, snapshot);
    text.into_string()
}

fn one(text: &mut Text, name: &'static str, kind: super::text::Kind, help: &'static str, value: f64) {
    text.metric(name, kind, help).value(&[], value);
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn process(text: &mut Text, snapshot: &Snapshot, served: &Served) {
    let Machine { clock_seconds, cpu_seconds, rss_bytes, .. } = snapshot.machine;
    text.metric("loadonce_build_info", Gauge, "The version that runs; always 1.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    one(
        text,
        "loadonce_snapshot_age_seconds",
        Gauge,
        "Age of these figures. They are taken every second unless the core is stuck.",
        snapshot.taken.elapsed().as_secs_f64(),
    );
    one(text, "loadonce_clock_timestamp_seconds", Gauge, "The machine's clock.", clock_seconds);
    let mut ends = text.metric(
        "loadonce_certificate_expiry_timestamp_seconds",
        Gauge,
        "When the first certificate of a file ends; 0 where the file cannot be read.",
    );
    for (file, end) in &snapshot.certificates {
        ends.value(&[("file", file)], end.unwrap_or(0) as f64);
    }
    one(text, "process_cpu_seconds_total", Counter, "Processor time used.", cpu_seconds);
    if let Some(rss) = rss_bytes {
        one(text, "process_resident_memory_bytes", Gauge, "Resident memory.", rss as f64);
    }
    one(
        text,
        "loadonce_metrics_requests_total",
        Counter,
        "Requests answered by this endpoint.",
        served.requests.load(Ordering::Relaxed) as f64,
    );
    one(
        text,
        "loadonce_metrics_connections_cut_off_total",
        Counter,
        "Connections to this endpoint that were cut off: too many, too slow, or not HTTP.",
        served.cut_off.load(Ordering::Relaxed) as f64,
    );
}

fn gateways(text: &mut Text, snapshot: &Snapshot) {
    let fleet = &snapshot.fleet;
    one(
        text,
        "loadonce_gateways_known",
        Gauge,
        "Gateways that are listed or were heard.",
        fleet.known as f64,
    );
    one(text, "loadonce_gateways_limit", Gauge, "Most that can be known.", MAX_GATEWAYS as f64);
    one(text, "loadonce_gateways_up", Gauge, "Gateways that are connected.", fleet.up as f64);
    one(
        text,
        "loadonce_gateways_reporting",
        Gauge,
        "Gateways whose report came since this process started; they report every six hours.",
        fleet.reporting as f64,
    );
    one(
        text,
        "loadonce_gateways_degraded",
        Gauge,
        "Gateways that learn nothing, for their storage failed (newest reports).",
        fleet.degraded as f64,
    );
    one(
        text,
        "loadonce_gateways_outbox_entries",
        Gauge,
        "Contributions that wait on the gateways (newest reports).",
        fleet.outbox_entries as f64,
    );
    one(text, "loadonce_gateways_outbox_bytes", Gauge, "Bytes of these.", fleet.outbox_bytes as f64);
    one(
        text,
        "loadonce_gateways_largest_resident_memory_bytes",
        Gauge,
        "The largest agent's resident memory (newest reports).",
        fleet.largest_rss_bytes as f64,
    );

    let mut up = text.metric(
        "loadonce_gateway_up",
        Gauge,
        "Whether a gateway is connected; only in fleets of at most `metrics.gateways`, as all that follows.",
    );
    for gateway in &fleet.named {
        up.value(&[("gateway", &gateway.name)], truth(gateway.up));
    }
    let mut accepted = text.metric(
        "loadonce_gateway_contributions_accepted_total",
        Counter,
        "Contributions accepted of a gateway, ever.",
    );
    for gateway in &fleet.named {
        accepted.value(&[("gateway", &gateway.name)], gateway.accepted as f64);
    }
    let mut outbox = text.metric(
        "loadonce_gateway_outbox_entries",
        Gauge,
        "Contributions that wait on a gateway (newest report).",
    );
    for (name, vitals) in fleet.named.iter().filter_map(|g| Some((&g.name, g.vitals.as_ref()?))) {
        outbox.value(&[("gateway", name)], vitals.outbox_entries as f64);
    }
    let mut memory = text.metric(
        "loadonce_gateway_resident_memory_bytes",
        Gauge,
        "Resident memory of a gateway's agent (newest report).",
    );
    for (name, vitals) in fleet.named.iter().filter_map(|g| Some((&g.name, g.vitals.as_ref()?))) {
        memory.value(&[("gateway", name)], vitals.rss_bytes as f64);
    }
    let mut degraded = text.metric(
        "loadonce_gateway_degraded",
        Gauge,
        "Whether a gateway's storage failed (newest report).",
    );
    for (name, vitals) in fleet.named.iter().filter_map(|g| Some((&g.name, g.vitals.as_ref()?))) {
        degraded.value(&[("gateway", name)], truth(vitals.degraded));
    }
}

fn contributions(text: &mut Text, snapshot: &Snapshot) {
    let figures = &snapshot.figures;
    let tasks = &figures.tasks;
    let mut accepted = text.metric(
        "loadonce_contributions_accepted_total",
        Counter,
        "Contributions accepted, by task and kind.",
    );
    for task in tasks {
        accepted
            .value(&[("task", &task.name), ("kind", "sum")], task.contributions.sums as f64)
            .value(&[("task", &task.name), ("kind", "step")], task.contributions.steps as f64);
    }
    let mut late = text.metric(
        "loadonce_contributions_late_total",
        Counter,
        "Accepted steps whose base was not the newest version.",
    );
    for task in tasks {
        late.value(&[("task", &task.name)], task.contributions.late as f64);
    }
    let mut duplicates = text.metric(
        "loadonce_contributions_duplicate_total",
        Counter,
        "Contributions that were recognised as applied before.",
    );
    for task in tasks {
        duplicates.value(&[("task", &task.name)], task.contributions.duplicates as f64);
    }
    let mut refused = text.metric(
        "loadonce_contributions_refused_total",
        Counter,
        "Contributions refused, by task and reason; without a task where there is none of that name.",
    );
    for reason in Reason::ALL.iter().copied().filter(|reason| *reason != Reason::None).map(Reason::code) {
        let mut elsewhere = figures.contributions.refused.get(reason).copied().unwrap_or(0);
        for task in tasks {
            let here = task.contributions.refused.get(reason).copied().unwrap_or(0);
            elsewhere = elsewhere.saturating_sub(here);
            refused.value(&[("task", &task.name), ("reason", reason)], here as f64);
        }
        refused.value(&[("reason", reason)], elsewhere as f64);
    }
    one(
        text,
        "loadonce_contributions_deferred_total",
        Counter,
        "Contributions left unanswered for want of room; the gateway sends them again.",
        figures.contributions.deferred as f64,
    );
    let mut ignored = text.metric(
        "loadonce_messages_ignored_total",
        Counter,
        "Messages dropped without an answer, by cause.",
    );
    for cause in CAUSES {
        ignored.value(&[("cause", cause)], figures.ignored.get(cause).copied().unwrap_or(0) as f64);
    }
    one(
        text,
        "loadonce_transfers_open",
        Gauge,
        "Contributions of several chunks that are not whole yet.",
        figures.transfers_open as f64,
    );
    one(text, "loadonce_transfers_bytes", Gauge, "Memory reserved for them.", figures.transfers_bytes as f64);
    one(
        text,
        "loadonce_transfers_dropped_total",
        Counter,
        "Unfinished contributions dropped; the gateway sends them again.",
        figures.transfers_dropped as f64,
    );
    one(
        text,
        "loadonce_transfers_turned_away_total",
        Counter,
        "Offers that were asked to wait for want of room.",
        figures.transfers_turned_away as f64,
    );
    text.metric(
        "loadonce_verification_duration_seconds",
        Summary,
        "Time from a contribution's signature to its decoded, checked content.",
    )
    .part("_sum", &[], snapshot.verification.total.as_secs_f64())
    .part("_count", &[], snapshot.verification.count as f64);
    snapshot.batches.write(text.metric(
        "loadonce_batch_duration_seconds",
        Histogram,
        "Time to take in the messages that waited and to make them durable, in one write.",
    ));
    one(
        text,
        "loadonce_batch_queue_messages",
        Gauge,
        "Messages that wait for the core.",
        snapshot.inbox as f64,
    );
    one(text, "loadonce_batch_queue_limit_messages", Gauge, "Most that may wait.", MAX_BATCH as f64);
}

fn rounds(text: &mut Text, tasks: &[TaskFigures]) {
    type Value = fn(&TaskFigures) -> Option<f64>;
    let metrics: [(&'static str, super::text::Kind, &'static str, Value); 14] = [
        (
            "loadonce_lineage_version",
            Gauge,
            "Newest version of a task's lineage, which is the number of closed rounds.",
            |t| Some(t.version as f64),
        ),
        ("loadonce_lineage_version_gateways", Gauge, "Gateways behind the newest version.", |t| {
            Some(f64::from(t.participants.last().copied().unwrap_or(0)))
        }),
        ("loadonce_lineage_module_bytes", Gauge, "Size of the newest version's module file.", |t| {
            Some(f64::from(t.bytes))
        }),
        ("loadonce_lineage_samples", Gauge, "Samples in the totals of a task's sums.", |t| {
            Some(t.samples as f64)
        }),
        ("loadonce_lineage_resting", Gauge, "Whether a lineage wants nothing more.", |t| {
            Some(truth(t.wants == Wants::None))
        }),
        ("loadonce_round_contributions", Gauge, "Contributions in the open round.", |t| {
            Some(t.round_contributions as f64)
        }),
        ("loadonce_round_gateways", Gauge, "Gateways that count towards closing the open round.", |t| {
            Some(t.round_gateways as f64)
        }),
        (
            "loadonce_round_quorum",
            Gauge,
            "Gateways (steps in a buffered round) that close a round at once.",
            |t| Some(t.quorum as f64),
        ),
        (
            "loadonce_round_deadline_seconds",
            Gauge,
            "Age at which a round closes with the minimum; 0 for never.",
            |t| Some(t.deadline_s as f64),
        ),
        (
            "loadonce_round_age_seconds",
            Gauge,
            "Age of the open round's first contribution, or of this process; 0 before it.",
            |t| Some(t.round_age_s.unwrap_or(0.0)),
        ),
        ("loadonce_round_bytes", Gauge, "Bytes on disk that the open round keeps.", |t| {
            Some(t.round_bytes as f64)
        }),
        (
            "loadonce_round_heldout_samples",
            Gauge,
            "Held-out samples behind the newest version, if this process cut it from steps.",
            |t| Some(t.heldout?.samples as f64),
        ),
        (
            "loadonce_round_heldout_loss_before",
            Gauge,
            "Mean held-out loss of the base in nats, over these.",
            |t| Some(t.heldout?.before),
        ),
        (
            "loadonce_round_heldout_loss_after",
            Gauge,
            "Mean held-out loss after local training, over these.",
            |t| Some(t.heldout?.after),
        ),
    ];
    for (name, kind, help, value) in metrics {
        let mut metric = text.metric(name, kind, help);
        for task in tasks {
            if let Some(value) = value(task) {
                metric.value(&[("task", &task.name)], value);
            }
        }
    }
    one(
        text,
        "loadonce_round_limit_contributions",
        Gauge,
        "Contributions that one round keeps at most.",
        MAX_PENDING as f64,
    );
    one(
        text,
        "loadonce_round_limit_bytes",
        Gauge,
        "Bytes that one round keeps at most.",
        MAX_PENDING_BYTES as f64,
    );
}

fn storage(text: &mut Text, snapshot: &Snapshot) {
    let history = &snapshot.figures.history;
    if let Some(bytes) = snapshot.machine.journal_bytes {
        one(text, "loadonce_journal_bytes", Gauge, "Size of the journal's file.", bytes as f64);
    }
    if let Some((size, available)) = snapshot.machine.disk_bytes {
        one(text, "loadonce_disk_size_bytes", Gauge, "Size of the file system under the state.", size as f64);
        one(text, "loadonce_disk_available_bytes", Gauge, "What is free of it.", available as f64);
    }
    one(
        text,
        "loadonce_history_versions",
        Gauge,
        "Versions whose contributions are kept.",
        history.versions as f64,
    );
    one(text, "loadonce_history_bytes", Gauge, "Bytes of these.", history.bytes as f64);
    one(
        text,
        "loadonce_history_limit_bytes",
        Gauge,
        "Bytes they may take; the oldest are dropped.",
        snapshot.history_limit_bytes as f64,
    );
    one(
        text,
        "loadonce_history_dropped_versions_total",
        Counter,
        "Versions whose contributions were dropped, ever.",
        history.dropped_versions as f64,
    );
    one(
        text,
        "loadonce_history_dropped_contributions_total",
        Counter,
        "Contributions dropped with them, ever.",
        history.dropped_contributions as f64,
    );
}

fn link(text: &mut Text, snapshot: &Snapshot) {
    let (link, figures) = (&snapshot.link, &snapshot.figures);
    one(
        text,
        "loadonce_link_connected",
        Gauge,
        "Whether the broker is connected.",
        truth(snapshot.connected),
    );
    let counters = [
        ("loadonce_link_sent_bytes_total", "Bytes written to the broker.", link.bytes_up),
        ("loadonce_link_received_bytes_total", "Bytes read from the broker.", link.bytes_down),
        ("loadonce_link_connects_total", "Connections made to the broker.", link.connects),
        ("loadonce_link_connect_failures_total", "Attempts that failed.", link.failed_connects),
        (
            "loadonce_link_oversized_messages_total",
            "Messages dropped, for they were too large.",
            link.oversized,
        ),
        (
            "loadonce_link_malformed_messages_total",
            "Messages dropped, for they broke the protocol.",
            link.malformed,
        ),
        ("loadonce_link_dropped_messages_total", "Messages dropped for want of room.", link.dropped_messages),
        (
            "loadonce_link_dropped_publishes_total",
            "Publishes dropped for want of a connection or of room.",
            link.dropped_publishes,
        ),
        (
            "loadonce_link_subscription_refusals_total",
            "Subscriptions that the broker refused.",
            link.subscription_refusals,
        ),
        ("loadonce_module_blocks_sent_total", "Frames of module files sent.", figures.blocks),
        ("loadonce_module_sent_bytes_total", "Bytes of module files sent.", figures.block_bytes),
    ];
    for (name, help, value) in counters {
        one(text, name, Counter, help, value as f64);
    }
    let queues = [
        ("loadonce_link_publish_queue_bytes", "Bytes that wait for the broker.", link.publish_queue_bytes),
        ("loadonce_link_publish_queue_limit_bytes", "Most that may wait.", QUEUE_BYTES as u64),
        ("loadonce_link_event_queue_bytes", "Bytes that came and wait.", link.event_queue_bytes),
        ("loadonce_link_event_queue_limit_bytes", "Most that may wait.", EVENT_BYTES as u64),
    ];
    for (name, help, value) in queues {
        one(text, name, Gauge, help, value as f64);
    }
}
