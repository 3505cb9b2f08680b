//! How long answers are: of those that came to a length, how many ended there.
//!
//! Rejected: a mean and a deviation, which know nothing of the tail; the settled lengths alone, in which short answers are
//! over-represented whenever long ones are still running (a key's first minute knows no other). Counting who *reached* a
//! length and who *ended* there is right whether or not the rest has ended (Kaplan and Meier, "Nonparametric Estimation
//! from Incomplete Observations", 1958), and a live stream teaches before it settles.

use minicbor::{Decode, Encode};

use super::course::{Course, MARKS};
use crate::record::{Page, Record, record};

/// Logarithmic bins, four to an octave: 0, 1, 2, 3, 4, 5, 6, 7, 8-9, 10-11, 12-13, 14-15, 16-19 ...
pub(super) const BINS: usize = 80;

/// Beyond this nothing more is expected of an answer: 2^21 tokens, where the last bin ends.
const LONGEST_ANSWER: u64 = 1 << 21;

/// The whole of a share: all that reached a bin, or all streams like this one.
const WHOLE: u64 = 1 << 16;

/// Streams are followed until fewer than one in this many would still run.
const NEGLIGIBLE: u64 = WHOLE / 512;

/// What one answer counts for; halved as it is forgotten.
const ONE: u16 = 32;

/// Of what reaches each bin, the share that ends in it, of 2^16. 160 bytes.
pub type Hazards = [u16; BINS];

/// Hazards of answers that are about `mean` tokens long, a fifth longer to be careful: exponential up to about twice the mean, a power
/// law beyond, so that an answer longer than expected is expected to go on for about as long again.
pub(super) fn hazards_of_mean(mean: u64) -> Hazards {
    /// Share of what reaches a quarter of an octave beyond the mean that ends in it.
    const TAIL: u64 = WHOLE * 30 / 100;
    core::array::from_fn(|bin| {
        let width = edge(bin + 1) - edge(bin);
        // width <= 2^19.
        let exponential = width * WHOLE / width.saturating_add(mean).max(1);
        u16::try_from(exponential.min(TAIL)).unwrap_or(u16::MAX)
    })
}

/// The bin of a length.
fn bin_of(tokens: u64) -> usize {
    let tokens = tokens.min(LONGEST_ANSWER - 1);
    let bin = match tokens.checked_ilog2() {
        None | Some(0 | 1) => tokens,
        Some(octave) => 4 * u64::from(octave - 1) + ((tokens >> (octave - 2)) & 3),
    };
    usize::try_from(bin).unwrap_or(BINS - 1)
}

/// The shortest length of a bin; of the bin after the last, [`LONGEST_ANSWER`].
const fn edge(bin: usize) -> u64 {
    let bin = bin as u64;
    if bin < 4 { bin } else { (4 + bin % 4) << (bin / 4 - 1) }
}

/// Of each bin, and of the one after the last.
const EDGES: [u64; BINS + 1] = {
    let mut edges = [0; BINS + 1];
    let mut bin = 0;
    while bin <= BINS {
        edges[bin] = edge(bin);
        bin += 1;
    }
    edges
};

/// How far back a memory goes: when it is halved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// Once it rests on this many answers ...
    answers: u32,
    /// ... or on this many minutes' worth of the key's limit, and a few answers.
    minutes: u64,
}

impl Span {
    /// What a sudden change of character is seen by.
    const SHORT: Self = Self { answers: 32, minutes: 1 };
    /// What rare long answers are remembered by.
    const LONG: Self = Self { answers: 1_024, minutes: 40 };
    const FEW: u32 = 4;
}

/// Counts that forget. 336 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Memory {
    #[cbor(n(0), with = "crate::record::counts")]
    reached: [u16; BINS],
    #[cbor(n(1), with = "crate::record::counts")]
    ended: [u16; BINS],
    #[n(2)]
    answers: u32,
    #[n(3)]
    tokens: u64,
}

impl Record for Memory {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        let page = page.row(4).counts(&self.reached).counts(&self.ended);
        page.number(self.answers.into()).number(self.tokens)
    }
}

