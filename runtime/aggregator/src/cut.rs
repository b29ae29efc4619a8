//! Versions: close a round, cut a version, publish the pointer. In this order.

use loadonce_module::{Dtype, FileError, ModuleFile, Role, Sums};
use loadonce_rounds::{
    ContributionId, Decision, LineageEntry, Made, Open, PatchPolicy, VersionError, contributions_hash,
    from_steps, from_sums, patch_to,
};
use loadonce_trust::{encode_hex, hash};
use loadonce_wire::{Bytes32, Manifest};
use thiserror::Error;

use crate::aggregator::Aggregator;
use crate::figures::Heldout;
use crate::history::Policy;
use crate::journal::{Cut, Held, Journal, JournalError};
use crate::line::{Line, Newest};
use crate::outgoing::Outgoing;
use crate::steps::Steps;

/// Why a round cannot become a version.
#[derive(Debug, Error)]
pub(crate) enum CutError {
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("the module file cannot be written: {0}")]
    File(#[from] FileError),
    #[error("the lineage rests")]
    Resting,
}

/// A version that is not written yet.
pub(crate) struct Draft {
    pub(crate) entry: LineageEntry,
    pub(crate) module: Vec<u8>,
    pub(crate) patch: Option<Vec<u8>>,
    /// The gateways whose steps it was made from, ascending; none from sums.
    pub(crate) participants: Vec<Bytes32>,
    heldout: Option<Heldout>,
    /// The round it was made from.
    held: Held,
}

/// What a round collected.
#[derive(Default)]
pub(crate) struct Collected {
    ids: Vec<ContributionId>,
    heldout: (u64, f64, f64),
    held: Held,
}

impl Collected {
    pub(crate) fn note(&mut self, manifest: &Manifest) {
        self.ids.push(ContributionId::of(manifest));
        let (samples, before, after) = (
            f64::from(manifest.heldout_samples),
            f64::from(manifest.heldout_before),
            f64::from(manifest.heldout_after),
        );
        if before.is_finite() && after.is_finite() {
            self.heldout.0 += u64::from(manifest.heldout_samples);
            self.heldout.1 += samples * before;
            self.heldout.2 += samples * after;
        }
    }

