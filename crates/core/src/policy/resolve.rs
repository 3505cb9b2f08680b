//! Which bounds and which law apply to a key (design: a decision, step 2).

use alloc::string::String;

use super::{
    Account, DEFAULT_PROFILE, Enforcement, Model, ModelBounds, Override, Policy, Scope, Tier, UnknownAccounts,
    WindowBounds, merge,
};
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
        let found = self.found(key, now);
        let sources = found.sources();
        let merged = PerWindow::from_fn(|window: Window| merge(&sources, window));
        let refused = match found.account {
            Some(account) => account.blocked.then_some(Denial::AccountBlocked),
            None if self.unknown_accounts == UnknownAccounts::Forbidden => Some(Denial::UnknownAccount),
            None => None,
        };
        Resolved {
            bounds: merged.map(|(bounds, _)| bounds),
            law: self.profiles.get(found.profile()).copied().unwrap_or(LawParams::DEFAULT),
            boosts: self.boosts_of(key),
            configured: found.account.is_some(),
            refused,
            enforcement: self.enforced(found.account, found.tier),
            floor_won: merged.map(|(_, floor_won)| floor_won),
            valid_until: found
                .overrides
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.expires_at)
                .min()
                .unwrap_or(Timestamp::MAX),
        }
    }

    /// The entries that say something about `key` at `now`.
    pub(super) fn found(&self, key: KeyRef<'_>, now: Timestamp) -> Found<'_> {
        let account = self.accounts.get(key.account());
        let tier_name = account.map(|account| account.tier.as_str()).filter(|tier| !tier.is_empty());
        let tier = self.tiers.get(tier_name.unwrap_or(&self.default_tier));
        let live = |model: Option<&str>, variant: Option<&str>| {
            self.override_of(key.account(), model, variant).filter(|entry| entry.is_live(now))
        };
        Found {
            account: account.map(|account| &**account),
            tier,
            tier_model: tier.and_then(|tier| {
                tier.models.iter().find(|entry| entry.model == key.model() && entry.variant == key.variant())
            }),
            model: self.models.get(&(String::from(key.model()), String::from(key.variant()))),
            overrides: [live(Some(key.model()), Some(key.variant())), live(Some(key.model()), None), live(None, None)],
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

/// The entries of a policy that say something about a key.
pub(super) struct Found<'a> {
    pub(super) account: Option<&'a Account>,
    pub(super) tier: Option<&'a Tier>,
    pub(super) tier_model: Option<&'a ModelBounds>,
    pub(super) model: Option<&'a Model>,
    /// Of the key, of the account on the model, of the account.
    pub(super) overrides: [Option<&'a Override>; 3],
}

impl<'a> Found<'a> {
    /// What each states, the most specific first.
    pub(super) fn sources(&self) -> [Option<&'a WindowBounds>; 6] {
        let [key, model, account] = self.overrides.map(|entry| entry.map(|entry| &entry.bounds));
        [
            key,
            model,
            account,
            self.tier_model.map(|entry| &entry.bounds),
            self.model.map(|model| &model.bounds),
            self.tier.map(|tier| &tier.bounds),
        ]
    }

    /// The law profile that applies: the model's, else the tier's, else the default one.
    pub(super) fn profile(&self) -> &'a str {
        let named = [self.model.map(|model| &model.law_profile), self.tier.map(|tier| &tier.law_profile)];
        named.into_iter().flatten().map(String::as_str).find(|name| !name.is_empty()).unwrap_or(DEFAULT_PROFILE)
    }
}

impl Override {
    /// Whether it applies at `now`: until its expiry, that instant excluded.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}
