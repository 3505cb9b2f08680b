//! The real binary as a child process: started on free ports, ended by its process id.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest that a start or an end may take. Generous: a loaded machine is not a broken server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which build of the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// As it is released: real time. `TIDEGATE_BIN`.
    Release,
    /// With the feature `test-clock`: time stands still until a call moves it. `TIDEGATE_TEST_CLOCK_BIN`.
    TestClock,
}

impl Build {
    /// Where the binary is: as the environment says, else where `./test` builds it.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let (variable, default) = match self {
            Self::Release => ("TIDEGATE_BIN", "target/ci/tidegate"),
            Self::TestClock => ("TIDEGATE_TEST_CLOCK_BIN", "target/ci/tidegate-test-clock"),
        };
        let path = std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from);
        assert!(path.exists(), "{} does not exist: run ./test, or name the binary in {variable}", path.display());
        path
    }
}

/// The workspace's folder.
///
/// # Panics
/// Never: this package is in a folder of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace")
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    build: Build,
    config: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// The released binary with its defaults, on free ports.
    #[must_use]
    pub fn release() -> Self {
        Self { build: Build::Release, config: None, arguments: Vec::new(), environment: Vec::new() }
    }

    /// The test-clock binary with its defaults, on free ports; its time is [`crate::gateway::TEST_EPOCH_SECONDS`].
    #[must_use]
    pub fn test_clock() -> Self {
        let start = crate::gateway::TEST_EPOCH_SECONDS.to_string();
        Self { build: Build::TestClock, ..Self::release() }.arguments(["--test-clock".to_owned(), start])
    }

    /// With this configuration file.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// With these flags of `serve` too.
    #[must_use]
    pub fn arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(self.build.path());
        command.arg("serve").env_remove("TIDEGATE_TRACES");
        for (flag, value) in [
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--http-listen", "127.0.0.1:0"),
            ("--drain", "5s"),
        ] {
            if !self.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, value]);
            }
        }
        if let Some(config) = &self.config {
            let path = folder.join("tidegate.toml");
            fs::write(&path, config).expect("a temporary folder can be written");
            command.arg("--config").arg(path);
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it says that it serves.
    ///
    /// # Panics
    /// If it does not; with all that it printed.
    #[must_use]
    pub fn start(self) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = self.command(folder.path()).spawn().expect("the binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let (lines, serving) = mpsc::channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as Box<_>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<_>),
        ];
        for stream in streams.into_iter().flatten() {
            let (output, lines) = (Arc::clone(&output), lines.clone());
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                    output.push_str(&line);
                    output.push('\n');
                    drop(output);
                    if line.starts_with("listening ") {
                        // Nobody listens any more once the server is known to serve.
                        drop(lines.send(line));
                    }
                }
            });
        }
        drop(lines);
        let mut server = Server { build: self.build, child, output, folder, limiter: None, admin: None, http: None };
        match serving.recv_timeout(PATIENCE) {
            Ok(line) => {
                server.limiter = listener(&line, "limiter");
                server.admin = listener(&line, "admin");
                server.http = listener(&line, "http");
                server
            }
            Err(RecvTimeoutError::Timeout) => panic!("serves not after {PATIENCE:?}:\n{}", server.output()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = server.child.wait().expect("the child was started");
                panic!("ended with {status}:\n{}", server.output())
            }
        }
    }

    /// Starts it where it must refuse: its exit code, and all that it printed.
    ///
    /// # Panics
    /// If it serves, or does not end.
    #[must_use]
    pub fn refused(self) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = self.command(folder.path()).spawn().expect("the binary starts");
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
            drop(child.kill());
            panic!("{self:?} was not refused")
        });
        let mut output = String::new();
        for stream in [
            child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read>),
        ] {
            stream.expect("it is piped").read_to_string(&mut output).expect("it prints text");
        }
        (status.code(), output)
    }
}

/// `ADDR` of `name=ADDR` in the line that `serve` prints; `None` where it is `off`.
fn listener(line: &str, name: &str) -> Option<String> {
    let words = line.split([' ', ';']);
    let address = words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name);
    address
        .map(|(_, address)| address.split(',').next().unwrap_or(address).to_owned())
        .filter(|address| address != "off")
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    #[expect(clippy::disallowed_methods, reason = "how long a real process takes to end is measured in real time")]
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("the child was started") {
            return Some(status);
        }
        #[expect(clippy::disallowed_methods, reason = "as above")]
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server that serves. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    build: Build,
    child: Child,
    output: Arc<Mutex<String>>,
    folder: TempDir,
    limiter: Option<String>,
    admin: Option<String>,
    http: Option<String>,
}

impl Server {
    /// Address of the limiter, such as `127.0.0.1:41234`.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn limiter(&self) -> &str {
        self.limiter.as_deref().expect("the limiter listens")
    }

    /// Address of the admin service.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn admin(&self) -> &str {
        self.try_admin().expect("the admin service listens")
    }

    /// Address of the admin service, if it listens.
    #[must_use]
    pub fn try_admin(&self) -> Option<&str> {
        self.admin.as_deref()
    }

    /// Which build it is.
    #[must_use]
    pub const fn build(&self) -> Build {
        self.build
    }

    /// Address of the metrics page and the probes.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn http(&self) -> &str {
        self.http.as_deref().expect("the HTTP listener listens")
    }

    /// A folder that goes away with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it printed so far, standard output and error together.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        // It may have ended by itself; then there is nobody to signal.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Waits until it has ended: its status, or `None` where it runs on for 30 s.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        wait(&mut self.child, PATIENCE)
    }

    /// Runs another command of the released binary, such as `["check", "--account", "a"]`, with this server's addresses in
    /// `TIDEGATE_TARGET` and `TIDEGATE_ADMIN_TARGET`: exit code, standard output, standard error.
    ///
    /// # Panics
    /// If the binary does not start.
    #[must_use]
    pub fn run(&self, build: Build, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(build.path());
        command.args(arguments).stdin(Stdio::null());
        for (variable, address) in [("TIDEGATE_TARGET", &self.limiter), ("TIDEGATE_ADMIN_TARGET", &self.admin)] {
            if let Some(address) = address {
                command.env(variable, format!("http://{address}"));
            }
        }
        let output = command.output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once: how it ends when it is asked to is a test of its own, and its clients cannot answer a goodbye any more,
        // because the runtime of a test that is over stands still.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::listener;

    #[test]
    fn reads_the_addresses_that_serve_prints() {
        let line = "listening limiter=127.0.0.1:7437 admin=unix:/run/a.sock http=off; try: tidegate check --account a";
        assert_eq!(listener(line, "limiter").as_deref(), Some("127.0.0.1:7437"));
        assert_eq!(listener(line, "admin").as_deref(), Some("unix:/run/a.sock"));
        assert_eq!(listener(line, "http"), None);
        let line = "listening limiter=off admin=127.0.0.1:1 http=127.0.0.1:2; try: tidegate admin tiers list";
        assert_eq!(listener(line, "limiter"), None);
        assert_eq!(listener(line, "http").as_deref(), Some("127.0.0.1:2"));
    }
}
