//! Policy: who may have which limits. An immutable snapshot; a write makes a new one.
//!
//! Tiers, accounts, models and overrides are shared between snapshots kind by kind, so a write copies one kind only.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use crate::key::KeyRef;
use crate::law::{self, LawParams};
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};
use crate::{MAX_TOKENS, law::Bounds};

mod boost;
mod check;
mod degrade;
mod enforcement;
mod origin;
mod resolve;
mod restore;
#[cfg(test)]
mod tests;
mod write;

pub use boost::{Boost, BoostLimit};
pub use degrade::Degrade;
pub use enforcement::{Enforcement, EnforcementSwitch};
pub use origin::{Origin, Origins, Source};
pub use resolve::Resolved;
pub use restore::PolicyHead;
pub use write::{Kind, PolicyWrite, Warning, WriteError, WriteResult, Written, whole_name};

/// The built-in floors, TPM (spec row A2).
pub const BUILT_IN_FLOORS: PerWindow<u64> = PerWindow::new(3_600_000, 900_000, 36_000);
/// The built-in tiers, and their ceilings as multiples of the built-in floors.
pub const BUILT_IN_TIERS: [(&str, u64); 5] =
    [("tier-1", 3), ("tier-2", 6), ("tier-3", 12), ("tier-4", 18), ("enterprise", 50)];
/// The tier of unknown accounts, and of accounts that name none.
pub const BUILT_IN_DEFAULT_TIER: &str = "tier-1";
/// The profile that applies where none is named.
pub const DEFAULT_PROFILE: &str = "default";

/// Floor and ceiling as one source states them, TPM; each 1 to 2^40, or inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct PartialBounds {
    /// Lower bound; `None`: inherited.
    #[n(0)]
    pub floor_tpm: Option<u64>,
    /// Upper bound; `None`: inherited.
    #[n(1)]
    pub ceiling_tpm: Option<u64>,
}

/// What one source states for each window.
pub type WindowBounds = PerWindow<PartialBounds>;

impl PartialBounds {
    /// What is wrong with them: the side, and why.
    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let outside = |bound: Option<u64>| bound.is_some_and(|bound| !(1..=MAX_TOKENS).contains(&bound));
        if outside(self.floor_tpm) {
            Some(("floor_tpm", "must be 1 to 2^40"))
        } else if outside(self.ceiling_tpm) {
            Some(("ceiling_tpm", "must be 1 to 2^40"))
        } else if self.floor_tpm.zip(self.ceiling_tpm).is_some_and(|(floor, ceiling)| floor > ceiling) {
            Some(("floor_tpm", "must not be above ceiling_tpm"))
        } else {
            None
        }
    }
}

/// A tier's bounds for one model and variant.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ModelBounds {
    /// The model.
    #[n(0)]
    pub model: String,
    /// Its variant, exactly; empty for the regular one.
    #[n(1)]
    pub variant: String,
    /// What applies.
    #[n(2)]
    pub bounds: WindowBounds,
}

/// An account's spending tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Tier {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// What applies on every model.
    #[n(1)]
    pub bounds: WindowBounds,
    /// What applies on some models instead; at most 1,000.
    #[n(2)]
    pub models: Vec<ModelBounds>,
    /// The law profile; empty: `default`.
    #[n(3)]
    pub law_profile: String,
    /// Whether its accounts' limits are enforced; `None`: as the global switch says.
    #[n(4)]
    pub enforcement: Option<Enforcement>,
    /// 1 at creation, or more where entries of this kind were deleted before; one more with every write.
    #[n(5)]
    pub revision: u64,
    /// What decides for its accounts while the shared store is away; `None`: as the settings of each sidecar say.
    #[n(6)]
    pub degrade: Option<Degrade>,
}

/// A configured account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Account {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its tier; empty: the default tier.
    #[n(1)]
    pub tier: String,
    /// Whether every request is refused.
    #[n(2)]
    pub blocked: bool,
    /// Whether its limits are enforced; `None`: as its tier says.
    #[n(3)]
    pub enforcement: Option<Enforcement>,
    /// 1 at creation, or more where entries of this kind were deleted before; one more with every write.
    #[n(4)]
    pub revision: u64,
}

/// A model's bounds for every account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Model {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its variant, exactly; empty for the regular one.
    #[n(1)]
    pub variant: String,
    /// What applies.
    #[n(2)]
    pub bounds: WindowBounds,
    /// The law profile; empty: the tier's.
    #[n(3)]
    pub law_profile: String,
    /// 1 at creation, or more where entries of this kind were deleted before; one more with every write.
    #[n(4)]
    pub revision: u64,
}

/// Which keys of an account an override covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Scope {
    /// The account.
    #[n(0)]
    pub account: String,
    /// One model; `None`: all.
    #[n(1)]
    pub model: Option<String>,
    /// One variant, empty for the regular one; `None`: all. Needs a model.
    #[n(2)]
    pub variant: Option<String>,
}

impl Scope {
    /// Whether `key` is in it.
    fn covers(&self, key: KeyRef<'_>) -> bool {
        self.account == key.account()
            && self.model.as_deref().is_none_or(|model| model == key.model())
            && self.variant.as_deref().is_none_or(|variant| variant == key.variant())
    }
}

/// An operator's exception.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Override {
    /// Its name.
    #[n(0)]
    pub id: String,
    /// What it covers.
    #[n(1)]
    pub scope: Scope,
    /// What applies there.
    #[n(2)]
    pub bounds: WindowBounds,
    /// Why; for people.
    #[n(3)]
    pub reason: String,
    /// When it ends; `None`: when it is deleted.
    #[n(4)]
    pub expires_at: Option<Timestamp>,
    /// 1 at creation, or more where entries of this kind were deleted before; one more with every write.
    #[n(5)]
    pub revision: u64,
}

