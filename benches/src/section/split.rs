//! Traffic that the forecast was not shaped on: halves of the traces, and perturbed ones.

use tidegate_sim::policy::Policy;
use tidegate_sim::random::SplitMix64;
use tidegate_sim::trace::FIRST_TOKEN_MS;
use tidegate_sim::workload::{Arrival, Workload};

use super::{Conduct, DEMANDS, Scope};
use crate::markdown::{Table, percent};
use crate::measure::{Bars, Figures};
use crate::threads::in_order;
use crate::traces::{Subject, Trace, subjects};

/// Length of the blocks that are shuffled.
const BLOCK_MS: u64 = 300_000;

/// Seed of the shuffle and of the copies: one, so that a column differs from another by its traffic alone.
const SEED: u64 = 1;

/// What is done to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    FirstHalf,
    SecondHalf,
    LengthsDoubled,
    LengthsHalved,
    Shuffled,
    PacesHalved,
    PacesDoubled,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::None,
        Self::FirstHalf,
        Self::SecondHalf,
        Self::LengthsDoubled,
        Self::LengthsHalved,
        Self::Shuffled,
        Self::PacesHalved,
        Self::PacesDoubled,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "as it is",
            Self::FirstHalf => "first half",
            Self::SecondHalf => "second half",
            Self::LengthsDoubled => "outputs x2",
            Self::LengthsHalved => "outputs x0.5",
            Self::Shuffled => "5 min blocks shuffled",
            Self::PacesHalved => "durations x2",
            Self::PacesDoubled => "durations x0.5",
        }
    }

    fn apply(self, workload: &Workload) -> Workload {
        let Workload { keys, requests } = workload.clone();
        let middle = requests.last().map_or(0, |last| last.at_ms / 2);
        let longest = requests.iter().map(|request| request.generated_tokens).max().unwrap_or(0);
        let requests = match self {
            Self::None => requests,
            Self::FirstHalf => requests.into_iter().filter(|request| request.at_ms < middle).collect(),
            Self::SecondHalf => requests
                .into_iter()
                .filter(|request| request.at_ms >= middle)
                .map(|request| Arrival { at_ms: request.at_ms - middle, ..request })
                .collect(),
            Self::LengthsDoubled => each(requests, |request| longer(&request, 2, 1, longest)),
            Self::LengthsHalved => each(requests, |request| longer(&request, 1, 2, longest)),
            Self::Shuffled => shuffled(requests),
            Self::PacesHalved => each(requests, |request| Arrival { duration_ms: request.duration_ms * 2, ..request }),
            Self::PacesDoubled => each(requests, |request| Arrival { duration_ms: request.duration_ms / 2, ..request }),
        };
        Workload { keys, requests }
    }
}

fn each(requests: Vec<Arrival>, change: impl Fn(Arrival) -> Arrival) -> Vec<Arrival> {
    requests.into_iter().map(change).collect()
}

/// The output times `times / over`, at the same pace, at most `longest`: what is longer than the limit no forecast can help.
fn longer(request: &Arrival, times: u64, over: u64, longest: u64) -> Arrival {
    let generated_tokens = (request.generated_tokens * times / over).min(longest);
    let duration = u64::from(request.duration_ms);
    let span = duration.saturating_sub(FIRST_TOKEN_MS);
    let span = (span * generated_tokens).checked_div(request.generated_tokens).unwrap_or(span);
    let duration_ms = u32::try_from(duration.min(FIRST_TOKEN_MS) + span).unwrap_or(u32::MAX);
    Arrival { generated_tokens, duration_ms, ..*request }
}

/// The same blocks in another order. What is left over at the end stays there.
fn shuffled(mut requests: Vec<Arrival>) -> Vec<Arrival> {
    let whole = requests.last().map_or(0, |last| last.at_ms / BLOCK_MS);
    let mut order: Vec<u64> = (0..whole).collect();
    let mut random = SplitMix64::new(SEED);
    for last in (1..order.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(last);
        order.swap(last, other);
    }
    for request in &mut requests {
        let block = request.at_ms / BLOCK_MS;
        let place = order.iter().position(|from| *from == block).map_or(block, |place| place as u64);
        request.at_ms = place * BLOCK_MS + request.at_ms % BLOCK_MS;
    }
    requests.sort_by_key(|request| request.at_ms);
    requests
}

