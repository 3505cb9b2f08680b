//! Many sidecars, one limit: `serve` processes that share a real Redis, and a ledger over what all their clients were told.
//!
//! The store's faults are those of docs/operations.md, each in `closed`, where none of them may take the fleet above its limit.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_proto::v1::DenyReason;
use tidegate_tests::crowd::{Allowed, Behaviour, Crowd, Told};
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::fleet::{self, Fleet, LIMIT, TOKENS, admitted_permille, assert_within, stop, together};
use tidegate_tests::gateway::{Answer as _, Ask, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Keys, Kind, Setup};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
/// One request in this time, of each of so many clients, is a hundred a second: the limit in ten seconds.
const PACE: Duration = Duration::from_millis(160);
const CLIENTS: usize = 16;

/// D11: a sidecar for each replica multiplies every limit by the number of replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d11_four_sidecars_have_one_limit_between_them() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let fleet = Fleet::start(4, &store);
    let told = {
        let crowds = fleet.all(16, Duration::from_millis(5));
        sleep(10 * SECOND).await;
        stop(crowds).await
    };
    let balance = assert_within(&told);
    println!("d11: {balance:?}, {} decisions, slowest {:?}", told.decisions, told.slowest);
    // Shares of what is left can be smaller than one request: 984 to 992 were seen.
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
    // Without a shared store the same clients get four limits: this test would see it.
    let calls = fleet.sum("tidegate_store_calls_total", &[]);
    println!("d11: {calls} calls to the store in 10 s");
    assert!(calls <= 4.0 * 12.0 * 11.0, "{calls} calls in 10 s");
}

/// Another sidecar has all of it: whoever is denied here is told when that leaves, in either mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_denied_for_what_another_sidecar_has_is_told_when_that_leaves() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    for mode in ["leased", "strict"] {
        let store = setup.clone().start();
        let fleet = Fleet::start_with(2, &store.url(), &["--store-mode", mode]);
        let [one, two] = [Gateway::of(&fleet.sidecars[0]).await, Gateway::of(&fleet.sidecars[1]).await];
        let ask = Ask::of(fleet::ACCOUNT).tokens(LIMIT, 0, 0);
        let (began, allowed) = (Instant::now(), one.allow(&ask).await);
        one.settle_as_admitted(&allowed.reservation_id, 0).await;
        // Until the ledger has heard of it, it may have been given back: then it is a second.
        sleep(SECOND / 2).await;
        let (denied, took) = (two.deny(&Ask::of(fleet::ACCOUNT).tokens(1, 0, 0)).await, began.elapsed());
        assert_eq!(denied.reason(), DenyReason::WindowFull);
        let wait = denied.wait().expect("it says how long");
        println!("{mode}: denied after {took:?}, to wait for {wait:?}");
        // A sub-bucket leaves a minute after its end, and the second in which it does counts to its end.
        assert!((60 * SECOND - took..=60 * SECOND).contains(&wait), "{wait:?} after {took:?}");
    }
}

/// Hundreds of requests at the same time, which take from each other what was asked for one of them: none is denied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_from_its_limit_a_key_is_denied_to_nobody_however_many_ask_at_once() {
    const AT_ONCE: usize = 200;
    const ROUNDS: usize = 10;
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    for mode in ["leased", "strict"] {
        let store = setup.clone().start();
        // Longer than this takes on a busy machine: what is asked here is not how long they wait.
        let start =
            |_| fleet::setup_that_waits(&store.url(), "closed", 2, SECOND).arguments(["--store-mode", mode]).start();
        let fleet = Fleet { sidecars: (0..2).map(start).collect() };
        let of = [Gateway::of(&fleet.sidecars[0]).await, Gateway::of(&fleet.sidecars[1]).await];
        let mut denied = BTreeMap::<_, usize>::new();
        for _ in 0..ROUNDS {
            let mut asking = JoinSet::new();
            for which in 0..AT_ONCE {
                let (gateway, ask) = (of[which % 2].clone(), Ask::of(fleet::ACCOUNT).tokens(100, 0, 0));
                asking.spawn(async move { gateway.ask(&ask).await.expect("decided") });
            }
            for answer in asking.join_all().await {
                if answer.allowed() {
                    of[0].settle_as_admitted(&answer.reservation_id, 0).await;
                } else {
                    *denied.entry(answer.reason().as_str_name()).or_default() += 1;
                }
            }
        }
        assert!(denied.is_empty(), "{mode}, of {}: {denied:?}", AT_ONCE * ROUNDS);
    }
}

