//! The invariants that the aggregator answers for, by their numbers.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    ACCEPTED, DIGITS, DUPLICATE, Entry, Gateway, SITE, block_request, encode, first_version, open, read_ack,
    read_pointer, refused, send, settings, sums, task,
};
use loadonce_aggregator::{Admission, Aggregator, Settings, Task};
use loadonce_control::{MANIFEST_DOMAIN, Signed, TaskManifest, Wants};
use loadonce_delivery::frames::{self, read_status};
use loadonce_delta::{Codec, encode_sums};
use loadonce_module::ModuleFile;
use loadonce_store::crash::PowerCutDisk;
use loadonce_trust::{decode_hex, encode_hex, hash};
use loadonce_wire::chunks::{CHUNK, range};
use loadonce_wire::{ContributionKind, Frame, Kind, Name, Reason, Status, Topic};

/// A change to a contribution before it is signed.
type Change = fn(&mut loadonce_wire::Manifest);

fn ignored(core: &Aggregator, why: &str) -> u64 {
    core.figures(0).ignored.get(why).copied().unwrap_or(0)
}

#[test]
#[cfg_attr(feature = "fault-no-dedup", should_panic(expected = "Duplicate"))]
fn invariant_02_apply_is_idempotent() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let mut gateway = Gateway::new(1);
    let sum = gateway.sum(&task);
    assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
    core.on_tick(60_000).unwrap();
    let totals = core.totals("digits").unwrap();
    for _ in 0..3 {
        assert_eq!(send(&mut core, &gateway, &sum), DUPLICATE);
        core.on_tick(120_000).unwrap();
    }
    assert_eq!(core.totals("digits").unwrap(), totals, "summed once");
    let figures = core.figures(0);
    assert_eq!((figures.contributions.sums, figures.contributions.duplicates), (1, 3));

    // The same sequence with other content is a conflict; the same content under a new sequence is new.
    let mut other = gateway.clone();
    other.sequence = 0;
    let bytes = sums(&task.shape, 9, 9).to_bytes();
    let out = encode_sums(&bytes).unwrap();
    let manifest = other.manifest(&task, ContributionKind::Sum, Codec::Sums, out.raw_bytes, &out.blob);
    let conflict = Entry::signed(&other.identity, manifest, out.blob);
    assert_eq!(send(&mut core, &gateway, &conflict), refused(Reason::SequenceConflict));
    assert_eq!(core.totals("digits").unwrap(), totals);
}

#[test]
fn invariant_02_a_step_taken_stays_taken_when_its_base_is_history() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let (mut gateways, base) = first_version(&mut core, &task);
    let steps: Vec<_> = gateways.iter_mut().map(|gateway| gateway.step(&task, base)).collect();
    for (gateway, step) in gateways.iter().zip(&steps) {
        assert_eq!(send(&mut core, gateway, step), ACCEPTED);
    }
    core.on_tick(120_000).unwrap();
    assert_eq!(core.lineage("digits").unwrap().len(), 2);
    if !cfg!(feature = "fault-no-dedup") {
        assert_eq!(send(&mut core, &gateways[0], &steps[0]), DUPLICATE);
    }
    let late = gateways[0].step(&task, base);
    assert_eq!(send(&mut core, &gateways[0], &late), ACCEPTED, "one version late: inside the window");
    core.on_tick(180_000).unwrap();
    assert_eq!(core.lineage("digits").unwrap().len(), 2, "a late step closes no round");
}

#[test]
fn invariant_04_a_step_counts_inside_the_staleness_window_and_is_refused_outside() {
    for (window, taken) in [(0, 0), (1, 1), (2, 2)] {
        let toml = DIGITS.replace("steps = 2", &format!("steps = 9, staleness = {window}"));
        let task = task(&toml);
        let mut core = open(settings(&[&toml]));
        let (mut gateways, first) = first_version(&mut core, &task);
        let mut late = Gateway::new(9);
        let mut bases = vec![first];
        for version in 2..=4 {
            let base = *bases.last().unwrap();
            for gateway in &mut gateways {
                let step = gateway.step(&task, base);
                assert_eq!(send(&mut core, gateway, &step), ACCEPTED);
            }
            core.on_tick(60_000 * version).unwrap();
            let newest = *core.lineage("digits").unwrap().last().unwrap();
            bases.push((newest.version, newest.module));
        }
        for (old, &base) in bases.iter().rev().enumerate() {
            if old > 0 && old <= taken {
                // One late step of a gateway and round: each by another gateway.
                let mut other = Gateway::new(20 + old as u8);
                let step = other.step(&task, base);
                assert_eq!(send(&mut core, &other, &step), ACCEPTED, "window {window}, {old} versions old");
                core.on_tick(500_000).unwrap();
                let again = other.step(&task, base);
                assert_eq!(send(&mut core, &other, &again), refused(Reason::RoundClosed), "one late step");
            } else if old > taken {
                let step = late.step(&task, base);
                assert_eq!(send(&mut core, &late, &step), refused(Reason::StaleBase), "{window}, {old}");
            }
        }
        // The hash of the base must be the one that the lineage has under this version.
        let (version, mut module) = bases[2];
        module[0] ^= 1;
        let forged = late.step(&task, (version, module));
        assert_eq!(send(&mut core, &late, &forged), refused(Reason::StaleBase));
        core.on_tick(600_000).unwrap();
        if cfg!(not(feature = "fault-ack-before-persist")) {
            let figures = core.figures(0);
            assert_eq!((figures.contributions.late, figures.tasks[0].round_gateways), (taken as u64, 0));
        }
        assert_eq!(core.lineage("digits").unwrap().len(), 4, "late steps alone close no round in sync");
    }
}

