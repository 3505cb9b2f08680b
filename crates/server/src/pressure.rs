//! Pressure that tidegate fetches itself, beside what reporters say with `ReportPressure`: it ends in the same call of the store.
//!
//! `scrape` is the life of a target, `exposition` reads its page, `gauges` says what the numbers mean. `watch` logs what
//! becomes of deployments, whoever reports on them.

mod exposition;
mod gauges;
pub(crate) mod scrape;
pub(crate) mod watch;
