//! A request id is good for one reservation in a fleet that asks the store for each decision: `serve` processes on a real Redis or Valkey.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_proto::v1::{CheckAndReserveResponse, DenyReason, SettleOutcome, Window};
use tidegate_tests::fleet::{self, Fleet, LIMIT};
use tidegate_tests::gateway::{Answer as _, Ask, Failure, Gateway};
use tidegate_tests::redis::{Cluster, Kind, Server, Setup};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Long enough for machines that do other things as well.
const TIMEOUT: Duration = Duration::from_millis(500);

fn ask(id: &str) -> Ask {
    Ask::of("once").tokens(1_000, 1_000, 500).id(id)
}

fn start(count: usize, url: &str, degrade: &str) -> Fleet {
    let setup = || fleet::setup_that_waits(url, degrade, count, TIMEOUT).arguments(["--store-mode", "strict"]);
    Fleet { sidecars: (0..count).map(|_| setup().start()).collect() }
}

fn redis() -> Option<Server> {
    Setup::of(Kind::Redis7).map(Setup::start)
}

/// As a gateway does that is told to repeat the call.
async fn until_decided(gateway: &Gateway, ask: &Ask) -> CheckAndReserveResponse {
    let began = Instant::now();
    loop {
        match gateway.ask(ask).await {
            Ok(answer) => return answer,
            Err(status) => {
                let failure = Failure::of(&status);
                assert_eq!(failure.reason, "REQUEST_ID_PENDING");
                assert!(began.elapsed() < Duration::from_secs(5), "{failure:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn one_id_is_one_reservation(fleet: &Fleet) {
    let of = fleet.gateways().await;
    let first = of[0].allow(&ask("a")).await;
    assert!(!first.replayed);
    for gateway in [&of[1], &of[2], &of[0], &of[1]] {
        let again = gateway.allow(&ask("a")).await;
        assert!(again.replayed);
        assert_eq!((again.reservation_id.as_str(), again.reserved), (first.reservation_id.as_str(), first.reserved));
        assert_eq!(again.window(Window::Prompt).used_tokens, 1_000, "charged once");
    }
    // Of one limit key: another one's is another.
    let other = of[1].allow(&Ask::of("once").tokens(1_000, 1_000, 500).on("another", "").id("a")).await;
    assert!(!other.replayed && other.reservation_id != first.reservation_id);

    for gateway in [&of[1], &of[2], &of[0]] {
        let another = Ask::of("once").tokens(1_001, 1_000, 500).id("a");
        assert_eq!(gateway.refuse(&another).await.reason, "REQUEST_ID_REUSED", "another ask");
    }
    assert_eq!(
        of[2].settle(&first.reservation_id, None, None, Some(60)).await.expect("live").outcome(),
        SettleOutcome::Applied
    );
    for gateway in &of {
        assert_eq!(gateway.refuse(&ask("a")).await.reason, "REQUEST_ID_REUSED", "it has ended");
    }
    of[0].verdict().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_one_reservation_on_redis_and_valkey() {
    for kind in [Kind::Redis7, Kind::Valkey9] {
        let Some(setup) = Setup::of(kind) else { return };
        let store = setup.start();
        one_id_is_one_reservation(&start(3, &store.url(), "closed")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_one_reservation_on_a_cluster() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let cluster = Cluster::start(&setup);
    one_id_is_one_reservation(&start(3, &cluster.url(), "closed")).await;
}

/// Each of them asked for on all sidecars at the same time, several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_one_id_at_the_same_time_reserve_once() {
    const IDS: usize = 40;
    let Some(store) = redis() else { return };
    let fleet = start(3, &store.url(), "closed");
    let of = fleet.gateways().await;
    let mut calls = JoinSet::new();
    for id in 0..IDS {
        for gateway in of.iter().chain(&of) {
            let (gateway, ask) = (gateway.clone(), ask(&format!("id-{id}")));
            calls.spawn(async move { (id, until_decided(&gateway, &ask).await) });
        }
    }
    let answers = calls.join_all().await;
    let denied: Vec<_> = answers.iter().filter(|(_, answer)| !answer.allowed()).collect();
    assert!(denied.is_empty(), "{} denied, the first one {:?}", denied.len(), denied.first());
    let reservations: BTreeSet<_> = answers.iter().map(|(id, answer)| (*id, &answer.reservation_id)).collect();
    assert_eq!(reservations.len(), IDS, "one for each");
    let first = answers.iter().filter(|(_, answer)| !answer.replayed).count();
    assert_eq!(first, IDS, "the others are repeated");
    assert_eq!(of[2].allow(&ask("one-more")).await.window(Window::Prompt).used_tokens, 1_000 * (IDS as u64 + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_leaves_its_id_to_whoever_asks_next() {
    let Some(store) = redis() else { return };
    let fleet = start(2, &store.url(), "closed");
    let of = fleet.gateways().await;
    let blocking = of[0].allow(&Ask::of("once").tokens(LIMIT - 500, 0, 0)).await;
    for gateway in [&of[0], &of[1], &of[0]] {
        let denied = until_decided(gateway, &ask("a")).await;
        assert_eq!(denied.reason(), DenyReason::WindowFull);
    }
    of[0].settle(&blocking.reservation_id, Some(1), None, None).await.expect("it is live");
    let allowed = until_decided(&of[1], &ask("a")).await;
    assert!(allowed.allowed() && !allowed.replayed);
    assert_eq!(of[0].allow(&ask("a")).await.reservation_id, allowed.reservation_id);
}

/// Killed, and standing still: what they wrote is what is known of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_sidecar_admitted_is_repeated_by_the_others() {
    let Some(store) = redis() else { return };
    let mut fleet = start(4, &store.url(), "closed");
    let of = fleet.gateways().await;
    let (killed, stopped) = (of[0].allow(&ask("killed")).await, of[1].allow(&ask("stopped")).await);
    drop(fleet.sidecars.remove(0));
    fleet::pause(&fleet.sidecars[0]);
    for (id, first) in [("killed", &killed), ("stopped", &stopped)] {
        for gateway in [&of[2], &of[3]] {
            let began = Instant::now();
            let again = until_decided(gateway, &ask(id)).await;
            assert!(again.replayed && again.reservation_id == first.reservation_id, "{again:?}");
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
        assert_eq!(
            of[2].settle(&first.reservation_id, None, None, Some(9)).await.expect("live").outcome(),
            SettleOutcome::Late
        );
        for gateway in [&of[2], &of[3]] {
            assert_eq!(gateway.refuse(&ask(id)).await.reason, "REQUEST_ID_REUSED", "it has ended");
        }
    }
    fleet::resume(&fleet.sidecars[0]);
}

/// While the store is away the others cannot be asked; the same sidecar repeats its own answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_an_id_is_good_for_the_same_sidecar() {
    let Some(mut store) = redis() else { return };
    let fleet = start(2, &store.url(), "share");
    let of = fleet.gateways().await;
    let first = of[0].allow(&ask("a")).await;
    store.kill();
    fleet.wait_until_degraded(true);
    let again = of[0].allow(&ask("a")).await;
    assert!(again.replayed && again.reservation_id == first.reservation_id);
    let alone = of[0].allow(&ask("b")).await;
    assert_eq!(of[0].allow(&ask("b")).await.reservation_id, alone.reservation_id);
}
