//! The wall clock is stepped by an hour while serving, and by hours across a restart: no window empties early, no limit freezes
//! (contract C15).

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::server::Setup;
use tidegate_tests::skip;

/// The library that `faketime` preloads.
fn preload() -> Option<String> {
    if !skip::has_program("faketime") {
        return None;
    }
    // `faketime` sets it for its child; that is where to learn its path.
    let shown = Command::new("faketime").args(["-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\""]).output().ok()?;
    let path = String::from_utf8(shown.stdout).ok()?;
    let path = path.split([' ', ':']).find(|path| path.contains("faketime"))?.to_owned();
    Some(path)
}

/// The released binary, with its wall clock off by what is in the file `offset`.
fn faked(preload: &str, offset: &Path) -> Setup {
    Setup::release()
        .environment("LD_PRELOAD", preload)
        .environment("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("UTF-8"))
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

#[tokio::test]
async fn a_step_of_the_wall_clock_changes_nothing() {
    let Some(preload) = preload() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let offset = folder.path().join("offset");
    let step = |to: &str| fs::write(&offset, to).expect("writable");
    step("+0");
    let server = faked(&preload, &offset).start();
    assert!(is_preloaded(server.pid(), &preload), "the server runs under faketime");
    let gateway = Gateway::of(&server).await;
    for (account, offset) in [("forth", "+1h"), ("back", "-1h"), ("home", "+0")] {
        gateway.fix(account, [100; 3]).await;
        let ask = Ask::of(account).tokens(60, 60, 0);
        gateway.allow(&ask).await;
        let before = gateway.windows(&ask).await;
        step(offset);
        tokio::time::sleep(Duration::from_millis(50)).await;

        let denied = gateway.deny(&ask).await;
        let wait = denied.wait().expect("a full window says how long to wait");
        assert!((50..=60).contains(&wait.as_secs()), "the window has not emptied, nor will it take an hour: {wait:?}");
        let after = gateway.windows(&ask).await;
        assert_eq!(after.used(), before.used());
        assert_eq!(after.limits(), before.limits());
        gateway.allow(&Ask::of(account).tokens(40, 40, 0)).await;
    }
    // And the first one's charges leave in their minute, whatever the wall clock says.
    let ask = Ask::of("forth").tokens(60, 60, 0);
    let wait = gateway.deny(&ask).await.wait().expect("a full window says how long to wait");
    step("-1h");
    tokio::time::sleep(wait).await;
    gateway.allow(&ask).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_wall_clock_that_jumps_across_a_restart_expires_nothing_early() {
    let Some(preload) = preload() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let offset = folder.path().join("offset");
    let data = folder.path().join("data").display().to_string();
    let start = |wall_clock: &str| {
        fs::write(&offset, wall_clock).expect("writable");
        faked(&preload, &offset).arguments(["--data-dir".to_owned(), data.clone()]).start()
    };
    let ask = Ask::of("acme").tokens(60, 60, 0);

    let mut server = start("+0");
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100; 3]).await;
    gateway.allow(&ask).await;
    let before = gateway.windows(&ask).await;
    server.terminate();
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0));

    // Five hours back: the window is as full as it was, and empties within a minute, not in five hours.
    let mut server = start("-5h");
    assert!(is_preloaded(server.pid(), &preload), "the server runs under faketime");
    assert!(server.output().contains("behind"), "{}", server.output());
    let gateway = Gateway::of(&server).await;
    let after = gateway.windows(&ask).await;
    assert_eq!((after.used(), after.limits()), (before.used(), before.limits()));
    let wait = gateway.deny(&ask).await.wait().expect("a full window says how long to wait");
    assert!(wait.as_secs() <= 60, "{wait:?}");
    server.terminate();
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0));

    // A week ahead: all has aged, the limits that an operator wrote are there.
    let server = start("+7d");
    let gateway = Gateway::of(&server).await;
    let after = gateway.windows(&ask).await;
    assert_eq!((after.used(), after.limits()), ([0; 3], before.limits()));
    gateway.allow(&ask).await;
    gateway.deny(&ask).await;
    gateway.allow(&Ask::of("acme").tokens(40, 40, 0)).await;
}

#[tokio::test]
async fn the_released_binary_has_no_clock_that_callers_move() {
    let (exit, output) = Setup::release().arguments(["--test-clock"]).refused();
    assert_eq!(exit, Some(2), "{output}");
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100; 3]).await;
    let ask = Ask::of("acme").tokens(100, 100, 0);
    gateway.allow(&ask).await;
    let mut request = gateway.call(ask.request.clone());
    request.metadata_mut().insert("tidegate-test-now-us", u64::from(u32::MAX).saturating_mul(1_000_000).into());
    let answer = gateway.raw().check_and_reserve(request).await.expect("decided").into_inner();
    assert!(!answer.allowed(), "a caller moved the clock: {answer:?}");
}

fn is_preloaded(pid: u32, library: &str) -> bool {
    let name = Path::new(library).file_name().and_then(|name| name.to_str()).unwrap_or(library);
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(name))
}
