//! Clocks that are stepped while a fleet serves: a sidecar's changes nothing (contract C15), the server's at most what
//! docs/operations.md says.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_tests::crowd::{Told, balance};
use tidegate_tests::fake_clock::FakeClock;
use tidegate_tests::fleet::{self, ACCOUNT, Fleet, LIMIT, admitted_permille, assert_within, stop, together};
use tidegate_tests::redis::{Kind, Setup};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: usize = 8;
/// Four sidecars with such clients ask 200 times a second: the limit in five seconds.
const PAUSE: Duration = Duration::from_millis(160);

fn assert_nothing_stalled(fleet: &Fleet, told: &Told) {
    assert_eq!(told.lost_calls, 0, "every decision was answered");
    assert!(told.slowest < 3 * SECOND, "a decision took {:?}", told.slowest);
    fleet.assert_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_whose_wall_clock_is_stepped_takes_no_more_and_no_less() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let Some(clock) = FakeClock::new() else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(3, &store);
    let stepped = fleet::setup(&store.url(), "closed", 0);
    let stepped = clock.variables().iter().fold(stepped, |setup, (name, value)| setup.environment(name, value)).start();
    assert!(clock.is_of(stepped.pid()), "it runs under faketime");
    fleet.sidecars.insert(0, stepped);
    // Its clients and those of another one use most of the limit, and more of them come when it has been stepped.
    let mut crowds = vec![fleet.crowd(0, CLIENTS, PAUSE), fleet.crowd(1, CLIENTS, PAUSE)];
    for off_by in ["+1h", "-1h", "+0"] {
        sleep(2 * SECOND).await;
        clock.step(off_by);
    }
    crowds.extend([2, 3].map(|which| fleet.crowd(which, CLIENTS, PAUSE)));
    sleep(5 * SECOND).await;
    let alone = crowds.remove(0).stop().await;
    let told = together([stop(crowds).await]);
    let of_it = admitted_permille(&alone);
    let told = together([alone, told]);
    let balance = assert_within(&told);
    println!("stepped sidecar: {balance:?}, {of_it} permille by it, slowest {:?}", told.slowest);
    assert_nothing_stalled(&fleet, &told);
    assert!(of_it >= 250, "it goes on: {of_it} permille");
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
}

/// Two sidecars use all of the limit and are silent, the store's clock is stepped, and clients rush to the others: what
/// the first were told, and the others, of the same account and of one that nobody knew.
async fn with_a_step_of_the_store(off_by: &str) -> Option<[Told; 3]> {
    // Debian's Redis does not start under faketime, which its allocator calls too early.
    let setup = Setup::of(Kind::Valkey8)?;
    let clock = FakeClock::new()?;
    let store = clock.variables().iter().fold(setup, |setup, (name, value)| setup.environment((name, value))).start();
    assert!(clock.is_of(store.pid()), "the server runs under faketime");
    let fleet = Fleet::start(4, &store);
    let first = (0..2).map(|which| fleet.crowd(which, CLIENTS, PAUSE / 8)).collect();
    sleep(5 * SECOND).await;
    let first = stop(first).await;
    sleep(SECOND).await;
    clock.step(off_by);
    let rush = |account| (2..4).map(|which| fleet.crowd_of(account, which, CLIENTS, PAUSE / 2)).collect();
    let (same, new) = (rush(ACCOUNT), rush("another"));
    sleep(9 * SECOND).await;
    let told = [first, stop(same).await, stop(new).await];
    told.iter().for_each(|told| assert_nothing_stalled(&fleet, told));
    Some(told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_clock_jumps_forwards_gives_the_seconds_that_it_skips_once() {
    // All that was used some seconds ago has left, by that clock.
    let Some([first, same, _]) = with_a_step_of_the_store("+55s").await else { return };
    let used = admitted_permille(&first);
    let balance = balance(&together([first, same]), LIMIT, &[]);
    println!("a store 55 s ahead: {balance:?}, {used} permille of it before");
    assert!(used >= 900, "the limit is used: {used}");
    assert!(balance.fullest_permille <= 1_000 + 55 * 1_000 / 60, "55 of 60 seconds, once: {balance:?}");
}

/// What was there before the step keeps its time; a key that nobody knew begins at the new one, after a silence of 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_clock_goes_back_gives_nothing_for_it_and_stalls_no_new_key() {
    let Some([first, same, new]) = with_a_step_of_the_store("-1h").await else { return };
    let (balance, of_new) = (assert_within(&together([first, same])), assert_within(&new));
    println!("a store an hour back: {balance:?}; a new key: {of_new:?}");
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
    assert!(of_new.fullest_permille >= 300, "it goes on: {of_new:?}");
}
