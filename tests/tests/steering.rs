//! Operators steer, end to end over gRPC: the rows A11 and A12 of the specification, and writes under load.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost_types::Timestamp;
use tidegate_proto::v1::{
    BoostRequest, Bounds, CreateOverrideRequest, DenyReason, ListLimitsRequest, Override, Scope, Tier, Tokens,
    UpdateTierRequest, Window, WindowBounds,
};
use tidegate_tests::gateway::{Ask, Gateway, bounds};
use tidegate_tests::server::Setup;

const MINUTE: Duration = Duration::from_secs(60);
const FLOOR: u64 = 36_000;

/// An instant of the server's clock.
fn after(gateway: &Gateway, span: Duration) -> Option<Timestamp> {
    let micros = i64::try_from(gateway.now_micros()).expect("a date") + i64::try_from(span.as_micros()).expect("short");
    let nanos = i32::try_from(micros % 1_000_000 * 1_000).expect("less than a second");
    Some(Timestamp { seconds: micros / 1_000_000, nanos })
}

async fn generated_limit(gateway: &Gateway, ask: &Ask) -> u64 {
    gateway.windows(ask).await.generated().limit_tpm
}

/// Reads the limit minute by minute until it is at its floor: how many minutes it took, and whether it only fell.
async fn fall_to_the_floor(gateway: &Gateway, ask: &Ask) -> (u64, bool) {
    let (mut limit, mut only_fell) = (generated_limit(gateway, ask).await, true);
    for minute in 0..24 * 60 {
        if limit == FLOOR {
            return (minute, only_fell);
        }
        gateway.advance(MINUTE);
        let next = generated_limit(gateway, ask).await;
        only_fell &= next <= limit;
        limit = next;
    }
    panic!("after a day the limit is {limit}");
}

