//! One suite for all stores: call by call they answer what the core answers, on a clock that the test moves.
//!
//! The core is called here as the memory store calls it, without a table. A fleet's store asks a real server for each decision
//! (`strict`); its own time is the server's, so two sidecars are compared at one instant, one alone over minutes.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tidegate_core::ask::Request;
use tidegate_core::decision::{Answer, Denial, ServiceTier, SettleOutcome, WindowStatus};
use tidegate_core::forecast::{ForecastDefaults, Model, Prior};
use tidegate_core::key::KeyRef;
use tidegate_core::law::{Boosts, Bounds, LawParams};
use tidegate_core::policy::{PartialBounds, Policy, PolicyWrite, Tier, Written};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{Allotment, Beyond, EndError, KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};
use tidegate_store::durable::OpenDirectory;
use tidegate_store::fleet::{FleetSettings, FleetStore, StoreMode};
use tidegate_store::memory::{MemoryBounds, MemoryStore};
use tidegate_store::{EndError as StoreError, Store};
use tidegate_tests::redis::{Cluster, Kind, Sentinels, Setup};
use tokio::runtime::Runtime;

const LIMIT: u64 = 3_000;
const INCARNATION: u64 = 7;
const START_MICROS: u64 = 1_700_000_000_000_000;

fn key() -> KeyRef<'static> {
    KeyRef::new("acme", "opus", "").expect("well formed")
}

fn policy() -> Policy {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(LIMIT), ceiling_tpm: Some(LIMIT) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
    let write = PolicyWrite::Update { entry, expected_revision: None };
    Policy::built_in().apply(write, Timestamp::from_micros(START_MICROS)).expect("a good tier").0
}

/// What a gateway does. Reservations are named by the order in which they were admitted.
#[derive(Clone, Debug)]
enum Step {
    Ask { prompt: u64, cached: Option<u64>, most: Option<u64>, ttl_seconds: u64 },
    Progress { which: usize, total: u64 },
    Settle { which: usize, counts: SettleCounts },
    Release { which: usize },
    Look,
    Wait { ms: u64 },
}

/// Of each window: limit, used, held, remaining.
type Windows = PerWindow<[u64; 4]>;

/// What came of it, as far as a caller sees it.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Allowed { reserved: Tokens, windows: Windows },
    Denied { denial: Denial, ask: Tokens },
    Booked(SettleOutcome),
    Refused(&'static str),
    Windows(Windows),
    Nothing,
}

fn windows(of: PerWindow<WindowStatus>) -> Windows {
    of.map(|window| [window.limit_tpm, window.used_tokens, window.held_tokens, window.remaining_tokens])
}

fn seen(answer: &Answer) -> Seen {
    match answer.outcome {
        Ok(allowed) => Seen::Allowed { reserved: allowed.reserved, windows: windows(answer.windows) },
        // What others have is told as it was last known, and above a limit it need not be known.
        Err(denied) => Seen::Denied { denial: denied.denial, ask: denied.ask },
    }
}

fn request(prompt: u64, cached: Option<u64>, most: Option<u64>, ttl_seconds: u64) -> Request<'static> {
    Request {
        key: key(),
        prompt_tokens: prompt,
        cached_prompt_tokens: cached,
        max_generated_tokens: most,
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(ttl_seconds),
    }
}

/// The core, with no store around it.
struct Core {
    state: KeyState,
    model: Model,
    prior: Prior,
    forecast: ForecastDefaults,
    bounds: PerWindow<Bounds>,
    now: Timestamp,
    tickets: Vec<Ticket>,
    /// Whether it is asked first with nothing allotted, as by those who then ask their fleet. That decides nothing that it would
    /// not decide in any case, but looks at silent streams where there is no need.
    asks_first: bool,
}

impl Core {
    fn new(asks_first: bool) -> Self {
        let forecast = ForecastDefaults::default();
        let prior = Prior::from_defaults(&forecast);
        let bounds = PerWindow::from_fn(|_| Bounds::new(LIMIT, LIMIT).expect("in order"));
        let now = Timestamp::from_micros(START_MICROS);
        let state = KeyState::new(now, key().phase_seconds(), &bounds, &prior);
        Self { state, model: Model::new(&prior), prior, forecast, bounds, now, tickets: Vec::new(), asks_first }
    }