/// Saturating clients that move about, for longer than a minute: what leaves the window is used again, and by whoever wants it.
/// Three minutes: `./test -E 'binary(fleet)' --run-ignored all`.
#[ignore = "three minutes"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_that_moves_between_sidecars_stays_within_one_limit_and_uses_it() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let fleet = Fleet::start(4, &store);
    // All together 1.6 times what the limit gives.
    let pace = |share: u32| Duration::from_millis(600 * 100 / u64::from(share));
    let spread = |shares: [u32; 4]| {
        let crowds = shares.into_iter().enumerate().filter(|(_, share)| *share > 0);
        let behaviour = |share| Behaviour { clients: 16, pause: pace(share), one_open_in: 0, ..fleet::behaviour() };
        crowds.map(|(which, share)| fleet.crowd_that(&behaviour(share), which)).collect::<Vec<_>>()
    };
    let mut told = Vec::new();
    for shares in [[25; 4], [91, 3, 3, 3], [0, 0, 0, 100], [25; 4]] {
        let crowds = spread(shares);
        sleep(25 * SECOND).await;
        let of_one = stop(crowds).await;
        println!("{shares:?}: {} of the limit of 25 s, permille", admitted_permille(&of_one) * 60 / 25);
        told.push(of_one);
    }
    let told = together(told);
    let balance = assert_within(&told);
    println!("moving: {balance:?}, slowest {:?}", told.slowest);
    assert!(balance.fullest_permille >= 950, "{balance:?}");
}

/// The limit is used however clients are spread over the sidecars: evenly, nine of ten on one, all on one. Each asks for a
/// thousandth of the limit and settles what it was admitted with; all together want 1.6 times what there is.
/// Three minutes: `./test -E 'binary(fleet) & test(however)' --run-ignored all --no-capture`.
#[ignore = "three minutes"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_clients_are_spread_the_fleet_uses_its_limit() {
    const MINUTES: u32 = 3;
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let fleet = Fleet::start(4, &store);
    let spreads = [("even", [25; 4]), ("ninety", [91, 3, 3, 3]), ("one", [0, 0, 0, 100])];
    let began = tokio::time::Instant::now();
    let crowds = spreads.map(|(account, shares)| {
        let crowd = |(which, share): (usize, u32)| {
            let pause = Duration::from_millis(600 * 100 / u64::from(share));
            let behaviour = Behaviour { accounts: vec![account.to_owned()], clients: 16, pause, ..fleet::behaviour() };
            fleet.crowd_that(&Behaviour { one_open_in: 0, ..behaviour }, which)
        };
        shares.into_iter().enumerate().filter(|(_, share)| *share > 0).map(crowd).collect::<Vec<_>>()
    });
    sleep(60 * MINUTES * SECOND).await;
    for (crowds, (account, _)) in crowds.into_iter().zip(spreads) {
        let told = stop(crowds).await;
        let balance = assert_within(&told);
        let minute = |minute: u32| {
            let (from, to) = (began + minute * 60 * SECOND, began + (minute + 1) * 60 * SECOND);
            let within = |allowed: &&Allowed| (from.into_std()..to.into_std()).contains(&allowed.received);
            told.allowed.iter().filter(within).count() as u64 * TOKENS * 1_000 / LIMIT
        };
        let used: Vec<u64> = (0..MINUTES).map(minute).collect();
        println!(
            "{account}: {used:?} permille of the limit, minute by minute; {balance:?}, slowest {:?}",
            told.slowest
        );
        let later = used[1..].iter().sum::<u64>() / u64::from(MINUTES - 1);
        assert!(later >= 950, "{account}: {later} permille after the first minute");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_is_exact_as_well() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let store = setup.start();
    let fleet = Fleet::start_with(2, &store.url(), &["--store-mode", "strict"]);
    let told = {
        let crowds = fleet.all(8, Duration::from_millis(10));
        sleep(6 * SECOND).await;
        stop(crowds).await
    };
    let balance = assert_within(&told);
    println!("strict: {balance:?}, {} decisions, slowest {:?}", told.decisions, told.slowest);
    assert!(balance.fullest_permille >= 990, "{balance:?}");
}

