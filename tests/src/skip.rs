//! Tests that cannot run here say so: one line each, counted by `./test` at the end.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// Prints `skipped: REASON` and notes it in the file that `TIDEGATE_SKIPS` names. The caller returns.
///
/// # Panics
/// With `TIDEGATE_TEST_STRICT=1`, unless it is the real traces that are missing.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
    if let Some(path) = std::env::var_os("TIDEGATE_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // In one write: tests that skip at the same time must not mix their lines.
        let line = format!("skipped: {reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skips can be written");
    }
    let strict = std::env::var("TIDEGATE_TEST_STRICT").is_ok_and(|value| value == "1");
    assert!(!strict || reason == NO_TRACES, "TIDEGATE_TEST_STRICT: {reason}");
}

/// Why the tests that replay real traces are skipped.
const NO_TRACES: &str = "TIDEGATE_TRACES is not set";

/// The real traces, `*.csv.gz` in the folder that `TIDEGATE_TRACES` names; skips and gives `None` where it is not set.
///
/// # Panics
/// If the folder cannot be read or has no trace: a wrong path is not a missing one.
#[must_use]
pub fn traces() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("TIDEGATE_TRACES").filter(|folder| !folder.is_empty()) else {
        skip(NO_TRACES);
        return None;
    };
    let folder = PathBuf::from(folder);
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("TIDEGATE_TRACES {}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("TIDEGATE_TRACES is readable").path());
    let mut traces: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".csv.gz")).collect();
    traces.sort();
    assert!(!traces.is_empty(), "no *.csv.gz in TIDEGATE_TRACES {}", folder.display());
    Some(traces)
}

/// Whether `program` can be run; skips where it cannot.
#[must_use]
pub fn has_program(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// The Python with the gRPC packages of `tests/python/requirements.txt`; skips where `TIDEGATE_PYTHON` does not name one.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("TIDEGATE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        skip("TIDEGATE_PYTHON is not set (./test sets it)");
    }
    python
}
