//! A file on its way here, pulled chunk by chunk: what to ask for next, and what is there.

use loadonce_wire::Chunks;
use loadonce_wire::chunks::{self, CHUNK};
use loadonce_wire::limits::MAX_BLOB;
use std::ops::Range;

use crate::jitter::{Pause, up_to};

/// Chunks asked for at once: what a slow line holds for a quarter of a minute. The next ones are asked for when half
/// of them have come, so that the line is never idle for a round trip.
const RUN: usize = 8;
/// Pause before chunks that did not come are asked for again, counted from the last one that did.
const AGAIN: Pause = Pause { floor_ms: 15_000, first_ms: 15_000, cap_ms: 585_000 };

/// See the module's documentation. Times are milliseconds of any clock that only rises; a `draw` is 64 random bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    file: Vec<u8>,
    held: Chunks,
    /// Asked for, and not here yet.
    asked: Chunks,
    due_ms: u64,
    tries: u8,
}

impl Fetch {
    /// A file of `total` bytes of which nothing is there; `None` for one of no bytes or of more than a blob may have.
    pub fn new(total: usize) -> Option<Self> {
        let none = Chunks::none(chunks::count(total, CHUNK)).filter(|_| (1..=MAX_BLOB).contains(&total))?;
        Some(Self { file: vec![0; total], held: none, asked: none, due_ms: 0, tries: 0 })
    }

    /// The bytes to ask for now, if any; takes note that they are.
    pub fn poll(&mut self, now_ms: u64, draw: u64) -> Option<Range<usize>> {
        let waits = self.asked.is_empty() || self.asked.len() > RUN / 2;
        if self.is_complete() || (now_ms < self.due_ms && waits) {
            return None;
        }
        if now_ms >= self.due_ms && !self.asked.is_empty() {
            self.tries = AGAIN.next(self.tries);
            self.asked.clear();
        }
        let known = self.held.union(&self.asked);
        let first = known.others().first()?;
        let last = (first..known.count()).take(RUN).take_while(|&index| !known.has(index)).last()?;
        for index in first..=last {
            self.asked.add(index);
        }
        self.due_ms = now_ms + AGAIN.after(self.tries, draw);
        let place = |index| chunks::range(self.file.len(), CHUNK, index);
        Some(place(first)?.start..place(last)?.end)
    }

    /// Takes a chunk; whether it fits and is new.
    ///
    /// # Errors
    /// It does not fit this file.
    pub fn chunk(
        &mut self,
        total: usize,
        index: usize,
        bytes: &[u8],
        now_ms: u64,
        draw: u64,
    ) -> Result<bool, Misfit> {
        let place = chunks::range(total, CHUNK, index).filter(|_| total == self.file.len());
        let place = place.filter(|place| place.len() == bytes.len()).ok_or(Misfit)?;
        self.asked.take(index);
        if !self.held.add(index) {
            return Ok(false);
        }
        self.file[place].copy_from_slice(bytes);
        // The way is open: what is missing may be asked for at the usual pace.
        self.tries = 0;
        self.due_ms = if self.asked.is_empty() { now_ms } else { now_ms + AGAIN.after(0, draw) };
        Ok(true)
    }

    /// A connection stands, or the other side is back: what was asked for may not come. Asks at a random time
    /// within `spread_ms`.
    pub fn connected(&mut self, now_ms: u64, draw: u64, spread_ms: u64) {
        self.due_ms = now_ms + up_to(draw, spread_ms);
        self.tries = 0;
        self.asked.clear();
    }

    /// The file was not what it should be: begins anew, after the longest pause.
    pub fn start_over(&mut self, now_ms: u64, draw: u64) {
        self.held.clear();
        self.asked.clear();
        self.tries = u8::MAX;
        self.due_ms = now_ms + AGAIN.after(self.tries, draw);
    }

    /// Whether every byte is there.
    pub fn is_complete(&self) -> bool {
        self.held.is_full()
    }

