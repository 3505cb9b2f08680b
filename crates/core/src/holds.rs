//! What the live streams of a key are expected to produce, and when: the aggregate of its holds.
//!
//! Rejected: walking the live streams on each decision, which costs a busy key 10,000 steps; and the plain sum of the holds,
//! which counts a long answer twice, once as charges that age out and once as output still to come.
//!
//! A hold follows its [`Course`]: straight lines between marks at whole seconds after the last report, for the expected
//! output and for its variance. So the holds of a key together are two broken lines: a level, a slope, and the knots of the
//! coming minute at which the slope changes. From its expected end on a silent stream is believed less and less: its hold
//! fades evenly to nothing. What is expected to come is not believed less for lying ahead, so fading is kept apart: it has
//! an effect as it passes, and none on what is read ahead.
//!
//! A knot between two seconds is shared out to both in proportion, which leaves the line as it is outside of that second and
//! at most a quarter of a second's production higher within it.

use alloc::boxed::Box;

use crate::forecast::Course;
use crate::small_map::SmallMap;
use crate::time::{MICROS_PER_SECOND, Timestamp};

mod hold;

use hold::{Fade, Line};
pub use hold::{Hold, SHORTEST_FADE};

/// Binary digits behind the point of fractions of a second; changes of slope are shared between seconds by them.
const SECOND_DIGITS: u32 = 8;
const SECOND: i64 = 1 << SECOND_DIGITS;

/// Binary digits behind the point of tokens produced. Variances have none.
const TOKEN_DIGITS: u32 = Course::DIGITS;

/// Seconds for which knots are kept: the last mark, the second that shares it, and the one that has begun.
const AHEAD: usize = 64;

/// What begins or ends to fade at a second, and what is gone from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FadeKnot {
    /// How many holds end or are gone here.
    holds: u32,
    slope: Fade,
    /// Reach of the holds that are expected to end here.
    ending: u64,
    gone: Gone,
}

/// Of holds that are gone: how far their courses had come, what they held, what fading had taken of it, their reach, and what they
/// could produce at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gone {
    top: Line,
    held: i128,
    faded: Fade,
    reach: u64,
    most: u64,
}

/// All holds of a key. Adding, revising and dropping one costs O(log of the holds), reading O(60), whatever their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    now: Timestamp,
    /// Of the courses, at the second of `now`, in 1/[`SECOND`].
    level: Line,
    slope: Line,
    /// Changes of slope in the coming minute, at their second modulo [`AHEAD`]; none while nothing is held.
    knots: Option<Box<[Line; AHEAD]>>,
    /// Where all courses end.
    top: Line,
    /// What all holds came with, and what fading took of it.
    held: i128,
    faded: Fade,
    fade_slope: Fade,
    /// What all streams could produce within a minute, and at most; as they came.
    reach: u64,
    most: u64,
    /// Boxed: what they take would be moved about within the map.
    fades: SmallMap<u64, Box<FadeKnot>>,
}

impl Holds {
    /// Moves to `now`. The other methods speak of the instant of the last call; an earlier one changes nothing.
    pub fn advance(&mut self, now: Timestamp) {
        let (from, to) = (self.now.as_seconds(), now.as_seconds());
        self.now = self.now.max(now);
        if self.fades.is_empty() || to <= from {
            return;
        }
        let mut at = from;
        while let Some((second, knot)) = self.fades.pop_first_to(&to) {
            self.faded.add(self.fade_slope.times(signed(second.saturating_sub(at))));
            self.follow(at, second);
            at = at.max(second);
            self.fade_slope.add(knot.slope);
            self.level.add(knot.gone.top.times(-1));
            self.top.add(knot.gone.top.times(-1));
            self.held -= knot.gone.held;
            self.faded.add(knot.gone.faded.times(-1));
            self.reach = self.reach.wrapping_sub(knot.gone.reach);
            self.most = self.most.wrapping_sub(knot.gone.most);
        }
        self.faded.add(self.fade_slope.times(signed(to.saturating_sub(at))));
        self.follow(at, to);
        self.forget_if_empty();
    }

    /// Follows the courses from one second to another.
    fn follow(&mut self, from: u64, to: u64) {
        let Some(knots) = &mut self.knots else { return };
        let last_knot = to.min(from + AHEAD as u64);
        for second in from + 1..=last_knot {
            self.level.add(self.slope);
            self.slope.add(core::mem::take(&mut knots[place(second)]));
        }
        // Beyond the last knot every course has come to its end, and the slope is none.
        debug_assert!(to == last_knot || self.slope == Line::default());
    }

    /// Adds a hold that began at or before the instant of the last [`Holds::advance`].
    pub fn insert(&mut self, hold: &Hold) {
        self.insert_like(hold, hold.tokens);
    }

    /// As [`Holds::insert`] of a hold that differs from this one in the tokens held alone.
    pub fn insert_like(&mut self, hold: &Hold, tokens: u64) {
        self.change(hold, tokens, 1);
    }

