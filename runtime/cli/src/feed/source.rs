//! What is fed: samples out of a file or a folder, with the labels that stand beside them.

use super::table::{self, Cut};
use crate::DataError;
use crate::data::DataSet;
use loadonce_control::{Label, LabelMessage};
use loadonce_wire::Name;
use loadonce_wire::limits::MAX_SAMPLE;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest file of many samples that is read, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Most files of a folder.
const MAX_FILES: usize = 1_000_000;
/// Files that are one sample each.
const SAMPLES: [&str; 7] = ["png", "jpg", "jpeg", "json", "csv", "f32", "txt"];

/// A sample to send.
#[derive(Debug)]
pub(super) struct Entry {
    /// Sample id.
    pub(super) id: String,
    /// What is sent.
    pub(super) payload: Payload,
    /// What is told about it afterwards.
    pub(super) label: Option<Label>,
}

/// A sample's bytes, or where they are.
#[derive(Debug)]
pub(super) enum Payload {
    /// At hand.
    Bytes(Vec<u8>),
    /// In a file of their own.
    File(PathBuf),
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl Payload {
    /// The bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => bounded(path, MAX_SAMPLE as u64),
        }
    }
}

/// A level of a topic: the id that was given, or the number of a sample behind what all begin with.
pub(super) fn named(given: Option<&str>, stem: &str, n: usize) -> Result<String, String> {
    match given {
        None => Ok(format!("{stem}-{n}")),
        Some(id) if Name::new(id).is_some() => Ok(id.to_owned()),
        Some(id) => {
            Err(format!("the id {id:?} must be 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot"))
        }
    }
}

/// A label as people write it: a name, or the values that came in brackets.
pub(super) fn label_of(text: &str) -> Result<Label, String> {
    LabelMessage::parse(text.as_bytes()).ok_or_else(|| format!("{text:?} is no label"))
}

/// The samples of `path`, in the order of the file or of the names.
pub(super) fn read(path: &Path, cut: Option<Cut>) -> Result<Vec<Entry>, DataError> {
    let content = |what: String| DataError::Content { path: path.to_owned(), what };
    let kind = if path.is_dir() { "folder".to_owned() } else { extension(path) };
    if cut.is_some() && !matches!(kind.as_str(), "csv" | "tsv") {
        return Err(content("--window cuts CSV tables only".into()));
    }
    let stem = stem(path);
    let text = || {
        let bytes = bounded(path, MAX_BYTES)?;
        String::from_utf8(bytes).map_err(|_| content("it is not UTF-8 text".into()))
    };
    let entries = match kind.as_str() {
        "folder" => folder(path, &stem)?,
        "safetensors" => data_set(&DataSet::read(path)?, &stem).map_err(content)?,
        "jsonl" | "ndjson" => json_lines(&text()?, &stem).map_err(content)?,
        "csv" | "tsv" => table::read(&text()?, &stem, cut).map_err(content)?,
        "txt" => lines(&text()?, &stem),
        other if SAMPLES.contains(&other) => {
            vec![sample(path.to_owned(), &stem, 1, None).map_err(content)?]
        }
        other => return Err(content(format!("{other:?} is no kind of file that is known; see --help"))),
    };
    if entries.is_empty() {
        return Err(content("it holds no sample".into()));
    }
    let mut seen = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !seen.insert(entry.id.as_str())) {
        Some(twice) => Err(content(format!("two samples have the id {}; a gateway takes one", twice.id))),
        None => Ok(entries),
    }
}

