//! Setting one key back.

use tidegate_core::effect::{Effect, Turn};
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;

use super::MemoryStore;
use crate::timers::Fingerprint;
use crate::{Author, Reset, ResetDone};

/// Holds that are dropped under one lock of the key.
const HOLDS_AT_ONCE: usize = 256;

impl MemoryStore {
    pub(crate) fn reset(&self, now: Timestamp, reset: &Reset, author: Author, dry_run: bool) -> Option<ResetDone> {
        let fingerprint = self.of_key(reset.key.as_ref());
        // Before the key, as every write locks them.
        let mut log = self.writing.lock();
        let mut entry = self.known(fingerprint)?;
        self.refresh(now, &mut entry);
        let held = self.call(now, fingerprint, &mut entry, |state, rules| {
            state.advance(now, rules);
            state.held_tokens()
        });
        let resolved = &entry.resolved;
        let before = entry.state.outlook();
        let mut after = before;
        after.reset(&reset.windows, &resolved.bounds);
        after.advance(now, resolved);
        let mut effect = Effect::default();
        effect.compare(reset.key.as_ref(), (&before, resolved), (&after, resolved));
        let (old, limits) = (before.limits(resolved), after.limits(resolved));
        let turns = PerWindow::from_fn(|window| Turn { before: old[window], after: limits[window] });
        let boosted =
            PerWindow::from_fn(|window| reset.windows[window] && limits[window] > resolved.bounds[window].floor_tpm());
        let dropped_hold_tokens = if reset.drop_holds { held } else { 0 };
        let done = ResetDone { effect, persisted: false, dropped_hold_tokens, boosted };
        if dry_run {
            return Some(done);
        }
        self.call(now, fingerprint, &mut entry, |state, rules| state.reset_limits(now, rules, &reset.windows));
        self.mark(fingerprint, &mut entry);
        drop(entry);
        if reset.drop_holds {
            self.drop_holds(now, fingerprint);
        }
        log.push_reset(now, author, format!("limit/{}", reset.key.as_ref()), turns);
        Some(done)
    }

    /// Tokens that the key holds.
    pub(crate) fn held(&self, now: Timestamp, fingerprint: Fingerprint) -> u64 {
        let Some(mut entry) = self.known(fingerprint) else { return 0 };
        self.refresh(now, &mut entry);
        self.call(now, fingerprint, &mut entry, |state, rules| {
            state.advance(now, rules);
            state.held_tokens()
        })
    }

    /// Piece by piece, so that the key is never locked for long.
    pub(crate) fn drop_holds(&self, now: Timestamp, fingerprint: Fingerprint) {
        let mut after = None;
        while let Some(mut entry) = self.known(fingerprint) {
            after = self.call(now, fingerprint, &mut entry, |state, _| state.drop_holds(after, HOLDS_AT_ONCE));
            self.mark(fingerprint, &mut entry);
            if after.is_none() {
                return;
            }
        }
    }
}