#[tokio::test]
async fn a11_an_override_raises_the_floor_before_any_traffic_until_it_ends() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let (ask, other) = (Ask::of("launching"), Ask::of("other"));
    let floor = Bounds { floor_tpm: Some(90_000), ceiling_tpm: None };
    let launch = Override {
        scope: Some(Scope { account: "launching".into(), model: None, variant: None }),
        bounds: Some(WindowBounds { generated: Some(floor), ..WindowBounds::default() }),
        expire_time: after(&gateway, 30 * MINUTE),
        ..Override::default()
    };
    let request = CreateOverrideRequest { r#override: Some(launch), ..CreateOverrideRequest::default() };
    gateway.admin().create_override(gateway.call(request)).await.expect("it is new");
    let windows = gateway.windows(&ask).await;
    assert_eq!((windows.generated().floor_tpm, windows.generated().limit_tpm), (90_000, 90_000));
    assert_eq!(generated_limit(&gateway, &other).await, FLOOR);

    gateway.advance(29 * MINUTE);
    gateway.allow(&ask.clone().tokens(1, 1, 10)).await;
    assert_eq!(generated_limit(&gateway, &ask).await, 90_000);
    gateway.advance(2 * MINUTE);
    let windows = gateway.windows(&ask).await;
    assert_eq!(windows.generated().floor_tpm, FLOOR);
    assert!((FLOOR..=90_300).contains(&windows.generated().limit_tpm), "{:?}", windows.generated());
    let (minutes, only_fell) = fall_to_the_floor(&gateway, &ask).await;
    assert!(only_fell && minutes > 60, "by the law, not at once: {minutes} min");
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a11_a_boost_raises_the_limit_before_any_traffic_and_the_law_takes_it_down_afterwards() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let (seen, unseen, other) = (Ask::of("launching").on("m", ""), Ask::of("launching").on("n", ""), Ask::of("other"));
    let request = BoostRequest {
        scope: Some(Scope { account: "launching".into(), model: None, variant: None }),
        limit_tpm: Some(Tokens { prompt: 0, uncached_prompt: 0, generated: 90_000 }),
        expire_time: after(&gateway, 30 * MINUTE),
        options: None,
    };
    gateway.admin().boost(gateway.call(request)).await.expect("it is in force");
    for ask in [&seen, &unseen] {
        let windows = gateway.windows(ask).await;
        assert_eq!(windows.generated().floor_tpm, FLOOR, "a boost promises nothing");
        assert!((90_000..=90_300).contains(&windows.generated().limit_tpm), "{:?}", windows.generated());
    }
    assert_eq!(generated_limit(&gateway, &other).await, FLOOR);
    gateway.allow(&seen.clone().tokens(1, 1, 10)).await;

    gateway.advance(29 * MINUTE);
    assert!(generated_limit(&gateway, &seen).await >= 90_000);
    gateway.advance(5 * MINUTE);
    let (minutes, only_fell) = fall_to_the_floor(&gateway, &seen).await;
    assert!(only_fell && minutes > 60, "by the law, not at once: {minutes} min");
    assert_eq!(generated_limit(&gateway, &unseen).await, FLOOR);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a12_the_account_that_its_ceiling_holds_back_most_is_listed_first_and_grows_when_it_is_raised() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    for account in ["a little", "pinned", "roomy"] {
        let ceiling = if account == "roomy" { 100_000 } else { 2_000 };
        gateway.bound(account, [1_000; 3], [ceiling; 3]).await;
    }
    for _ in 0..15 {
        for account in ["a little", "pinned", "roomy"] {
            let ask = Ask::of(account);
            let [prompt, uncached, generated] = gateway.windows(&ask).await.limits();
            let answer = gateway.allow(&ask.tokens(prompt, uncached, generated)).await;
            gateway.settle_as_admitted(&answer.reservation_id, generated).await;
        }
        gateway.advance(MINUTE);
    }
    assert_eq!(gateway.windows(&Ask::of("pinned")).await.limits(), [2_000; 3]);
    for (account, tokens, times) in [("a little", 700, 1), ("pinned", 700, 3), ("roomy", 900, 9)] {
        let ask = Ask::of(account);
        let [prompt, ..] = gateway.windows(&ask).await.limits();
        gateway.allow(&ask.clone().tokens(prompt, 1, 0)).await;
        for _ in 0..times {
            assert_eq!(gateway.deny(&ask.clone().tokens(tokens, 1, 0)).await.reason(), DenyReason::WindowFull);
        }
    }
    let request = ListLimitsRequest { at_ceiling: true, ..ListLimitsRequest::default() };
    let listed = gateway.admin().list_limits(gateway.call(request)).await.expect("listed").into_inner().limits;
    let rows: Vec<_> = listed
        .iter()
        .map(|row| (row.key.as_ref().map_or("", |key| &key.account), row.denied_at_ceiling.map(|denied| denied.prompt)))
        .collect();
    assert_eq!(rows, [("pinned", Some(2_100)), ("a little", Some(700))], "roomy is below its ceiling");

    let tier = Tier { name: "tier of pinned".into(), bounds: Some(bounds([1_000; 3], [50_000; 3])), ..Tier::default() };
    let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
    gateway.admin().update_tier(gateway.call(request)).await.expect("written");
    // The law's levels are 0.3 % apart, and it had one just above the ceiling.
    let raised = gateway.windows(&Ask::of("pinned")).await.limits();
    assert!(raised.iter().all(|limit| (2_000..2_007).contains(limit)), "room to grow is no growth: {raised:?}");
    // What was admitted above counts: the minute was used in full, and denials have shown that more is wanted.
    gateway.advance(MINUTE);
    let ask = Ask::of("pinned");
    let answer = gateway.allow(&ask.clone().tokens(2_000, 2_000, 2_000)).await;
    gateway.settle_as_admitted(&answer.reservation_id, 2_000).await;
    gateway.advance(MINUTE);
    for limit in gateway.windows(&ask).await.limits() {
        assert!(limit > 2_100, "{limit}");
    }
    gateway.verdict().assert_clean();
}

