//! The hold of one live stream: its course as straight lines, and how it fades.

use core::time::Duration;

use minicbor::{Decode, Encode};

use super::{SECOND, SECOND_DIGITS, TOKEN_DIGITS};
use crate::forecast::{Course, MARKS};
use crate::record::record;
use crate::time::{MICROS_PER_SECOND, Timestamp};

/// Shortest time in which the hold of a silent stream fades to nothing.
pub const SHORTEST_FADE: Duration = Duration::from_secs(60);

/// Most variance of one hold, tokens squared, so that the sum over 100,000 holds stays within 63 bits.
const MOST_VARIANCE: u64 = 1 << 37;

/// Most that a stream is believed to have produced without a report: the longest answer that a course knows of.
const MOST_UNREPORTED: u64 = 1 << 21;

/// Expected output and its variance: a level, a slope per second, or a change of slope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Line {
    #[n(0)]
    pub(super) produced: i64,
    #[n(1)]
    pub(super) variance: i64,
}

record!(Line { produced, variance });

impl Line {
    pub(super) fn add(&mut self, other: Self) {
        self.produced += other.produced;
        self.variance += other.variance;
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.produced -= other.produced;
        self.variance -= other.variance;
    }

    pub(super) fn times(self, factor: i64) -> Self {
        Self { produced: self.produced * factor, variance: self.variance * factor }
    }
}

/// The expected output of one live stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Hold {
    #[n(0)]
    pub(super) tokens: u64,
    /// What the stream could produce within a minute, and at most.
    #[n(1)]
    pub(super) reach: u64,
    #[n(2)]
    pub(super) most: u64,
    /// What it is believed to have produced by the start of its course and has not reported, with [`TOKEN_DIGITS`].
    #[n(3)]
    pub(super) base: i64,
    /// Slopes up to each mark.
    #[n(4)]
    pub(super) slopes: [Line; MARKS.len()],
    /// The last report.
    #[n(5)]
    pub(super) since: Timestamp,
    /// Seconds since the epoch: of the expected end, and of the end of the fading.
    #[n(6)]
    pub(super) end: u64,
    #[n(7)]
    pub(super) gone: u64,
    /// From when on the course fades, in seconds since the epoch; not before `end`.
    #[n(8)]
    pub(super) fades_from: u64,
    /// What the course comes to, in 1/[`SECOND`].
    #[n(9)]
    pub(super) top: Line,
}

record!(Hold { tokens, reach, most, base, slopes, since, end, gone, fades_from, top });

impl Hold {
    /// A hold that follows `course` from the last report at `now` of a stream admitted at `admitted_at`, and is expected to
    /// end after `remaining` (at least a second).
    #[must_use]
    pub fn new(course: &Course, admitted_at: Timestamp, now: Timestamp, remaining: Duration) -> Self {
        if course.total == 0 {
            return Self::default();
        }
        // The end is rounded up: a fade that began early would hold too little.
        let end = now.after(remaining.max(Duration::from_secs(1)));
        let end = end.as_seconds() + u64::from(!end.as_micros().is_multiple_of(MICROS_PER_SECOND));
        let duration = end.saturating_sub(admitted_at.as_seconds());
        let fade = duration.saturating_mul(2).max(SHORTEST_FADE.as_secs());
        // At least 61 s after the second of the report, and so not before the last knot of the course.
        let gone = end.saturating_add(fade);
        let slopes = slopes(|mark| Line {
            produced: i64::try_from(course.produced[mark]).unwrap_or(i64::MAX),
            variance: i64::try_from(course.variance[mark].min(MOST_VARIANCE)).unwrap_or(i64::MAX),
        });
        let (tokens, reach, most) = (course.total, course.reach, course.most);
        let top = top(0, &slopes);
        Self { tokens, reach, most, base: 0, slopes, since: now, end, gone, fades_from: end, top }
    }

