//! How long answers are: of those that came to a length, how many ended there.
//!
//! Rejected: a mean and a deviation, which know nothing of the tail; the settled lengths alone, in which short answers are
//! over-represented whenever long ones are still running (a key's first minute knows no other). Counting who *reached* a
//! length and who *ended* there is right whether or not the rest has ended (Kaplan and Meier, "Nonparametric Estimation
//! from Incomplete Observations", 1958), and a live stream teaches before it settles.

use alloc::vec::Vec;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::course::{Course, MARKS};
use crate::record::{Page, Record};

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

/// Of a bin, how many answers came to it, and how many ended in it, by the short memory; the same by the long one.
type Counts = [u16; 4];

/// What an answer that comes to a bin adds.
const ANSWER: Counts = [ONE, 0, ONE, 0];

/// The hazards of a bin by both memories, of 2^16; the prior counts for `weight` / [`ONE`] answers.
fn hazards_of(counts: Counts, prior: u16, weight: u64) -> [u64; 2] {
    let [short_reached, short_ended, long_reached, long_ended] = counts.map(u64::from);
    let prior = u64::from(prior) * weight;
    [(short_ended * WHOLE + prior) / (short_reached + weight), (long_ended * WHOLE + prior) / (long_reached + weight)]
}

/// What the counts of a memory rest on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Age {
    answers: u32,
    tokens: u64,
}

/// What a key's answers are like, by two memories of different length; the more careful one counts. 56 bytes, and 8 for each
/// bin up to that of the longest answer, [`Lengths::MOST_BYTES`] at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Of each bin up to the last one that either memory knows of, by the short one and by the long one: a stream is followed
    /// by both at once.
    bins: Vec<Counts>,
    ages: [Age; 2],
}

/// Which memory.
const SHORT: usize = 0;
const LONG: usize = 1;
const SPANS: [Span; 2] = [Span::SHORT, Span::LONG];

impl Lengths {
    /// The most memory that the counts take, bytes.
    pub const MOST_BYTES: usize = BINS * size_of::<Counts>();

    /// A live stream of a key with this limit has come from `from` to `to` tokens. O(1) where reports are frequent.
    pub fn on_progress(&mut self, from: u64, to: u64, limit_tpm: u64) {
        let (first, last) = (bin_of(from), bin_of(to));
        if first < last {
            self.pass(first, last);
        }
        for (memory, span) in SPANS.iter().enumerate() {
            // By tokens as they come, not as answers end: ten long answers take a minute before one of them does.
            let age = &mut self.ages[memory];
            age.tokens = age.tokens.saturating_add(to.saturating_sub(from));
            if age.tokens >= limit_tpm.saturating_mul(span.minutes) && age.answers >= Span::FEW {
                age.tokens = 0;
                self.halve(memory);
            }
        }
    }

    /// A stream of a key with this limit has ended with `to` tokens, last known to have `from`.
    pub fn on_end(&mut self, from: u64, to: u64, limit_tpm: u64) {
        self.on_progress(from, to, limit_tpm);
        let bin = bin_of(to);
        self.pass(bin, bin + 1);
        for [reached, ended] in self.bins[bin].as_chunks_mut().0 {
            // At most what has reached it, so it fits.
            *ended = ended.saturating_add(ONE).min(*reached);
        }
        for (memory, span) in SPANS.iter().enumerate() {
            let age = &mut self.ages[memory];
            age.answers = age.answers.saturating_add(1);
            if age.answers >= span.answers {
                self.halve(memory);
            }
        }
    }

    /// A stream has gone through the bins from `from` to before `to`.
    fn pass(&mut self, from: usize, to: usize) {
        // To the end, whatever it finds: several at once. Nearly always none is near.
        let known = self.bins.get(from..to.min(self.bins.len())).unwrap_or_default();
        if known.as_flattened().iter().fold(0, |most: u16, count| most.max(*count)) > u16::MAX - ONE {
            self.halve_full(from, to);
        }
        self.know_up_to(to);
        for bin in &mut self.bins[from..to] {
            for (count, more) in bin.iter_mut().zip(ANSWER) {
                *count += more;
            }
        }
    }

