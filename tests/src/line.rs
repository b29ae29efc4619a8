//! A bad line: a TCP proxy that behaves as a slow, lossy, far link does for whoever speaks TCP over it. For
//! machines whose kernel has no `netem`.
//!
//! What it models, per direction:
//! - **rate**: every segment (1,460 bytes of data and 40 of headers) takes its time on a link that all connections
//!   share; a segment that is sent again takes it again;
//! - **delay**: a segment arrives that much after it has left, and its acknowledgement that much later again;
//! - **loss**: TCP hides a lost segment from its users; what they see is that this one and all behind it come
//!   later. With at least four segments under way the loss shows after one round trip (fast retransmit, RFC 5681,
//!   section 3.2) and the window is halved; with fewer, after a timeout of at least a second, doubled with every
//!   further loss (RFC 6298), and the window begins anew at one segment;
//! - **window**: ten segments at first (RFC 6928), growing by one per acknowledgement below the threshold and by
//!   one per round trip above it; no more is under way, and no more is read from the sender.
//!
//! Losses are drawn from a seed. Acknowledgements are never lost.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fuzz::Mutator;

/// Data of a segment, bytes.
const SEGMENT: usize = 1460;
/// Headers of a segment, bytes.
const HEADERS: usize = 40;
/// Segments under way from which on a loss shows without a timeout.
const FAST: usize = 4;
/// Shortest timeout.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest timeout.
const TIMEOUT_CAP: Duration = Duration::from_mins(1);
/// Segments under way at first.
const FIRST_WINDOW: f64 = 10.0;

/// What a line is like.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// Bits a second, in each direction.
    pub bits_per_s: u64,
    /// One way.
    pub delay: Duration,
    /// Segments of a thousand that are lost.
    pub lost_per_mille: usize,
    /// Of the losses.
    pub seed: u64,
}

/// What crossed a line so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Bytes of data towards the broker.
    pub up: u64,
    /// Bytes of data from the broker.
    pub down: u64,
    /// Segments that were lost.
    pub lost: u64,
    /// Connections.
    pub connections: u64,
}

#[derive(Default)]
struct Counts {
    data: [AtomicU64; 2],
    lost: AtomicU64,
    connections: AtomicU64,
    /// The connection that carries this byte towards the broker breaks there; 0 for none.
    cut_at: AtomicU64,
}

/// One direction, shared by all connections.
struct Link {
    quality: Quality,
    random: Mutator,
    /// When the last segment will have left.
    free: Instant,
}

/// A line to one broker. Its threads end with the connections.
pub struct Line {
    /// Its own port.
    pub port: u16,
    counts: Arc<Counts>,
}

impl Line {
    /// Begins to carry connections to `port` on this machine.
    pub fn to(port: u16, quality: Quality) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has free ports");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let counts = Arc::new(Counts::default());
        let links = [0, 1].map(|direction| {
            let random = Mutator::new(quality.seed.wrapping_mul(2).wrapping_add(direction));
            Arc::new(Mutex::new(Link { quality, random, free: Instant::now() }))
        });
        let kept = counts.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                kept.connections.fetch_add(1, Relaxed);
                let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { continue };
                for (direction, from, to) in [(0, near, far), (1, far_again, near_again)] {
                    // Without this the kernel would add delays of its own.
                    let _set = to.set_nodelay(true);
                    carry(from, to, links[direction].clone(), kept.clone(), direction);
                }
            }
        });
        Self { port: own, counts }
    }

    /// `mqtt://…`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Breaks the connection that carries byte `up` of all that goes towards the broker, once.
    pub fn cut_at(&self, up: u64) {
        self.counts.cut_at.store(up, Relaxed);
    }

    /// What crossed it so far.
    pub fn crossed(&self) -> Crossed {
        let Counts { data: [up, down], lost, connections, .. } = &*self.counts;
        Crossed {
            up: up.load(Relaxed),
            down: down.load(Relaxed),
            lost: lost.load(Relaxed),
            connections: connections.load(Relaxed),
        }
    }
}

