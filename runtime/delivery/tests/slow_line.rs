//! A line of 64 kbit/s with 400 ms each way that is cut again and again: what resuming is worth. Simulated time, real
//! machines.

use std::collections::VecDeque;
use std::convert::Infallible;

use loadonce_delivery::{Action, Entry, Offered, Piece, Receiver, Sender, frames};
use loadonce_wire::chunks::{CHUNK, count};
use loadonce_wire::{Frame, Kind};

/// A sum of 600 KB, 75 s of this line.
const BLOB: usize = 600_000;
const BYTES_PER_MS: usize = 8;
const DELAY_MS: u64 = 400;
const TICK_MS: u64 = 10;
/// MQTT, TCP and IP around a frame.
const AROUND: usize = 100;
/// Bytes the socket takes before there is no room: more than a quarter of the blob.
const SOCKET: usize = 160_000;
/// Longest run.
const LIMIT_MS: u64 = 3_600_000;

/// One direction: messages in order, at so many bytes a millisecond, each a while on its way.
#[derive(Default)]
struct Line {
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    sent: usize,
    arriving: VecDeque<(u64, Vec<u8>)>,
    carried: usize,
}

impl Line {
    fn put(&mut self, frame: Vec<u8>) {
        self.queued += frame.len() + AROUND;
        self.queue.push_back(frame);
    }

    /// What arrives by `now`.
    fn tick(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.sent += BYTES_PER_MS * TICK_MS as usize;
        while let Some(frame) = self.queue.pop_front() {
            let size = frame.len() + AROUND;
            if self.sent < size {
                self.queue.push_front(frame);
                break;
            }
            (self.sent, self.queued, self.carried) =
                (self.sent - size, self.queued - size, self.carried + size);
            self.arriving.push_back((now + DELAY_MS, frame));
        }
        if self.queue.is_empty() {
            self.sent = 0;
        }
        let arrived = self.arriving.iter().take_while(|(at, _)| *at <= now).count();
        self.arriving.drain(..arrived).map(|(_, frame)| frame).collect()
    }

    fn cut(&mut self) {
        *self = Self { carried: self.carried, ..Self::default() };
    }
}

/// Milliseconds until the blob is whole, and the bytes that the line carried up, if it is cut every `cut_ms` and the
/// aggregator loses its memory at `restart_ms`.
fn deliver(cut_ms: u64, restart_ms: u64) -> (u64, usize) {
    let (id, manifest, blob) = ([7; 8], vec![1; 280], vec![9; BLOB]);
    let entry = Entry { sequence: 1, transfer: id, chunks: count(BLOB, CHUNK) };
    let mut sender = Sender::default();
    sender.pending = 1;
    let mut receiver = Receiver::<()>::default();
    let (mut up, mut down) = (Line::default(), Line::default());
    for now in (TICK_MS..LIMIT_MS).step_by(TICK_MS as usize) {
        if now.is_multiple_of(cut_ms) {
            up.cut();
            down.cut();
            sender.connected(now, 0, 0);
        }
        if now == restart_ms {
            receiver = Receiver::default();
        }
        while up.queued < SOCKET {
            let next = |after| Ok::<_, Infallible>((after < 1).then_some(entry));
            let Ok(action) = sender.poll(now, 0, next);
            match action {
                Some(Action::Offer { .. }) => up.put(frames::offer(id, &manifest, BLOB)),
                Some(Action::Chunk { index, .. }) => {
                    up.put(frames::chunk(id, &blob, index).expect("within the blob"));
                }
                Some(Action::Whole { .. }) => panic!("it has several chunks"),
                None => break,
            }
        }
        for bytes in up.tick(now) {
            let frame = Frame::decode(&bytes).expect("the line damages nothing");
            let total = frame.total as usize;
            if frame.kind == Kind::Offer {
                let Offered::Open(held) = receiver.offer("g", id, total, (), 0, now) else {
                    panic!("there is room")
                };
                down.put(frames::status(id, total, &held));
            } else if let Piece::Complete(done) =
                receiver.chunk("g", id, total, usize::from(frame.index), frame.payload, now)
            {
                assert_eq!(done.blob, blob);
                return (now, up.carried);
            }
        }
        for bytes in down.tick(now) {
            let frame = Frame::decode(&bytes).expect("the line damages nothing");
            sender.status(id, &frames::read_status(&frame).expect("only statuses come down"));
        }
    }
    panic!("it never arrives");
}

#[test]
fn a_line_that_is_never_cut_carries_the_blob_once() {
    let (ms, carried) = deliver(u64::MAX, u64::MAX);
    println!("{ms} ms, {carried} bytes");
    // Its own time, an answer to the offer, and the delay; no pause ended although the socket held a minute's worth.
    assert!(ms < (BLOB / BYTES_PER_MS) as u64 + 3000, "{ms} ms");
    assert!(carried < BLOB * 102 / 100, "{carried} bytes");
}

#[test]
fn a_line_cut_before_any_blob_could_pass_carries_little_more_than_the_blob() {
    for cut_ms in [40_000, 20_000, 10_000] {
        let (ms, carried) = deliver(cut_ms, u64::MAX);
        println!("cut every {cut_ms} ms: {ms} ms, {carried} bytes");
        // A cut costs what is on its way: less than a chunk, the delay, and a round trip for the bitmap.
        let cuts = ms / cut_ms + 1;
        assert!(ms < (BLOB / BYTES_PER_MS) as u64 + 3000 + cuts * 5000, "{ms} ms with {cuts} cuts");
        assert!(carried < BLOB + BLOB / 50 + cuts as usize * 2 * CHUNK, "{carried} bytes with {cuts} cuts");
    }
}

#[test]
fn an_aggregator_that_forgets_gets_everything_again() {
    let (undisturbed, carried_once) = deliver(20_000, u64::MAX);
    let (ms, carried) = deliver(20_000, 50_000);
    println!("restarted at 50 s: {ms} ms, {carried} bytes instead of {undisturbed} ms, {carried_once} bytes");
    // Chunks that nobody asked for go on until the next cut; then the bitmap is empty.
    assert!((50_000 + undisturbed - 20_000..60_000 + undisturbed + 20_000).contains(&ms));
    assert!(carried > carried_once + 250_000);
}
