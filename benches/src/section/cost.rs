//! What a decision costs on a hot key: the core alone, one thread, no lock, no wire.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_core::MAX_TOKENS;
use tidegate_core::ask::Request;
use tidegate_core::decision::{Answer, ServiceTier};
use tidegate_core::forecast::{ForecastDefaults, Prior};
use tidegate_core::key::KeyRef;
use tidegate_core::law::{Bounds, LawParams};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, Window};
use tidegate_sim::policy::KeyRules;

use crate::markdown::Table;
use crate::stopwatch::Stopwatch;

/// Live streams of the key.
const LIVE: [usize; 3] = [1, 100, 10_000];

/// Rounds over all cases, one after the other, so that a machine that slows down slows all of them.
const ROUNDS: usize = 9;

/// Calls of each kind in a round.
const CALLS: u32 = 400;

/// An answer, and how long it takes: half of its tokens are reported at half of the time.
const ANSWER_TOKENS: u64 = 300;
const ANSWER_TIME: Duration = Duration::from_secs(8);

const PROMPT_TOKENS: u64 = 1_000;

/// Answers that are settled before anything is measured.
const LEARNT: u64 = 200;

/// What is timed.
const CASES: [&str; 5] =
    ["ALLOW, window nearly empty", "ALLOW by projection", "denial, window full", "progress report", "settlement"];

/// Nanoseconds a call of each case took in one round; NaN where there was no call.
type Round = [f64; CASES.len()];

/// A key with a constant number of live streams, each at its own point of an answer.
struct HotKey {
    state: KeyState,
    now: Timestamp,
    live: VecDeque<Ticket>,
    sequence: u64,
    streams: u32,
    forecast: ForecastDefaults,
    fallback: Prior,
}

impl HotKey {
    fn new(streams: usize) -> Self {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let now = Timestamp::from_seconds(1_000_000);
        // The guard is a comparison more; off, so that limits can be as tight as the projection allows.
        let forecast = ForecastDefaults { guard_permille: 0, ..ForecastDefaults::default() };
        let fallback = Prior::from_defaults(&forecast);
        let mut key = Self {
            state: KeyState::new(now, 0, &bounds(MAX_TOKENS), &fallback),
            now,
            live: VecDeque::new(),
            sequence: 0,
            streams,
            forecast,
            fallback,
        };
        for _ in 0..LEARNT {
            key.reserve(MAX_TOKENS);
            key.now = key.now.after(ANSWER_TIME);
            key.settle();
        }
        for _ in 0..streams {
            key.now = key.now.after(ANSWER_TIME / streams);
            key.report();
            key.reserve(MAX_TOKENS);
        }
        key
    }

    fn call<T>(&mut self, limit: u64, step: impl FnOnce(&mut KeyState, &Rules<'_>, Timestamp) -> T) -> T {
        let bounds = bounds(limit);
        let rules = Rules {
            bounds: &bounds,
            law: &LawParams::STATIC,
            boosts: &tidegate_core::law::NO_BOOSTS,
            fallback: &self.fallback,
            forecast: &self.forecast,
            pressure: PerWindow::default(),
            incarnation: 1,
            allotment: None,
            law_is_shared: false,
        };
        step(&mut self.state, &rules, self.now)
    }

    /// Asks under this limit of generated tokens; whether it was allowed, and how long it took.
    fn reserve(&mut self, limit: u64) -> (bool, Duration) {
        let request = Request {
            key: KeyRef::new("account", "model", "").expect("the names are short and plain"),
            prompt_tokens: PROMPT_TOKENS,
            cached_prompt_tokens: Some(0),
            max_generated_tokens: None,
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: Duration::from_secs(3_600),
        };
        let reserve = Reserve { request: &request, request_id: None, most_reservations: 100_000 };
        self.sequence += 1;
        let number = Number { incarnation: 1, sequence: self.sequence };
        let (answer, took): (Answer, Duration) = self.call(limit, |state, rules, now| {
            let watch = Stopwatch::start();
            let answer = state.reserve(now, rules, &reserve, || Ok(number));
            let took = watch.elapsed();
            (answer.expect("the request has no id, so its id cannot be taken"), took)
        });
        let allowed = answer.outcome.ok();
        if let Some(allowed) = allowed {
            let (admitted_at, ttl, reserved) = (allowed.admitted_at, allowed.ttl, allowed.reserved);
            self.live.push_back(Ticket { number, admitted_at, ttl, reserved });
        }
        (allowed.is_some(), took)
    }

    /// Half an answer of the stream that is in the middle of it.
    fn report(&mut self) -> Duration {
        let Some(ticket) = self.live.get(self.live.len() / 2).copied() else { return Duration::ZERO };
        self.call(MAX_TOKENS, |state, rules, now| {
            let watch = Stopwatch::start();
            let booked = state.report_progress(now, rules, &ticket, ANSWER_TOKENS / 2);
            let took = watch.elapsed();
            debug_assert!(booked.is_ok(), "{booked:?}");
            took
        })
    }

    /// The whole answer of the oldest stream.
    fn settle(&mut self) -> Duration {
        let Some(ticket) = self.live.pop_front() else { return Duration::ZERO };
        let counts = SettleCounts { generated_tokens: Some(ANSWER_TOKENS), ..SettleCounts::default() };
        self.call(MAX_TOKENS, |state, rules, now| {
            let watch = Stopwatch::start();
            let booked = state.settle(now, rules, &ticket, &counts);
            let took = watch.elapsed();
            debug_assert!(booked.is_ok(), "{booked:?}");
            took
        })
    }

    /// The generated window: used and held tokens, and what of the largest limit is spoken for.
    fn generated(&mut self) -> (u64, u64) {
        let status = self.call(MAX_TOKENS, |state, rules, now| {
            state.advance(now, rules);
            state.windows(rules)[Window::Generated]
        });
        (status.used_tokens + status.held_tokens, MAX_TOKENS - status.remaining_tokens)
    }

    /// One stream reports, another begins, a third ends; so the number of live streams stays.
    fn turn(&mut self, limit: impl FnOnce(&mut Self) -> u64) -> Turn {
        let half = ANSWER_TIME / self.streams / 2;
        self.now = self.now.after(half);
        let progress = self.report();
        // In the middle between two settlements, so that even a single live stream has something left to produce.
        let limit = limit(self);
        let (allowed, reservation) = self.reserve(limit);
        if !allowed {
            self.reserve(MAX_TOKENS);
        }
        self.now = self.now.after(half);
        let settlement = self.settle();
        Turn { allowed, reservation, progress, settlement }
    }

    /// Every case, `CALLS` times. `overhead` is what a stopwatch alone shows.
    fn round(&mut self, overhead: Duration) -> Round {
        let mut times = [Timed::default(); CASES.len()];
        for _ in 0..CALLS {
            let turn = self.turn(|_| MAX_TOKENS);
            times[0].add(turn.allowed, turn.reservation);
            times[3].add(true, turn.progress);
            times[4].add(true, turn.settlement);
        }
        for _ in 0..CALLS {
            // The smallest limit at which the projection lets the request in; a call where the plain sum would do is not counted.
            let ask = self.live.back().map_or(ANSWER_TOKENS, |last| last.reserved.generated);
            let mut projected = false;
            let turn = self.turn(|key| {
                let (carried, spoken_for) = key.generated();
                projected = spoken_for < carried;
                spoken_for + ask
            });
            times[1].add(turn.allowed && projected, turn.reservation);
        }
        let full = self.generated().0 / 2;
        for _ in 0..CALLS {
            let (allowed, took) = self.reserve(full.max(1));
            times[2].add(!allowed, took);
        }
        times.map(|timed| timed.nanos(overhead))
    }
}

/// Times of one [`HotKey::turn`].
struct Turn {
    allowed: bool,
    reservation: Duration,
    progress: Duration,
    settlement: Duration,
}

/// Calls of one case.
#[derive(Clone, Copy, Default)]
struct Timed {
    calls: u32,
    sum: Duration,
}

impl Timed {
    fn add(&mut self, counts: bool, took: Duration) {
        self.calls += u32::from(counts);
        self.sum += if counts { took } else { Duration::ZERO };
    }