#[test]
fn invariant_14_a_late_step_pulls_by_its_staleness_weight() {
    let toml = DIGITS.replace("steps = 2", "steps = 9, staleness = 3");
    let task = task(&toml);
    let n = task.shape.parameters();
    let mut core = open(settings(&[&toml]));
    let (mut gateways, first) = first_version(&mut core, &task);
    let params = |core: &Aggregator, at: usize| {
        let module = core.lineage("digits").unwrap()[at].module;
        ModuleFile::decode(&core.module(&module).unwrap().unwrap()).unwrap().params
    };
    let mut newest = first;
    for version in 2..=5 {
        if version == 5 {
            // Three versions late, so half its weight of 4 among 16.
            let mut late = Gateway::new(9);
            let step = late.step_of(&task, first, Codec::StepF16, &vec![1.0; n]);
            assert_eq!(send(&mut core, &late, &step), ACCEPTED);
        }
        for gateway in &mut gateways {
            let step = gateway.step_of(&task, newest, Codec::StepF16, &vec![0.0; n]);
            assert_eq!(send(&mut core, gateway, &step), ACCEPTED);
        }
        core.on_tick(60_000 * version).unwrap();
        let entry = *core.lineage("digits").unwrap().last().unwrap();
        assert_eq!(entry.version, version);
        newest = (entry.version, entry.module);
    }
    let entry = core.lineage("digits").unwrap()[4];
    assert_eq!((entry.weight, entry.gateways, entry.count), (16, 4, 4));
    for (before, after) in params(&core, 3).iter().zip(params(&core, 4)) {
        assert!((after - before - 0.125).abs() < 0.01, "{before} {after}");
    }
}

