//! What one report costs a server, by how many sidecars use its key: each reads what all of them have.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate_tests::redis::Kind;

use super::reports::{Reporter, Shape, key};
use super::{Done, Failure, micros, server};
use crate::stopwatch::Stopwatch;

/// Sidecars that have a share of the key.
const SIDECARS: &[u64] = &[1, 4, 16, 64, 256, 1_000];
/// Reports that are sent at once.
const AT_ONCE: usize = 8;
/// Longest for each row.
const LONGEST: Duration = Duration::from_millis(1_500);

/// What reports say, and what to call it.
const SHAPES: &[(&str, Shape)] = &[
    ("1 second leaves, leases run", Shape { seconds: 1, ttl_ms: 60_000, least: 0 }),
    ("60 seconds leave, leases run", Shape { seconds: 60, ttl_ms: 60_000, least: 0 }),
    ("60 seconds leave, leases run, requests wait", Shape { seconds: 60, ttl_ms: 60_000, least: 300 }),
    ("60 seconds leave, leases are over", Shape { seconds: 60, ttl_ms: 0, least: 0 }),
];

/// Measures each row.
///
/// # Errors
/// A server does not answer.
pub fn study(most: usize) -> Result<String, Failure> {
    let mut out = String::from(
        "| server | each sidecar's windows | sidecars of the key | us of the script | us of the server's processor | bytes to it | from \
         it | key, bytes | of these for each sidecar |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for kind in [Kind::Redis7, Kind::Valkey9] {
        let store = server(kind)?.start();
        let mut reporter = Reporter::new(&store)?;
        reporter.give_life(0..64)?;
        for (number, (name, shape)) in SHAPES.iter().enumerate() {
            let key = key(number)?;
            reporter.give_law(&key)?;
            let empty = reporter.memory_of(&key)?;
            let mut there = 0;
            for sidecars in SIDECARS {
                for sidecar in there..*sidecars {
                    reporter.report(*shape, [(&key, sidecar)])?;
                }
                there = *sidecars;
                let memory = reporter.memory_of(&key)?;
                let before = Done::by(&store)?;
                let (watch, mut reports) = (Stopwatch::start(), 0);
                while reports < most && watch.elapsed() < LONGEST {
                    let of = (reports..reports + AT_ONCE).map(|turn| (&key, turn as u64 % there));
                    reporter.report(*shape, of)?;
                    reports += AT_ONCE;
                }
                let after = Done::by(&store)?;
                let (calls, took) = after.since(&before, "evalsha");
                #[expect(clippy::cast_precision_loss, reason = "figures for people")]
                let of_each = (memory - empty) / there as f64;
                writeln!(
                    out,
                    "| {} {} | {name} | {sidecars} | {:.1} | {:.1} | {:.0} | {:.0} | {memory:.0} | {of_each:.0} |",
                    kind.name(),
                    store.version(),
                    took / calls,
                    micros(after.processor_time_since(&before)) / calls,
                    (after.bytes.0 - before.bytes.0) / calls,
                    (after.bytes.1 - before.bytes.1) / calls,
                )?;
            }
        }
    }
    Ok(out)
}
