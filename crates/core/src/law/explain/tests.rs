use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::law::history::{Change, History, MOST_CHANGES, Reason};
use crate::law::{Boosts, Bounds, LawParams, NO_BOOSTS};
use crate::time::Timestamp;

const PHASE: u64 = 17;
const FLOOR: u64 = 36_000;

/// One window's limit under a law that is looked at every minute, with its history.
struct Watched {
    law: Law,
    history: History,
    bounds: PerWindow<Bounds>,
    params: LawParams,
    boosts: Boosts,
    now: Timestamp,
}

fn bounds(floor: u64, ceiling: u64) -> PerWindow<Bounds> {
    PerWindow::from_fn(|_| Bounds::new(floor, ceiling).expect("in order"))
}

impl Watched {
    fn new() -> Self {
        let (now, bounds) = (Timestamp::from_seconds(1_000_020), bounds(FLOOR, 50 * FLOOR));
        Self {
            law: Law::new(epoch_at(now, PHASE), &bounds),
            history: History::default(),
            bounds,
            params: LawParams::DEFAULT,
            boosts: NO_BOOSTS.clone(),
            now,
        }
    }

    fn applied(&self) -> Applied<'_> {
        Applied {
            now: self.now,
            phase_seconds: PHASE,
            bounds: &self.bounds,
            params: &self.params,
            boosts: &self.boosts,
        }
    }

    fn wait(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.now = self.now.after(Duration::from_secs(60));
            self.look();
        }
    }

    fn look(&mut self) {
        let (before, mut law) = (self.law, self.law);
        law.advance_boosted(self.now, PHASE, &self.bounds, &self.params, &self.boosts);
        let mut history = core::mem::take(&mut self.history);
        history.on_moved(&before, &law, &self.applied());
        (self.law, self.history) = (law, history);
    }

    fn settle(&mut self, tokens: u64, pressure: u16) {
        self.law.on_settled(Tokens::new(tokens, 0, 0), PerWindow::new(pressure, 0, 0));
    }

    fn deny(&mut self) {
        self.law.on_denied(Window::Prompt, 1, &self.bounds.prompt);
    }

    fn limit(&self) -> u64 {
        self.law.limit_tpm(Window::Prompt, &self.bounds.prompt)
    }

    fn reading(&self) -> Reading {
        self.law.reading(Window::Prompt, &self.applied())
    }

    fn reaches(&self, target: u64, rate: u64) -> Option<Duration> {
        let course = Course { law: self.law, rate: Tokens::new(rate, 0, 0), brake: PerWindow::default() };
        course.reaches(Window::Prompt, target, &self.applied())
    }

    fn changes(&self) -> Vec<Change> {
        self.history.newest_first(Window::Prompt).copied().collect()
    }

    fn reasons(&self) -> Vec<Reason> {
        self.changes().iter().map(|change| change.reason).collect()
    }
}

#[test]
fn the_time_to_a_limit_is_the_time_that_it_takes() {
    // Up to 100,000 by steady use of 80,000, whatever stood in the limit's way at first; then down, by less use and by none.
    for (rate, target, denied) in
        [(80_000, 100_000, false), (80_000, 119_000, false), (45_000, 105_000, true), (36_000, 50_000, false)]
    {
        let mut key = Watched::new();
        key.settle(rate, 0);
        if denied {
            key.deny();
        }
        // The present minute is over but for its last second, and its tokens are all there.
        let foreseen = key.reaches(target, rate).expect("it is reached");
        let start = key.now;
        let mut minutes = 0;
        while key.limit() < target {
            key.wait(1);
            minutes += 1;
            assert!(minutes < 200, "{rate} {target}");
            key.settle(rate, 0);
            if denied {
                key.deny();
            }
        }
        let took = key.now.since(start);
        assert!(foreseen <= took && took < foreseen + Duration::from_secs(60), "{foreseen:?} {took:?}");
    }
    let mut key = Watched::new();
    for _ in 0..30 {
        key.settle(200_000, 0);
        key.wait(1);
    }
    let (high, start) = (key.limit(), key.now);
    let foreseen = key.reaches(high / 2, 0).expect("it sinks");
    while key.limit() > high / 2 {
        key.wait(1);
    }
    let took = key.now.since(start);
    assert!(foreseen <= took && took < foreseen + Duration::from_secs(60), "{foreseen:?} {took:?}");
}

#[test]
fn a_limit_that_is_never_reached_is_said_to_be_never_reached() {
    let mut key = Watched::new();
    assert_eq!(key.reaches(FLOOR, 0), Some(Duration::ZERO));
    assert_eq!(key.reaches(FLOOR + 1_000, 0), None, "idle");
    assert_eq!(key.reaches(FLOOR - 1, 0), None, "below the floor");
    key.settle(40_000, 0);
    assert_eq!(key.reaches(61_000, 40_000), None, "above 1.5 times the use");
    assert!(key.reaches(59_000, 40_000).is_some());
    assert_eq!(key.reaches(50 * FLOOR + 1, 1 << 40), None, "above the ceiling");
    assert!(key.reaches(50 * FLOOR, 1 << 40).is_some());
}