    fn call<T>(&mut self, step: impl FnOnce(&mut KeyState, Timestamp, &Rules<'_>) -> T) -> T {
        let rules = Rules {
            bounds: &self.bounds,
            law: &LawParams::DEFAULT,
            boosts: &Boosts::default(),
            fallback: self.model.prior(),
            forecast: &self.forecast,
            pressure: PerWindow::default(),
            incarnation: INCARNATION,
            allotment: None,
            law_is_shared: false,
        };
        step(&mut self.state, self.now, &rules)
    }

    fn run(&mut self, step: &Step) -> Seen {
        let of = |error| match error {
            EndError::Ended => Seen::Refused("ended"),
            EndError::TooLate => Seen::Refused("too late"),
        };
        match *step {
            Step::Wait { ms } => {
                self.now = self.now.after(Duration::from_millis(ms));
                Seen::Nothing
            }
            Step::Look => Seen::Windows(windows(self.call(|state, now, rules| {
                state.advance(now, rules);
                state.windows(rules)
            }))),
            Step::Ask { prompt, cached, most, ttl_seconds } => {
                let request = request(prompt, cached, most, ttl_seconds);
                let sequence = self.tickets.len() as u64 + 1;
                let number = Number { incarnation: INCARNATION, sequence };
                let reserve = Reserve { request: &request, request_id: None, most_reservations: 100_000 };
                let asks_first = self.asks_first;
                let answer = self.call(|state, now, rules| {
                    if asks_first {
                        let (allotted, elsewhere) = (Tokens::default(), Tokens::default());
                        let frees_in = PerWindow::default();
                        let nothing = Allotment { allotted, elsewhere, frees_in, beyond: Beyond::Ask };
                        let rules = Rules { allotment: Some(nothing), ..*rules };
                        if let Ok(answer) = state.try_reserve(now, &rules, &reserve, || Ok(number))? {
                            return Ok(answer);
                        }
                    }
                    state.reserve(now, rules, &reserve, || Ok(number))
                });
                let answer = answer.expect("no request id");
                if let Ok(allowed) = answer.outcome {
                    let (admitted_at, reserved) = (allowed.admitted_at, allowed.reserved);
                    self.tickets.push(Ticket { number: allowed.number, admitted_at, ttl: request.ttl, reserved });
                }
                seen(&answer)
            }
            Step::Progress { which, total } => {
                let Some(ticket) = self.tickets.get(which).copied() else { return Seen::Nothing };
                let booked = self.call(|state, now, rules| state.report_progress(now, rules, &ticket, total));
                booked.map_or_else(of, |booked| Seen::Booked(booked.outcome))
            }
            Step::Settle { which, counts } => {
                let Some(ticket) = self.tickets.get(which).copied() else { return Seen::Nothing };
                match self.call(|state, now, rules| state.settle(now, rules, &ticket, &counts)) {
                    Ok(booked) => {
                        let prior = self.prior;
                        booked.sample.iter().for_each(|sample| self.model.on_settled(sample, &prior));
                        Seen::Booked(booked.outcome)
                    }
                    Err(error) => of(error),
                }
            }
            Step::Release { which } => {
                let Some(ticket) = self.tickets.get(which).copied() else { return Seen::Nothing };
                self.call(|state, now, rules| state.release(now, rules, &ticket)).map_or_else(of, Seen::Booked)
            }
        }
    }
}

/// Some stores behind one gateway, and the ids that they gave it.
struct Stores<S> {
    stores: Vec<S>,
    clock: Arc<AtomicU64>,
    ids: Vec<String>,
}

impl<S: Store> Stores<S> {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.load(Ordering::SeqCst))
    }

    async fn run(&mut self, step: &Step, on: usize) -> Seen {
        let (now, store) = (self.now(), &self.stores[on % self.stores.len()]);
        let of = |error| match error {
            StoreError::Ended => Seen::Refused("ended"),
            StoreError::TooLate => Seen::Refused("too late"),
            other => panic!("{other}"),
        };
        match *step {
            Step::Wait { ms } => {
                self.clock.fetch_add(ms * 1_000, Ordering::SeqCst);
                store.on_tick(self.now());
                Seen::Nothing
            }
            Step::Look => Seen::Windows(windows(store.limits(now, key()).await)),
            Step::Ask { prompt, cached, most, ttl_seconds } => {
                let request = request(prompt, cached, most, ttl_seconds);
                let reserved = store.check_and_reserve(now, &request).await.expect("no request id");
                self.ids.extend(reserved.id_text(request.key));
                seen(&reserved.answer)
            }
            Step::Progress { which, total } => {
                let Some(id) = self.ids.get(which) else { return Seen::Nothing };
                let booked = store.report_progress(now, id, total).await;
                booked.map_or_else(of, |booked| Seen::Booked(booked.outcome))
            }
            Step::Settle { which, counts } => {
                let Some(id) = self.ids.get(which) else { return Seen::Nothing };
                let booked = store.settle(now, id, counts).await;
                booked.map_or_else(of, |booked| Seen::Booked(booked.outcome))
            }
            Step::Release { which } => {
                let Some(id) = self.ids.get(which) else { return Seen::Nothing };
                store.release(now, id).await.map_or_else(of, Seen::Booked)
            }
        }
    }
}