    /// The same hold `now`, of a stream that has said nothing since and has not ended: it is believed to have produced
    /// `unreported` tokens, and to go on by `course`. What is held of it and when that fades stay as they are.
    #[must_use]
    pub fn silent(&self, unreported: u64, course: &Course, now: Timestamp) -> Self {
        let second = now.as_seconds();
        if self.tokens == 0 || second >= self.gone {
            return *self;
        }
        // What has faded is not believed again.
        let (left, whole) = if second > self.end { (self.gone - second, self.gone - self.end) } else { (1, 1) };
        let believed = |level: u64| {
            let level = if left == whole {
                level
            } else if let Some(product) = level.checked_mul(left) {
                // Nearly always, and much cheaper.
                product / whole
            } else {
                u64::try_from(u128::from(level) * u128::from(left) / u128::from(whole)).unwrap_or(u64::MAX)
            };
            i64::try_from(level).unwrap_or(i64::MAX)
        };
        // The last knot of the course, a second after its end, is not after the hold is gone.
        let marks = MARKS.partition_point(|mark| second + mark < self.gone);
        let level = |mark: usize| Line {
            produced: believed(course.produced[mark]),
            variance: believed(course.variance[mark].min(MOST_VARIANCE)),
        };
        let slopes =
            slopes(|mark| if mark < marks { level(mark) } else { marks.checked_sub(1).map_or(Line::default(), level) });
        let base = believed(unreported.min(MOST_UNREPORTED) << TOKEN_DIGITS);
        let top = top(base, &slopes);
        Self { base, slopes, since: now, fades_from: self.end.max(second), top, ..*self }
    }

    /// Whether this can be a hold of a key whose time is `now`, so that sums over a hundred thousand of them are exact: what is
    /// read from a disk may be anything.
    #[must_use]
    pub fn is_possible(&self, now: Timestamp) -> bool {
        /// Of a course, with its digits: the longest answer.
        const MOST_PRODUCED: i64 = 1 << (21 + TOKEN_DIGITS);
        /// No stream is expected to run on, nor its hold to fade, for as long.
        const LONGEST_SECONDS: u64 = 1 << 32;
        let line = |line: &Line| {
            (0..=MOST_PRODUCED).contains(&line.produced)
                && (0..=MOST_VARIANCE.cast_signed() + 60).contains(&line.variance)
        };
        let held = [self.tokens, self.reach, self.most].into_iter().all(|tokens| tokens <= crate::MAX_TOKENS);
        let since = self.since.as_seconds();
        // It fades from its expected end on, or from a look at it after that, which was not in the future.
        let fades = self.fades_from == self.end || (self.end..=now.as_seconds()).contains(&self.fades_from);
        let times = since <= now.as_seconds()
            && fades
            && since.max(self.fades_from) < self.gone
            && self.gone - since.min(self.end) < LONGEST_SECONDS;
        let course = (0..=MOST_PRODUCED).contains(&self.base) && self.slopes.iter().all(line);
        self.tokens == 0 || (held && times && course && self.top == top(self.base, &self.slopes))
    }

    /// Tokens held at the start.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens that the stream could produce at most, from its last report on.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    /// Whether another hold is held and fades as this one does; the courses may differ.
    pub(super) fn fades_with(&self, other: &Self) -> bool {
        let of = |hold: &Self| (hold.tokens, hold.reach, hold.most, hold.end, hold.gone);
        of(self) == of(other)
    }

    /// The first straight line, continued back to the second of the report: level and slope there.
    pub(super) fn start(&self) -> (Line, Line) {
        let slope = self.slopes[0];
        let mut level = slope.times(-self.fraction());
        level.produced += self.base * SECOND;
        (level, slope.times(SECOND))
    }

    /// How far the second of the report had gone, in 1/[`SECOND`].
    fn fraction(&self) -> i64 {
        let micros = self.since.as_micros() % MICROS_PER_SECOND;
        i64::try_from((micros << SECOND_DIGITS) / MICROS_PER_SECOND).unwrap_or(0)
    }

