//! The admin service's messages into policy writes, and policy into messages.
//!
//! An [`Entry`] is what all four kinds of policy objects have in common; `entry` says how each of them stands on the wire.
//! An update is read, merged by its mask ([`update`]) and written whole, so the core knows nothing of masks. Ranges that the
//! core checks are not checked here: what it refuses names the same paths ([`write_error`]).

mod boost;
mod change;
mod degrade;
mod effect;
mod enforcement;
mod entry;
mod explain;
mod paging;

use std::ops::RangeInclusive;
use std::time::Duration;

use prost_types::FieldMask;
use tidegate_core::key::{KeyRef, parse_name, parse_variant};
use tidegate_core::policy::{Kind, Policy, WriteError, Written, whole_name};
use tonic::Status;

use super::InvalidField;
use crate::error::{self, Object};
use crate::v1;

pub use boost::{boost, wire_boost, wire_boosts_on};
pub use change::{ChangeFilters, change_filters, object_json, written_json};
pub use effect::{wire_changes, wire_effect};
pub use enforcement::{turned_switch, wire_enforcement, wire_switch};
pub use explain::{Explain, explain, wire_explanation};
pub use paging::Paging;

/// Longest [`WriteOptions::reason`], in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;
/// Longest [`WriteOptions::actor`], in bytes.
pub const MAX_ACTOR_BYTES: usize = 256;
/// Most paths of a mask: no object has as many.
const MOST_PATHS: usize = 64;

/// What names a policy object of a known kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// Its name; of an override, its id.
    pub name: &'a str,
    /// A model's variant; empty for every other kind.
    pub variant: &'a str,
}

impl<'a> Id<'a> {
    /// What a request for reading or deleting names, in its fields `name_field` and `variant`. `variant` is empty where the
    /// kind has none.
    ///
    /// # Errors
    /// Names the field that cannot name anything.
    pub fn parse(name_field: &'static str, name: &'a str, variant: &'a str) -> Result<Self, InvalidField> {
        parse_name(name).map_err(|fault| InvalidField::new(name_field, fault.to_string()))?;
        parse_variant(variant).map_err(|fault| InvalidField::new("variant", fault.to_string()))?;
        Ok(Self { name, variant })
    }

    /// NOT_FOUND: there is no object of this kind and name.
    #[must_use]
    pub fn not_found(&self, kind: Kind) -> Status {
        error::not_found(object(kind), &whole_name(self.name, self.variant))
    }
}

/// A kind of policy object, as the core keeps it and as the wire shows it.
pub trait Entry: Clone + Send + Sync + Sized + 'static {
    /// Its message.
    type Wire: prost::Message + Send + Sync + 'static;

    /// Its kind; the kind's name is also the request's field that holds the message.
    const KIND: Kind;

    /// The message's fields that can change, all of them.
    const FIELDS: &'static [&'static str];

    /// What names it.
    fn id(&self) -> Id<'_>;

    /// Raised by every write.
    fn revision(&self) -> u64;

    /// What names the object of `wire`. Not checked: see [`create`] and [`find_for_update`].
    fn wire_id(wire: &Self::Wire) -> Id<'_>;

    /// The object of this name in `policy`.
    fn find<'p>(policy: &'p Policy, id: Id<'_>) -> Option<&'p Self>;

    /// The objects in `policy` in the order of their names: all, or those after `after`.
    fn list<'p>(policy: &'p Policy, after: Option<Id<'_>>) -> impl Iterator<Item = &'p Self>;

    /// An object of this name that states nothing else.
    fn named(id: Id<'_>) -> Self;

    /// Takes what stands at `path` from `wire`; whether there is such a path. A field that `wire` leaves out is cleared.
    ///
    /// # Errors
    /// Names the field whose value is malformed.
    fn set(&mut self, path: &str, wire: &Self::Wire) -> Result<bool, InvalidField>;

    /// Gives it a name of the server's making where the caller left that open and the kind allows it; whether it did. The
    /// name is free in `policy`.
    fn make_name(&mut self, _policy: &Policy) -> bool {
        false
    }

    /// The message.
    fn to_wire(&self) -> Self::Wire;

    /// As the core writes it.
    fn into_written(self) -> Written;

    /// What the core wrote; `None` where it is of another kind.
    fn from_written(written: Written) -> Option<Self>;
}

