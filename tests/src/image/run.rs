//! The story of one gateway.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use loadonce_store::Slots;
use loadonce_trust::hash;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::disk::Disk;
use super::machine::{BOOT, HOST, Machine};
use crate::client::Client;
use crate::data;
use crate::secure::SecureSite;
use crate::site::{Program, SITE, Task, digits, topic_of};
use crate::soak::audit::{Journal, audit, read_journal};
use crate::soak::ledger::Ledger;
use crate::wait::within;

/// The gateway's name.
const GATEWAY: &str = "g1";
/// Ports of broker and aggregator as the gateway sees them.
const BROKER: u16 = 8883;
const ENROL: u16 = 8884;
/// Digits that are sent, and labels given.
const LABELS: usize = 60;
/// Gradient rounds; the lineage ends one version later.
const STEPS: u64 = 3;
/// Passes over the labels: enough for the training to take seconds.
const EPOCHS: u32 = 400;
/// Writes a second of a slow card, while a module is swapped.
const SLOW_CARD: u32 = 20;
/// What sensors log in with.
const PASSWORD: &str = "of the sensors";

/// What is run.
pub struct Options {
    /// The image.
    pub image: PathBuf,
    /// The machine's processor, by qemu's name.
    pub cpu: String,
    /// Where the console's text goes in the end.
    pub console: PathBuf,
}

/// Carries one connection between standard input and output and a port of this machine: qemu starts this for every
/// connection that the guest opens.
///
/// # Errors
/// The port does not answer.
pub fn relay(port: u16) -> io::Result<()> {
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    far.set_nodelay(true)?;
    let mut near = far.try_clone()?;
    thread::spawn(move || {
        let _ended = io::copy(&mut io::stdin().lock(), &mut far);
        let _told = far.shutdown(Shutdown::Write);
    });
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut near, &mut buffer)? {
            0 => return Ok(()),
            length => {
                out.write_all(&buffer[..length])?;
                out.flush()?;
            }
        }
    }
}

struct Story {
    site: SecureSite,
    aggregator: Program,
    machine: Machine,
    disk: Disk,
    ledger: Ledger,
    begun: Instant,
    told: Vec<(f64, String)>,
    wrong: Vec<String>,
}

