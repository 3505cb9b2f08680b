//! The disk is full, stalls, takes no writes, or belongs to somebody else: decisions go on, and nothing is lost silently.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_proto::v1::{Account, CreateAccountRequest, GetAccountRequest, SettleOutcome};
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::{Page, get};
use tidegate_tests::server::{Server, Setup};
use tidegate_tests::skip;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Longest that the server may take to notice something.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "a real disk is waited for in real time")]
fn now() -> Instant {
    Instant::now()
}

fn setup(data: &Path) -> Setup {
    Setup::release().arguments(["--data-dir", data.to_str().expect("UTF-8")])
}

fn degraded(server: &Server) -> bool {
    Page::scrape(server.http()).sum("tidegate_degraded", &[("part", "disk")]) > 0.0
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = now() + PATIENCE;
    while !holds() {
        assert!(now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn create(gateway: &Gateway, name: &str) -> Result<bool, Status> {
    let account = Account { name: name.into(), ..Account::default() };
    let request = CreateAccountRequest { account: Some(account), ..CreateAccountRequest::default() };
    gateway.admin().create_account(gateway.call(request)).await.map(|answer| answer.into_inner().persisted)
}

async fn exists(gateway: &Gateway, name: &str) -> bool {
    let request = GetAccountRequest { name: name.into() };
    gateway.admin().get_account(gateway.call(request)).await.is_ok()
}

fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("STORE_UNAVAILABLE"), "{status}");
    assert!(details.retry_info().is_some(), "{status}");
}

/// Decisions while the disk does what it does: the slowest of them.
async fn slowest(gateway: &Gateway, account: &str, many: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..many {
        let began = now();
        let answer = gateway.ask(&Ask::of(account).tokens(1, 1, 1)).await.expect("decided");
        assert!(answer.allowed());
        slowest = slowest.max(now() - began);
    }
    slowest
}

/// A small file system of its own, which goes with it.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None` where this user may not mount anything.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tidegate-test"]).arg(folder.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { folder });
        }
        skip::skip("a small file system can be mounted by root alone");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        // It ends when nothing more fits.
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", self.filler().display()))
            .stderr(Stdio::null())
            .status();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it is there");
    }

    fn remount(&self, how: &str) -> bool {
        let options = format!("remount,{how}");
        Command::new("mount").args(["-o", &options]).arg(self.path()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once for whoever looks, and for good when nobody uses it any longer.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[tokio::test]
async fn decisions_go_on_while_the_disk_is_full_and_nothing_of_them_is_lost() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data = disk.path().join("data");
    let server = setup(&data).start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000_000; 3]).await;
    let live = gateway.allow(&Ask::of("acme").tokens(10, 10, 10)).await.reservation_id;
    disk.fill();

    // Many keys, so that what is there already does not do.
    let (mut slow, mut number) = (Duration::ZERO, 0);
    let end = now() + PATIENCE;
    while !degraded(&server) {
        assert!(now() < end, "a full disk was not noticed: {}", server.output());
        for _ in 0..200 {
            number += 1;
            slow = slow.max(slowest(&gateway, &format!("crowd {number}"), 1).await);
        }
    }
    slow = slow.max(slowest(&gateway, "acme", 500).await);
    assert!(slow < Duration::from_secs(1), "{slow:?}");
    assert_unavailable(&create(&gateway, "refused").await.expect_err("the disk is full"));
    assert!(!exists(&gateway, "refused").await);
    assert_eq!(get(server.http(), "/readyz").0, 200);
    until("a log line says so", || server.output().contains("degraded: disk")).await;

    disk.free();
    until("it recovers by itself", || !degraded(&server)).await;
    assert_eq!(create(&gateway, "taken").await.ok(), Some(true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(server);
    let server = setup(&data).start();
    let again = gateway.reconnected(&server).await;
    assert_eq!(again.windows(&Ask::of("acme")).await.used()[0], 510, "what was admitted while it was full is there");
    let last = format!("crowd {number}");
    assert_eq!(again.windows(&Ask::of(&last)).await.used()[0], 1);
    assert_eq!(again.settle(&live, None, None, Some(3)).await.expect("answered").outcome(), SettleOutcome::Applied);
}

#[tokio::test]
async fn a_stop_with_a_full_disk_says_that_something_is_missing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut server = setup(&disk.path().join("data")).start();
    let gateway = Gateway::of(&server).await;
    disk.fill();
    let mut number = 0;
    while !degraded(&server) {
        for _ in 0..200 {
            number += 1;
            slowest(&gateway, &format!("crowd {number}"), 1).await;
        }
    }
    server.terminate();
    let status = server.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", server.output());
    assert!(server.output().contains("the last changes are not in"), "{}", server.output());
}

