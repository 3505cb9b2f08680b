//! What a policy write does to the limits of known keys: counted, and the largest changes one by one.

use alloc::vec::Vec;
use core::cmp::Reverse;

use minicbor::{Decode, Encode};

use crate::key::{KeyRef, LimitKey};
use crate::policy::Resolved;
use crate::state::Outlook;
use crate::time::Timestamp;
use crate::window::Window;

/// Most changes that are listed.
pub const MOST_CHANGES: usize = 100;

/// A number before the write and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Turn {
    /// Before.
    #[n(0)]
    pub before: u64,
    /// After.
    #[n(1)]
    pub after: u64,
}

impl Turn {
    const fn size(self) -> u64 {
        self.before.abs_diff(self.after)
    }
}

/// One window's limit or bounds that the write changes, TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// Whose limit.
    pub key: LimitKey,
    /// Which window.
    pub window: Window,
    /// The published limit.
    pub limit_tpm: Turn,
    /// Its floor.
    pub floor_tpm: Turn,
    /// Its ceiling.
    pub ceiling_tpm: Turn,
}

/// What a write does to all known limits. A limit is one window of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Known keys that the write applies to.
    pub keys: u64,
    /// Limits that rise at once.
    pub raised: u64,
    /// Limits that fall at once.
    pub lowered: u64,
    /// Limits that stay for now and may sink by the law: they stand above a floor that is lower now.
    pub released: u64,
    /// Sum of what rises, TPM; saturates.
    pub gained_tpm: u64,
    /// Sum of what falls, TPM; saturates.
    pub lost_tpm: u64,
    /// The largest changes, at most twice [`MOST_CHANGES`] until [`Effect::finish`].
    changes: Vec<LimitChange>,
}

/// The law's levels are less than one part in so many apart (240 to an octave).
const LEVELS: u64 = 300;

impl Effect {
    /// Looks at a key to which `before` applies now, and `after` once the write is made.
    pub fn look_at(
        &mut self,
        key: KeyRef<'_>,
        mut outlook: Outlook,
        now: Timestamp,
        before: &Resolved,
        after: &Resolved,
    ) {
        outlook.advance(now, before);
        let old = outlook;
        outlook.advance(now, after);
        self.compare(key, (&old, before), (&outlook, after));
    }

    /// Compares a key's limits before and after.
    pub fn compare(&mut self, key: KeyRef<'_>, before: (&Outlook, &Resolved), after: (&Outlook, &Resolved)) {
        let ((old, before), (outlook, after)) = (before, after);
        self.keys += 1;
        let old = old.limits(before);
        let new = outlook.limits(after);
        for window in Window::ALL {
            let (limits, bounds) = ((old[window], new[window]), (&before.bounds[window], &after.bounds[window]));
            let change = LimitChange {
                key: key.to_owned(),
                window,
                limit_tpm: Turn { before: limits.0, after: limits.1 },
                floor_tpm: Turn { before: bounds.0.floor_tpm(), after: bounds.1.floor_tpm() },
                ceiling_tpm: Turn { before: bounds.0.ceiling_tpm(), after: bounds.1.ceiling_tpm() },
            };
            self.count(change);
        }
    }

    /// Counts a change, and keeps it if it is among the largest.
    pub fn count(&mut self, change: LimitChange) {
        let LimitChange { limit_tpm, floor_tpm, ceiling_tpm, .. } = change;
        let may_sink = floor_tpm.after < floor_tpm.before && floor_tpm.after < limit_tpm.after;
        // A limit that its floor carried is then at the law's level below it: that is what is left of the floor, not a cut.
        let carried = limit_tpm.before == floor_tpm.before
            && limit_tpm.after < ceiling_tpm.after
            && limit_tpm.size().saturating_mul(LEVELS) <= limit_tpm.before;
        if limit_tpm.after > limit_tpm.before {
            self.raised += 1;
            self.gained_tpm = self.gained_tpm.saturating_add(limit_tpm.size());
        } else if may_sink && (limit_tpm.size() == 0 || carried) {
            self.released += 1;
        } else if limit_tpm.after < limit_tpm.before {
            self.lowered += 1;
            self.lost_tpm = self.lost_tpm.saturating_add(limit_tpm.size());
        }
        if limit_tpm.size() | floor_tpm.size() | ceiling_tpm.size() != 0 {
            self.changes.push(change);
            if self.changes.len() >= 2 * MOST_CHANGES {
                self.sort();
            }
        }
    }

    /// The largest changes of a limit, then of its bounds, at most [`MOST_CHANGES`]; equal ones by key and window.
    #[must_use]
    pub fn finish(&mut self) -> Vec<LimitChange> {
        self.sort();
        core::mem::take(&mut self.changes)
    }

    fn sort(&mut self) {
        self.changes.sort_by(|one, other| {
            let size = |change: &LimitChange| {
                Reverse((change.limit_tpm.size(), change.floor_tpm.size().saturating_add(change.ceiling_tpm.size())))
            };
            let names = |change: &LimitChange| change.window;
            let by_key = || one.key.as_ref().cmp(&other.key.as_ref());
            size(one).cmp(&size(other)).then_with(by_key).then_with(|| names(one).cmp(&names(other)))
        });
        self.changes.truncate(MOST_CHANGES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, limit: (u64, u64), floor: (u64, u64)) -> LimitChange {
        let turn = |(before, after)| Turn { before, after };
        LimitChange {
            key: KeyRef::new(name, "m", "").expect("well formed").to_owned(),
            window: Window::Prompt,
            limit_tpm: turn(limit),
            floor_tpm: turn(floor),
            ceiling_tpm: turn((900, 900)),
        }
    }

    #[test]
    fn rises_falls_and_released_limits_are_counted() {
        let mut effect = Effect::default();
        effect.count(change("up", (10, 25), (10, 25)));
        effect.count(change("down", (30, 20), (5, 5)));
        effect.count(change("released", (30, 30), (30, 10)));
        effect.count(change("at its floor", (10, 10), (10, 10)));
        // The law's levels are 0.29 % apart.
        effect.count(change("at the level below its floor", (800, 798), (800, 500)));
        let counts = (effect.raised, effect.lowered, effect.released, effect.gained_tpm, effect.lost_tpm);
        assert_eq!(counts, (1, 1, 2, 15, 10));
        let order: Vec<_> = effect.finish().iter().map(|change| change.key.as_ref().account().len()).collect();
        assert_eq!(order, ["up", "down", "at the level below its floor", "released"].map(str::len));
    }

    #[test]
    fn of_many_the_largest_hundred_are_listed() {
        let mut effect = Effect::default();
        for size in 1..=1_000 {
            effect.count(change("a", (1, 1 + size), (1, 1)));
        }
        let changes = effect.finish();
        assert_eq!((changes.len(), effect.raised), (MOST_CHANGES, 1_000));
        assert_eq!((changes[0].limit_tpm.after, changes[99].limit_tpm.after), (1_001, 902));
    }
}