/// Flashes a card and runs the story to its end.
///
/// # Panics
/// Where it does not come to an end.
pub fn run(options: &Options) -> Value {
    let task =
        Task { more: format!("[training]\nepochs = {EPOCHS}\npatience = 0"), ..digits(1, STEPS, LABELS) };
    let site = SecureSite::seen_as(&[task], Some(HOST));
    let folder = site.folder().to_owned();
    let aggregator = site.aggregator();
    let disk = Disk::flash(&options.image, &folder);
    // The console is where the test sees the agent's log.
    disk.append_options("systemd.journald.forward_to_console=1 systemd.journald.max_level_console=debug");
    // A busy host makes a slow machine.
    disk.append_options("systemd.default_timeout_start_sec=900 udev.event_timeout=900");
    disk.write("loadonce.toml", "data_password = \"of the sensors\"\ntoken = lo1.here\n");
    let begun = Instant::now();
    let endpoint = site.endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
    let forwards = [(BROKER, site.broker.port), (ENROL, endpoint.expect("an endpoint ends in its port"))];
    let machine = Machine::start(&folder, &disk, &options.cpu, &forwards);
    let (ledger, told, wrong) = (Ledger::default(), Vec::new(), Vec::new());
    let mut story = Story { site, aggregator, machine, disk, ledger, begun, told, wrong };
    story.wrong_file();
    story.right_file();
    let client = story.samples();
    story.cut_in_the_swap();
    story.cut_in_training();
    drop(client);
    story.end();
    let found = story.audit(&folder);
    let report = json!({
        "cpu": options.cpu,
        "labels": LABELS,
        "steps": STEPS,
        "seconds": (story.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "story": story.told.iter().map(|(s, what)| json!([s, what])).collect::<Vec<_>>(),
        "found": found,
        "wrong": story.wrong,
    });
    std::fs::write(&options.console, story.machine.console().text() + "\n").expect("it can be written");
    report
}

impl Story {
    fn tell(&mut self, what: &str) {
        let seconds = (self.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        println!("{seconds:7.1} s  {what}");
        self.told.push((seconds, what.to_owned()));
    }

    fn must(&mut self, holds: bool, what: &str) {
        if !holds {
            self.tell(&format!("WRONG: not so: {what}"));
            self.wrong.push(what.to_owned());
        }
    }

    /// A file that cannot be used is said so, and the agent stays away.
    fn wrong_file(&mut self) {
        self.machine.wait(0, &["loadonce: WRONG", "line 2 of loadonce.toml"]);
        self.tell("first boot: the file's second line is wrong, and the console says so");
        // Before this nobody hears the button.
        self.machine.wait(0, &["Watching system buttons"]);
        self.machine.shut_down();
        let status = self.disk.read("loadonce-status.txt").unwrap_or_default();
        self.must(status.starts_with("WRONG: line 2"), "loadonce-status.txt says what is wrong");
        let text = self.machine.console().text();
        self.must(!text.contains("agent starts"), "no agent starts without a configuration");
        self.tell("switched off by its power button");
    }

    fn right_file(&mut self) {
        let token = self.site.token(GATEWAY, &[]);
        let text = format!(
            "token = \"{token}\"\r\ndata_password = \"{PASSWORD}\"\r\nlog = \"info,boundary=debug\"\r\n"
        );
        self.disk.write("loadonce.toml", &text);
        let mark = self.boot();
        self.machine.wait(mark, &["loadonce: CONFIGURED"]);
        self.tell("second boot: configured from the corrected file");
        self.machine.wait(mark, &["loadonce: ENROLLED"]);
        self.tell("enrolled: the token was traded for a certificate, and is off the boot partition");
        self.machine.wait(mark, &["uplink connected"]);
        self.machine.wait(mark, &["data plane connected"]);
        self.machine.wait(mark, &["task is served", "digits"]);
        self.tell("the agent serves its task");
    }

    /// Switches the machine on again; the place in the console's log where this start begins.
    fn boot(&mut self) -> usize {
        let mark = self.machine.console().mark();
        self.machine.start_again();
        mark
    }

    /// Sends samples and their labels over the gateway's own broker, and waits until the labels are on its disk.
    fn samples(&mut self) -> Client {
        let credentials = Some(("sensor", PASSWORD));
        let client = Client::connect_as(self.machine.data_port, "sensor", &[], credentials);
        let mark = self.machine.console().mark();
        // A slow card from now on, so that the swap, which follows at once, takes long enough to be hit.
        self.machine.limit_writes(SLOW_CARD);
        for (i, sample) in data::digits().train.into_iter().take(LABELS).enumerate() {
            client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/s{i}")), sample.payload);
            client.publish(&topic_of(&format!("gw/{GATEWAY}/label/digits/s{i}")), sample.label);
        }
        client.settle();
        self.tell("the card is slow; sent the samples and their labels");
        let log = self.machine.console().clone();
        within(BOOT, "labels on the gateway's disk", || {
            (log.count(mark, "boundary=\"label.persisted\"") >= LABELS).then_some(())
        })
        .unwrap_or_else(|late| panic!("{late}"));
        self.tell("all labels are on its disk");
        client
    }

    fn cut_in_the_swap(&mut self) {
        let mark = 0;
        self.machine.wait(mark, &["boundary=\"ack.received\""]);
        self.tell("the aggregator has acknowledged the sums");
        self.machine.wait(mark, &["boundary=\"slot.committing\"", "version=1"]);
        self.machine.cut();
        self.tell("power cut while version 1 was being swapped in");
        let committed = self.machine.console().find(mark, &["boundary=\"slot.committed\""]);
        self.must(committed.is_none(), "the cut came before the swap was over");
        self.look_inside("after the cut in the swap");
    }

    fn cut_in_training(&mut self) {
        let mark = self.boot();
        let served = self.machine.wait(mark, &["task is served", "digits"]);
        self.tell("third boot: the task is served");
        // The cut left the old slot or the new one; both are right.
        if !served.contains("version=1") {
            self.machine.wait(mark, &["boundary=\"slot.committed\"", "version=1"]);
        }
        self.tell("version 1 is in its slot");
        self.machine.wait(mark, &["boundary=\"training.begun\""]);
        self.machine.cut();
        self.tell("power cut while a step was being trained");
        let persisted =
            self.machine.console().find(mark, &["boundary=\"outbox.persisted\"", "kind=\"step\""]);
        self.must(persisted.is_none(), "the cut came before the step was trained");
        self.look_inside("after the cut in training");
    }

    fn end(&mut self) {
        let mark = self.boot();
        let last = format!("version={}", STEPS + 1);
        self.machine.wait(mark, &["task is served", "digits", "version=1"]);
        self.tell("fourth boot: the task is served with version 1");
        self.machine.wait(mark, &["boundary=\"slot.committed\"", &last]);
        self.tell("the lineage's last version is in its slot");
        self.machine.shut_down();
        self.tell("switched off by its power button");
    }

    /// What a cut has left: whole slots, an outbox that reads back.
    fn look_inside(&mut self, when: &str) {
        let folder = TempDir::new_in(self.site.folder()).expect("a temporary folder can be made");
        self.disk.extract_state(folder.path());
        let state = folder.path().join("loadonce");
        let read = self.ledger.read_outbox(GATEWAY, &state, false);
        self.must(read, &format!("{when} the outbox reads back"));
        let slots = Slots::open(&state.join("slots/digits"));
        let whole = slots.is_ok_and(|mut slots| slots.load().is_ok());
        self.must(whole, &format!("{when} the slot is the old one or the new one"));
    }

    /// The soak's checks, on the files of the card.
    fn audit(&mut self, folder: &Path) -> Value {
        let card = folder.join("end");
        std::fs::create_dir(&card).expect("a temporary folder can be made");
        self.disk.extract_state(&card);
        let state = self.site.state(GATEWAY);
        std::fs::rename(card.join("loadonce"), &state).expect("the agent's state is on the card");
        // The figures went with the gateway's memory. An agent on this machine reads the state and tells them; it is
        // the same gateway to broker and aggregator, for the certificate is in the state.
        let more = format!("site = \"{SITE}\"\ngateway = \"{GATEWAY}\"\n[enrol]");
        let mut agent = self.site.agent(GATEWAY, &more);
        agent.wait_at_rest("digits", STEPS + 1);
        let figures = agent.figures();
        agent.process.stop();
        self.tell("an agent on the host goes on with the card's state");
        let own = &figures["tasks"]["digits"];
        let count = |key: &str| own[key].as_i64().unwrap_or_default();
        let (labels, heldout) = (count("labels"), count("heldout"));
        self.must(labels == LABELS as i64, &format!("{LABELS} labels are on the gateway, not {labels}"));
        self.aggregator.process.stop();
        self.ledger.read_log(GATEWAY, self.machine.console());
        let read = self.ledger.read_outbox(GATEWAY, &state, true);
        self.must(read, "the outbox reads back in the end");
        let gateways = [(GATEWAY, state.as_path())];
        self.ledger.read_journal(&self.aggregator.state, &gateways).unwrap_or_else(|error| panic!("{error}"));
        let journal: Journal = read_journal(folder).unwrap_or_else(|error| panic!("{error}"));
        let audited = audit(&self.ledger, &journal, labels - heldout, STEPS + 1);
        for what in audited.lost.iter().chain(&audited.doubled).chain(&audited.wrong) {
            self.must(false, what);
        }
        let newest = journal.outcome.lineage.last().map(|entry| entry.module).unwrap_or_default();
        let mut slots = Slots::open(&state.join("slots/digits")).expect("the slots' folder is there");
        let slot = slots.load().ok().flatten().expect("a slot is active");
        let shared = slot.files.get("shared.safetensors").map(|bytes| hash(bytes)).unwrap_or_default();
        self.must(shared == newest, "the gateway serves the lineage's last version");
        let file = self.disk.read("loadonce.toml").unwrap_or_default();
        self.must(
            file.contains("# token: used") && !file.contains("lo1."),
            "the token is off the boot partition",
        );
        let panicked = self.machine.console().text().contains("panicked");
        self.must(!panicked, "nothing panicked on the gateway");
        json!({
            "labels": labels,
            "heldout": heldout,
            "versions": journal.outcome.lineage.len(),
            "enqueued": self.ledger.enqueued.len(),
            "applied": self.ledger.applied.len(),
            "acknowledged": self.ledger.acknowledged.len(),
            "lost": audited.lost.len(),
            "doubled": audited.doubled.len(),
        })
    }
}