/// Half of the limit is used on two sidecars, which fall silent; then something happens, and clients rush to all of them, or to
/// the others alone: whoever forgot that half would let them have all of the limit.
async fn with_a_fault_in_the_middle(
    fleet: &Fleet,
    fault: impl AsyncFnOnce(&Fleet),
    (first, then): (usize, usize),
    after: Duration,
) -> Told {
    let before = (0..2).map(|which| fleet.crowd(which, CLIENTS, PACE * 2)).collect();
    sleep(5 * SECOND).await;
    let before = stop(before).await;
    let rush: Vec<Crowd> = (first..then).map(|which| fleet.crowd(which, CLIENTS, Duration::from_millis(40))).collect();
    fault(fleet).await;
    sleep(after).await;
    let told = together([before, stop(rush).await]);
    println!("used {} permille, {} decisions, slowest {:?}", admitted_permille(&told), told.decisions, told.slowest);
    assert_eq!(told.lost_calls, 0, "every decision was answered");
    fleet.assert_ready();
    told
}

/// A rush that comes when it has happened.
async fn with_a_fault_before_the_rush(fleet: &Fleet, fault: impl AsyncFnOnce(&Fleet), after: Duration) -> Told {
    let before = (0..2).map(|which| fleet.crowd(which, CLIENTS, PACE * 2)).collect();
    sleep(5 * SECOND).await;
    let before = stop(before).await;
    // Their leases end, and they have said what they have for the last time.
    sleep(SECOND).await;
    fault(fleet).await;
    let rush: Vec<Crowd> = (2..4).map(|which| fleet.crowd(which, CLIENTS, Duration::from_millis(20))).collect();
    sleep(after).await;
    let told = together([before, stop(rush).await]);
    println!("used {} permille, {} decisions, slowest {:?}", admitted_permille(&told), told.decisions, told.slowest);
    assert_eq!(told.lost_calls, 0, "every decision was answered");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_and_comes_back_empty_gives_no_fresh_budget() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let fleet = Fleet::start(4, &store);
    let fault = async |fleet: &Fleet| {
        store.kill();
        sleep(2 * SECOND).await;
        assert!(fleet.sum("tidegate_degraded", &[("part", "store")]) > 3.0, "all know that it is away");
        store.restart(Keys::Lost);
    };
    let told = with_a_fault_before_the_rush(&fleet, fault, 10 * SECOND).await;
    let balance = assert_within(&told);
    assert!(balance.fullest_permille >= 950, "and the rest of the limit is used: {balance:?}");
    assert!(fleet.sum("tidegate_degraded", &[("part", "store")]) < 0.5, "without a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_store_gives_no_fresh_budget() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let proxy = FaultProxy::before(&store.address());
    let slow = format!("redis://{}", proxy.address());
    let urls = [slow.clone(), slow, store.url(), store.url()];
    // They start on a thread of its own: the proxy needs this one.
    let start = move || urls.iter().map(|url| fleet::setup(url, "closed", 0).start()).collect();
    let fleet = Fleet { sidecars: tokio::task::spawn_blocking(start).await.expect("they start") };
    let fault = async |_: &Fleet| {
        // Those who have all of it in their memory are reached again, but not at once.
        proxy.switch(Fault::Stall).await;
        store.flush();
        tokio::spawn(async move {
            sleep(3 * SECOND).await;
            proxy.switch(Fault::None).await;
            // It ends with the test.
            std::future::pending::<()>().await;
            drop(proxy);
        });
    };
    let told = with_a_fault_before_the_rush(&fleet, fault, 10 * SECOND).await;
    let balance = assert_within(&told);
    assert!(balance.fullest_permille >= 950, "{balance:?}");
    assert!(fleet.sum("tidegate_store_data_lost_total", &[]) > 0.0);
}

/// D12: a store that is slow or away stalls the limiter, or opens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d12_a_store_that_stands_still_stalls_no_decision_and_opens_no_limit() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let fleet = Fleet::start(4, &store);
    let fault = async |_: &Fleet| {
        store.pause();
        sleep(5 * SECOND).await;
        store.resume();
    };
    let told = with_a_fault_in_the_middle(&fleet, fault, (0, 4), 8 * SECOND).await;
    let balance = assert_within(&told);
    assert!(balance.fullest_permille >= 950, "{balance:?}");
    assert!(told.slowest < Duration::from_millis(500), "a decision took {:?}", told.slowest);
    let unavailable = fleet.sum("tidegate_decisions_total", &[("reason", "store_unavailable")]);
    assert!(unavailable > 100.0, "closed: {unavailable} decisions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_killed_takes_no_budget_with_it_and_gives_none_away() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(4, &store);
    let crowds = fleet.all(CLIENTS, PACE * 4);
    sleep(5 * SECOND).await;
    // Killed (SIGKILL) with its leases.
    drop(fleet.sidecars.remove(1));
    sleep(8 * SECOND).await;
    let told = stop(crowds).await;
    let balance = assert_within(&told);
    println!("killed: {balance:?}");
    assert!(balance.fullest_permille >= 950, "what it did not use is left to the others soon: {balance:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_cut_off_decides_by_its_lease_and_then_not_at_all() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(3, &store);
    let proxy = FaultProxy::before(&store.address());
    let url = format!("redis://{}", proxy.address());
    // It starts on a thread of its own: the proxy needs this one.
    let start = tokio::task::spawn_blocking(move || fleet::setup(&url, "closed", 0).start());
    fleet.sidecars.push(start.await.expect("it starts"));
    let fault = async |_: &Fleet| proxy.switch(Fault::Stall).await;
    let told = with_a_fault_in_the_middle(&fleet, fault, (0, 4), 10 * SECOND).await;
    let balance = assert_within(&told);
    println!("cut off: {balance:?}");
    assert!(balance.fullest_permille >= 950, "{balance:?}");
    let of_it = |reason| {
        let page = Page::scrape(fleet.sidecars[3].http());
        page.sum("tidegate_decisions_total", &[("reason", reason)])
    };
    assert!(of_it("store_unavailable") > 50.0, "{}", of_it("store_unavailable"));
    proxy.switch(Fault::None).await;
    until("it is back by itself", || {
        let page = Page::scrape(fleet.sidecars[3].http());
        let degraded = page.sum("tidegate_degraded", &[("part", "store")]);
        if degraded < 0.5 { Ok(()) } else { Err(fleet.sidecars[3].output()) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_starts_without_its_store_shares_the_limit_by_what_it_expects() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let url = store.url();
    store.kill();
    let start = |_| fleet::setup(&url, "share", 4).start();
    let fleet = Fleet { sidecars: (0..4).map(start).collect() };
    let crowds = fleet.all(16, Duration::from_millis(20));
    sleep(5 * SECOND).await;
    store.restart(Keys::Lost);
    sleep(9 * SECOND).await;
    let told = stop(crowds).await;
    let balance = assert_within(&told);
    println!("without a store: {balance:?}");
    assert!(balance.fullest_permille >= 950, "{balance:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_gives_no_fresh_budget() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(4, &store);
    let crowds = fleet.all(CLIENTS, PACE * 4);
    sleep(3 * SECOND).await;
    for (which, crowd) in crowds.iter().enumerate() {
        let next = fleet::setup(&store.url(), "closed", 0).start();
        crowd.moved(next.limiter());
        let mut old = std::mem::replace(&mut fleet.sidecars[which], next);
        old.terminate();
        let ended = tokio::task::spawn_blocking(move || old.wait().map(|status| status.success()));
        assert_eq!(ended.await.expect("no panic"), Some(true));
        fleet.assert_ready();
        sleep(SECOND).await;
    }
    sleep(6 * SECOND).await;
    let told = stop(crowds).await;
    let balance = assert_within(&told);
    println!("rolling: {balance:?}");
    fleet.assert_ready();
    assert!(balance.fullest_permille >= 950, "{balance:?}");
}
