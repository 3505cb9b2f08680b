//! What a fleet may exceed its limit by, row by row of docs/operations.md, where no other test has the row; and what `serve` says of
//! the store that it has, or has not.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_tests::crowd::balance;
use tidegate_tests::fleet::{self, Fleet, LIMIT, admitted_permille, assert_within, stop, together};
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Kind, Setup};
use tidegate_tests::server;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: usize = 8;

/// A sidecar that stands still with its leases and goes on by them: they are over by its own clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_stands_still_for_a_while_gives_nothing_away_when_it_goes_on() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let fleet = Fleet::start(3, &store);
    let crowds = fleet.all(CLIENTS, Duration::from_millis(150));
    sleep(2 * SECOND).await;
    fleet::pause(&fleet.sidecars[1]);
    sleep(4 * SECOND).await;
    fleet::resume(&fleet.sidecars[1]);
    let before = fleet.sum("tidegate_decisions_total", &[]);
    sleep(6 * SECOND).await;
    let told = stop(crowds).await;
    let balance = assert_within(&told);
    println!("stood still: {balance:?}");
    assert!(balance.fullest_permille >= 950, "{balance:?}");
    assert!(fleet.sum("tidegate_decisions_total", &[]) > before);
    fleet.wait_until_degraded(false);
    fleet.assert_ready();
}

/// Nobody is left who knows what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_what_a_dead_sidecar_had_gives_that_again_and_no_more() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(3, &store);
    let of_the_dead = fleet.crowd(0, CLIENTS, Duration::from_millis(130));
    sleep(4 * SECOND).await;
    let of_the_dead = stop(vec![of_the_dead]).await;
    drop(fleet.sidecars.remove(0));
    store.flush();
    let rush = (0..2).map(|which| fleet.crowd(which, CLIENTS, Duration::from_millis(60))).collect();
    sleep(12 * SECOND).await;
    let of_the_living = stop(rush).await;
    let dead = admitted_permille(&of_the_dead);
    let living = assert_within(&of_the_living);
    let all = balance(&together([of_the_dead, of_the_living]), LIMIT, &[]);
    println!("lost with a dead sidecar: {all:?}, {dead} permille by it, {living:?} by the others");
    assert!(all.fullest_permille <= 1_000 + dead, "{all:?}");
    assert!(living.fullest_permille >= 950, "{living:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_a_fleet_that_shares_exceeds_its_limit_by_the_shares_of_the_others_at_most() {
    shares_without_a_store(6 * SECOND).await;
}

/// `./test -E 'binary(fleet_rows)' --run-ignored all`.
#[ignore = "a minute and a half"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_minute_without_a_store_a_fleet_that_shares_is_within_its_limit() {
    shares_without_a_store(75 * SECOND).await;
}

/// All of the limit was used on one sidecar: then each has its share, for so long.
async fn shares_without_a_store(span: Duration) {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let mut store = setup.start();
    let fleet = Fleet { sidecars: (0..4).map(|_| fleet::setup(&store.url(), "share", 0).start()).collect() };
    let one = vec![fleet.crowd(0, CLIENTS, Duration::from_millis(30))];
    until("each has seen all", || {
        let seen = fleet.sum("tidegate_store_sidecars", &[]);
        if seen > 15.5 { Ok(()) } else { Err(format!("{seen}, not 4 on each")) }
    });
    sleep(8 * SECOND).await;
    store.kill();
    fleet.wait_until_degraded(true);
    let before = stop(one).await;
    let used = admitted_permille(&before);
    let rush = fleet.all(CLIENTS, Duration::from_millis(60));
    sleep(span).await;
    fleet.assert_ready();
    let rush = stop(rush).await;
    let since = assert_within(&rush);
    println!("since then: {since:?}");
    assert!(span < 60 * SECOND || since.fullest_permille >= 950, "all shares are used: {since:?}");
    let all = balance(&together([before, rush]), LIMIT, &[]);
    println!("share: {used} permille by one, then {all:?}");
    assert!(all.fullest_permille <= 1_750, "{all:?}");
    assert!(all.fullest_permille >= used + 700, "each other one has its quarter: {all:?}");
}

#[test]
fn serve_says_that_limits_are_per_process_and_what_is_wrong_with_a_store() {
    let alone = server::Setup::release().start();
    assert!(alone.output().contains("limits are per process"), "{}", alone.output());
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.directive("maxmemory-policy", "allkeys-lru").start();
    let sidecar = fleet::setup(&store.url(), "share", 1).start();
    until("both are warned of", || {
        let log = sidecar.output();
        let warns = |what: &str| log.lines().any(|line| line.contains("WARN") && line.contains(what));
        let is_warned = warns("maxmemory-policy is allkeys-lru") && warns("keeps nothing on disk");
        if is_warned && !log.contains("limits are per process") { Ok(()) } else { Err(log.clone()) }
    });
}