    /// Takes back a hold that was inserted and not yet removed.
    pub fn remove(&mut self, hold: &Hold) {
        self.remove_like(hold, hold.tokens);
    }

    /// As [`Holds::remove`] of a hold that differs from this one in the tokens held alone.
    pub fn remove_like(&mut self, hold: &Hold, tokens: u64) {
        self.change(hold, tokens, -1);
        self.forget_if_empty();
    }

    /// Puts the courses of so many [`Hold::silent`] ones in the place of those from which they were made.
    pub fn replace_silent(&mut self, old: &Hold, new: &Hold, count: u32) {
        if old.tokens == 0 || old.gone <= self.now.as_seconds() {
            return;
        }
        debug_assert!(old.fades_with(new), "what is held, and when it is gone, stay as they are");
        let count = i64::from(count);
        self.change_course(old, -count);
        self.change_course(new, count);
        self.change_fading_course(old, new, count);
    }

    fn change(&mut self, hold: &Hold, tokens: u64, sign: i64) {
        let now = self.now.as_seconds();
        if tokens == 0 || hold.gone <= now {
            return;
        }
        self.change_course(hold, sign);
        let (fade, top) = (hold.fade(tokens), hold.top);
        let more = if sign < 0 { -1 } else { 1 };
        // Wraps where a hold is taken back, to exactly what it was.
        let taken = |tokens: u64| if sign < 0 { tokens.wrapping_neg() } else { tokens };
        let (reach, most) = (taken(hold.reach), taken(hold.most));
        let held = Hold::held(tokens) * i128::from(sign);
        self.held += held;
        self.reach = self.reach.wrapping_add(reach);
        self.most = self.most.wrapping_add(most);
        if hold.end > now {
            self.fade_knot(hold.end, more, |knot| {
                knot.slope.add(fade.times(sign));
                knot.ending = knot.ending.wrapping_add(reach);
            });
        } else {
            self.fade_slope.add(fade.times(sign));
            self.faded.add(hold.faded_by(now, &fade).times(sign));
        }
        self.fade_knot(hold.gone, more, |knot| {
            knot.slope.add(fade.times(-sign));
            knot.gone.top.add(top.times(sign));
            knot.gone.held += held;
            knot.gone.faded.add(hold.faded_by(hold.gone, &fade).times(sign));
            knot.gone.reach = knot.gone.reach.wrapping_add(reach);
            knot.gone.most = knot.gone.most.wrapping_add(most);
        });
    }

    /// Adds the lines of a hold's course so many times, or takes them back.
    fn change_course(&mut self, hold: &Hold, times: i64) {
        match times {
            // Nearly always, and much cheaper.
            1 => self.change_lines(hold, Line::add),
            -1 => self.change_lines(hold, Line::subtract),
            _ => self.change_lines(hold, |line, change| line.add(change.times(times))),
        }
    }

    fn change_lines(&mut self, hold: &Hold, change_by: impl Fn(&mut Line, Line)) {
        let now = self.now.as_seconds();
        let knots = self.knots.get_or_insert_with(|| Box::new([Line::default(); AHEAD]));
        let (mut level, mut slope) = hold.start();
        level.add(slope.times(signed(now - hold.since.as_seconds())));
        hold.knots().for_each(|(second, sooner, later)| {
            for (second, change) in [(second, sooner), (second + 1, later)] {
                if second > now {
                    change_by(&mut knots[place(second)], change);
                } else {
                    slope.add(change);
                    level.add(change.times(signed(now - second)));
                }
            }
        });
        change_by(&mut self.level, level);
        change_by(&mut self.slope, slope);
        change_by(&mut self.top, hold.top);
    }

    /// What fading takes of the courses of two holds that fade together otherwise, the one in the place of the other.
    fn change_fading_course(&mut self, old: &Hold, new: &Hold, count: i64) {
        let now = self.now.as_seconds();
        let (old_fade, new_fade) = (old.fade(old.tokens), new.fade(new.tokens));
        let between =
            |old: Fade, new: Fade| Fade { produced: (new.produced - old.produced) * count, ..Fade::default() };
        let slope = between(old_fade, new_fade);
        if new.end > now {
            self.fade_knot(new.end, 0, |knot| knot.slope.add(slope));
        } else {
            self.fade_slope.add(slope);
            self.faded.add(between(old.faded_by(now, &old_fade), new.faded_by(now, &new_fade)));
        }
        self.fade_knot(new.gone, 0, |knot| {
            knot.slope.add(slope.times(-1));
            knot.gone.top.add(old.top.times(-count));
            knot.gone.top.add(new.top.times(count));
            let all = between(old.faded_by(old.gone, &old_fade), new.faded_by(new.gone, &new_fade));
            knot.gone.faded.add(all);
        });
    }

