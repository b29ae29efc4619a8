//! What the agent does when no message waits: one bounded unit per call, so that a sample never waits longer
//! than one of them.

use crate::agent::{Agent, AgentError};
use crate::outgoing::Outgoing;
use crate::training::{Away, Finished, Job, Training};
use std::ops::ControlFlow;
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
        if !self.lends
            && self.power.paused().is_none()
            && let Some(job) = self.job.take()
        {
            let started = Instant::now();
            let work = job.advance();
            self.counters.stepped(started.elapsed());
            self.take_up(work)?;
            return Ok(true);
        }
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in &names {
            if self.contribute_sum(name, now_ms)? {
                return Ok(true);
            }
        }
        let free = self.job.is_none() && self.away.is_none() && self.power.paused().is_none();
        if free && (self.start_install(now_ms)? || self.start_step()?) {
            return Ok(true);
        }
        self.fetch_due(now_ms, out)?;
        Ok(room && self.send_due(now_ms, out)?)
    }

    /// From now on jobs are worked on elsewhere: [`Agent::lend`] gives them out, [`Agent::take_back`] takes them.
    pub fn lends_jobs(&mut self) {
        self.lends = true;
    }

    /// The job that waits to be worked on, unless training pauses.
    pub fn lend(&mut self) -> Option<Training> {
        if self.power.paused().is_some() {
            return None;
        }
        let job = self.job.take()?;
        self.jobs += 1;
        let (number, task) = (self.jobs, job.task().to_owned());
        self.away = Some(Away { number, task, installs: job.installs() });
        Some(Training::new(number, job))
    }

    /// The job that is lent, as long as its work is wanted: not while training pauses.
    pub fn wants(&self) -> Option<u64> {
        self.away.as_ref().filter(|_| self.power.paused().is_none()).map(|away| away.number)
    }

    /// Takes back what was lent. A job that something has overtaken meanwhile is dropped.
    pub fn take_back(&mut self, training: Training) -> Result<(), AgentError> {
        let number = training.number();
        let (work, longest) = training.end();
        self.counters.stepped(longest);
        if self.away.take_if(|away| away.number == number).is_none() {
            return Ok(());
        }
        work.map_or(Ok(()), |work| self.take_up(work))
    }

    fn take_up(&mut self, work: ControlFlow<Finished, Job>) -> Result<(), AgentError> {
        match work {
            ControlFlow::Continue(job) => self.job = Some(job),
            ControlFlow::Break(Finished::Step(job)) => self.finish_step(*job)?,
            ControlFlow::Break(Finished::Personal(job, active)) => self.install(&job, *active),
        }
        Ok(())
    }

    /// Whether a job is being worked on.
    pub(crate) fn trains(&self) -> bool {
        self.away.is_some() || (self.job.is_some() && self.power.paused().is_none())
    }

    /// Whether `name` has nothing left to do until something new arrives.
    pub fn at_rest(&self, name: &str, now_ms: u64) -> bool {
        let Some(task) = self.tasks.get(name) else { return false };
        let learned = !task.stale_census && task.census.unsummed == 0 && task.settled(now_ms);
        let quiet =
            self.recent.is_empty() && self.unwritten.is_empty() && self.job.is_none() && self.away.is_none();
        learned
            && quiet
            && self.sender.pending == 0
            && task.pointer.is_some()
            && !task.behind()
            && !task.owes_step()
    }
}