/// The sender of one connection in one direction.
struct Window {
    segments: f64,
    threshold: f64,
    /// When the acknowledgements of what is under way arrive.
    under_way: VecDeque<Instant>,
    last_arrival: Instant,
}

impl Window {
    /// Waits until one more segment may be sent.
    fn wait(&mut self) {
        loop {
            let now = Instant::now();
            while self.under_way.front().is_some_and(|ack| *ack <= now) {
                self.under_way.pop_front();
                self.segments += if self.segments < self.threshold { 1.0 } else { 1.0 / self.segments };
            }
            match self.under_way.front() {
                Some(ack) if self.under_way.len() as f64 >= self.segments => std::thread::sleep(*ack - now),
                _ => return,
            }
        }
    }

    /// Sends a segment; returns when it arrives in its order, and how often it was lost.
    fn send(&mut self, link: &Mutex<Link>, bytes: usize) -> (Instant, u64) {
        let mut lost = 0;
        let mut ready = Instant::now();
        loop {
            let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
            let Quality { bits_per_s, delay, lost_per_mille, .. } = link.quality;
            let bits = 8 * (bytes + HEADERS) as u64;
            let left = ready.max(link.free) + Duration::from_micros(bits * 1_000_000 / bits_per_s);
            link.free = left;
            if link.random.below(1000) >= lost_per_mille {
                let arrival = (left + delay).max(self.last_arrival);
                self.last_arrival = arrival;
                self.under_way.push_back(arrival + delay);
                return (arrival, lost);
            }
            self.threshold = (self.segments / 2.0).max(2.0);
            let round_trip = 2 * delay;
            let noticed = if lost == 0 && self.under_way.len() >= FAST {
                self.segments = self.threshold;
                round_trip
            } else {
                self.segments = 1.0;
                ((round_trip * 3 / 2).max(TIMEOUT) * (1 << lost.min(6))).min(TIMEOUT_CAP)
            };
            lost += 1;
            ready = left + noticed;
        }
    }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    link: Arc<Mutex<Link>>,
    counts: Arc<Counts>,
    direction: usize,
) {
    // As much may be on its way as the window allows; the channel holds more only while the far end does not read.
    let (sender, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    std::thread::spawn(move || {
        for (arrival, bytes) in arriving {
            std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Whoever is gone already need not be told.
        let _told = to.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let now = Instant::now();
        let under_way = VecDeque::new();
        let mut window = Window { segments: FIRST_WINDOW, threshold: f64::MAX, under_way, last_arrival: now };
        let mut buffer = [0; SEGMENT];
        loop {
            window.wait();
            let Ok(length @ 1..) = from.read(&mut buffer) else { break };
            let (arrival, lost) = window.send(&link, length);
            let before = counts.data[direction].fetch_add(length as u64, Relaxed);
            counts.lost.fetch_add(lost, Relaxed);
            if direction == 0 {
                let cut_at = counts.cut_at.load(Relaxed);
                if before < cut_at && cut_at <= before + length as u64 {
                    let _told = from.shutdown(Shutdown::Both);
                    break;
                }
            }
            if sender.send((arrival, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        let _told = from.shutdown(Shutdown::Read);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_is_lost() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let quality =
            Quality { bits_per_s: 8_000_000, delay: Duration::from_millis(2), lost_per_mille: 20, seed: 1 };
        let line = Line::to(port, quality);
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("a connection");
            let mut all = vec![0; 60_000];
            peer.read_exact(&mut all).expect("all of it comes");
            peer.write_all(&all).expect("the way back is open");
        });
        let sent: Vec<u8> = (0..60_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut near = TcpStream::connect((Ipv4Addr::LOCALHOST, line.port)).expect("the line is up");
        near.write_all(&sent).expect("the line takes it");
        let mut back = vec![0; sent.len()];
        near.read_exact(&mut back).expect("all of it comes back");
        assert!(sent == back, "what came back is something else");
        echo.join().expect("the echo is fine");
        let crossed = line.crossed();
        assert_eq!((crossed.up, crossed.down, crossed.connections), (60_000, 60_000, 1));
        assert!(crossed.lost > 0, "nothing was lost, so nothing was tried");
    }
}
