//! Agent and aggregator as services: what they tell their manager, and when training gives way.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use loadonce_tests::data;
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, topic_of};
use loadonce_tests::wait::{until, within};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

/// What the programs are told to be the longest silence. Life signs come four times as often.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The service manager's end of the notification socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Manager {
    fn new(site: &Site) -> Self {
        let path = site.folder().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the folder is ours");
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        Self { socket, path, heard: Vec::new() }
    }

    /// Lines that came since the last call.
    fn listen(&mut self) -> Vec<String> {
        let (mut lines, mut bytes) = (Vec::new(), [0; 4096]);
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let text = std::str::from_utf8(&bytes[..length]).expect("the protocol is text");
            lines.extend(text.lines().map(str::to_owned));
        }
        self.heard.extend(lines.iter().cloned());
        lines
    }

    /// Waits for a line, or finds that it has come.
    fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        until(what, || {
            self.listen();
            self.heard.iter().any(|line| wanted(line)).then_some(())
        });
    }

    fn life_signs(&mut self, count: usize) {
        let mut seen = 0;
        until("life signs", || {
            seen += self.listen().iter().filter(|line| *line == "WATCHDOG=1").count();
            (seen >= count).then_some(())
        });
    }

    /// Waits until there was no life sign for longer than the watchdog has patience.
    fn silence(&mut self) {
        let mut last = Instant::now();
        until("silence", || {
            if self.listen().iter().any(|line| line == "WATCHDOG=1") {
                last = Instant::now();
            }
            (last.elapsed() > 2 * WATCHDOG).then_some(())
        });
    }

    fn start(&self, name: &str, program: PathBuf, config: &Path, log: &Path, runtime: &Path) -> Process {
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env("RUNTIME_DIRECTORY", runtime);
        Process::start(name, &mut command, &Log::new(log), None)
    }
}

/// Puts a pipe where a program opens a file: whoever opens it hangs, as on a disk that does not answer.
fn pipe(at: &Path) {
    until("a pipe in place of the file", || {
        let _absent = fs::remove_file(at);
        mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).ok()
    });
}

#[test]
fn an_agent_that_hangs_stops_its_life_signs() {
    let site = Site::new();
    let mut manager = Manager::new(&site);
    let (config, runtime) = (site.folder().join("agent.toml"), site.folder().join("run"));
    fs::create_dir(&runtime).expect("the folder is ours");
    fs::write(&config, site.agent_config("g1", &AgentOptions::default())).expect("the folder is ours");
    let log = site.folder().join("agent.log");
    let mut agent = manager.start("agent", programs::agent(), &config, &log, &runtime);
    manager.wait("readiness", |line| line == "READY=1");
    manager.wait("a status for people", |line| {
        line == "STATUS=waits for its first task; uplink connected; at rest"
    });
    manager.life_signs(3);
    // What is renewed all the time is in memory, not on the disk.
    until("figures in the folder in memory", || runtime.join("figures.json").exists().then_some(()));
    assert!(!site.state("g1").join("figures.json").exists());

    // The work thread reads this file for every report. The threads of the connections go on.
    let file = site.state("g1").join("failed-starts.json");
    pipe(&file);
    manager.silence();
    assert!(agent.ended().is_none(), "it hangs, it did not end");
    let aside = site.folder().join("pipe");
    fs::rename(&file, &aside).expect("the folder is ours");
    drop(fs::OpenOptions::new().write(true).open(&aside).expect("somebody reads from the pipe"));
    manager.life_signs(3);

    agent.stop();
    manager.listen();
    assert_eq!(manager.heard.iter().filter(|line| *line == "READY=1").count(), 1);
    assert!(manager.heard.iter().any(|line| line == "STOPPING=1"), "{:?}", manager.heard);
}

#[test]
fn an_aggregator_that_hangs_stops_its_life_signs() {
    let site = Site::new();
    let mut manager = Manager::new(&site);
    let (config, runtime) = (site.folder().join("own.toml"), site.folder().join("run"));
    fs::create_dir(&runtime).expect("the folder is ours");
    let task = site.folder().join("digits.toml");
    fs::write(&task, digits(1, 1, 10).toml()).expect("the folder is ours");
    let text = format!(
        "site = \"plant\"\nbroker = \"{}\"\nstate = \"{}\"\ntasks = [\"{}\"]\n[[backbones]]\nbundle = \"{}\"\n",
        site.broker.url(),
        site.state("aggregator").display(),
        task.display(),
        programs::bundle().display(),
    );
    fs::write(&config, text).expect("the folder is ours");
    let log = site.folder().join("own.log");
    let mut aggregator = manager.start("aggregator", programs::aggregator(), &config, &log, &runtime);
    manager.wait("readiness", |line| line == "READY=1");
    manager.wait("a status", |line| line == "STATUS=tasks: 1; gateways up: 0 of 0; broker connected");
    manager.life_signs(3);
    assert!(!site.state("aggregator").join("figures.json").exists());

    let file = runtime.join("figures.json.tmp");
    pipe(&file);
    manager.silence();
    let aside = site.folder().join("pipe");
    fs::rename(&file, &aside).expect("the folder is ours");
    drop(fs::read(&aside).expect("the aggregator writes into the pipe"));
    manager.life_signs(3);
    aggregator.stop();
    manager.listen();
    assert!(manager.heard.iter().any(|line| line == "STOPPING=1"), "{:?}", manager.heard);
}

