//! One task: its manifest, its pointer, its slot.

use crate::course::Courses;
use crate::input::Reader;
use crate::record::{Given, RecordRef, Tag};
use crate::refusal::Refusal;
use crate::serving::Active;
use crate::training::usable;
use loadonce_backbone::{Backbone, InputError};
use loadonce_control::{ForecastSpec, Label, ManifestError, Pointer, Stable, TaskKind, TaskManifest, Wants};
use loadonce_module::{ANOMALOUS, Choose, Dataset, Head, NORMAL, Recipe, Shape, label_counts, log_prior};
use loadonce_store::Slots;
use loadonce_trust::{decode_hex, encode_hex, hash};
use std::sync::Arc;
use thiserror::Error;

/// A module file on its way here.
pub(crate) struct Fetch {
    /// What the pointer announced.
    pub stable: Stable,
    /// blake3 of what is fetched: the module file, or the patch that makes it of the one in the slot.
    pub hash: [u8; 32],
    /// The module file the patch is for, where a patch is fetched.
    pub patches: Option<Vec<u8>>,
    /// The file so far.
    pub file: loadonce_delivery::Fetch,
}

/// What the store says about a task's samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Remembered samples.
    pub samples: u64,
    /// Labelled ones.
    pub labels: u64,
    /// Labelled ones that are held out.
    pub heldout: u64,
    /// Labels not yet in a sum.
    pub unsummed: u64,
}

impl Census {
    /// Counts a record that comes (1) or goes (-1). Not one whose features are made of something else: it is from
    /// an earlier manifest or backbone.
    pub(crate) fn count(&mut self, task: &Task, record: &RecordRef<'_>, sign: i64) {
        if !usable(task, record) {
            return;
        }
        let label = record.label(&task.shape);
        let of = |holds: bool| sign * i64::from(holds);
        let counts = [
            (&mut self.samples, of(true)),
            (&mut self.labels, of(label.is_some())),
            (&mut self.heldout, of(label.is_some() && record.heldout)),
            (&mut self.unsummed, of(!record.heldout && label != record.summed(task.shape_tag))),
        ];
        for (count, change) in counts {
            *count = count.saturating_add_signed(change);
        }
    }
}

/// A task as the agent holds it in memory.
pub(crate) struct Task {
    /// The backbone it runs on.
    pub backbone: Arc<Backbone>,
    /// The manifest.
    pub manifest: TaskManifest,
    /// The module's shape.
    pub shape: Shape,
    /// Its fingerprint.
    pub shape_hash: [u8; 32],
    /// The same, short, for the marks of samples.
    pub shape_tag: Tag,
    /// What the features are made of.
    pub features_of: Tag,
    /// Directions taken from each channel.
    pub per_channel: usize,
    /// How samples are read.
    pub reader: Reader,
    /// Windows that wait for their values; where samples label each other.
    pub courses: Option<Courses>,
    /// What the aggregator last announced.
    pub pointer: Option<Pointer>,
    /// What is served.
    pub active: Option<Active>,
    /// The task as it was on another backbone: while there is no module on this one, it answers with the last
    /// one it had.
    pub former: Option<Box<Task>>,
    /// Where it is kept.
    pub slots: Option<Slots>,
    /// A newer version on its way.
    pub fetch: Option<Fetch>,
    /// blake3 of a patch that did not lead to the announced file: the file is fetched whole.
    pub bad_patch: Option<[u8; 32]>,
    /// Version the last step was trained from.
    pub last_step_base: u64,
    /// When the last label came, ms.
    pub last_label_ms: u64,
    /// When the first label came that is in no sum yet, ms.
    pub waiting_since_ms: Option<u64>,
    /// Not before this is a sum tried again that could not be made or stored, ms.
    pub sum_again_ms: u64,
    /// The store's count: followed change by change, so that it costs the same however much is stored.
    pub census: Census,
    /// Whether the store changed in a way that was not followed.
    pub stale_census: bool,
    /// Contributions enqueued since the start.
    pub sums_sent: u64,
    /// Likewise.
    pub steps_sent: u64,
    /// Answers per exit since the start.
    pub exits: Vec<u64>,
}

/// A label is settled at the latest after this many times `settle_s`: labels that keep coming do not keep each
/// other from being used.
const SETTLED_AFTER: f64 = 10.0;

