//! What a decision costs by itself: a call of the memory store, no wire, no disk, in virtual time.
//!
//! Calls are timed in blocks, as a clock costs as much as a decision; what a call gets from a connection (names, ids) is made
//! ready before its block, and so is warm.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_core::MAX_TOKENS;
use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{PartialBounds, Policy, PolicyWrite, Tier, Written};
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;
use tidegate_store::Store as _;
use tidegate_store::memory::{MemoryBounds, MemoryStore};

use crate::durable::{Draws, at_once};
use crate::stopwatch::Stopwatch;
use crate::zipf::Zipf;

pub mod study;

/// Calls that are timed together.
const BLOCK: usize = 256;
/// Virtual time between two calls: 250,000 a second.
const STEP: Duration = Duration::from_micros(4);
/// Virtual time that passes before calls are timed, so that windows are filled as they will be.
const BEFORE: Duration = Duration::from_secs(70);
/// Virtual time between two rounds of the timers.
const TICK: Duration = Duration::from_millis(100);
pub(crate) const START: Timestamp = Timestamp::from_seconds(1_700_000_000);
const MODELS: u64 = 16;

/// What becomes of reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Each is settled, a block of calls later.
    Settled,
    /// None: each expires after a second.
    Expired,
    /// None within the run.
    Live,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Limit of every window, TPM; with a ceiling above it the law moves it.
    pub floor_tpm: u64,
    /// What becomes of reservations.
    pub ends: Ends,
    /// Decisions, and how many come before those that are timed.
    pub calls: usize,
    /// See `calls`.
    pub warm_up: usize,
}

/// Nanoseconds of each call.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Of decisions.
    pub reserve: Nanos,
    /// Of settlements.
    pub settle: Nanos,
    /// Of the timers, shared out to the decisions between two rounds.
    pub tick: f64,
    /// Share of the decisions that allowed.
    pub allowed: f64,
}

/// Means of blocks.
#[derive(Clone, Debug, Default)]
pub struct Nanos(Vec<f64>);

impl Nanos {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn push(&mut self, took: Duration, calls: usize) {
        self.0.push(took.as_nanos() as f64 / calls as f64);
    }

    /// The middle one, and the mean of all.
    #[must_use]
    pub fn median_and_mean(&self) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let mean = self.0.iter().sum::<f64>() / self.0.len() as f64;
        (crate::durable::median(self.0.clone()), mean)
    }
}

/// Names of 24 and 32 bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    account: String,
    model: String,
}

impl Names {
    pub(crate) fn write(&mut self, key: usize) {
        use std::fmt::Write as _;
        self.account.clear();
        self.model.clear();
        let model = key as u64 % MODELS;
        write!(self.account, "account-{key:016}").expect("memory takes everything");
        write!(self.model, "provider/some-large-model-{model:06}").expect("memory takes everything");
    }

    pub(crate) fn request(&self, ttl: Duration) -> Request<'_> {
        Request {
            key: KeyRef::new(&self.account, &self.model, "").expect("the names are short and plain"),
            prompt_tokens: 800,
            cached_prompt_tokens: None,
            max_generated_tokens: Some(400),
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl,
        }
    }
}

/// A store with room for so many keys of accounts that nobody configured, all of them in a tier with this floor.
pub(crate) fn store(keys: usize, floor_tpm: u64) -> MemoryStore {
    let bounds = MemoryBounds { keys: 2 * keys as u64 + 2, reservations: u64::MAX, ..MemoryBounds::default() };
    let windows = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(floor_tpm), ceiling_tpm: Some(MAX_TOKENS) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds: windows, ..Tier::default() });
    let write = PolicyWrite::Update { entry, expected_revision: None };
    let (policy, _) = Policy::built_in().apply(write, START).expect("a good tier");
    MemoryStore::new(bounds, ForecastDefaults::default(), policy).expect("the system has randomness")
}

