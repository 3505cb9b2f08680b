use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::MAX_TOKENS;
use crate::ask::Request;
use crate::decision::{Answer, Bound, Denial, ServiceTier, SettleOutcome};
use crate::key::KeyRef;
use crate::reservation::{MEMORY, Ticket};
use crate::window::{Tokens, WINDOW};

mod allotment;
mod expectation;
mod explain;
mod ledger;
mod needs;
mod pressure;
mod record;

const START: u64 = 1_700_000_000;
const INCARNATION: u64 = 7;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START * 1_000 + millis)
}

/// One key under fixed bounds, with a clock that tests move by hand.
#[derive(Clone)]
struct Key {
    state: KeyState,
    bounds: PerWindow<Bounds>,
    law: LawParams,
    forecast: ForecastDefaults,
    fallback: Prior,
    pressure: PerWindow<Reading>,
    allotment: Option<Allotment>,
    law_is_shared: bool,
    now: u64,
    next: u64,
}

impl Key {
    fn new(limit: Tokens) -> Self {
        Self::between(limit, limit)
    }

    fn between(floor: Tokens, ceiling: Tokens) -> Self {
        let bounds = PerWindow::from_fn(|window| Bounds::new(floor[window], ceiling[window]).expect("in range"));
        let forecast = ForecastDefaults { generated_tokens: 100, ..ForecastDefaults::default() };
        let fallback = Prior::from_defaults(&forecast);
        let state = KeyState::new(at(0), 0, &bounds, &fallback);
        let pressure = PerWindow::default();
        let (law, allotment, law_is_shared) = (LawParams::DEFAULT, None, false);
        Self { state, bounds, law, forecast, fallback, pressure, allotment, law_is_shared, now: 0, next: 1 }
    }

    fn call<T>(&mut self, step: impl FnOnce(&mut KeyState, Timestamp, &Rules<'_>) -> T) -> T {
        let rules = Rules {
            bounds: &self.bounds,
            law: &self.law,
            boosts: &crate::law::NO_BOOSTS,
            fallback: &self.fallback,
            forecast: &self.forecast,
            pressure: self.pressure,
            incarnation: INCARNATION,
            allotment: self.allotment,
            law_is_shared: self.law_is_shared,
        };
        let done = step(&mut self.state, at(self.now), &rules);
        assert_eq!(self.state.generated_peak(&self.forecast), expectation::peak(&self.state, &self.forecast));
        done
    }

    fn try_ask(&mut self, request: &Request<'_>, id: Option<u128>) -> Result<Answer, RequestIdTaken> {
        let number = Number { incarnation: INCARNATION, sequence: self.next };
        self.next += 1;
        let reserve = Reserve { request, request_id: id, most_reservations: 100_000 };
        self.call(|state, now, rules| state.reserve(now, rules, &reserve, || Ok(number)))
    }

    fn ask(&mut self, request: &Request<'_>) -> Answer {
        self.try_ask(request, None).expect("no request id")
    }

    fn admit(&mut self, request: &Request<'_>) -> Ticket {
        ticket(&self.ask(request), request)
    }

    fn settle(&mut self, ticket: &Ticket, generated: u64) -> Result<SettleOutcome, EndError> {
        let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
        self.settle_counts(ticket, &counts).map(|booked| booked.outcome)
    }

    fn settle_counts(&mut self, ticket: &Ticket, counts: &SettleCounts) -> Result<Booked, EndError> {
        self.call(|state, now, rules| state.settle(now, rules, ticket, counts))
    }

    fn progress(&mut self, ticket: &Ticket, generated: u64) -> Result<SettleOutcome, EndError> {
        let booked = self.call(|state, now, rules| state.report_progress(now, rules, ticket, generated));
        booked.map(|booked| booked.outcome)
    }

    fn release(&mut self, ticket: &Ticket) -> Result<SettleOutcome, EndError> {
        self.call(|state, now, rules| state.release(now, rules, ticket))
    }

    fn windows(&mut self) -> PerWindow<WindowStatus> {
        self.call(|state, now, rules| {
            state.advance(now, rules);
            state.windows(rules)
        })
    }

    fn used(&mut self) -> Tokens {
        self.windows().map(|status| status.used_tokens)
    }
}

fn ticket(answer: &Answer, request: &Request<'_>) -> Ticket {
    let allowed = answer.outcome.expect("admitted");
    Ticket { number: allowed.number, admitted_at: allowed.admitted_at, ttl: request.ttl, reserved: allowed.reserved }
}

fn request(prompt: u64, cached: u64, declared: u64) -> Request<'static> {
    Request {
        key: KeyRef::new("acme", "opus", "").expect("well formed"),
        prompt_tokens: prompt,
        cached_prompt_tokens: Some(cached),
        max_generated_tokens: Some(declared),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    }
}