/// Why a task cannot be served here.
#[derive(Debug, Error)]
pub(crate) enum TaskError {
    /// It needs a backbone that is not loaded.
    #[error(
        "needs the backbone `{wanted}`, installed here: {installed}; install that bundle and list it under `backbone.bundle`, or serve another task"
    )]
    WrongBackbone {
        /// The manifest's.
        wanted: String,
        /// The agent's, in words.
        installed: String,
    },
    /// The manifest is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The backbone does not take the declared input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Stored labels would get another meaning.
    #[error(
        "its kind is no longer {kind:?}, or its classes are no longer {known}, with or without more behind them; classes may only be appended, so give the changed task a new name"
    )]
    Meaning {
        /// The kind known so far.
        kind: TaskKind,
        /// The classes known so far.
        known: String,
    },
}

impl Task {
    /// Takes over a count of its samples.
    pub(crate) fn counted(&mut self, census: Census) {
        if census.unsummed == 0 {
            self.waiting_since_ms = None;
        }
        self.census = census;
    }

    /// Sets a task up on `backbone`, whatever name its manifest gives it.
    pub(crate) fn new(
        manifest: TaskManifest,
        backbone: Arc<Backbone>,
        slots: Option<Slots>,
    ) -> Result<Self, TaskError> {
        manifest.validate()?;
        let bundle = backbone.bundle();
        let shape = manifest.shape(bundle.exits(), bundle.directions())?;
        let reader = Reader::new(bundle, &manifest)?;
        let courses = |forecast: &ForecastSpec| Some(Courses::new(forecast.step_s?, forecast.horizon));
        let courses = manifest.forecast.as_ref().and_then(courses);
        let features_of = manifest.features_of(bundle.fingerprint(), bundle.directions());
        let shape_hash = shape.fingerprint(&manifest.classes, &features_of);
        Ok(Self {
            shape_hash,
            shape_tag: tag(&shape_hash),
            features_of: tag(&hash(features_of.as_bytes())),
            per_channel: manifest.features_per_channel(bundle.directions()),
            exits: vec![0; shape.exits],
            backbone,
            manifest,
            shape,
            reader,
            courses,
            pointer: None,
            active: None,
            former: None,
            slots,
            fetch: None,
            bad_patch: None,
            last_step_base: 0,
            last_label_ms: 0,
            waiting_since_ms: None,
            sum_again_ms: 0,
            census: Census::default(),
            stale_census: true,
            sums_sent: 0,
            steps_sent: 0,
        })
    }

    /// What a label says to this task.
    pub(crate) fn given(&self, label: Label) -> Result<Given, Refusal> {
        const KINDS: [&str; 2] = ["normal", "anomalous"];
        let classes: Vec<&str> = match (self.shape.head, &label) {
            (Head::Forecast { horizon, .. }, Label::Values(values)) => {
                let (got, want) = (values.len(), usize::from(horizon));
                return if got == want {
                    Ok(Given::Values(values.clone()))
                } else {
                    Err(Refusal::WrongValues { got, want })
                };
            }
            (Head::Forecast { .. }, Label::Name(_)) => return Err(Refusal::BadLabel),
            (Head::Classify, _) => self.manifest.classes.iter().map(String::as_str).collect(),
            (Head::Anomaly, _) => KINDS.to_vec(),
        };
        let Label::Name(name) = label else { return Err(Refusal::BadLabel) };
        match classes.iter().position(|class| *class == name) {
            Some(class) => Ok(Given::Class(class as u16)),
            None => Err(Refusal::UnknownClass(name, classes.join(", "))),
        }
    }

    /// This gateway's log label prior, the offset of prior-free training; zeros for the kinds without classes.
    pub(crate) fn log_prior(&self, train: &Dataset) -> Vec<f32> {
        match self.shape.head {
            Head::Classify => log_prior(
                &label_counts(train.classes(), self.shape.outputs),
                self.manifest.personal.smoothing,
            ),
            Head::Forecast { .. } | Head::Anomaly => vec![0.0; self.shape.outputs],
        }
    }

    /// Samples that count as normal while nobody labels them.
    pub(crate) fn learns(&self) -> u64 {
        if self.shape.head == Head::Anomaly { self.manifest.anomaly.learn } else { 0 }
    }

