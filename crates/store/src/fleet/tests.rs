//! Whole desks on a network that the test is: reports that are late, lost or answered in vain, a ledger that forgets, sidecars that
//! die. In no trailing minute does the fleet admit more than the limit.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tidegate_core::decision::ServiceTier;
use tidegate_core::fleet::{self, Granted, Lost};
use tidegate_core::policy::{PartialBounds, Tier, Written};

use super::decision::{Attempt, MOST_ATTEMPTS};
use super::lease::{Said, Waited};
use super::*;

const LIMIT: u64 = 3_000;
const START_MS: u64 = 1_700_000_000_000;
/// How often what is due is looked for.
const LOOK_MS: u64 = 20;
/// How often a sidecar asks for the life of the data.
const ROLL_CALL_MS: u64 = 1_000;

fn policy(ceiling: u64) -> Policy {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(LIMIT), ceiling_tpm: Some(ceiling) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
    let write = PolicyWrite::Update { entry, expected_revision: None };
    Policy::built_in().apply(write, Timestamp::from_millis(START_MS)).expect("a good tier").0
}

fn key() -> KeyRef<'static> {
    KeyRef::new("acme", "opus", "").expect("well formed")
}

fn request(prompt: u64) -> Request<'static> {
    Request {
        key: key(),
        prompt_tokens: prompt,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(0),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    }
}

/// A report on its way.
struct Flight {
    said: Said,
    arrives_ms: u64,
    returns_ms: u64,
    /// The answer, once it has arrived; `None`: it never comes.
    answer: Option<Result<Granted, Lost>>,
    has_arrived: bool,
    is_lost: bool,
    rounds: u32,
}

struct Sidecar {
    desk: Desk,
    orders: mpsc::Receiver<Fingerprint>,
    flight: Option<Flight>,
    /// Requests that wait.
    waiting: Vec<(Request<'static>, usize, Waited)>,
    ids: Vec<String>,
    is_cut: bool,
    /// Reports made.
    said: u64,
}

/// A fleet, its ledger and the truth.
struct World {
    now_ms: u64,
    clock: Arc<AtomicU64>,
    ledger: fleet::Ledger,
    life: u64,
    born_ms: u64,
    sidecars: Vec<Sidecar>,
    /// What was admitted: when, and how much.
    truth: Vec<(u64, u64)>,
    settings: FleetSettings,
    there_ms: u64,
    back_ms: u64,
    loses: bool,
    ceiling: u64,
    most: u64,
    allowed: u64,
    /// When the last denial was, and how long it said to wait.
    told: Option<(u64, Duration)>,
}

impl World {
    fn new(sidecars: usize, degrade: Degrade, mode: StoreMode) -> Self {
        Self::growing(sidecars, degrade, mode, LIMIT)
    }

    fn growing(sidecars: usize, degrade: Degrade, mode: StoreMode, ceiling: u64) -> Self {
        let address = "redis://127.0.0.1:1".parse().expect("an address");
        let settings = FleetSettings { degrade, mode, ..FleetSettings::at(address) };
        let clock = Arc::new(AtomicU64::new(START_MS));
        let mut world = Self {
            now_ms: START_MS,
            clock,
            ledger: fleet::Ledger::default(),
            life: 0,
            born_ms: 0,
            sidecars: Vec::new(),
            truth: Vec::new(),
            settings,
            there_ms: 1,
            back_ms: 1,
            loses: false,
            ceiling,
            most: 0,
            allowed: 0,
            told: None,
        };
        world.ledger.begin(1, 0);
        world.life = 1;
        for _ in 0..sidecars {
            let sidecar = world.sidecar();
            world.sidecars.push(sidecar);
        }
        world
    }

