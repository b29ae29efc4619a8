//! The operator's command line.

pub mod bench;
pub mod bench_rounds;
mod data;
pub mod demo;
pub mod evaluate;
pub mod feed;
mod library;

pub use data::DataError;