/// What a zone of the site's `/sys` says.
fn heat(site: &Site, thousandths: &str) {
    let zone = site.sys().join("class/thermal/thermal_zone0");
    fs::create_dir_all(&zone).expect("the folder is ours");
    fs::write(zone.join("type"), "cpu-thermal\n").expect("the folder is ours");
    fs::write(zone.join("new"), thousandths).expect("the folder is ours");
    fs::rename(zone.join("new"), zone.join("temp")).expect("the folder is ours");
}

fn power(agent: &mut Program, what: &str, training: &str) -> Value {
    let training = training.to_owned();
    agent.wait(what, move |figures| figures["power"]["training"] == *training)
}

#[test]
fn training_waits_while_it_is_hot_and_answers_do_not() {
    let site = Site::new();
    heat(&site, "91000\n");
    let mut aggregator = site.aggregator(&[digits(1, 1, 10)], AggregatorOptions::default());
    let mut agent = site.agent("g1", AgentOptions::default());
    let client = site.client(&["gw/+/out/#", "gw/+/state"]);
    agent.wait("the task is served", |f| f["tasks"]["digits"].is_object());
    agent.log().wait(0, &["data plane connected"]);
    let figures = power(&mut agent, "a pause", "paused");
    assert_eq!((&figures["power"]["cause"], &figures["power"]["pauses"]), (&"heat".into(), &1.into()));
    agent.log().wait(0, &["training pauses; answers go on", "thermal_zone0 cpu-thermal is at 91.0"]);
    client.wait(0, "gw/g1/state", |message| message.json()["paused"] == "heat");

    let own = topic_of("gw/g1");
    for (i, sample) in data::digits().train[..20].iter().enumerate() {
        client.publish(&format!("{own}/in/digits/t{i}"), sample.payload.clone());
        client.publish(&format!("{own}/label/digits/t{i}"), sample.label.as_str());
    }
    // Sums are no training: the first version is made without any heat. Deriving from it is, and waits.
    aggregator.wait("the first version is cut", |f| f["tasks"][0]["version"] == 1);
    agent.wait("all is answered", |f| f["tasks"]["digits"]["predictions"] == 20);
    client.publish(&format!("{own}/in/digits/hot"), data::digits().test[0].payload.clone());
    let answer = client.wait(0, "g1/out/digits/hot", |_| true).json();
    assert!(answer["error"].is_null() && answer["version"] == 0 && answer["exit"] == 3, "{answer}");
    let figures = power(&mut agent, "still a pause", "paused");
    assert_eq!(
        (&figures["tasks"]["digits"]["version"], &figures["tasks"]["digits"]["steps_sent"]),
        (&0.into(), &0.into())
    );

    heat(&site, "50000\n");
    agent.wait_at_rest("digits", 2);
    power(&mut agent, "no pause", "allowed");
    assert_eq!(agent.log().count(0, "training pauses"), 1, "{}", agent.log().text());
    assert_eq!(agent.log().count(0, "training goes on"), 1, "{}", agent.log().text());
    agent.process.stop();
    aggregator.process.stop();
}

#[test]
fn training_is_scheduled_when_nobody_else_wants_the_processor() {
    /// Scheduling policies of sched(7).
    const OTHER: u64 = 0;
    const IDLE: u64 = 5;
    let site = Site::new();
    let mut agent = site.agent("g1", AgentOptions { idle: true, ..AgentOptions::default() });
    agent.wait("it runs", Value::is_object);
    let threads = PathBuf::from(format!("/proc/{}/task", agent.process.pid().as_raw_nonzero()));
    let policy = |wanted: &str| {
        fs::read_dir(&threads).ok()?.flatten().find_map(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
            let (head, rest) = stat.rsplit_once(')')?;
            let named = head.split_once('(')?.1 == wanted;
            // Field 41; the first after the name is field 3.
            named.then(|| rest.split_whitespace().nth(41 - 3)?.parse::<u64>().ok()).flatten()
        })
    };
    let idle =
        within(Duration::from_secs(10), "idle scheduling", || policy("training").filter(|p| *p == IDLE));
    assert!(idle.is_ok(), "the training thread has policy {:?}", policy("training"));
    assert_eq!(policy("work"), Some(OTHER), "answers are scheduled as ever");
    agent.process.stop();
}