    /// Size of the file in bytes.
    pub fn total(&self) -> usize {
        self.file.len()
    }

    /// The file; of use once it is complete.
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// The file itself.
    pub fn into_file(self) -> Vec<u8> {
        self.file
    }
}

/// A chunk that does not fit its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit;

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of a range of bytes.
    fn indices(asked: Range<usize>) -> Range<usize> {
        asked.start / CHUNK..asked.end.div_ceil(CHUNK)
    }

    #[test]
    fn a_file_comes_in_runs_and_the_next_is_asked_for_before_the_last_is_there() {
        let file: Vec<u8> = (0..20 * CHUNK + 5).map(|i| (i / 7) as u8).collect();
        let mut fetch = Fetch::new(file.len()).unwrap();
        let (mut line, mut asked) = (std::collections::VecDeque::new(), Vec::new());
        while !fetch.is_complete() {
            if let Some(range) = fetch.poll(0, 0) {
                asked.push(indices(range.clone()));
                line.extend(indices(range));
            }
            let index = line.pop_front().expect("the line is never idle");
            let place = chunks::range(file.len(), CHUNK, index).unwrap();
            assert_eq!(fetch.chunk(file.len(), index, &file[place], 0, 0), Ok(true));
        }
        assert_eq!(asked, [0..8, 8..16, 16..21]);
        assert_eq!(fetch.file(), file);
    }

    #[test]
    fn only_what_is_missing_is_asked_for_again_and_less_and_less_often() {
        let mut fetch = Fetch::new(5 * CHUNK).unwrap();
        assert_eq!(fetch.poll(0, 0), Some(0..5 * CHUNK));
        for index in [0, 1, 3, 4] {
            assert_eq!(fetch.chunk(5 * CHUNK, index, &[1; CHUNK], 1000, u64::MAX), Ok(true));
        }
        let (mut now, mut pauses) = (1000, Vec::new());
        for _ in 0..7 {
            let before = now;
            let range = loop {
                now += 1000;
                if let Some(range) = fetch.poll(now, u64::MAX) {
                    break range;
                }
            };
            assert_eq!(range, 2 * CHUNK..3 * CHUNK);
            pauses.push((now - before) / 1000);
        }
        assert_eq!(pauses, [30, 45, 75, 135, 255, 495, 600], "15 s and up to 15, 30, 60 … 585 s more");
        fetch.connected(now, u64::MAX, 2000);
        assert_eq!(fetch.poll(now + 1999, 0), None);
        assert_eq!(fetch.poll(now + 2000, 0), Some(2 * CHUNK..3 * CHUNK), "what is there stays there");
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused_and_a_wrong_file_begins_anew() {
        assert_eq!((Fetch::new(0), Fetch::new(MAX_BLOB + 1)), (None, None));
        let mut fetch = Fetch::new(CHUNK + 1).unwrap();
        for (total, index, length) in
            [(CHUNK, 0, CHUNK), (CHUNK + 1, 1, 2), (CHUNK + 1, 2, 1), (CHUNK + 1, 0, 1)]
        {
            assert_eq!(fetch.chunk(total, index, &vec![0; length], 0, 0), Err(Misfit));
        }
        assert_eq!(fetch.chunk(CHUNK + 1, 1, &[9], 0, 0), Ok(true));
        assert_eq!(fetch.chunk(CHUNK + 1, 1, &[8], 0, 0), Ok(false), "the first one stands");
        assert_eq!(fetch.chunk(CHUNK + 1, 0, &[7; CHUNK], 0, 0), Ok(true));
        assert!(fetch.is_complete() && fetch.file()[CHUNK] == 9);
        fetch.start_over(0, 0);
        assert!(!fetch.is_complete() && fetch.poll(14_999, 0).is_none());
        assert_eq!(fetch.poll(15_000, 0), Some(0..CHUNK + 1));
    }
}
