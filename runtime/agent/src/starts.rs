//! Starts that failed, counted in the state folder: the process that could count them in memory is gone.

use loadonce_store::write_atomic;
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "failed-starts.json";

/// Failed starts by cause since the state folder was made; empty where nothing can be read.
pub(crate) fn failed(state: &Path) -> BTreeMap<String, u64> {
    std::fs::read(state.join(FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Counts one more under `cause`, one of a fixed set of words. A folder that cannot be written is no second error.
pub fn count_failed(state: &Path, cause: &str) {
    let mut counts = failed(state);
    *counts.entry(cause.to_owned()).or_default() += 1;
    let written = std::fs::create_dir_all(state)
        .map_err(|error| error.to_string())
        .and_then(|()| serde_json::to_vec(&counts).map_err(|error| error.to_string()))
        .and_then(|text| write_atomic(&state.join(FILE), &text, 0o644).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::debug!(error, "the failed start was not counted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_and_a_damaged_file_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(failed(&state).is_empty());
        count_failed(&state, "bundle");
        count_failed(&state, "bundle");
        count_failed(&state, "engine");
        assert_eq!(failed(&state), [("bundle".to_owned(), 2), ("engine".to_owned(), 1)].into());
        std::fs::write(state.join(FILE), b"{").unwrap();
        count_failed(&state, "bundle");
        assert_eq!(failed(&state)["bundle"], 1);
    }
}