    fn nanos(self, overhead: Duration) -> f64 {
        let nanos = self.sum.as_nanos() as f64 / f64::from(self.calls) - overhead.as_nanos() as f64;
        if self.calls == 0 { f64::NAN } else { nanos.max(0.0) }
    }
}

fn bounds(generated: u64) -> PerWindow<Bounds> {
    KeyRules::fixed(&Tokens::new(MAX_TOKENS, MAX_TOKENS, generated)).bounds
}

/// What a stopwatch shows when nothing is timed: the median.
fn overhead() -> Duration {
    let mut times: Vec<Duration> = (0..1_001).map(|_| Stopwatch::start().elapsed()).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// The middle value, of an odd number; NaN if any is.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.iter().any(|value| value.is_nan()) { f64::NAN } else { values[values.len() / 2] }
}

pub(super) fn markdown() -> String {
    let mut keys = LIVE.map(HotKey::new);
    let mut rounds: [Vec<Round>; LIVE.len()] = Default::default();
    for round in 0..ROUNDS {
        let overhead = overhead();
        for (key, rounds) in keys.iter_mut().zip(&mut rounds) {
            rounds.push(key.round(overhead));
        }
        eprintln!("cost: {} of {ROUNDS}", round + 1);
    }
    let [one, hundred, many] = LIVE.map(|live| format!("{live} live"));
    let mut table = Table::new(&["ns", &one, &hundred, &many]);
    for (case, name) in CASES.iter().enumerate() {
        let [one, hundred, many] = rounds.each_ref().map(|rounds| {
            let nanos = median(rounds.iter().map(|round| round[case]).collect());
            if nanos.is_nan() { "-".to_owned() } else { format!("{nanos:.0}") }
        });
        table.row([(*name).to_owned(), one, hundred, many]);
    }
    format!(
        "## Cost\n\nNanoseconds of a call to the core on one hot key, one thread; medians of {ROUNDS} rounds of {CALLS} calls, the \
         cases interleaved, the stopwatch's own time taken off. Answers of {ANSWER_TOKENS} tokens in 8 s; streams end as others \
         begin, so that the number of live ones stays. \"By projection\": the plain sum is above the limit, the projection is not; \
         `-` where that does not happen. These figures differ from run to run.\n\n{table}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_streams_stay_as_many_and_every_case_happens() {
        for live in [1, 100] {
            let mut key = HotKey::new(live);
            assert_eq!(key.state.reservations(), live);
            let round = key.round(Duration::ZERO);
            assert_eq!(key.state.reservations(), live, "denials hold nothing, turns end one stream for another");
            for (case, nanos) in CASES.iter().zip(round) {
                assert!(nanos > 0.0, "{case} with {live} live: {nanos}");
            }
        }
    }

    #[test]
    fn a_median_is_the_middle_and_unknown_if_any_round_is() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!(median(vec![3.0, f64::NAN, 2.0]).is_nan());
        let mut timed = Timed::default();
        assert!(timed.nanos(Duration::ZERO).is_nan());
        timed.add(true, Duration::from_nanos(300));
        timed.add(false, Duration::from_nanos(999));
        timed.add(true, Duration::from_nanos(100));
        assert!((timed.nanos(Duration::from_nanos(50)) - 150.0).abs() < 1e-9);
    }
}
