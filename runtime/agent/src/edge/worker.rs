//! The work thread: messages first, then one unit of background work, then a nap.

use super::{REPORT_EVERY, Work};
use crate::agent::{Agent, AgentError};
use crate::outgoing::{Outgoing, Side};
use crate::spool::Fate;
use loadonce_link::{LinkError, LinkHandle, Qos};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Between two looks at the clock when nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// Longest wait for room in the data plane's queue before an answer is dropped and counted.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    agent: Agent,
    inbox: mpsc::Receiver<Work>,
    uplink: LinkHandle,
    data: LinkHandle,
    handle: Handle,
    started: Instant,
    /// What waits for room on the uplink: at most one contribution beside small messages.
    backlog: VecDeque<Outgoing>,
    /// Spool files whose content is not on the disk yet.
    spooled: Vec<oneshot::Sender<Fate>>,
    reported: Instant,
    sent_up: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        agent: Agent,
        inbox: mpsc::Receiver<Work>,
        uplink: LinkHandle,
        data: LinkHandle,
        handle: Handle,
    ) -> Self {
        let started = Instant::now();
        // A gateway that cannot write its state tells at once, for nobody finds its figures on the disk.
        let sent_up = agent.degraded().is_none().then_some(started);
        let (backlog, spooled) = (VecDeque::new(), Vec::new());
        Self { agent, inbox, uplink, data, handle, started, backlog, spooled, reported: started, sent_up }
    }

    pub(super) fn run(mut self) -> Result<(), AgentError> {
        let mut out = Vec::new();
        let mut busy = true;
        loop {
            let goes_on = match self.turn(&mut out, &mut busy) {
                // A full or failing disk takes learning away, not the answers.
                Err(error) if error.is_of_the_store() && self.agent.degraded().is_none() => {
                    self.agent.degrade(&error)?;
                    // What was learned from these files is gone with the store: they stay where they are.
                    for fate in self.spooled.drain(..) {
                        let _told = fate.send(Fate::Wait);
                    }
                    self.sent_up = None;
                    true
                }
                other => other?,
            };
            if !goes_on {
                // What the newest figures do not tell yet.
                self.renew_figures();
                return Ok(());
            }
            self.settle_spool();
            self.publish(&mut out);
            self.report(&mut busy);
        }
    }

    /// One message or one piece of work; `false` at the end.
    fn turn(&mut self, out: &mut Vec<Outgoing>, busy: &mut bool) -> Result<bool, AgentError> {
        let message = match self.inbox.try_recv() {
            Ok(message) => message,
            Err(mpsc::error::TryRecvError::Disconnected) => return Ok(false),
            Err(mpsc::error::TryRecvError::Empty) => {
                let room = self.backlog.is_empty();
                if self.agent.background(self.now_ms(), room, out)? {
                    *busy = true;
                    return Ok(true);
                }
                self.settle_spool();
                self.publish(out);
                let next =
                    self.handle.block_on(async { timeout(TICK, self.inbox.recv()).await.ok().flatten() });
                let Some(message) = next else { return Ok(true) };
                message
            }
        };
        *busy = true;
        let now = self.now_ms();
        self.take(message, now, out)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take(&mut self, message: Work, now: u64, out: &mut Vec<Outgoing>) -> Result<bool, AgentError> {
        match message {
            Work::Connected => {
                self.backlog.clear();
                let birth = self.agent.on_connected(now)?;
                out.push(birth);
            }
            Work::Believe(aggregator) => self.agent.believe_aggregator(aggregator)?,
            Work::Disconnected => {
                self.backlog.clear();
                self.agent.on_disconnected();
            }
            Work::Uplink { topic, payload, retained } => {
                self.agent.on_uplink(&topic, &payload, retained, now, out)?;
            }
            Work::Data { topic, payload, received, .. } => {
                self.agent.on_data(&topic, &payload, received, now, out)?;
            }
            Work::Spool { item, payload, fate, .. } => match self.agent.on_spool(&item, &payload, now, out) {
                Ok(Fate::Taken) => self.spooled.push(fate),
                // The watcher waits for the answer; if it is gone, so is the need for it.
                Ok(other) => {
                    let _told = fate.send(other);
                }
                Err(error) => {
                    let _told = fate.send(Fate::Wait);
                    return Err(error);
                }
            },
            Work::Oversized { topic, bytes } => self.agent.on_oversized(&topic, bytes, out),
            Work::Refused(code) => self.agent.count_refusal(code),
            Work::Stop => {
                match self.agent.stop() {
                    Ok(()) => self.settle_spool(),
                    // The end comes all the same; spool files whose content was not written stay.
                    Err(error) => tracing::error!(%error, "what was seen last is not stored"),
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Files whose content is on the disk may go.
    fn settle_spool(&mut self) {
        if !self.spooled.is_empty() && self.agent.all_written() {
            for fate in self.spooled.drain(..) {
                let _told = fate.send(Fate::Taken);
            }
        }
    }

    fn publish(&mut self, out: &mut Vec<Outgoing>) {
        for message in out.drain(..) {
            match message.side {
                Side::Uplink => self.backlog.push_back(message),
                Side::Data => {
                    let qos = qos(&message);
                    let publish = self.data.publish(message.topic, message.payload, qos, message.retain);
                    let sent = self
                        .handle
                        .block_on(async { timeout(ANSWER_PATIENCE, publish).await })
                        .unwrap_or(Err(LinkError::QueueFull));
                    if let Err(error) = sent {
                        self.agent.count_refusal("answer_dropped");
                        tracing::debug!(%error, "an answer was not published");
                    }
                }
            }
        }
        // Never waits: a slow uplink must not delay an answer.
        while let Some(message) = self.backlog.front() {
            if self.uplink.is_connected() && !self.uplink.has_room(&message.topic, &message.payload) {
                return;
            }
            let Some(message) = self.backlog.pop_front() else { return };
            let qos = qos(&message);
            // What is lost here with the connection is due again with the next one.
            if let Err(error) = self.uplink.try_publish(message.topic, message.payload, qos, message.retain) {
                tracing::debug!(%error, "not published on the uplink");
            }
        }
    }

    fn renew_figures(&mut self) -> Outgoing {
        let uptime = self.started.elapsed().as_secs_f64();
        self.agent.report(self.now_ms(), uptime, self.uplink.stats(), self.data.stats())
    }

    fn report(&mut self, busy: &mut bool) {
        let due = *busy || self.agent.take_report_due();
        let pause = Duration::from_millis(if due { 500 } else { 5_000 });
        if self.reported.elapsed() < pause {
            return;
        }
        *busy = false;
        self.reported = Instant::now();
        let report = self.renew_figures();
        let overdue = self.sent_up.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if overdue && self.uplink.is_connected() {
            self.sent_up = Some(Instant::now());
            self.backlog.push_back(report);
        }
    }
}

fn qos(message: &Outgoing) -> Qos {
    if message.at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce }
}