impl Memory {
    const EMPTY: Self = Self { reached: [0; BINS], ended: [0; BINS], answers: 0, tokens: 0 };

    /// A live stream of a key with this limit has come from one length to another.
    fn progress(&mut self, from: u64, to: u64, span: Span, limit_tpm: u64) {
        let (first, last) = (bin_of(from), bin_of(to));
        if first < last {
            self.pass(first, last);
        }
        // By tokens as they come, not as answers end: ten long answers take a minute before one of them does.
        self.tokens = self.tokens.saturating_add(to.saturating_sub(from));
        if self.tokens >= limit_tpm.saturating_mul(span.minutes) && self.answers >= Span::FEW {
            self.halve();
            self.tokens = 0;
        }
    }

    /// A stream has gone through the bins from `from` to before `to`.
    fn pass(&mut self, from: usize, to: usize) {
        // To the end, whatever it finds: several at once.
        if self.reached[from..to].iter().fold(false, |any, reached| any | (*reached > u16::MAX - ONE)) {
            self.halve();
        }
        for reached in &mut self.reached[from..to] {
            *reached += ONE;
        }
    }

    /// A stream has ended with so many tokens.
    fn end(&mut self, tokens: u64, span: Span) {
        let bin = bin_of(tokens);
        self.pass(bin, bin + 1);
        // At most what has reached it, so it fits.
        self.ended[bin] = self.ended[bin].saturating_add(ONE).min(self.reached[bin]);
        self.answers = self.answers.saturating_add(1);
        if self.answers >= span.answers {
            self.halve();
        }
    }

    fn halve(&mut self) {
        for count in self.reached.iter_mut().chain(&mut self.ended) {
            *count /= 2;
        }
        self.answers /= 2;
    }

    /// The hazard of a bin, of 2^16; the prior counts for `weight` / [`ONE`] answers.
    fn hazard(&self, bin: usize, prior: &Hazards, weight: u64) -> u64 {
        let (reached, ended) = (u64::from(self.reached[bin]), u64::from(self.ended[bin]));
        (ended * WHOLE + u64::from(prior[bin]) * weight) / (reached + weight)
    }
}

/// What a key's answers are like, by two memories of different length; the more careful one counts. 672 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lengths {
    #[n(0)]
    short: Memory,
    #[n(1)]
    long: Memory,
}

record!(Lengths { short, long });

impl Default for Lengths {
    fn default() -> Self {
        Self { short: Memory::EMPTY, long: Memory::EMPTY }
    }
}

impl Lengths {
    /// A live stream of a key with this limit has come from `from` to `to` tokens. O(1) where reports are frequent.
    pub fn on_progress(&mut self, from: u64, to: u64, limit_tpm: u64) {
        self.short.progress(from, to, Span::SHORT, limit_tpm);
        self.long.progress(from, to, Span::LONG, limit_tpm);
    }

    /// A stream of a key with this limit has ended with `to` tokens, last known to have `from`.
    pub fn on_end(&mut self, from: u64, to: u64, limit_tpm: u64) {
        self.on_progress(from, to, limit_tpm);
        self.short.end(to, Span::SHORT);
        self.long.end(to, Span::LONG);
    }

    /// What these lengths say to those who know less: the prior of a new key.
    #[must_use]
    pub fn hazards(&self, prior: &Hazards) -> Hazards {
        /// What the prior's own prior counts for.
        const WEIGHT: u64 = 4 * ONE as u64;
        core::array::from_fn(|bin| u16::try_from(self.long.hazard(bin, prior, WEIGHT)).unwrap_or(u16::MAX))
    }

    /// What a stream that has produced `produced` tokens, one in `micros_per_token`, is expected to produce from now on, at
    /// most `most` tokens.
    #[must_use]
    pub fn course(&self, prior: &Hazards, produced: u64, most: u64, micros_per_token: u64) -> Course {
        // Tokens until each mark, at this pace.
        let marks = marks_at(micros_per_token);
        let mut course = self.walk(prior, produced, most, &marks);
        course.reach = super::reach(micros_per_token).min(most);
        course.most = most;
        course
    }

