//! Bundle format and verification, segment engines, pre-processing.
