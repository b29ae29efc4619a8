//! The operator's command line.

pub mod bench;
pub mod bench_rounds;
pub mod codec;
mod data;
pub mod demo;
pub mod enrol;
pub mod evaluate;
pub mod feed;
mod library;
pub mod sim;

pub use data::DataError;
