//! How long it takes to read many keys back, after a stop and after a kill.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidegate_core::state::SettleCounts;
use tidegate_server::clock::Clock;
use tidegate_store::Store;

use super::{Opened, at_once, median, request};

/// Each key has this many answers behind it, and one that is running.
const ANSWERS: u64 = 3;

/// Makes a directory with `keys` keys, and opens it again and again, each time in a new process.
///
/// # Errors
/// The directory cannot be written or read.
pub fn study(keys: u64, rounds: usize) -> Result<String, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    let opened = Opened::open(&path)?;
    for key in 0..keys {
        let account = format!("account {key}");
        for answer in 0..=ANSWERS {
            let request = request(&account)?;
            let reserved = at_once(opened.store.check_and_reserve(opened.clock.now(), &request))??;
            if let Some(id) = reserved.id_text(request.key).filter(|_| answer < ANSWERS) {
                let counts = SettleCounts { generated_tokens: Some(100 + key % 300), ..SettleCounts::default() };
                at_once(opened.store.settle(opened.clock.now(), &id, counts))??;
            }
        }
    }
    // What is left to be written is in the last batch.
    opened.store.stop(Duration::from_secs(120))?;
    drop(opened);
    let mut out = String::from("| keys | before | seconds to read | MB on disk |\n|---|---|---|---|\n");
    let mut seconds = Vec::new();
    // What reads it leaves as one that is killed does: nothing is in good order.
    for before in std::iter::once("a stop").chain(std::iter::repeat_n("a kill", rounds)) {
        let read = Command::new(std::env::current_exe()?).arg("read").arg(&path).output()?;
        if !read.status.success() {
            return Err(String::from_utf8_lossy(&read.stderr).into_owned().into());
        }
        let read = String::from_utf8(read.stdout)?;
        let mut figures = read.split_whitespace();
        let (Some(keys), Some(took), Some(disk)) = (figures.next(), figures.next(), figures.next()) else {
            return Err(format!("not figures: {read}").into());
        };
        seconds.push(took.parse()?);
        writeln!(out, "| {keys} | {before} | {took} | {disk} |")?;
    }
    writeln!(out, "\nmedian {:.2} s", median(seconds))?;
    Ok(out)
}

/// Opens the directory at `path`, and ends without closing it: keys, seconds, MB on disk.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let clock = Clock::start();
    let began = clock.read();
    let opened = Opened::open(path)?;
    let took = clock.seconds_since(&began);
    let stats = opened.store.stats();
    let disk = stats.disk.map_or(0, |disk| disk.disk_bytes);
    // Not closed: as one that is killed.
    std::mem::forget(opened);
    Ok(format!("{} {took:.2} {}", stats.keys, disk / 1_000_000))
}
