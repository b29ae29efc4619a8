//! A provider that the library does not offer: the agent says so once and the CPU computes.

use std::fs;
use std::process::{Command, Output};

use loadonce_tests::programs;
use tempfile::TempDir;

fn check(provider: &str) -> Output {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    let path = folder.path().join("agent.toml");
    let text = format!(
        "site = \"plant\"\ngateway = \"g1\"\nstate = \"{}\"\n\
         [backbone]\nbundle = \"{}\"\nlibrary = \"{}\"\nprovider = \"{provider}\"\n\
         [uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n[trust]\nfirst_use = true\n",
        folder.path().join("state").display(),
        programs::bundle().display(),
        programs::onnxruntime().display(),
    );
    fs::write(&path, text).expect("a temporary folder can be written");
    let mut command = Command::new(programs::agent());
    command.arg("--check").arg("--config").arg(&path).output().expect("the agent starts")
}

#[test]
fn a_gpu_that_is_not_there_leaves_the_cpu_and_one_line() {
    for (provider, warnings) in [("cpu", 0), ("auto", 0), ("cuda", 1), ("tensorrt", 1)] {
        let output = check(provider);
        let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{provider}: {log}");
        assert!(out.contains(" MB on cpu"), "{provider}: {out}");
        let lines: Vec<_> = log.lines().filter(|line| line.contains("the CPU computes")).collect();
        assert_eq!(lines.len(), warnings, "{provider}: {log}");
        assert!(lines.iter().all(|line| line.contains("WARN") && line.contains(provider)), "{lines:?}");
    }
}

#[test]
fn every_program_tells_its_version_and_revision() {
    for program in [programs::agent(), programs::aggregator(), programs::cli()] {
        let output = Command::new(&program).arg("--version").output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let told = text.trim().split_once(&format!(" {} (", env!("CARGO_PKG_VERSION")));
        let revision = told.and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or_default();
        let digits = revision.strip_suffix("+dirty").unwrap_or(revision);
        let known = digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(known || digits == "unknown", "{}: {text:?}", program.display());
    }
}
