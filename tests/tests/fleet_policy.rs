//! One policy for a fleet: `serve` processes on a real Redis, of which each takes admin writes.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::{
    Account, CreateAccountRequest, ListAccountsRequest, ListChangesRequest, SettleOutcome, SettleRequest, Tier,
    UpdateTierRequest,
};
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::fleet::{self, Fleet, LIMIT};
use tidegate_tests::gateway::{Answer, Ask, Gateway, bounds};
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Keys, Kind, Setup};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);

/// Gives the tier of everybody another limit.
async fn set_limit(gateway: &Gateway, limit: u64) -> Result<bool, tonic::Status> {
    let tier = Tier { name: "tier-1".into(), bounds: Some(bounds([limit; 3], [limit; 3])), ..Tier::default() };
    let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
    let written = gateway.admin().update_tier(gateway.call(request)).await?;
    Ok(written.into_inner().persisted)
}

async fn limit(gateway: &Gateway) -> u64 {
    gateway.windows(&Ask::of("somebody")).await.prompt().limit_tpm
}

/// Until the sidecar says this limit: how long that took.
async fn until_limit(gateway: &Gateway, wanted: u64) -> Duration {
    let began = Instant::now();
    let reached = timeout(10 * SECOND, async {
        while limit(gateway).await != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("not {wanted} within ten seconds"));
    began.elapsed()
}

async fn accounts(gateway: &Gateway) -> Vec<String> {
    let request = ListAccountsRequest { page_size: 1_000, ..ListAccountsRequest::default() };
    let page = gateway.admin().list_accounts(gateway.call(request)).await.expect("a page").into_inner();
    page.accounts.into_iter().map(|account| account.name).collect()
}

async fn until_account(gateway: &Gateway, wanted: &str) {
    let there = timeout(10 * SECOND, async {
        while !accounts(gateway).await.iter().any(|name| name == wanted) {
            sleep(Duration::from_millis(10)).await;
        }
    });
    there.await.unwrap_or_else(|_| panic!("no {wanted} within ten seconds"));
}

async fn gateways(fleet: &Fleet) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for sidecar in &fleet.sidecars {
        gateways.push(Gateway::of(sidecar).await);
    }
    gateways
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_on_one_sidecar_acts_on_all_within_a_second_and_outlives_them() {
    for kind in [Kind::Redis7, Kind::Valkey9] {
        let Some(setup) = Setup::of(kind) else { return };
        let store = setup.start();
        let fleet = Fleet::start(3, &store);
        let of = gateways(&fleet).await;
        assert!(set_limit(&of[0], 90_000).await.expect("a good write"), "it is persisted");
        assert_eq!(limit(&of[0]).await, 90_000, "at once where it was made");
        for other in &of[1..] {
            let took = until_limit(other, 90_000).await;
            assert!(took < SECOND, "{took:?}");
        }
        let request = ListChangesRequest { page_size: 10, ..ListChangesRequest::default() };
        let changes = of[2].admin().list_changes(of[2].call(request)).await.expect("a page").into_inner();
        assert_eq!(changes.changes.len(), 1, "and all know who wrote it");
        // The whole fleet goes; the next process has the file of before.
        drop((of, fleet));
        let fleet = Fleet::start(1, &store);
        let of = gateways(&fleet).await;
        assert_eq!(limit(&of[0]).await, 90_000, "the store wins over the file");
        until("the difference is logged", || {
            let log = fleet.sidecars[0].output();
            let is_there = log.contains("tier/tier-1 is otherwise in the file; what the shared store has holds");
            if is_there { Ok(()) } else { Err(log) }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_store_gets_its_policy_back_from_the_sidecars() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let fleet = Fleet::start(2, &store);
    let of = gateways(&fleet).await;
    set_limit(&of[0], 90_000).await.expect("a good write");
    until_limit(&of[1], 90_000).await;
    let admitted = of[0].allow(&Ask::of("somebody")).await;
    store.flush();
    // One that starts at that moment has nothing but its file; it does not become the fleet's policy again.
    let newcomer = tokio::task::spawn_blocking({
        let url = store.url();
        move || fleet::setup(&url, "closed", 0).start()
    });
    let newcomer = newcomer.await.expect("it starts");
    let newcomer = Gateway::of(&newcomer).await;
    until_limit(&newcomer, 90_000).await;
    sleep(SECOND).await;
    for gateway in of.iter().chain([&newcomer]) {
        assert_eq!(limit(gateway).await, 90_000);
    }
    let settle = SettleRequest { reservation_id: admitted.reservation_id, ..SettleRequest::default() };
    let settled = newcomer.raw().settle(newcomer.call(settle)).await.expect("ids of before are good").into_inner();
    assert_eq!(settled.outcome(), SettleOutcome::Applied, "on any sidecar");
    assert!(store.ask::<i64>(&["HLEN", "tidegate:{fleet}:policy"]) > 1);
    assert_eq!(store.ask::<i64>(&["LLEN", "tidegate:{fleet}:changes"]), 1, "with its log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_on_all_sidecars_at_once_are_all_there() {
    const EACH: usize = 25;
    let Some(setup) = Setup::of(Kind::Valkey8) else { return };
    let store = setup.start();
    let fleet = Fleet::start(3, &store);
    let of = gateways(&fleet).await;
    let writers = of.iter().cloned().enumerate().map(|(which, gateway)| {
        tokio::spawn(async move {
            for number in 0..EACH {
                let account = Account { name: format!("account {which}-{number}"), ..Account::default() };
                let request = CreateAccountRequest { account: Some(account), ..CreateAccountRequest::default() };
                gateway.admin().create_account(gateway.call(request)).await.expect("it is new");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    sleep(SECOND).await;
    let first = accounts(&of[0]).await;
    assert_eq!(first.len(), 3 * EACH);
    for gateway in &of {
        assert_eq!(accounts(gateway).await, first);
        let request = ListChangesRequest { page_size: 1_000, ..ListChangesRequest::default() };
        let changes = gateway.admin().list_changes(gateway.call(request)).await.expect("a page").into_inner().changes;
        let mut numbers: Vec<u64> = changes.iter().map(|change| change.sequence).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(1..=3 * EACH as u64), "each write once: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_was_cut_off_takes_no_writes_and_has_the_policy_as_soon_as_it_is_back() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let store = setup.start();
    let mut fleet = Fleet::start(1, &store);
    let proxy = FaultProxy::before(&store.address());
    let url = format!("redis://{}", proxy.address());
    let start = tokio::task::spawn_blocking(move || fleet::setup(&url, "closed", 0).start());
    fleet.sidecars.push(start.await.expect("it starts"));
    let of = gateways(&fleet).await;
    proxy.switch(Fault::Stall).await;
    sleep(2 * SECOND).await;
    let refused = set_limit(&of[1], 70_000).await.expect_err("nobody would hear of it");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(limit(&of[1]).await, LIMIT, "it changed nothing");
    set_limit(&of[0], 90_000).await.expect("a good write");
    sleep(SECOND).await;
    assert_eq!(limit(&of[1]).await, LIMIT);
    proxy.switch(Fault::None).await;
    let took = until_limit(&of[1], 90_000).await;
    assert!(took < 3 * SECOND, "{took:?}");
    let again = timeout(2 * SECOND, async {
        while set_limit(&of[1], 80_000).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    again.await.expect("it takes writes again");
    until_limit(&of[0], 80_000).await;
}

/// What is worse without the store, an outage or an overrun, is not the same for each customer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tier_has_its_own_answer_to_a_store_that_is_away() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.start();
    // By the settings of the sidecars: closed.
    let fleet = Fleet::start(2, &store);
    let of = gateways(&fleet).await;
    for (tier, degrade) in [("inherits", 0), ("shares", 1), ("closed", 2), ("open", 3)] {
        let limits = Some(bounds([1_000; 3], [1_000; 3]));
        let tier = Tier { name: tier.into(), bounds: limits, degrade, ..Tier::default() };
        of[0].tier(&tier.name.clone(), tier).await;
    }
    until_account(&of[1], "open").await;
    until("each has seen both", || {
        let seen = fleet.sum("tidegate_store_sidecars", &[]);
        if seen > 3.5 { Ok(()) } else { Err(format!("{seen}, not 2 on each")) }
    });
    store.kill();
    until("both know that it is away", || {
        let known = fleet.sum("tidegate_degraded", &[("part", "store")]);
        if known > 1.5 { Ok(()) } else { Err(format!("{known} of 2")) }
    });
    // Leases that run are over soon.
    sleep(SECOND).await;
    let mut admitted = Vec::new();
    for account in ["inherits", "shares", "closed", "open"] {
        let mut of_both = Vec::new();
        for gateway in &of {
            let mut tokens = 0;
            let last = loop {
                let answer = gateway.ask(&Ask::of(account).tokens(100, 100, 0)).await.expect("it is decided");
                if !answer.allowed() {
                    break answer;
                }
                tokens += 100;
                assert!(tokens <= 1_000, "{account}");
            };
            of_both.push((tokens, last.http_status));
        }
        admitted.push(of_both);
    }
    let expected = [vec![(0, 503); 2], vec![(500, 429); 2], vec![(0, 503); 2], vec![(1_000, 429); 2]];
    assert_eq!(admitted, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_starts_without_its_store_has_the_policy_of_its_file_until_the_store_is_there() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let mut store = setup.appendonly().start();
    let fleet = Fleet::start(1, &store);
    set_limit(&Gateway::of(&fleet.sidecars[0]).await, 90_000).await.expect("a good write");
    drop(fleet);
    store.kill();
    let url = store.url();
    let late = tokio::task::spawn_blocking(move || fleet::setup(&url, "share", 2).start());
    let late = late.await.expect("it starts");
    let gateway = Gateway::of(&late).await;
    // A key that decides by the file's policy.
    let decided = gateway.windows(&Ask::of("somebody")).await.prompt().limit_tpm;
    assert_eq!(decided, LIMIT);
    gateway.allow(&Ask::of("somebody")).await;
    store.restart(Keys::Kept);
    until_limit(&gateway, 90_000).await;
}
