//! How long it takes to read many keys back, after a stop and after a kill.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate_core::state::SettleCounts;
use tidegate_server::clock::Clock;
use tidegate_store::Store;

use super::{Opened, at_once, request};

/// Each key has this many answers behind it, and one that is running.
const ANSWERS: u64 = 3;

/// Makes a directory with `keys` keys, and opens it again and again.
///
/// # Errors
/// The directory cannot be written or read.
pub fn study(keys: u64) -> Result<String, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    let opened = Opened::open(&path)?;
    for key in 0..keys {
        let account = format!("account {key}");
        for answer in 0..=ANSWERS {
            let reserved = at_once(opened.store.check_and_reserve(opened.clock.now(), &request(&account)?))??;
            if let Some(id) = reserved.reservation_id.filter(|_| answer < ANSWERS) {
                let counts = SettleCounts { generated_tokens: Some(100 + key % 300), ..SettleCounts::default() };
                at_once(opened.store.settle(opened.clock.now(), &id, counts))??;
            }
        }
    }
    // What is left to be written is in the last batch.
    let mut out = String::from("| keys | before | seconds to read | MB on disk |\n|---|---|---|---|\n");
    opened.store.stop(Duration::from_secs(120))?;
    drop(opened);
    for before in ["a stop", "a stop", "a kill", "a kill", "a kill"] {
        let clock = Clock::start();
        let began = clock.read();
        let opened = Opened::open(&path)?;
        let took = clock.seconds_since(&began);
        let stats = opened.store.stats();
        let disk = stats.disk.map_or(0, |disk| disk.disk_bytes);
        writeln!(out, "| {} | {before} | {took:.2} | {} |", stats.keys, disk / 1_000_000)?;
        // From here on, as one that is killed: nothing is left in good order.
    }
    Ok(out)
}
