//! The README's own lines.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use loadonce_tests::broker::Broker;
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs::{agent, aggregator, bundle, onnxruntime, root, system};
use loadonce_tests::wait::until;

/// How the block that is run is marked.
const MARK: &str = "```console test=quickstart";

/// The lines behind `$ ` of every marked block, continued over backslashes.
fn lines(readme: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = readme.lines();
    while text.by_ref().any(|line| line.trim() == MARK) {
        let block: Vec<&str> = text.by_ref().take_while(|line| line.trim() != "```").collect();
        let block = block.join("\n").replace("\\\n", " ");
        found.extend(
            block
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("$ "))
                .map(|line| line.trim().to_owned()),
        );
    }
    found
}

/// A shell line of the README, ended by its id.
struct Shell(Child);

impl Shell {
    fn start(line: &str, config: &Path, out: &Path) -> Self {
        let out = fs::File::create(out).expect("a temporary folder can be written");
        let err = out.try_clone().expect("a file can be opened twice");
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec {line}"))
            .current_dir(root())
            // The stock clients read their options, here the port, from this folder.
            .env("XDG_CONFIG_HOME", config)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("every system has a shell");
        Self(child)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn readme_lines_work() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is at the root");
    let lines = lines(&readme);
    let (listening, speaking): (Vec<_>, Vec<_>) = lines
        .iter()
        .filter(|line| line.starts_with("mosquitto_"))
        .map(|line| line.trim_end_matches('&').trim_end())
        .partition(|line| line.starts_with("mosquitto_sub "));
    assert!(
        !listening.is_empty() && !speaking.is_empty(),
        "README.md has no block that begins with {MARK} and holds a mosquitto_sub and a mosquitto_pub line behind `$ `"
    );
    for line in &lines {
        assert!(!line.contains(" -p "), "the test's broker has another port: leave `-p` out of `{line}`");
    }
    // loadonce/v1/<site>/gw/<gateway>/…
    let topic = speaking[0].split("loadonce/v1/").nth(1).expect("the line has a topic of the product");
    let levels: Vec<&str> = topic.split('/').collect();
    let (site, gateway) = (levels[0], levels[2]);

    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let folder = folder.path();
    system("mosquitto_pub", "mosquitto-clients");
    let broker = Broker::start(folder);
    for program in ["mosquitto_pub", "mosquitto_sub"] {
        fs::write(folder.join(program), format!("-h 127.0.0.1\n-p {}\n", broker.port))
            .expect("the folder is ours");
    }
    let tasks = root().join("models/tasks");
    let configs = [
        (
            "aggregator",
            aggregator(),
            format!(
                "site = \"{site}\"\nbroker = \"{}\"\nstate = \"{}\"\ntasks = [\"{}\", \"{}\"]\n\
                 admission = \"first-use\"\n[[backbones]]\nbundle = \"{}\"\n",
                broker.url(),
                folder.join("aggregator").display(),
                tasks.join("digits.toml").display(),
                tasks.join("motion.toml").display(),
                bundle().display(),
            ),
        ),
        (
            "agent",
            agent(),
            format!(
                "site = \"{site}\"\ngateway = \"{gateway}\"\nstate = \"{}\"\n[backbone]\nbundle = \"{}\"\n\
                 library = \"{}\"\n[uplink]\nbroker = \"{}\"\n[trust]\nfirst_use = true\n",
                folder.join("agent").display(),
                bundle().display(),
                onnxruntime().display(),
                broker.url(),
            ),
        ),
    ];
    let processes = configs.map(|(name, program, text)| {
        let config = folder.join(format!("{name}.toml"));
        fs::write(&config, text).expect("the folder is ours");
        let log = Log::new(&folder.join(format!("{name}.log")));
        Process::start(name, Command::new(program).arg("--config").arg(config), &log, None)
    });
    let agent = &processes[1];
    agent.log.wait(0, &["data plane connected"]);
    for task in ["digits", "motion"] {
        agent.log.wait(0, &["task is served", task]);
    }

    let mut listeners = Vec::new();
    for (i, line) in listening.iter().enumerate() {
        let mark = broker.log().mark();
        let out = folder.join(format!("sub-{i}"));
        listeners.push((Shell::start(line, folder, &out), out));
        let filter = line.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
        let filter =
            filter.into_iter().find(|word| word.starts_with("loadonce/")).expect("it names its topics");
        broker.log().wait(mark, &[&format!(" 0 {filter}")]);
    }
    let mut speakers = Vec::new();
    for (i, line) in speaking.iter().enumerate() {
        let out = folder.join(format!("pub-{i}"));
        let mut shell = Shell::start(line, folder, &out);
        let status = until(&format!("end of `{line}`"), || shell.0.try_wait().ok().flatten());
        let said = fs::read_to_string(&out).unwrap_or_default();
        assert!(status.success(), "`{line}` ended with {status}: {said}");
        speakers.push(shell);
    }
    until("prediction on the README's mosquitto_sub", || {
        let heard: String = listeners.iter().filter_map(|(_, out)| fs::read_to_string(out).ok()).collect();
        assert!(!heard.contains("\"error\""), "the README's sample is refused: {heard}");
        heard.contains("\"confidence\"").then_some(())
    });
}
