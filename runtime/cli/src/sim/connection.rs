//! One connection to the broker: a socket that does not block, what is left to write, and what was read of an
//! unfinished packet.

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use super::mqtt::{self, Packet};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Dialling, or waiting for CONNACK and SUBACK.
    Opening,
    /// Subscribed.
    Up,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    pub(crate) stage: Stage,
    unread: Vec<u8>,
    out: VecDeque<Vec<u8>>,
    /// Bytes of the first of `out` that were written.
    written: usize,
    identifier: u16,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

impl Connection {
    /// Begins to dial; `hello` is written first.
    pub(crate) fn dial(
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        hello: Vec<u8>,
    ) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        // What a gateway writes are whole packets, and somebody waits for each.
        let _best_effort = socket.set_nodelay(true);
        Ok(Self {
            socket,
            stage: Stage::Opening,
            unread: Vec::new(),
            out: VecDeque::from([hello]),
            written: 0,
            identifier: 0,
            bytes_up: 0,
            bytes_down: 0,
        })
    }

    /// Queues a PUBLISH at QoS 1.
    pub(crate) fn publish(&mut self, topic: &str, retain: bool, payload: &[u8]) {
        self.identifier = self.identifier.checked_add(1).unwrap_or(1);
        let mut packet = mqtt::publish_head(topic, self.identifier, retain, payload.len());
        packet.extend_from_slice(payload);
        self.out.push_back(packet);
    }

    /// Queues a packet.
    pub(crate) fn push(&mut self, packet: Vec<u8>) {
        self.out.push_back(packet);
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.out.front() {
            match self.socket.write(&first[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.bytes_up += n as u64;
                    self.written += n;
                    if self.written == first.len() {
                        self.written = 0;
                        self.out.pop_front();
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Serves a readiness event: writes what waits and hands every packet that arrived to `take`, which may queue
    /// more. `scratch` is a buffer shared by all connections.
    pub(crate) fn serve(
        &mut self,
        event: &Event,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut Self, Packet<'_>),
    ) -> io::Result<()> {
        if event.is_writable() {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            self.flush()?;
        }
        // Readiness is told once: read until there is no more.
        while event.is_readable() || event.is_read_closed() {
            match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.bytes_down += n as u64;
                    self.parse(&scratch[..n], &mut take)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    fn parse(&mut self, fresh: &[u8], take: &mut impl FnMut(&mut Self, Packet<'_>)) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.unread);
        let bytes = if held.is_empty() {
            fresh
        } else {
            held.extend_from_slice(fresh);
            &held[..]
        };
        let mut at = 0;
        while let Some((packet, length)) = mqtt::read(&bytes[at..]).map_err(io::Error::other)? {
            at += length;
            if let Packet::Publish { confirm: Some(identifier), .. } = packet {
                self.out.push_back(mqtt::confirm(identifier).to_vec());
            }
            take(self, packet);
        }
        self.unread = bytes[at..].to_vec();
        Ok(())
    }
}
