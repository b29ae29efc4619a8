//! A site as an operator sets it up: `loadonce site init`, a Mosquitto that wants certificates and has the shipped access
//! rules, an aggregator where gateways enrol, agents with tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use loadonce_link::tls::TlsFiles;
use loadonce_trust::{Ca, Subject};
use tempfile::TempDir;

use crate::broker::{Broker, free_port};
use crate::programs;
use crate::site::{Program, SITE, Task, launch};

/// See the module's documentation.
pub struct SecureSite {
    /// Its broker.
    pub broker: Broker,
    /// Where gateways enrol.
    pub endpoint: String,
    folder: TempDir,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the test machine's clock is past 1970").as_secs()
}

impl SecureSite {
    /// With these tasks; the aggregator is not started yet.
    pub fn new(tasks: &[Task]) -> Self {
        Self::seen_as(tasks, None)
    }

    /// The same for gateways that see broker and aggregator at another host, at its ports 8883 and 8884.
    pub fn seen_as(tasks: &[Task], host: Option<&str>) -> Self {
        let folder = TempDir::new().expect("the system has a folder for temporary files");
        let endpoint = format!("127.0.0.1:{}", free_port());
        for task in tasks {
            let path = folder.path().join(format!("{}.toml", task.name));
            fs::write(path, task.toml()).expect("a temporary folder can be written");
        }
        write_config(folder.path(), tasks, &endpoint, 1, host);
        let hosts = ["127.0.0.1", "localhost"].into_iter().chain(host);
        let init = ["site", "init"].into_iter().chain(hosts.flat_map(|host| ["--broker-host", host]));
        let made = run(folder.path(), &init.collect::<Vec<_>>());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = folder.path().join("aggregator-state/tls");
        let rules = programs::root().join("deploy/mosquitto/acl");
        let broker = Broker::start_with(
            folder.path(),
            &format!(
                "cafile {0}/ca.pem\ncertfile {0}/broker.pem\nkeyfile {0}/broker.key\nrequire_certificate true\n\
                 use_identity_as_username true\nacl_file {1}\nuser root\n",
                tls.display(),
                rules.display()
            ),
        );
        write_config(folder.path(), tasks, &endpoint, broker.port, host);
        Self { broker, endpoint, folder }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// State folder of a program.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}-state"))
    }

    /// `mqtts://…`.
    pub fn url(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.broker.port)
    }

    /// Runs `loadonce` on the aggregator's configuration.
    pub fn loadonce(&self, arguments: &[&str]) -> Output {
        run(self.folder(), arguments)
    }

    /// Starts the aggregator.
    pub fn aggregator(&self) -> Program {
        let text = fs::read_to_string(self.folder().join("aggregator.toml")).expect("it was written");
        launch(self.folder(), "aggregator", programs::aggregator(), &text, self.state("aggregator"), None)
    }

    /// A token for a gateway.
    pub fn token(&self, gateway: &str, more: &[&str]) -> String {
        let made = self.loadonce(&[&["gateway", "enrol", gateway, "--quiet"], more].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("a token is ASCII").trim().to_owned()
    }

    /// Starts an agent whose configuration ends in `more`; its state folder and log are called `name`.
    pub fn agent(&self, name: &str, more: &str) -> Program {
        let spool = self.folder().join(format!("{name}-spool"));
        fs::create_dir_all(&spool).expect("a temporary folder can be made");
        let text = format!(
            "state = \"{}\"\nuplink = {{ broker = \"{}\", backoff_cap_s = 1 }}\n{more}\n\
             [backbone]\nbundle = \"{}\"\nlibrary = \"{}\"\n[spool]\nfolder = \"{}\"\n",
            self.state(name).display(),
            self.url(),
            programs::bundle().display(),
            programs::onnxruntime().display(),
            spool.display(),
        );
        launch(self.folder(), name, programs::agent(), &text, self.state(name), None)
    }

    /// A certificate that the site's CA signed at `at` for `days`, and its key, in the site's folder.
    pub fn sign(&self, file: &str, subject: Subject<'_>, at: u64, days: u64) -> TlsFiles {
        let tls = self.state("aggregator").join("tls");
        let read = |name| fs::read_to_string(tls.join(name)).expect("`site init` made it");
        let ca = Ca::open(&read("ca.pem"), &read("ca.key")).expect("they are a CA");
        let (certificate, key) = ca.issue_with_key(subject, at, days).expect("the CA signs");
        let path = |kind: &str| self.folder().join(format!("{file}.{kind}"));
        fs::write(path("pem"), certificate).expect("a temporary folder can be written");
        fs::write(path("key"), key).expect("a temporary folder can be written");
        TlsFiles { ca: tls.join("ca.pem"), identity: Some((path("pem"), path("key"))) }
    }

    /// The operator's certificate.
    pub fn operator(&self) -> TlsFiles {
        let tls = self.state("aggregator").join("tls");
        TlsFiles {
            ca: tls.join("ca.pem"),
            identity: Some((tls.join("operator.pem"), tls.join("operator.key"))),
        }
    }
}

fn write_config(folder: &Path, tasks: &[Task], endpoint: &str, port: u16, host: Option<&str>) {
    let seen = host.map(|host| format!("address = \"{host}:8884\"\nbroker = \"mqtts://{host}:8883\"\n"));
    let names: Vec<_> = tasks.iter().map(|task| format!("\"{}.toml\"", task.name)).collect();
    let text = format!(
        "site = \"{SITE}\"\nbroker = \"mqtts://127.0.0.1:{port}\"\nstate = \"aggregator-state\"\ntasks = [{}]\n\
         backbones = [{{ bundle = \"{}\" }}]\n[enrol]\nlisten = \"{endpoint}\"\n{}",
        names.join(", "),
        programs::bundle().display(),
        seen.unwrap_or_default(),
    );
    fs::write(folder.join("aggregator.toml"), text).expect("a temporary folder can be written");
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let config = folder.join("aggregator.toml");
    Command::new(programs::cli())
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap_or_else(|error| panic!("loadonce does not start: {error}"))
}
