//! What a key tells the ledger of its fleet is never less than what it counts, at any instant of the coming minute.

use super::record::{Tickets, run, step, wait};
use super::*;
use crate::fleet::Leaving;

/// What of it counts so many milliseconds later: a second that has begun counts to its end.
fn counted(needs: Leaving<'_>, later: u64) -> u64 {
    needs.iter().filter(|(second, _)| (u64::from(*second) + 1) * 1_000 > later).map(|(_, tokens)| tokens).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn needs_cover_every_instant_of_the_coming_minute(
        before in prop::collection::vec((wait(), step()), 0..60),
        looks in prop::collection::vec(0_u64..60_000, 1..20),
    ) {
        let mut key = Key::between(LIMIT, LIMIT.map(|limit| 5 * limit));
        let mut tickets = Tickets::new();
        for (wait, step) in before {
            key.now += wait;
            run(&mut key, &mut tickets, &step);
        }
        key.call(|state, now, rules| state.advance(now, rules));
        let needs = key.state.needs(&key.forecast);
        for (window, needs) in needs.iter() {
            prop_assert!(needs.is_sorted_by_key(|(second, _)| *second) && needs.len() <= 62, "{window:?}: {needs:?}");
        }
        let room = key.call(|state, _, rules| state.room(Window::Generated, MAX_TOKENS, rules));
        // Or what the guard asks for, which is no matter where a limit is as large as that.
        let guard = key.state.least_for(key.state.holds.reach(), &key.forecast);
        let taken = (MAX_TOKENS - room.expect("room")).max(guard);
        prop_assert_eq!(counted(&needs.generated, 0), taken, "what a decision finds taken");
        for later in looks {
            let mut charges = (key.state.prompt.clone(), key.state.generated.clone());
            let instant = at(key.now + later);
            charges.0.expire(instant);
            charges.1.expire(instant);
            let [prompt, uncached] = charges.0.sum();
            prop_assert!(counted(&needs.prompt, later) >= prompt, "prompt, {later} ms later");
            prop_assert!(counted(&needs.uncached_prompt, later) >= uncached, "uncached prompt, {later} ms later");
            let expected = key.state.holds.ahead().by(instant);
            let produced = expected.tokens + key.forecast.margin(expected.tokens, expected.variance);
            let generated = charges.1.sum() + produced.min(key.state.holds.most());
            prop_assert!(
                counted(&needs.generated, later) >= generated,
                "generated, {later} ms later: {generated} of {:?}", needs.generated
            );
            // And of what only leaves, no more than what leaves within the next second.
            let mut sooner = key.state.prompt.clone();
            sooner.expire(at(key.now + later.saturating_sub(1_000)));
            prop_assert!(counted(&needs.prompt, later) <= sooner.sum()[0], "prompt, {later} ms later");
        }
    }
}

#[test]
fn a_key_that_does_nothing_needs_nothing() {
    let mut key = Key::new(LIMIT);
    assert_eq!(key.state.needs(&key.forecast), PerWindow::default());
    key.admit(&request(10, 4, 0));
    assert_eq!(key.state.needs(&key.forecast).prompt, [(60, 10)]);
    assert_eq!(key.state.needs(&key.forecast).uncached_prompt, [(60, 6)]);
}