pub(super) fn markdown(scope: &Scope) -> String {
    let changed: Vec<(Change, Vec<Trace>)> = Change::ALL
        .into_iter()
        .map(|change| {
            let apply = |trace: &Trace| Trace { workload: change.apply(&trace.workload), ..trace.clone() };
            (change, scope.traces.iter().map(apply).collect())
        })
        .collect();
    let mut jobs: Vec<(Subject<'_>, Change, u64)> = Vec::new();
    for (change, traces) in &changed {
        jobs.extend(subjects(traces).into_iter().flat_map(|subject| DEMANDS.map(|demand| (subject, *change, demand))));
    }
    // Row by row of the table: a stable sort keeps the changes in their order.
    let names: Vec<String> = subjects(&scope.traces).iter().map(Subject::name).collect();
    jobs.sort_by_key(|(subject, _, demand)| (names.iter().position(|name| *name == subject.name()), *demand));
    let conduct = Conduct::usual();
    let figures = in_order("split", &jobs, scope.threads, |(subject, _, demand)| {
        let reports = conduct.report(&subject.workload(*demand, SEED), &subject.rules(), &[Policy::Forecast]);
        Figures::of(&reports[0])
    });
    let mut table = Table::new(&[
        "trace",
        "demand",
        "traffic",
        "goodput %",
        "overshoot p99 %",
        "overshoot max %",
        "first 180 s %",
        "false denials %",
        "meets the bars",
    ]);
    for ((subject, change, demand), figures) in jobs.iter().zip(&figures) {
        table.row([
            subject.name(),
            format!("x{demand}"),
            change.name().to_owned(),
            percent(figures.goodput),
            percent(figures.p99),
            percent(figures.max),
            percent(figures.first),
            percent(figures.false_denials),
            Bars::of(subject.trace.kind).verdict(figures),
        ]);
    }
    format!(
        "## Traffic that the forecast was not shaped on\n\n`forecast`, one seed, otherwise as the headline. Halves are halves of \
         the time. Outputs x2 keep their pace, and are at most as long as the trace's longest output; durations x2 and x0.5 keep \
         the outputs. Blocks of five minutes are shuffled with a fixed seed.\n\n{table}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{request, single_key};

    #[test]
    fn halves_are_the_whole_and_the_second_begins_at_its_own_start() {
        let workload = single_key((0..10).map(|index| request(index * 1_000, 10, 20)).collect());
        let (first, second) = (Change::FirstHalf.apply(&workload), Change::SecondHalf.apply(&workload));
        assert_eq!((first.requests.len(), second.requests.len()), (5, 5));
        assert_eq!(second.requests[0].at_ms, 500, "5,000 less half of 9,000");
    }

    #[test]
    fn longer_outputs_keep_their_pace_and_stay_below_the_longest() {
        let workload = single_key(vec![request(0, 10, 100), request(1, 10, 300), request(2, 10, 0)]);
        let doubled = Change::LengthsDoubled.apply(&workload).requests;
        assert_eq!(doubled[0], request(0, 10, 200), "40 a second as before");
        assert_eq!(doubled[1], request(1, 10, 300), "no longer than the longest");
        assert_eq!(doubled[2].generated_tokens, 0);
        assert_eq!(Change::LengthsHalved.apply(&workload).requests[1], request(1, 10, 150));
        assert_eq!(Change::PacesHalved.apply(&workload).requests[0].duration_ms, 6_000);
    }

    #[test]
    fn a_shuffle_moves_blocks_and_loses_nothing() {
        let workload = single_key((0..100).map(|index| request(index * 30_000, 10, index)).collect());
        let shuffled = Change::Shuffled.apply(&workload).requests;
        assert_ne!(shuffled, workload.requests);
        assert!(shuffled.is_sorted_by_key(|request| request.at_ms));
        for block in shuffled.chunks(10) {
            let from = block[0].generated_tokens;
            let expected: Vec<u64> = (from..from + 10).collect();
            let outputs: Vec<u64> = block.iter().map(|request| request.generated_tokens).collect();
            assert_eq!(outputs, expected, "a block stays whole");
        }
        let mut outputs: Vec<u64> = shuffled.iter().map(|request| request.generated_tokens).collect();
        outputs.sort_unstable();
        assert_eq!(outputs, (0..100).collect::<Vec<u64>>());
    }
}
