//! Properties against models that never ask the core what it counted.

use super::super::expectation::GeneratedAsk;
use super::*;
use crate::charges::Second;
use crate::reservation::Held;

/// What a test knows of a live reservation: enough to check C1 without the core's own aggregates.
#[derive(Clone)]
struct Live {
    ticket: Ticket,
    generated: u64,
    reported_at: u64,
}

/// A step of a random gateway.
#[derive(Clone, Debug)]
enum Step {
    Ask { prompt: u64, cached: Option<u64>, declared: Option<u64> },
    Progress { which: prop::sample::Index, more: u64 },
    Settle { which: prop::sample::Index, more: u64, prompt: Option<u64> },
    Release { which: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (1_u64..600, prop::option::of(0_u64..600), prop::option::of(0_u64..200)).prop_map(
        |(prompt, cached, declared)| Step::Ask { prompt, cached: cached.map(|cached| cached.min(prompt)), declared },
    );
    let which = any::<prop::sample::Index>;
    prop_oneof![
        4 => ask,
        2 => (which(), 0_u64..120).prop_map(|(which, more)| Step::Progress { which, more }),
        2 => (which(), 0_u64..120, prop::option::of(1_u64..600))
            .prop_map(|(which, more, prompt)| Step::Settle { which, more, prompt }),
        1 => which().prop_map(|which| Step::Release { which }),
    ]
}

/// Milliseconds until the next step: often within the same second.
fn wait() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..300, 0_u64..9_000]
}

impl KeyState {
    /// What this reservation alone is expected to have produced by `then`.
    fn expected_of(&self, live: &Reservation, now: Timestamp, then: Timestamp) -> f64 {
        match &live.held {
            Held::Nothing => 0.0,
            Held::Alone(hold) => hold.expected(now, then),
            Held::Cohort(id) => self.cohorts.get(*id).expect("it has this stream").hold.expected(now, then),
        }
    }
}

/// Tokens, and from when to when they were produced or, for a prompt, admitted.
type Log = Vec<(u64, u64, u64)>;

