//! The shipped broker configurations on a real Mosquitto: who comes in, what fits, what is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use loadonce_tests::broker::free_port;
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs::{root, system};
use loadonce_tests::wait::until;
use rustix::process::geteuid;
use tempfile::TempDir;

/// Payload bytes that the protocol needs (docs/wire.md), and a packet that no client of ours sends.
const FITS: usize = 61_440;
const HUGE: usize = 65_600;
/// Which the gateway may write and the operator may read.
const TOPIC: &str = "loadonce/v1/plant/gw/press-1/up";

fn openssl(folder: &Path, arguments: &[&str]) {
    let out = Command::new(system("openssl", "openssl"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(out.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A CA of its own, as `<ca>.pem` and `<ca>.key`.
fn authority(folder: &Path, ca: &str) {
    let (key, pem) = (format!("{ca}.key"), format!("{ca}.pem"));
    let mut arguments =
        vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    arguments.extend(["-subj", "/CN=plant", "-days", "30", "-keyout", &key, "-out", &pem]);
    openssl(folder, &arguments);
}

/// A certificate for `name`, signed by `ca`.
fn certificate(folder: &Path, ca: &str, name: &str) {
    let file = |suffix: &str| format!("{name}.{suffix}");
    let (key, request, pem) = (file("key"), file("csr"), file("pem"));
    let (ca_key, ca_pem, subject) = (format!("{ca}.key"), format!("{ca}.pem"), format!("/CN={name}"));
    let mut arguments = vec!["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    arguments.extend(["-subj", &subject, "-keyout", &key, "-out", &request]);
    openssl(folder, &arguments);
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n")
        .expect("a temporary folder can be written");
    let mut arguments = vec!["x509", "-req", "-in", &request, "-CA", &ca_pem, "-CAkey", &ca_key];
    arguments.extend(["-CAcreateserial", "-days", "30", "-extfile", "names", "-out", &pem]);
    openssl(folder, &arguments);
}

/// A broker with a shipped configuration; only folders, port and the user it runs as are the test's.
struct Shipped {
    folder: TempDir,
    port: u16,
    tls: bool,
    process: Process,
}

impl Shipped {
    fn start(file: &str, listener: &str, tls: bool) -> Self {
        let folder = TempDir::new().expect("the system has a folder for temporary files");
        let here = folder.path();
        let text = fs::read_to_string(root().join("deploy/mosquitto").join(file)).expect("it is shipped");
        fs::create_dir(here.join("data")).expect("a temporary folder can be made");
        fs::create_dir(here.join("certs")).expect("the same");
        if tls {
            let certs = here.join("certs");
            authority(&certs, "ca");
            authority(&certs, "other");
            for name in ["broker", "press-1", "@operator"] {
                certificate(&certs, "ca", name);
            }
            certificate(&certs, "other", "stranger");
        }
        fs::copy(root().join("deploy/mosquitto/acl"), here.join("acl")).expect("the rules are shipped");
        let log = Log::new(&here.join("mosquitto.log"));
        let port = free_port();
        for must in [listener, "log_dest stderr", "set_tcp_nodelay true"] {
            assert!(text.contains(must), "{file} has no `{must}`");
        }
        let user = if geteuid().is_root() { "user root\n" } else { "" };
        let text = text
            .replace("/etc/mosquitto/", &format!("{}/", here.display()))
            .replace("/var/lib/mosquitto/", &format!("{}/data/", here.display()))
            .replace(&format!("{listener}\n"), &format!("listener {port} 127.0.0.1\n{user}"));
        let config = here.join("mosquitto.conf");
        fs::write(&config, text).expect("a temporary folder can be written");
        let mosquitto = system("mosquitto", "mosquitto mosquitto-clients");
        let process = Process::start("mosquitto", Command::new(mosquitto).arg("-c").arg(&config), &log, None);
        let mut broker = Self { folder, port, tls, process };
        until("answer of mosquitto", || {
            if let Some(status) = broker.process.ended() {
                panic!("mosquitto ended with {status}:\n{}", broker.process.log.tail());
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        broker
    }

    fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    fn command(&self, program: &str, name: Option<&str>) -> Command {
        let mut command = Command::new(system(program, "mosquitto-clients"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-t", TOPIC]);
        if self.tls {
            command.arg("--cafile").arg(self.certs().join("ca.pem"));
        }
        if let Some(name) = name {
            command.arg("--cert").arg(self.certs().join(format!("{name}.pem")));
            command.arg("--key").arg(self.certs().join(format!("{name}.key")));
        }
        command
    }

    /// Publishes `bytes` bytes and waits for the confirmation.
    fn publish(&self, name: Option<&str>, bytes: usize) -> Output {
        let payload = self.folder.path().join("payload");
        fs::write(&payload, vec![b'x'; bytes]).expect("a temporary folder can be written");
        self.command("mosquitto_pub", name).arg("-f").arg(payload).output().expect("mosquitto_pub runs")
    }

    /// Subscribes, and tells the sizes of `count` messages from then on.
    fn watch(&self, name: Option<&str>, count: usize) -> Watcher {
        // A retained message comes at once when the subscription is made.
        let marked = self.command("mosquitto_pub", name).args(["-r", "-m", "ready"]).output();
        assert!(marked.expect("mosquitto_pub runs").status.success());
        let mut child = self
            .command("mosquitto_sub", name)
            .args(["-F", "%l", "-C", &(count + 1).to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("mosquitto_sub writes");
        assert_eq!(first, "5\n", "the marker");
        Watcher { child, lines }
    }
}

struct Watcher {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watcher {
    /// Once all have come.
    fn sizes(mut self) -> Vec<usize> {
        let sizes = self.lines.by_ref().lines().map(|line| line.expect("text").parse().expect("a number"));
        let sizes = sizes.collect();
        assert!(self.child.wait().expect("a child can be waited for").success());
        sizes
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_sites_broker_lets_in_who_has_a_certificate_and_takes_what_fits() {
    let mut broker = Shipped::start("mosquitto.conf", "listener 8883", true);
    let watcher = broker.watch(Some("@operator"), 2);

    assert!(broker.publish(Some("press-1"), FITS).status.success(), "the largest frame fits");
    // Confirmed and thrown away: whoever made it must not come back with it for ever.
    assert!(broker.publish(Some("press-1"), FITS + 1).status.success(), "it is not a reason to hang up");
    let huge = broker.publish(Some("press-1"), HUGE);
    assert!(!huge.status.success(), "a packet that is too large is cut off");
    broker.process.log.wait(0, &["disconnected due to oversize packet"]);
    assert!(broker.publish(Some("press-1"), 7).status.success(), "and the next connection is welcome");
    assert_eq!(watcher.sizes(), [FITS, 7], "what was too large reached nobody");
    // Who is who: by the certificate, whatever the client says.
    broker.process.log.wait(0, &["New client connected", "u'press-1'"]);

    assert!(!broker.publish(None, 1).status.success(), "without a certificate");
    broker.process.log.wait(0, &["peer did not return a certificate"]);
    assert!(!broker.publish(Some("stranger"), 1).status.success(), "a certificate of another CA");
    let mut plain = Command::new(system("mosquitto_pub", "mosquitto-clients"));
    plain.args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-q", "1", "-t", "t", "-m", "x"]);
    assert!(!plain.output().expect("mosquitto_pub runs").status.success(), "without TLS");
    // mosquitto_pub would agree on a newer version.
    let old = Command::new(system("openssl", "openssl"))
        .args(["s_client", "-tls1_1", "-connect", &format!("127.0.0.1:{}", broker.port)])
        .stdin(Stdio::null())
        .output();
    assert!(!old.expect("openssl runs").status.success(), "TLS 1.1");
    broker.process.log.wait(0, &["unsupported protocol"]);

    // It remembers what is retained over a restart.
    broker.process.stop();
    assert!(broker.folder.path().join("data/mosquitto.db").is_file());
}

#[test]
fn the_gateways_own_broker_takes_the_largest_sample_on_the_loopback_only() {
    let broker = Shipped::start("gateway.conf", "listener 1883 127.0.0.1", false);
    let watcher = broker.watch(None, 2);
    let largest = 4 * 1024 * 1024;
    assert!(broker.publish(None, largest).status.success());
    assert!(broker.publish(None, largest + 1).status.success());
    assert!(broker.publish(None, 9).status.success());
    assert_eq!(watcher.sizes(), [largest, 9]);
    assert!(!broker.folder.path().join("data/mosquitto.db").exists(), "nothing is written to the SD card");
}