    fn sidecar(&self) -> Sidecar {
        let table = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), policy(self.ceiling));
        let clock = Arc::clone(&self.clock);
        let now: Now = Arc::new(move || Timestamp::from_millis(clock.load(Ordering::Relaxed)));
        let (desk, orders) = Desk::new(table.expect("randomness"), policy(self.ceiling), self.settings.clone(), now);
        let orders = orders.keys;
        desk.status.on_connected(false);
        let sidecar =
            Sidecar { desk, orders, flight: None, waiting: Vec::new(), ids: Vec::new(), is_cut: false, said: 0 };
        self.learn(&sidecar);
        sidecar
    }

    fn learn(&self, sidecar: &Sidecar) {
        let age_ms = self.now_ms - self.born_ms;
        sidecar.desk.on_life(Timestamp::from_millis(self.now_ms), slot(key()), self.life, age_ms);
    }

    fn flush(&mut self) {
        self.ledger = fleet::Ledger::default();
        self.life += 1;
        self.born_ms = self.now_ms;
        self.ledger.begin(self.life, self.now_ms);
    }

    fn pass(&mut self, span_ms: u64) {
        let until = self.now_ms + span_ms;
        while self.now_ms < until {
            // Milliseconds count while something is on its way.
            let is_busy = self.sidecars.iter().any(|sidecar| sidecar.flight.is_some());
            let look = (self.now_ms / LOOK_MS + 1) * LOOK_MS;
            self.now_ms = if is_busy { self.now_ms + 1 } else { look.min(until) };
            self.clock.store(self.now_ms, Ordering::Relaxed);
            for which in 0..self.sidecars.len() {
                self.step(which);
            }
        }
    }

    fn step(&mut self, which: usize) {
        if self.now_ms.is_multiple_of(ROLL_CALL_MS) && !self.sidecars[which].is_cut {
            self.learn(&self.sidecars[which]);
        }
        if self.now_ms.is_multiple_of(LOOK_MS) {
            let sidecar = &self.sidecars[which];
            if self.now_ms.is_multiple_of(25 * LOOK_MS) {
                sidecar.desk.table.on_tick(Timestamp::from_millis(self.now_ms));
            }
            sidecar.desk.look();
        }
        if self.sidecars[which].flight.is_none()
            && let Ok(fingerprint) = self.sidecars[which].orders.try_recv()
        {
            self.say(which, fingerprint, 0);
        }
        let Some(mut flight) = self.sidecars[which].flight.take() else { return };
        if !flight.has_arrived && self.now_ms >= flight.arrives_ms {
            flight.has_arrived = true;
            let answer = self.ledger.report(self.now_ms, &flight.said.report());
            flight.answer = (!flight.is_lost && !self.sidecars[which].is_cut).then_some(answer);
        }
        if self.now_ms < flight.returns_ms {
            self.sidecars[which].flight = Some(flight);
            return;
        }
        let fingerprint = self.sidecars[which].desk.table.of_key(key());
        match flight.answer {
            None => self.sidecars[which].desk.give_up(fingerprint),
            Some(Err(Lost)) => {
                self.learn(&self.sidecars[which]);
                self.say(which, fingerprint, flight.rounds + 1);
            }
            Some(Ok(granted)) => {
                let now = Timestamp::from_millis(self.now_ms);
                let desk = &self.sidecars[which].desk;
                match desk.on_answer(fingerprint, &flight.said, &granted) {
                    Some((expected, from)) => {
                        let (next, _) = desk.table.next_law(now, key(), from.as_ref(), granted.epoch, 0);
                        self.ledger.set_law(expected, next);
                        self.say(which, fingerprint, flight.rounds + 1);
                    }
                    None => {
                        let lease = desk.leases.get(&fingerprint).expect("it has one");
                        drop(lease.lock().finish(now));
                    }
                }
            }
        }
        if self.sidecars[which].flight.is_none() {
            for (request, attempt, waited) in std::mem::take(&mut self.sidecars[which].waiting) {
                self.attempt_again(which, request, attempt + 1, Some(waited));
            }
        }
    }

    fn say(&mut self, which: usize, fingerprint: Fingerprint, rounds: u32) {
        let sidecar = &mut self.sidecars[which];
        if rounds > 3 {
            sidecar.desk.give_up(fingerprint);
            return;
        }
        sidecar.said += 1;
        let (_, said) = sidecar.desk.say(fingerprint).expect("it has a lease");
        let arrives_ms = if sidecar.is_cut { u64::MAX } else { self.now_ms + self.there_ms };
        let returns_ms = self.now_ms + self.there_ms + self.back_ms;
        let is_lost = self.loses;
        sidecar.flight =
            Some(Flight { said, arrives_ms, returns_ms, answer: None, has_arrived: false, is_lost, rounds });
    }

    fn attempt(&mut self, which: usize, request: Request<'static>) {
        self.attempt_again(which, request, 0, None);
    }

    fn attempt_again(&mut self, which: usize, request: Request<'static>, attempt: usize, waited: Option<Waited>) {
        let now = Timestamp::from_millis(self.now_ms);
        let sidecar = &mut self.sidecars[which];
        let fingerprint = sidecar.desk.table.of_key(request.key);
        let ledger = if attempt < MOST_ATTEMPTS { Ledger::Asked } else { Ledger::NotNow };
        match sidecar.desk.attempt(now, fingerprint, &request, waited, ledger).expect("no request id") {
            Attempt::Wait { waited, .. } => sidecar.waiting.push((request, attempt, waited)),
            Attempt::Decided(reserved) if reserved.answer.outcome.is_ok() => {
                sidecar.ids.extend(reserved.id_text(request.key));
                self.allowed += request.prompt_tokens;
                self.truth.push((self.now_ms, request.prompt_tokens));
                let now_ms = self.now_ms;
                self.truth.retain(|(at, _)| at + 60_000 > now_ms);
                self.most = self.most.max(self.truth.iter().map(|(_, tokens)| tokens).sum());
            }
            Attempt::Decided(reserved) => {
                let wait = reserved.answer.outcome.err().and_then(|denied| denied.retry_after);
                self.told = wait.map(|wait| (self.now_ms, wait));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Asks(usize, u64, u64),
    Settle(usize),
    Network { there_ms: u64, back_ms: u64, loses: bool },
    Cut(usize, bool),
    Flush,
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        27 => calm(),
        2 => (0_u64..40, 0_u64..40, prop::bool::weighted(0.2))
            .prop_map(|(there_ms, back_ms, loses)| Step::Network { there_ms, back_ms, loses }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(who, is_cut)| Step::Cut(who, is_cut)),
        1 => (0..3_usize).prop_map(Step::Kill),
    ]
}

/// Nobody is gone or late.
fn calm() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => (1_u64..30).prop_map(Step::Wait),
        3 => (30_u64..700).prop_map(Step::Wait),
        1 => prop_oneof![(5_000_u64..8_000), (55_000_u64..62_000)].prop_map(Step::Wait),
        12 => (0..3_usize, 1_u64..6, prop_oneof![1_u64..6, 1_u64..100, 1_u64..1_500])
            .prop_map(|(who, asks, tokens)| Step::Asks(who, asks, tokens)),
        2 => (0..3_usize).prop_map(Step::Settle),
    ]
}

