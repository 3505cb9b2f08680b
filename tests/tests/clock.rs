//! The wall clock is stepped by an hour while serving, and by hours across a restart: no window empties early, no limit freezes
//! (contract C15).

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_tests::fake_clock::FakeClock;
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::server::Setup;

/// The released binary, with its wall clock as `clock` has it.
fn faked(clock: &FakeClock) -> Setup {
    clock.variables().iter().fold(Setup::release(), |setup, (name, value)| setup.environment(name, value))
}

#[tokio::test]
async fn a_step_of_the_wall_clock_changes_nothing() {
    let Some(clock) = FakeClock::new() else { return };
    let server = faked(&clock).start();
    assert!(clock.is_of(server.pid()), "the server runs under faketime");
    let gateway = Gateway::of(&server).await;
    for (account, offset) in [("forth", "+1h"), ("back", "-1h"), ("home", "+0")] {
        gateway.fix(account, [100; 3]).await;
        let ask = Ask::of(account).tokens(60, 60, 0);
        gateway.allow(&ask).await;
        let before = gateway.windows(&ask).await;
        clock.step(offset);
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
    clock.step("-1h");
    tokio::time::sleep(wait).await;
    gateway.allow(&ask).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_wall_clock_that_jumps_across_a_restart_expires_nothing_early() {
    let Some(clock) = FakeClock::new() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data").display().to_string();
    let start = |wall_clock: &str| {
        clock.step(wall_clock);
        faked(&clock).arguments(["--data-dir".to_owned(), data.clone()]).start()
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
    assert!(clock.is_of(server.pid()), "the server runs under faketime");
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