    /// Where the slope changes after that, and by how much in 1/[`SECOND`], in the order of time. Each change is shared by the
    /// second that is named and the one after it.
    pub(super) fn knots(&self) -> impl Iterator<Item = (u64, Line, Line)> + use<'_> {
        let (first, fraction) = (self.since.as_seconds(), self.fraction());
        let after = self.slopes[1..].iter().copied().chain([Line::default()]);
        MARKS.iter().zip(&self.slopes).zip(after).map(move |((mark, slope), mut change)| {
            change.subtract(*slope);
            let later = change.times(fraction);
            let mut sooner = change.times(SECOND);
            sooner.subtract(later);
            (first + mark, sooner, later)
        })
    }

    /// What a second of fading takes of a hold of so many tokens.
    pub(super) fn fade(&self, tokens: u64) -> Fade {
        let seconds = self.gone - self.end;
        let course = i64::try_from(self.gone - self.fades_from).unwrap_or(i64::MAX);
        // Rounded up, so that half a fading leaves half and not a token more. At most 2^40 tokens, with 16 digits.
        Fade {
            held: (tokens << TOKEN_DIGITS).div_ceil(seconds).into(),
            produced: self.top.produced / course,
            reach: i64::try_from(self.reach / seconds).unwrap_or(i64::MAX),
        }
    }

    /// What `fade` has taken by `second`, which is not before the fading began.
    pub(super) fn faded_by(&self, second: u64, fade: &Fade) -> Fade {
        let since = |from: u64| i64::try_from(second - from).unwrap_or(i64::MAX);
        Fade { produced: fade.produced * since(self.fades_from), ..fade.times(since(self.end)) }
    }

    pub(super) fn held(tokens: u64) -> i128 {
        i128::from(tokens) << TOKEN_DIGITS
    }
}

/// The straight lines between the levels at the marks.
fn slopes(level: impl Fn(usize) -> Line) -> [Line; MARKS.len()] {
    let mut slopes = [Line::default(); MARKS.len()];
    let mut from = Line::default();
    for (mark, slope) in slopes.iter_mut().enumerate() {
        let level = level(mark);
        *slope = Line {
            produced: per_second(level.produced - from.produced, mark),
            // Rounded up, as everything that makes the margin.
            variance: per_second(level.variance - from.variance + GAPS[mark] - 1, mark),
        };
        from = level;
    }
    slopes
}

/// Seconds from each mark to the one before it.
const GAPS: [i64; MARKS.len()] = {
    let mut gaps = [0; MARKS.len()];
    let (mut mark, mut before) = (0, 0);
    while mark < MARKS.len() {
        gaps[mark] = (MARKS[mark] - before).cast_signed();
        before = MARKS[mark];
        mark += 1;
    }
    gaps
};

/// `change / GAPS[mark]`, by constants: divisions would be a third of the cost of a hold.
fn per_second(change: i64, mark: usize) -> i64 {
    macro_rules! by_constants {
        ($($mark:literal)*) => {
            match mark {
                $($mark => change / const { GAPS[$mark] },)*
                _ => change,
            }
        };
    }
    const { assert!(MARKS.len() == 10) };
    by_constants!(0 1 2 3 4 5 6 7 8 9)
}

/// What a course comes to that starts from `base`, in 1/[`SECOND`].
fn top(base: i64, slopes: &[Line; MARKS.len()]) -> Line {
    let mut top = Line { produced: base * SECOND, variance: 0 };
    for (slope, gap) in slopes.iter().zip(GAPS) {
        top.add(slope.times(gap * SECOND));
    }
    top
}

/// What fading takes: of what is held, of what the course has produced, and of the reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fade {
    pub(super) held: i128,
    pub(super) produced: i64,
    pub(super) reach: i64,
}

impl Fade {
    pub(super) fn add(&mut self, other: Self) {
        self.held += other.held;
        self.produced += other.produced;
        self.reach += other.reach;
    }

    pub(super) fn times(self, factor: i64) -> Self {
        let held = self.held * i128::from(factor);
        Self { held, produced: self.produced * factor, reach: self.reach * factor }
    }
}