fn run(world: &mut World, step: Step) {
    match step {
        Step::Wait(span_ms) => world.pass(span_ms),
        Step::Asks(who, asks, tokens) => (0..asks).for_each(|_| world.attempt(who, request(tokens))),
        Step::Settle(who) => {
            let now = Timestamp::from_millis(world.now_ms);
            let sidecar = &mut world.sidecars[who];
            for id in std::mem::take(&mut sidecar.ids) {
                let counts = SettleCounts { generated_tokens: Some(0), ..SettleCounts::default() };
                let settled = std::pin::pin!(sidecar.desk.table.settle(now, &id, counts));
                let _ = futures_ready(settled);
                sidecar.desk.on_news(now, key(), SETTLED_LATER);
            }
        }
        Step::Network { there_ms, back_ms, loses } => {
            (world.there_ms, world.back_ms, world.loses) = (there_ms, back_ms, loses);
        }
        Step::Cut(who, is_cut) => world.sidecars[who].is_cut = is_cut,
        Step::Flush => world.flush(),
        Step::Kill(who) => world.sidecars[who] = world.sidecar(),
    }
}

/// What a future that never waits answers.
fn futures_ready<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 2_000 }))]

    #[test]
    fn whatever_becomes_of_reports_and_sidecars_the_fleet_stays_within_the_limit(
        steps in prop::collection::vec(step(), 1..150),
        strict in any::<bool>(),
    ) {
        let mode = if strict { StoreMode::Strict } else { StoreMode::Leased };
        let mut world = World::new(3, Degrade::Closed, mode);
        for step in steps {
            let told = format!("{step:?}");
            run(&mut world, step);
            prop_assert!(world.most <= LIMIT, "{} in a minute, after {told}", world.most);
        }
    }

    /// All sidecars live and are reachable, so that each says again what it has before anything is granted.
    #[test]
    fn a_ledger_that_forgets_everything_gives_no_fresh_budget(
        steps in prop::collection::vec(
            prop_oneof![
                8 => calm(),
                1 => Just(Step::Flush),
            ],
            1..150,
        ),
    ) {
        let mut world = World::new(3, Degrade::Closed, StoreMode::Leased);
        for step in steps {
            let told = format!("{step:?}");
            run(&mut world, step);
            prop_assert!(world.most <= LIMIT, "{} in a minute, after {told}", world.most);
        }
    }
}

