//! A key of which a part is allotted: as if that part were the limit, but for what is published and what the law sees.

use super::record::{Tickets, run, step, wait};
use super::*;
use crate::law::level;
use crate::pressure::Signal;

const ALL: Tokens = Tokens::new(MAX_TOKENS, MAX_TOKENS, MAX_TOKENS);

fn allotted(allotted: Tokens, elsewhere: Tokens) -> Option<Allotment> {
    Some(Allotment { allotted, elsewhere, frees_in: PerWindow::default(), beyond: Beyond::Ask })
}

impl Key {
    /// Asks, and is told what it would take where the allotment is too small.
    fn ask_or_short(&mut self, request: &Request<'_>) -> Result<Answer, Short> {
        let number = Number { incarnation: INCARNATION, sequence: self.next };
        self.next += 1;
        let reserve = Reserve { request, request_id: None, most_reservations: 100_000 };
        let tried = self.call(|state, now, rules| state.try_reserve(now, rules, &reserve, || Ok(number)));
        tried.expect("no request id")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Call by call, busy deployments included.
    #[test]
    fn whoever_is_allotted_the_whole_limit_decides_as_if_alone(
        steps in prop::collection::vec((wait(), prop::option::weighted(0.1, (0..1_500_u32, 0..3_000_u64)), step()), 1..80),
        beyond in prop_oneof![Just(Beyond::Ask), Just(Beyond::Deny), Just(Beyond::Unavailable)],
    ) {
        let mut alone = Key::between(LIMIT, LIMIT.map(|limit| 5 * limit));
        let mut one_of_many = alone.clone();
        one_of_many.allotment = allotted(ALL, Tokens::default()).map(|part| Allotment { beyond, ..part });
        let (mut first, mut second) = (Tickets::new(), Tickets::new());
        for (wait, pressure, step) in steps {
            for key in [&mut alone, &mut one_of_many] {
                key.now += wait;
                if let Some((permille, water)) = pressure {
                    let reading = Reading::new(Signal::Live(permille), Some(level::of_tokens(water)));
                    key.pressure = PerWindow::from_fn(|_| reading);
                }
            }
            prop_assert_eq!(run(&mut one_of_many, &mut second, &step), run(&mut alone, &mut first, &step), "{:?}", step);
            prop_assert_eq!(one_of_many.state.law, alone.state.law);
        }
    }

    /// What is short is exactly what it takes; a smaller allotment admits nothing that a larger one would not.
    #[test]
    fn short_says_what_it_takes(
        before in prop::collection::vec((wait(), step()), 0..50),
        share in 0_u64..=1_000,
        ask in (1_u64..500, 0_u64..500, prop::option::of(0_u64..300)),
    ) {
        let mut key = Key::new(LIMIT);
        let mut tickets = Tickets::new();
        for (wait, step) in before {
            key.now += wait;
            run(&mut key, &mut tickets, &step);
        }
        let (prompt, cached, declared) = ask;
        let request =
            Request { max_generated_tokens: declared, ..super::request(prompt, cached.min(prompt), 0) };
        // The first look at a silent stream may change what is believed of it: that once is not the question here.
        let _ = key.call(|state, now, rules| { state.advance(now, rules); state.windows(rules) });
        let mut with_all = key.clone();
        let would_fit = with_all.ask(&request).outcome.is_ok();
        let part = LIMIT.map(|limit| limit * share / 1_000);
        key.allotment = allotted(part, Tokens::default());
        let (law, used) = (key.state.law, key.state.used());
        match key.ask_or_short(&request) {
            Ok(answer) => {
                prop_assert!(would_fit || answer.outcome.is_err(), "{answer:?}");
                let used = key.state.used();
                prop_assert!(answer.outcome.is_err() || used.prompt <= part.prompt && used.uncached_prompt <= part.uncached_prompt);
            }
            Err(Short { missing, wanted, ask }) => {
                prop_assert!(would_fit, "only what would fit the limit is worth asking for");
                prop_assert_eq!((key.state.law, key.state.used()), (law, used));
                prop_assert!(missing != Tokens::default() && ask.prompt == prompt);
                prop_assert!(missing.iter().all(|(window, missing)| *missing == 0 || wanted[window] == part[window] + missing));
                let enough = Tokens::from_fn(|window| part[window] + missing[window]);
                for window in Window::ALL.into_iter().filter(|window| missing[*window] > 0) {
                    let mut less = enough;
                    less[window] -= 1;
                    key.allotment = allotted(less, Tokens::default());
                    prop_assert!(key.clone().ask_or_short(&request).is_err(), "one token less of {window:?}");
                }
                key.allotment = allotted(enough, Tokens::default());
                prop_assert!(key.ask_or_short(&request).is_ok_and(|answer| answer.outcome.is_ok()), "{missing:?}");
            }
        }
    }

    /// A fleet whose allotments come to the limit: what all told that they need is never more than that.
    #[test]
    fn a_key_needs_no_more_than_it_was_allotted(
        steps in prop::collection::vec((wait(), step()), 1..60),
        share in 1_u64..=1_000,
    ) {
        let mut key = Key::new(LIMIT);
        let part = LIMIT.map(|limit| limit * share / 1_000);
        key.allotment = allotted(part, Tokens::default());
        let mut tickets = Tickets::new();
        let mut corrected = false;
        for (wait, step) in steps {
            key.now += wait;
            // Settling and reporting more than was admitted is a debt (C5): another matter.
            corrected |= !matches!(step, super::record::Step::Ask { .. } | super::record::Step::Windows);
            if corrected {
                break;
            }
            run(&mut key, &mut tickets, &step);
            key.call(|state, now, rules| state.advance(now, rules));
            let needs = key.state.needs(&key.forecast);
            let sum = |needs: &[(u32, u64)]| needs.iter().map(|(_, tokens)| tokens).sum::<u64>();
            prop_assert!(sum(&needs.prompt) <= part.prompt && sum(&needs.uncached_prompt) <= part.uncached_prompt);
        }
    }
}

#[test]
fn what_is_short_is_denied_once_and_only_when_that_is_the_last_word() {
    let mut key = Key::new(LIMIT);
    key.allotment = allotted(Tokens::new(100, 100, 100), Tokens::new(850, 0, 0));
    key.admit(&request(100, 100, 0));
    let short = key.ask_or_short(&request(30, 30, 0)).expect_err("nothing is left of the hundred");
    assert_eq!((short.missing, short.ask), (Tokens::new(30, 0, 0), Tokens::new(30, 0, 0)));
    assert!(!key.state.law.windows.prompt.den);
    let windows = key.windows();
    assert_eq!(windows.prompt.limit_tpm, LIMIT.prompt, "what is published is the fleet's");
    assert_eq!((windows.prompt.used_tokens, windows.prompt.remaining_tokens), (950, 50));

    key.now += 20_000;
    let answer = key.ask(&request(30, 30, 0));
    assert_eq!(denial(&answer), Some(Denial::WindowFull));
    assert!(answer.windows.prompt.binding && key.state.law.windows.prompt.den);
    let wait = answer.outcome.expect_err("denied").retry_after.expect("a wait");
    assert!((40_000..=41_000).contains(&wait.as_millis()), "what leaves here: {wait:?}");
    // More than is allotted never fits by what leaves here.
    let answer = key.ask(&request(101, 101, 0));
    assert_eq!(answer.outcome.expect_err("denied").retry_after, Some(Duration::from_secs(1)));
}

#[test]
fn whoever_waits_for_what_others_have_is_told_when_it_leaves() {
    let mut key = Key::new(LIMIT);
    let seconds = |seconds| Duration::from_secs(seconds);
    // Of the prompt window all is elsewhere; what the fleet says of a window that is not in the way is not waited for.
    let full = Tokens::new(0, 1_000, 1_000);
    let frees_in = PerWindow::new(seconds(17), seconds(44), Duration::ZERO);
    key.allotment =
        allotted(full, Tokens::new(1_000, 0, 0)).map(|part| Allotment { frees_in, beyond: Beyond::Deny, ..part });
    let answer = key.ask(&request(10, 10, 0));
    assert_eq!(denial(&answer), Some(Denial::WindowFull));
    assert_eq!(answer.outcome.expect_err("denied").retry_after, Some(seconds(17)));
    let frees_in = PerWindow::new(seconds(70), seconds(44), Duration::ZERO);
    key.allotment = key.allotment.map(|part| Allotment { frees_in, ..part });
    assert_eq!(
        key.ask(&request(10, 10, 0)).outcome.expect_err("denied").retry_after,
        Some(WINDOW),
        "never more than a minute"
    );
}

#[test]
fn where_nobody_knows_what_the_fleet_has_it_is_ours_and_no_demand() {
    let mut key = Key::new(LIMIT);
    let nothing = Tokens::default();
    key.allotment = allotted(nothing, nothing).map(|part| Allotment { beyond: Beyond::Unavailable, ..part });
    let answer = key.ask(&request(1, 1, 0));
    assert_eq!(denial(&answer), Some(Denial::StoreUnavailable));
    assert_eq!(answer.windows.prompt.remaining_tokens, 0);
    assert!(!key.state.law.windows.prompt.den);
    // What is above the limit is so whatever the store says.
    assert_eq!(denial(&key.ask(&request(1_001, 1_001, 0))), Some(Denial::NeverFits));
}

#[test]
fn a_shared_law_moves_by_what_it_is_told_and_tells_what_it_saw() {
    let mut key = Key::between(LIMIT, LIMIT.map(|limit| 5 * limit));
    key.law_is_shared = true;
    let ticket = key.admit(&request(1_000, 600, 20));
    assert_eq!(key.settle(&ticket, 20), Ok(SettleOutcome::Applied));
    assert_eq!(denial(&key.ask(&request(900, 900, 0))), Some(Denial::WindowFull));
    key.now += 600_000;
    assert_eq!(key.windows().prompt.limit_tpm, LIMIT.prompt, "epochs are closed elsewhere");
    let sighted = key.state.take_sighted();
    assert_eq!(sighted.prompt, Sighted { settled: 1_000, denied: true, pressure: 0 });
    assert_eq!(key.state.take_sighted(), PerWindow::default(), "once");

    let mut law = Law::new(law::epoch_at(at(key.now), 0), &key.bounds);
    law.boost(Window::Prompt, 3_000, &key.bounds.prompt);
    law.windows.prompt.u = 77;
    key.call(|state, now, rules| state.follow_law(now, &law, rules));
    assert!((3_000..3_020).contains(&key.windows().prompt.limit_tpm));
    assert_eq!(key.state.take_sighted(), PerWindow::default(), "what others saw is not ours to say");
    key.bounds.prompt = Bounds::new(100, 2_000).expect("in order");
    assert_eq!(key.windows().prompt.limit_tpm, 2_000, "a lowered ceiling clamps at once");
}
