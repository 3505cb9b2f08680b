//! Where the programs are.

use std::env;
use std::path::{Path, PathBuf};

use super::Failure;
use super::side::Subject;

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) tidegate: PathBuf,
    pub(super) load: PathBuf,
    pub(super) empty: PathBuf,
    /// Whether T1 writes as tonic's own listener does.
    pub(super) vectored: bool,
    pub(super) throttlecrab: PathBuf,
    pub(super) redis: PathBuf,
}

impl Programs {
    /// As the environment says: `TIDEGATE_BIN`, and `TIDEGATE_BENCH_BIN` where another binary makes the load. Peers are in
    /// `peers`, where `benches/peers.sh` puts them, or in `PATH`.
    ///
    /// # Errors
    /// One of tidegate's own is not there.
    pub(super) fn find(peers: Option<&Path>, vectored: bool) -> Result<Self, Failure> {
        let named = |variable: &str| env::var_os(variable).map(PathBuf::from);
        // What `./test` builds is compiled otherwise, and may be of another day.
        let tidegate = named("TIDEGATE_BIN").ok_or("name the released binary in TIDEGATE_BIN")?;
        let load = named("TIDEGATE_BENCH_BIN").unwrap_or_else(|| tidegate.clone());
        let empty = env::current_exe()?.with_file_name("empty");
        for program in [&tidegate, &load, &empty] {
            if !program.exists() {
                let name = program.display();
                return Err(format!("{name} is not there: cargo build --release --workspace --bins").into());
            }
        }
        let peer = |name: &str| {
            let in_path = env::var_os("PATH").unwrap_or_default();
            let folders = peers.map(|folder| folder.join("bin")).into_iter().chain(env::split_paths(&in_path));
            let found = folders.map(|folder| folder.join(name)).find(|program| program.exists());
            found.unwrap_or_else(|| PathBuf::from(name))
        };
        let (throttlecrab, redis) = (peer("throttlecrab-server"), peer("redis-server"));
        Ok(Self { tidegate, load, empty, vectored, throttlecrab, redis })
    }

    /// What is not here, of that which this subject needs.
    pub(super) fn missing(&self, subject: Subject) -> Option<&'static str> {
        match subject {
            Subject::Tidegate { .. } | Subject::Empty => None,
            Subject::Throttlecrab => (!self.throttlecrab.exists()).then_some("throttlecrab-server"),
            Subject::Redis => (!self.redis.exists()).then_some("redis-server"),
        }
    }
}
