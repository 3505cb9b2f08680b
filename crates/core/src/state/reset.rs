//! Setting a key back by an operator's hand: its limits to their floors, its holds to nothing.

use super::touched::Item;
use super::{KeyState, Outlook, Rules};
use crate::law::{Bounds, Law, WindowLaw};
use crate::reservation::Number;
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

impl KeyState {
    /// Sets `windows` back to their floors, as if the key were new; what they proved goes, and what was settled in the open
    /// epoch. A boost that is in force lifts them again at once.
    pub fn reset_limits(&mut self, now: Timestamp, rules: &Rules<'_>, windows: &PerWindow<bool>) {
        self.advance(now, rules);
        let before = self.law;
        reset(&mut self.law, windows, rules.bounds);
        self.history.on_reset(&before, &self.law, &self.applied(rules));
        self.advance(now, rules);
    }

    /// Drops the holds of at most `most` live reservations, those after `after`; returns the last one looked at, `None` where
    /// none was left. The reservations stay; a report on a stream that runs on holds anew what is still to come.
    pub fn drop_holds(&mut self, after: Option<Number>, most: usize) -> Option<Number> {
        let mut last = None;
        for (number, live) in self.live.after_mut(after).take(most) {
            self.cohorts.let_go(&mut self.holds, live, self.now);
            self.touched.add(Item::Reservation(*number));
            last = Some(*number);
        }
        last
    }
}

impl Outlook {
    /// What [`KeyState::reset_limits`] does to the law; advance before and after.
    pub fn reset(&mut self, windows: &PerWindow<bool>, bounds: &PerWindow<Bounds>) {
        reset(&mut self.law, windows, bounds);
    }
}

fn reset(law: &mut Law, windows: &PerWindow<bool>, bounds: &PerWindow<Bounds>) {
    for window in Window::ALL {
        if windows[window] {
            law.windows[window] = WindowLaw::new(&bounds[window]);
        }
    }
}
