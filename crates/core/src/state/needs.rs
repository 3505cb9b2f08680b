//! What a key's windows will count in the coming minute, for the ledger of a fleet (`crate::fleet`).

use alloc::vec::Vec;

use super::KeyState;
use crate::forecast::ForecastDefaults;
use crate::time::Timestamp;
use crate::window::{PerWindow, WINDOW};

/// Falls of a count, by the second from now within which they come.
#[derive(Default)]
struct Falls(Vec<(u32, u64)>);

impl Falls {
    /// Ascending in time.
    fn add(&mut self, second: u32, tokens: u64) {
        match self.0.last_mut().filter(|(last, _)| *last == second) {
            Some((_, sum)) => *sum = sum.saturating_add(tokens),
            None if tokens > 0 => self.0.push((second, tokens)),
            None => {}
        }
    }
}

impl KeyState {
    /// The most that each window will count at any instant of the coming minute, as of the last [`KeyState::advance`] and if
    /// nothing else is admitted, by when it leaves: [`crate::fleet::Report::needs`]. Output that is expected counts with the
    /// safety margin of the sum, but for no more than the requests declared: what is not needed is the room of a decision.
    /// Where the guard asks for more than that, so much counts. At most 62 falls of a window.
    #[must_use]
    pub fn needs(&self, forecast: &ForecastDefaults) -> PerWindow<Vec<(u32, u64)>> {
        let [mut prompt, mut uncached] = [Falls::default(), Falls::default()];
        for (at, [of_prompt, of_uncached]) in self.prompt.departures() {
            prompt.add(self.seconds_until(at), of_prompt);
            uncached.add(self.seconds_until(at), of_uncached);
        }
        PerWindow::new(prompt.0, uncached.0, self.generated_needs(forecast))
    }

    /// What is in the window falls with each departure and grows with what is produced: what is needed at an instant is the most
    /// of any later one.
    fn generated_needs(&self, forecast: &ForecastDefaults) -> Vec<(u32, u64)> {
        let declared = self.generated.sum().saturating_add(self.holds.most());
        let mut peaks: Vec<(u32, u64)> = Vec::new();
        self.coming_minute(|stretch| {
            let (mut last, mut peak) = (self.now, 0);
            for (at, charged, expected) in stretch.instants() {
                let margin = forecast.margin(expected.tokens, expected.variance);
                peak = peak.max(charged.saturating_add(expected.tokens).saturating_add(margin));
                last = at;
            }
            peaks.push((self.seconds_until(last), peak.min(declared)));
            true
        });
        let mut falls = Falls::default();
        let mut most = 0;
        for (_, peak) in peaks.iter_mut().rev() {
            most = most.max(*peak);
            *peak = most;
        }
        for (index, (second, peak)) in peaks.iter().enumerate() {
            falls.add(*second, peak - peaks.get(index + 1).map_or(0, |(_, next)| *next));
        }
        // Nobody says when streams end that go on for longer than any before.
        let guard = self.least_for(self.holds.reach(), forecast);
        falls.add(u32::try_from(WINDOW.as_secs()).unwrap_or(u32::MAX), guard.saturating_sub(most));
        falls.0
    }

    fn seconds_until(&self, at: Timestamp) -> u32 {
        u32::try_from(at.since(self.now).min(WINDOW).as_secs()).unwrap_or(u32::MAX)
    }
}