const LIMIT: Tokens = Tokens::new(1_000, 500, 300);

fn denial(answer: &Answer) -> Option<Denial> {
    answer.outcome.err().map(|denied| denied.denial)
}

#[test]
fn a_key_takes_what_is_said() {
    assert_eq!(size_of::<KeyState>(), 736);
}

#[test]
fn a_burst_within_the_minute_passes_and_the_token_above_it_does_not() {
    let mut key = Key::new(LIMIT);
    key.admit(&request(1_000, 600, 0));
    let answer = key.ask(&request(1, 1, 0));
    assert_eq!(denial(&answer), Some(Denial::WindowFull));
    assert!(answer.windows.prompt.binding && !answer.windows.uncached_prompt.binding);
}

#[test]
fn a_denial_charges_no_window_not_even_the_ones_with_room() {
    let mut key = Key::new(LIMIT);
    key.admit(&request(900, 900, 10));
    let before = key.windows();
    let answer = key.ask(&request(200, 0, 10));
    assert_eq!(denial(&answer), Some(Denial::WindowFull));
    assert_eq!(key.windows(), before);
}

#[test]
fn above_the_ceiling_is_never_and_above_the_limit_is_not_today() {
    let mut key = Key::between(LIMIT, LIMIT.map(|limit| limit * 3));
    let answer = key.ask(&request(3_001, 3_001, 0));
    assert_eq!(denial(&answer), Some(Denial::NeverFits));
    assert_eq!(answer.outcome.expect_err("denied").retry_after, None);
    let answer = key.ask(&request(1_001, 1_001, 0));
    assert_eq!(denial(&answer), Some(Denial::ExceedsCurrentLimit));
    let wait = answer.outcome.expect_err("denied").retry_after.expect("the law's next minute");
    assert!(wait <= WINDOW && !wait.is_zero());
    // Judged by stated numbers: a forecast far above the ceiling denies nobody on an idle window.
    key.forecast.generated_tokens = 1 << 30;
    key.fallback = Prior::from_defaults(&key.forecast);
    let unknown = Request { cached_prompt_tokens: None, max_generated_tokens: None, ..request(1_000, 0, 0) };
    let answer = key.ask(&unknown);
    assert_eq!(answer.outcome.map(|allowed| allowed.reserved), Ok(Tokens::new(1_000, 500, 300)));
}

#[test]
fn settling_replaces_the_hold_and_corrects_the_prompt_where_it_was_charged() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(400, 0, 50));
    assert_eq!(key.windows().generated.held_tokens, 50);
    key.now = 5_000;
    let counts = SettleCounts { prompt_tokens: Some(300), cached_prompt_tokens: Some(100), generated_tokens: Some(20) };
    let booked = key.settle_counts(&ticket, &counts).expect("live");
    assert_eq!((booked.outcome, booked.tokens), (SettleOutcome::Applied, Tokens::new(300, 200, 20)));
    assert_eq!(key.used(), Tokens::new(300, 200, 20));
    assert_eq!(key.windows().generated.held_tokens, 0);
    key.now = 60_000;
    assert_eq!(key.used().prompt, 0, "the prompt ages from its admission");
    assert!(key.used().generated > 0, "the output ages from its production");
}

#[test]
fn use_beyond_the_hold_is_charged_in_full_and_delays_what_follows() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(1, 0, 10));
    key.now = 10_000;
    assert_eq!(key.settle(&ticket, 450), Ok(SettleOutcome::Applied));
    assert_eq!(key.windows().generated.used_tokens, 450);
    assert_eq!(key.windows().generated.remaining_tokens, 0);
    assert_eq!(denial(&key.ask(&request(1, 0, 1))), Some(Denial::WindowFull));
    assert_eq!(denial(&key.ask(&request(1, 0, 0))), Some(Denial::WindowFull), "nothing at all is admitted");
}

#[test]
fn cached_above_the_prompt_is_counted_as_all_of_it_at_settlement_and_flagged() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(100, 0, 10));
    let counts = SettleCounts { cached_prompt_tokens: Some(101), ..SettleCounts::default() };
    let booked = key.settle_counts(&ticket, &counts).expect("live");
    assert!(booked.clamped);
    assert_eq!(key.used(), Tokens::new(100, 0, 0));
}