#[test]
fn invariant_14_a_buffered_step_counts_for_the_versions_its_gateway_was_not_in() {
    let toml = DIGITS
        .replace("quorum = 3, minimum = 3", r#"mode = "buffered", quorum = 2, minimum = 1"#)
        .replace("steps = 2", "steps = 9");
    let toml = format!("{toml}\nsync = {{ codec = \"f16\" }}");
    let task = task(&toml);
    let n = task.shape.parameters();
    let mut core = open(settings(&[&toml]));
    let (mut gateways, first) = first_version(&mut core, &task);
    let mut newest = first;
    let mut values = Vec::new();
    // Who gives a step, how far its values go, and from which base; the others go on, the third comes when it can.
    let rounds: [&[(usize, f32, bool)]; 6] = [
        &[(0, 0.0, false), (1, 0.0, false)],
        &[(0, 0.0, false), (1, 0.0, false)],
        &[(0, 0.0, false), (1, 0.0, false)],
        &[(0, 0.0, false), (2, 1.0, true)],
        &[(0, 0.0, false), (2, 1.0, true)],
        &[(2, 1.0, true), (2, 1.0, false)],
    ];
    for (at, round) in rounds.iter().enumerate() {
        for &(who, value, late) in *round {
            let base = if late { first } else { newest };
            let step = gateways[who].step_of(&task, base, Codec::StepF16, &vec![value; n]);
            assert_eq!(send(&mut core, &gateways[who], &step), ACCEPTED);
        }
        core.on_tick(60_000 * (at as u64 + 2)).unwrap();
        let entry = *core.lineage("digits").unwrap().last().unwrap();
        assert_eq!((entry.version, entry.count), (at as u64 + 2, 2));
        newest = (entry.version, entry.module);
        let module = core.module(&entry.module).unwrap().unwrap();
        values.push((entry.weight, ModuleFile::decode(&module).unwrap().params));
    }
    let weights: Vec<u64> = values.iter().map(|(weight, _)| *weight).collect();
    // Weights are 4. In version 5 the third gateway stands for versions 2 to 5; its two steps of version 7 share one.
    assert_eq!(weights, [8, 8, 8, 4 + 16, 8, 4]);
    let usual = |versions: &[u64]| versions.iter().sum::<u64>() as f32 / versions.len() as f32;
    let moved = [
        0.0,
        0.0,
        // Three versions late, which is its pace.
        16.0 / usual(&[8, 8, 8, 20]),
        // Four versions late, and it was in the version before: three more than its pace.
        4.0 / 2.0 / usual(&[8, 8, 8, 20, 8]),
        // Half of it late by five, half of it fresh.
        (2.0 / 5f32.sqrt() + 2.0) / usual(&[8, 8, 8, 20, 8, 4]),
    ];
    for (pair, moved) in values.windows(2).zip(moved) {
        for (before, after) in pair[0].1.iter().zip(&pair[1].1) {
            assert!((after - before - moved).abs() < 0.01, "{before} {after} {moved}");
        }
    }
}

#[test]
fn a_buffered_round_closes_with_its_quorum_of_steps() {
    let toml = DIGITS
        .replace("quorum = 3, minimum = 3", r#"mode = "buffered", quorum = 3, minimum = 1"#)
        .replace("steps = 2", "steps = 9");
    let task = task(&toml);
    let mut core = open(settings(&[&toml]));
    let (mut gateways, first) = first_version(&mut core, &task);
    let mut base = first;
    let mut now = 100_000;
    // The third gateway never trains from a new version; the others go on.
    for version in 2..=4u64 {
        let mut steps = Vec::new();
        for gateway in &mut gateways[..2] {
            steps.push((gateway.clone(), gateway.step(&task, base)));
        }
        let late = if version == 2 { base } else { first };
        steps.push((gateways[2].clone(), gateways[2].step(&task, late)));
        for (at, (gateway, step)) in steps.iter().enumerate() {
            now += 60_000;
            assert!(core.on_tick(now).unwrap().is_empty(), "{at} steps close no round");
            assert_eq!(send(&mut core, gateway, step), ACCEPTED);
        }
        now += 60_000;
        assert_eq!(core.on_tick(now).unwrap().len(), 1);
        let entry = *core.lineage("digits").unwrap().last().unwrap();
        assert_eq!((entry.version, entry.count, entry.gateways), (version, 3, 3));
        base = (entry.version, entry.module);
    }
}

#[test]
fn invariant_04_only_for_its_backbone_shape_and_base() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let mut early = Gateway::new(1);
    let step = early.step(&task, (1, [0; 32]));
    assert_eq!(send(&mut core, &early, &step), refused(Reason::StaleBase), "there is no version yet");

    let (mut gateways, base) = first_version(&mut core, &task);
    let changes: [(Change, Reason); 6] = [
        (|m| m.backbone = [1; 32], Reason::WrongBackbone),
        (|m| m.shape = [1; 32], Reason::WrongShape),
        (|m| m.base_version = 7, Reason::StaleBase),
        (|m| m.base_hash = [1; 32], Reason::StaleBase),
        (|m| m.task = Name::new("other").unwrap(), Reason::UnknownTask),
        (|m| m.weight = 0, Reason::Malformed),
    ];
    let gateway = &mut gateways[0];
    for (change, reason) in changes {
        let Entry { mut manifest, blob, .. } = gateway.step(&task, base);
        change(&mut manifest);
        let entry = Entry::signed(&gateway.identity, manifest, blob);
        assert_eq!(send(&mut core, gateway, &entry), refused(reason));
    }
    // The sums of another shape inside an envelope that claims the right one.
    let mut shape = task.shape;
    shape.outputs = 3;
    let out = encode_sums(&sums(&shape, 1, 1).to_bytes()).unwrap();
    let manifest = gateway.manifest(&task, ContributionKind::Sum, Codec::Sums, out.raw_bytes, &out.blob);
    let entry = Entry::signed(&gateway.identity, manifest, out.blob);
    assert_eq!(send(&mut core, gateway, &entry), refused(Reason::TooLarge));
    let before = core.totals("digits").unwrap();

    let step = gateway.step(&task, base);
    assert_eq!(send(&mut core, gateway, &step), ACCEPTED);
    let second = gateway.step(&task, base);
    core.on_tick(120_000).unwrap();
    assert_eq!(send(&mut core, gateway, &second), refused(Reason::RoundClosed), "one step per round");
    let sum = gateway.sum(&task);
    assert_eq!(send(&mut core, gateway, &sum), ACCEPTED, "sums are welcome at any time");
    core.on_tick(180_000).unwrap();
    assert_ne!(core.totals("digits").unwrap(), before);
    assert_eq!(core.lineage("digits").unwrap().len(), 1);
}

#[test]
fn invariant_05_signature_and_hash_before_decompression() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let mut gateway = Gateway::new(1);
    let raw = gateway.sum(&task).manifest.raw_bytes;
    let bomb = zstd::bulk::compress(&vec![0; 64 * 1024 * 1024], 3).unwrap();
    // Small enough to pass the size check, which would otherwise answer first.
    let bomb = bomb[..bomb.len().min(900)].to_vec();
    let entry = |gateway: &mut Gateway, change: Change, blob: &[u8]| {
        let mut manifest = gateway.manifest(&task, ContributionKind::Sum, Codec::Sums, raw as usize, blob);
        change(&mut manifest);
        Entry::signed(&gateway.identity.clone(), manifest, blob.to_vec())
    };

    // Signed by somebody else: dropped with its first frame, before its bytes are even collected. No answer, since
    // an answer deletes data and anybody may have sent this.
    let mut forged = entry(&mut gateway, |_| {}, &bomb);
    let signature_at = forged.encoded.len() - 1;
    forged.encoded[signature_at] ^= 1;
    assert_eq!((send(&mut core, &gateway, &forged), ignored(&core, "bad_signature")), (None, 1));
    assert_eq!(core.figures(0).transfers_open, 0);

    // A blob that is not the one that was signed; of several chunks, see below.
    let mut swapped = entry(&mut gateway, |_| {}, &bomb);
    swapped.blob[100] ^= 1;
    assert_eq!((send(&mut core, &gateway, &swapped), ignored(&core, "bad_signature")), (None, 2));

    // Properly signed: decompression is bounded by what the shape says, whatever the blob would become.
    let honest = entry(&mut gateway, |_| {}, &bomb);
    assert_eq!(send(&mut core, &gateway, &honest), refused(Reason::Malformed));
    let greedy = entry(&mut gateway, |m| m.raw_bytes = 4_000_000, &bomb);
    assert_eq!(send(&mut core, &gateway, &greedy), refused(Reason::TooLarge));
    let large = vec![0; 200_000];
    let large = entry(&mut gateway, |_| {}, &large);
    assert_eq!(send(&mut core, &gateway, &large), refused(Reason::TooLarge), "refused on its first frame");
    assert_eq!(core.figures(0).transfers_bytes, 0);

    // After all that the gateway is as welcome as before.
    let sum = gateway.sum(&task);
    assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
}

