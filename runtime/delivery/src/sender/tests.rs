use super::*;
use std::convert::Infallible;

/// An outbox of entries 1 to `last`, each of `chunks` chunks.
fn outbox(last: u64, chunks: usize) -> impl FnMut(u64) -> Result<Option<Entry>, Infallible> {
    move |after| {
        let entry = Entry { sequence: after + 1, transfer: (after + 1).to_le_bytes(), chunks };
        Ok((after < last).then_some(entry))
    }
}

/// What goes on the wire at `now_ms`, with the shortest pauses.
fn poll(sender: &mut Sender, now_ms: u64, last: u64, chunks: usize) -> Option<Action> {
    let Ok(action) = sender.poll(now_ms, 0, outbox(last, chunks));
    action
}

fn sender(pending: u64) -> Sender {
    Sender { pending, ..Sender::default() }
}

const WINDOW: u64 = 4;
const AGAIN_MS: u64 = 15_000;

#[test]
fn the_window_bounds_what_is_under_way_and_the_pause_doubles() {
    let mut sender = sender(6);
    for sequence in 1..=WINDOW {
        assert_eq!(poll(&mut sender, 0, 6, 1), Some(Action::Whole { sequence }));
    }
    assert_eq!(poll(&mut sender, AGAIN_MS - 1, 6, 1), None);
    assert_eq!(poll(&mut sender, AGAIN_MS, 6, 1), Some(Action::Whole { sequence: 1 }));
    sender.done(2);
    let mut all = outbox(6, 1);
    let mut poll = || sender.poll(AGAIN_MS, 0, |after| all(if after == 1 { 2 } else { after }));
    for sequence in [3, 4, 5] {
        assert_eq!(poll(), Ok(Some(Action::Whole { sequence })), "due before new");
    }
    assert_eq!(poll(), Ok(None));

    // At the other end of the jitter.
    let mut sender = Sender { pending: 1, ..Sender::default() };
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..8 {
        let before = now;
        while sender.poll(now, u64::MAX, outbox(1, 1)) == Ok(None) {
            now += 1000;
        }
        pauses.push((now - before) / 1000);
    }
    assert_eq!(pauses, [0, 30, 45, 75, 135, 255, 300, 300]);
    assert_eq!(sender.counters().repeated, 7);
}

#[test]
fn a_large_entry_is_offered_and_only_what_is_missing_is_sent() {
    let mut sender = sender(1);
    assert_eq!(poll(&mut sender, 0, 1, 5), Some(Action::Offer { sequence: 1 }));
    assert_eq!(poll(&mut sender, 0, 1, 5), None, "nothing before the answer");
    let id = 1u64.to_le_bytes();
    let mut held = Chunks::none(5).unwrap();
    assert!(!sender.status([9; 8], &held), "of another transfer");
    assert!(!sender.status(id, &Chunks::none(6).unwrap()), "of another size");
    assert!(sender.status(id, &held));
    assert!(!sender.status(id, &held), "a repeated answer changes nothing");
    for index in 0..3 {
        let chunk = Action::Chunk { sequence: 1, index, last: false };
        assert_eq!(poll(&mut sender, 0, 1, 5), Some(chunk));
    }
    // The line is cut; two of the three had arrived.
    sender.connected(1000, 0, 0);
    assert_eq!(poll(&mut sender, 1000, 1, 5), Some(Action::Offer { sequence: 1 }));
    for index in [0, 2] {
        assert!(held.add(index));
    }
    assert!(sender.status(id, &held));
    for (index, last) in [(1, false), (3, false), (4, true)] {
        assert_eq!(poll(&mut sender, 1000, 1, 5), Some(Action::Chunk { sequence: 1, index, last }));
    }
    assert_eq!(sender.counters().spared, 2);
    assert_eq!(poll(&mut sender, 1000 + AGAIN_MS - 1, 1, 5), None);
    assert_eq!(
        poll(&mut sender, 1000 + AGAIN_MS, 1, 5),
        Some(Action::Offer { sequence: 1 }),
        "not all again"
    );
    // A receiver that has everything acknowledges it; one that only says so is not believed.
    assert!(sender.status(id, &Chunks::all(5).unwrap()));
    assert_eq!(poll(&mut sender, 20_000, 1, 5), Some(Action::Chunk { sequence: 1, index: 0, last: false }));
    sender.done(1);
    sender.pending = 0;
    assert_eq!((poll(&mut sender, 20_000, 0, 5), sender.wake_ms()), (None, None));
}