/// The trailing minute before `now`, counted exactly and by hand.
fn trailing(log: &Log, now: u64) -> f64 {
    let share = |&(from, to, tokens): &(u64, u64, u64)| {
        let cut = now as f64 - 60_000.0;
        if from == to {
            return if to as f64 > cut { tokens as f64 } else { 0.0 };
        }
        tokens as f64 * ((to as f64 - cut.max(from as f64)).max(0.0) / (to - from) as f64)
    };
    log.iter().map(share).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// C1 and C2, by a ledger that never asks the core what it counted: at the instant of each ALLOW, what was charged in
    /// the trailing minute and this ask fit the limit; a denial leaves the windows as they were; and whatever the order of
    /// calls, what is held is what the live reservations hold.
    #[test]
    fn no_allow_exceeds_a_limit(steps in prop::collection::vec((wait(), step()), 1..120)) {
        let mut key = Key::new(LIMIT);
        let (mut prompts, mut output, mut live) = (Vec::<(Ticket, [u64; 2])>::new(), Log::new(), Vec::<Live>::new());
        for (wait, step) in steps {
            key.now += wait;
            let now = key.now;
            let before = key.windows();
            match step {
                Step::Ask { prompt, cached, declared } => {
                    let asked = Request {
                        cached_prompt_tokens: cached,
                        max_generated_tokens: declared,
                        ..request(prompt, 0, 0)
                    };
                    let answer = key.ask(&asked);
                    let Ok(allowed) = answer.outcome else {
                        for (window, status) in key.windows().iter() {
                            prop_assert_eq!(status, &before[window]);
                        }
                        continue;
                    };
                    let ask = allowed.reserved;
                    let charged = |index: usize| -> u64 {
                        let in_window = |ticket: &Ticket| ticket.admitted_at.after(WINDOW) > at(now);
                        prompts.iter().filter(|(ticket, _)| in_window(ticket)).map(|(_, tokens)| tokens[index]).sum()
                    };
                    prop_assert!(charged(0) + ask.prompt <= LIMIT.prompt);
                    prop_assert!(charged(1) + ask.uncached_prompt <= LIMIT.uncached_prompt);
                    // Each report rounds by less than a token a second.
                    let rounding = 61.0 * output.len() as f64;
                    let reported = trailing(&output, now);
                    prop_assert!(reported + ask.generated as f64 <= LIMIT.generated as f64 + rounding);
                    prop_assert!(before.generated.used_tokens + ask.generated <= LIMIT.generated);
                    // The course that the holds are expected to take, one by one: the new one is this ask.
                    let holds: Vec<_> = key.state.live.iter().filter(|(number, _)| **number != allowed.number).collect();
                    for ahead in 0..=60_u64 {
                        let then = at(now).after(Duration::from_secs(ahead));
                        let charged: u64 =
                            key.state.generated.seconds().flat_map(Second::departures).filter(|(at, _)| *at > then).map(|(_, tokens)| tokens).sum();
                        let expected: f64 = holds.iter().map(|(_, live)| key.state.expected_of(live, at(now), then)).sum();
                        prop_assert!(charged as f64 + expected + ask.generated as f64 <= LIMIT.generated as f64 + 1e-6);
                    }
                    let ticket = ticket(&answer, &asked);
                    prompts.push((ticket, [ask.prompt, ask.uncached_prompt]));
                    live.push(Live { ticket, generated: 0, reported_at: now });
                }
                Step::Progress { which, more } if !live.is_empty() => {
                    let index = which.index(live.len());
                    let stream = &mut live[index];
                    let outcome = key.progress(&stream.ticket, stream.generated + more);
                    if outcome == Ok(SettleOutcome::Applied) {
                        output.push((stream.reported_at, now, more));
                        stream.generated += more;
                        stream.reported_at = now;
                    } else {
                        prop_assert!(more == 0 || outcome == Err(EndError::Ended));
                    }
                }
                Step::Settle { which, more, prompt } if !live.is_empty() => {
                    let stream = live.swap_remove(which.index(live.len()));
                    let counts = SettleCounts {
                        prompt_tokens: prompt,
                        cached_prompt_tokens: prompt.map(|_| 0),
                        generated_tokens: Some(stream.generated + more),
                    };
                    let booked = key.settle_counts(&stream.ticket, &counts).expect("remembered");
                    prop_assert!(booked.outcome != SettleOutcome::Duplicate);
                    output.push((stream.reported_at, now, more));
                    if let (Some(prompt), Some(charge)) =
                        (prompt, prompts.iter_mut().find(|(ticket, _)| ticket.number == stream.ticket.number))
                    {
                        charge.1 = [prompt, prompt];
                    }
                }
                Step::Release { which } if !live.is_empty() => {
                    let stream = live.swap_remove(which.index(live.len()));
                    let outcome = key.release(&stream.ticket).expect("remembered");
                    if outcome == SettleOutcome::Applied && stream.generated == 0 {
                        prompts.retain(|(ticket, _)| ticket.number != stream.ticket.number);
                    }
                }
                _ => {}
            }
            prop_assert!((key.state.live.len()..=2 * key.state.live.len() + 65).contains(&key.state.expiries.len()));
            prop_assert_eq!(key.state.cohorts.streams(), key.state.live.iter().filter(|(_, live)| matches!(live.held, Held::Cohort(_))).count());
            let sum: u64 = key.state.live.iter().map(|(_, live)| live.held_tokens()).sum();
            prop_assert!(key.windows().generated.held_tokens <= sum + live.len() as u64 + 1);
        }
        // Nothing leaks: an hour later the key is as if nothing had been.
        key.now += 3_600_000;
        for _ in 0..10 {
            key.windows();
        }
        prop_assert_eq!(key.state.live.len() + key.state.remembered() + key.state.forgets.len(), 0);
        prop_assert_eq!(key.used(), Tokens::default());
        prop_assert!(key.state.holds.is_empty() && key.state.cohorts.is_empty());
    }

    /// A key that is visited between calls, by who sees to what is due, answers every call as one that is not.
    #[test]
    fn visits_between_calls_change_no_answer(
        ttl in 1_u64..100,
        steps in prop::collection::vec((0_u64..20_000, 0_u64..=100, step()), 1..120),
    ) {
        let mut key = Key::new(Tokens::new(1_000, 500, 3_000));
        let mut visited = key.clone();
        let (mut live, mut generated) = (Vec::new(), Vec::new());
        for (wait, visit_percent, step) in steps {
            visited.now = key.now + wait * visit_percent / 100;
            visited.call(KeyState::advance);
            key.now += wait;
            visited.now = key.now;
            match step {
                Step::Ask { prompt, cached, declared } => {
                    let asked = Request {
                        cached_prompt_tokens: cached,
                        max_generated_tokens: declared,
                        ttl: Duration::from_secs(ttl),
                        ..request(prompt, 0, 0)
                    };
                    let answer = key.ask(&asked);
                    prop_assert_eq!(&answer, &visited.ask(&asked));
                    if answer.outcome.is_ok() {
                        live.push(ticket(&answer, &asked));
                        generated.push(0);
                    }
                }
                Step::Progress { which, more } if !live.is_empty() => {
                    let index = which.index(live.len());
                    generated[index] += more;
                    let booked = key.progress(&live[index], generated[index]);
                    prop_assert_eq!(booked, visited.progress(&live[index], generated[index]));
                }
                Step::Settle { which, more, .. } if !live.is_empty() => {
                    let index = which.index(live.len());
                    let (ticket, total) = (live.swap_remove(index), generated.swap_remove(index) + more);
                    prop_assert_eq!(key.settle(&ticket, total), visited.settle(&ticket, total));
                }
                Step::Release { which } if !live.is_empty() => {
                    let index = which.index(live.len());
                    generated.swap_remove(index);
                    let ticket = live.swap_remove(index);
                    prop_assert_eq!(key.release(&ticket), visited.release(&ticket));
                }
                _ => {}
            }
        }
        prop_assert_eq!(key.windows(), visited.windows());
    }

    /// Looking at whole seconds first finds what looking at every instant of the coming minute does.
    #[test]
    fn the_coming_minute_is_as_full_as_its_fullest_instant(
        steps in prop::collection::vec((0_u64..4_000, step()), 1..80),
        asks in prop::collection::vec(0_u64..4_000, 20),
    ) {
        let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 3_000));
        let mut live = Vec::new();
        for (wait, step) in steps {
            key.now += wait;
            match step {
                Step::Ask { declared, .. } => {
                    let asked = Request { max_generated_tokens: declared, ..request(1, 1, 0) };
                    let answer = key.ask(&asked);
                    live.extend(answer.outcome.is_ok().then(|| (ticket(&answer, &asked), 0)));
                }
                Step::Progress { which, more } if !live.is_empty() => {
                    let index = which.index(live.len());
                    let (ticket, generated) = &mut live[index];
                    *generated += more;
                    key.progress(ticket, *generated).expect("live");
                }
                Step::Settle { which, more, .. } if !live.is_empty() => {
                    let (ticket, generated) = live.swap_remove(which.index(live.len()));
                    key.settle(&ticket, generated + more).expect("live");
                }
                _ => {}
            }
        }
        key.windows();
        let (state, forecast, now) = (&key.state, key.forecast, at(key.now));
        let (mut instants, mut charged) = (Vec::new(), state.generated.sum());
        for (then, leaving) in state.generated.seconds().flat_map(Second::departures).chain([(now.after(WINDOW), 0)]) {
            instants.push((then, charged, state.holds.ahead().by(then)));
            charged -= leaving;
        }
        let most_reach = forecast.most_reach(3_000, state.watch.is_on(now));
        let guarded = |ask: GeneratedAsk| ask.tokens > 0 && state.holds.reach() + ask.reach > most_reach;
        for tokens in asks {
            let ask = GeneratedAsk { tokens, reach: tokens / 8 };
            let full = |&&(_, charged, expected): &&(Timestamp, u64, crate::holds::Expected)| {
                !forecast.fits(charged + expected.tokens + tokens, expected.tokens, expected.variance, 3_000)
            };
            // What is declared may rule out what is feared.
            let ever = state.generated.sum() + state.holds.most() + tokens;
            let fits = ever <= 3_000 || instants.iter().find(full).is_none();
            prop_assert_eq!(state.generated_fits(ask, 3_000, &forecast), fits && !guarded(ask));
            if !guarded(ask) {
                let last_full = instants.iter().rev().find(full).map_or(now, |(at, ..)| *at);
                prop_assert_eq!(state.generated_fits_from(now, ask, 3_000, &forecast), last_full);
            }
        }
    }

    /// `remaining` is the largest ask that is admitted, and C12 holds for whatever is in the windows.
    #[test]
    fn remaining_and_retry_after_are_true(
        asks in prop::collection::vec((0_u64..5_000, 1_u64..400, 0_u64..400, 0_u64..300), 1..40),
        ask in 1_u64..1_000,
    ) {
        let mut key = Key::new(LIMIT);
        for (wait, prompt, cached, generated) in asks {
            key.now += wait;
            let request = request(prompt, cached.min(prompt), generated);
            let answer = key.ask(&request);
            if answer.outcome.is_ok() {
                let reserved = ticket(&answer, &request);
                key.now += 1;
                key.settle(&reserved, generated).expect("live");
            }
        }
        let windows = key.windows();
        let mut copy = Key { state: key.state.clone(), ..Key::new(LIMIT) };
        copy.now = key.now;
        let most = windows.prompt.remaining_tokens;
        prop_assert_eq!(denial(&copy.ask(&request(most + 1, most + 1, 0))).is_some(), true);
        if most > 0 && windows.generated.used_tokens <= LIMIT.generated {
            copy.admit(&request(most, most, 0));
        }
        let asked = request(ask, ask, 0);
        let answer = key.ask(&asked);
        if let Err(denied) = answer.outcome {
            prop_assert_eq!(denied.denial, Denial::WindowFull);
            let wait = denied.retry_after.expect("it fits later");
            prop_assert!(!wait.is_zero() && wait <= WINDOW);
            let micros = crate::time::micros(wait);
            let mut early = Key { state: key.state.clone(), ..Key::new(LIMIT) };
            let just_before = at(key.now).after(Duration::from_micros(micros - 1));
            let reserve = Reserve { request: &asked, request_id: None, most_reservations: 100_000 };
            let number = Number { incarnation: INCARNATION, sequence: 1 << 40 };
            let answer = early.call(|state, _, rules| state.reserve(just_before, rules, &reserve, || Ok(number)));
            prop_assert_eq!(answer.map(|answer| denial(&answer)), Ok(Some(Denial::WindowFull)));
            let then = at(key.now).after(wait);
            let answer = key.call(|state, _, rules| state.reserve(then, rules, &reserve, || Ok(number)));
            prop_assert_eq!(answer.map(|answer| denial(&answer)), Ok(None));
        }
    }

    /// Whatever is stated, nothing overflows or panics.
    #[test]
    fn hostile_numbers_saturate(steps in prop::collection::vec((0_u64..1 << 40, 0_u64..=MAX_TOKENS, 0_u64..=MAX_TOKENS), 1..30)) {
        let mut key = Key::new(Tokens::new(MAX_TOKENS, MAX_TOKENS, MAX_TOKENS));
        for (wait, prompt, generated) in steps {
            key.now += wait;
            let asked = request(prompt.max(1), 0, generated);
            let answer = key.ask(&asked);
            if answer.outcome.is_ok() {
                let ticket = ticket(&answer, &asked);
                key.progress(&ticket, generated / 2).expect("live");
                key.settle(&ticket, generated).expect("live");
            }
            key.windows();
        }
    }
}