#[test]
fn invariant_10_bad_messages_are_refused_counted_and_survived() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let mut gateway = Gateway::new(1);
    let up = gateway.topic();
    let sum = gateway.sum(&task);
    let good = sum.frames().remove(0);
    for cut in 0..good.len() {
        assert!(core.on_message(&up, &good[..cut], 0).unwrap().is_empty());
    }
    assert_eq!(ignored(&core, "malformed_frame"), good.len() as u64);
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0x40;
        assert!(core.on_message(&up, &damaged, 0).unwrap().is_empty());
    }
    core.on_message(&up, &vec![0; 20 * 1024 * 1024], 0).unwrap();
    assert_eq!(ignored(&core, "oversized"), 1);

    // Frames that are sound in themselves and wrong as a whole.
    let whole = Frame::decode(&good).unwrap();
    let wrong = [
        Frame { kind: Kind::Ack, ..whole },
        Frame { kind: Kind::Block, ..whole },
        Frame { kind: Kind::Status, ..whole },
        Frame { kind: Kind::BlockRequest, ..whole },
        Frame { kind: Kind::Chunk, ..whole },
        Frame { kind: Kind::Offer, ..whole },
        Frame { index: 1, ..whole },
        Frame { total: whole.total + 1, ..whole },
        Frame { transfer: [0; 8], ..whole },
        Frame { payload: &[], ..whole },
        Frame { payload: &[0xff, 0xff, 1], ..whole },
        Frame { payload: &[2, 0, 1, 1], ..whole },
    ];
    for frame in &wrong {
        assert!(core.on_message(&up, &encode(frame), 0).unwrap().is_empty(), "{frame:?}");
    }
    let counts = [
        ("unexpected_kind", 3),
        ("malformed_request", 1),
        ("orphan_chunk", 1),
        ("malformed_manifest", 1),
        ("bad_signature", 1),
    ];
    for (why, count) in counts {
        assert_eq!(ignored(&core, why), count, "{why}");
    }
    for topic in ["", "x", "loadonce/v1/plant", "loadonce/v1/other/gw/g1/up", "loadonce/v1/plant/gw/g+/up"] {
        core.on_message(topic, &good, 0).unwrap();
    }
    assert_eq!(ignored(&core, "unknown_topic"), 5);
    let state = Topic::State { gateway: "g1" }.text(SITE);
    for payload in [&b"{"[..], b"null", b"{\"state\":\"up\"}", &vec![0xff; 70_000]] {
        core.on_message(&state, payload, 0).unwrap();
    }
    assert_eq!(ignored(&core, "presence"), 4);
    core.on_message(&Topic::Report { gateway: "g1" }.text(SITE), b"[", 0).unwrap();
    assert_eq!(ignored(&core, "report"), 1);

    assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
}

