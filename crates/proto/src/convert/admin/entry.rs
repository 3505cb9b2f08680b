//! How tiers, accounts, models and overrides stand on the wire.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use tidegate_core::key::parse_variant;
use tidegate_core::policy::{
    Account, Kind, Model, ModelBounds, Override, PartialBounds, Policy, Scope, Tier, WindowBounds, Written,
};

use super::degrade::{said_degrade, wire_degrade};
use super::enforcement::{said, wire_enforcement};
use super::{Entry, Id};
use crate::convert::{InvalidField, time};
use crate::v1;

impl Entry for Tier {
    type Wire = v1::Tier;
    const KIND: Kind = Kind::Tier;
    const FIELDS: &'static [&'static str] = &["bounds", "models", "law_profile", "enforcement", "degrade"];

    fn id(&self) -> Id<'_> {
        Id { name: &self.name, variant: "" }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn wire_id(wire: &v1::Tier) -> Id<'_> {
        Id { name: &wire.name, variant: "" }
    }

    fn find<'p>(policy: &'p Policy, id: Id<'_>) -> Option<&'p Self> {
        policy.tiers().get(id.name)
    }

    fn list<'p>(policy: &'p Policy, after: Option<Id<'_>>) -> impl Iterator<Item = &'p Self> {
        let after = after.map_or(Unbounded, |id| Excluded(id.name));
        policy.tiers().range::<str, _>((after, Unbounded)).map(|(_, tier)| tier)
    }

    fn named(id: Id<'_>) -> Self {
        Self { name: id.name.into(), ..Self::default() }
    }

    fn set(&mut self, path: &str, wire: &v1::Tier) -> Result<bool, InvalidField> {
        match path {
            "models" => {
                let bounds_of = |entry: &v1::ModelBounds| ModelBounds {
                    model: entry.model.clone(),
                    variant: entry.variant.clone(),
                    bounds: window_bounds(entry.bounds.as_ref()),
                };
                self.models = wire.models.iter().map(bounds_of).collect();
            }
            "law_profile" => self.law_profile = reference("tier.law_profile", &wire.law_profile)?,
            "enforcement" => self.enforcement = said("tier.enforcement", wire.enforcement)?,
            "degrade" => self.degrade = said_degrade("tier.degrade", wire.degrade)?,
            _ => return Ok(set_bounds(&mut self.bounds, path, wire.bounds.as_ref())),
        }
        Ok(true)
    }

    fn to_wire(&self) -> v1::Tier {
        let bounds_of = |entry: &ModelBounds| v1::ModelBounds {
            model: entry.model.clone(),
            variant: entry.variant.clone(),
            bounds: wire_window_bounds(&entry.bounds),
        };
        v1::Tier {
            name: self.name.clone(),
            bounds: wire_window_bounds(&self.bounds),
            models: self.models.iter().map(bounds_of).collect(),
            law_profile: self.law_profile.clone(),
            enforcement: wire_enforcement(self.enforcement).into(),
            degrade: wire_degrade(self.degrade).into(),
            revision: self.revision,
        }
    }

    fn into_written(self) -> Written {
        Written::Tier(self)
    }

    fn from_written(written: Written) -> Option<Self> {
        if let Written::Tier(tier) = written { Some(tier) } else { None }
    }
}

