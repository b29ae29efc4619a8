//! The aggregator beside the broker.