/// What happens to accounts that nobody configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownAccounts {
    /// They get the default tier.
    #[default]
    DefaultTier,
    /// They are refused.
    Forbidden,
}

/// Everything that bounds limits, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    revision: u64,
    default_tier: String,
    unknown_accounts: UnknownAccounts,
    profiles: Arc<BTreeMap<String, LawParams>>,
    tiers: Arc<BTreeMap<String, Tier>>,
    /// Shared entry by entry too: there may be a million, and a write copies the map.
    accounts: Arc<BTreeMap<Arc<str>, Arc<Account>>>,
    /// By name and variant.
    models: Arc<BTreeMap<(String, String), Model>>,
    overrides: Arc<BTreeMap<String, Override>>,
    /// The latest override of each scope, by id: the one that may be in force.
    by_scope: Arc<BTreeMap<Scope, String>>,
    boosts: Arc<BTreeMap<Scope, Boost>>,
    enforcement: EnforcementSwitch,
    /// Accounts that say `Shadow` for themselves.
    shadow_accounts: usize,
    /// Of each kind, the greatest revision of an entry that was deleted: what is created later begins above it, so that
    /// nobody takes it for the one that they read.
    gone: [u64; Kind::COUNT],
}

impl Policy {
    /// The policy of a server that nobody configured: the built-in tiers, no accounts, unknown accounts in `tier-1`.
    #[must_use]
    pub fn built_in() -> Self {
        let tiers = BUILT_IN_TIERS.map(|(name, multiple)| {
            let bounds = BUILT_IN_FLOORS
                .map(|floor| PartialBounds { floor_tpm: Some(floor), ceiling_tpm: Some(floor * multiple) });
            (name.into(), Tier { name: name.into(), bounds, revision: 1, ..Tier::default() })
        });
        let profiles = ["default", "published", "static"]
            .into_iter()
            .filter_map(|name| law::profile(name).map(|params| (name.into(), params)));
        Self {
            revision: 1,
            default_tier: BUILT_IN_DEFAULT_TIER.into(),
            unknown_accounts: UnknownAccounts::DefaultTier,
            profiles: Arc::new(profiles.collect()),
            tiers: Arc::new(tiers.into_iter().collect()),
            accounts: Arc::default(),
            models: Arc::default(),
            overrides: Arc::default(),
            by_scope: Arc::default(),
            boosts: Arc::default(),
            enforcement: EnforcementSwitch::default(),
            shadow_accounts: 0,
            gone: [0; Kind::COUNT],
        }
    }

    /// The same policy with another law profile, or with one replaced.
    #[must_use]
    pub fn with_profile(mut self, name: &str, params: LawParams) -> Self {
        Arc::make_mut(&mut self.profiles).insert(name.into(), params);
        self
    }

    /// The same policy with another treatment of unknown accounts.
    #[must_use]
    pub fn with_unknown_accounts(mut self, unknown_accounts: UnknownAccounts) -> Self {
        self.unknown_accounts = unknown_accounts;
        self
    }

    /// The same policy with another default tier; `None` if there is no such tier.
    #[must_use]
    pub fn with_default_tier(mut self, tier: &str) -> Option<Self> {
        self.tiers.contains_key(tier).then(|| {
            self.default_tier = tier.into();
            self
        })
    }

    /// Greater after every write.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The tier of unknown accounts, and of accounts that name none.
    #[must_use]
    pub fn default_tier(&self) -> &str {
        &self.default_tier
    }

    /// What happens to accounts that nobody configured.
    #[must_use]
    pub const fn unknown_accounts(&self) -> UnknownAccounts {
        self.unknown_accounts
    }

    /// The law profiles by name.
    #[must_use]
    pub fn profiles(&self) -> &BTreeMap<String, LawParams> {
        &self.profiles
    }

    /// The tiers by name.
    #[must_use]
    pub fn tiers(&self) -> &BTreeMap<String, Tier> {
        &self.tiers
    }

    /// The configured accounts by name.
    #[must_use]
    pub fn accounts(&self) -> &BTreeMap<Arc<str>, Arc<Account>> {
        &self.accounts
    }

    /// The models by name and variant.
    #[must_use]
    pub fn models(&self) -> &BTreeMap<(String, String), Model> {
        &self.models
    }

    /// The overrides by id, expired ones included until they are deleted.
    #[must_use]
    pub fn overrides(&self) -> &BTreeMap<String, Override> {
        &self.overrides
    }
}

/// A side merged over its sources, the most specific first.
fn first(
    sources: &[Option<&WindowBounds>],
    window: Window,
    side: impl Fn(&PartialBounds) -> Option<u64>,
) -> Option<u64> {
    sources.iter().flatten().find_map(|bounds| side(&bounds[window]))
}

/// Floor and ceiling merged over `sources`, the most specific first, with the built-in floor and ceiling last; and whether
/// the floor was above the ceiling, and won.
fn merge(sources: &[Option<&WindowBounds>], window: Window) -> (Bounds, bool) {
    let floor = first(sources, window, |bounds| bounds.floor_tpm).unwrap_or(BUILT_IN_FLOORS[window]);
    let multiple = BUILT_IN_TIERS[0].1;
    let ceiling =
        first(sources, window, |bounds| bounds.ceiling_tpm).unwrap_or(BUILT_IN_FLOORS[window].saturating_mul(multiple));
    let floor = floor.clamp(1, MAX_TOKENS);
    let merged = Bounds::new(floor, ceiling.clamp(floor, MAX_TOKENS)).expect("1 <= floor <= ceiling <= 2^40");
    (merged, floor > ceiling)
}
