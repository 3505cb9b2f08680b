//! What an entry must be to be written: each fault names its field.

use alloc::format;
use alloc::string::String;

use super::write::{WriteError, Written};
use super::{ModelBounds, Policy, Scope, WindowBounds};
use crate::MAX_TOKENS;
use crate::key::{NameError, parse_name, parse_variant};
use crate::time::Timestamp;
use crate::window::PerWindow;

/// Most models in a tier.
const MOST_MODELS_OF_TIER: usize = 1_000;
/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 1_024;

impl Policy {
    pub(super) fn check(&self, entry: &Written, now: Timestamp) -> Result<(), WriteError> {
        match entry {
            Written::Tier(tier) => {
                name("tier.name", &tier.name)?;
                bounds("tier.bounds", &tier.bounds)?;
                self.profile("tier.law_profile", &tier.law_profile)?;
                if tier.models.len() > MOST_MODELS_OF_TIER {
                    return invalid("tier.models", format!("must have at most {MOST_MODELS_OF_TIER} entries"));
                }
                for (index, model) in tier.models.iter().enumerate() {
                    let path = format!("tier.models[{index}]");
                    name(&format!("{path}.model"), &model.model)?;
                    variant(&format!("{path}.variant"), &model.variant)?;
                    bounds(&format!("{path}.bounds"), &model.bounds)?;
                    let same = |other: &&ModelBounds| other.model == model.model && other.variant == model.variant;
                    if tier.models[..index].iter().any(|other| same(&other)) {
                        return invalid(&format!("{path}.model"), "names a model and variant for the second time");
                    }
                }
                Ok(())
            }
            Written::Account(account) => {
                name("account.name", &account.name)?;
                if account.tier.is_empty() || self.tiers.contains_key(&account.tier) {
                    return Ok(());
                }
                invalid("account.tier", format!("names no tier: {:?}", account.tier))
            }
            Written::Model(model) => {
                name("model.name", &model.name)?;
                variant("model.variant", &model.variant)?;
                bounds("model.bounds", &model.bounds)?;
                self.profile("model.law_profile", &model.law_profile)
            }
            Written::Override(entry) => {
                if !(1..=64).contains(&entry.id.len()) || !entry.id.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return invalid("override.override_id", "must be 1 to 64 printable ASCII characters without space");
                }
                scope("override.scope", &entry.scope)?;
                bounds("override.bounds", &entry.bounds)?;
                if entry.reason.len() > MAX_REASON_BYTES {
                    return invalid("override.reason", format!("must have at most {MAX_REASON_BYTES} bytes"));
                }
                if entry.expires_at.is_some_and(|expires_at| expires_at <= now) {
                    return invalid("override.expire_time", "must lie in the future");
                }
                if entry.bounds == WindowBounds::default() {
                    return invalid("override.bounds", "must state at least one bound");
                }
                let other = self.by_scope.get(&entry.scope).and_then(|id| self.overrides.get(id));
                match other.filter(|other| other.id != entry.id && other.is_live(now)) {
                    Some(other) => Err(WriteError::ScopeTaken { id: other.id.clone() }),
                    None => Ok(()),
                }
            }
            Written::Enforcement(_) => Ok(()),
            Written::Boost(boost) => {
                scope("scope", &boost.scope)?;
                if boost.windows == PerWindow::default() {
                    return invalid("limit_tpm", "must state the limit of at least one window");
                }
                for (window, limit) in boost.windows.iter() {
                    let Some(limit) = limit else { continue };
                    if !(1..=MAX_TOKENS).contains(&limit.limit_tpm) {
                        return invalid(&format!("limit_tpm.{}", window.name()), "must be at most 2^40");
                    }
                    if limit.expires_at <= now {
                        return invalid("expire_time", "must lie in the future");
                    }
                }
                Ok(())
            }
        }
    }

    fn profile(&self, field: &str, name: &str) -> Result<(), WriteError> {
        if name.is_empty() || self.profiles.contains_key(name) {
            return Ok(());
        }
        invalid(field, format!("names no law profile: {name:?}"))
    }
}

fn invalid<T>(field: &str, message: impl Into<String>) -> Result<T, WriteError> {
    Err(WriteError::Invalid { field: field.into(), message: message.into() })
}

fn name(field: &str, text: &str) -> Result<(), WriteError> {
    parse_name(text).map(|_| ()).or_else(|fault: NameError| invalid(field, format!("{fault}")))
}

fn variant(field: &str, text: &str) -> Result<(), WriteError> {
    parse_variant(text).map(|_| ()).or_else(|fault| invalid(field, format!("{fault}")))
}

fn scope(field: &str, scope: &Scope) -> Result<(), WriteError> {
    let Scope { account, model, variant: of } = scope;
    name(&format!("{field}.account"), account)?;
    if let Some(model) = model {
        name(&format!("{field}.model"), model)?;
    }
    if let Some(of) = of {
        variant(&format!("{field}.variant"), of)?;
        if model.is_none() {
            return invalid(&format!("{field}.variant"), "needs a model");
        }
    }
    Ok(())
}

fn bounds(field: &str, bounds: &WindowBounds) -> Result<(), WriteError> {
    let faults: PerWindow<_> = bounds.map(|bounds| bounds.fault());
    for (window, fault) in faults.iter() {
        if let Some((side, message)) = fault {
            return invalid(&format!("{field}.{}.{side}", window.name()), *message);
        }
    }
    Ok(())
}
