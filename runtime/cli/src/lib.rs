//! The operator's command line.

mod data;
pub mod demo;
pub mod evaluate;
pub mod feed;

pub use data::DataError;