#[test]
fn the_first_settlement_wins() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(100, 0, 10));
    assert_eq!(key.settle(&ticket, 5), Ok(SettleOutcome::Applied));
    let used = key.used();
    assert_eq!(key.settle(&ticket, 9), Ok(SettleOutcome::Duplicate));
    assert_eq!(key.release(&ticket), Ok(SettleOutcome::Duplicate));
    assert_eq!(key.progress(&ticket, 50), Err(EndError::Ended));
    assert_eq!(key.used(), used);
    key.now = 600_000 + 15 * 60_000;
    assert_eq!(key.settle(&ticket, 9), Ok(SettleOutcome::Duplicate), "remembered for 15 min past its TTL");
    key.now += 1;
    assert_eq!(key.settle(&ticket, 9), Err(EndError::TooLate));
}

#[test]
fn a_stream_that_outlives_the_ttl_in_its_id_is_remembered_as_long() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(100, 0, 300));
    for minute in 1..=60 {
        key.now = minute * 60_000;
        assert_eq!(key.progress(&ticket, minute), Ok(SettleOutcome::Applied));
    }
    assert_eq!(key.settle(&ticket, 61), Ok(SettleOutcome::Applied));
    key.now += 14 * 60_000;
    assert_eq!(key.settle(&ticket, 61), Ok(SettleOutcome::Duplicate));
    key.now += 12 * 60_000;
    assert_eq!(key.settle(&ticket, 61), Err(EndError::TooLate));
}

#[test]
fn used_tokens_win_over_a_release_and_over_expiry_once() {
    for expire in [false, true] {
        let mut key = Key::new(LIMIT);
        let ticket = key.admit(&request(100, 40, 10));
        if expire {
            key.now = 600_000;
        } else {
            assert_eq!(key.release(&ticket), Ok(SettleOutcome::Applied));
            assert_eq!(key.release(&ticket), Ok(SettleOutcome::Duplicate));
            assert_eq!(key.used(), Tokens::default(), "nothing was used");
        }
        assert_eq!(key.windows().generated.held_tokens, 0);
        assert_eq!(key.settle(&ticket, 600), Ok(SettleOutcome::Late));
        let used = key.used();
        // Ten minutes' output counts for its last minute.
        assert_eq!(used, if expire { Tokens::new(0, 0, 60) } else { Tokens::new(100, 60, 600) });
        assert_eq!(key.settle(&ticket, 600), Ok(SettleOutcome::Duplicate));
        assert_eq!(key.used(), used);
    }
}

#[test]
fn a_reservation_of_a_lost_process_is_booked_once() {
    let mut key = Key::new(LIMIT);
    let mut lost = key.admit(&request(100, 40, 10));
    let known = key.used();
    lost.number.incarnation = 6;
    key.now = 1_000;
    assert_eq!(key.progress(&lost, 5), Err(EndError::Ended));
    assert_eq!(key.settle(&lost, 30), Ok(SettleOutcome::Late));
    assert_eq!(key.used(), Tokens::new(known.prompt + 100, known.uncached_prompt + 60, 30));
    assert_eq!(key.settle(&lost, 30), Ok(SettleOutcome::Duplicate));
}

#[test]
fn progress_counts_are_totals() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(100, 0, 200));
    key.now = 1_000;
    assert_eq!(key.progress(&ticket, 40), Ok(SettleOutcome::Applied));
    assert_eq!(key.progress(&ticket, 40), Ok(SettleOutcome::Duplicate));
    assert_eq!(key.progress(&ticket, 30), Ok(SettleOutcome::Duplicate));
    assert_eq!(key.used().generated, 40);
    assert_eq!(key.settle(&ticket, 30), Ok(SettleOutcome::Applied));
    assert_eq!(key.used().generated, 40);
}

#[test]
fn an_abandoned_reservation_fades_long_before_it_expires() {
    let mut key = Key::new(Tokens::new(1_000, 500, 100));
    let unknown = Request { max_generated_tokens: None, ..request(1, 0, 0) };
    key.admit(&unknown);
    assert_eq!(denial(&key.ask(&unknown)), Some(Denial::WindowFull));
    // 100 tokens at 40 tokens/s: 2.5 s, in whole seconds 3, and the fading takes 60 s.
    key.now = 63_000;
    assert_eq!(key.windows().generated.held_tokens, 0);
    key.admit(&unknown);
}