#[test]
fn invariant_12_an_older_will_cannot_mark_a_live_gateway_down() {
    let disk = PowerCutDisk::new();
    let mut core = common::open_on(&disk, settings(&[DIGITS]), 0).unwrap();
    // What is known of a gateway outlives a restart once it has contributed.
    let mut gateway = Gateway::new(1);
    let sum = gateway.sum(&task(DIGITS));
    assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
    core.on_tick(60_000).unwrap();
    let topic = Topic::State { gateway: "g1" }.text(SITE);
    let birth = |n| {
        format!(r#"{{"state":"up","incarnation":{n},"version":"0.1.0","key":"","backbones":[],"tasks":[]}}"#)
    };
    let will = |n| format!(r#"{{"state":"down","incarnation":{n}}}"#);
    let say = |core: &mut Aggregator, text: String| {
        core.on_message(&topic, text.as_bytes(), 0).unwrap();
        let gateway = core.figures(0).gateways[0].clone();
        (gateway.up, gateway.incarnation)
    };
    assert_eq!(say(&mut core, birth(4)), (true, 4));
    assert_eq!(say(&mut core, birth(5)), (true, 5));
    assert_eq!(say(&mut core, will(4)), (true, 5), "the predecessor's will");
    // The aggregator was away in between and the broker still holds the old will.
    drop(core);
    let mut core = common::open_on(&disk, settings(&[DIGITS]), 0).unwrap();
    assert_eq!(say(&mut core, will(4)), (true, 5));
    assert_eq!(ignored(&core, "stale_will"), 1);
    assert_eq!(say(&mut core, will(5)), (false, 5), "its own");
    assert_eq!(say(&mut core, birth(1)), (true, 1), "a gateway that lost its state is alive all the same");
}

#[test]
fn invariant_14_nan_infinity_and_over_norm_are_refused_and_weight_is_clipped() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let (mut gateways, base) = first_version(&mut core, &task);
    let n = task.shape.parameters();
    let gateway = &mut gateways[0];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        // The codec refuses to encode these, so they are forged: words cut into planes, lowest bytes first.
        let mut words = vec![0u8; 4 * n];
        for (plane, byte) in bad.to_le_bytes().into_iter().enumerate() {
            words[plane * n] = byte;
        }
        let blob = zstd::bulk::compress(&words, 3).unwrap();
        let mut manifest = gateway.manifest(&task, ContributionKind::Step, Codec::StepF32, 4 * n, &blob);
        (manifest.base_version, manifest.base_hash) = base;
        let entry = Entry::signed(&gateway.identity, manifest, blob);
        assert_eq!(send(&mut core, gateway, &entry), refused(Reason::NotFinite));
    }
    let mut step = vec![0.0; n];
    step[0] = 10.5;
    let long = gateway.step_of(&task, base, Codec::StepF32, &step);
    assert_eq!(send(&mut core, gateway, &long), refused(Reason::OverNorm));

    // A gateway that claims four billion samples counts as max_weight = 50, like the two others together.
    let values = [(1.0, u32::MAX), (0.0, 25), (0.0, 25)];
    for (gateway, (value, weight)) in gateways.iter_mut().zip(values) {
        let Entry { mut manifest, blob, .. } = gateway.step_of(&task, base, Codec::StepF16, &vec![value; n]);
        manifest.weight = weight;
        let entry = Entry::signed(&gateway.identity, manifest, blob);
        assert_eq!(send(&mut core, gateway, &entry), ACCEPTED);
    }
    core.on_tick(120_000).unwrap();
    let lineage = core.lineage("digits").unwrap();
    assert_eq!((lineage[1].weight, lineage[1].gateways), (100, 3));
    let params = |at: usize| {
        let bytes = core.module(&lineage[at].module).unwrap().unwrap();
        ModuleFile::decode(&bytes).unwrap().params
    };
    for (base, next) in params(0).iter().zip(params(1)) {
        assert!((next - base - 0.5).abs() < 0.02, "{base} {next}");
    }
}

