//! Which bounds and which law apply to a key (design: a decision, step 2).

use alloc::string::String;

use super::{DEFAULT_PROFILE, Enforcement, Override, Policy, Scope, UnknownAccounts, WindowBounds, merge};
use crate::decision::Denial;
use crate::key::KeyRef;
use crate::law::{Boosts, Bounds, LawParams};
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

/// What applies to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Floor and ceiling of each window.
    pub bounds: PerWindow<Bounds>,
    /// How the limits move.
    pub law: LawParams,
    /// Limits that an operator raised for a time; those that ended of late as well.
    pub boosts: Boosts,
    /// Whether somebody configured the account.
    pub configured: bool,
    /// Why every request of the account is refused, if it is.
    pub refused: Option<Denial>,
    /// What a denial by a limit does.
    pub enforcement: Enforcement,
    /// Windows whose merged floor is above the merged ceiling: the floor won, as it is a promise to a customer.
    pub floor_won: PerWindow<bool>,
    /// Until when this holds if no policy is written: the next expiry of an override of the key.
    pub valid_until: Timestamp,
}

impl Policy {
    /// What applies to `key` at `now`: per window and side, the first of key override, override of the account on the model,
    /// account override, the tier's bounds for the model, the model's, the tier's, the built-in ones that states one.
    ///
    /// Costs a look-up in each map.
    #[must_use]
    pub fn resolve(&self, key: KeyRef<'_>, now: Timestamp) -> Resolved {
        let account = self.accounts.get(key.account());
        let tier_name = account.map(|account| account.tier.as_str()).filter(|tier| !tier.is_empty());
        let tier = self.tiers.get(tier_name.unwrap_or(&self.default_tier));
        let model = self.models.get(&(String::from(key.model()), String::from(key.variant())));
        let tier_model = tier.and_then(|tier| {
            tier.models.iter().find(|entry| entry.model == key.model() && entry.variant == key.variant())
        });

        let account_model = |variant: Option<&str>| {
            self.override_of(key.account(), Some(key.model()), variant).filter(|entry| entry.is_live(now))
        };
        let key_override = account_model(Some(key.variant()));
        let model_override = account_model(None);
        let account_override = self.override_of(key.account(), None, None).filter(|entry| entry.is_live(now));
        let overrides = [key_override, model_override, account_override];
        let sources: [Option<&WindowBounds>; 6] = [
            key_override.map(|entry| &entry.bounds),
            model_override.map(|entry| &entry.bounds),
            account_override.map(|entry| &entry.bounds),
            tier_model.map(|entry| &entry.bounds),
            model.map(|model| &model.bounds),
            tier.map(|tier| &tier.bounds),
        ];
        let merged = PerWindow::from_fn(|window: Window| merge(&sources, window));
        let profile = model
            .map(|model| model.law_profile.as_str())
            .filter(|name| !name.is_empty())
            .or_else(|| tier.map(|tier| tier.law_profile.as_str()).filter(|name| !name.is_empty()))
            .unwrap_or(DEFAULT_PROFILE);
        let refused = match account {
            Some(account) => account.blocked.then_some(Denial::AccountBlocked),
            None if self.unknown_accounts == UnknownAccounts::Forbidden => Some(Denial::UnknownAccount),
            None => None,
        };
        Resolved {
            bounds: merged.map(|(bounds, _)| bounds),
            law: self.profiles.get(profile).copied().unwrap_or(LawParams::DEFAULT),
            boosts: self.boosts_of(key),
            configured: account.is_some(),
            refused,
            enforcement: self.enforced(account.map(AsRef::as_ref), tier),
            floor_won: merged.map(|(_, floor_won)| floor_won),
            valid_until: overrides
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.expires_at)
                .min()
                .unwrap_or(Timestamp::MAX),
        }
    }

    fn override_of(&self, account: &str, model: Option<&str>, variant: Option<&str>) -> Option<&Override> {
        if self.by_scope.is_empty() {
            return None;
        }
        let scope =
            Scope { account: account.into(), model: model.map(String::from), variant: variant.map(String::from) };
        self.overrides.get(self.by_scope.get(&scope)?)
    }
}

impl Override {
    /// Whether it applies at `now`: until its expiry, that instant excluded.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}
