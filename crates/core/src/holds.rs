//! What the live streams of a key are expected to produce, and when: the aggregate of its holds.
//!
//! Rejected: walking the live streams on each decision, which costs a busy key 10,000 steps; and the plain sum of the holds,
//! which counts a long answer twice, once as charges that age out and once as output still to come.
//!
//! A hold of `tokens` runs from its last report to its expected end and produces evenly. From then on a silent stream is
//! believed less and less: the hold fades evenly to nothing. Both are straight lines between whole seconds, so a key's holds
//! together are one broken line: a level, a slope, and the knots ahead at which the slope changes.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::time::{MICROS_PER_SECOND, Timestamp};

/// Binary digits behind the point of levels and slopes. What a rise of an hour loses by rounding is a millionth of a token.
const FRACTION: u32 = 32;

/// Shortest time in which the hold of a silent stream fades to nothing.
pub const SHORTEST_FADE: Duration = Duration::from_secs(60);

/// The expected output of one live stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    tokens: u64,
    variance: u128,
    /// Seconds since the epoch: of the last report, of the expected end, and of the end of the fading.
    since: u64,
    end: u64,
    gone: u64,
}

/// Both lines of one hold, or of all: what will have been produced, and what is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    produced: i128,
    held: i128,
}

impl Lines {
    fn add(&mut self, other: Self) {
        self.produced += other.produced;
        self.held += other.held;
    }

    fn minus(self) -> Self {
        Self { produced: -self.produced, held: -self.held }
    }

    fn times(self, seconds: u64) -> Self {
        Self { produced: self.produced * i128::from(seconds), held: self.held * i128::from(seconds) }
    }
}

impl Hold {
    /// A hold of `tokens` that a stream admitted at `admitted_at`, last heard of at `now`, is expected to produce within
    /// `remaining` (at least a second), give or take `variance` tokens squared.
    #[must_use]
    pub fn new(tokens: u64, variance: u128, admitted_at: Timestamp, now: Timestamp, remaining: Duration) -> Self {
        if tokens == 0 {
            return Self::default();
        }
        let since = now.as_seconds();
        // The end is rounded up: a fade that began early would hold too little.
        let end = now.after(remaining.max(Duration::from_secs(1)));
        let end = end.as_seconds() + u64::from(!end.as_micros().is_multiple_of(MICROS_PER_SECOND));
        let duration = end.saturating_sub(admitted_at.as_seconds());
        let gone = end.saturating_add(duration.saturating_mul(2).max(SHORTEST_FADE.as_secs()));
        Self { tokens, variance, since, end, gone }
    }

    /// Tokens held at the start.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens, and the seconds of the last report, of the expected end, and of the end of the fading.
    #[cfg(test)]
    pub(crate) const fn course(&self) -> [u64; 4] {
        [self.tokens, self.since, self.end, self.gone]
    }

    fn rise(&self) -> i128 {
        self.top() / i128::from(self.end - self.since)
    }

    fn top(&self) -> i128 {
        i128::from(self.tokens) << FRACTION
    }

    fn fall(&self) -> i128 {
        // Rounded up, so that half a fading leaves half and not a token more.
        let seconds = i128::from(self.gone - self.end);
        (self.top() + seconds - 1) / seconds
    }

    /// Level and slope from `second` on.
    fn at(&self, second: u64) -> (Lines, Lines) {
        if second >= self.gone {
            (Lines::default(), Lines::default())
        } else if second >= self.end {
            let level = self.top() - self.fall() * i128::from(second - self.end);
            (Lines { produced: level, held: level }, Lines { produced: -self.fall(), held: -self.fall() })
        } else {
            let produced = self.rise() * i128::from(second.saturating_sub(self.since));
            (Lines { produced, held: self.top() }, Lines { produced: self.rise(), held: 0 })
        }
    }