#[test]
fn a_lineage_from_sums_to_rest_and_its_module_files() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let out = core.on_connected(0);
    let manifest: TaskManifest = Signed::parse(&out[0].payload)
        .unwrap()
        .open(MANIFEST_DOMAIN, &common::aggregator_key().public())
        .unwrap();
    assert!(out[0].retain && manifest == task.manifest);
    let pointer = read_pointer(&out[1]);
    assert_eq!((pointer.serial, pointer.wants, &pointer.stable), (1, Wants::Sum, &None));

    let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
    for gateway in &mut gateways {
        let sum = gateway.sum(&task);
        assert_eq!(send(&mut core, gateway, &sum), ACCEPTED);
    }
    let mut serial = 1;
    let mut previous = String::new();
    for (version, wants) in [(1, Wants::Step), (2, Wants::Step), (3, Wants::None)] {
        let out = core.on_tick(60_000 * version).unwrap();
        let pointer = read_pointer(&out[0]);
        serial += 1;
        let stable = pointer.stable.unwrap();
        assert_eq!((out.len(), pointer.serial, pointer.wants, stable.version), (1, serial, wants, version));
        assert_eq!(stable.base, previous);
        let hash = decode_hex(&stable.hash).unwrap();
        let file = fetch(&mut core, hash, stable.bytes);
        let module = ModuleFile::decode(&file).unwrap();
        assert_eq!(
            (module.version, module.base.as_str(), module.shape),
            (version, previous.as_str(), task.shape)
        );
        previous = stable.hash;
        if wants == Wants::Step {
            for gateway in &mut gateways {
                let step = gateway.step(&task, (version, hash));
                assert_eq!(send(&mut core, gateway, &step), ACCEPTED);
            }
        }
    }
    let step = gateways[0].step(&task, (3, decode_hex(&previous).unwrap()));
    assert_eq!(send(&mut core, &gateways[0], &step), refused(Reason::RoundClosed), "the lineage rests");
    let lineage = core.lineage("digits").unwrap();
    assert_eq!(lineage[0].parent, [0; 32]);
    assert!(lineage.windows(2).all(|pair| pair[1].parent == pair[0].hash()));
    let figures = core.figures(0);
    assert_eq!((figures.tasks[0].samples, figures.tasks[0].participants.as_slice()), (12, &[3, 3, 3][..]));
    assert_eq!(figures.tasks[0].heldout.unwrap().samples, 6);
}

/// Fetches a module file as an agent does, in two requests.
fn fetch(core: &mut Aggregator, module: [u8; 32], bytes: u32) -> Vec<u8> {
    let mut file = vec![0; bytes as usize];
    for (offset, length) in [(0, bytes / 2), (bytes / 2, u32::MAX)] {
        let out =
            core.on_message(&Gateway::new(1).topic(), &block_request(module, offset, length), 0).unwrap();
        for message in &out {
            let frame = Frame::decode(&message.payload).unwrap();
            assert_eq!((frame.kind, frame.total), (Kind::Block, bytes));
            assert_eq!(frame.transfer, module[..8]);
            file[range(bytes as usize, CHUNK, usize::from(frame.index)).unwrap()]
                .copy_from_slice(frame.payload);
        }
    }
    assert_eq!(hash(&file), module);
    file
}

#[test]
fn block_requests_are_bounded() {
    let task = task(DIGITS);
    let mut core = open(settings(&[DIGITS]));
    let (gateways, (_, module)) = first_version(&mut core, &task);
    let up = gateways[0].topic();
    let mut ask =
        |hash, offset, length| core.on_message(&up, &block_request(hash, offset, length), 0).unwrap().len();
    assert_eq!(ask([0; 32], 0, 100), 0);
    assert_eq!(ask(module, u32::MAX, u32::MAX), 0);
    assert_eq!(ask(module, 0, 0), 0);
    let mut served = 0;
    while ask(module, 0, u32::MAX) > 0 {
        served += 1;
        assert!(served < 100_000, "the ration never ends");
    }
    assert_eq!(ask(module, 0, u32::MAX), 0);
    assert!(ignored(&core, "unknown_module") == 1 && ignored(&core, "malformed_request") == 2);
    assert_eq!(ignored(&core, "request_over_rate"), 2);
    let later = core.on_message(&up, &block_request(module, 0, u32::MAX), 60_000).unwrap();
    assert_eq!(later.len(), 1);
}

