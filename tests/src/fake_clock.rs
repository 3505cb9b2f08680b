//! A wall clock that tests step, under a real process: by `faketime`, which must be installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::skip;

/// The wall clock of processes that are started with its variables. Boot time is not touched.
#[derive(Debug)]
pub struct FakeClock {
    library: String,
    folder: TempDir,
}

impl FakeClock {
    /// One that is right until it is stepped. Skips, and gives `None`, where `faketime` is not installed.
    #[must_use]
    pub fn new() -> Option<Self> {
        if !skip::has_program("faketime") {
            return None;
        }
        // `faketime` sets it for its child; that is where to learn its path.
        let shown =
            Command::new("faketime").args(["-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\""]).output().ok()?;
        let path = String::from_utf8(shown.stdout).ok()?;
        let library = path.split([' ', ':']).find(|path| path.contains("faketime"))?.to_owned();
        let clock = Self { library, folder: tempfile::tempdir().expect("a temporary folder") };
        clock.step("+0");
        Some(clock)
    }

    /// Steps it: from now on it is off by so much, such as `+1h`, `-30s` or `+0`.
    ///
    /// # Panics
    /// If the file that says so cannot be written.
    pub fn step(&self, off_by: &str) {
        // In one step: whoever reads it while it is written must not see it empty.
        let written = self.folder.path().join("next");
        fs::write(&written, off_by).expect("a temporary folder can be written");
        fs::rename(written, self.offset()).expect("a temporary folder can be written");
    }

    fn offset(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The environment of a process that is to have this clock.
    ///
    /// # Panics
    /// If temporary folders have names that are no UTF-8.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset().to_str().expect("UTF-8").to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Whether this process has it.
    #[must_use]
    pub fn is_of(&self, pid: u32) -> bool {
        let name = self.library.rsplit('/').next().unwrap_or(&self.library);
        fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(name))
    }
}