fn counts(most: u64) -> impl Strategy<Value = SettleCounts> {
    let tokens = || prop::option::of(0..most);
    (tokens(), tokens(), tokens()).prop_map(|(prompt_tokens, cached_prompt_tokens, generated_tokens)| SettleCounts {
        prompt_tokens,
        cached_prompt_tokens,
        generated_tokens,
    })
}

/// All that a gateway may do. No wait is so long that a store may forget the key, and what it has learned of it.
fn anything() -> impl Strategy<Value = Step> {
    let prompt = prop_oneof![6 => 1..600_u64, 1 => 1..4_000_u64];
    let ask = (prompt, prop::option::of(0..=1_000_u64), prop::option::of(0..900_u64), 1..120_u64).prop_map(
        |(prompt, cached, most, ttl_seconds)| {
            let cached = cached.map(|permille| prompt * permille / 1_000);
            Step::Ask { prompt, cached, most, ttl_seconds }
        },
    );
    let which = || 0..60_usize;
    prop_oneof![
        8 => ask,
        3 => (which(), 0..900_u64).prop_map(|(which, total)| Step::Progress { which, total }),
        4 => (which(), counts(900)).prop_map(|(which, counts)| Step::Settle { which, counts }),
        1 => which().prop_map(|which| Step::Release { which }),
        2 => Just(Step::Look),
        3 => (1..5_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (50_000..70_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Prompts alone, at one instant: what a fleet adds up exactly.
fn prompts() -> impl Strategy<Value = Step> {
    let ask = (1..500_u64, 0..=1_000_u64).prop_map(|(prompt, permille)| Step::Ask {
        prompt,
        cached: Some(prompt * permille / 1_000),
        most: Some(0),
        ttl_seconds: 600,
    });
    let which = || 0..40_usize;
    prop_oneof![
        8 => ask,
        3 => (which(), counts(300)).prop_map(|(which, counts)| {
            Step::Settle { which, counts: SettleCounts { generated_tokens: Some(0), ..counts } }
        }),
        2 => which().prop_map(|which| Step::Release { which }),
    ]
}

/// Plays the same steps to the core and to the stores, on which of them a second draw says.
fn equals_the_core<S: Store>(
    name: &str,
    runtime: &Runtime,
    histories: usize,
    length: usize,
    step: impl Strategy<Value = Step>,
    asks_first: bool,
    mut make: impl FnMut() -> Stores<S>,
) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec((step, any::<usize>()), length);
    let (mut allowed, mut denied, mut booked) = (0, 0, 0);
    for history in 0..histories {
        let steps = steps.new_tree(&mut runner).expect("nothing is filtered").current();
        let (mut core, mut stores) = (Core::new(asks_first), make());
        core.now = stores.now();
        core.state = KeyState::new(core.now, key().phase_seconds(), &core.bounds, &core.prior);
        for (at, (step, on)) in steps.iter().enumerate() {
            let wanted = core.run(step);
            let got = runtime.block_on(stores.run(step, *on));
            let told = || format!("{name}, history {history}: {:?}", &steps[..=at]);
            assert_eq!(got, wanted, "{}", told());
            match got {
                Seen::Allowed { .. } => allowed += 1,
                Seen::Denied { .. } => denied += 1,
                Seen::Booked(_) => booked += 1,
                _ => {}
            }
        }
    }
    println!("{name}: {allowed} allowed, {denied} denied, {booked} booked as by the core");
    assert!(allowed > 0 && denied > 0 && booked > 0, "{name}: there was something to compare");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn clock() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(START_MICROS))
}

#[test]
fn the_memory_store_equals_the_core() {
    equals_the_core("memory", &runtime(), 60, 150, anything(), false, || {
        let store = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), policy());
        Stores { stores: vec![store.expect("randomness")], clock: clock(), ids: Vec::new() }
    });
}