    /// What changes at which second, after `second`.
    fn knots_after(&self, second: u64) -> impl Iterator<Item = (u64, Knot)> {
        let fall = Lines { produced: self.fall(), held: self.fall() };
        // What rounding has left undone, so that both lines end where they should.
        let risen = self.top() - self.rise() * i128::from(self.end - self.since);
        let rest = -(self.top() - self.fall() * i128::from(self.gone - self.end));
        let at_end = Lines { produced: -self.rise() - self.fall(), held: -self.fall() };
        [
            (self.end, Knot { slope: at_end, level: Lines { produced: risen, held: 0 }, ..Knot::default() }),
            (
                self.gone,
                Knot { slope: fall, level: Lines { produced: rest, held: rest }, variance: self.variance, holds: 1 },
            ),
        ]
        .into_iter()
        .filter(move |&(at, _)| at > second)
    }
}

/// A change of the broken line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Knot {
    slope: Lines,
    level: Lines,
    /// Variance that ends here.
    variance: u128,
    /// Holds that end here.
    holds: u64,
}

impl Knot {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All holds of a key. Adding, revising and dropping one costs O(log of the knots), reading O(60), whatever their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    second: u64,
    level: Lines,
    slope: Lines,
    variance: u128,
    knots: BTreeMap<u64, Knot>,
}

impl Holds {
    /// Moves to `now`. The other methods speak of the instant of the last call; an earlier one changes nothing.
    pub fn advance(&mut self, now: Timestamp) {
        let second = now.as_seconds();
        while let Some(entry) = self.knots.first_entry().filter(|entry| *entry.key() <= second) {
            let (at, knot) = entry.remove_entry();
            self.level.add(self.slope.times(at - self.second));
            self.level.add(knot.level);
            self.slope.add(knot.slope);
            self.variance -= knot.variance;
            self.second = at;
        }
        self.level.add(self.slope.times(second.saturating_sub(self.second)));
        self.second = self.second.max(second);
    }

    /// Adds a hold that began at or before the instant of the last [`Holds::advance`].
    pub fn insert(&mut self, hold: &Hold) {
        if hold.tokens == 0 {
            return;
        }
        let (level, slope) = hold.at(self.second);
        self.level.add(level);
        self.slope.add(slope);
        for (at, change) in hold.knots_after(self.second) {
            self.variance += change.variance;
            let knot = self.knots.entry(at).or_default();
            knot.slope.add(change.slope);
            knot.level.add(change.level);
            knot.variance += change.variance;
            knot.holds += change.holds;
        }
    }

    /// Takes back a hold that was inserted and not yet removed.
    pub fn remove(&mut self, hold: &Hold) {
        if hold.tokens == 0 {
            return;
        }
        let (level, slope) = hold.at(self.second);
        self.level.add(level.minus());
        self.slope.add(slope.minus());
        for (at, change) in hold.knots_after(self.second) {
            self.variance -= change.variance;
            if let Some(knot) = self.knots.get_mut(&at) {
                knot.slope.add(change.slope.minus());
                knot.level.add(change.level.minus());
                knot.variance -= change.variance;
                knot.holds -= change.holds;
                if knot.is_empty() {
                    self.knots.remove(&at);
                }
            }
        }
    }

    /// Tokens held now, rounded up.
    #[must_use]
    pub fn held(&self) -> u64 {
        tokens_up(self.level.held)
    }

    /// Variance of what the holds will produce, tokens squared.
    #[must_use]
    pub const fn variance(&self) -> u128 {
        self.variance
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.knots.is_empty()
    }

    /// For this second and each that follows, without end: the most that the holds expect to have produced at any instant of
    /// that second, in tokens rounded up.
    pub fn production(&self) -> impl Iterator<Item = u64> + '_ {
        let mut knots = self.knots.iter().peekable();
        let (mut level, mut slope, mut second) = (self.level.produced, self.slope.produced, self.second);
        core::iter::from_fn(move || {
            let start = level;
            level += slope;
            second = second.saturating_add(1);
            // The line is continuous but for what rounding leaves to the end of a rise, which is below a token's millionth.
            let highest = start.max(level);
            while let Some((_, knot)) = knots.next_if(|(at, _)| **at <= second) {
                slope += knot.slope.produced;
                level += knot.level.produced;
            }
            Some(tokens_up(highest))
        })
    }
}

fn tokens_up(level: i128) -> u64 {
    let unit = 1_i128 << FRACTION;
    u64::try_from((level + unit - 1) >> FRACTION).unwrap_or(if level < 0 { 0 } else { u64::MAX })
}

#[cfg(test)]
mod tests;
