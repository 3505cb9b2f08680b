//! Virtual time: traces in, the very core that serves, reports and plots out.
//!
//! No async, no server, no clock: a day of traffic is a loop over arrivals.
#![forbid(unsafe_code)]

pub mod busy;
pub mod plot;
pub mod policy;
pub mod random;
pub mod report;
pub mod run;
pub mod synth;
pub mod trace;
pub mod truth;
pub mod workload;
