//! The deployment that serves a model: what it can do, what it is asked to do, and how busy that makes it.
//!
//! Prompt tokens are its work when their request is admitted, generated ones as they come. What it did in a second, against
//! what it can do in one, is reported at the second's end, as a gateway would report it.

use std::collections::VecDeque;

use tidegate_core::window::{PerWindow, Tokens};

use crate::workload::Arrival;

/// What a deployment can do, tokens a minute in each window; it may change with time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// From which second of the trace on; ascending. The first stands for all that comes before it, too.
    steps: Vec<(u64, Tokens)>,
}

impl Capacity {
    /// A capacity that changes at these seconds of the trace, which ascend. `None` without any, or where one is 0.
    #[must_use]
    pub fn new(steps: Vec<(u64, Tokens)>) -> Option<Self> {
        let possible = |(_, tokens): &(u64, Tokens)| tokens.iter().all(|(_, tokens)| *tokens > 0);
        let ascending = steps.is_sorted_by(|(earlier, _), (later, _)| earlier < later);
        (!steps.is_empty() && ascending && steps.iter().all(possible)).then_some(Self { steps })
    }

    /// Tokens a minute at a second of the trace.
    #[must_use]
    pub fn at(&self, second: u64) -> Tokens {
        let current = self.steps.iter().rev().find(|(from, _)| *from <= second).or(self.steps.first());
        current.map_or(Tokens::new(1, 1, 1), |(_, tokens)| *tokens)
    }
}

/// What a deployment did in each second of the trace, from 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Tokens.
    pub seconds: Vec<Tokens>,
}

/// The work of one deployment, of which a part is still to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    served: Served,
    /// From the second after the last served one on.
    ahead: VecDeque<Tokens>,
}

impl Load {
    /// Takes on a request that has just been admitted.
    pub(crate) fn admit(&mut self, request: &Arrival) {
        let first = request.at_ms / 1_000;
        let prompt = self.second(first);
        prompt.prompt += request.prompt_tokens;
        prompt.uncached_prompt += request.uncached_prompt_tokens;
        let mut before = 0;
        for second in first..=request.end_ms() / 1_000 {
            let by = request.generated_by((second + 1) * 1_000);
            self.second(second).generated += by - before;
            before = by;
        }
    }

    fn second(&mut self, second: u64) -> &mut Tokens {
        let index = usize::try_from(second).unwrap_or(usize::MAX).saturating_sub(self.served.seconds.len());
        if index >= self.ahead.len() {
            self.ahead.resize(index + 1, Tokens::default());
        }
        &mut self.ahead[index]
    }

    /// Ends the next second: how busy the deployment was in it, permille of its capacity.
    pub(crate) fn end_second(&mut self, capacity: &Capacity) -> PerWindow<u32> {
        let second = self.served.seconds.len() as u64;
        let tokens = self.ahead.pop_front().unwrap_or_default();
        self.served.seconds.push(tokens);
        let capacity = capacity.at(second);
        PerWindow::from_fn(|window| {
            let permille = u128::from(tokens[window]) * 60 * 1_000 / u128::from(capacity[window].max(1));
            u32::try_from(permille).unwrap_or(u32::MAX)
        })
    }

    pub(crate) fn finish(self) -> Served {
        self.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_when_its_tokens_come() {
        let capacity = Capacity::new(vec![(0, Tokens::new(6_000, 600, 60)), (2, Tokens::new(12_000, 600, 60))]);
        let capacity = capacity.expect("ascending and not 0");
        let mut load = Load::default();
        let request = Arrival {
            at_ms: 250,
            key: 0,
            prompt_tokens: 50,
            uncached_prompt_tokens: 10,
            generated_tokens: 4,
            duration_ms: 2_500,
            max_generated_tokens: None,
        };
        load.admit(&request);
        // The first token comes half a second after the request, the last at 2.75 s.
        let busy = |load: &mut Load| load.end_second(&capacity).iter().map(|(_, busy)| *busy).collect::<Vec<_>>();
        assert_eq!(busy(&mut load), [500, 1_000, 0]);
        assert_eq!(busy(&mut load), [0, 0, 2_000]);
        load.admit(&Arrival { at_ms: 2_000, generated_tokens: 0, ..request });
        assert_eq!(busy(&mut load), [250, 1_000, 2_000]);
        let served: u64 = load.finish().seconds.iter().map(|tokens| tokens.generated).sum();
        assert_eq!(served, 4);
    }

    #[test]
    fn a_capacity_of_nothing_is_none() {
        assert_eq!(Capacity::new(Vec::new()), None);
        assert_eq!(Capacity::new(vec![(0, Tokens::new(1, 0, 1))]), None);
        assert_eq!(Capacity::new(vec![(5, Tokens::new(1, 1, 1)), (5, Tokens::new(1, 1, 1))]), None);
    }
}