#[test]
fn a_wait_is_exact_where_nothing_is_held() {
    let mut key = Key::new(LIMIT);
    for (millis, prompt) in [(0, 300), (700, 300), (3_250, 400)] {
        key.now = millis;
        let ticket = key.admit(&request(prompt, prompt, 0));
        key.settle(&ticket, 0).expect("live");
    }
    key.now = 20_000;
    let answer = key.ask(&request(601, 601, 0));
    let wait = answer.outcome.expect_err("full").retry_after.expect("it fits later");
    assert_eq!(wait, Duration::from_millis(60_000 + 3_250 - 20_000));
    key.now = 60_000 + 3_250 - 1;
    assert_eq!(denial(&key.ask(&request(601, 601, 0))), Some(Denial::WindowFull));
    key.now += 1;
    key.admit(&request(601, 601, 0));
}

#[test]
fn a_request_id_repeats_its_answer_and_admits_no_second_ask() {
    let mut key = Key::new(LIMIT);
    let first = key.try_ask(&request(100, 0, 10), Some(1)).expect("new id");
    let again = key.try_ask(&request(100, 0, 10), Some(1)).expect("the same");
    let (first, again) = (first.outcome.expect("admitted"), again.outcome.expect("admitted"));
    assert_eq!((first.number, first.reserved, again.replayed), (again.number, again.reserved, true));
    assert_eq!(key.used().prompt, 100);
    for prompt in 1..100 {
        assert_eq!(key.try_ask(&request(prompt, 0, 10), Some(1)), Err(RequestIdTaken));
    }
    key.now = 60_001;
    assert_eq!(key.try_ask(&request(100, 0, 10), Some(1)), Err(RequestIdTaken), "older than 60 s");
    let second = key.admit(&request(100, 0, 10));
    key.settle(&second, 1).expect("live");
}

#[test]
fn a_request_id_is_free_again_when_its_reservation_is_forgotten() {
    let mut key = Key::new(LIMIT);
    let request = request(100, 0, 10);
    let answer = key.try_ask(&request, Some(1)).expect("new id");
    key.settle(&ticket(&answer, &request), 1).expect("live");
    assert_eq!(key.try_ask(&request, Some(1)), Err(RequestIdTaken));
    key.now = 600_000 + 15 * 60_000;
    key.windows();
    assert!(key.try_ask(&request, Some(1)).is_ok());
    assert_eq!(key.state.remembered(), 1);
}

#[test]
fn a_bound_never_hides_a_limit() {
    let mut key = Key::new(LIMIT);
    let refuse = |key: &mut Key, prompt| {
        let asked = request(prompt, prompt, 0);
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: 100_000 };
        key.call(|state, now, rules| state.reserve(now, rules, &reserve, || Err(Bound::Reservations))).expect("no id")
    };
    assert_eq!(denial(&refuse(&mut key, 1)), Some(Denial::Capacity(Bound::Reservations)));
    assert_eq!(key.used(), Tokens::default());
    assert_eq!(denial(&refuse(&mut key, 1_001)), Some(Denial::NeverFits));
    key.admit(&request(1_000, 1_000, 0));
    assert_eq!(denial(&refuse(&mut key, 1)), Some(Denial::WindowFull));
}

#[test]
fn limits_grow_with_settled_use_and_not_with_reservations() {
    let floor = Tokens::new(10_000, 10_000, 10_000);
    let mut key = Key::between(floor, floor.map(|floor| floor * 10));
    let mut idle = Key::between(floor, floor.map(|floor| floor * 10));
    for minute in 0..12 {
        for (key, settles) in [(&mut key, true), (&mut idle, false)] {
            key.now = minute * 60_000 + 1_000;
            let limit = key.windows().prompt.limit_tpm;
            let ticket = key.admit(&request(limit, limit, 0));
            if settles {
                key.settle(&ticket, 0).expect("live");
            }
        }
    }
    assert!(key.windows().prompt.limit_tpm >= 19_900, "twice the floor after ten minutes of use");
    assert_eq!(key.windows().generated.limit_tpm, 10_000);
    assert_eq!(idle.windows().prompt.limit_tpm, 10_000);
}

#[test]
fn a_denied_request_that_would_fit_lets_the_limit_climb_to_the_reserve() {
    // Two asks of 45 % fill 90 %: 1.5 times that is below the reserve, to which only a denial lets the limit climb.
    let limit_after = |denied: bool| {
        let floor = Tokens::new(10_000, 10_000, 10_000);
        let mut key = Key::between(floor, floor.map(|floor| floor * 10));
        for minute in 0..60 {
            key.now = minute * 60_000 + 1_000;
            for _ in 0..2 {
                let ticket = key.admit(&request(4_500, 4_500, 0));
                key.settle(&ticket, 0).expect("live");
            }
            if denied {
                let limit = key.windows().prompt.limit_tpm;
                assert_eq!(denial(&key.ask(&request(limit, limit, 0))), Some(Denial::WindowFull));
            }
        }
        key.windows().prompt.limit_tpm
    };
    assert!((13_400..=13_500).contains(&limit_after(false)));
    assert!((22_500..=22_700).contains(&limit_after(true)));
}