impl Entry for Account {
    type Wire = v1::Account;
    const KIND: Kind = Kind::Account;
    const FIELDS: &'static [&'static str] = &["tier", "blocked", "enforcement"];

    fn id(&self) -> Id<'_> {
        Id { name: &self.name, variant: "" }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn wire_id(wire: &v1::Account) -> Id<'_> {
        Id { name: &wire.name, variant: "" }
    }

    fn find<'p>(policy: &'p Policy, id: Id<'_>) -> Option<&'p Self> {
        policy.accounts().get(id.name).map(Arc::as_ref)
    }

    fn list<'p>(policy: &'p Policy, after: Option<Id<'_>>) -> impl Iterator<Item = &'p Self> {
        let after = after.map_or(Unbounded, |id| Excluded(id.name));
        policy.accounts().range::<str, _>((after, Unbounded)).map(|(_, account)| account.as_ref())
    }

    fn named(id: Id<'_>) -> Self {
        Self { name: id.name.into(), ..Self::default() }
    }

    fn set(&mut self, path: &str, wire: &v1::Account) -> Result<bool, InvalidField> {
        match path {
            "tier" => self.tier = reference("account.tier", &wire.tier)?,
            "blocked" => self.blocked = wire.blocked,
            "enforcement" => self.enforcement = said("account.enforcement", wire.enforcement)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn to_wire(&self) -> v1::Account {
        let Self { name, tier, blocked, enforcement, revision } = self.clone();
        v1::Account { name, tier, blocked, enforcement: wire_enforcement(enforcement).into(), revision }
    }

    fn into_written(self) -> Written {
        Written::Account(self)
    }

    fn from_written(written: Written) -> Option<Self> {
        if let Written::Account(account) = written { Some(account) } else { None }
    }
}

impl Entry for Model {
    type Wire = v1::Model;
    const KIND: Kind = Kind::Model;
    const FIELDS: &'static [&'static str] = &["bounds", "law_profile"];

    fn id(&self) -> Id<'_> {
        Id { name: &self.name, variant: &self.variant }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn wire_id(wire: &v1::Model) -> Id<'_> {
        Id { name: &wire.name, variant: &wire.variant }
    }

    fn find<'p>(policy: &'p Policy, id: Id<'_>) -> Option<&'p Self> {
        policy.models().get(&(id.name.to_owned(), id.variant.to_owned()))
    }

    fn list<'p>(policy: &'p Policy, after: Option<Id<'_>>) -> impl Iterator<Item = &'p Self> {
        let after = after.map_or(Unbounded, |id| Excluded((id.name.to_owned(), id.variant.to_owned())));
        policy.models().range((after, Unbounded)).map(|(_, model)| model)
    }

    fn named(id: Id<'_>) -> Self {
        Self { name: id.name.into(), variant: id.variant.into(), ..Self::default() }
    }

    fn set(&mut self, path: &str, wire: &v1::Model) -> Result<bool, InvalidField> {
        match path {
            "law_profile" => self.law_profile = reference("model.law_profile", &wire.law_profile)?,
            _ => return Ok(set_bounds(&mut self.bounds, path, wire.bounds.as_ref())),
        }
        Ok(true)
    }

    fn to_wire(&self) -> v1::Model {
        v1::Model {
            name: self.name.clone(),
            variant: self.variant.clone(),
            bounds: wire_window_bounds(&self.bounds),
            law_profile: self.law_profile.clone(),
            revision: self.revision,
        }
    }

    fn into_written(self) -> Written {
        Written::Model(self)
    }

    fn from_written(written: Written) -> Option<Self> {
        if let Written::Model(model) = written { Some(model) } else { None }
    }
}

