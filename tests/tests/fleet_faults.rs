//! What befalls the servers that a fleet shares, while clients ask: a fail-over, a master of a Cluster lost, a server
//! that refuses. In `closed`, none of them takes the fleet above its limit, and all are over without a restart.
//! And the addresses by which a server is found: several to choose from, and a Unix socket.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_store::redis::SIDECARS_KEY;
use tidegate_tests::crowd::{Crowd, Told};
use tidegate_tests::fleet::{self, Fleet, account_on, admitted_permille, assert_within, stop, together};
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Cluster, Keys, Kind, Sentinels, Server, Setup};
use tidegate_tests::server::Server as Sidecar;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: usize = 8;

/// Clients that ask so often a second, all together, on each of so many sidecars.
fn pause(a_second: u32, sidecars: u32) -> Duration {
    SECOND * sidecars * u32::try_from(CLIENTS).expect("few") / a_second
}

fn assert_answered(told: &Told) {
    assert_eq!(told.lost_calls, 0, "every decision was answered");
    assert!(told.slowest < 3 * SECOND, "a decision took {:?}", told.slowest);
}

/// Half of the sidecars have used some of the limit, and are silent: they alone know that. The new master has none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_by_sentinel_gives_no_fresh_budget() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut group = Sentinels::start(&setup, 3);
    let fleet = Fleet::start_with(4, &group.url(), &[]);
    let mut crowds = fleet.all(CLIENTS, pause(300, 4));
    sleep(2 * SECOND).await;
    let dead = group.master();
    let mut others = crowds.split_off(2);
    let before = stop(crowds).await;
    // Their leases end, and they have said what they have for the last time.
    sleep(SECOND).await;
    group.servers_mut()[dead].kill();
    fleet.wait_until_degraded(true);
    fleet.assert_ready();
    let took = group.wait_for_master(1 - dead);
    // The worst that can become of a copy that is always a little late.
    group.servers()[1 - dead].flush();
    fleet.wait_until_degraded(false);
    others.extend([2, 3].map(|which| fleet.crowd(which, CLIENTS, pause(300, 4))));
    sleep(9 * SECOND).await;
    fleet.assert_ready();
    let told = together([before, stop(others).await]);
    let balance = assert_within(&told);
    println!("sentinel: {balance:?}, a new master after {took:?}, slowest {:?}", told.slowest);
    assert_answered(&told);
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
}