#[test]
fn a_fleet_uses_its_limit_whoever_asks() {
    let mut world = World::new(4, Degrade::Closed, StoreMode::Leased);
    // Twice what the limit gives, for three minutes: even, most on one, all on another.
    let mut used = Vec::new();
    for shares in [[1, 1, 1, 1], [4, 0, 0, 0], [0, 0, 1, 3]] {
        let before = world.allowed;
        for _ in 0..600 {
            for (which, asks) in shares.into_iter().enumerate() {
                (0..asks).for_each(|_| world.attempt(which, request(3)));
            }
            world.pass(100);
        }
        used.push((world.allowed - before) * 1_000 / LIMIT);
    }
    assert!(world.most <= LIMIT, "{}", world.most);
    assert!(used.iter().all(|permille| *permille >= 950), "{used:?}");
    let asked = world.sidecars.iter().map(|sidecar| sidecar.said).max();
    assert!(asked.is_some_and(|asked| asked <= 12 * 180), "{asked:?} reports of one sidecar in three minutes");
}

/// C10: a key that nobody has asked about is asked about a thousand times a second. Nobody is told that the limit is full.
#[test]
fn a_cold_key_that_is_busy_at_once_is_admitted() {
    let mut world = World::growing(2, Degrade::Closed, StoreMode::Leased, LIMIT);
    world.pass(1_000);
    let (mut asked, before) = (0, world.allowed);
    for _ in 0..300 {
        world.attempt(0, request(1));
        asked += 1;
        world.pass(1);
    }
    world.pass(100);
    assert_eq!(world.allowed - before, asked, "far below the limit of {LIMIT}");
}

/// What one sidecar was given for requests that have not come is not missed by a request that is there.
#[test]
fn the_last_tokens_are_where_they_are_wanted() {
    let mut world = World::new(2, Degrade::Closed, StoreMode::Leased);
    world.pass(1_000);
    for (which, tokens) in [(0, LIMIT / 2), (1, LIMIT / 4), (1, LIMIT / 8), (0, LIMIT / 8)] {
        let before = world.allowed;
        world.attempt(which, request(tokens));
        world.pass(30);
        assert_eq!(world.allowed - before, tokens, "{} of {LIMIT} used", before);
    }
}

/// Far from its limit, a key that is asked about once a second on each sidecar takes less than a call for each, settlement included.
#[test]
fn a_quiet_key_is_asked_about_less_than_once_a_request() {
    let mut world = World::new(2, Degrade::Closed, StoreMode::Leased);
    world.pass(1_000);
    let asked = 240;
    for nth in 0..asked {
        let who = usize::from(nth / 3 % 2 == 0);
        world.attempt(who, request(1));
        run(&mut world, Step::Settle(who));
        world.pass(nth * 389 % 1_000 + 1);
    }
    assert_eq!(world.allowed, asked);
    let said: u64 = world.sidecars.iter().map(|sidecar| sidecar.said).sum();
    assert!(said <= asked, "{said} reports for {asked} requests");
}

/// C5: what was used beyond what was reserved counts from the first look on, however far the limit is.
#[test]
fn debt_is_told_at_once_where_other_news_waits() {
    let mut world = World::new(1, Degrade::Closed, StoreMode::Leased);
    world.pass(1_000);
    let mut told_after = |wait| {
        // The first lease of a key is one of those near a limit.
        for _ in 0..2 {
            world.attempt(0, request(1));
            world.pass(400);
        }
        let (said, now) = (world.sidecars[0].said, Timestamp::from_millis(world.now_ms));
        world.sidecars[0].desk.on_news(now, key(), wait);
        world.pass(100);
        world.sidecars[0].said - said
    };
    assert_eq!((told_after(SETTLED_LATER), told_after(Duration::ZERO)), (0, 1));
}

