//! The operator's command line.

pub mod demo;
