//! D12, on the store itself: however the shared ledger fails, a decision waits for it no longer than was configured.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::policy::{Degrade, Policy};
use tidegate_core::time::Timestamp;
use tidegate_store::Store;
use tidegate_store::fleet::{FleetSettings, FleetStore, StoreMode};
use tidegate_store::memory::MemoryBounds;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Kind, Server, Setup};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Decisions at a time, each on a key of its own, and how often they come.
const AT_A_TIME: usize = 500;
const ROUNDS: usize = 5;

/// Real time: the clerk's thread has it, whatever the clock of the test does.
#[expect(clippy::disallowed_methods, reason = "a real server is on the other side")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_micros(u64::try_from(since.expect("after 1970").as_micros()).expect("before the year 500000"))
}

/// A real server, and a proxy before it on a runtime of its own, whose time goes on.
struct Network {
    _server: Server,
    runtime: Option<Runtime>,
    proxy: FaultProxy,
}

impl Network {
    fn start(setup: Setup) -> Self {
        let server = setup.start();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let address = server.address();
        let proxy = std::thread::scope(|scope| {
            let start = || runtime.block_on(async { FaultProxy::before(&address) });
            scope.spawn(start).join().expect("it starts")
        });
        Self { _server: server, runtime: Some(runtime), proxy }
    }

    fn switch(&self, fault: Fault) {
        let runtime = self.runtime.as_ref().expect("it is there until it is dropped");
        let switch = || runtime.block_on(self.proxy.switch(fault));
        std::thread::scope(|scope| scope.spawn(switch).join().expect("it runs"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The test is on a runtime, where another one may not be waited for.
        self.runtime.take().expect("it is dropped once").shutdown_background();
    }
}

/// What a decision takes on the clock of the test, which goes on only while it waits; and whether it was admitted.
async fn decided(store: Arc<FleetStore>, key: LimitKey, request_id: Option<&'static str>) -> (Duration, bool) {
    let key = key.as_ref();
    let request = Request {
        key: KeyRef::new(key.account(), key.model(), key.variant()).expect("a key"),
        prompt_tokens: 10,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(10),
        service_tier: ServiceTier::Standard,
        request_id,
        ttl: Duration::from_secs(60),
    };
    let began = Instant::now();
    let reserved = store.check_and_reserve(now(), &request).await.expect("decided");
    (began.elapsed(), reserved.answer.outcome.is_ok())
}

/// The longest that one of thousands of decisions waits while the store stands still and comes back again and again.
async fn longest_wait(network: &Network, mode: StoreMode, timeout: Duration) -> Duration {
    let address = format!("redis://{}", network.proxy.address()).parse().expect("an address");
    let settings = FleetSettings { mode, timeout, degrade: Degrade::Closed, ..FleetSettings::at(address) };
    let bounds = MemoryBounds::default();
    let (forecast, policy) = (ForecastDefaults::default(), Policy::built_in());
    let store = FleetStore::start(bounds, forecast, policy, settings, Arc::new(now), Duration::from_secs(10));
    let store = Arc::new(store.expect("it starts"));
    let (mut longest, mut unavailable, mut decisions) = (Duration::ZERO, 0, 0);
    for round in 0..ROUNDS {
        network.switch(Fault::None);
        until("the store answers", || {
            let fleet = store.stats().fleet.expect("it has one");
            if fleet.answers { Ok(()) } else { Err(format!("{fleet:?}")) }
        });
        network.switch(Fault::Stall);
        // The first ones are all there before one has waited for its time: each finds a store that seems to answer.
        for again in 0..2 {
            let mut running = JoinSet::new();
            for number in 0..AT_A_TIME {
                let account = format!("{}-{number}", round * 2 + again);
                let key = KeyRef::new(&account, "m", "").expect("a key").to_owned();
                // In `strict` an id is claimed in the store before the decision.
                let request_id = (number % 2 == 0).then_some("id");
                running.spawn(decided(Arc::clone(&store), key, request_id));
            }
            while let Some(decided) = running.join_next().await {
                let (waited, is_admitted) = decided.expect("no panic");
                longest = longest.max(waited);
                decisions += 1;
                unavailable += usize::from(!is_admitted);
            }
        }
    }
    let timeouts = store.stats().fleet.expect("it has one").timeouts;
    println!("{mode:?}, {timeout:?}: {decisions} decisions, {timeouts} waited in vain, the longest for {longest:?}");
    assert_eq!(unavailable, decisions, "closed, and no key had a lease");
    assert!(timeouts >= ROUNDS as u64 * AT_A_TIME as u64 / 2, "{timeouts} waited");
    network.switch(Fault::None);
    store.stop(Duration::from_secs(5));
    longest
}

/// D12: a limiter that waits for its store makes every request wait.
#[tokio::test(start_paused = true)]
async fn d12_a_decision_waits_for_the_store_no_longer_than_was_configured() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let network = Network::start(setup);
    for timeout in [1, 5, 20].map(Duration::from_millis) {
        for mode in [StoreMode::Leased, StoreMode::Strict] {
            let longest = longest_wait(&network, mode, timeout).await;
            assert!(longest <= timeout, "{mode:?}: a decision waited for {longest:?}, not {timeout:?}");
            assert!(longest >= timeout, "{mode:?}: none waited for {timeout:?}, but at most {longest:?}");
        }
    }
}