    /// Halves the memories of which one of these bins has no room for another answer.
    #[cold]
    fn halve_full(&mut self, from: usize, to: usize) {
        for memory in [SHORT, LONG] {
            let known = self.bins.get(from..to.min(self.bins.len())).unwrap_or_default();
            if known.iter().any(|bin| bin[2 * memory] > u16::MAX - ONE) {
                self.halve(memory);
            }
        }
    }

    /// Makes room for the bins before `to`; for a few more, as the next answer may be longer.
    fn know_up_to(&mut self, to: usize) {
        /// Two octaves.
        const TOGETHER: usize = 8;
        if to > self.bins.capacity() {
            self.bins.reserve_exact(to.next_multiple_of(TOGETHER) - self.bins.len());
        }
        if to > self.bins.len() {
            self.bins.resize(to, Counts::default());
        }
    }

    fn halve(&mut self, memory: usize) {
        for bin in &mut self.bins {
            bin[2 * memory] /= 2;
            bin[2 * memory + 1] /= 2;
        }
        self.ages[memory].answers /= 2;
        self.forget_unknown();
    }

    /// The last bin that is kept is one that a memory knows of.
    fn forget_unknown(&mut self) {
        let known = self.bins.iter().rposition(|bin| *bin != Counts::default());
        self.bins.truncate(known.map_or(0, |last| last + 1));
    }

    fn counts(&self, bin: usize) -> Counts {
        self.bins.get(bin).copied().unwrap_or_default()
    }

    /// What these lengths say to those who know less: the prior of a new key.
    #[must_use]
    pub fn hazards(&self, prior: &Hazards) -> Hazards {
        /// What the prior's own prior counts for.
        const WEIGHT: u64 = 4 * ONE as u64;
        core::array::from_fn(|bin| {
            let hazards = hazards_of(self.counts(bin), prior[bin], WEIGHT);
            u16::try_from(hazards[LONG]).unwrap_or(u16::MAX)
        })
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
        let mut streams =
            hazards_of(self.counts(first), prior[first], Streams::PRIOR).map(|whole| Streams::at(whole, first, start));
        let (mut from, mut mark) = (0, 0);
        for bin in first..BINS {
            if from >= end || streams[0].alive + streams[1].alive == 0 {
                break;
            }
            if bin > first {
                let [short, long] = hazards_of(self.counts(bin), prior[bin], Streams::PRIOR);
                (streams[SHORT].hazard, streams[LONG].hazard) = (short, long);
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

    /// All that came to `start`, which is in `bin`, of which this share ends there. Streams end evenly within a bin: of those that came to `start`, the share
    /// that ends before the next.
    fn at(whole: u64, bin: usize, start: u64) -> Self {
        let (lower, upper) = (edge(bin), edge(bin + 1));
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

/// A memory as it is written down.
#[derive(Encode, Decode)]
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

/// Both, as they are written down.
#[derive(Encode, Decode)]
struct Memories {
    #[n(0)]
    short: Memory,
    #[n(1)]
    long: Memory,
}

impl<C> Encode<C> for Lengths {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        let memory = |which: usize| {
            let Age { answers, tokens } = self.ages[which];
            let of = |count: usize| core::array::from_fn(|bin| self.counts(bin)[count]);
            Memory { reached: of(2 * which), ended: of(2 * which + 1), answers, tokens }
        };
        Memories { short: memory(SHORT), long: memory(LONG) }.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Lengths {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let Memories { short, long } = d.decode_with(ctx)?;
        let age = |memory: &Memory| Age { answers: memory.answers, tokens: memory.tokens };
        let counts = |bin: usize| [short.reached[bin], short.ended[bin], long.reached[bin], long.ended[bin]];
        let known = (0..BINS).rfind(|bin| counts(*bin) != Counts::default());
        let bins = (0..known.map_or(0, |last| last + 1)).map(counts);
        Ok(Self { bins: bins.collect(), ages: [age(&short), age(&long)] })
    }
}

impl Record for Lengths {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        let memories = self.ages.iter().enumerate();
        memories.fold(page.row(2), |page, (which, age)| {
            let page = page.row(4).counts(self.bins.iter().map(|bin| bin[2 * which]));
            let page = page.counts(self.bins.iter().map(|bin| bin[2 * which + 1]));
            page.number(age.answers.into()).number(age.tokens)
        })
    }
}

#[cfg(test)]
mod tests;