/// One of three masters is killed, and is back after some seconds. Clients of keys on the others hardly hear of it.
async fn one_master_of_three_is_away(setup: Setup, keys: Keys, has_the_policy: bool) {
    let mut cluster = Cluster::start(&setup.directive("cluster-require-full-coverage", "no"));
    let of_policy = cluster.home_of(SIDECARS_KEY);
    let away = if has_the_policy { of_policy } else { (of_policy + 1) % 3 };
    let (lost, kept) = (account_on(&cluster, away), account_on(&cluster, (away + 1) % 3));
    let url = cluster.url();
    let sidecar = |_| fleet::setup_that_waits(&url, "closed", 0, Duration::from_millis(50)).start();
    let fleet = Fleet { sidecars: (0..3).map(sidecar).collect() };
    let crowds = |account: &str, a_second| -> Vec<Crowd> {
        (0..3).map(|which| fleet.crowd_of(account, which, CLIENTS, pause(a_second, 3))).collect()
    };
    // The first ones wait until the scripts are there.
    let first = crowds(&kept, 45);
    sleep(SECOND / 2).await;
    let first = stop(first).await;
    // Less than the limit gives, so that each of them should be admitted.
    let of_kept = crowds(&kept, 45);
    let mut of_lost = crowds(&lost, 250);
    sleep(2 * SECOND).await;
    // Two of them alone know what they have used by then, and have said it for the last time.
    let before = stop(of_lost.drain(..2).collect()).await;
    sleep(SECOND).await;
    cluster.masters_mut()[away].kill();
    of_lost.push(fleet.crowd_of(&lost, 2, CLIENTS, pause(400, 1)));
    fleet.wait_until_degraded(true);
    sleep(2 * SECOND).await;
    let unavailable = fleet.sum("tidegate_decisions_total", &[("reason", "store_unavailable")]);
    fleet.assert_ready();
    cluster.masters_mut()[away].restart(keys);
    cluster.wait_until_whole();
    fleet.wait_until_degraded(false);
    // Where all is there, nobody is silent for 5 s.
    sleep(if keys == Keys::Lost { 8 } else { 4 } * SECOND).await;
    fleet.assert_ready();
    let (of_kept, of_lost) = (stop(of_kept).await, stop(of_lost).await);
    let denied = of_kept.decisions - of_kept.allowed.len() as u64;
    let (of_kept, of_lost) = (together([first, of_kept]), together([before, of_lost]));
    let (balance_of_kept, balance) = (assert_within(&of_kept), assert_within(&of_lost));
    println!("on the lost one: {balance:?}, {unavailable} times 503, slowest {:?}", of_lost.slowest);
    println!(
        "on another: {balance_of_kept:?}, {denied} of {} denied, slowest {:?}",
        of_kept.decisions, of_kept.slowest
    );
    assert_answered(&of_lost);
    assert_answered(&of_kept);
    assert!(unavailable > 50.0, "closed: {unavailable} decisions");
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
    // A few wait in vain while the sidecar finds out which keys are away.
    assert!(denied * 20 <= of_kept.decisions, "{denied} of {} on another master denied", of_kept.decisions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_comes_back_empty_gives_no_fresh_budget_and_disturbs_no_other_key() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    one_master_of_three_is_away(setup, Keys::Lost, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_comes_back_as_it_was_disturbs_no_other_key() {
    let Some(setup) = Setup::of(Kind::Valkey8) else { return };
    one_master_of_three_is_away(setup.appendonly(), Keys::Kept, false).await;
}

/// Named first is one that takes no writes; user and database are those of the address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_the_one_that_takes_writes_is_shared() {
    let Some(setup) = Setup::of(Kind::Redis8) else { return };
    let setup = setup.password("another").directive("user", "tidegate on >s@cret ~* +@all");
    let master = setup.clone().start();
    let replica = setup.replica_of(&master).start();
    replica.wait_for_copy();
    let url = format!("redis://tidegate:s%40cret@{},{}/3", replica.address(), master.address());
    let sidecar = || fleet::setup_that_waits(&url, "closed", 0, SECOND).start();
    let fleet = Fleet { sidecars: vec![sidecar(), sidecar()] };
    fleet.assert_one_limit(fleet::ACCOUNT).await;
    assert_ne!(master.info("db3"), "");
    assert_eq!(master.info("db0"), "", "nothing is elsewhere");
}

/// The file of the socket outlives the killed server, and is another one's when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_unix_socket_is_shared_and_found_again_when_it_is_back() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let mut store = setup.directive("unixsocket", "store.sock").start();
    let url = format!("unix:{}", store.folder().join("store.sock").display());
    let sidecar = || fleet::setup_that_waits(&url, "closed", 0, SECOND).start();
    let fleet = Fleet { sidecars: vec![sidecar(), sidecar()] };
    fleet.assert_one_limit("before").await;
    store.kill();
    fleet.wait_until_degraded(true);
    fleet.assert_ready();
    store.restart(Keys::Lost);
    fleet.assert_one_limit("after").await;
    fleet.assert_full("before").await;
}

/// Something that makes a server refuse, and what takes it back.
struct Trouble {
    /// What the log says of it, one of these.
    says: &'static [&'static str],
    begin: fn(&mut Server) -> Option<JoinHandle<()>>,
    end: fn(&mut Server),
}

