//! End-to-end test harness: starts real brokers, agents and aggregators on free loopback ports.