#[test]
fn unknown_gateways_are_refused_where_only_listed_ones_are_admitted() {
    let task = task(DIGITS);
    let mut listed = Gateway::new(1);
    let gateways = [("g1".to_owned(), listed.identity.public())].into();
    let mut core = open(Settings { admission: Admission::Listed, gateways, ..settings(&[DIGITS]) });
    let mut other = Gateway::new(2);
    let sum = other.sum(&task);
    assert_eq!(send(&mut core, &other, &sum), refused(Reason::UnknownGateway));
    // Its own valid signature under the listed name does not help.
    let thief = Gateway { name: "g1".into(), ..other.clone() };
    assert_eq!(send(&mut core, &thief, &sum), refused(Reason::UnknownGateway));
    let sum = listed.sum(&task);
    assert_eq!(send(&mut core, &listed, &sum), ACCEPTED);
    assert!(core.on_message(&other.topic(), &block_request([0; 32], 0, 1), 0).unwrap().is_empty());
    core.on_tick(60_000).unwrap();
    let figures = core.figures(0);
    assert_eq!(figures.gateways.len(), 1);
    assert_eq!(figures.gateways[0].key, encode_hex(&listed.identity.public()));
    assert_eq!(figures.contributions.refused["unknown_gateway"], 2);
}

#[test]
fn a_round_closes_at_its_deadline_with_the_minimum() {
    let toml = DIGITS.replace("minimum = 3, deadline_s = 0", "minimum = 2, deadline_s = 10");
    let task = task(&toml);
    let mut core = open(settings(&[&toml]));
    for number in 1..=2 {
        let mut gateway = Gateway::new(number);
        let sum = gateway.sum(&task);
        assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
        assert!(core.on_tick(9_999).unwrap().is_empty());
    }
    // The last of the two may count from the tick above on in a build that writes late.
    assert_eq!(core.on_tick(30_000).unwrap().len(), 1);
}

#[test]
fn a_changed_round_policy_is_published_with_a_higher_serial() {
    let disk = PowerCutDisk::new();
    let mut core = common::open_on(&disk, settings(&[DIGITS]), 0).unwrap();
    first_version(&mut core, &task(DIGITS));
    drop(core);
    let serial_and_wants = |toml: &str| {
        let mut core = common::open_on(&disk, settings(&[toml]), 0).unwrap();
        let pointer = read_pointer(&core.on_connected(0)[1]);
        let task = &core.figures(0).tasks[0];
        assert_eq!((task.samples, task.participants.as_slice()), (12, &[3][..]), "figures outlive a restart");
        (pointer.serial, pointer.wants)
    };
    assert_eq!(serial_and_wants(DIGITS), (2, Wants::Step));
    assert_eq!(serial_and_wants(DIGITS), (2, Wants::Step));
    assert_eq!(serial_and_wants(&DIGITS.replace("steps = 2", "steps = 0")), (3, Wants::None));
    assert_eq!(serial_and_wants(DIGITS), (4, Wants::Step));
}

/// A step that does not become smaller.
fn noise(task: &Task) -> Vec<f32> {
    let mut x = 1u64;
    (0..task.shape.parameters())
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 / 1e6
        })
        .collect()
}

#[test]
fn pieces_of_a_large_step_come_in_any_order_and_twice() {
    let toml = DIGITS
        .replace("rank = 2, features = 4", "rank = 64, features = 256")
        .replace("modality = \"picture\"", "modality = \"window\", channels = 2")
        .replace("10.0", "1e6");
    let task = task(&toml);
    let mut core = open(settings(&[&toml]));
    let (mut gateways, base) = first_version(&mut core, &task);
    let step = noise(&task);
    let entry = gateways[0].step_of(&task, base, Codec::StepF32, &step);
    let frames = entry.frames();
    assert!(frames.len() >= 4);
    let (offer, chunks) = frames.split_first().unwrap();
    let up = gateways[0].topic();
    let say = |core: &mut Aggregator, frame: &[u8]| core.on_message(&up, frame, 0).unwrap();
    let held = |core: &mut Aggregator| {
        let out = say(core, offer);
        let frame = Frame::decode(&out[0].payload).unwrap();
        assert_eq!((out.len(), frame.transfer), (1, entry.transfer()));
        let held = read_status(&frame).unwrap();
        (0..held.count()).filter(|&index| held.has(index)).collect::<Vec<_>>()
    };
    assert!(say(&mut core, &chunks[0]).is_empty(), "before its offer it is an orphan");
    assert_eq!(held(&mut core), Vec::<usize>::new());
    for _ in 0..2 {
        assert!(say(&mut core, &chunks[2]).is_empty());
        assert!(say(&mut core, &chunks[0]).is_empty());
    }
    // The line is cut. Whoever offers it again hears what need not be sent again.
    assert_eq!(held(&mut core), [0, 2]);
    let mut answers = Vec::new();
    for (index, chunk) in chunks.iter().enumerate().rev() {
        if ![0, 2].contains(&index) {
            answers.extend(say(&mut core, chunk));
        }
    }
    assert_eq!(answers.len(), 1);
    assert_eq!(read_ack(&answers[0], &entry).status, Status::Accepted);
    core.on_tick(60_000).unwrap();
    if !cfg!(feature = "fault-no-dedup") {
        let again = say(&mut core, offer);
        assert_eq!(read_ack(&again[0], &entry).status, Status::Duplicate, "and nothing has to be sent");
    }

    // Chunks that are not what was signed.
    let mut swapped = gateways[1].step_of(&task, base, Codec::StepF32, &step);
    swapped.blob[20_000] ^= 1;
    assert_eq!((send(&mut core, &gateways[1], &swapped), ignored(&core, "bad_hash")), (None, 1));
    swapped.blob[20_000] ^= 1;
    assert_eq!(send(&mut core, &gateways[1], &swapped), ACCEPTED);
    assert_eq!(core.figures(0).transfers_open, 0);
}

