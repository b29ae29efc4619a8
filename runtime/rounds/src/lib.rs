//! Aggregation as plain state machines: no I/O, no clock, no randomness.
//!
//! | file | holds |
//! |---|---|
//! | `contribution` | a contribution's identity and the checks before and after it is decoded |
//! | `staleness` | what a step from an older version counts for |
//! | `share` | what a step counts for where gateways differ in how often they take part |
//! | `totals` | the exact weighted total of steps |
//! | `version` | parameters of the next version, from sums or from steps |
//! | `lineage` | the chain of versions, byte by byte |
//! | `round` | what a round takes and when it closes |
//!
//! Time comes in as milliseconds of a clock that only rises; where it starts does not matter.

mod contribution;
mod lineage;
mod round;
mod share;
mod staleness;
mod totals;
mod version;

pub use contribution::{ContributionId, Expected, check_manifest, check_step, norm};
pub use lineage::{ENTRY_BYTES, LineageEntry, LineageError, Made, contributions_hash};
pub use round::{Age, Decision, Mode, Open, Round, Rules, opening};
pub use share::{MAX_SPAN, Pace, Share, span};
pub use staleness::{STALENESS_BITS, staleness_weight};
pub use totals::{MAX_MAGNITUDE, StepTotals, TotalsError};
pub use version::{PatchPolicy, VersionError, from_steps, from_sums, patch_to, publishable};
