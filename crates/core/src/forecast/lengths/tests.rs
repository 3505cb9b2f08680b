use proptest::prelude::*;
use std::vec::Vec;

use super::*;

const PACE: u64 = 25_000;

/// A small seeded generator: tests of statistics want the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Exponential with this mean, without a logarithm: rounds until a coin of 1/mean falls.
    fn exponential(&mut self, mean: u64) -> u64 {
        (0..).take_while(|_| self.below(mean) != 0).count() as u64
    }
}

fn taught(lengths: impl IntoIterator<Item = u64>) -> Lengths {
    let mut known = Lengths::default();
    for length in lengths {
        known.on_end(0, length, u64::MAX);
    }
    known
}

fn near(value: u64, expected: u64, percent: u64) -> bool {
    value.abs_diff(expected) * 100 <= expected * percent
}

/// What one of the two memories says.
fn alone(known: &Lengths, memory: usize) -> Lengths {
    let twice = |bin: &Counts| [bin[2 * memory], bin[2 * memory + 1], bin[2 * memory], bin[2 * memory + 1]];
    Lengths { bins: known.bins.iter().map(twice).collect(), ages: [known.ages[memory]; 2] }
}

/// One memory by itself, with all bins from the start: what both together are compared with.
impl Memory {
    fn progress(&mut self, from: u64, to: u64, span: Span, limit_tpm: u64) {
        let (first, last) = (bin_of(from), bin_of(to));
        if first < last {
            self.pass(first, last);
        }
        self.tokens = self.tokens.saturating_add(to.saturating_sub(from));
        if self.tokens >= limit_tpm.saturating_mul(span.minutes) && self.answers >= Span::FEW {
            self.halve();
            self.tokens = 0;
        }
    }

    fn pass(&mut self, from: usize, to: usize) {
        if self.reached[from..to].iter().any(|reached| *reached > u16::MAX - ONE) {
            self.halve();
        }
        for reached in &mut self.reached[from..to] {
            *reached += ONE;
        }
    }

