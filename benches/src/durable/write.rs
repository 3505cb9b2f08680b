//! What it costs to write a key down: its bytes, and to reach for a key that no cache holds.

use std::time::Duration;

use tidegate_core::MAX_TOKENS;
use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::{ForecastDefaults, Prior};
use tidegate_core::key::KeyRef;
use tidegate_core::law::{Bounds, LawParams, NO_BOOSTS};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;

use super::{Draws, median};
use crate::stopwatch::Stopwatch;

/// Each key has this many answers behind it, and one that is running.
const ANSWERS: u64 = 3;
/// As [`tidegate_store`] does, some packs' worth at a time.
const PACKS_BYTES: usize = 1 << 20;
/// Of the keys that are in every cache.
const WARM: usize = 16;

/// Keys that differ, in no order in memory.
#[expect(clippy::vec_box, reason = "as in the table: to reach for each is half of the cost")]
pub struct Keys(Vec<Box<KeyState>>);

impl Keys {
    /// Makes so many.
    pub fn new(count: u64) -> Self {
        let mut draws = Draws(7);
        let mut keys: Vec<_> = (0..count).map(|number| Box::new(key(number, &mut draws))).collect();
        for place in (1..keys.len()).rev() {
            let other = draws.next() % (place as u64 + 1);
            keys.swap(place, usize::try_from(other).unwrap_or(0));
        }
        Self(keys)
    }

    /// Nanoseconds and bytes of a key, all of them one after the other.
    pub fn cold(&self) -> (f64, usize) {
        time(self.0.iter(), self.0.len())
    }

    /// The same of a few, again and again.
    pub fn warm(&self) -> (f64, usize) {
        let rounds = self.0.len() / WARM;
        time(self.0.iter().take(WARM).cycle().take(rounds * WARM), rounds * WARM)
    }
}

fn time<'a>(keys: impl Iterator<Item = &'a Box<KeyState>>, count: usize) -> (f64, usize) {
    let (mut out, mut bytes) = (Vec::with_capacity(2 * PACKS_BYTES), 0);
    let watch = Stopwatch::start();
    for key in keys {
        if out.len() > PACKS_BYTES {
            bytes += out.len();
            out.clear();
        }
        key.write_head(&mut out);
        key.write_all_items(&mut out);
    }
    let took = watch.elapsed();
    (took.as_nanos() as f64 / count as f64, (bytes + out.len()) / count)
}

/// A key with a few answers behind it within the last minute, and a reservation that has not reported.
fn key(number: u64, draws: &mut Draws) -> KeyState {
    let forecast = ForecastDefaults::default();
    let fallback = Prior::from_defaults(&forecast);
    let window = Bounds::new(100_000, MAX_TOKENS).expect("the floor is in range");
    let bounds = PerWindow::from_fn(|_| window);
    let rules = Rules {
        bounds: &bounds,
        law: &LawParams::DEFAULT,
        boosts: &NO_BOOSTS,
        fallback: &fallback,
        forecast: &forecast,
        pressure: PerWindow::default(),
        incarnation: 0x1234_5678_9abc_def0,
        allotment: None,
        law_is_shared: false,
    };
    let mut now = Timestamp::from_micros(1_700_000_000_000_000 + draws.next() % 60_000_000);
    let mut state = KeyState::new(now, number % 60, &bounds, &fallback);
    for answer in 0..=ANSWERS {
        let request = Request {
            key: KeyRef::new("account", "model", "").expect("the names are short and plain"),
            prompt_tokens: 500 + draws.next() % 1_000,
            cached_prompt_tokens: None,
            max_generated_tokens: Some(400),
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: Duration::from_secs(600),
        };
        let reserve = Reserve { request: &request, request_id: None, most_reservations: 100_000 };
        let issued = Number { incarnation: rules.incarnation, sequence: 4 * number + answer };
        let answered = state.reserve(now, &rules, &reserve, || Ok(issued)).expect("the request has no id");
        let allowed = answered.outcome.expect("the limits are far away");
        let (admitted_at, ttl, reserved) = (allowed.admitted_at, allowed.ttl, allowed.reserved);
        now = now.after(Duration::from_micros(1_000_000 + draws.next() % 8_000_000));
        if answer < ANSWERS {
            let ticket = Ticket { number: issued, admitted_at, ttl, reserved };
            let generated = 100 + draws.next() % 300;
            let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
            state.settle(now, &rules, &ticket, &counts).expect("it is live");
        }
    }
    state
}

/// Writes `count` keys down again and again: the middle of `rounds`.
pub fn study(count: u64, rounds: usize) -> String {
    let keys = Keys::new(count);
    let rounds: Vec<_> = (0..rounds).map(|_| (keys.cold(), keys.warm())).collect();
    let cold = median(rounds.iter().map(|(cold, _)| cold.0).collect());
    let warm = median(rounds.iter().map(|(_, warm)| warm.0).collect());
    let bytes = rounds.first().map_or(0, |(cold, _)| cold.1);
    format!(
        "| keys | bytes each | ns each | ns, of {WARM} keys |\n|---|---|---|---|\n| {count} | {bytes} | {cold:.0} | {warm:.0} |\n"
    )
}