#[test]
fn a_key_that_nobody_uses_is_silent_and_forgotten() {
    let mut world = World::new(1, Degrade::Closed, StoreMode::Leased);
    world.attempt(0, request(10));
    world.pass(3_000);
    assert_eq!(world.allowed, 10);
    let fingerprint = world.sidecars[0].desk.table.of_key(key());
    // The reservation lives: its hold is told again now and then; nothing else is.
    let id = world.sidecars[0].ids.pop().expect("one");
    let counts = SettleCounts::default();
    let now = Timestamp::from_millis(world.now_ms);
    let _ = futures_ready(std::pin::pin!(world.sidecars[0].desk.table.settle(now, &id, counts)));
    world.sidecars[0].desk.on_news(now, key(), SETTLED_LATER);
    world.pass(2_000);
    let said = world.sidecars[0].said;
    world.pass(50_000);
    assert_eq!(world.sidecars[0].said, said, "nothing is said");
    // Its key stays for as long as it remembers how reservations ended; the lease goes with it.
    world.pass(60 * 60_000);
    assert!(!world.sidecars[0].desk.table.has(fingerprint), "the key is forgotten");
    assert!(world.sidecars[0].desk.leases.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 500 }))]

    /// Contract C12, where another sidecar has what is in the way: whoever waits as long as it was told is admitted, and a second sooner
    /// it is not.
    #[test]
    fn a_wait_for_what_another_sidecar_has_is_as_long_as_it_was_told(
        charges in prop::collection::vec((100_u64..9_000, 200_u64..900), 4..8),
        ask in 100_u64..1_500,
        strict in any::<bool>(),
    ) {
        let mode = if strict { StoreMode::Strict } else { StoreMode::Leased };
        let is_admitted = |sooner_ms: u64| {
            let mut world = World::new(2, Degrade::Closed, mode);
            for (pause_ms, tokens) in &charges {
                world.attempt(0, request(*tokens));
                world.pass(*pause_ms);
                // No hold is outstanding.
                run(&mut world, Step::Settle(0));
            }
            // What was admitted far from the limit is told within two seconds.
            world.pass(3_000);
            let before = world.allowed;
            world.told = None;
            world.attempt(1, request(ask));
            world.pass(50);
            let Some((at_ms, wait)) = world.told else {
                assert!(world.allowed > before, "it is admitted or denied");
                return None;
            };
            let wait_ms = u64::try_from(wait.as_micros().div_ceil(1_000)).expect("a minute at most");
            world.pass((at_ms + wait_ms).saturating_sub(sooner_ms).saturating_sub(world.now_ms));
            world.attempt(1, request(ask));
            world.pass(50);
            Some(world.allowed > before)
        };
        if let Some(is_admitted_in_time) = is_admitted(0) {
            prop_assert!(is_admitted_in_time, "denied again");
            prop_assert_eq!(is_admitted(1_000), Some(false), "it could have been sooner");
        }
    }
}

/// The law of a fleet is that of one process: what all of them settle makes the limit grow, and each sees it.
#[test]
fn what_all_settle_together_moves_one_limit() {
    let limits = |sidecars: usize| {
        let mut world = World::growing(sidecars, Degrade::Closed, StoreMode::Leased, 10 * LIMIT);
        let mut limits = Vec::new();
        for tenth in 0..6_000 {
            // Twelve minutes of a little less than the floor, whoever serves it.
            world.attempt(tenth % sidecars, request(LIMIT / 620));
            run(&mut world, Step::Settle(tenth % sidecars));
            world.pass(100);
            if tenth % 600 == 599 {
                let parts = world.sidecars.iter().map(|sidecar| {
                    let part = Part::of(Tokens::default(), Tokens::default(), Beyond::Ask);
                    let now = Timestamp::from_millis(world.now_ms);
                    let windows = sidecar.desk.table.windows_of_part(now, key(), ServiceTier::Standard, &part);
                    windows.prompt.limit_tpm
                });
                let parts: Vec<u64> = parts.collect();
                assert!(parts.iter().all(|part| *part == parts[0]), "one limit for all: {parts:?}");
                limits.push(parts[0]);
            }
        }
        limits
    };
    let (alone, together) = (limits(1), limits(4));
    assert!(alone.is_sorted() && *alone.last().expect("ten") > LIMIT * 115 / 100, "{alone:?}");
    let off = alone.iter().zip(&together).map(|(alone, together)| alone.abs_diff(*together) * 1_000 / alone).max();
    assert!(off.is_some_and(|permille| permille <= 20), "{alone:?} alone, {together:?} together");
}
