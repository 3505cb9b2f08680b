//! Real Redis and Valkey servers as child processes: on free ports of loopback, each with a folder of its own, ended by
//! their process ids.
//!
//! Everything here blocks its thread, at most for [`PATIENCE`](crate::patience::PATIENCE) per call, and panics with what the
//! server printed. Commands go straight to a server, each on a connection of its own, so that they work whatever a test does
//! to the connections of its subject.

mod cluster;
mod kind;
mod sentinel;
mod tls;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice;
use std::time::Duration;

use redis::{Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use self::cluster::Cluster;
pub use self::kind::Kind;
pub use self::sentinel::Sentinels;
pub use self::tls::Authority;
use self::tls::Certificate;
use crate::patience::until;
use crate::port::Port;

/// Longest that one command may take, connecting included.
const ANSWER: Duration = Duration::from_secs(5);

/// What a server keeps its settings in, and what it printed; both in its folder.
const SETTINGS: &str = "server.conf";
const OUTPUT: &str = "output";

/// Whether a restarted server finds the keys that it had written to its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It finds them: all that it had acknowledged, with [`Setup::appendonly`]; else those of its last snapshot, if any.
    Kept,
    /// It starts empty. What it is configured for, its place in a cluster and its role stay.
    Lost,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    password: Option<String>,
    directives: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    /// It takes connections over TLS alone.
    certificate: Option<Certificate>,
    /// It watches over others instead of keeping keys.
    sentinel: bool,
    /// It has a second port, for the bus of its cluster.
    bus: bool,
}

impl Setup {
    /// A single server of this kind that writes nothing to disk. Skips, and gives `None`, where it is not installed.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        let setup = Self {
            program: kind.program()?,
            password: None,
            directives: Vec::new(),
            environment: Vec::new(),
            certificate: None,
            sentinel: false,
            bus: false,
        };
        // A replica that asks for a copy gets it at once; by default it waits 5 s for others to join.
        Some(setup.directive("save", "\"\"").directive("repl-diskless-sync-delay", "0"))
    }

    /// With a password, of the default user; letters and digits only.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.directive("requirepass", password).directive("masterauth", password)
    }

    /// Every write is on disk before it is acknowledged: none is lost to a kill.
    #[must_use]
    pub fn appendonly(self) -> Self {
        self.directive("appendonly", "yes").directive("appendfsync", "always")
    }

    /// With this line of its settings too, such as `maxmemory` and `2mb`; the value as the file has it, quotes included.
    #[must_use]
    pub fn directive(mut self, name: &str, value: &str) -> Self {
        self.directives.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn environment(mut self, (name, value): (&str, &str)) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes connections over TLS alone, those of its cluster, of its replicas and of Sentinels too, with a certificate of `host`: a
    /// name or an address of loopback. Of all kinds only [`Kind::Redis7`] can: the wheels are built without.
    #[must_use]
    pub fn tls(mut self, authority: &Authority, host: &str) -> Self {
        self.certificate = Some(authority.certificate(host));
        self
    }

    /// As a replica of `master`, which must have the same password.
    #[must_use]
    pub fn replica_of(self, master: &Server) -> Self {
        self.directive("replicaof", &format!("127.0.0.1 {}", master.port.number()))
    }

    /// Starts it and waits until it answers. A replica may not have its copy by then: [`Server::wait_for_copy`].
    ///
    /// # Panics
    /// If it does not; with all that it printed.
    #[must_use]
    pub fn start(self) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (port, bus) = (Port::free(), self.bus.then(Port::free));
        let mut settings = format!("bind 127.0.0.1\ndir \"{}\"\n", folder.path().display());
        settings.push_str(&match &self.certificate {
            Some(certificate) => certificate.settings(port.number()),
            None => format!("port {}\n", port.number()),
        });
        if let Some(bus) = &bus {
            settings.push_str(&format!("cluster-port {}\n", bus.number()));
        }
        for (name, value) in &self.directives {
            settings.push_str(&format!("{name} {value}\n"));
        }
        fs::write(folder.path().join(SETTINGS), settings).expect("a temporary folder can be written");
        let child = spawn(&self.program, folder.path(), self.sentinel, &self.environment);
        let mut server = Server {
            program: self.program,
            password: self.password,
            environment: self.environment,
            certificate: self.certificate,
            sentinel: self.sentinel,
            port,
            bus,
            folder,
            child,
        };
        server.wait_until_it_answers();
        server
    }
}

