//! The task that gets this gateway its certificate and keeps it fresh.

use super::Work;
use crate::agent::Agent;
use crate::config::Config;
use crate::enrol::{Applicant, Progress, Step};
use loadonce_link::tls::{Clock, exchange};
use loadonce_link::{Backoff, Waiting};
use loadonce_store::{Disk, write_atomic};
use loadonce_trust::date;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// Longest rest before the time is looked at again: a clock may jump.
const LONGEST_REST: Duration = Duration::from_hours(6);
/// Different troubles that are told at warning level; what comes after is for the patient reader.
const MAX_TOLD: usize = 16;

/// The clock of this gateway's certificates; what is proven of the time survives a restart.
pub(super) fn clock(state: &Path) -> Clock {
    let path = state.join("trusted-time");
    let remembered =
        std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Clock::remembering(remembered, move |seconds| {
        if let Err(error) = write_atomic(&path, format!("{seconds}\n").as_bytes(), 0o644) {
            tracing::debug!(%error, "the time that was proven is not remembered");
        }
    })
}

pub(super) struct Enrolment {
    applicant: Applicant<Disk>,
    clock: Clock,
    ready: watch::Sender<bool>,
    work: mpsc::Sender<Work>,
    waiting: Waiting,
    told: BTreeSet<String>,
    /// Nothing can be written: what is there is used, and that is all.
    frozen: bool,
}

impl Enrolment {
    /// `None` where the configuration wants none.
    pub(super) fn new(
        agent: &Agent,
        config: &Config,
        clock: Clock,
        ready: watch::Sender<bool>,
        work: mpsc::Sender<Work>,
        seed: u64,
    ) -> Option<Self> {
        let enrol = config.enrol.as_ref()?;
        let token = config.token();
        if let Some(token) = &token {
            clock.learn(token.issued);
        }
        let (folder, gateway) = (config.tls_folder(), config.gateway.clone());
        let applicant = Applicant::new(Disk, folder, gateway, agent.identity(), token, enrol.address.clone());
        let cap = Duration::from_secs(config.uplink.backoff_cap_s);
        let waiting = Waiting::new(Backoff { cap, ..Backoff::default() }, seed);
        let frozen = agent.degraded().is_some();
        Some(Self { applicant, clock, ready, work, waiting, told: BTreeSet::new(), frozen })
    }

    /// Runs as long as the agent.
    pub(super) async fn run(mut self) {
        if !self.use_current().await || self.frozen {
            return;
        }
        loop {
            match self.step().await {
                Ok(Some(rest)) => sleep(rest).await,
                Ok(None) => self.waiting.reset(),
                Err(trouble) => {
                    let retry_in = self.waiting.pause();
                    self.tell(&trouble, retry_in);
                    sleep(retry_in).await;
                }
            }
        }
    }

    /// What there is may be used: the aggregator it names is believed, and the connections can begin. `false` when
    /// nobody works any more.
    async fn use_current(&self) -> bool {
        if let Ok(Some(current)) = self.applicant.current() {
            self.clock.learn(current.facts.not_before);
            if self.work.send(Work::Believe(current.aggregator)).await.is_err() {
                return false;
            }
            self.ready.send_replace(true);
        }
        true
    }

    /// One exchange, or how long to rest.
    async fn step(&mut self) -> Result<Option<Duration>, String> {
        let now = self.clock.now();
        let ask = match self.applicant.next(now.seconds).map_err(|error| error.to_string())? {
            Step::Rest(until) => {
                return Ok(Some(Duration::from_secs(until.saturating_sub(now.seconds)).min(LONGEST_REST)));
            }
            Step::Ask(ask) => ask,
        };
        let boundary = |name: &str| tracing::debug!(target: "boundary", process = "agent", boundary = name);
        boundary("enrol.asking");
        let answer = exchange::ask(&ask.address, &ask.credentials, &self.clock, &ask.request).await?;
        boundary("enrol.answered");
        match self.applicant.answer(&ask, &answer) {
            Ok(Progress::Kept(until)) => {
                boundary("enrol.kept");
                tracing::info!(until = date(until), "this gateway has a certificate");
                self.use_current().await;
            }
            Ok(Progress::Confirmed) => {
                boundary("enrol.confirmed");
                tracing::info!("the aggregator knows that this gateway keeps its certificate");
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(None)
    }

    /// Every trouble once. With a certificate that has ended the uplink has said so already.
    fn tell(&mut self, trouble: &str, retry_in: Duration) {
        let current = self.applicant.current().ok().flatten();
        let ended = current.is_some_and(|current| current.facts.not_after < self.clock.now().seconds);
        let retry_in_s = retry_in.as_secs_f32();
        if ended || self.told.len() >= MAX_TOLD || !self.told.insert(trouble.to_owned()) {
            tracing::debug!(trouble, retry_in_s, "no new certificate yet");
        } else {
            tracing::warn!(
                trouble,
                retry_in_s,
                "no new certificate yet; work goes on, deltas wait, and the agent keeps trying"
            );
        }
    }
}