    /// Changes what begins or ends at a second, where so many holds more do from now on.
    fn fade_knot(&mut self, second: u64, more: i32, change: impl FnOnce(&mut FadeKnot)) {
        let knot = self.fades.get_or_insert_with(second, Box::default);
        knot.holds = knot.holds.wrapping_add_signed(more);
        if knot.holds > 0 {
            change(knot);
        } else {
            self.fades.remove(&second);
        }
    }

    fn forget_if_empty(&mut self) {
        if self.fades.is_empty() {
            self.knots = None;
        }
    }

    /// Tokens held now, rounded up.
    #[must_use]
    pub fn held(&self) -> u64 {
        let held = self.held - self.faded.held;
        u64::try_from((held + (1 << TOKEN_DIGITS) - 1) >> TOKEN_DIGITS).unwrap_or(if held < 0 { 0 } else { u64::MAX })
    }

    /// What all streams could produce within a minute if none ended, in tokens; of silent ones less and less.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.reach.saturating_sub(u64::try_from(self.faded.reach).unwrap_or(0))
    }

    /// What all streams can produce at most, in tokens, by what their requests declared.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    /// When [`Holds::reach`] will be at most `most`, if every stream ends when it is expected to, and those that should have
    /// ended when they are believed no longer; `None`: not then either.
    #[must_use]
    pub fn reach_at_most_from(&self, most: u64) -> Option<Timestamp> {
        let mut reach = self.reach();
        let ending: u64 = self.fades.iter().map(|(_, knot)| knot.ending).sum();
        let mut overdue = self.reach.saturating_sub(ending);
        if reach <= most {
            return Some(self.now);
        }
        self.fades.iter().find_map(|(second, knot)| {
            let believed_no_longer = knot.gone.reach.min(overdue);
            overdue -= believed_no_longer;
            reach = reach.saturating_sub(knot.ending.saturating_add(believed_no_longer));
            (reach <= most).then(|| Timestamp::from_seconds(*second).max(self.now))
        })
    }

    /// The most that the holds will ever be expected to have produced: the end of [`Holds::ahead`], in O(1).
    #[must_use]
    pub fn in_the_end(&self) -> Expected {
        Self::expected(self.top.produced - self.faded.produced, self.top.variance)
    }

    fn expected(produced: i64, variance: i64) -> Expected {
        let digits = TOKEN_DIGITS + SECOND_DIGITS;
        Expected {
            tokens: u64::try_from((produced + (1 << digits) - 1) >> digits).unwrap_or(0),
            variance: u64::try_from(variance).unwrap_or(0).div_ceil(SECOND.unsigned_abs()),
        }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fades.is_empty()
    }

    /// What the holds expect to have produced from now on; starts at the instant of the last [`Holds::advance`].
    #[must_use]
    pub fn ahead(&self) -> Ahead<'_> {
        Ahead { holds: self, second: self.now.as_seconds(), level: self.level, slope: self.slope }
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Where the knot of a second is kept.
fn place(second: u64) -> usize {
    usize::try_from(second % AHEAD as u64).unwrap_or(0)
}

/// Expected output at an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Tokens, rounded up.
    pub tokens: u64,
    /// Its variance, tokens squared.
    pub variance: u64,
}

/// Reads the lines of [`Holds`] ahead.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    holds: &'a Holds,
    second: u64,
    level: Line,
    slope: Line,
}

impl Ahead<'_> {
    /// Moves on to the beginning of a second, which is not before the last call's. Costs one step for each second since then.
    pub fn move_to(&mut self, second: u64) {
        let Some(knots) = &self.holds.knots else { return };
        let last_knot = self.holds.now.as_seconds() + AHEAD as u64 - 1;
        while self.second < second {
            self.level.add(self.slope);
            self.second += 1;
            if self.second <= last_knot {
                self.slope.add(knots[place(self.second)]);
            } else {
                self.second = second;
            }
        }
    }

    /// What is expected to have been produced by the end of the second that was moved to.
    #[must_use]
    pub fn by_its_end(&self) -> Expected {
        let mut level = self.level;
        level.add(self.slope);
        self.from(level)
    }

    /// What is expected to have been produced by `at`, which is not before the last call's.
    pub fn by(&mut self, at: Timestamp) -> Expected {
        self.move_to(at.as_seconds());
        let fraction = ((at.as_micros() % MICROS_PER_SECOND) << SECOND_DIGITS) / MICROS_PER_SECOND;
        let fraction = i64::try_from(fraction).unwrap_or(0);
        let mut level = self.level;
        level.add(Line {
            produced: share(self.slope.produced, fraction),
            variance: share(self.slope.variance, fraction),
        });
        self.from(level)
    }

    fn from(&self, level: Line) -> Expected {
        if self.holds.knots.is_none() {
            return Expected::default();
        }
        Holds::expected(level.produced - self.holds.faded.produced, level.variance)
    }
}

/// `slope * fraction / SECOND`, rounded up.
fn share(slope: i64, fraction: i64) -> i64 {
    let product = i128::from(slope) * i128::from(fraction) + i128::from(SECOND - 1);
    i64::try_from(product >> SECOND_DIGITS).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