/// The object that a `Create` request shall make. Its name may be empty where the kind lets the server make one.
///
/// # Errors
/// Names the field that is missing or malformed; ranges are the core's to check.
pub fn create<E: Entry>(wire: Option<&E::Wire>) -> Result<E, InvalidField> {
    let wire = wire.ok_or_else(|| InvalidField::new(E::KIND.name(), "is required"))?;
    let mut entry = E::named(E::wire_id(wire));
    for path in E::FIELDS {
        entry.set(path, wire)?;
    }
    Ok(entry)
}

/// The object of `policy` that an `Update` request names, and the request's.
///
/// # Errors
/// INVALID_ARGUMENT where the request has no object or a name that cannot be one, NOT_FOUND.
pub fn find_for_update<'p, 'w, E: Entry>(
    policy: &'p Policy,
    wire: Option<&'w E::Wire>,
) -> Result<(&'p E, &'w E::Wire), Status> {
    let kind = E::KIND.name();
    let wire = wire.ok_or_else(|| InvalidField::new(kind, "is required"))?;
    let id = E::wire_id(wire);
    let name_field = if E::KIND == Kind::Override { "override_id" } else { "name" };
    let checked = Id::parse(name_field, id.name, id.variant);
    checked.map_err(|fault| InvalidField::new(format!("{kind}.{}", fault.field), fault.message))?;
    let found = E::find(policy, id).ok_or_else(|| id.not_found(E::KIND))?;
    Ok((found, wire))
}

/// `current` with the fields of `wire` that `mask` names; all that can change where it names none, or `*`.
///
/// # Errors
/// Names `update_mask` where it has a path that the object does not have or that cannot change, else the field whose value
/// is malformed.
pub fn update<E: Entry>(current: &E, wire: &E::Wire, mask: Option<&FieldMask>) -> Result<E, InvalidField> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    if paths.len() > MOST_PATHS {
        return Err(InvalidField::new("update_mask", format!("must have at most {MOST_PATHS} paths")));
    }
    let mut entry = current.clone();
    for path in paths.iter().map(String::as_str).filter(|path| *path != "*") {
        if !entry.set(path, wire)? {
            // A path comes from a stranger: its beginning is enough to find it.
            let path: String = path.chars().take(64).collect();
            return Err(InvalidField::new("update_mask", format!("names {path:?}, which is no field that can change")));
        }
    }
    if paths.is_empty() || paths.iter().any(|path| path == "*") {
        for path in E::FIELDS {
            entry.set(path, wire)?;
        }
    }
    Ok(entry)
}

/// How to write, within its bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The revision that the object must have.
    pub expected_revision: Option<u64>,
    /// Change nothing, answer as if.
    pub dry_run: bool,
    /// Why; at most [`MAX_REASON_BYTES`].
    pub reason: String,
    /// Who, as the caller claims; at most [`MAX_ACTOR_BYTES`].
    pub actor: String,
}

impl WriteOptions {
    /// The options of an `Update` or a `Delete`; none are the defaults.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the field that is too long.
    pub fn parse(wire: Option<&v1::WriteOptions>) -> Result<Self, Status> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        bounded("options.reason", &wire.reason, MAX_REASON_BYTES)?;
        bounded("options.actor", &wire.actor, MAX_ACTOR_BYTES)?;
        let expected_revision = wire.expected_revision;
        let (reason, actor) = (wire.reason.clone(), wire.actor.clone());
        Ok(Self { expected_revision, dry_run: wire.dry_run, reason, actor })
    }

    /// The options of a `Create`.
    ///
    /// # Errors
    /// As [`WriteOptions::parse`]; INVALID_ARGUMENT too where they expect a revision: there can be none.
    pub fn parse_for_create(wire: Option<&v1::WriteOptions>) -> Result<Self, Status> {
        let options = Self::parse(wire)?;
        if options.expected_revision.is_some_and(|revision| revision != 0) {
            return Err(InvalidField::new("options.expected_revision", "must be 0 or unset in a Create").into());
        }
        Ok(options)
    }
}

