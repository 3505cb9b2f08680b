//! Distinct keys a second at which what is on disk is more than a second late.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate_store::Store;

use super::{Opened, at_once, request};

const KEYS: u64 = 1_000_000;
const RATES: [u64; 7] = [5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 120_000];

/// Changes ever more keys a second, each once in a long while, and looks how late the disk is.
///
/// # Errors
/// The directory cannot be written.
pub fn study(seconds: u64) -> Result<String, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let opened = Opened::open(&folder.path().join("data"))?;
    let mut out = String::from(
        "| distinct keys/s | at most late, s | longest batch, ms | MB/s written | MB on disk |\n|---|---|---|---|---|\n",
    );
    let mut key = 0_u64;
    for rate in RATES {
        let began = opened.clock.now();
        let before = opened.store.stats().disk.unwrap_or_default();
        let (mut done, mut late, mut batch) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            let ran = opened.clock.now().since(began);
            if ran >= Duration::from_secs(seconds) {
                break;
            }
            let due = rate * u64::try_from(ran.as_millis()).unwrap_or(u64::MAX) / 1_000;
            while done < due {
                // Far apart, and none again before all others.
                key = (key + 618_033) % KEYS;
                let account = format!("account {key}");
                at_once(opened.store.check_and_reserve(opened.clock.now(), &request(&account)?))??;
                done += 1;
            }
            // The first seconds are those of the rate before.
            if ran > Duration::from_secs(3) {
                let disk = opened.store.stats().disk.unwrap_or_default();
                (late, batch) = (late.max(disk.late), batch.max(disk.last_batch));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let disk = opened.store.stats().disk.unwrap_or_default();
        let written = (disk.bytes_written - before.bytes_written) / seconds / 100_000;
        writeln!(
            out,
            "| {rate} | {:.2} | {} | {}.{} | {} |",
            late.as_secs_f64(),
            batch.as_millis(),
            written / 10,
            written % 10,
            disk.disk_bytes / 1_000_000
        )?;
    }
    Ok(out)
}