fn spawn(program: &Path, folder: &Path, sentinel: bool, environment: &[(String, String)]) -> Child {
    let output =
        File::options().create(true).append(true).open(folder.join(OUTPUT)).expect("the folder can be written");
    let mut command = Command::new(program);
    // By a file, not by flags: Sentinel makes its servers remember their new roles there.
    command.arg(folder.join(SETTINGS)).args(sentinel.then_some("--sentinel"));
    command.stdin(Stdio::null()).stderr(output.try_clone().expect("an open file")).stdout(output);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()))
}

/// A server that runs, or was killed and can be restarted. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    password: Option<String>,
    environment: Vec<(String, String)>,
    certificate: Option<Certificate>,
    sentinel: bool,
    port: Port,
    bus: Option<Port>,
    folder: TempDir,
    child: Child,
}

impl Server {
    /// Its address, such as `127.0.0.1:41234`; the same after every restart.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Its address as a URL, with its password: `redis://:secret@127.0.0.1:41234`; behind TLS with the host of its certificate,
    /// `rediss://localhost:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        url("", slice::from_ref(self), self.password.as_deref())
    }

    fn host(&self) -> &str {
        self.certificate.as_ref().map_or("127.0.0.1", |certificate| &certificate.host)
    }

    /// The process id; another one after a restart.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder that goes away with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that it printed so far, restarts included.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(OUTPUT)).unwrap_or_default()).into_owned()
    }

    /// Sends one command, such as `["SET", "key", "1"]`, and reads the answer as a `T`; 5 s at most.
    ///
    /// # Errors
    /// The server's own, a connection's that broke or took too long, or that the answer is no `T`.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.client()?.get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.set_write_timeout(Some(ANSWER))?;
        let mut command = Cmd::new();
        command.arg(words);
        command.query(&mut connection)
    }

    fn client(&self) -> RedisResult<Client> {
        let mut user = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &self.password {
            user = user.set_password(password);
        }
        let (host, port) = (self.host().to_owned(), self.port.number());
        let address = match &self.certificate {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let info = address.into_connection_info()?.set_redis_settings(user);
        match &self.certificate {
            Some(certificate) => certificate.client(info),
            None => Client::open(info),
        }
    }

    /// As [`Self::try_ask`], where nothing may go wrong.
    ///
    /// # Panics
    /// If something does; with all that the server printed.
    #[must_use]
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}:\n{}", self.output()))
    }

    /// Sends one command that must succeed, such as `["SET", "key", "1"]`, whatever it answers.
    ///
    /// # Panics
    /// If it does not; with all that the server printed.
    pub fn tell(&self, words: &[&str]) {
        self.ask(words)
    }

    /// A field of `INFO`, such as `connected_slaves`; empty where there is none of that name.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn info(&self, field: &str) -> String {
        field_of(&self.ask::<String>(&["INFO", "everything"]), field)
    }

    /// Its version, such as `7.0.15`: Valkey's own, not that of the Redis with which it says it is compatible.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn version(&self) -> String {
        let valkey = self.info("valkey_version");
        if valkey.is_empty() { self.info("redis_version") } else { valkey }
    }

    /// What it calls this life of it; another one after a restart.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn run_id(&self) -> String {
        self.info("run_id")
    }

    /// Kills it (SIGKILL), running or paused, and waits until it is gone. Its port refuses connections then.
    ///
    /// # Panics
    /// Never: it is our child.
    pub fn kill(&mut self) {
        // It may be dead already; then there is nobody to kill.
        let _ = self.child.kill();
        self.child.wait().expect("it was started");
    }

    /// Kills it if it runs, starts it on the same port and waits until it answers.
    ///
    /// # Panics
    /// If it does not; with all that it printed.
    pub fn restart(&mut self, keys: Keys) {
        self.kill();
        if keys == Keys::Lost {
            let folder = self.folder.path();
            for gone in [fs::remove_file(folder.join("dump.rdb")), fs::remove_dir_all(folder.join("appendonlydir"))] {
                if let Err(error) = gone {
                    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
                }
            }
        }
        self.child = spawn(&self.program, self.folder.path(), self.sentinel, &self.environment);
        self.wait_until_it_answers();
    }

    /// Makes it stand still (SIGSTOP), and waits until it does: connections are still accepted, nothing is answered.
    ///
    /// # Panics
    /// If it has ended.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        until("a paused server stands still", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).map_err(|error| error.to_string())?;
            // The state is the word after the name, which is in brackets.
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state == Some('T') { Ok(()) } else { Err(format!("it is in state {state:?}")) }
        });
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Panics
    /// If it has ended.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        // Once it was waited for, its id may be somebody else's.
        let ended = self.child.try_wait().expect("it was started");
        assert!(ended.is_none(), "{} has ended ({ended:?}):\n{}", self.address(), self.output());
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    /// Asks for this password from now on, none where it is empty, and breaks all connections; until it is restarted.
    ///
    /// # Panics
    /// If it refuses.
    pub fn change_password(&mut self, password: &str) {
        self.tell(&["CONFIG", "SET", "requirepass", password]);
        self.password = (!password.is_empty()).then(|| password.to_owned());
        self.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// Removes all its keys.
    ///
    /// # Panics
    /// If it refuses.
    pub fn flush(&self) {
        self.tell(&["FLUSHALL", "SYNC"]);
    }

    /// Makes a replica a master of its own, with the keys that it has.
    ///
    /// # Panics
    /// If it refuses.
    pub fn promote(&self) {
        self.tell(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Makes it a replica of `master`: it drops its keys for a copy of the master's ([`Self::wait_for_copy`]).
    ///
    /// # Panics
    /// If it refuses.
    pub fn follow(&self, master: &Self) {
        self.tell(&["REPLICAOF", "127.0.0.1", &master.port.number().to_string()]);
    }

    /// Waits until a replica has its copy and hears of every further write.
    ///
    /// # Panics
    /// If it is no replica, or its master is away.
    pub fn wait_for_copy(&self) {
        until("a replica has its copy", || {
            let info: String = self.try_ask(&["INFO", "replication"]).map_err(|error| error.to_string())?;
            if field_of(&info, "master_link_status") == "up" { Ok(()) } else { Err(info) }
        });
    }

    fn wait_until_it_answers(&mut self) {
        until("a server answers", || {
            if let Some(status) = self.child.try_wait().expect("it was started") {
                panic!("{} ended with {status}:\n{}", self.program.display(), self.output());
            }
            let answer: RedisResult<String> =
                self.try_ask(&["PING"]).and_then(|_: String| self.try_ask(&["INFO", "server"]));
            let info = answer.map_err(|error| format!("{error}:\n{}", self.output()))?;
            // Nobody else can have the port; if somebody has, no test should believe its answers.
            assert_eq!(
                field_of(&info, "process_id"),
                self.pid().to_string(),
                "another server is on {}",
                self.address()
            );
            Ok(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever state it is in: its clients are tests that are over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The URL of these servers, which are a `kind` such as `+cluster`; the password is of who is asked in the end.
fn url(kind: &str, servers: &[Server], password: Option<&str>) -> String {
    let tls = if servers.iter().all(|server| server.certificate.is_some()) { "s" } else { "" };
    let user = password.map(|password| format!(":{password}@")).unwrap_or_default();
    let hosts: Vec<_> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port.number())).collect();
    format!("redis{tls}{kind}://{user}{}", hosts.join(","))
}

/// The value of `field:value` in the lines of an `INFO`; empty where there is none.
fn field_of(info: &str, field: &str) -> String {
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(name, _)| *name == field).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
