//! Writes: a new policy, or an error that names the field and changes nothing.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use minicbor::{Decode, Encode};

use super::{Account, Boost, EnforcementSwitch, Model, Override, Policy, Scope, Tier, WindowBounds, merge};
use crate::key::KeyRef;
use crate::time::Timestamp;
use crate::window::Window;

/// Most accounts.
const MOST_ACCOUNTS: usize = 1_000_000;
/// Most tiers, models and overrides, of each.
const MOST_ENTRIES: usize = 10_000;
/// Most warnings that a write's answer carries.
const MOST_WARNINGS: usize = 100;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tier.
    Tier,
    /// An account.
    Account,
    /// A model.
    Model,
    /// An override.
    Override,
}

impl Kind {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// Its name: `tier`, `account`, `model` or `override`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tier => "tier",
            Self::Account => "account",
            Self::Model => "model",
            Self::Override => "override",
        }
    }
}

/// One entry of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Written {
    /// A tier.
    #[n(0)]
    Tier(#[n(0)] Tier),
    /// An account.
    #[n(1)]
    Account(#[n(0)] Account),
    /// A model.
    #[n(2)]
    Model(#[n(0)] Model),
    /// An override.
    #[n(3)]
    Override(#[n(0)] Override),
    /// A boost. It has no revision, and is created alone: it takes the place of an earlier one of its scope, window by
    /// window.
    #[n(4)]
    Boost(#[n(0)] Boost),
    /// The global switch: there is one always, so it is updated alone.
    #[n(5)]
    Enforcement(#[n(0)] EnforcementSwitch),
}

impl Written {
    /// What it is called, for people: its kind, a slash and its name (of an override, its id; of a boost, its scope), a
    /// model's variant behind another.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Tier(tier) => title(Kind::Tier, &tier.name, ""),
            Self::Account(account) => title(Kind::Account, &account.name, ""),
            Self::Model(model) => title(Kind::Model, &model.name, &model.variant),
            Self::Override(entry) => title(Kind::Override, &entry.id, ""),
            Self::Boost(Boost { scope, .. }) => {
                let parts = [Some(&scope.account), scope.model.as_ref(), scope.variant.as_ref()];
                parts.into_iter().flatten().fold(String::from("boost"), |title, part| format!("{title}/{part}"))
            }
            Self::Enforcement(_) => String::from("enforcement"),
        }
    }

    /// Of which kind it is; `None` for what cannot be deleted.
    const fn kind(&self) -> Option<Kind> {
        match self {
            Self::Tier(_) => Some(Kind::Tier),
            Self::Account(_) => Some(Kind::Account),
            Self::Model(_) => Some(Kind::Model),
            Self::Override(_) => Some(Kind::Override),
            Self::Boost(_) | Self::Enforcement(_) => None,
        }
    }

    const fn revision(&self) -> u64 {
        match self {
            Self::Tier(Tier { revision, .. })
            | Self::Account(Account { revision, .. })
            | Self::Model(Model { revision, .. })
            | Self::Override(Override { revision, .. })
            | Self::Boost(Boost { revision, .. })
            | Self::Enforcement(EnforcementSwitch { revision, .. }) => *revision,
        }
    }

    /// What `policy` has in its place.
    fn place_in(&self, policy: &Policy) -> Option<Self> {
        match self {
            Self::Tier(tier) => policy.find(Kind::Tier, &tier.name, ""),
            Self::Account(account) => policy.find(Kind::Account, &account.name, ""),
            Self::Model(model) => policy.find(Kind::Model, &model.name, &model.variant),
            Self::Override(entry) => policy.find(Kind::Override, &entry.id, ""),
            Self::Boost(boost) => policy.boost(&boost.scope).cloned().map(Written::Boost),
            Self::Enforcement(_) => Some(Self::Enforcement(policy.enforcement)),
        }
    }

    /// Whether it applies to `key`, under the `policy` that it is or was in.
    #[must_use]
    pub fn applies_to(&self, policy: &Policy, key: KeyRef<'_>) -> bool {
        match self {
            Self::Tier(tier) => policy.tier_of(key.account()) == tier.name,
            _ => self.concerns(key),
        }
    }

    /// Whether it may apply to `key`; if not, it surely does not. Unlike [`Written::applies_to`] it looks nothing up.
    #[must_use]
    pub fn concerns(&self, key: KeyRef<'_>) -> bool {
        match self {
            Self::Tier(_) => true,
            Self::Account(account) => account.name == key.account(),
            Self::Model(model) => model.name == key.model() && model.variant == key.variant(),
            Self::Override(entry) => entry.scope.covers(key),
            Self::Boost(boost) => boost.scope.covers(key),
            Self::Enforcement(_) => false,
        }
    }
}

/// A change of the policy. `expected_revision`, where given, must be the entry's revision, else nothing changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyWrite {
    /// Adds an entry that must not exist. Its `revision` is not looked at.
    Create(Written),
    /// Replaces an entry that must exist by this one, whole. Its `revision` is not looked at.
    Update {
        /// The entry as it shall be.
        entry: Written,
        /// The revision that the caller read.
        expected_revision: Option<u64>,
    },
    /// Removes an entry that must exist.
    Delete {
        /// Of which kind.
        kind: Kind,
        /// Its name; of an override, its id.
        name: String,
        /// A model's variant; empty otherwise.
        variant: String,
        /// The revision that the caller read.
        expected_revision: Option<u64>,
    },
}

impl PolicyWrite {
    /// What it writes, as [`Written::title`] calls it.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Create(entry) | Self::Update { entry, .. } => entry.title(),
            Self::Delete { kind, name, variant, .. } => title(*kind, name, variant),
        }
    }
}

