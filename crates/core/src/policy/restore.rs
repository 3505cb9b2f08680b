//! A policy as a store writes it down: its entries, and the rest.

use alloc::string::String;
use alloc::sync::Arc;

use minicbor::{Decode, Encode};

use super::{EnforcementSwitch, Kind, Policy, Written};

/// Of a policy, what is no entry and is written all the same.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PolicyHead {
    /// Greater after every write.
    #[n(0)]
    pub revision: u64,
    /// The global switch.
    #[n(1)]
    pub enforcement: EnforcementSwitch,
    /// The tier of accounts that name none.
    #[n(2)]
    pub default_tier: String,
    #[n(3)]
    gone: [u64; Kind::COUNT],
}

impl Policy {
    /// What is no entry.
    #[must_use]
    pub fn head(&self) -> PolicyHead {
        PolicyHead {
            revision: self.revision,
            enforcement: self.enforcement,
            default_tier: self.default_tier.clone(),
            gone: self.gone,
        }
    }

    /// Its tiers, accounts, models, overrides and boosts.
    pub fn entries(&self) -> impl Iterator<Item = Written> {
        let tiers = self.tiers.values().cloned().map(Written::Tier);
        let accounts = self.accounts.values().map(|account| Written::Account(account.as_ref().clone()));
        let models = self.models.values().cloned().map(Written::Model);
        let overrides = self.overrides.values().cloned().map(Written::Override);
        let boosts = self.boosts.values().cloned().map(Written::Boost);
        tiers.chain(accounts).chain(models).chain(overrides).chain(boosts)
    }

    /// The policy that was written down as `head` and `entries`. What nobody writes comes from this one: law profiles, what
    /// happens to unknown accounts, and the default tier where the entries have one of that name; else the earlier one stays.
    #[must_use]
    pub fn restored(&self, head: PolicyHead, entries: impl IntoIterator<Item = Written>) -> Self {
        let PolicyHead { revision, enforcement, default_tier, gone } = head;
        let mut policy = Self {
            revision,
            enforcement,
            gone,
            tiers: Arc::default(),
            accounts: Arc::default(),
            models: Arc::default(),
            overrides: Arc::default(),
            by_scope: Arc::default(),
            boosts: Arc::default(),
            shadow_accounts: 0,
            ..self.clone()
        };
        let mut overrides = alloc::vec::Vec::new();
        for entry in entries {
            match entry {
                Written::Tier(tier) => drop(Arc::make_mut(&mut policy.tiers).insert(tier.name.clone(), tier)),
                Written::Account(account) => {
                    policy.count_shadow(None, account.enforcement);
                    Arc::make_mut(&mut policy.accounts).insert(account.name.as_str().into(), Arc::new(account));
                }
                Written::Model(model) => {
                    let key = (model.name.clone(), model.variant.clone());
                    Arc::make_mut(&mut policy.models).insert(key, model);
                }
                Written::Override(entry) => overrides.push(entry),
                Written::Boost(boost) => {
                    Arc::make_mut(&mut policy.boosts).insert(boost.scope.clone(), boost);
                }
                Written::Enforcement(_) => {}
            }
        }
        // Of a scope, the one that ends last is the one that may be in force: another is written only when the one before
        // has ended.
        overrides.sort_by_key(|entry| entry.expires_at.unwrap_or(crate::time::Timestamp::MAX));
        for entry in overrides {
            Arc::make_mut(&mut policy.by_scope).insert(entry.scope.clone(), entry.id.clone());
            Arc::make_mut(&mut policy.overrides).insert(entry.id.clone(), entry);
        }
        if !policy.tiers.contains_key(&policy.default_tier) {
            policy.default_tier = default_tier;
        }
        policy
    }
}
