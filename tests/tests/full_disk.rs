//! A disk that is full under the aggregator: it stops and says why; what it acknowledged is there when it starts again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadonce_tests::data;
use loadonce_tests::programs;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Site, digits, topic_of};

const GATEWAY: &str = "g1";
/// Room for a new journal and a few rounds.
const DISK_KIB: u64 = 3000;

/// A program that runs the aggregator on a small disk of its own, and again once it ended and there is room. The first
/// one ends with the program.
fn on_a_small_disk(site: &Site) -> PathBuf {
    let (state, aggregator) = (site.state("aggregator"), programs::aggregator());
    fs::create_dir_all(&state).expect("a temporary folder can be made");
    let (state, aggregator) = (state.display(), aggregator.display());
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c '\
         mount -t tmpfs -o size={DISK_KIB}k none \"{state}\" || exit 9\n\
         setpriv --pdeathsig KILL \"{aggregator}\" \"$@\"; echo \"the aggregator ended with $?\" >&2\n\
         mount -o remount,size=64m \"{state}\" && exec \"{aggregator}\" \"$@\"' sh \"$@\"\n"
    );
    let path = site.folder().join("small-disk");
    fs::write(&path, script).expect("a temporary folder can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

#[test]
fn a_full_disk_stops_the_aggregator_and_takes_nothing_it_acknowledged() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: no small disk can be mounted, NOT checked");
        return;
    }
    let site = Site::new();
    let options = AggregatorOptions { program: Some(on_a_small_disk(&site)), ..AggregatorOptions::default() };
    // One gateway makes every version alone, and goes on by itself.
    let mut aggregator = site.aggregator(&[digits(1, 5000, 10)], options);
    // The disk is of the process alone; so is what it writes there.
    let root =
        format!("/proc/{}/root{}", aggregator.process.pid().as_raw_nonzero(), aggregator.state.display());
    aggregator.state = root.into();
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&[]);
    agent.wait("digits is served", |f| f["tasks"]["digits"].is_object());
    agent.log().wait(0, &["data plane connected"]);
    for (i, sample) in data::digits().train[..10].iter().enumerate() {
        client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/t{i}")), sample.payload.clone());
        client.publish(&topic_of(&format!("gw/{GATEWAY}/label/digits/t{i}")), sample.label.as_str());
    }
    let log = aggregator.process.log.clone();
    let ended = log.wait(0, &["the aggregator ended with"]);
    assert!(!ended.ends_with(" 0"), "a full disk is no success: {ended}");
    log.wait(0, &["No space left on device"]);
    let before = agent.figures()["tasks"]["digits"]["version"].as_u64().expect("versions are counted");
    println!("full at version {before}");

    agent.wait("it goes on", |f| f["tasks"]["digits"]["version"].as_u64() >= Some(before + 5));
    agent.process.stop();
    // Every contribution that was acknowledged made one version; the last one's acknowledgement may be under way.
    let acknowledged = agent.log().count(0, "status=Accepted") as u64;
    let last = aggregator
        .wait("the last version is cut", |f| f["tasks"][0]["version"].as_u64() >= Some(acknowledged));
    let version = last["tasks"][0]["version"].as_u64().expect("versions are counted");
    assert!(version - acknowledged <= 1, "{version} versions of {acknowledged} contributions");
    let copy = site.folder().join("copy");
    copy_folder(&aggregator.state, &copy);
    aggregator.process.stop();
    let verified = Command::new(programs::aggregator()).arg("--verify-journal").arg(&copy).output();
    let verified = verified.expect("the aggregator starts");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(!log.text().contains("panicked"), "{}", log.text());
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp is there");
    assert!(done.success());
}
