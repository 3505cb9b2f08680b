//! Boosts: which limits an operator raised, and until when.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use minicbor::{Decode, Encode};

use super::{Policy, Scope, WriteError};
use crate::key::KeyRef;
use crate::law::{Boosts, Lift};
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

/// Most scopes with boosts.
const MOST_BOOSTS: usize = 10_000;
/// How long a boost is kept past its end: every key of a store sees the end within ten minutes.
const KEPT: Duration = Duration::from_secs(3_600);

/// What one window is boosted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BoostLimit {
    /// The limit, TPM; 1 to 2^40.
    #[n(0)]
    pub limit_tpm: u64,
    /// Until when.
    #[n(1)]
    pub expires_at: Timestamp,
}

/// The boosts of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Boost {
    /// What they cover.
    #[n(0)]
    pub scope: Scope,
    /// The windows that are boosted.
    #[n(1)]
    pub windows: PerWindow<Option<BoostLimit>>,
    /// That of the policy after the write: greater with every write, and never used again. Ignored in a write.
    #[n(2)]
    pub revision: u64,
}

impl Boost {
    /// The last end of its windows.
    fn ends_at(&self) -> Timestamp {
        let ends = self.windows.iter().filter_map(|(_, limit)| limit.map(|limit| limit.expires_at));
        ends.max().unwrap_or(Timestamp::ZERO)
    }
}

impl Policy {
    /// All boosts, and those that ended not long ago.
    pub fn boosts(&self) -> impl Iterator<Item = &Boost> {
        self.boosts.values()
    }

    /// The boosts of this very scope.
    #[must_use]
    pub fn boost(&self, scope: &Scope) -> Option<&Boost> {
        self.boosts.get(scope)
    }

    /// Those that cover `key`, and those that ended within the last hour: of the account, of the account on the model, of the
    /// key.
    pub fn boosts_on(&self, key: KeyRef<'_>) -> impl Iterator<Item = &Boost> {
        let model = (!self.boosts.is_empty()).then(|| String::from(key.model()));
        let scopes = model.map(|model| {
            let parts = [(None, None), (Some(model.clone()), None), (Some(model), Some(String::from(key.variant())))];
            parts.map(|(model, variant)| Scope { account: key.account().into(), model, variant })
        });
        scopes.into_iter().flatten().filter_map(|scope| self.boosts.get(&scope))
    }

    pub(super) fn boosts_of(&self, key: KeyRef<'_>) -> Boosts {
        let mut lifts = Vec::new();
        for boost in self.boosts_on(key) {
            for window in Window::ALL {
                if let Some(BoostLimit { limit_tpm, expires_at }) = boost.windows[window] {
                    lifts.push(Lift { window, limit_tpm, expires_at });
                }
            }
        }
        Boosts::new(lifts)
    }

    /// Takes the windows that `boost` states; the others of its scope stay. Forgets boosts that ended long ago. `expected` is
    /// the revision that the boosts of this scope must have; 0: there are none.
    pub(super) fn put_boost(
        &mut self,
        boost: &Boost,
        expected: Option<u64>,
        now: Timestamp,
    ) -> Result<Boost, WriteError> {
        let actual = self.boosts.get(&boost.scope).map_or(0, |old| old.revision);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(WriteError::Stale { expected, actual });
        }
        let revision = self.revision + 1;
        let boosts = Arc::make_mut(&mut self.boosts);
        boosts.retain(|_, old| now < old.ends_at().after(KEPT));
        let old = boosts.get(&boost.scope);
        if old.is_none() && boosts.len() >= MOST_BOOSTS {
            return Err(WriteError::TooManyBoosts { most: MOST_BOOSTS });
        }
        let before = old.map(|old| old.windows).unwrap_or_default();
        let windows = PerWindow::from_fn(|window| boost.windows[window].or(before[window]));
        let merged = Boost { scope: boost.scope.clone(), windows, revision };
        boosts.insert(boost.scope.clone(), merged.clone());
        Ok(merged)
    }
}