#[test]
fn the_durable_store_equals_the_core() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut histories = 0;
    equals_the_core("durable", &runtime(), 12, 150, anything(), false, || {
        histories += 1;
        let (clock, path) = (clock(), folder.path().join(histories.to_string()));
        let wall = Timestamp::from_micros(START_MICROS);
        let recovered =
            OpenDirectory::open(&path, MemoryBounds::default(), ForecastDefaults::default(), &policy(), wall);
        let at = Arc::clone(&clock);
        let now = Arc::new(move || Timestamp::from_micros(at.load(Ordering::SeqCst)));
        let store = recovered.expect("a new directory").start(now).expect("it starts");
        Stores { stores: vec![store], clock, ids: Vec::new() }
    });
}

/// So many sidecars in `strict`, each with a new account in the place of an empty store: as the silence of a new store takes five
/// seconds, all histories go to one.
fn strict(url: &str, sidecars: usize) -> (Vec<FleetStore>, Arc<AtomicU64>) {
    let clock = clock();
    let start = |_| {
        let settings = FleetSettings {
            mode: StoreMode::Strict,
            // On machines as slow as they may be.
            timeout: Duration::from_secs(1),
            ..FleetSettings::at(url.parse().expect("an address"))
        };
        let at = Arc::clone(&clock);
        let now = Arc::new(move || Timestamp::from_micros(at.load(Ordering::SeqCst)));
        let patience = Duration::from_secs(10);
        FleetStore::start(MemoryBounds::default(), ForecastDefaults::default(), policy(), settings, now, patience)
            .expect("it starts")
    };
    let stores = (0..sidecars).map(start).collect();
    // Real time has passed until the store grants.
    clock.fetch_add(6_000_000, Ordering::SeqCst);
    (stores, clock)
}

fn strict_equals_the_core(name: &str, url: &str) {
    let runtime = runtime();
    // One sidecar, all that there is, over hours of its own time.
    let (stores, clock) = strict(url, 1);
    let mut stores = Some(Stores { stores, clock, ids: Vec::new() });
    equals_the_core(&format!("{name}, one sidecar"), &runtime, 1, 600, anything(), true, || {
        stores.take().expect("one history")
    });
}

fn two_strict_sidecars_equal_the_core(name: &str, url: &str) {
    let runtime = runtime();
    let (stores, clock) = strict(url, 2);
    let mut stores = Some(Stores { stores, clock, ids: Vec::new() });
    equals_the_core(&format!("{name}, two sidecars"), &runtime, 1, 300, prompts(), true, || {
        stores.take().expect("one history")
    });
}

fn strict_on(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let store = setup.clone().start();
    strict_equals_the_core(kind.name(), &store.url());
    let store = setup.start();
    two_strict_sidecars_equal_the_core(kind.name(), &store.url());
}

#[test]
fn strict_equals_the_core_on_redis_7() {
    strict_on(Kind::Redis7);
}

#[test]
fn strict_equals_the_core_on_redis_8() {
    strict_on(Kind::Redis8);
}

#[test]
fn strict_equals_the_core_on_valkey_8() {
    strict_on(Kind::Valkey8);
}

#[test]
fn strict_equals_the_core_on_valkey_9() {
    strict_on(Kind::Valkey9);
}

#[test]
fn strict_equals_the_core_on_a_cluster() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let cluster = Cluster::start(&setup);
    two_strict_sidecars_equal_the_core("Cluster", &cluster.url());
}

#[test]
fn strict_equals_the_core_behind_sentinels() {
    let Some(setup) = Setup::of(Kind::Valkey9) else { return };
    let group = Sentinels::start(&setup, 2);
    two_strict_sidecars_equal_the_core("Sentinel", &group.url());
}