    /// Whether the first version, which is the closed form, is kept beside a trained one.
    pub(crate) fn chooses(&self) -> bool {
        self.shape.recipe != Recipe::Moments && self.manifest.module.choose == Choose::Auto
    }

    /// Whether there is anything in `train` that a gradient round could learn.
    pub(crate) fn trainable(&self, train: &Dataset) -> bool {
        // Without an anomaly Deep SAD only shrinks the scale of all scores.
        let both = |classes: &[u16]| classes.contains(&ANOMALOUS) && classes.contains(&NORMAL);
        self.shape.head != Head::Anomaly || both(train.classes())
    }

    /// The announced version and its hash, if this gateway can run it.
    pub(crate) fn announced(&self) -> Option<(&Stable, [u8; 32])> {
        let pointer = self.pointer.as_ref()?;
        if pointer.shape != encode_hex(&self.shape_hash) {
            return None;
        }
        let stable = pointer.stable.as_ref()?;
        Some((stable, decode_hex(&stable.hash)?))
    }

    /// Version served now; 0 for none.
    pub(crate) fn version(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.version)
    }

    /// Whether a newer version than the served one is announced.
    pub(crate) fn behind(&self) -> bool {
        self.announced().is_some_and(|(stable, _)| stable.version > self.version())
    }

    /// Whether the aggregator would take a step from the served version that this gateway has not sent: one from
    /// each version, for training is a function of version and samples. The version need not be the newest. Where
    /// versions follow each other faster than one is fetched and trained from, a gateway that waited for the newest
    /// would never send anything.
    pub(crate) fn owes_step(&self) -> bool {
        let wanted = self.pointer.as_ref().is_some_and(|p| p.wants == Wants::Step);
        let window = self.manifest.rounds.staleness();
        let inside = |newest| inside_window(self.version(), newest, window);
        let taken = self.announced().is_some_and(|(stable, _)| inside(stable.version));
        wanted && taken && self.last_step_base < self.version()
    }

    /// Whether labels have settled: none came for as long as the manifest asks, or one has waited for long.
    pub(crate) fn settled(&self, now_ms: u64) -> bool {
        let settle_ms = self.manifest.sync.settle_s * 1000.0;
        let since = |then: u64| now_ms.saturating_sub(then) as f64;
        since(self.last_label_ms) >= settle_ms
            || self.waiting_since_ms.is_some_and(|first| since(first) >= SETTLED_AFTER * settle_ms)
    }

    /// Notes a label.
    pub(crate) fn labelled(&mut self, now_ms: u64) {
        self.last_label_ms = now_ms;
        self.waiting_since_ms.get_or_insert(now_ms);
    }

    /// Answers per exit since the start, those of the former module included.
    pub(crate) fn answers(&self) -> Vec<u64> {
        let mut all = self.exits.clone();
        if let Some(former) = &self.former {
            add(&mut all, &former.exits);
        }
        all
    }

    /// The own module answers from now on.
    pub(crate) fn part_from_former(&mut self) {
        self.exits = self.answers();
        self.former = None;
    }

    /// Whether labels stored under `known` mean the same under this manifest.
    pub(crate) fn extends(&self, known: &TaskManifest) -> bool {
        let classes = self.manifest.classes.iter().zip(&known.classes).all(|(new, old)| new == old);
        self.manifest.kind == known.kind && classes
    }
}

fn add(exits: &mut Vec<u64>, more: &[u64]) {
    exits.resize(exits.len().max(more.len()), 0);
    for (all, more) in exits.iter_mut().zip(more) {
        *all += more;
    }
}

/// Whether steps from version `served` are taken while `newest` is the newest.
fn inside_window(served: u64, newest: u64, window: u64) -> bool {
    newest.checked_sub(served).is_some_and(|late| late <= window)
}

fn tag(hash: &[u8; 32]) -> Tag {
    hash[..8].try_into().expect("a hash is longer than a tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_made_from_versions_inside_the_window_only() {
        let inside = |newest| (0..=2).map(|window| inside_window(5, newest, window)).collect::<Vec<_>>();
        assert_eq!(inside(4), [false; 3], "an aggregator that lost its newest version");
        assert_eq!(inside(5), [true; 3]);
        assert_eq!(inside(6), [false, true, true]);
        assert_eq!(inside(8), [false; 3]);
    }
}
