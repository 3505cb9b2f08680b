//! The servers of a block, each pinned to a core; ended by their process ids when they are dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::empty::LIMIT_TPM;
use super::side::{Cores, Side, Subject};
use super::{Failure, machine};

/// The core of servers.
const SERVER_CORE: &str = "0";
/// The core of the load.
pub(super) const LOAD_CORE: &str = "1";

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) tidegate: PathBuf,
    pub(super) load: PathBuf,
    pub(super) empty: PathBuf,
}

impl Programs {
    /// As the environment says: `TIDEGATE_BIN`, and `TIDEGATE_BENCH_BIN` where another binary makes the load.
    pub(super) fn find() -> Result<Self, Failure> {
        let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        // What `./test` builds is compiled otherwise, and may be of another day.
        let tidegate = named("TIDEGATE_BIN").ok_or("name the released binary in TIDEGATE_BIN")?;
        let load = named("TIDEGATE_BENCH_BIN").unwrap_or_else(|| tidegate.clone());
        let empty = std::env::current_exe()?.with_file_name("empty");
        for program in [&tidegate, &load, &empty] {
            if !program.exists() {
                let name = program.display();
                return Err(format!("{name} is not there: cargo build --release --workspace --bins").into());
            }
        }
        Ok(Self { tidegate, load, empty })
    }
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// The URL of its TCP listener.
    tcp: String,
    unix: PathBuf,
}

impl Server {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where a side finds it.
    pub(super) fn target(&self, side: &Side) -> String {
        if side.unix { format!("unix:{}", self.unix.display()) } else { self.tcp.clone() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Those that run.
#[derive(Debug)]
pub(super) struct Servers {
    programs: Programs,
    folder: TempDir,
    running: BTreeMap<Subject, Server>,
}

impl Servers {
    pub(super) fn new(programs: Programs) -> Result<Self, Failure> {
        Ok(Self { programs, folder: tempfile::tempdir()?, running: BTreeMap::new() })
    }

    /// Why this server cannot be had here, if it cannot.
    pub(super) fn missing(&self, subject: Subject) -> Option<&'static str> {
        match subject {
            Subject::Tidegate { .. } | Subject::Empty => None,
            Subject::Throttlecrab => Some("no throttlecrab"),
            Subject::Redis => Some("no redis-server"),
        }
    }

    /// Starts the server of `side`, unless it runs.
    pub(super) fn start(&mut self, side: &Side) -> Result<(), Failure> {
        if self.running.contains_key(&side.subject) {
            return Ok(());
        }
        let server = match side.subject {
            Subject::Tidegate { threads, process } => self.tidegate(threads, process)?,
            Subject::Empty => self.empty()?,
            Subject::Throttlecrab | Subject::Redis => return Err("not here".into()),
        };
        if side.cores == Cores::Apart && machine::cores() > 1 {
            pin(server.pid())?;
        }
        self.running.insert(side.subject, server);
        Ok(())
    }

    /// The server of a side that was started.
    pub(super) fn of(&self, side: &Side) -> Result<&Server, Failure> {
        self.running.get(&side.subject).ok_or_else(|| "the server does not run".into())
    }

    fn tidegate(&self, threads: u8, process: u8) -> Result<Server, Failure> {
        let (folder, name) = (self.folder.path(), format!("tidegate-{threads}-{process}"));
        let (config, unix) = (folder.join(&name).with_extension("toml"), folder.join(&name).with_extension("sock"));
        fs::write(&config, settings(threads))?;
        let mut command = Command::new(&self.programs.tidegate);
        command.arg("serve").arg("--config").arg(&config).args(["--listen", "127.0.0.1:0", "--http-listen", "off"]);
        command.args(["--admin-listen", "off", "--log-filter", "warn", "--unix-socket"]).arg(&unix);
        listening(command, unix)
    }

    fn empty(&self) -> Result<Server, Failure> {
        let unix = self.folder.path().join("empty.sock");
        let mut command = Command::new(&self.programs.empty);
        command.arg("--unix-socket").arg(&unix);
        listening(command, unix)
    }
}

/// Limits that nobody reaches, accounts that nobody configured (they take half of the keys), and room for what a second of
/// load leaves behind.
fn settings(threads: u8) -> String {
    let bounds = format!("{{ floor = {LIMIT_TPM}, ceiling = {LIMIT_TPM} }}");
    format!(
        "threads = {threads}\n\
         [bounds]\nkeys = \"4M\"\nreservations = \"16M\"\nreservations_per_key = \"16M\"\n\
         [tiers.tier-1.bounds]\nprompt = {bounds}\nuncached_prompt = {bounds}\ngenerated = {bounds}\n"
    )
}

/// Starts a server that says where it listens.
fn listening(mut command: Command, unix: PathBuf) -> Result<Server, Failure> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("standard output is piped")?;
    let mut server = Server { child, tcp: String::new(), unix };
    for line in BufReader::new(output).lines() {
        if let Some(rest) = line?.strip_prefix("listening limiter=") {
            let address = rest.split([',', ' ']).next().unwrap_or_default();
            server.tcp = format!("http://{address}");
            return Ok(server);
        }
    }
    Err(format!("{} ended before it served", Path::new(command.get_program()).display()).into())
}

fn pin(pid: u32) -> Result<(), Failure> {
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", SERVER_CORE, &pid.to_string()])
        .stdout(Stdio::null())
        .status()?;
    if pinned.success() { Ok(()) } else { Err("taskset cannot pin the server".into()) }
}
