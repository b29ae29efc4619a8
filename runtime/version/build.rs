//! Finds the commit that is being built: what the builder says, else git, else what `git archive` wrote.

use std::env;
use std::path::Path;
use std::process::Command;

/// Overrides everything; `make cross` sets it, so that it holds for the tree as it is at that moment.
const VARIABLE: &str = "LOADONCE_REVISION";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=revision");
    let said = env::var(VARIABLE).ok().filter(|revision| !revision.is_empty());
    let revision = said.or_else(from_git).or_else(from_archive);
    println!("cargo::rustc-env=LOADONCE_REVISION={}", revision.as_deref().unwrap_or("unknown"));
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Of this repository only: a source archive may have been unpacked inside another one.
fn from_git() -> Option<String> {
    let own = Path::new("../..").canonicalize().ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != own {
        return None;
    }
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    // A commit moves one of these. An edit alone does not build the programs anew: whether the tree was clean is as
    // of the last commit or checkout, unless the variable says it.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { revision } else { format!("{revision}+dirty") })
}

fn from_archive() -> Option<String> {
    let written = std::fs::read_to_string("revision").ok()?;
    let revision = written.trim();
    let hexadecimal = revision.len() >= 12 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| revision[..12].to_owned())
}
