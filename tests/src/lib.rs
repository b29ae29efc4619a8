//! End-to-end test harness: real brokers, agents and aggregators on free loopback ports, each with its log kept.
//!
//! Nothing here waits for luck: every wait is for a condition, with a deadline, and a failure prints the last
//! lines of every process of its site.
//!
//! | file | holds |
//! |---|---|
//! | `process` | a child process and its log; ended by its id, never left behind |
//! | `broker`, `client` | Mosquitto, and a plain MQTT client beside the product's own |
//! | `secure` | a site with TLS, certificates and enrolment |
//! | `site` | agents and aggregators with their folders and configurations |
//! | `bundle` | a second backbone, cut from the committed one |
//! | `data` | real samples as the payloads a camera or a sensor sends |
//! | `fleet` | a site for `loadonce sim` |
//! | `fuzz` | a fuzz target for every decoder |
//! | `image` | the gateway image on an emulated arm64 machine |
//! | `line`, `badline` | a slow, lossy, far line, and a gateway behind it |
//! | `soak` | random kills over a whole fleet, and the ledger of every contribution |
//! | `crash` | the seeded kill schedule and the checks of invariants 1 and 2 |

#![expect(clippy::missing_panics_doc, reason = "a test ends by panicking, and says why")]

pub mod badline;
pub mod broker;
pub mod bundle;
pub mod client;
pub mod crash;
pub mod data;
pub mod fleet;
pub mod fuzz;
pub mod image;
pub mod line;
pub mod process;
pub mod programs;
pub mod secure;
pub mod site;
pub mod soak;
pub mod wait;