impl Entry for Override {
    type Wire = v1::Override;
    const KIND: Kind = Kind::Override;
    const FIELDS: &'static [&'static str] = &["scope", "bounds", "reason", "expire_time"];

    fn id(&self) -> Id<'_> {
        Id { name: &self.id, variant: "" }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn wire_id(wire: &v1::Override) -> Id<'_> {
        Id { name: &wire.override_id, variant: "" }
    }

    fn find<'p>(policy: &'p Policy, id: Id<'_>) -> Option<&'p Self> {
        policy.overrides().get(id.name)
    }

    fn list<'p>(policy: &'p Policy, after: Option<Id<'_>>) -> impl Iterator<Item = &'p Self> {
        let after = after.map_or(Unbounded, |id| Excluded(id.name));
        policy.overrides().range::<str, _>((after, Unbounded)).map(|(_, entry)| entry)
    }

    fn named(id: Id<'_>) -> Self {
        Self { id: id.name.into(), ..Self::default() }
    }

    fn set(&mut self, path: &str, wire: &v1::Override) -> Result<bool, InvalidField> {
        match path {
            "scope" => {
                let scope = wire.scope.as_ref();
                let scope = scope.ok_or_else(|| InvalidField::new("override.scope", "is required"))?.clone();
                self.scope = Scope { account: scope.account, model: scope.model, variant: scope.variant };
            }
            "reason" => self.reason.clone_from(&wire.reason),
            "expire_time" => {
                let instant = |wire| time::timestamp(wire, "override.expire_time");
                self.expires_at = wire.expire_time.as_ref().map(instant).transpose()?;
            }
            _ => return Ok(set_bounds(&mut self.bounds, path, wire.bounds.as_ref())),
        }
        Ok(true)
    }

    /// The policy's revision after the creation, or one after it: readable, and no override that is gone had it.
    fn make_name(&mut self, policy: &Policy) -> bool {
        if !self.id.is_empty() {
            return false;
        }
        let mut revision = policy.revision() + 1;
        while policy.overrides().contains_key(&made_id(revision)) {
            revision += 1;
        }
        self.id = made_id(revision);
        true
    }

    fn to_wire(&self) -> v1::Override {
        let Scope { account, model, variant } = self.scope.clone();
        v1::Override {
            override_id: self.id.clone(),
            scope: Some(v1::Scope { account, model, variant }),
            bounds: wire_window_bounds(&self.bounds),
            reason: self.reason.clone(),
            expire_time: self.expires_at.map(time::wire_timestamp),
            revision: self.revision,
        }
    }

    fn into_written(self) -> Written {
        Written::Override(self)
    }

    fn from_written(written: Written) -> Option<Self> {
        if let Written::Override(entry) = written { Some(entry) } else { None }
    }
}

fn made_id(revision: u64) -> String {
    format!("override-{revision}")
}

/// The name of another object, which the core looks up; empty: none. Bounded here, as a refusal quotes it.
fn reference(field: &'static str, name: &str) -> Result<String, InvalidField> {
    parse_variant(name).map(str::to_owned).map_err(|fault| InvalidField::new(field, fault.to_string()))
}

/// Takes `bounds`, one window's or one side's from `wire`; whether `path` is one of these.
fn set_bounds(bounds: &mut WindowBounds, path: &str, wire: Option<&v1::WindowBounds>) -> bool {
    let new = window_bounds(wire);
    let mut steps = path.split('.');
    if steps.next() != Some("bounds") {
        return false;
    }
    let (window, side) = (steps.next(), steps.next());
    if steps.next().is_some() {
        return false;
    }
    let (bounds, new) = match window {
        None => {
            *bounds = new;
            return true;
        }
        Some("prompt") => (&mut bounds.prompt, new.prompt),
        Some("uncached_prompt") => (&mut bounds.uncached_prompt, new.uncached_prompt),
        Some("generated") => (&mut bounds.generated, new.generated),
        Some(_) => return false,
    };
    match side {
        None => *bounds = new,
        Some("floor_tpm") => bounds.floor_tpm = new.floor_tpm,
        Some("ceiling_tpm") => bounds.ceiling_tpm = new.ceiling_tpm,
        Some(_) => return false,
    }
    true
}

fn window_bounds(wire: Option<&v1::WindowBounds>) -> WindowBounds {
    let Some(wire) = wire else { return WindowBounds::default() };
    let bounds = |wire: Option<v1::Bounds>| {
        wire.map_or_else(PartialBounds::default, |wire| PartialBounds {
            floor_tpm: wire.floor_tpm,
            ceiling_tpm: wire.ceiling_tpm,
        })
    };
    WindowBounds::new(bounds(wire.prompt), bounds(wire.uncached_prompt), bounds(wire.generated))
}

/// Windows that inherit both sides are left out, and so are bounds that state nothing.
fn wire_window_bounds(bounds: &WindowBounds) -> Option<v1::WindowBounds> {
    let wire = |bounds: PartialBounds| {
        let PartialBounds { floor_tpm, ceiling_tpm } = bounds;
        (bounds != PartialBounds::default()).then_some(v1::Bounds { floor_tpm, ceiling_tpm })
    };
    (*bounds != WindowBounds::default()).then(|| v1::WindowBounds {
        prompt: wire(bounds.prompt),
        uncached_prompt: wire(bounds.uncached_prompt),
        generated: wire(bounds.generated),
    })
}