/// A write that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteResult {
    /// The entry as it was; `None` where there was none.
    pub before: Option<Written>,
    /// The entry as it is now, with its revision; `None` once it was deleted.
    pub written: Option<Written>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

/// A merge in which the floor is above the ceiling, and wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The window.
    pub window: Window,
    /// What was merged, for people.
    pub with: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: merged with {}, the floor is above the ceiling; the floor wins", self.window.name(), self.with)
    }
}

/// Why a write was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The caller's: a field is out of range. Send another value.
    Invalid {
        /// Its path, such as `tier.bounds.prompt.floor_tpm`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The caller's: there is no such entry.
    NotFound {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The caller's: there is such an entry already. Update it.
    AlreadyExists {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// Somebody else wrote in between. Read again, then decide again.
    Stale {
        /// What the caller read.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The caller's: something else needs it.
    InUse {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What needs it.
        by: String,
    },
    /// The caller's: another override of the same scope is in force. Update or delete that one.
    ScopeTaken {
        /// Its id.
        id: String,
    },
    /// Ours: there are as many entries of this kind as there may be.
    Full {
        /// Of which kind.
        kind: Kind,
        /// How many there may be.
        most: usize,
    },
    /// Ours: as many scopes are boosted as may be. Wait until boosts have been over for an hour.
    TooManyBoosts {
        /// How many there may be.
        most: usize,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, message } => write!(f, "{field} {message}"),
            Self::NotFound { kind, name } => write!(f, "there is no {} {name:?}", kind.name()),
            Self::AlreadyExists { kind, name } => write!(f, "the {} {name:?} exists already", kind.name()),
            Self::Stale { expected, actual } => write!(f, "the revision is {actual}, not {expected}"),
            Self::InUse { kind, name, by } => write!(f, "the {} {name:?} is used by {by}", kind.name()),
            Self::ScopeTaken { id } => write!(f, "the override {id:?} covers the same scope"),
            Self::Full { kind, most } => write!(f, "there are {most} {}s already, the most there may be", kind.name()),
            Self::TooManyBoosts { most } => write!(f, "{most} scopes are boosted already, the most there may be"),
        }
    }
}

impl core::error::Error for WriteError {}

impl Policy {
    /// The policy after `write`, and what was written.
    ///
    /// # Errors
    /// [`WriteError`]; this policy is as it was either way.
    pub fn apply(&self, write: PolicyWrite, now: Timestamp) -> Result<(Self, WriteResult), WriteError> {
        let mut next = self.clone();
        next.write(write, now).map(|result| (next, result))
    }

    /// [`Policy::apply`] in place: cheaper for a policy that nobody shares, as when a file is read.
    ///
    /// # Errors
    /// [`WriteError`], and nothing changed.
    pub fn write(&mut self, write: PolicyWrite, now: Timestamp) -> Result<WriteResult, WriteError> {
        let before = match &write {
            PolicyWrite::Create(entry) | PolicyWrite::Update { entry, .. } => entry.place_in(self),
            PolicyWrite::Delete { kind, name, variant, .. } => self.find(*kind, name, variant),
        };
        let written = match write {
            PolicyWrite::Create(entry) => {
                self.check(&entry, now)?;
                let gone = entry.kind().map_or(0, |kind| self.gone[kind as usize]);
                Some(self.put(entry, &Expect::Absent { gone }, now)?)
            }
            PolicyWrite::Update { entry, expected_revision } => {
                self.check(&entry, now)?;
                Some(self.put(entry, &Expect::Present(expected_revision), now)?)
            }
            PolicyWrite::Delete { kind, name, variant, expected_revision } => {
                self.delete(kind, &name, &variant, expected_revision)?;
                let gone = &mut self.gone[kind as usize];
                *gone = (*gone).max(before.as_ref().map_or(0, Written::revision));
                None
            }
        };
        self.revision += 1;
        let warnings = written.as_ref().map(|written| self.warnings(written)).unwrap_or_default();
        Ok(WriteResult { before, written, warnings })
    }

    /// The entry of this kind and name; `variant` is a model's, and empty otherwise.
    #[must_use]
    pub fn find(&self, kind: Kind, name: &str, variant: &str) -> Option<Written> {
        match kind {
            Kind::Tier => self.tiers.get(name).cloned().map(Written::Tier),
            Kind::Account => self.accounts.get(name).map(|account| Written::Account(account.as_ref().clone())),
            Kind::Model => {
                let key = (String::from(name), String::from(variant));
                self.models.get(&key).cloned().map(Written::Model)
            }
            Kind::Override => self.overrides.get(name).cloned().map(Written::Override),
        }
    }

    fn put(&mut self, entry: Written, expect: &Expect, now: Timestamp) -> Result<Written, WriteError> {
        Ok(match entry {
            Written::Tier(tier) => {
                let old = self.tiers.get(&tier.name).map(|tier| tier.revision);
                let revision = expect.next(Kind::Tier, &tier.name, old, self.tiers.len(), MOST_ENTRIES)?;
                let tier = Tier { revision, ..tier };
                Arc::make_mut(&mut self.tiers).insert(tier.name.clone(), tier.clone());
                Written::Tier(tier)
            }
            Written::Account(account) => {
                let old = self.accounts.get(account.name.as_str());
                let (old, before) = (old.map(|old| old.revision), old.and_then(|old| old.enforcement));
                let revision = expect.next(Kind::Account, &account.name, old, self.accounts.len(), MOST_ACCOUNTS)?;
                self.count_shadow(before, account.enforcement);
                let account = Account { revision, ..account };
                Arc::make_mut(&mut self.accounts).insert(account.name.as_str().into(), Arc::new(account.clone()));
                Written::Account(account)
            }
            Written::Model(model) => {
                let key = (model.name.clone(), model.variant.clone());
                let old = self.models.get(&key).map(|model| model.revision);
                let revision = expect.next(
                    Kind::Model,
                    &whole_name(&model.name, &model.variant),
                    old,
                    self.models.len(),
                    MOST_ENTRIES,
                )?;
                let model = Model { revision, ..model };
                Arc::make_mut(&mut self.models).insert(key, model.clone());
                Written::Model(model)
            }
            Written::Override(entry) => {
                let old = self.overrides.get(&entry.id).map(|old| (old.revision, old.scope.clone()));
                let old_revision = old.as_ref().map(|(revision, _)| *revision);
                let revision =
                    expect.next(Kind::Override, &entry.id, old_revision, self.overrides.len(), MOST_ENTRIES)?;
                let entry = Override { revision, ..entry };
                if let Some((_, scope)) = old {
                    self.unlink(&scope, &entry.id);
                }
                Arc::make_mut(&mut self.by_scope).insert(entry.scope.clone(), entry.id.clone());
                Arc::make_mut(&mut self.overrides).insert(entry.id.clone(), entry.clone());
                Written::Override(entry)
            }
            // A boost is there or not as time goes by: creating it and replacing it are one write.
            Written::Boost(boost) => {
                let expected = if let Expect::Present(expected) = expect { *expected } else { None };
                Written::Boost(self.put_boost(&boost, expected, now)?)
            }
            Written::Enforcement(switch) => {
                let actual = self.enforcement.revision;
                if let Expect::Present(Some(expected)) = *expect
                    && expected != actual
                {
                    return Err(WriteError::Stale { expected, actual });
                }
                self.enforcement = EnforcementSwitch { revision: actual + 1, ..switch };
                Written::Enforcement(self.enforcement)
            }
        })
    }

    fn delete(&mut self, kind: Kind, name: &str, variant: &str, expected: Option<u64>) -> Result<(), WriteError> {
        let expect = Expect::Present(expected);
        match kind {
            Kind::Tier => {
                expect.next(kind, name, self.tiers.get(name).map(|tier| tier.revision), 0, 1)?;
                let by = if name == self.default_tier {
                    Some(String::from("accounts that name no tier"))
                } else {
                    let user = self.accounts.values().find(|account| account.tier == name);
                    user.map(|account| format!("account {:?}", account.name))
                };
                if let Some(by) = by {
                    return Err(WriteError::InUse { kind, name: name.into(), by });
                }
                Arc::make_mut(&mut self.tiers).remove(name);
            }
            Kind::Account => {
                expect.next(kind, name, self.accounts.get(name).map(|account| account.revision), 0, 1)?;
                let gone = Arc::make_mut(&mut self.accounts).remove(name);
                self.count_shadow(gone.and_then(|gone| gone.enforcement), None);
            }
            Kind::Model => {
                let key = (String::from(name), String::from(variant));
                let old = self.models.get(&key).map(|model| model.revision);
                expect.next(kind, &whole_name(name, variant), old, 0, 1)?;
                Arc::make_mut(&mut self.models).remove(&key);
            }
            Kind::Override => {
                let old = self.overrides.get(name).map(|old| (old.revision, old.scope.clone()));
                expect.next(kind, name, old.as_ref().map(|(revision, _)| *revision), 0, 1)?;
                if let Some((_, scope)) = old {
                    self.unlink(&scope, name);
                }
                Arc::make_mut(&mut self.overrides).remove(name);
            }
        }
        Ok(())
    }

    fn unlink(&mut self, scope: &Scope, id: &str) {
        // A later override of the same scope may have taken the place of this one.
        if self.by_scope.get(scope).is_some_and(|known| known == id) {
            Arc::make_mut(&mut self.by_scope).remove(scope);
        }
    }

    /// The tier that an account has, or would have.
    fn tier_of(&self, account: &str) -> &str {
        let account = self.accounts.get(account).map(|account| account.tier.as_str());
        account.filter(|tier| !tier.is_empty()).unwrap_or(&self.default_tier)
    }

    /// Merges of the entry with another, where the floor wins over the ceiling: a tier with each model and each override, a
    /// model with each tier, an override and an account with the tier. At most [`MOST_WARNINGS`].
    fn warnings(&self, written: &Written) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut look = |sources: [Option<&WindowBounds>; 4], with: &dyn Fn() -> String| {
            for window in Window::ALL {
                if warnings.len() < MOST_WARNINGS && merge(&sources, window).1 {
                    warnings.push(Warning { window, with: with() });
                }
            }
        };
        match written {
            Written::Tier(tier) => {
                look([None, None, None, Some(&tier.bounds)], &|| String::from("the built-in bounds"));
                for model in self.models.values() {
                    look([None, None, Some(&model.bounds), Some(&tier.bounds)], &|| format!("model {:?}", model.name));
                }
                for entry in self.overrides.values().filter(|entry| self.tier_of(&entry.scope.account) == tier.name) {
                    look([Some(&entry.bounds), None, None, Some(&tier.bounds)], &|| format!("override {:?}", entry.id));
                }
                for entry in &tier.models {
                    let model = self.models.get(&(entry.model.clone(), entry.variant.clone()));
                    let model = model.map(|model| &model.bounds);
                    look([None, Some(&entry.bounds), model, Some(&tier.bounds)], &|| {
                        format!("its own bounds for model {:?}", entry.model)
                    });
                }
            }
            Written::Model(model) => {
                for tier in self.tiers.values() {
                    look([None, None, Some(&model.bounds), Some(&tier.bounds)], &|| format!("tier {:?}", tier.name));
                }
            }
            Written::Override(entry) => {
                let bounds = self.tiers.get(self.tier_of(&entry.scope.account)).map(|tier| &tier.bounds);
                look([Some(&entry.bounds), None, None, bounds], &|| String::from("its account's tier"));
            }
            Written::Account(account) => {
                let bounds = self.tiers.get(self.tier_of(&account.name)).map(|tier| &tier.bounds);
                for entry in self.overrides.values().filter(|entry| entry.scope.account == account.name) {
                    look([Some(&entry.bounds), None, None, bounds], &|| format!("override {:?}", entry.id));
                }
            }
            Written::Boost(_) | Written::Enforcement(_) => {}
        }
        warnings
    }
}