#[test]
fn a_gateway_that_is_not_admitted_asks_with_one_entry_and_less_and_less_often() {
    let mut sender = sender(9);
    let mut now = 0;
    for pause in [60, 90, 150, 270, 510, 990, 1950, 3600, 3600] {
        sender.hold(now, u64::MAX);
        assert_eq!(poll(&mut sender, now + pause * 1000 - 1, 9, 1), None);
        now += pause * 1000;
        assert_eq!(sender.wake_ms(), Some(now));
        assert_eq!(poll(&mut sender, now, 9, 1), Some(Action::Whole { sequence: 1 }));
        assert_eq!(poll(&mut sender, now, 9, 1), None);
    }
    sender.release();
    assert_eq!(poll(&mut sender, now, 9, 1), Some(Action::Whole { sequence: 2 }));
}

#[test]
fn what_waits_for_its_task_is_out_of_the_others_way() {
    let mut sender = sender(WINDOW + 1);
    for sequence in 1..=WINDOW {
        assert_eq!(poll(&mut sender, 0, WINDOW + 1, 1), Some(Action::Whole { sequence }));
        sender.park(sequence, 0, 0);
    }
    assert_eq!(poll(&mut sender, 0, WINDOW + 1, 1), Some(Action::Whole { sequence: WINDOW + 1 }));
    sender.done(WINDOW + 1);
    sender.pending -= 1;
    assert_eq!(poll(&mut sender, 1_799_999, WINDOW, 1), None);
    assert_eq!(poll(&mut sender, 1_800_000, WINDOW, 1), Some(Action::Whole { sequence: 1 }));
    sender.unpark();
    assert_eq!(poll(&mut sender, 1_800_000, WINDOW, 1), Some(Action::Whole { sequence: 2 }));
}

#[test]
fn what_was_under_way_is_due_again_once_when_the_aggregator_returns() {
    let mut sender = sender(1);
    let whole = Some(Action::Whole { sequence: 1 });
    assert_eq!(poll(&mut sender, 0, 1, 1), whole);
    assert_eq!(poll(&mut sender, 100, 1, 1), None);
    assert!(sender.returned(100, 0, 2000));
    assert_eq!(poll(&mut sender, 100, 1, 1), whole);
    assert!(!sender.returned(299, 0, 2000));
    assert_eq!(poll(&mut sender, 299, 1, 1), None);
    assert!(sender.returned(300, u64::MAX, 2000));
    assert_eq!(poll(&mut sender, 2299, 1, 1), None, "others return too");
    assert_eq!(poll(&mut sender, 2300, 1, 1), whole);
}

#[test]
fn a_thousand_gateways_return_evenly_over_the_window() {
    let spread_ms = 60_000;
    let mut per_second = [0; 61];
    for gateway in 0..1000u64 {
        let mut sender = sender(1);
        // Another good enough hash of the gateway's number.
        sender.connected(0, (gateway + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), spread_ms);
        let wake = sender.wake_ms().unwrap();
        assert!(wake == 0 || poll(&mut sender, wake - 1, 1, 1).is_none());
        assert!(poll(&mut sender, wake, 1, 1).is_some());
        per_second[(wake / 1000) as usize] += 1;
    }
    assert!(per_second.iter().all(|&n| n <= 25), "{per_second:?}");
}

#[test]
fn a_busy_aggregator_is_left_alone_but_what_it_took_on_is_finished() {
    let mut sender = sender(3);
    assert_eq!(poll(&mut sender, 0, 3, 2), Some(Action::Offer { sequence: 1 }));
    assert_eq!(poll(&mut sender, 0, 3, 2), Some(Action::Offer { sequence: 2 }));
    assert!(sender.status(1u64.to_le_bytes(), &Chunks::none(2).unwrap()));
    sender.busy(2, 0, u64::MAX, 20);
    let chunk = |index, last| Some(Action::Chunk { sequence: 1, index, last });
    assert_eq!(poll(&mut sender, 0, 3, 2), chunk(0, false));
    assert_eq!(poll(&mut sender, 0, 3, 2), chunk(1, true));
    // Not even after a reconnection.
    sender.connected(0, 0, 1000);
    assert_eq!(poll(&mut sender, 39_999, 3, 2), None);
    assert_eq!(sender.wake_ms(), Some(40_000));
    assert_eq!(poll(&mut sender, 40_000, 3, 2), Some(Action::Offer { sequence: 1 }));
    assert_eq!(poll(&mut sender, 40_000, 3, 2), Some(Action::Offer { sequence: 2 }));
    assert_eq!(poll(&mut sender, 40_000, 3, 2), Some(Action::Offer { sequence: 3 }));
    assert_eq!(sender.counters().busy, 1);
}

#[test]
fn invariant_03_no_more_entries_are_remembered_than_the_outbox_holds() {
    let config = SenderConfig { remembered: 10, ..SenderConfig::default() };
    let mut sender = Sender { pending: 1000, ..Sender::new(config) };
    for _ in 0..1000 {
        if let Some(action) = poll(&mut sender, 0, 1000, 1) {
            sender.park(action.sequence(), 0, 0);
        }
    }
    assert_eq!(sender.remembered(), 10);
}
