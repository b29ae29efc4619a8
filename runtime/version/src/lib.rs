//! What the programs say of themselves.

/// The version alone.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit: twelve digits, with `+dirty` behind them where files had been changed; `unknown` where neither git nor
/// the builder told it.
pub const REVISION: &str = env!("LOADONCE_REVISION");

/// Both, for `--version`.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LOADONCE_REVISION"), ")");
