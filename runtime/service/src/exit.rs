//! Exit codes of agent and aggregator. The units do not start a program again that ended with [`CONFIGURATION`] or
//! [`INSTALLATION`]: nothing changes by trying.

/// A failure that may be gone at the next start: the disk, the system, a defect.
pub const FAILURE: u8 = 1;
/// Wrong usage, or a configuration that cannot be used.
pub const CONFIGURATION: u8 = 2;
/// Something that belongs to the installation is missing, damaged or made for another machine: a bundle, the engine.
pub const INSTALLATION: u8 = 3;