const TROUBLES: [Trouble; 4] = [
    Trouble {
        says: &["OOM"],
        begin: |server| {
            server.tell(&["CONFIG", "SET", "maxmemory", "1"]);
            None
        },
        end: |server| server.tell(&["CONFIG", "SET", "maxmemory", "0"]),
    },
    Trouble {
        says: &["READONLY", "replica"],
        begin: |server| {
            server.tell(&["REPLICAOF", "127.0.0.1", "1"]);
            None
        },
        end: |server| server.promote(),
    },
    Trouble {
        // Before it says that it is busy, it says nothing.
        says: &["BUSY", "it has not answered in time"],
        begin: |server| {
            server.tell(&["CONFIG", "SET", "lua-time-limit", "100"]);
            let client = redis::Client::open(server.url()).expect("an address");
            Some(std::thread::spawn(move || {
                let mut connection = client.get_connection().expect("it answers");
                // It ends in being killed.
                let _: redis::RedisResult<()> =
                    redis::cmd("EVAL").arg("while true do end").arg(0).query(&mut connection);
            }))
        },
        end: |server| server.tell(&["SCRIPT", "KILL"]),
    },
    Trouble {
        says: &["NOAUTH", "authentication failed"],
        begin: |server| {
            server.change_password("another");
            None
        },
        end: |server| server.change_password(""),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_is_as_one_that_is_away_until_it_takes_writes_again() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let fleet = Fleet::start(3, &store);
    let crowds = fleet.all(CLIENTS, pause(35, 3));
    sleep(SECOND).await;

    // Scripts that are gone are loaded again, and nobody notices.
    let degraded = || fleet.sum("tidegate_store_decisions_total", &[("by", "degraded")]);
    let failures = || fleet.sum("tidegate_store_failures_total", &[]);
    let before = (degraded(), failures());
    store.tell(&["SCRIPT", "FLUSH", "SYNC"]);
    sleep(SECOND).await;
    let loaded: Vec<u8> =
        store.ask(&["SCRIPT", "EXISTS", redis::Script::new(tidegate_store::redis::REPORT).get_hash()]);
    assert_eq!(loaded, [1], "it was asked meanwhile");
    assert_eq!((degraded(), failures()), before, "decisions without the store, and failures");

    for Trouble { says, begin, end } in TROUBLES {
        let thread = begin(&mut store);
        fleet.wait_until_degraded(true);
        let unavailable = || fleet.sum("tidegate_decisions_total", &[("reason", "store_unavailable")]);
        let before = unavailable();
        until("each sidecar's log says why, and it admits nothing", || {
            let silent = fleet.sidecars.iter().find(|sidecar| !says.iter().any(|said| sidecar.output().contains(said)));
            match silent {
                Some(sidecar) => Err(format!("{says:?}: {}", sidecar.output())),
                None if unavailable() - before < 10.0 => Err(format!("{says:?}: {} times 503", unavailable() - before)),
                None => Ok(()),
            }
        });
        fleet.assert_ready();
        end(&mut store);
        println!("{says:?}: back after {:?}", fleet.wait_until_degraded(false));
        until("the log says so", || {
            let says_so = |sidecar: &Sidecar| {
                let output = sidecar.output();
                output
                    .lines()
                    .rfind(|line| line.contains("degraded: store"))
                    .is_some_and(|line| line.contains("no longer"))
            };
            if fleet.sidecars.iter().all(says_so) { Ok(()) } else { Err(format!("{says:?}")) }
        });
        if let Some(thread) = thread {
            thread.join().expect("it was killed");
        }
    }
    let rush = fleet.all(CLIENTS, pause(400, 3));
    sleep(4 * SECOND).await;
    let told = together([stop(crowds).await, stop(rush).await]);
    let balance = assert_within(&told);
    println!("refused: {balance:?}, {} decisions, slowest {:?}", told.decisions, told.slowest);
    assert_answered(&told);
    fleet.assert_ready();
    assert!(balance.fullest_permille >= 950, "the limit is used: {balance:?}");
    assert!(fleet.sum("tidegate_store_data_lost_total", &[]) < 0.5, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_degrades_says_so_without_it_and_is_over_once_the_server_takes_it() {
    const PASSWORD: &str = "sesame7sesame";
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let mut store = setup.password("another").start();
    let url = format!("redis://:{PASSWORD}@{}", store.address());
    let fleet = Fleet { sidecars: vec![fleet::setup(&url, "closed", 0).start()] };
    fleet.assert_ready();
    let crowds = fleet.all(CLIENTS, pause(50, 1));
    fleet.wait_until_degraded(true);
    until("the log says why", || {
        let output = fleet.sidecars[0].output();
        if output.contains("authentication failed") { Ok(()) } else { Err(output) }
    });
    let before = stop(crowds).await;
    assert!(before.decisions > 0 && before.allowed.is_empty(), "closed: {before:?}");
    store.change_password(PASSWORD);
    fleet.wait_until_degraded(false);
    fleet.assert_ready();
    // A new store is silent for 5 s.
    let after = fleet.all(CLIENTS, pause(50, 1));
    sleep(7 * SECOND).await;
    let after = stop(after).await;
    println!("password: {} permille", admitted_permille(&after));
    assert_answered(&together([before, after]));
    let output = fleet.sidecars[0].output();
    assert!(!output.contains(PASSWORD), "{output}");
}
