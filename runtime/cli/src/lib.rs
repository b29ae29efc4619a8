//! The operator's command line.

pub mod bench;
mod data;
pub mod demo;
pub mod evaluate;
pub mod feed;
mod library;
pub mod sim;

pub use data::DataError;