/// A store that is being driven.
struct Drive {
    store: MemoryStore,
    now: Timestamp,
    step: Duration,
    ticked_at: Timestamp,
    names: Vec<Names>,
    ids: VecDeque<String>,
    ttl: Duration,
    costs: Costs,
    allowed: usize,
}

impl Drive {
    fn new(keys: usize, load: &Load) -> Self {
        let ttl = Duration::from_secs(if load.ends == Ends::Expired { 1 } else { 3_600 });
        Self {
            store: store(keys, load.floor_tpm),
            now: START,
            step: STEP,
            ticked_at: START,
            names: vec![Names::default(); BLOCK],
            ids: VecDeque::with_capacity(2 * BLOCK),
            ttl,
            costs: Costs::default(),
            allowed: 0,
        }
    }

    /// Asks for a block of these keys.
    fn reserve(&mut self, mut key: impl FnMut() -> usize) {
        self.names.iter_mut().for_each(|names| names.write(key()));
        let requests: Vec<_> = self.names.iter().map(|names| names.request(self.ttl)).collect();
        let mut made = Vec::with_capacity(requests.len());
        let watch = Stopwatch::start();
        for request in &requests {
            self.now = self.now.after(self.step);
            let reserved = at_once(self.store.check_and_reserve(self.now, request));
            let reserved = reserved.expect("it never waits").expect("no request has an id");
            self.allowed += usize::from(reserved.answer.outcome.is_ok());
            made.push(reserved.reservation_id);
        }
        self.costs.reserve.push(watch.elapsed(), BLOCK);
        let texts = made.iter().zip(&requests).filter_map(|(id, request)| Some((*id)?.text(request.key)));
        self.ids.extend(texts);
    }

    /// Settles all that is live.
    fn settle(&mut self) {
        let count = self.ids.len().max(1);
        let watch = Stopwatch::start();
        for (id, generated) in self.ids.iter().zip((100..400).cycle()) {
            self.now = self.now.after(self.step);
            let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
            at_once(self.store.settle(self.now, id, counts)).expect("it never waits").expect("it is live");
        }
        self.costs.settle.push(watch.elapsed(), count);
        self.ids.clear();
    }

    fn tick(&mut self) {
        if self.now >= self.ticked_at.after(TICK) {
            self.ticked_at = self.now;
            let watch = Stopwatch::start();
            self.store.on_tick(self.now);
            self.costs.tick += watch.elapsed().as_secs_f64();
        }
    }

    /// Every key settles a few answers that took a second: it has figures of its own, and a pace.
    fn teach(&mut self, keys: usize) {
        const MOST: usize = 2_500_000;
        for _ in 0..(MOST / keys).clamp(1, 40) {
            for first in (0..keys).step_by(BLOCK) {
                let mut key = first..;
                self.reserve(|| key.next().map_or(0, |key| key % keys));
                self.now = self.now.after(Duration::from_millis(1_500 * BLOCK as u64 / keys.max(BLOCK) as u64 + 600));
                self.settle();
                self.tick();
            }
        }
    }
}

/// Drives a store with `keys`.
#[must_use]
pub fn costs(keys: usize, of: &Zipf, load: &Load) -> Costs {
    let mut drive = Drive::new(keys, load);
    let mut draws = Draws(11);
    if load.ends == Ends::Settled {
        drive.teach(keys);
    }
    drive.step = STEP.max(BEFORE / u32::try_from(2 * load.warm_up).unwrap_or(u32::MAX));
    for call in (0..load.warm_up + load.calls).step_by(BLOCK) {
        if call / BLOCK == load.warm_up / BLOCK {
            (drive.costs, drive.allowed, drive.step) = (Costs::default(), 0, STEP);
        }
        drive.reserve(|| of.draw(&mut draws));
        match load.ends {
            Ends::Settled => drive.settle(),
            Ends::Expired | Ends::Live => drive.ids.clear(),
        }
        drive.tick();
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let [calls, allowed] = [load.calls, drive.allowed].map(|count| count as f64);
    Costs { tick: drive.costs.tick * 1e9 / calls, allowed: allowed / calls, ..drive.costs }
}