#[tokio::test]
async fn a_read_only_directory_is_refused_by_name() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data = disk.path().join("data");
    drop(setup(&data).start());
    assert!(disk.remount("ro"), "root may");
    for path in [data, disk.path().join("new")] {
        let (code, output) = setup(&path).refused();
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(path.to_str().expect("UTF-8")) && output.contains("Read-only"), "{output}");
    }
    assert!(disk.remount("rw"), "root may");
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_serves_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = setup(folder.path()).start();
    let gateway = Gateway::of(&server).await;
    let (code, output) = setup(folder.path()).refused();
    assert_eq!(code, Some(1));
    assert!(output.contains("in use by another process"), "{output}");
    slowest(&gateway, "acme", 10).await;
    drop(server);
    drop(setup(folder.path()).start());
}

#[test]
fn other_directories_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let newer = folder.path().join("newer");
    fs::create_dir(&newer).expect("writable");
    fs::write(newer.join("FORMAT"), "tidegate data directory, format 9\n").expect("writable");
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).expect("writable");
    fs::write(foreign.join("thesis.tex"), "years of work").expect("writable");
    let file = foreign.join("thesis.tex");
    for (path, word) in [(&newer, "format 9"), (&foreign, "not a data directory"), (&file, "thesis.tex")] {
        let (code, output) = setup(path).refused();
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(word), "{output}");
    }
    assert_eq!(fs::read_dir(&newer).expect("readable").count(), 1);
    assert_eq!(fs::read_dir(&foreign).expect("readable").count(), 1);
    assert_eq!(fs::read_to_string(&file).expect("readable"), "years of work");
}

#[tokio::test]
async fn an_admin_write_holds_against_an_older_file_and_the_difference_is_logged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = "[accounts.acme]\ntier = \"tier-2\"\n";
    let server = setup(folder.path()).config(file).start();
    let gateway = Gateway::of(&server).await;
    let (code, ..) = server.run(server.build(), &["admin", "accounts", "update", "acme", "--tier", "tier-4"]);
    assert_eq!(code, Some(0));
    assert_eq!(create(&gateway, "other").await.ok(), Some(true));
    drop(server);
    let server = setup(folder.path()).config(file).start();
    let (_, accounts, _) = server.run(server.build(), &["admin", "accounts", "list"]);
    assert!(accounts.contains("tier-4") && accounts.contains("other"), "{accounts}");
    let output = server.output();
    let warnings = |name: &str| output.lines().filter(|line| line.contains("WARN") && line.contains(name)).count();
    assert_eq!((warnings("account/acme"), warnings("account/other"), warnings("policy: ")), (1, 1, 2), "{output}");
}

/// `strace` on a process, which makes each sync take so long.
struct Stall(Child);

impl Stall {
    fn begin(server: &Server, micros: u64) -> Option<Self> {
        if !skip::has_program("strace") {
            return None;
        }
        let inject = format!("inject=fsync,fdatasync:delay_enter={micros}");
        let pid = server.pid().to_string();
        let child = Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject, "-p", &pid])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        Some(Self(child))
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // So that it lets go of the process first.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_stalled_disk_stalls_no_decision() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = setup(folder.path()).start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000_000; 3]).await;
    slowest(&gateway, "acme", 200).await;
    let Some(stall) = Stall::begin(&server, 8_000_000) else { return };
    let end = now() + PATIENCE;
    let mut took = Vec::new();
    while !degraded(&server) {
        assert!(now() < end, "a stalled disk was not noticed: {}", server.output());
        for _ in 0..50 {
            took.push(slowest(&gateway, "acme", 1).await);
        }
    }
    for _ in 0..1_000 {
        took.push(slowest(&gateway, "acme", 1).await);
    }
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    println!("{} decisions while syncs take 8 s: p99 {p99:?}, slowest {:?}", took.len(), took[took.len() - 1]);
    assert!(p99 < Duration::from_millis(100), "{p99:?}");
    assert_eq!(get(server.http(), "/readyz").0, 200);
    let began = now();
    let written = create(&gateway, "slow").await;
    assert!(now() - began < Duration::from_secs(12), "an operator is not kept waiting: {:?}", now() - began);
    if let Err(status) = &written {
        assert_unavailable(status);
    }
    drop(stall);
    until("it recovers by itself", || !degraded(&server)).await;
    until("a log line says so", || server.output().contains("no longer degraded: disk")).await;
    if written.is_ok() {
        drop(server);
        let server = setup(folder.path()).start();
        let (_, accounts, _) = server.run(server.build(), &["admin", "accounts", "list"]);
        assert!(accounts.contains("slow"), "{accounts}");
    }
}
