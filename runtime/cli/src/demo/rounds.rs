//! What the aggregator says about its lineages.

use super::error::DemoError;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Figures {
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    name: String,
    version: u64,
    /// Gateways that contributed to each version, from version 1.
    participants: Vec<u64>,
}

/// Gateways that contributed to each version, by task in the order of `names`, from the aggregator's
/// `figures.json`.
pub(crate) fn read(state: &Path, names: &[String]) -> Result<Vec<Vec<u64>>, DemoError> {
    let path = state.join("figures.json");
    let bytes = std::fs::read(&path).map_err(|source| DemoError::File {
        doing: "read",
        path: path.clone(),
        source,
    })?;
    parse(&bytes, names).map_err(|what| DemoError::Content { path, what })
}

fn parse(bytes: &[u8], names: &[String]) -> Result<Vec<Vec<u64>>, String> {
    let figures: Figures = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let participants = |name: &String| {
        let task = figures.tasks.iter().find(|task| task.name == *name).ok_or(format!("no task `{name}`"))?;
        if task.participants.len() as u64 == task.version {
            Ok(task.participants.clone())
        } else {
            Err(format!("{} rounds, but version {} of task `{name}`", task.participants.len(), task.version))
        }
    };
    names.iter().map(participants).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_come_in_the_order_asked_for() {
        let json = br#"{"tasks":[{"name":"a","version":2,"participants":[3,2]},{"name":"b","version":0,"participants":[]}],"x":1}"#;
        let read = |names: &[&str]| parse(json, &names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read(&["b", "a"]).unwrap(), [vec![], vec![3, 2]]);
        assert!(read(&["c"]).is_err());
        assert!(
            parse(br#"{"tasks":[{"name":"a","version":2,"participants":[3]}]}"#, &["a".to_owned()]).is_err()
        );
    }
}
