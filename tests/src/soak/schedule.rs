//! Who is killed when: drawn from a seed, written out, and read back.

use std::fmt::Write as _;

use crate::fuzz::Mutator;

/// Mean pause between two kills, ms. A program that was killed needs about a second until it works again, so some
/// of the fleet is always down and most of it is at work.
const PAUSE_MS: u64 = 350;

/// One SIGKILL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Milliseconds since the labels began to come.
    pub at_ms: u64,
    /// `aggregator`, `mosquitto`, or a gateway.
    pub process: String,
}

/// Kills of one episode, in the order of their times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The kills.
    pub kills: Vec<Kill>,
}

impl Schedule {
    /// `count` kills: three of five hit a gateway, the others aggregator and broker in turn of chance. Pauses are
    /// uniform from nothing to twice the mean, so kills also come in quick succession.
    pub fn random(seed: u64, count: usize, gateways: &[&str]) -> Self {
        let mut random = Mutator::new(seed);
        let mut at_ms = 0;
        let kills = (0..count).map(|_| {
            at_ms += random.number() % (2 * PAUSE_MS);
            let process = match random.below(5) {
                0 => "aggregator",
                1 => "mosquitto",
                _ => random.pick(gateways),
            };
            Kill { at_ms, process: process.to_owned() }
        });
        Self { kills: kills.collect() }
    }

    /// One `ms process` a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Kill { at_ms, process } in &self.kills {
            writeln!(text, "{at_ms} {process}").expect("a String takes any text");
        }
        text
    }
}

/// The schedules of all episodes: a line `== name` begins an episode's own, lines before the first such line are
/// for every episode. Empty lines and what follows a `#` do not count.
///
/// # Errors
/// The line that cannot be read.
pub fn parse(text: &str, episode: &str, processes: &[&str]) -> Result<Schedule, String> {
    let mut kills = Vec::new();
    let mut ours = true;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("==") {
            ours = name.trim() == episode;
            continue;
        }
        if line.is_empty() || !ours {
            continue;
        }
        let wrong = |why: &str| format!("line {} of the schedule, `{line}`: {why}", number + 1);
        let (at_ms, process) = line.split_once(' ').ok_or_else(|| wrong("it is not `ms process`"))?;
        let at_ms = at_ms.parse().map_err(|_| wrong("it does not begin with milliseconds"))?;
        let process = process.trim();
        if !processes.contains(&process) {
            return Err(wrong(&format!("the processes are {}", processes.join(", "))));
        }
        kills.push(Kill { at_ms, process: process.to_owned() });
    }
    kills.sort_by_key(|kill| kill.at_ms);
    Ok(Schedule { kills })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESSES: [&str; 3] = ["aggregator", "mosquitto", "g1"];

    #[test]
    fn a_schedule_reads_back_as_it_was_written() {
        let schedule = Schedule::random(7, 50, &["g1"]);
        assert_eq!(schedule, Schedule::random(7, 50, &["g1"]));
        assert_ne!(schedule, Schedule::random(8, 50, &["g1"]));
        let text = format!("# seed 7\n== a\n1 g1\n== b\n{}", schedule.to_text());
        assert_eq!(parse(&text, "b", &PROCESSES), Ok(schedule));
        assert_eq!(
            parse("9 g1\n3 mosquitto # why\n", "b", &PROCESSES).map(|s| s.to_text()),
            Ok("3 mosquitto\n9 g1\n".to_owned())
        );
        for wrong in ["g1", "x g1", "1 g9"] {
            assert!(parse(wrong, "a", &PROCESSES).is_err(), "{wrong}");
        }
    }
}
