//! Where a key's bounds come from: the same look-up as [`Policy::resolve`], told instead of merged. For people; a decision
//! never needs it.

use alloc::format;
use alloc::string::String;

use super::resolve::Found;
use super::{BUILT_IN_FLOORS, BUILT_IN_TIERS, PartialBounds, Policy};
use crate::key::KeyRef;
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

/// What kind of entry states a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An override of the key.
    KeyOverride,
    /// An override of the account on the model, all variants.
    ModelOverride,
    /// An override of the account.
    AccountOverride,
    /// The tier's bounds on the (model, variant).
    TierModel,
    /// The (model, variant).
    Model,
    /// The tier.
    Tier,
    /// The built-in default.
    BuiltIn,
}

impl Source {
    /// In the order in which they win.
    const ORDER: [Self; 6] =
        [Self::KeyOverride, Self::ModelOverride, Self::AccountOverride, Self::TierModel, Self::Model, Self::Tier];
}

/// Where one bound comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What kind of entry states it.
    pub source: Source,
    /// Its name or id; of a model, `name` or `name/variant`; empty for the built-in default.
    pub name: String,
    /// What it states, TPM.
    pub stated_tpm: u64,
    /// When it ends; `None`: when somebody changes it.
    pub expires_at: Option<Timestamp>,
    /// Why, as an override says; else empty.
    pub reason: String,
}

/// Where a window's bounds come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// The floor that applies.
    pub floor: Origin,
    /// The merged ceiling; it applies unless the floor is above it.
    pub ceiling: Origin,
}

impl Origins {
    /// Whether the floor is above the merged ceiling, and has taken its place.
    #[must_use]
    pub const fn floor_won(&self) -> bool {
        self.floor.stated_tpm > self.ceiling.stated_tpm
    }
}

impl Policy {
    /// Where the bounds of `key` at `now` come from, and the name of the law profile that moves its limits.
    #[must_use]
    pub fn origins(&self, key: KeyRef<'_>, now: Timestamp) -> (PerWindow<Origins>, String) {
        let found = self.found(key, now);
        let origins = PerWindow::from_fn(|window| Origins {
            floor: found.origin(window, BUILT_IN_FLOORS[window], |bounds| bounds.floor_tpm),
            ceiling: found.origin(window, BUILT_IN_FLOORS[window].saturating_mul(BUILT_IN_TIERS[0].1), |bounds| {
                bounds.ceiling_tpm
            }),
        });
        (origins, found.profile().into())
    }
}

impl Found<'_> {
    fn origin(&self, window: Window, built_in: u64, side: impl Fn(&PartialBounds) -> Option<u64>) -> Origin {
        let stated = |bounds: &super::WindowBounds| side(&bounds[window]);
        let mut sources = Source::ORDER.into_iter().zip(self.sources());
        let first = sources.find_map(|(source, bounds)| Some((source, bounds.and_then(&stated)?)));
        let (source, stated_tpm) = first.unwrap_or((Source::BuiltIn, built_in));
        let exception = match source {
            Source::KeyOverride => self.overrides[0],
            Source::ModelOverride => self.overrides[1],
            Source::AccountOverride => self.overrides[2],
            _ => None,
        };
        let name = match source {
            Source::TierModel | Source::Tier => self.tier.map(|tier| tier.name.clone()),
            Source::Model => self.model.map(|model| {
                if model.variant.is_empty() { model.name.clone() } else { format!("{}/{}", model.name, model.variant) }
            }),
            _ => exception.map(|entry| entry.id.clone()),
        };
        Origin {
            source,
            name: name.unwrap_or_default(),
            stated_tpm,
            expires_at: exception.and_then(|entry| entry.expires_at),
            reason: exception.map(|entry| entry.reason.clone()).unwrap_or_default(),
        }
    }
}
