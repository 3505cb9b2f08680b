//! Whether limits are enforced, or only decided: globally, for a tier, for an account.

use minicbor::{Decode, Encode};

use super::{Account, Policy, Tier};

/// What a denial by a limit does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Enforcement {
    /// It is answered.
    #[default]
    #[n(0)]
    On,
    /// It is counted and told beside an ALLOW.
    #[n(1)]
    Shadow,
}

impl Enforcement {
    /// Its name in the configuration, in metrics and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Shadow => "shadow",
        }
    }
}

/// The global switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnforcementSwitch {
    /// Where it stands. `Shadow` wins over every tier and account: it is the switch for an emergency.
    #[n(0)]
    pub enforcement: Enforcement,
    /// 1 at the start, one more with every write.
    #[n(1)]
    pub revision: u64,
}

impl Default for EnforcementSwitch {
    fn default() -> Self {
        Self { enforcement: Enforcement::On, revision: 1 }
    }
}

impl Policy {
    /// The same policy with the global switch at `enforcement`.
    #[must_use]
    pub const fn with_enforcement(mut self, enforcement: Enforcement) -> Self {
        self.enforcement.enforcement = enforcement;
        self
    }

    /// The global switch.
    #[must_use]
    pub const fn enforcement(&self) -> EnforcementSwitch {
        self.enforcement
    }

    /// How many tiers and how many accounts say `Shadow` for themselves. Costs a look at each tier.
    #[must_use]
    pub fn shadows(&self) -> (usize, usize) {
        let tiers = self.tiers.values().filter(|tier| tier.enforcement == Some(Enforcement::Shadow)).count();
        (tiers, self.shadow_accounts)
    }

    /// What applies where these are an account and its tier: `Shadow` where the global switch says so, else what the account
    /// says, else the tier, else `On`.
    pub(super) fn enforced(&self, account: Option<&Account>, tier: Option<&Tier>) -> Enforcement {
        if self.enforcement.enforcement == Enforcement::Shadow {
            return Enforcement::Shadow;
        }
        let account = account.and_then(|account| account.enforcement);
        account.or_else(|| tier.and_then(|tier| tier.enforcement)).unwrap_or_default()
    }

    /// Counts an account that is written anew, or goes.
    pub(super) fn count_shadow(&mut self, before: Option<Enforcement>, after: Option<Enforcement>) {
        let count = |said: Option<Enforcement>| usize::from(said == Some(Enforcement::Shadow));
        self.shadow_accounts = (self.shadow_accounts + count(after)).saturating_sub(count(before));
    }
}
