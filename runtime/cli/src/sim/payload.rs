//! What simulated gateways contribute, and what must come of it.
//!
//! A fleet draws its contributions from a pool of distinct ones, because encoding ten thousand steps would take longer
//! than the run; each still travels under its own key, sequence, weight and signature.

use loadonce_control::{StepCodec, TaskManifest};
use loadonce_delta::{
    Budget, Codec, DeltaError, Encoded, decode_step, decode_sums, encode_auto, encode_lossy, encode_step,
    encode_sums,
};
use loadonce_module::{Dtype, FileError, ModuleFile, Random, Role, Shape, Sums, SumsError};
use loadonce_rounds::{
    PatchPolicy, Share, StepTotals, TotalsError, VersionError, from_steps, from_sums, patch_to,
};
use loadonce_trust::hash;
use loadonce_wire::ContributionKind;
use std::rc::Rc;

/// Samples a simulated gateway sums.
const SAMPLES: usize = 8;
/// Spread of a simulated step's values: a step of 40,000 of them has a norm of 2.
const SPREAD: f32 = 0.01;

/// Why the right result cannot be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Sums(#[from] SumsError),
    #[error(transparent)]
    Totals(#[from] TotalsError),
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// One encoded contribution.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) kind: ContributionKind,
    pub(crate) codec: Codec,
    pub(crate) blob: Vec<u8>,
    pub(crate) raw_bytes: u32,
    pub(crate) hash: [u8; 32],
}

/// The pool's contributions of one kind, and who contributes which.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) payloads: Vec<Rc<Payload>>,
    seed: u64,
}

impl Pool {
    fn new(kind: ContributionKind, seed: u64, encoded: Vec<(Codec, Encoded)>) -> Self {
        let payloads = encoded.into_iter().map(|(codec, encoded)| {
            let hash = hash(&encoded.blob);
            let raw_bytes = encoded.raw_bytes as u32;
            Rc::new(Payload { kind, codec, blob: encoded.blob, raw_bytes, hash })
        });
        Self { payloads: payloads.collect(), seed }
    }

    /// `distinct` steps of a module with `parameters` parameters, in rows of `row` where that is known.
    pub(crate) fn steps(
        seed: u64,
        distinct: usize,
        (codec, bits): (StepCodec, f32),
        (parameters, row): (usize, usize),
    ) -> Result<Self, PayloadError> {
        let mut random = Random::new(seed);
        let mut encoded = Vec::with_capacity(distinct);
        for _ in 0..distinct {
            let mut step: Vec<f32> = (0..parameters).map(|_| SPREAD * random.normal()).collect();
            let budget = Budget { bits, seed: random.next_u64() as u32, row };
            encoded.push(encode(codec, &mut step, &budget)?);
        }
        Ok(Self::new(ContributionKind::Step, seed, encoded))
    }

    /// `distinct` sums of a few samples each.
    pub(crate) fn sums(seed: u64, distinct: usize, shape: &Shape) -> Result<Self, PayloadError> {
        let mut random = Random::new(seed);
        let mut encoded = Vec::with_capacity(distinct);
        for _ in 0..distinct {
            let mut sums = Sums::for_shape(shape)?;
            for _ in 0..SAMPLES {
                let label = random.below(shape.outputs);
                let z = (0..shape.exits * shape.features).map(|i| {
                    (3000.0 * random.normal()) as i16 + if i % shape.outputs == label { 4000 } else { 0 }
                });
                sums.add(&z.collect::<Vec<_>>(), label as u16, 1)?;
            }
            encoded.push((Codec::Sums, encode_sums(&sums.to_bytes())?));
        }
        Ok(Self::new(ContributionKind::Sum, seed, encoded))
    }

