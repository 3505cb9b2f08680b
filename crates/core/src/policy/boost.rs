//! Boosts: which limits an operator raised, and until when.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoostLimit {
    /// The limit, TPM; 1 to 2^40.
    pub limit_tpm: u64,
    /// Until when.
    pub expires_at: Timestamp,
}

/// The boosts of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boost {
    /// What they cover.
    pub scope: Scope,
    /// The windows that are boosted.
    pub windows: PerWindow<Option<BoostLimit>>,
}

impl Boost {
    /// The last end of its windows.
    fn ends_at(&self) -> Timestamp {
        let ends = self.windows.iter().filter_map(|(_, limit)| limit.map(|limit| limit.expires_at));
        ends.max().unwrap_or(Timestamp::ZERO)
    }
}

impl Policy {
    /// The boosts of this very scope.
    #[must_use]
    pub fn boost(&self, scope: &Scope) -> Option<&Boost> {
        self.boosts.get(scope)
    }

    /// Those that cover `key`: of the account, of the account on the model, of the key.
    pub(super) fn boosts_of(&self, key: KeyRef<'_>) -> Boosts {
        if self.boosts.is_empty() {
            return Boosts::default();
        }
        let mut lifts = Vec::new();
        let model = Some(String::from(key.model()));
        let scopes = [(None, None), (model.clone(), None), (model, Some(String::from(key.variant())))].map(
            |(model, variant)| {
                Scope { account: key.account().into(), model, variant } //
            },
        );
        for boost in scopes.iter().filter_map(|scope| self.boosts.get(scope)) {
            for window in Window::ALL {
                if let Some(BoostLimit { limit_tpm, expires_at }) = boost.windows[window] {
                    lifts.push(Lift { window, limit_tpm, expires_at });
                }
            }
        }
        Boosts::new(lifts)
    }

    /// Takes the windows that `boost` states; the others of its scope stay. Forgets boosts that ended long ago.
    pub(super) fn put_boost(&mut self, boost: &Boost, now: Timestamp) -> Result<Boost, WriteError> {
        let boosts = Arc::make_mut(&mut self.boosts);
        boosts.retain(|_, old| now < old.ends_at().after(KEPT));
        let old = boosts.get(&boost.scope);
        if old.is_none() && boosts.len() >= MOST_BOOSTS {
            return Err(WriteError::TooManyBoosts { most: MOST_BOOSTS });
        }
        let before = old.map(|old| old.windows).unwrap_or_default();
        let windows = PerWindow::from_fn(|window| boost.windows[window].or(before[window]));
        let merged = Boost { scope: boost.scope.clone(), windows };
        boosts.insert(boost.scope.clone(), merged.clone());
        Ok(merged)
    }
}
