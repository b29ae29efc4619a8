//! The null subscriber: it takes every gateway's frames from the broker and does nothing with them. What the broker
//! achieves with it is what an aggregator is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use loadonce_wire::topic::PREFIX;
use mio::Waker;

use super::mqtt::{self, Packet};

/// Messages whose arrival was not noted yet.
const QUEUE: usize = 64 * 1024;
const BUFFER: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Null {
    arrived: Receiver<usize>,
}

impl Null {
    /// Connects, subscribes and counts on a thread of its own; `waker` is called for every read that brought messages.
    pub(crate) fn start(address: SocketAddr, site: &str, waker: Waker) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.write_all(&mqtt::connect("sim-null", None))?;
        socket.write_all(&mqtt::subscribe(&[&format!("{PREFIX}/{site}/gw/+/up")]))?;
        let (subscribed, granted) = sync_channel(1);
        let (sender, arrived) = sync_channel(QUEUE);
        thread::Builder::new().name("null".into()).spawn(move || {
            if let Err(error) = take(socket, &subscribed, &sender, &waker) {
                tracing::error!(%error, "the null subscriber lost its connection");
            }
        })?;
        match granted.recv() {
            Ok(true) => Ok(Self { arrived }),
            _ => Err(io::Error::other("the broker refused the null subscriber")),
        }
    }

    /// Numbers of the gateways whose messages arrived since the last call, once for each message.
    pub(crate) fn arrived(&self) -> io::Result<Vec<usize>> {
        let mut out = Vec::new();
        loop {
            match self.arrived.try_recv() {
                Ok(index) => out.push(index),
                Err(TryRecvError::Empty) => return Ok(out),
                Err(TryRecvError::Disconnected) => return Err(io::Error::other("the null subscriber ended")),
            }
        }
    }
}

fn take(
    mut socket: TcpStream,
    subscribed: &SyncSender<bool>,
    sender: &SyncSender<usize>,
    waker: &Waker,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let (mut held, mut confirmations) = (0, Vec::new());
    loop {
        if held == buffer.len() {
            buffer.resize(2 * held, 0);
        }
        let read = socket.read(&mut buffer[held..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held += read;
        let mut at = 0;
        while let Some((packet, length)) = mqtt::read(&buffer[at..held]).map_err(io::Error::other)? {
            at += length;
            match packet {
                Packet::SubAck(granted) => {
                    let _heard = subscribed.try_send(granted);
                }
                Packet::Publish { topic, confirm, .. } => {
                    if let Some(identifier) = confirm {
                        confirmations.extend_from_slice(&mqtt::confirm(identifier));
                    }
                    let number =
                        topic.rsplit('/').nth(1).and_then(|name| name.strip_prefix("sim-")?.parse().ok());
                    if let Some(number) = number
                        && sender.send(number).is_err()
                    {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        buffer.copy_within(at..held, 0);
        held -= at;
        if !confirmations.is_empty() {
            socket.write_all(&confirmations)?;
            confirmations.clear();
            waker.wake()?;
        }
    }
}