#[test]
fn it_says_why_a_limit_moves_or_does_not() {
    let mut key = Watched::new();
    assert_eq!((key.reading().motion, key.reading().next_limit_tpm), (Motion::Idle, FLOOR));
    key.settle(20_000, 0);
    let reading = key.reading();
    assert_eq!((reading.motion, reading.settled_tokens, reading.recommended_tpm), (Motion::UseTooLow, 20_000, 30_000));
    let needs = reading.growth_needs_tokens.expect("the profile grows");
    key.settle(needs - 20_000 - 1, 0);
    assert_eq!(key.reading().motion, Motion::UseTooLow, "one token below what it says that growth needs");
    key.settle(1, 0);
    assert_eq!(key.reading().motion, Motion::Grows);
    key.settle(10_000, 0);
    let next = key.reading().next_limit_tpm;
    key.wait(1);
    assert_eq!(key.limit(), next, "it comes as it was said");

    let mut key = Watched::new();
    key.settle(16_000, 0);
    key.deny();
    let reading = key.reading();
    assert_eq!((reading.motion, reading.denial_seen), (Motion::GrowsAfterDenial, true));
    assert!(reading.next_limit_tpm > FLOOR);

    let mut key = Watched::new();
    key.settle(FLOOR, 850);
    assert_eq!((key.reading().motion, key.reading().brake_permille), (Motion::Braked, 850));

    let mut key = Watched::new();
    key.params = LawParams::STATIC;
    key.settle(FLOOR, 0);
    assert_eq!((key.reading().motion, key.reading().growth_needs_tokens), (Motion::Static, None));
    key.bounds = bounds(FLOOR, FLOOR);
    assert_eq!(key.reading().motion, Motion::AtCeiling);

    let mut key = Watched::new();
    let lift = Lift { window: Window::Prompt, limit_tpm: 90_000, expires_at: key.now.after(Duration::from_secs(300)) };
    key.boosts = Boosts::new(vec![lift]);
    key.look();
    assert_eq!((key.reading().motion, key.reading().boost), (Motion::Boosted, Some(lift)));
    key.wait(6);
    let reading = key.reading();
    assert_eq!((reading.motion, reading.boost, reading.held_epochs), (Motion::Falls, None, 0));
}

#[test]
fn every_change_is_remembered_with_its_reason() {
    let mut key = Watched::new();
    key.wait(100);
    assert_eq!(key.changes(), [], "a limit that never moved has no history");
    key.settle(FLOOR, 0);
    let earned_in = key.law.epoch;
    key.wait(1);
    let grown = key.limit();
    let closed = key.applied().epoch_start(earned_in + 1);
    let first = Change { since: closed, at: closed, before_tpm: FLOOR, after_tpm: grown, reason: Reason::Use };
    assert_eq!(key.changes(), [first]);
    key.settle(FLOOR, 800);
    key.wait(1);
    key.settle(16_000, 0);
    key.deny();
    key.wait(1);
    assert_eq!(key.reasons(), [Reason::Denial, Reason::UseBraked, Reason::Use]);

    // A long decay is one line, from its first minute to its last.
    let high = key.limit();
    key.wait(400);
    let fall = key.changes()[0];
    assert_eq!((fall.reason, fall.before_tpm, fall.after_tpm), (Reason::Decay, high, FLOOR));
    assert!(fall.since < fall.at && key.changes().len() == 4);

    key.bounds = bounds(72_000, 100_000);
    key.look();
    key.bounds = bounds(FLOOR, 50_000);
    key.look();
    assert_eq!(key.reasons()[..2], [Reason::Ceiling, Reason::Floor]);
    assert_eq!((key.changes()[0].at, key.changes()[0].after_tpm), (key.now, 50_000));
    key.bounds = bounds(FLOOR, 50 * FLOOR);
    let expires_at = key.now.after(Duration::from_secs(300));
    key.boosts = Boosts::new(vec![Lift { window: Window::Prompt, limit_tpm: 90_000, expires_at }]);
    key.look();
    key.wait(30);
    assert_eq!(key.reasons()[..3], [Reason::Decay, Reason::BoostEnd, Reason::Boost]);
    for _ in 0..5 * MOST_CHANGES {
        key.settle(1 << 40, 0);
        key.wait(1);
    }
    assert_eq!(key.changes().len(), MOST_CHANGES, "bounded");
    assert_eq!(key.changes()[0].after_tpm, key.limit());
}