    /// Follows a stream through the bins ahead, by both memories at once: at most 80 steps; one that will soon end takes few.
    fn walk(&self, prior: &Hazards, produced: u64, most: u64, marks: &[u64; MARKS.len()]) -> Course {
        let mut course = Course::default();
        let start = produced.min(LONGEST_ANSWER - 1);
        // In tokens from `start` on.
        let end = most.min(LONGEST_ANSWER - start);
        let first = bin_of(start);
        let mut streams = [&self.short, &self.long].map(|memory| Streams::at(memory, prior, first, start));
        let (mut from, mut mark) = (0, 0);
        for bin in first..BINS {
            if from >= end || streams[0].alive + streams[1].alive == 0 {
                break;
            }
            if bin > first {
                streams[0].hazard = self.short.hazard(bin, prior, Streams::PRIOR);
                streams[1].hazard = self.long.hazard(bin, prior, Streams::PRIOR);
            }
            let to = (EDGES[bin + 1] - start).min(end);
            let running = streams.each_ref().map(Streams::running);
            while mark < marks.len() && marks[mark] <= to {
                let by = |lane: usize| streams[lane].moved(running[lane], from, marks[mark].max(from));
                course.set(mark, by(0), by(1));
                mark += 1;
            }
            for (streams, running) in streams.iter_mut().zip(running) {
                (streams.mean, streams.square) = streams.moved(running, from, to);
                streams.end_some();
            }
            from = to;
        }
        let [short, long] = streams.each_ref().map(|streams| (streams.mean, streams.square));
        for mark in mark..marks.len() {
            course.set(mark, short, long);
        }
        // Rounded up: a live stream that is expected to end at once is a live stream.
        course.total = (short.0.max(long.0).div_ceil(1 << Course::DIGITS)).max(1).min(most);
        course
    }
}

/// Tokens until each mark.
fn marks_at(micros_per_token: u64) -> [u64; MARKS.len()] {
    // A minute is fewer than 2^32 microseconds, and such divisions are cheaper.
    let pace = u32::try_from(micros_per_token).unwrap_or(u32::MAX).max(1);
    MARKS.map(|seconds| u64::from(u32::try_from(seconds * 1_000_000).unwrap_or(u32::MAX) / pace))
}

/// Of all streams that came to a length, those that go on, and what they produce.
struct Streams {
    /// How many, of 2^16; none once they are negligible.
    alive: u64,
    /// Of these, the share that ends in the bin, of 2^16.
    hazard: u64,
    /// What they produce, and its square, summed over all of them with 16 digits. The square is at most 2^16 * 2^42.
    mean: u64,
    square: u64,
}

impl Streams {
    /// What the prior counts for: a quarter of an answer, so that it speaks only where little else does.
    const PRIOR: u64 = ONE as u64 / 4;

    /// All that came to `start`, which is in `bin`. Streams end evenly within a bin: of those that came to `start`, the share
    /// that ends before the next.
    fn at(memory: &Memory, prior: &Hazards, bin: usize, start: u64) -> Self {
        let (lower, upper) = (edge(bin), edge(bin + 1));
        let whole = memory.hazard(bin, prior, Self::PRIOR);
        let survived = WHOLE - whole * (start - lower) / (upper - lower);
        let hazard = (whole * (upper - start) / (upper - lower) * WHOLE / survived.max(1)).min(WHOLE);
        Self { alive: WHOLE, hazard, mean: 0, square: 0 }
    }

    /// How many run, on average over the bin.
    const fn running(&self) -> u64 {
        self.alive - self.alive * self.hazard / WHOLE / 2
    }

    /// What has been produced, and its square, once those that run have come from one length to another within the bin.
    const fn moved(&self, running: u64, from: u64, to: u64) -> (u64, u64) {
        let produced = running * (to - from);
        (self.mean + produced, self.square + produced * (from + to))
    }

    /// Those that end in the bin have ended.
    const fn end_some(&mut self) {
        self.alive -= self.alive * self.hazard / WHOLE;
        if self.alive <= NEGLIGIBLE {
            self.alive = 0;
        }
    }
}

#[cfg(test)]
mod tests;