    /// What gateway `index` contributes, and its weight.
    pub(crate) fn of(&self, index: usize) -> (&Rc<Payload>, u32) {
        let mut random = Random::new(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let payload = &self.payloads[random.below(self.payloads.len())];
        let weight = match payload.kind {
            ContributionKind::Sum => SAMPLES as u32,
            ContributionKind::Step => 1 + random.below(500) as u32,
        };
        (payload, weight)
    }

    /// The position in the pool of what gateway `index` contributes.
    fn position(&self, index: usize) -> usize {
        Random::new(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).below(self.payloads.len())
    }
}

/// Encodes a step as an agent does, without what it keeps for the next one.
fn encode(codec: StepCodec, step: &mut [f32], budget: &Budget) -> Result<(Codec, Encoded), DeltaError> {
    let codec = match codec {
        StepCodec::Auto => return encode_auto(step, budget),
        StepCodec::Rotated => Codec::StepRotated,
        StepCodec::Sparse => Codec::StepSparse,
        StepCodec::F16 => return Ok((Codec::StepF16, encode_step(Codec::StepF16, step)?.encoded)),
        StepCodec::F32 => return Ok((Codec::StepF32, encode_step(Codec::StepF32, step)?.encoded)),
    };
    Ok((codec, encode_lossy(codec, step, budget)?))
}

/// A version as it must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// What makes it out of the one before, where the task wants patches.
    pub(crate) patch: Option<Vec<u8>>,
    pub(crate) file: Vec<u8>,
    pub(crate) hash: [u8; 32],
    params: Vec<f32>,
}

/// Computes what an honest aggregator must publish, from what the gateways were given to send.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) manifest: TaskManifest,
    pub(crate) shape: Shape,
    pub(crate) backbone: String,
    /// The newest version that was computed.
    pub(crate) newest: Option<Expected>,
    version: u64,
}

impl Truth {
    pub(crate) fn new(manifest: TaskManifest, shape: Shape, backbone: String) -> Self {
        Self { manifest, shape, backbone, newest: None, version: 0 }
    }

    /// The next version if each of `gateways` contributes once from `pool`.
    pub(crate) fn next(&mut self, pool: &Pool, gateways: usize) -> Result<&Expected, PayloadError> {
        let kind = pool.payloads.first().map(|payload| payload.kind);
        let (params, patch) = if let (Some(newest), Some(ContributionKind::Step)) = (&self.newest, kind) {
            self.patched(newest, from_steps(&newest.params, &self.steps(pool, gateways)?, &[])?)?
        } else {
            let sums = self.sums(pool, gateways)?;
            (from_sums(&self.shape, &sums, &self.manifest.solve_options())?, None)
        };
        self.version += 1;
        let base = self.newest.as_ref().map(|newest| loadonce_trust::encode_hex(&newest.hash));
        let file = ModuleFile {
            task: self.manifest.name.clone(),
            shape: self.shape,
            classes: self.manifest.classes.clone(),
            backbone: self.backbone.clone(),
            version: self.version,
            base: base.unwrap_or_default(),
            role: Role::Shared,
            offset: Vec::new(),
            params: params.clone(),
        }
        .encode(Dtype::F16)?;
        Ok(self.newest.insert(Expected { patch, hash: hash(&file), file, params }))
    }

    fn patched(
        &self,
        newest: &Expected,
        params: Vec<f32>,
    ) -> Result<(Vec<f32>, Option<Vec<u8>>), PayloadError> {
        let Some(bits) = self.manifest.sync.patched() else { return Ok((params, None)) };
        let policy = PatchPolicy { bits, row: self.shape.features, whole: newest.file.len() };
        Ok(match patch_to(&params, &newest.params, &newest.hash, &policy)? {
            Some(patch) => (patch.params, Some(patch.bytes)),
            None => (params, None),
        })
    }

    fn steps(&self, pool: &Pool, gateways: usize) -> Result<StepTotals, PayloadError> {
        let parameters = self.shape.parameters();
        let decoded: Result<Vec<_>, _> = pool
            .payloads
            .iter()
            .map(|payload| decode_step(payload.codec, &payload.blob, parameters))
            .collect();
        let decoded = decoded?;
        let mut totals = StepTotals::new(parameters);
        for index in 0..gateways {
            let (_, weight) = pool.of(index);
            totals.add(
                &decoded[pool.position(index)],
                weight,
                self.manifest.rounds.max_weight,
                Share::once(0),
            )?;
        }
        Ok(totals)
    }

    fn sums(&self, pool: &Pool, gateways: usize) -> Result<Sums, PayloadError> {
        let mut decoded = Vec::with_capacity(pool.payloads.len());
        for payload in &pool.payloads {
            decoded.push(Sums::from_bytes(&decode_sums(&payload.blob, payload.raw_bytes as usize)?)?);
        }
        let mut totals = Sums::for_shape(&self.shape)?;
        for index in 0..gateways {
            totals.merge(&decoded[pool.position(index)])?;
        }
        Ok(totals)
    }
}
