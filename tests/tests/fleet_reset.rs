//! ResetLimit in a fleet: on any sidecar, for all of them.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::{
    LimitKey, ListChangesRequest, ResetLimitRequest, ResetLimitResponse, Tier, UpdateTierRequest, WriteOptions,
};
use tidegate_tests::fleet::Fleet;
use tidegate_tests::gateway::{Ask, Gateway, bounds};
use tidegate_tests::redis::{Kind, Setup};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

const FLOOR: u64 = 30_000;
const RAISED: u64 = 90_000;

async fn set_bounds(gateway: &Gateway, floor: u64, ceiling: u64) {
    let tier = Tier { name: "tier-1".into(), bounds: Some(bounds([floor; 3], [ceiling; 3])), ..Tier::default() };
    let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
    gateway.admin().update_tier(gateway.call(request)).await.expect("a good write");
}

async fn reset(gateway: &Gateway, account: &str, dry_run: bool) -> Result<ResetLimitResponse, Status> {
    let key = LimitKey { account: account.into(), model: "m".into(), variant: String::new() };
    let options = Some(WriteOptions { dry_run, ..WriteOptions::default() });
    let request = ResetLimitRequest { key: Some(key), drop_holds: true, options, ..ResetLimitRequest::default() };
    gateway.admin().reset_limit(gateway.call(request)).await.map(tonic::Response::into_inner)
}

async fn until_limit(gateway: &Gateway, ask: &Ask, wanted: u64) {
    let reached = timeout(Duration::from_secs(10), async {
        while gateway.ask(ask).await.map(|answer| answer.windows[0].limit_tpm).ok() != Some(wanted) {
            sleep(Duration::from_millis(20)).await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("not {wanted} within ten seconds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_on_one_sidecar_is_one_for_the_fleet() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    let fleet = Fleet::start(3, &store);
    let mut of = Vec::new();
    for sidecar in &fleet.sidecars {
        of.push(Gateway::of(sidecar).await);
    }
    // A limit that was high stays there for a while when its floor falls.
    let ask = Ask::of("grown").tokens(10, 10, 0);
    set_bounds(&of[0], RAISED, RAISED).await;
    until_limit(&of[0], &ask, RAISED).await;
    until_limit(&of[1], &ask, RAISED).await;
    set_bounds(&of[0], FLOOR, RAISED).await;
    sleep(Duration::from_secs(1)).await;
    until_limit(&of[1], &ask, RAISED).await;
    // Somebody streams on the first sidecar.
    of[0].allow(&Ask::of("grown").tokens(10, 10, 2_000)).await;
    assert!(of[0].windows(&ask).await.generated().held_tokens > 0);

    let unknown = reset(&of[2], "nobody", false).await.expect_err("no sidecar knows it");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
    let would = reset(&of[2], "grown", true).await.expect("it is known in the fleet");
    assert!(!would.persisted);
    assert_eq!(of[1].windows(&ask).await.prompt().limit_tpm, RAISED, "a dry run changes nothing");
    // Of a sidecar that has never seen the key.
    let done = reset(&of[2], "grown", false).await.expect("it is known in the fleet");
    assert!(done.persisted);
    assert_eq!((done.changes.len(), &done.changes), (3, &would.changes), "each window");
    for gateway in &of {
        until_limit(gateway, &ask, FLOOR).await;
    }
    let held = timeout(Duration::from_secs(5), async {
        while of[0].windows(&ask).await.generated().held_tokens > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    held.await.expect("holds are dropped on all sidecars");
    for gateway in &of {
        let request = ListChangesRequest { page_size: 10, ..ListChangesRequest::default() };
        let seen = timeout(Duration::from_secs(5), async {
            loop {
                let page = gateway.admin().list_changes(gateway.call(request.clone())).await.expect("a page");
                let resets = page.into_inner().changes.iter().filter(|change| change.rpc == "ResetLimit").count();
                if resets == 1 {
                    break;
                }
                assert_eq!(resets, 0, "once");
                sleep(Duration::from_millis(20)).await;
            }
        });
        seen.await.expect("each sidecar has the record");
    }
    store.kill();
    sleep(Duration::from_secs(1)).await;
    let away = reset(&of[0], "grown", false).await.expect_err("nobody would hear of it");
    assert_eq!(away.code(), Code::Unavailable, "{away:?}");
}