    fn end(&mut self, tokens: u64, span: Span) {
        let bin = bin_of(tokens);
        self.pass(bin, bin + 1);
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
}

#[test]
fn every_length_is_in_the_bin_that_begins_at_or_before_it() {
    for bin in 0..BINS {
        assert_eq!(bin_of(edge(bin)), bin);
        assert_eq!(bin_of(edge(bin + 1) - 1), bin);
    }
    assert_eq!(bin_of(u64::MAX), BINS - 1);
}

#[test]
fn before_anything_is_known_an_answer_is_about_as_long_as_configured_or_a_fifth_longer() {
    for mean in [20, 256, 4_000] {
        let course = Lengths::default().course(&hazards_of_mean(mean), 0, u64::MAX, PACE);
        assert!((mean..mean * 5 / 4).contains(&course.total), "{} for {mean}", course.total);
    }
}

#[test]
fn an_answer_longer_than_expected_is_expected_to_go_on_for_about_as_long() {
    let course = Lengths::default().course(&hazards_of_mean(256), 4_096, u64::MAX, PACE);
    assert!((2_000..8_000).contains(&course.total), "{}", course.total);
}

#[test]
fn answers_of_one_length_are_expected_to_end_there() {
    let known = taught([400; 200]);
    let prior = hazards_of_mean(256);
    let rest = |produced| known.course(&prior, produced, u64::MAX, PACE).total;
    assert!(near(rest(0), 400, 10), "{}", rest(0));
    assert!(near(rest(200), 200, 15), "{}", rest(200));
    assert!(rest(399) < 60, "{}", rest(399));
}

#[test]
fn answers_without_memory_are_expected_to_go_on_as_long_whatever_they_have_produced() {
    let mut random = Random(1);
    let known = taught((0..2_000).map(|_| random.exponential(300)));
    let prior = hazards_of_mean(300);
    for produced in [0, 100, 300, 600] {
        let rest = known.course(&prior, produced, u64::MAX, PACE).total;
        // The more careful of two memories, the shorter of which knows 32 to 64 answers.
        assert!((280..=450).contains(&rest), "{rest} after {produced}");
    }
}

/// The expectation and the deviation at each mark are those of the answers that it was taught.
#[test]
fn a_course_is_the_mean_of_the_answers_and_its_variance_theirs() {
    let mut random = Random(2);
    let lengths: Vec<u64> = (0..512).map(|_| 50 + random.below(1_000)).collect();
    let known = taught(lengths.iter().copied());
    let course = alone(&known, LONG).walk(&hazards_of_mean(500), 0, u64::MAX, &MARKS.map(|seconds| seconds * 40));
    for (mark, seconds) in MARKS.into_iter().enumerate() {
        let by: Vec<u64> = lengths.iter().map(|length| (*length).min(seconds * 40)).collect();
        let mean = by.iter().sum::<u64>() / by.len() as u64;
        let variance = by.iter().map(|tokens| tokens.abs_diff(mean).pow(2)).sum::<u64>() / by.len() as u64;
        let got = course.produced[mark] >> Course::DIGITS;
        assert!(near(got, mean, 4), "{got} for {mean} after {seconds} s");
        let tolerance = variance / 5 + 200;
        assert!(course.variance[mark].abs_diff(variance) <= tolerance, "{} for {variance}", course.variance[mark]);
    }
}

#[test]
fn a_stream_that_still_runs_teaches_before_it_settles() {
    // Of each hundred, the ninety short ones settle first. Whoever counts settled answers alone sees a mean of 50.
    let prior = hazards_of_mean(50);
    let (mut settled, mut live) = (Lengths::default(), Lengths::default());
    for step in 0..100 {
        if step % 10 == 0 {
            live.on_progress(0, 2_000, u64::MAX);
        } else {
            settled.on_end(0, 50, u64::MAX);
            live.on_end(0, 50, u64::MAX);
        }
    }
    let expected = |lengths: &Lengths| lengths.course(&prior, 0, u64::MAX, PACE).total;
    assert!(expected(&settled) < 80, "{}", expected(&settled));
    assert!(expected(&live) > 200, "{}", expected(&live));
}

#[test]
fn a_change_of_character_is_seen_within_a_few_answers() {
    let mut known = taught([200; 2_000]);
    let prior = hazards_of_mean(256);
    for _ in 0..24 {
        known.on_end(0, 2_000, u64::MAX);
    }
    let expected = known.course(&prior, 0, u64::MAX, PACE).total;
    assert!(expected > 600, "{expected}");
}

#[test]
fn rare_long_answers_are_remembered_after_many_short_ones() {
    // One in forty is long, and for the last sixty-four none was.
    let known = taught((0..400).map(|index| if index % 40 == 0 && index < 330 { 4_000 } else { 50 }));
    let prior = hazards_of_mean(50);
    let marks = MARKS.map(|seconds| seconds * 40);
    let forgotten = alone(&known, SHORT).walk(&prior, 0, u64::MAX, &marks).total;
    let expected = known.course(&prior, 0, u64::MAX, PACE).total;
    assert!(expected > forgotten + 40, "{expected} against {forgotten}");
}

#[test]
fn a_declared_maximum_bounds_what_is_expected_and_reached() {
    let known = taught([400; 100]);
    let course = known.course(&hazards_of_mean(256), 90, 10, PACE);
    assert!(course.total <= 10 && course.reach == 10);
    assert!(course.produced.iter().all(|produced| *produced <= 10 << Course::DIGITS));
}

#[test]
fn lengths_take_what_is_said() {
    assert_eq!((size_of::<Lengths>(), size_of::<Counts>(), Lengths::MOST_BYTES), (56, 8, 640));
}

proptest! {
    /// Some lengths again and again, so that counts come to where they are halved.
    #[test]
    fn both_memories_together_are_each_by_itself(
        seen in prop::collection::vec((0_u64..1 << 22, 0_u64..22, 0_u64..1 << 22, 0_u64..22, any::<bool>(), 1_usize..300), 0..60),
        limit in (0_u64..1 << 40, 0_u32..40).prop_map(|(limit, less)| limit >> less),
    ) {
        let mut known = Lengths::default();
        let mut memories = SPANS.map(|span| {
            (Memory { reached: [0; BINS], ended: [0; BINS], answers: 0, tokens: 0 }, span)
        });
        for (one, one_less, other, other_less, ends, times) in seen {
            let (one, other) = (one >> one_less, other >> other_less);
            let (from, to) = (one.min(other), one.max(other));
            for _ in 0..times {
                if ends { known.on_end(from, to, limit) } else { known.on_progress(from, to, limit) }
                for (memory, span) in &mut memories {
                    memory.progress(from, to, *span, limit);
                    if ends { memory.end(to, *span) }
                }
            }
            for (which, (memory, _)) in memories.iter().enumerate() {
                let of = |count: usize| core::array::from_fn(|bin| known.counts(bin)[count]);
                prop_assert_eq!(memory.reached, of(2 * which));
                prop_assert_eq!(memory.ended, of(2 * which + 1));
                prop_assert_eq!((memory.answers, memory.tokens), (known.ages[which].answers, known.ages[which].tokens));
            }
            prop_assert!(known.bins.last().is_none_or(|last| *last != Counts::default()), "none that nobody knows of");
            let back: Lengths = minicbor::decode(&minicbor::to_vec(&known).expect("it takes everything")).expect("lengths");
            prop_assert_eq!(&back, &known);
        }
        prop_assert!(8 * known.bins.capacity() <= Lengths::MOST_BYTES);
    }

    /// Whatever was seen, a course rises, its variance too, and no count overflows.
    #[test]
    fn courses_rise(
        seen in prop::collection::vec((0_u64..1 << 22, 0_u64..1 << 22), 0..400),
        mean in 1_u64..1 << 40, produced in 0_u64..1 << 41, most in 0_u64..1 << 41, pace in 0_u64..100_000_000, limit in 1_u64..1 << 40,
    ) {
        let mut known = Lengths::default();
        for (one, other) in seen {
            known.on_progress(0, one.min(other), limit);
            known.on_end(one.min(other), one.max(other), limit);
        }
        let course = known.course(&hazards_of_mean(mean), produced, most, pace);
        prop_assert!(course.total <= most);
        prop_assert!(course.produced.is_sorted() && course.variance.is_sorted());
        prop_assert!(course.produced[MARKS.len() - 1] >> Course::DIGITS <= course.total.max(1));
    }
}
