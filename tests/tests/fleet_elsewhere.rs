//! A gateway may bring back a reservation to any sidecar of the fleet: `serve` processes on a real Redis or Valkey.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::SettleOutcome;
use tidegate_tests::fleet::{self, Fleet};
use tidegate_tests::gateway::{Ask, Failure, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Cluster, Kind, Setup};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn ask() -> Ask {
    Ask::of("roaming").tokens(1_000, 1_000, 500)
}

async fn settle(gateway: &Gateway, id: &str, generated: u64) -> SettleOutcome {
    gateway.settle(id, None, None, Some(generated)).await.expect("it can be settled").outcome()
}

fn calls(fleet: &Fleet, by: &str) -> f64 {
    fleet.sum("tidegate_store_reservation_calls_total", &[("by", by)])
}

/// Each call on a sidecar that has not admitted, and each a second time on one that has, or has not.
async fn any_sidecar_books_what_another_admitted(fleet: &Fleet) {
    let of = fleet.gateways().await;
    let admitted = of[0].allow(&ask()).await;
    let id = admitted.reservation_id.as_str();
    let held = of[0].windows(&ask()).await;
    assert_eq!((held.used()[0], held.generated().held_tokens > 0), (1_000, true), "{held:?}");

    let progress = of[1].progress(id, 40).await.expect("it is live");
    assert_eq!(progress.outcome(), SettleOutcome::Applied);
    assert_eq!(of[0].windows(&ask()).await.used()[2], 40, "it is booked where it was admitted");
    let again = of[2].progress(id, 40).await.expect("it is live");
    assert_eq!(again.outcome(), SettleOutcome::Duplicate, "a total that is known changes nothing");

    assert_eq!(settle(&of[1], id, 60).await, SettleOutcome::Applied);
    for gateway in [&of[0], &of[1], &of[2]] {
        assert_eq!(settle(gateway, id, 90_000).await, SettleOutcome::Duplicate, "the first settlement wins");
        let ended = Failure::of(&gateway.progress(id, 90_000).await.expect_err("it has ended"));
        assert_eq!(ended.reason, "RESERVATION_ENDED");
        assert_eq!(gateway.release(id).await.expect("a late release").outcome(), SettleOutcome::Duplicate);
    }
    let after = of[0].windows(&ask()).await;
    assert_eq!((after.used(), after.generated().held_tokens), ([1_000, 1_000, 60], 0), "charged once: {after:?}");

    let id = of[2].allow(&ask()).await.reservation_id;
    assert_eq!(of[0].release(&id).await.expect("it is live").outcome(), SettleOutcome::Applied);
    assert_eq!(of[1].release(&id).await.expect("it has ended").outcome(), SettleOutcome::Duplicate);
    assert!(calls(fleet, "carried") >= 8.0, "{}", calls(fleet, "carried"));
    assert!(calls(fleet, "taken_over") < 0.5);
    of[0].verdict().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sidecar_books_what_another_admitted_on_redis_and_valkey() {
    for kind in [Kind::Redis7, Kind::Valkey9] {
        let Some(setup) = Setup::of(kind) else { return };
        let store = setup.start();
        any_sidecar_books_what_another_admitted(&Fleet::start(3, &store)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sidecar_books_what_another_admitted_on_a_cluster() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let cluster = Cluster::start(&setup);
    any_sidecar_books_what_another_admitted(&Fleet::start_with(3, &cluster.url(), &[])).await;
}

/// Killed, stopped in good order, and standing still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_sidecar_admitted_is_charged_once_and_late() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(5, &store);
    let of = fleet.gateways().await;
    let mut ids = Vec::new();
    for gateway in &of[..3] {
        ids.push(gateway.allow(&ask()).await.reservation_id);
    }
    // The ledger is to hear of them before they go.
    sleep(SECOND).await;
    drop(fleet.sidecars.remove(0));
    let mut gone = fleet.sidecars.remove(0);
    gone.terminate();
    assert!(gone.wait().is_some_and(|status| status.success()));
    fleet::pause(&fleet.sidecars[0]);
    let [one, other] = [&of[3], &of[4]];
    for id in &ids {
        let began = Instant::now();
        assert_eq!(settle(one, id, 70).await, SettleOutcome::Late);
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        assert_eq!(settle(one, id, 70).await, SettleOutcome::Duplicate, "once here");
        assert_eq!(settle(other, id, 70).await, SettleOutcome::Duplicate, "and once in the fleet");
        let ended = Failure::of(&other.progress(id, 80).await.expect_err("it has ended"));
        assert_eq!(ended.reason, "RESERVATION_ENDED");
    }
    assert!((calls(&Fleet { sidecars: fleet.sidecars.split_off(1) }, "taken_over") - 3.0).abs() < 0.1);
    fleet::resume(&fleet.sidecars[0]);
    // It is back, finds the letter, and leaves it: the hold is there until it fades.
    sleep(SECOND / 2).await;
    let windows = of[2].windows(&ask()).await;
    assert!(windows.generated().held_tokens > 0, "{windows:?}");
    let page = Page::scrape(fleet.sidecars[0].http());
    assert!(page.sum("tidegate_reservations", &[]) > 0.5, "nobody has ended it there");
}

/// While the store is away nobody can be asked: what was used is charged where it is said, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_a_settlement_elsewhere_is_late_and_waits_for_nobody() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let sidecars = [(), ()].map(|()| fleet::setup(&store.url(), "share", 2).start());
    let fleet = Fleet { sidecars: sidecars.into() };
    let of = fleet.gateways().await;
    let id = of[0].allow(&ask()).await.reservation_id;
    store.kill();
    until("both know", || {
        let known = fleet.sum("tidegate_degraded", &[("part", "store")]);
        if known > 1.5 { Ok(()) } else { Err(format!("{known} of 2")) }
    });
    let began = Instant::now();
    assert_eq!(settle(&of[1], &id, 30).await, SettleOutcome::Late);
    assert_eq!(settle(&of[1], &id, 30).await, SettleOutcome::Duplicate);
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}