fn bounded(path: &Path, most: u64) -> Result<Vec<u8>, DataError> {
    let file = |source| DataError::File { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(file)?.len();
    if size > most {
        let what = format!("{size} bytes; at most {most} are read");
        return Err(DataError::Content { path: path.to_owned(), what });
    }
    fs::read(path).map_err(file)
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// A file's name without its extension, as far as a topic takes it.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let stem: String = stem.chars().map(|c| if allowed(c) { c } else { '-' }).take(48).collect();
    let stem = stem.trim_start_matches('.');
    if stem.is_empty() { "feed".to_owned() } else { stem.to_owned() }
}

/// One file, one sample; `<name>.label` beside it stands over the label of its folder.
fn sample(path: PathBuf, stem_of_all: &str, n: usize, label: Option<&str>) -> Result<Entry, String> {
    let own = stem(&path);
    let id = match label {
        Some(label) => format!("{}-{own}", stem(Path::new(label))),
        None => own,
    };
    let id = if Name::new(&id).is_some() { id } else { named(None, stem_of_all, n)? };
    let beside = match fs::read_to_string(path.with_extension("label")) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => label.map(ToOwned::to_owned),
        Err(error) => return Err(format!("{}: {error}", path.with_extension("label").display())),
    };
    let label = beside.as_deref().map(label_of).transpose()?;
    Ok(Entry { id, payload: Payload::File(path), label })
}

/// A folder of samples; those in a folder within it are labelled by its name.
fn folder(path: &Path, stem: &str) -> Result<Vec<Entry>, DataError> {
    let mut files = list(path)?;
    for (inner, _) in std::mem::take(&mut files) {
        if !inner.is_dir() {
            files.push((inner, None));
            continue;
        }
        let label = inner.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned);
        files.extend(list(&inner)?.into_iter().map(|(file, _)| (file, label.clone())));
    }
    files.retain(|(file, _)| SAMPLES.contains(&extension(file).as_str()) && file.is_file());
    let each = |(at, (file, label)): (usize, (PathBuf, Option<String>))| {
        sample(file.clone(), stem, at + 1, label.as_deref())
            .map_err(|what| DataError::Content { path: file, what })
    };
    files.into_iter().enumerate().map(each).collect()
}

/// What a folder holds, by name; without what is hidden.
fn list(path: &Path) -> Result<Vec<(PathBuf, Option<String>)>, DataError> {
    let file = |source| DataError::File { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(file)? {
        let entry = entry.map_err(file)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push((entry.path(), None));
        }
        if found.len() > MAX_FILES {
            let what = format!("it holds more than {MAX_FILES} files; feed a part of it");
            return Err(DataError::Content { path: path.to_owned(), what });
        }
    }
    found.sort();
    Ok(found)
}

/// Each line a text.
fn lines(text: &str, stem: &str) -> Vec<Entry> {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
    let entry = |(at, line): (usize, &str)| Entry {
        id: format!("{stem}-{}", at + 1),
        payload: line.as_bytes().to_vec().into(),
        label: None,
    };
    lines.map(entry).collect()
}

/// Each line a window, an object with `channels` or `text`, or a text in quotes; objects may bear `id` and `label`.
fn json_lines(text: &str, stem: &str) -> Result<Vec<Entry>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let entry = |(at, (number, line)): (usize, (usize, &str))| {
        let at_line = |what: String| format!("line {}: {what}", number + 1);
        let (mut id, mut label) = (None, None);
        let payload = match serde_json::from_str::<Value>(line).map_err(|e| at_line(e.to_string()))? {
            Value::String(text) => text.into_bytes(),
            Value::Array(_) => line.trim().as_bytes().to_vec(),
            Value::Object(mut object) => {
                id = object.remove("id");
                label = object.remove("label");
                match object.remove("text") {
                    Some(Value::String(text)) => text.into_bytes(),
                    Some(_) => return Err(at_line("`text` is no text".into())),
                    None => Value::Object(object).to_string().into_bytes(),
                }
            }
            _ => return Err(at_line("it is neither a window nor a text".into())),
        };
        let id = match id {
            None => named(None, stem, at + 1),
            Some(Value::String(id)) => named(Some(&id), stem, at + 1),
            Some(Value::Number(id)) => named(Some(&id.to_string()), stem, at + 1),
            Some(_) => Err("`id` is neither a text nor a number".into()),
        };
        let label = match label {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(label)) => Ok(Some(Label::Name(label))),
            Some(other) => label_of(&other.to_string()).map(Some),
        };
        Ok(Entry { id: id.map_err(at_line)?, payload: payload.into(), label: label.map_err(at_line)? })
    };
    lines.enumerate().map(entry).collect()
}