fn title(kind: Kind, name: &str, variant: &str) -> String {
    format!("{}/{}", kind.name(), whole_name(name, variant))
}

/// A name as people read it: a model's, with its variant where it has one.
#[must_use]
pub fn whole_name(name: &str, variant: &str) -> String {
    if variant.is_empty() { name.into() } else { format!("{name}/{variant}") }
}

/// Whether the entry must be there.
enum Expect {
    /// It must not; `gone` is the greatest revision that a deleted entry of its kind had.
    Absent {
        gone: u64,
    },
    Present(Option<u64>),
}

impl Expect {
    /// The entry's revision after the write, if the entry is as expected and there is room for it.
    fn next(&self, kind: Kind, name: &str, old: Option<u64>, count: usize, most: usize) -> Result<u64, WriteError> {
        match (self, old) {
            (Self::Absent { .. }, Some(_)) => Err(WriteError::AlreadyExists { kind, name: name.into() }),
            (Self::Absent { .. }, None) if count >= most => Err(WriteError::Full { kind, most }),
            (Self::Present(_), None) => Err(WriteError::NotFound { kind, name: name.into() }),
            (Self::Present(Some(expected)), Some(actual)) if *expected != actual => {
                Err(WriteError::Stale { expected: *expected, actual })
            }
            (Self::Absent { gone }, None) => Ok(gone + 1),
            (Self::Present(_), Some(actual)) => Ok(actual + 1),
        }
    }
}