/// Every decision that is asked for after the answer to a write uses the new bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_changes_under_32_tasks_acts_on_every_later_decision() {
    const TASKS: u64 = 32;
    const ROUNDS: u64 = 40;
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await.concurrent();
    gateway.bound("hammered", [1_000; 3], [1_000; 3]).await;
    // The ceilings of the last write that was answered, and of the one that may be on its way.
    let answered = Arc::new(AtomicU64::new(1_000));
    let written = Arc::new(AtomicU64::new(1_000));
    let done = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (mut limiter, ask) = (gateway.raw(), Ask::of("hammered").on(&format!("m{}", task % 4), ""));
            let (answered, written, done) = (Arc::clone(&answered), Arc::clone(&written), Arc::clone(&done));
            tokio::spawn(async move {
                let mut decisions = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let least = answered.load(Ordering::SeqCst);
                    let request = ask.clone().tokens(1, 1, 1).request;
                    let answer = limiter.check_and_reserve(request).await.expect("decided").into_inner();
                    let most = written.load(Ordering::SeqCst);
                    for window in &answer.windows {
                        // Bounds only grow in this test, so a decision lies between the two.
                        assert!(window.floor_tpm >= least, "{} is older than {least}", window.floor_tpm);
                        assert!(window.floor_tpm <= most && window.limit_tpm == window.floor_tpm);
                        assert!(window.used_tokens + window.remaining_tokens <= window.limit_tpm);
                    }
                    decisions += 1;
                }
                decisions
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        let limit = 1_000 + round;
        written.store(limit, Ordering::SeqCst);
        let tier =
            Tier { name: "tier of hammered".into(), bounds: Some(bounds([limit; 3], [limit; 3])), ..Tier::default() };
        let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
        gateway.admin().update_tier(gateway.call(request)).await.expect("written");
        answered.store(limit, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::SeqCst);
    let mut decisions = 0;
    for task in tasks {
        decisions += task.await.expect("no task panicked");
    }
    assert!(decisions > TASKS * ROUNDS, "{decisions}");
}

/// A tier's limits fall and rise while 32 tasks ask. A decision that no write overlaps has the limits of the last one that was
/// answered; every ALLOW fits the limit that it names, and what remains is what is left of it, 0 where more is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_falls_under_32_tasks_admits_nothing_above_its_new_limits() {
    const TASKS: u64 = 32;
    const LIMITS: [u64; 4] = [4_000, 500, 2_000, 100];
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await.concurrent();
    gateway.bound("hammered", [4_000; 3], [4_000; 3]).await;
    // Odd while a write is on its way; otherwise twice the number of writes that were answered.
    let writes = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let limit_after = |write: u64| LIMITS[usize::try_from(write).expect("few") % LIMITS.len()];
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (mut limiter, ask) = (gateway.raw(), Ask::of("hammered"));
            let (writes, done) = (Arc::clone(&writes), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut checked, mut above) = (0_u64, 0_u64);
                while !done.load(Ordering::SeqCst) {
                    let before = writes.load(Ordering::SeqCst);
                    let request = ask.clone().tokens(7, 7, 0).request;
                    let answer = limiter.check_and_reserve(request).await.expect("decided").into_inner();
                    for window in answer.windows.iter().filter(|window| window.window() != Window::Generated) {
                        let left = window.limit_tpm.saturating_sub(window.used_tokens);
                        assert_eq!(window.remaining_tokens, left, "{window:?}");
                        above += u64::from(window.used_tokens > window.limit_tpm);
                        if answer.http_status == 200 {
                            assert!(window.used_tokens <= window.limit_tpm, "C1: {window:?}");
                        }
                        if before % 2 == 0 && writes.load(Ordering::SeqCst) == before {
                            assert_eq!(window.limit_tpm, limit_after(before / 2), "after write {before}");
                            checked += 1;
                        }
                    }
                }
                (checked, above)
            })
        })
        .collect();
    for write in 1..=40 {
        writes.store(2 * write - 1, Ordering::SeqCst);
        let limit = limit_after(write);
        let tier =
            Tier { name: "tier of hammered".into(), bounds: Some(bounds([limit; 3], [limit; 3])), ..Tier::default() };
        let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
        gateway.admin().update_tier(gateway.call(request)).await.expect("written");
        writes.store(2 * write, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::SeqCst);
    let (mut checked, mut above) = (0, 0);
    for task in tasks {
        let seen = task.await.expect("no task panicked");
        (checked, above) = (checked + seen.0, above + seen.1);
    }
    assert!(checked > 1_000 && above > 100, "{checked} checked, {above} of a window above its limit");
}
