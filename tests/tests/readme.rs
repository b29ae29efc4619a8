//! The README's own lines.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use loadonce_tests::broker::Broker;
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs::{agent, aggregator, cli, onnxruntime, root, system};
use loadonce_tests::wait::until;

/// How the blocks that are run are marked.
const TEACH: &str = "```console test=teach";
const QUICKSTART: &str = "```console test=quickstart";
/// The tasks that it teaches.
const TASKS: [&str; 3] = ["digits", "motion", "demand"];

/// The lines behind `$ ` of every block that begins with `mark`, continued over backslashes.
fn lines(readme: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = readme.lines();
    while text.by_ref().any(|line| line.trim() == mark) {
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

/// The configuration whose first line names `file`, with the test's own broker, folders and library.
fn configuration(readme: &str, file: &str, broker: &Broker, folder: &Path) -> String {
    let mut text = readme.lines().map(str::trim);
    assert!(text.by_ref().any(|line| line == format!("# {file}")), "README.md has no block for {file}");
    let block: Vec<&str> = text.take_while(|line| *line != "```").collect();
    let root = root().display().to_string();
    let state = |name: &str| format!("state = \"{}\"", folder.join(name).display());
    // This machine is shared with builds, and its heat and battery are not the test's.
    let sys = folder.join("sys");
    let power = format!("power = {{ scheduling = \"normal\", sysfs = \"{}\" }}", sys.display());
    let own = if file == "agent.toml" { vec![power.as_str()] } else { Vec::new() };
    [block, own]
        .concat()
        .join("\n")
        .replace("mqtt://127.0.0.1:1883", &broker.url())
        .replace("\"models/", &format!("\"{root}/models/"))
        .replace("state = \"aggregator-state\"", &state("aggregator"))
        .replace("state = \"agent-state\"", &state("agent"))
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
    let (teaching, lines) = (lines(&readme, TEACH), lines(&readme, QUICKSTART));
    assert_eq!(teaching.len(), TASKS.len(), "README.md teaches all its tasks below {TEACH}");
    let (listening, speaking): (Vec<_>, Vec<_>) = lines
        .iter()
        .filter(|line| line.starts_with("mosquitto_"))
        .map(|line| line.trim_end_matches('&').trim_end())
        .partition(|line| line.starts_with("mosquitto_sub "));
    assert!(
        !listening.is_empty() && !speaking.is_empty(),
        "README.md has no block that begins with {QUICKSTART} and holds a mosquitto_sub and a mosquitto_pub line behind `$ `"
    );
    for line in &lines {
        assert!(!line.contains(" -p "), "the test's broker has another port: leave `-p` out of `{line}`");
    }
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let folder = folder.path();
    system("mosquitto_pub", "mosquitto-clients");
    let broker = Broker::start(folder);
    for program in ["mosquitto_pub", "mosquitto_sub"] {
        fs::write(folder.join(program), format!("-h 127.0.0.1\n-p {}\n", broker.port))
            .expect("the folder is ours");
    }
    let programs = [("aggregator", aggregator()), ("agent", agent())];
    let processes = programs.map(|(name, program)| {
        let file = format!("{name}.toml");
        let config = folder.join(&file);
        fs::write(&config, configuration(&readme, &file, &broker, folder)).expect("the folder is ours");
        let log = Log::new(&folder.join(format!("{name}.log")));
        let mut command = Command::new(program);
        command.arg("--config").arg(config).env("ORT_DYLIB_PATH", onnxruntime());
        Process::start(name, &mut command, &log, None)
    });
    let agent = &processes[1];
    agent.log.wait(0, &["data plane connected"]);
    for task in TASKS {
        agent.log.wait(0, &["task is served", task]);
    }

    for line in &teaching {
        let line = line.replace("target/release/loadonce ", &format!("{} ", cli().display()));
        let out = folder.join("teach");
        let mut shell = Shell::start(&format!("{line} --broker {}", broker.url()), folder, &out);
        let status = until(&format!("end of `{line}`"), || shell.0.try_wait().ok().flatten());
        let said = fs::read_to_string(&out).unwrap_or_default();
        assert!(status.success() && said.contains("labels sent"), "`{line}` ended with {status}: {said}");
        print!("{said}");
    }
    // The manifests' deadlines are 30 s, 6 s and 30 s.
    for task in TASKS {
        agent.log.wait(0, &["new module is served", task]);
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
    for sample in ["in/digits/part-1", "in/motion/window-1"] {
        let topic = sample.replace("in/", "/out/");
        let answer = until(&format!("prediction for {sample} on the README's mosquitto_sub"), || {
            let heard: String =
                listeners.iter().filter_map(|(_, out)| fs::read_to_string(out).ok()).collect();
            assert!(!heard.contains("\"error\""), "the README's sample is refused: {heard}");
            heard.lines().find(|line| line.contains(&topic) && line.ends_with('}')).map(str::to_owned)
        });
        println!("{answer}");
        let json = answer.split_once(' ').map(|(_, json)| json).unwrap_or_default();
        let answer: serde_json::Value = serde_json::from_str(json).expect("an answer is JSON");
        assert!(answer["label"].is_string() && answer["confidence"].is_number(), "{answer}");
    }
}
