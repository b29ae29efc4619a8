//! Rounds, contributions, lineage: sans-IO aggregation.