    /// Ascending.
    fn gateways(&self) -> Vec<Bytes32> {
        let mut keys: Vec<_> = self.ids.iter().map(|id| id.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn heldout(&self) -> Option<Heldout> {
        let (samples, before, after) = self.heldout;
        let mean = |total: f64| total / samples as f64;
        (samples > 0).then(|| Heldout { samples, before: mean(before), after: mean(after) })
    }
}

impl Aggregator {
    pub(crate) fn close_rounds(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, JournalError> {
        let closing: Vec<String> = self
            .lines
            .iter()
            .filter(|(_, line)| line.round.decide(now_ms) == Decision::Close)
            .map(|(name, _)| name.clone())
            .collect();
        let mut out = Vec::new();
        for name in closing {
            out.extend(self.close(&name)?);
        }
        Ok(out)
    }

    fn close(&mut self, name: &str) -> Result<Option<Outgoing>, JournalError> {
        let Some(line) = self.lines.get_mut(name) else { return Ok(None) };
        let version = line.version() + 1;
        tracing::info!(
            target: "boundary", process = "aggregator", boundary = "round.closing",
            task = name, version, contributions = line.round.contributions()
        );
        let totals = if line.round.open() == Open::Sum { self.journal.totals(&line.id)? } else { None };
        let draft = match draft(&self.journal, line, totals.as_ref())? {
            Ok(draft) => draft,
            Err(error) => {
                line.round.block();
                tracing::error!(task = name, version, %error, "no version can be cut; waiting for one more contribution");
                return Ok(None);
            }
        };
        let patch = draft.patch.as_ref().map(|patch| (hash(patch), patch.len() as u32));
        let newest = Newest { entry: draft.entry, bytes: draft.module.len() as u32, patch };
        let previous = line.newest.map(|newest| newest.entry.module);
        let pointer = line.pointer_to(Some(newest), previous, line.pointer.serial + 1);
        self.history = self.journal.cut(&Cut {
            lineage: line.id,
            entry: &draft.entry,
            module: &draft.module,
            patch: draft.patch.as_deref(),
            participants: &draft.participants,
            pointer: &pointer,
            held: draft.held,
            policy: &Policy::encode(&line.task),
            bound: self.history_bytes,
        })?;
        tracing::info!(
            target: "boundary", process = "aggregator", boundary = "round.committed",
            task = name, version, hash = encode_hex(&draft.entry.module)
        );
        line.advance(Some(newest), previous);
        line.note_participants(draft.entry.gateways);
        line.pointer = pointer;
        line.heldout = draft.heldout;
        let LineageEntry { made, gateways, count, weight, .. } = draft.entry;
        tracing::info!(
            task = name, version, ?made, gateways, contributions = count, weight, bytes = newest.bytes,
            next = ?line.round.open(), "version cut"
        );
        if let Some(Heldout { samples, before, after }) = draft.heldout {
            tracing::info!(
                task = name,
                version,
                samples,
                before,
                after,
                "held-out loss of the round's gateways"
            );
        }
        let Some(line) = self.lines.get(name) else { return Ok(None) };
        Ok(Some(self.pointer_message(line)))
    }
}

/// Makes the next version of `line` from what its round holds; `totals` are those of all its sums so far. The
/// outcome depends on the set of contributions only, so a cut that a power failure undid is repeated bit for bit,
/// and so is any version whose contributions and base are kept.
pub(crate) fn draft(
    journal: &Journal,
    line: &Line,
    totals: Option<&Sums>,
) -> Result<Result<Draft, CutError>, JournalError> {
    match line.round.open() {
        Open::Sum => from_totals(journal, line, totals),
        Open::Step => from_round(journal, line),
        Open::None => Ok(Err(CutError::Resting)),
    }
}

fn from_totals(
    journal: &Journal,
    line: &Line,
    totals: Option<&Sums>,
) -> Result<Result<Draft, CutError>, JournalError> {
    let mut collected = Collected::default();
    let held = journal.pending(&line.id, line.version() + 1, |pending| collected.note(&pending.manifest))?;
    warn_broken(line, held.broken);
    collected.held = held;
    let Some(totals) = totals else { return Ok(Err(CutError::Resting)) };
    let samples = totals.samples().max(0) as u64;
    let params = from_sums(&line.task.shape, totals, &line.task.manifest.solve_options());
    Ok(params
        .map_err(CutError::from)
        .and_then(|params| finish(line, params, None, Made::FromSums, &collected, samples)))
}

fn from_round(journal: &Journal, line: &Line) -> Result<Result<Draft, CutError>, JournalError> {
    let missing = |detail: String| JournalError::Corrupt { table: "modules", detail };
    let Some(newest) = line.newest else { return Ok(Err(CutError::Resting)) };
    let base = journal
        .module(&newest.entry.module, ModuleFile::decode)?
        .ok_or_else(|| missing(format!("the file of version {} is gone", newest.entry.version)))?
        .map_err(|error| missing(error.to_string()))?;
    let pace = journal.pace(line)?;
    let mut steps = Steps::new(line, &pace);
    let held = journal.pending(&line.id, line.version() + 1, |pending| steps.take(pending))?;
    let (totals, mut collected, unusable) = steps.finish();
    warn_broken(line, held.broken + unusable);
    collected.held = held;
    let params = from_steps(&base.params, &totals, pace.before());
    Ok(params.map_err(CutError::from).and_then(|params| {
        let (params, patch) = patched(line, &newest, &base.params, params);
        finish(line, params, patch, Made::FromSteps, &collected, totals.weight())
    }))
}

/// The version as its patch makes it, with the patch, where the task wants one and it is worth it; otherwise the
/// version as it was computed.
fn patched(line: &Line, newest: &Newest, base: &[f32], params: Vec<f32>) -> (Vec<f32>, Option<Vec<u8>>) {
    let Some(bits) = line.task.manifest.sync.patched() else { return (params, None) };
    let policy = PatchPolicy { bits, row: line.task.shape.features, whole: newest.bytes as usize };
    match patch_to(&params, base, &newest.entry.module, &policy) {
        Ok(Some(patch)) => (patch.params, Some(patch.bytes)),
        Ok(None) => (params, None),
        Err(error) => {
            tracing::error!(task = line.name(), %error, "no patch can be made; the version is served whole");
            (params, None)
        }
    }
}

/// Left out: a corrupt record must not stop the lineage for ever.
fn warn_broken(line: &Line, broken: u64) {
    if broken > 0 {
        tracing::error!(
            task = line.name(),
            broken,
            "contributions of the round do not read back and were left out"
        );
    }
}

fn finish(
    line: &Line,
    params: Vec<f32>,
    patch: Option<Vec<u8>>,
    made: Made,
    collected: &Collected,
    weight: u64,
) -> Result<Draft, CutError> {
    let version = line.version() + 1;
    let file = ModuleFile {
        task: line.name().to_owned(),
        shape: line.task.shape,
        classes: line.task.manifest.classes.clone(),
        backbone: line.pointer.backbone.clone(),
        version,
        base: line.newest.map(|newest| encode_hex(&newest.entry.module)).unwrap_or_default(),
        role: Role::Shared,
        offset: Vec::new(),
        params,
    };
    let module = file.encode(Dtype::F16)?;
    let gateways = collected.gateways();
    let entry = LineageEntry {
        made,
        version,
        parent: line.newest.map_or([0; 32], |newest| newest.entry.hash()),
        module: hash(&module),
        contributions: contributions_hash(collected.ids.iter().copied()),
        count: collected.ids.len() as u32,
        gateways: gateways.len() as u32,
        weight,
    };
    let (participants, heldout) = match made {
        Made::FromSteps => (gateways, collected.heldout()),
        Made::FromSums => (Vec::new(), None),
    };
    Ok(Draft { entry, module, patch, participants, heldout, held: collected.held })
}