fn bounded(field: &'static str, text: &str, most: usize) -> Result<(), InvalidField> {
    if text.len() <= most {
        return Ok(());
    }
    Err(InvalidField::new(field, format!("must have at most {most} bytes")))
}

/// What a refused write answers.
#[must_use]
pub fn write_error(refused: &WriteError) -> Status {
    match refused {
        WriteError::Invalid { field, message } => error::invalid_field(field, message),
        WriteError::NotFound { kind, name } => error::not_found(object(*kind), name),
        WriteError::AlreadyExists { kind, name } => {
            let reason = match kind {
                Kind::Tier => error::TIER_EXISTS,
                Kind::Account => error::ACCOUNT_EXISTS,
                Kind::Model => error::MODEL_EXISTS,
                Kind::Override => error::OVERRIDE_EXISTS,
            };
            error::already_exists(reason, format!("{} {name:?} exists already", kind.name()))
        }
        WriteError::ScopeTaken { .. } => error::already_exists(error::OVERRIDE_SCOPE_TAKEN, refused.to_string()),
        WriteError::Stale { expected, actual } => error::stale_revision(*expected, *actual),
        WriteError::InUse { .. } => error::failed_precondition(error::TIER_IN_USE, refused.to_string()),
        WriteError::Full { .. } | WriteError::TooManyBoosts { .. } => {
            error::failed_precondition(error::POLICY_FULL, refused.to_string())
        }
    }
}

/// The filters of a list of limits.
///
/// # Errors
/// Names the filter that no key could match.
pub fn list_filters(wire: &v1::ListLimitsRequest) -> Result<(), InvalidField> {
    let checked = |field, fault: tidegate_core::key::NameError| InvalidField::new(field, fault.to_string());
    wire.account.as_deref().map(parse_name).transpose().map_err(|fault| checked("account", fault))?;
    wire.model.as_deref().map(parse_name).transpose().map_err(|fault| checked("model", fault))?;
    wire.variant.as_deref().map(parse_variant).transpose().map_err(|fault| checked("variant", fault))?;
    Ok(())
}

/// How often a watch looks, where its request does not say.
const DEFAULT_WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a watch may be told to look.
const WATCH_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// The interval of a watch of limits, its filters checked.
///
/// # Errors
/// Names the filter that no key could match, or `interval` where it is outside 100 ms to 1 min.
pub fn watch_interval(wire: &v1::WatchLimitsRequest) -> Result<Duration, InvalidField> {
    let v1::WatchLimitsRequest { account, model, variant, interval } = wire.clone();
    list_filters(&v1::ListLimitsRequest { account, model, variant, ..v1::ListLimitsRequest::default() })?;
    let Some(interval) = interval else { return Ok(DEFAULT_WATCH_INTERVAL) };
    let interval = super::time::duration(&interval, "interval")?;
    if WATCH_INTERVALS.contains(&interval) {
        return Ok(interval);
    }
    Err(InvalidField::new("interval", "must be from 100 ms to 1 min"))
}

/// The limit key on the wire.
#[must_use]
pub fn wire_limit_key(key: KeyRef<'_>) -> v1::LimitKey {
    v1::LimitKey { account: key.account().into(), model: key.model().into(), variant: key.variant().into() }
}

const fn object(kind: Kind) -> Object {
    match kind {
        Kind::Tier => Object::Tier,
        Kind::Account => Object::Account,
        Kind::Model => Object::Model,
        Kind::Override => Object::Override,
    }
}

#[cfg(test)]
mod tests;
