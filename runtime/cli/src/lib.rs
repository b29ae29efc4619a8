//! The operator's command line.

pub mod demo;
pub mod feed;
