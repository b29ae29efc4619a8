//! The figures of a simulation.

use loadonce_control::StepCodec;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

use super::Options;

/// See the module's documentation. Seconds, bytes; a megabyte is 10⁶ bytes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Gateways, each with its own key.
    pub gateways: usize,
    /// MQTT connections, each with its own socket.
    pub connections: usize,
    /// Parameters of a step.
    pub parameters: usize,
    /// Codec of steps.
    pub codec: String,
    /// Distinct contributions of each round.
    pub distinct: usize,
    /// Gateways with work under way at once, but in a storm.
    pub in_flight: usize,
    /// Seed.
    pub seed: u64,
    /// Rounds in order; the first is of sums.
    pub rounds: Vec<Round>,
    /// Acknowledgements whose signature was checked, after the clock had stopped.
    pub acks_checked: u64,
    /// Those that the aggregator did not sign.
    pub acks_forged: u64,
    /// Messages that no aggregator sends.
    pub wrong_frames: u64,
}

/// One round.
#[derive(Debug, Serialize)]
pub struct Round {
    /// `sum`, `step`, or `null` for the broker alone.
    pub kind: String,
    /// Contributions.
    pub contributions: usize,
    /// Bytes of the PUBLISH packets that carried them, repeats included.
    pub sent_bytes: u64,
    /// From the first packet to the last acknowledgement.
    pub seconds: f64,
    /// Contributions per second.
    pub per_second: f64,
    /// Megabytes per second.
    pub mb_per_second: f64,
    /// Times a contribution was sent or offered again for want of an answer.
    pub resent: u64,
    /// Times the aggregator asked a gateway to wait.
    pub turned_away: u64,
    /// Acknowledgements: accepted, duplicate, refused.
    pub answers: [u64; 3],
    /// Refusals since the start.
    pub refused: u64,
    /// From the last acknowledgement to the pointer at the last gateway.
    pub cut_seconds: f64,
    /// From the first request to the last module file.
    pub fetch_seconds: f64,
    /// Whether gateways fetched the patch to the version, and not its whole file.
    pub patched: bool,
    /// Patches or module files fetched.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Those that differ from the right one.
    pub mismatches: u64,
    /// Whether every gateway holds exactly the version that what was sent must give.
    pub exact: bool,
    /// The broker's failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
}

/// The broker failed while gateways held unacknowledged work.
#[derive(Debug, Serialize)]
pub struct Storm {
    /// Contributions without an answer when the first connection broke.
    pub unanswered_when_lost: u64,
    /// Connections that broke.
    pub lost_connections: u64,
    /// Until all were connected again.
    pub connected_seconds: f64,
    /// Until every contribution was answered.
    pub recovered_seconds: f64,
}

impl Round {
    pub(crate) fn new(kind: &str, contributions: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            contributions,
            sent_bytes: 0,
            seconds: 0.0,
            per_second: 0.0,
            mb_per_second: 0.0,
            resent: 0,
            turned_away: 0,
            answers: [0; 3],
            refused: 0,
            cut_seconds: 0.0,
            fetch_seconds: 0.0,
            patched: false,
            fetched: 0,
            fetched_bytes: 0,
            mismatches: 0,
            exact: false,
            storm: None,
        }
    }

    pub(crate) fn took(&mut self, time: Duration, bytes: u64) {
        self.seconds = time.as_secs_f64();
        self.sent_bytes = bytes;
        self.per_second = self.contributions as f64 / self.seconds;
        self.mb_per_second = bytes as f64 / 1e6 / self.seconds;
    }
}

impl Report {
    pub(crate) fn new(options: &Options, parameters: usize, codec: StepCodec) -> Self {
        Self {
            gateways: options.gateways,
            connections: options.gateways,
            parameters,
            codec: format!("{codec:?}").to_lowercase(),
            distinct: options.distinct.min(options.gateways),
            in_flight: options.in_flight,
            seed: options.seed,
            rounds: Vec::new(),
            acks_checked: 0,
            acks_forged: 0,
            wrong_frames: 0,
        }
    }

    /// For a person.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{} gateways on {} connections, {} parameters as {}\n{:<6} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>7} {:>6}\n",
            self.gateways,
            self.connections,
            self.parameters,
            self.codec,
            "round",
            "MB",
            "s",
            "per s",
            "MB/s",
            "resent",
            "cut s",
            "get s",
            "exact"
        );
        for round in &self.rounds {
            // Writing to a string never fails.
            let _ = writeln!(
                out,
                "{:<6} {:>9.1} {:>9.2} {:>8.0} {:>8.1} {:>7} {:>7.2} {:>7.2} {:>6}",
                round.kind,
                round.sent_bytes as f64 / 1e6,
                round.seconds,
                round.per_second,
                round.mb_per_second,
                round.resent,
                round.cut_seconds,
                round.fetch_seconds,
                if round.kind == "null" {
                    "-"
                } else if round.exact {
                    "yes"
                } else {
                    "NO"
                }
            );
            if let Some(storm) = &round.storm {
                let _ = writeln!(
                    out,
                    "       the broker died with {} unanswered; all connected after {:.1} s, all answered after {:.1} s",
                    storm.unanswered_when_lost, storm.connected_seconds, storm.recovered_seconds
                );
            }
        }
        out
    }

    /// Whether everything arrived exactly; otherwise what did not.
    pub fn verdict(&self) -> Result<(), String> {
        let inexact = self.rounds.iter().filter(|round| round.kind != "null" && !round.exact).count();
        match (inexact, self.acks_forged, self.wrong_frames) {
            (0, 0, 0) => Ok(()),
            (rounds, forged, frames) => Err(format!(
                "{rounds} rounds are not exact, {forged} acknowledgements are not signed by the aggregator, {frames} \
                 messages are wrong"
            )),
        }
    }
}
