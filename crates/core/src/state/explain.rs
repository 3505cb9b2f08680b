//! Why a key's limits are what they are: a reading, which changes nothing but the time.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Applied, KeyState, Rules};
use crate::decision::WindowStatus;
use crate::law::explain::{Course, Reading};
use crate::law::history::Change;
use crate::law::{self, Law};
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, Window};

/// One window, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowExplained {
    /// The window now, as a Standard request meets it. `binding` is set for the window with the least share of its effective
    /// limit left, where anything is used or held: requests like those so far meet this one first.
    pub status: WindowStatus,
    /// The law's state.
    pub law: Reading,
    /// The last changes of the limit, the newest first; at most [`crate::law::history::MOST_CHANGES`].
    pub changes: Vec<Change>,
}

/// A key, explained.
#[derive(Clone, Debug)]
pub struct Explained {
    /// As of when.
    pub now: Timestamp,
    /// The key's phase, for [`Applied`].
    pub phase_seconds: u64,
    /// Each window.
    pub windows: PerWindow<WindowExplained>,
    /// Until the law's epoch closes; at most 60 s.
    pub epoch_closes_after: Duration,
    /// What would come if use went on as in the last minute.
    pub course: Course,
}

impl KeyState {
    /// Moves the law to `self.now`, and takes note of the limits that moved. Within an epoch that costs three comparisons.
    pub(super) fn move_law(&mut self, rules: &Rules<'_>) {
        let (now, phase) = (self.now, self.phase_seconds);
        let epoch = if rules.law_is_shared { self.law.epoch } else { law::epoch_at(now, phase) };
        let advance = |law: &mut Law| {
            if rules.law_is_shared {
                law.advance(epoch, rules.bounds, rules.law);
                let lifts = rules.boosts.lifts().iter().filter(|lift| lift.expires_at > now);
                lifts.for_each(|lift| law.boost(lift.window, lift.limit_tpm, &rules.bounds[lift.window]));
            } else {
                law.advance_boosted(now, phase, rules.bounds, rules.law, rules.boosts);
            }
        };
        if rules.boosts.lifts().is_empty() && self.law.is_at(epoch, rules.bounds, rules.law) {
            // Nearly always, and much cheaper.
            return;
        }
        if epoch == self.law.epoch {
            let levels = levels(&self.law);
            advance(&mut self.law);
            if levels != self::levels(&self.law) {
                // What an open epoch's limit was moved by depends on the levels alone.
                let mut before = self.law;
                Window::ALL.into_iter().for_each(|window| before.windows[window].p = levels[window]);
                self.history.on_moved(&before, &self.law, &self.applied(rules));
            }
        } else {
            let before = self.law;
            advance(&mut self.law);
            if levels(&before) != levels(&self.law) {
                self.history.on_moved(&before, &self.law, &self.applied(rules));
            }
        }
    }

    pub(super) const fn applied<'a>(&self, rules: &Rules<'a>) -> Applied<'a> {
        Applied {
            now: self.now,
            phase_seconds: self.phase_seconds,
            bounds: rules.bounds,
            params: rules.law,
            boosts: rules.boosts,
        }
    }

    /// Explains the key as of the last [`KeyState::advance`].
    #[must_use]
    pub fn explain(&mut self, rules: &Rules<'_>) -> Explained {
        let mut statuses = self.windows(rules);
        let applied = self.applied(rules);
        if let Some(window) = fullest(&statuses) {
            statuses[window].binding = true;
        }
        let rate = Tokens::from_fn(|window| statuses[window].used_tokens);
        Explained {
            now: self.now,
            phase_seconds: self.phase_seconds,
            windows: PerWindow::from_fn(|window| WindowExplained {
                status: statuses[window],
                law: self.law.reading(window, &applied),
                changes: self.history.newest_first(window).copied().collect(),
            }),
            epoch_closes_after: applied.epoch_start(self.law.epoch + 1).since(self.now),
            course: Course { law: self.law, rate, brake: rules.pressure.map(|reading| reading.brake()) },
        }
    }
}

fn levels(law: &Law) -> PerWindow<law::Level> {
    PerWindow::from_fn(|window| law.windows[window].p)
}

/// The window with the least share of its effective limit left; `None` where nothing is used or held.
fn fullest(statuses: &PerWindow<WindowStatus>) -> Option<Window> {
    let taken = |status: &WindowStatus| {
        let taken = status.effective_limit_tpm.saturating_sub(status.remaining_tokens);
        u128::from(taken) * 1_000_000 / u128::from(status.effective_limit_tpm.max(1))
    };
    let used = statuses.iter().filter(|(_, status)| status.used_tokens > 0 || status.held_tokens > 0);
    used.max_by_key(|(_, status)| taken(status)).map(|(window, _)| window)
}
