//! The oracle: admits in the order of arrival whatever keeps every window at or below its limit, now and ever after, given
//! what it has admitted before. Greedy, so not an upper bound.
//!
//! Prompt windows are exact to the millisecond. Generated tokens are looked at each whole second, as overshoot is: between
//! two of them the window of evenly produced tokens moves by a few tokens at most.

use std::collections::VecDeque;

use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;

use super::{Limiter, Stream, Surroundings, Verdict, World};
use crate::workload::Arrival;

const WINDOW_MS: u64 = 60_000;
const WINDOW_SECONDS: usize = 60;

#[derive(Default)]
pub(super) struct Oracle {
    limit: Tokens,
    /// Admitted prompts of the trailing minute: arrival, total, uncached.
    prompts: VecDeque<(u64, u64, u64)>,
    prompt: u64,
    uncached: u64,
    /// Second of the front of `generated`.
    front: u64,
    /// Generated tokens second by second: of the trailing minute, and of all that is still to come.
    generated: VecDeque<u64>,
}

impl Oracle {
    pub(super) fn new(world: World<'_>) -> Self {
        Self { limit: world.rules.floors(), ..Self::default() }
    }
}

impl Limiter for Oracle {
    fn decide(&mut self, _now: Timestamp, stream: &Stream, _around: &Surroundings<'_>) -> Verdict {
        if self.admit(&stream.request) { Verdict::Admitted } else { Verdict::RateLimited }
    }

    fn limits(&self) -> Tokens {
        self.limit
    }
}

impl Oracle {
    fn admit(&mut self, request: &Arrival) -> bool {
        self.expire(request.at_ms);
        let fits = self.prompt + request.prompt_tokens <= self.limit.prompt
            && self.uncached + request.uncached_prompt_tokens <= self.limit.uncached_prompt
            && self.generated_fits(request);
        if fits {
            self.prompts.push_back((request.at_ms, request.prompt_tokens, request.uncached_prompt_tokens));
            self.prompt += request.prompt_tokens;
            self.uncached += request.uncached_prompt_tokens;
            self.book(request);
        }
        fits
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((_, prompt, uncached)) = self.prompts.pop_front_if(|(at, _, _)| *at + WINDOW_MS <= now_ms) {
            self.prompt -= prompt;
            self.uncached -= uncached;
        }
        // The window that ends with the second of `now`.
        let first = now_ms.div_ceil(1_000).saturating_sub(WINDOW_SECONDS as u64 - 1);
        while self.front < first && self.generated.pop_front().is_some() {
            self.front += 1;
        }
        if self.generated.is_empty() {
            self.front = self.front.max(first);
        }
    }

    /// Walks the windows that end at each second from now on, until the last one that the request can be in.
    fn generated_fits(&self, request: &Arrival) -> bool {
        let limit = self.limit.generated;
        if request.generated_tokens == 0 {
            return true;
        }
        if request.generated_tokens > limit {
            return false;
        }
        let now = request.at_ms.div_ceil(1_000);
        let last = request.end_ms().div_ceil(1_000);
        let at = |second: u64| {
            let index = second.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| self.generated.get(index)).copied().unwrap_or(0)
        };
        // What is booked in the window that ends a second before `now`, and what of the request is in it.
        let mut booked: u64 = (now.saturating_sub(WINDOW_SECONDS as u64)..now).map(at).sum();
        for second in now..last + WINDOW_SECONDS as u64 {
            booked += at(second);
            booked -= second.checked_sub(WINDOW_SECONDS as u64).map_or(0, at);
            let left =
                second.checked_sub(WINDOW_SECONDS as u64).map_or(0, |second| request.generated_by(second * 1_000));
            let own = request.generated_by(second * 1_000) - left;
            if booked + own > limit {
                return false;
            }
            if second > last && self.front + self.generated.len() as u64 <= second {
                // Nothing more comes in.
                break;
            }
        }
        true
    }

    fn book(&mut self, request: &Arrival) {
        let mut before = 0;
        for second in request.at_ms.div_ceil(1_000)..=request.end_ms().div_ceil(1_000) {
            let by = request.generated_by(second * 1_000);
            if by > before {
                let index = usize::try_from(second - self.front).unwrap_or(usize::MAX);
                if index >= self.generated.len() {
                    self.generated.resize(index + 1, 0);
                }
                self.generated[index] += by - before;
            }
            before = by;
        }
    }
}

#[cfg(test)]
mod tests;
