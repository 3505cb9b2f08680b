//! The servers of a block, each pinned to a core, and stopped while it is not its turn; ended by their process ids when they are
//! dropped, and by the system when this process is killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::empty::LIMIT_TPM;
use super::programs::Programs;
use super::side::{Cores, Side, Subject};
use super::{Failure, machine};

/// The core of servers.
const SERVER_CORE: &str = "0";

/// How often, and after which time each, a server is tried that does not say when it serves.
const TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

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

    /// Stops it, or lets it go on: what a server has left to do does not fall into the turn of another.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Starts a server that says where it listens.
    fn listening(mut command: Command, unix: PathBuf) -> Result<Self, Failure> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("standard output is piped")?;
        let mut server = Self { child, tcp: String::new(), unix };
        for line in BufReader::new(output).lines() {
            if let Some(rest) = line?.strip_prefix("listening limiter=") {
                let address = rest.split([',', ' ']).next().unwrap_or_default();
                server.tcp = format!("http://{address}");
                return Ok(server);
            }
        }
        Err(format!("{command:?} ended before it served").into())
    }

    /// Starts a server that takes connections on `port` sooner or later.
    fn on_port(mut command: Command, port: u16) -> Result<Self, Failure> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { child, tcp: format!("http://127.0.0.1:{port}"), unix: PathBuf::new() };
        for _ in 0..TRIES {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Err(format!("{command:?} does not serve").into())
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
pub(super) struct Servers<'a> {
    programs: &'a Programs,
    folder: TempDir,
    running: BTreeMap<Subject, Server>,
}

impl<'a> Servers<'a> {
    pub(super) fn new(programs: &'a Programs) -> Result<Self, Failure> {
        Ok(Self { programs, folder: tempfile::tempdir()?, running: BTreeMap::new() })
    }

    /// Starts the server of `side`, unless it runs.
    pub(super) fn start(&mut self, side: &Side) -> Result<(), Failure> {
        if self.running.contains_key(&side.subject) {
            return Ok(());
        }
        let server = match side.subject {
            Subject::Tidegate { threads, process } => self.tidegate(side, threads, process)?,
            Subject::Empty => self.empty(side)?,
            Subject::Throttlecrab => self.throttlecrab(side)?,
            Subject::Redis => self.redis(side)?,
        };
        server.signal(Signal::STOP)?;
        self.running.insert(side.subject, server);
        Ok(())
    }

    /// The server of a side that was started.
    pub(super) fn of(&self, side: &Side) -> Result<&Server, Failure> {
        self.running.get(&side.subject).ok_or_else(|| "the server does not run".into())
    }

    fn tidegate(&self, side: &Side, threads: u8, process: u8) -> Result<Server, Failure> {
        let name = self.folder.path().join(format!("tidegate-{threads}-{process}"));
        let (config, unix) = (name.with_extension("toml"), name.with_extension("sock"));
        fs::write(&config, settings(threads))?;
        let mut command = pinned(&self.programs.tidegate, side);
        command.arg("serve").arg("--config").arg(&config).args(["--listen", "127.0.0.1:0", "--http-listen", "off"]);
        command.args(["--admin-listen", "off", "--log-filter", "warn", "--unix-socket"]).arg(&unix);
        Server::listening(command, unix)
    }

    fn empty(&self, side: &Side) -> Result<Server, Failure> {
        let unix = self.folder.path().join("empty.sock");
        let mut command = pinned(&self.programs.empty, side);
        command.arg("--unix-socket").arg(&unix);
        if self.programs.vectored {
            command.arg("--vectored");
        }
        Server::listening(command, unix)
    }

    /// As its authors release it, with its default store; it starts as many threads as it has cores.
    fn throttlecrab(&self, side: &Side) -> Result<Server, Failure> {
        let port = free_port()?;
        let mut command = pinned(&self.programs.throttlecrab, side);
        command.args(["--grpc", "--grpc-host", "127.0.0.1", "--log-level", "error", "--grpc-port"]);
        command.arg(port.to_string());
        Server::on_port(command, port)
    }

    /// Without persistence.
    fn redis(&self, side: &Side) -> Result<Server, Failure> {
        let port = free_port()?;
        let mut command = pinned(&self.programs.redis, side);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(port.to_string());
        command.current_dir(self.folder.path());
        Server::on_port(command, port)
    }
}

/// Limits that nobody reaches, accounts that nobody configured (they take half of the keys), and room for what a second of
/// load leaves behind.
fn settings(threads: u8) -> String {
    let bounds = format!("{{ floor = {LIMIT_TPM}, ceiling = {LIMIT_TPM} }}");
    format!(
        "threads = {threads}\n\
         [bounds]\nkeys = \"4M\"\nreservations = \"16M\"\nreservations_per_key = \"16M\"\nremembered = \"16M\"\n\
         [tiers.tier-1.bounds]\nprompt = {bounds}\nuncached_prompt = {bounds}\ngenerated = {bounds}\n"
    )
}

/// A program on the servers' core, from its first instruction on: it counts cores when it starts.
fn pinned(program: &Path, side: &Side) -> Command {
    let mut command = machine::on_core(program, (side.cores == Cores::Apart).then_some(SERVER_CORE));
    command.stdin(Stdio::null());
    command
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
