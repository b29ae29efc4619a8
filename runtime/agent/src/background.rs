//! What the agent does when no message waits: one bounded unit per call, so that a sample never waits longer
//! than one of them.

use crate::agent::{Agent, AgentError};
use crate::outgoing::Outgoing;
use crate::training::Job;
use std::time::Instant;

impl Agent {
    /// One unit of background work; `false` when there is nothing to do until the next message or tick.
    /// `room` says whether a contribution may be put on the wire: what was sent before has left memory.
    pub fn background(
        &mut self,
        now_ms: u64,
        room: bool,
        out: &mut Vec<Outgoing>,
    ) -> Result<bool, AgentError> {
        let started = Instant::now();
        let worked = self.unit(now_ms, room, out)?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if worked {
            self.counters.longest_unit_ms = self.counters.longest_unit_ms.max(ms);
        }
        Ok(worked)
    }

    fn unit(&mut self, now_ms: u64, room: bool, out: &mut Vec<Outgoing>) -> Result<bool, AgentError> {
        if !self.recent.is_empty() {
            self.complete_one()?;
            return Ok(true);
        }
        if self.write_due(now_ms) {
            self.write_samples()?;
            return Ok(true);
        }
        match self.job.take() {
            Some(Job::Step(mut job)) => {
                let started = Instant::now();
                let done = job.step();
                self.counters.stepped(started.elapsed());
                if done {
                    self.finish_step(*job)?;
                } else {
                    self.job = Some(Job::Step(job));
                }
                return Ok(true);
            }
            Some(Job::Personal(mut job)) => {
                let started = Instant::now();
                let finished = job.step();
                self.counters.stepped(started.elapsed());
                match finished {
                    Some(active) => self.install(&job, active),
                    None => self.job = Some(Job::Personal(job)),
                }
                return Ok(true);
            }
            None => {}
        }
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in &names {
            if self.contribute_sum(name, now_ms)? {
                return Ok(true);
            }
        }
        if self.start_install(now_ms)? || self.start_step()? {
            return Ok(true);
        }
        self.fetch_due(now_ms, out)?;
        Ok(room && self.send_due(now_ms, out)?)
    }

    /// Whether `name` has nothing left to do until something new arrives.
    pub fn at_rest(&self, name: &str, now_ms: u64) -> bool {
        let Some(task) = self.tasks.get(name) else { return false };
        let learned = !task.stale_census && task.census.unsummed == 0 && task.settled(now_ms);
        let quiet = self.recent.is_empty() && self.unwritten.is_empty() && self.job.is_none();
        learned
            && quiet
            && self.sender.pending == 0
            && task.pointer.is_some()
            && !task.behind()
            && !task.owes_step()
    }
}