#[test]
fn a_window_is_empty_when_its_own_tokens_have_left() {
    let mut key = Key::new(LIMIT);
    key.admit(&request(100, 0, 0));
    key.now = 50_000;
    key.admit(&request(100, 100, 0));
    let windows = key.windows();
    assert_eq!(windows.prompt.reset_after, Duration::from_secs(60));
    assert_eq!(windows.uncached_prompt.reset_after, Duration::from_secs(10));
    assert_eq!(windows.generated.reset_after, Duration::ZERO);
}

#[test]
fn what_is_forgotten_early_is_refused_and_not_booked_twice() {
    let mut key = Key::new(LIMIT);
    let asked = request(100, 100, 10);
    let released = key.admit(&asked);
    key.release(&released).expect("live");
    assert!(key.state.forget_one());
    assert_eq!(key.settle(&released, 5), Err(EndError::TooLate));
    let later = key.admit(&asked);
    key.settle(&later, 5).expect("live");
    assert_eq!(key.settle(&later, 5), Ok(SettleOutcome::Duplicate));
    // A request id that may still repeat its answer is never forgotten early.
    let answer = key.try_ask(&asked, Some(1)).expect("new id");
    assert!(!key.state.forget_one());
    key.settle(&ticket(&answer, &asked), 5).expect("live");
    assert!(key.state.forget_one());
}

#[test]
fn what_is_forgotten_was_not_needed() {
    let mut key = Key::new(LIMIT);
    let retention = |key: &mut Key| {
        key.call(|state, now, rules| {
            state.advance(now, rules);
            state.retention(rules)
        })
    };
    assert_eq!(retention(&mut key), Retention::Default);
    let ticket = key.admit(&request(100, 0, 10));
    assert_eq!(retention(&mut key), Retention::Needed);
    key.settle(&ticket, 5).expect("live");
    assert_eq!(retention(&mut key), Retention::Needed, "charges in the trailing minute");
    key.now = 60_000;
    assert_eq!(retention(&mut key), Retention::Idle, "a second settlement must find its first");
    key.now = 600_000 + u64::try_from(MEMORY.as_millis()).expect("short") + 1;
    assert_eq!(retention(&mut key), Retention::Default);
}

/// Asks whenever it can, in steps of 5 ms, and settles as stated after `duration_ms`, reporting each second. Returns the
/// share of ten minutes' limit that it got in minutes 2 to 10, of the window that it asks the most of.
fn saturate(limit: Tokens, asked: &Request<'_>, duration_ms: u64) -> f64 {
    let mut key = Key::new(limit);
    let generated = asked.max_generated_tokens.unwrap_or(0);
    let mut live = Vec::<(Ticket, u64)>::new();
    let (mut admitted, mut next) = (0_u64, 0);
    while key.now < 600_000 {
        live.retain(|(ticket, since)| {
            let age = key.now - since;
            if age >= duration_ms {
                key.settle(ticket, generated).expect("live");
            } else if age > 0 && age.is_multiple_of(1_000) {
                key.progress(ticket, generated * age / duration_ms).expect("live");
            }
            age < duration_ms
        });
        // More asks at once than the limit has room for.
        for _ in 0..2_000 {
            if key.now < next {
                break;
            }
            match key.ask(asked) {
                answer if answer.outcome.is_ok() => {
                    live.push((ticket(&answer, asked), key.now));
                    admitted += u64::from(key.now >= 60_000);
                }
                // Asking again sooner changes little.
                _ => next = key.now + 50,
            }
        }
        key.now += 5;
    }
    let share = |ask: u64, limit: u64| (admitted * ask) as f64 / (9 * limit) as f64;
    share(asked.prompt_tokens, limit.prompt).max(share(generated, limit.generated))
}

#[test]
fn a_client_with_small_asks_gets_its_limit() {
    let wide = 1 << 30;
    for duration_ms in [0, 1_000, 20_000] {
        let prompt = saturate(Tokens::new(60_000, wide, wide), &request(60, 60, 0), duration_ms);
        let generated = saturate(Tokens::new(wide, wide, 36_000), &request(1, 1, 36), duration_ms);
        std::println!("{duration_ms} ms: prompt {prompt:.4}, generated {generated:.4}");
        assert!(prompt >= 0.98, "{duration_ms} ms: prompt {prompt}");
        assert!(generated >= 0.98, "{duration_ms} ms: generated {generated}");
    }
}
