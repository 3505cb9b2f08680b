//! What tidegate's end-to-end tests share: the ledgers, the real binary as a child process, a client, the metrics page;
//! real servers of the shared store, and a network that fails on demand.
//!
//! The tests themselves are in `tests/tests`, one file per kind of promise.

// Whatever goes wrong in here is a failed test: it panics, with what it saw.
#![allow(clippy::panic, clippy::unwrap_used)]

pub mod bare;
pub mod crowd;
pub mod fake_clock;
pub mod fault_proxy;
pub mod fleet;
pub mod gateway;
pub mod ledger;
pub mod log;
pub mod page;
pub mod patience;
pub mod port;
pub mod redis;
pub mod server;
pub mod skip;
pub mod truth;
