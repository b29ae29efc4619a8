use super::*;
use std::collections::VecDeque;

const CONFIG: ReceiverConfig =
    ReceiverConfig { chunk: 5, bytes: 4096, transfers: 16, each: 2, idle_ms: 100, expire_ms: 1000 };

fn offer(receiver: &mut Receiver<u8>, sender: &str, id: u8, total: usize, now_ms: u64) -> Offered {
    receiver.offer(sender, [id; 8], total, id, 0, now_ms)
}

fn open(receiver: &mut Receiver<u8>, sender: &str, id: u8, total: usize, now_ms: u64) -> bool {
    matches!(offer(receiver, sender, id, total, now_ms), Offered::Open(_))
}

#[test]
fn chunks_come_twice_in_any_order_and_the_bitmap_says_what_is_missing() {
    let mut receiver = Receiver::new(CONFIG);
    assert!(open(&mut receiver, "a", 1, 12, 0));
    let mut say = |index: usize, bytes: &[u8]| receiver.chunk("a", [1; 8], 12, index, bytes, 0);
    assert_eq!(say(2, &[3, 3]), Piece::Kept);
    assert_eq!(say(2, &[9, 9]), Piece::Kept, "the first one stands");
    assert_eq!(say(0, &[1; 5]), Piece::Kept);
    let Offered::Open(held) = offer(&mut receiver, "a", 1, 12, 0) else { panic!("it is open") };
    assert_eq!(held.as_bytes(), [0b101]);
    let Piece::Complete(done) = receiver.chunk("a", [1; 8], 12, 1, &[2; 5], 0) else {
        panic!("every chunk is there")
    };
    assert_eq!((done.sender.as_str(), done.about), ("a", 1));
    assert_eq!(done.blob, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]);
    assert_eq!(receiver.held(), (0, 0));
    assert_eq!(receiver.chunk("a", [1; 8], 12, 1, &[2; 5], 0), Piece::Orphan);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut receiver = Receiver::new(CONFIG);
    assert!(open(&mut receiver, "a", 1, 12, 0));
    assert_eq!(offer(&mut receiver, "a", 2, MAX_BLOB + 1, 0), Offered::Misfit);
    for (total, index, length) in [(13, 0, 5), (12, 0, 4), (12, 2, 5), (12, 3, 2), (12, usize::MAX, 5)] {
        assert_eq!(receiver.chunk("a", [1; 8], total, index, &vec![0; length], 0), Piece::Misfit);
    }
    assert_eq!(receiver.chunk("b", [1; 8], 12, 0, &[0; 5], 0), Piece::Orphan, "of another sender");
    assert!(open(&mut receiver, "a", 3, 0, 0));
    assert!(matches!(receiver.chunk("a", [3; 8], 0, 0, &[], 0), Piece::Complete(_)), "an empty blob");
}

#[test]
fn another_manifest_under_the_same_name_begins_anew_and_stands_in_nobodys_way() {
    let mut receiver = Receiver::new(CONFIG);
    assert!(open(&mut receiver, "a", 1, 12, 0));
    for (total, about) in [(12, 2), (13, 2)] {
        assert_eq!(receiver.chunk("a", [1; 8], 12, 0, &[0; 5], 0), Piece::Kept);
        let Offered::Open(held) = receiver.offer("a", [1; 8], total, about, 0, 0) else { panic!("it fits") };
        assert!(held.is_empty());
    }
    assert_eq!(receiver.chunk("a", [1; 8], 12, 0, &[0; 5], 0), Piece::Misfit, "of the one before");
    assert_eq!((receiver.held().0, receiver.dropped()), (1, 2));
}

#[test]
fn invariant_03_memory_is_bounded_and_who_comes_later_waits() {
    let mut receiver = Receiver::new(CONFIG);
    let senders: Vec<String> = (0..100).map(|i| format!("g{i}")).collect();
    let opened = senders.iter().filter(|sender| open(&mut receiver, sender, 1, 500, 0)).count();
    let (transfers, bytes) = receiver.held();
    assert!((1..100).contains(&opened) && transfers == opened && bytes <= CONFIG.bytes);
    assert_eq!((receiver.dropped(), receiver.turned_away()), (0, 100 - opened as u64));
    assert!(matches!(offer(&mut receiver, "late", 1, 500, 100), Offered::Busy(5)));
    // The idle make room; those that go on do not.
    assert!(open(&mut receiver, &senders[0], 1, 500, 100));
    assert!(open(&mut receiver, "late", 1, 500, 101));
    assert_eq!(receiver.chunk(&senders[0], [1; 8], 500, 0, &[0; 5], 101), Piece::Kept);
    assert_eq!(receiver.chunk(&senders[1], [1; 8], 500, 0, &[0; 5], 101), Piece::Orphan);
    assert_eq!(receiver.dropped(), 1);

    let mut receiver = Receiver::new(CONFIG);
    let opened = senders.iter().filter(|sender| open(&mut receiver, sender, 1, 1, 0)).count();
    assert!(opened <= CONFIG.transfers, "small ones cost what is kept beside them");
}

#[test]
fn of_its_own_a_sender_loses_the_oldest() {
    let mut receiver = Receiver::new(CONFIG);
    for id in 1..=3 {
        assert!(open(&mut receiver, "a", id, 10, 0));
    }
    assert!(open(&mut receiver, "b", 1, 10, 0));
    assert_eq!(receiver.chunk("a", [1; 8], 10, 0, &[0; 5], 0), Piece::Orphan);
    assert_eq!(receiver.chunk("a", [2; 8], 10, 0, &[0; 5], 0), Piece::Kept);
    assert_eq!((receiver.held().0, receiver.dropped()), (3, 1));
}

#[test]
fn the_idle_are_forgotten() {
    let mut receiver = Receiver::new(CONFIG);
    assert!(open(&mut receiver, "a", 1, 10, 0));
    assert_eq!(receiver.chunk("a", [1; 8], 10, 0, &[0; 5], 500), Piece::Kept);
    receiver.expire(1500);
    assert_eq!(receiver.held().0, 1);
    receiver.expire(1501);
    assert_eq!((receiver.held(), receiver.dropped()), ((0, 0), 1));
}

#[test]
fn a_crowd_larger_than_the_memory_is_served_in_turn() {
    // A thousand senders of four chunks each, memory for a few: whoever is turned away comes back as it was told.
    let mut receiver = Receiver::new(CONFIG);
    let mut waiting: VecDeque<(u64, u64)> = (0..1000u64).map(|sender| (0, sender)).collect();
    let (mut served, mut now) = (0, 0);
    while let Some((due, number)) = waiting.pop_front() {
        now = due.max(now);
        let sender = format!("g{number}");
        match offer(&mut receiver, &sender, 1, 20, now) {
            Offered::Open(held) => {
                // One chunk per visit, so that many transfers are open at a time.
                let index = held.others().first().unwrap();
                match receiver.chunk(&sender, [1; 8], 20, index, &[0; 5], now) {
                    Piece::Complete(_) => served += 1,
                    other => {
                        assert_eq!(other, Piece::Kept);
                        waiting.push_back((now + 10, number));
                    }
                }
            }
            Offered::Busy(wait_s) => waiting.push_back((now + u64::from(wait_s) * 1000, number)),
            Offered::Misfit => panic!("it fits"),
        }
        waiting.make_contiguous().sort_unstable();
        assert!(now < 3_600_000, "{served} served, {} open", receiver.held().0);
    }
    assert_eq!((served, receiver.dropped()), (1000, 0));
}
