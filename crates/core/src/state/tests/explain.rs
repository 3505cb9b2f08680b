//! A key explains itself.

use super::*;
use crate::law::explain::Motion;
use crate::law::history::Reason;

fn between(floor: u64, ceiling: u64) -> Key {
    Key::between(Tokens::from_fn(|_| floor), Tokens::from_fn(|_| ceiling))
}

fn explained(key: &mut Key) -> Explained {
    key.call(|state, now, rules| {
        state.advance(now, rules);
        state.explain(rules)
    })
}

#[test]
fn a_key_tells_what_moved_its_limits() {
    let mut key = between(1_000, 50_000);
    assert_eq!(explained(&mut key).windows.prompt.changes, []);
    key.call(|state, now, rules| {
        state.law.on_settled(Tokens::new(1_000, 100, 0), PerWindow::default());
        state.advance(now, rules);
    });
    let said = explained(&mut key).windows;
    let motions = [said.prompt.law.motion, said.uncached_prompt.law.motion, said.generated.law.motion];
    assert_eq!(motions, [Motion::Grows, Motion::UseTooLow, Motion::Idle]);
    key.now += 60_000;
    let said = explained(&mut key).windows;
    let grown = said.prompt.status.limit_tpm;
    let change = said.prompt.changes[0];
    assert_eq!((change.before_tpm, change.after_tpm, change.reason), (1_000, grown, Reason::Use));
    assert_eq!((said.uncached_prompt.changes.len(), said.generated.changes.len()), (0, 0));

    // Within an epoch: the ceiling falls, and an operator resets.
    key.bounds = between(900, 1_010).bounds;
    key.now += 1_000;
    let said = explained(&mut key).windows.prompt;
    assert_eq!(
        (said.status.limit_tpm, said.changes[0].reason, said.changes[0].at),
        (1_010, Reason::Ceiling, at(key.now))
    );
    let all = PerWindow::from_fn(|_| true);
    key.call(|state, now, rules| state.reset_limits(now, rules, &all));
    let said = explained(&mut key).windows.prompt;
    let change = said.changes[0];
    assert_eq!((change.before_tpm, change.after_tpm, change.reason), (1_010, 900, Reason::Reset));
}

#[test]
fn the_fullest_window_binds_and_an_explanation_changes_nothing() {
    let mut key = between(1_000, 1_000);
    assert!(explained(&mut key).windows.iter().all(|(_, said)| !said.status.binding), "nothing is used");
    key.call(|state, now, _| state.prompt.charge(now, [600, 599]));
    let said = explained(&mut key);
    let binding: Vec<_> =
        said.windows.iter().filter(|(_, said)| said.status.binding).map(|(window, _)| window).collect();
    assert_eq!(binding, [Window::Prompt]);
    assert_eq!((said.course.rate.prompt, said.windows.prompt.status.remaining_tokens), (600, 400));
    assert_eq!(said.epoch_closes_after, Duration::from_secs(60 - START % 60));
    let again = explained(&mut key);
    assert_eq!(again.windows, said.windows);
}

#[test]
fn a_change_that_somebody_wrote_is_dated_when_it_was_seen_and_not_before_it_was_written() {
    let mut key = between(1_000, 50_000);
    explained(&mut key);
    // In the middle of a later minute of the law.
    key.now += 97_000;
    key.bounds = between(2_000, 50_000).bounds;
    let change = explained(&mut key).windows.prompt.changes[0];
    assert_eq!((change.reason, change.at), (Reason::Floor, at(key.now)));
}