#[test]
fn invariant_03_who_finds_no_room_is_asked_to_wait_and_keeps_everything() {
    let toml = DIGITS
        .replace("rank = 2, features = 4", "rank = 64, features = 256")
        .replace("modality = \"picture\"", "modality = \"window\", channels = 2");
    let task = task(&toml);
    let mut core = open(settings(&[&toml]));
    let (_, base) = first_version(&mut core, &task);
    // Offers of the largest blobs that the task allows, from more gateways than there is memory for.
    let raw = 4 * task.shape.parameters();
    let total = raw + raw / 128;
    assert!(total > CHUNK);
    let (mut asked, mut busy) = (0u64, 0u64);
    for number in 10..=250 {
        let mut gateway = Gateway::new(number);
        for content in 0..4 {
            let manifest = gateway.manifest(&task, ContributionKind::Step, Codec::StepF32, raw, &[content]);
            let manifest = loadonce_wire::Manifest {
                base_version: base.0,
                base_hash: base.1,
                blob_bytes: total as u32,
                ..manifest
            };
            let entry = Entry::signed(&gateway.identity, manifest, Vec::new());
            let offer = frames::offer(entry.transfer(), &entry.encoded, total);
            let out = core.on_message(&gateway.topic(), &offer, 0).unwrap();
            asked += 1;
            if Frame::decode(&out[0].payload).unwrap().kind == Kind::Ack {
                let ack = read_ack(&out[0], &entry);
                assert_eq!((ack.status, ack.reason), (Status::Refused, Reason::Busy));
                assert!(ack.wait_s > 0);
                busy += 1;
            }
        }
    }
    let figures = core.figures(0);
    assert!(figures.transfers_bytes <= 32 * 1024 * 1024 && figures.transfers_open as u64 == asked - busy);
    assert!(busy > 0 && figures.transfers_open > 100, "{busy} of {asked} found no room");
    assert_eq!((figures.transfers_turned_away, figures.transfers_dropped), (busy, 0));
    // The same when more waits at the door than can be taken in, however much memory there is.
    let mut core = open(settings(&[&toml]));
    let (mut gateways, base) = first_version(&mut core, &task);
    let large = gateways[0].step_of(&task, base, Codec::StepF32, &noise(&task));
    assert!(large.frames().len() > 1);
    core.set_crowded(true);
    assert_eq!(send(&mut core, &gateways[0], &large), refused(Reason::Busy));
    // What needs no memory is as welcome as ever.
    let small =
        gateways[0].step_of(&task, base, Codec::StepF16, &vec![1.0 / 1024.0; task.shape.parameters()]);
    assert!(small.frames().len() == 1 && send(&mut core, &gateways[0], &small) == ACCEPTED);
}

#[test]
fn a_large_sum_is_resumed_although_its_losses_are_no_numbers() {
    let toml = DIGITS
        .replace("rank = 2, features = 4", "rank = 64, features = 256")
        .replace("modality = \"picture\"", "modality = \"window\", channels = 2");
    let task = task(&toml);
    let mut core = open(settings(&[&toml]));
    let mut gateway = Gateway::new(1);
    let sum = gateway.sum(&task);
    assert!(sum.manifest.heldout_before.is_nan(), "as an agent makes it");
    let frames = sum.frames();
    let (offer, chunks) = frames.split_first().unwrap();
    assert!(chunks.len() > 1, "it has several chunks");
    let up = gateway.topic();
    let held = |core: &mut Aggregator| {
        let out = core.on_message(&up, offer, 0).unwrap();
        read_status(&Frame::decode(&out[0].payload).unwrap())
            .expect("an offer that was made before is answered")
    };
    assert!(held(&mut core).is_empty());
    assert!(core.on_message(&up, &chunks[0], 0).unwrap().is_empty());
    assert!(held(&mut core).has(0));
    let answers: Vec<_> =
        chunks[1..].iter().flat_map(|chunk| core.on_message(&up, chunk, 0).unwrap()).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(read_ack(&answers[0], &sum).status, Status::Accepted);
}