/// The training samples of a data set as `loadonce evaluate` reads it.
fn data_set(set: &DataSet, stem: &str) -> Result<Vec<Entry>, String> {
    let entry = |&sample: &usize| {
        let bytes = &set.payloads[sample];
        let (payload, label) = match &set.future {
            None => (bytes.clone(), Label::Name(set.classes[usize::from(set.labels[sample])].clone())),
            Some(future) => {
                let values = &future.values[sample * future.horizon..][..future.horizon];
                let window = match future.times.get(sample) {
                    Some(time) => timed(bytes, *time),
                    None => bytes.clone(),
                };
                (window, Label::Values(values.iter().map(|&value| f64::from(value)).collect()))
            }
        };
        Ok(Entry { id: format!("{stem}-{sample}"), payload: payload.into(), label: Some(label) })
    };
    set.train.iter().map(entry).collect()
}

/// A window of one channel that tells when its last value was taken.
fn timed(raw: &[u8], time: f64) -> Vec<u8> {
    let numbers = raw.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    // JSON has no word for a gap but null, which is what a number that is none becomes.
    json!({ "channels": [numbers.collect::<Vec<f32>>()], "time": time }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &Path) -> Vec<(String, Vec<u8>, Option<Label>)> {
        let entries = read(path, None).unwrap();
        entries.into_iter().map(|entry| (entry.id, entry.payload.read().unwrap(), entry.label)).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what may be missing")]
    fn name(text: &str) -> Option<Label> {
        Some(Label::Name(text.to_owned()))
    }

    #[test]
    fn a_folder_is_its_files_and_folders_within_are_labels() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, content: &str| {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("b.png", "2");
        put("a one.JSON", "1");
        put("a one.label", "good\n");
        put("odd/c.png", "3");
        put("odd/c.label", "[1, 2]");
        put("odd/d.png", "4");
        put("notes.md", "5");
        put(".hidden.png", "6");
        let found = found(dir.path());
        let brief: Vec<_> =
            found.iter().map(|(id, bytes, label)| (id.as_str(), &bytes[..], label.clone())).collect();
        assert_eq!(
            brief,
            [
                ("a-one", &b"1"[..], name("good")),
                ("b", b"2", None),
                ("odd-c", b"3", Some(Label::Values(vec![1.0, 2.0]))),
                ("odd-d", b"4", name("odd")),
            ]
        );
        put("b.jpg", "7");
        let error = read(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("the id b"), "{error}");
    }

    #[test]
    fn lines_of_json_bear_ids_and_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.jsonl");
        let text = "[1,2.5]\n\n{\"channels\":[[1]],\"time\":7,\"label\":\"up\",\"id\":\"x\"}\n\
                    {\"text\":\"a line\",\"label\":3}\n\"bare\"\n{\"channels\":[[2]],\"label\":[4,5]}\n";
        fs::write(&path, text).unwrap();
        let found = found(&path);
        let brief: Vec<_> =
            found.iter().map(|(id, bytes, label)| (id.as_str(), &bytes[..], label.clone())).collect();
        assert_eq!(
            brief,
            [
                ("w-1", &b"[1,2.5]"[..], None),
                ("x", br#"{"channels":[[1]],"time":7}"#, name("up")),
                ("w-3", b"a line", name("3")),
                ("w-4", b"bare", None),
                ("w-5", br#"{"channels":[[2]]}"#, Some(Label::Values(vec![4.0, 5.0]))),
            ]
        );
        for (text, word) in [("{\n", "line 1"), ("[1]\n7\n", "line 2"), ("{\"id\":\"a/b\"}\n", "a/b")] {
            fs::write(&path, text).unwrap();
            let error = read(&path, None).unwrap_err().to_string();
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }

    #[test]
    fn windows_that_tell_their_time_are_json() {
        let raw: Vec<u8> = [1.5f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(timed(&raw, 60.0), br#"{"channels":[[1.5,null]],"time":60.0}"#);
    }
}
