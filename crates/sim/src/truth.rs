//! Truth: which tokens were there when, whatever anybody counted, and what that says about a limit.
//!
//! Prompt tokens are there at admission, generated ones spread evenly from the first to the last. Sampled at whole seconds:
//! the window at second `s` holds what came in `(s - 60, s]`.

use std::collections::VecDeque;

use tidegate_core::window::{PerWindow, Tokens, Window};

use crate::workload::{Arrival, Span};

/// Seconds in a window.
const WINDOW_SECONDS: u64 = 60;

/// A key's first seconds, judged apart: nothing is known about it yet.
pub const FIRST_SECONDS: u64 = 180;

/// The tokens of one limit key in one run: what its windows held, second by second, against its limits.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Second of the front of `seconds`, which is the first that may still be in a window.
    front: u64,
    /// The next second to be sampled.
    next: u64,
    /// When the key began, and when it asks no more.
    first: u64,
    last: u64,
    /// When the last token has left its window.
    end: u64,
    /// What came in each second, from `front` on into the known future.
    seconds: VecDeque<Tokens>,
    /// Sum of the seconds of the window that ends before `next`.
    sum: Tokens,
    limit: Tokens,
    windows: PerWindow<WindowTruth>,
    /// What the windows held at each sample, where anybody asked for it.
    recorded: Option<Vec<Tokens>>,
}

/// What one window of one key held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowTruth {
    /// Sum over the seconds from the key's first request to its last, admitted or not, of the smaller of the tokens in the window and the limit: tokens times seconds.
    pub filled: u128,
    /// The most that the window ever held.
    pub peak: u64,
    /// Those seconds.
    pub seconds: u64,
    /// Seconds after the first 180, until a minute after the last of its requests would end.
    pub samples: u64,
    /// Of these, by how much the window was above its limit where it was, as a share of the limit.
    pub above: Vec<f64>,
    /// The most by which it was above its limit within the first 180 s, as a share of the limit.
    pub first: f64,
}

impl WindowTruth {
    /// The overshoot that 99 % of the samples do not exceed; 0 without samples.
    #[must_use]
    pub fn p99(&self) -> f64 {
        let mut above = self.above.clone();
        above.sort_by(f64::total_cmp);
        // The smallest share that at least 99 % of all samples, most of which are not above at all, do not exceed.
        let beyond = usize::try_from(self.samples / 100).unwrap_or(usize::MAX);
        above.len().checked_sub(beyond + 1).map_or(0.0, |index| above[index])
    }

    /// The largest overshoot.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.above.iter().copied().fold(0.0, f64::max)
    }
}

impl Truth {
    /// A key that asks within `span`, under limits that stay.
    #[must_use]
    pub fn new(span: &Span, limit: Tokens, record: bool) -> Self {
        let [first, last, end] = [span.first_ms, span.last_ms, span.end_ms].map(|ms| ms.div_ceil(1_000));
        Self {
            front: first,
            next: first,
            first,
            last,
            end: end + WINDOW_SECONDS,
            seconds: VecDeque::new(),
            sum: Tokens::default(),
            limit,
            windows: PerWindow::default(),
            recorded: record.then(Vec::new),
        }
    }

    /// Books an admitted request at its arrival. Arrivals come in order.
    pub fn admit(&mut self, request: &Arrival) {
        let arrival = request.at_ms.div_ceil(1_000);
        self.sample_until(arrival);
        let prompt = self.second(arrival);
        prompt.prompt += request.prompt_tokens;
        prompt.uncached_prompt += request.uncached_prompt_tokens;
        self.second(request.end_ms().div_ceil(1_000));
        let first = usize::try_from(arrival - self.front).unwrap_or(usize::MAX);
        let (mut before, mut second) = (0, arrival);
        for tokens in self.seconds.range_mut(first..) {
            if before == request.generated_tokens {
                break;
            }
            let by = request.generated_by(second * 1_000);
            tokens.generated += by - before;
            (before, second) = (by, second + 1);
        }
    }

    /// What was sampled, over the same seconds for every policy, whatever it admitted.
    #[must_use]
    pub fn finish(mut self) -> (PerWindow<WindowTruth>, Option<Vec<Tokens>>) {
        self.sample_until(self.end.max(self.next));
        (self.windows, self.recorded)
    }

    fn second(&mut self, second: u64) -> &mut Tokens {
        let index = usize::try_from(second - self.front).unwrap_or(usize::MAX);
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, Tokens::default());
        }
        &mut self.seconds[index]
    }

    /// Samples every second before `second`.
    fn sample_until(&mut self, second: u64) {
        while self.next < second {
            let entering = usize::try_from(self.next - self.front).ok().and_then(|index| self.seconds.get(index));
            let entering = entering.copied().unwrap_or_default();
            self.sum = PerWindow::from_fn(|window| self.sum[window] + entering[window]);
            if self.next >= self.front + WINDOW_SECONDS {
                let leaving = self.seconds.pop_front().unwrap_or_default();
                self.front += 1;
                self.sum = PerWindow::from_fn(|window| self.sum[window] - leaving[window]);
            }
            self.sample();
            self.next += 1;
            if self.seconds.is_empty() && self.recorded.is_none() {
                // Nothing in the window and nothing to come: every second until then is the same.
                let idle = second - self.next;
                for window in Window::ALL {
                    self.windows[window].seconds += second.min(self.last + 1).saturating_sub(self.next);
                    self.windows[window].samples += idle_after_first(self.next, idle, self.first);
                }
                self.next = second;
                self.front = second;
            }
        }
        if self.seconds.is_empty() {
            self.front = self.front.max(self.next);
        }
    }

    fn sample(&mut self) {
        for window in Window::ALL {
            let (held, limit) = (self.sum[window], self.limit[window]);
            let truth = &mut self.windows[window];
            if self.next <= self.last {
                truth.filled += u128::from(held.min(limit));
                truth.seconds += 1;
            }
            truth.peak = truth.peak.max(held);
            let early = self.next < self.first + FIRST_SECONDS;
            truth.samples += u64::from(!early);
            if held > limit {
                let above = held as f64 / limit.max(1) as f64 - 1.0;
                if early {
                    truth.first = truth.first.max(above);
                } else {
                    truth.above.push(above);
                }
            }
        }
        if let Some(recorded) = &mut self.recorded {
            recorded.push(self.sum);
        }
    }
}

/// Of `idle` seconds from `next` on, how many come after the key's first 180 s.
fn idle_after_first(next: u64, idle: u64, first: u64) -> u64 {
    (next + idle).saturating_sub(next.max(first + FIRST_SECONDS))
}

#[cfg(test)]
mod tests;
