//! Which floors, ceilings and laws apply in a simulation: those that `serve` would resolve.

use std::path::Path;

use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Policy, Resolved};
use tidegate_core::time::Timestamp;
use tidegate_server::config;
use tidegate_sim::policy::KeyRules;
use tidegate_sim::report::Limits;
use tidegate_sim::workload::KeyName;

use crate::failure::Failure;
use crate::output::remark;

/// Policy and forecast as a server would have them.
pub(super) struct Rulebook {
    policy: Policy,
    forecast: ForecastDefaults,
}

impl Rulebook {
    /// Of a server that nobody configured.
    pub(super) fn built_in() -> Self {
        Self { policy: Policy::built_in(), forecast: ForecastDefaults::default() }
    }

    /// Of `serve --config FILE`. Warns of what `serve` would warn of.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let config = config::check(path).map_err(|problems| Failure::Usage(problems.to_string()))?;
        for warning in &config.warnings {
            remark(&format!("{}: {warning}", path.display()));
        }
        Ok(Self { policy: config.policy, forecast: config.process.forecast })
    }

    /// The forecast's settings.
    pub(super) fn forecast(&self) -> &ForecastDefaults {
        &self.forecast
    }

    /// What applies to each key for the whole run: as resolved where limits adapt, else fixed at the floors.
    pub(super) fn rules(&self, keys: &[KeyName], limits: Limits) -> Vec<KeyRules> {
        let rules = keys.iter().map(|name| {
            let Resolved { bounds, law, .. } = self.resolve(name);
            let rules = KeyRules { bounds, law };
            match limits {
                Limits::Static => KeyRules::fixed(&rules.floors()),
                Limits::Adaptive => rules,
            }
        });
        rules.collect()
    }

    /// Says where a simulation cannot follow the configuration.
    pub(super) fn remark_on<'k>(&self, keys: impl Iterator<Item = &'k KeyName>) {
        let (mut refused, mut ending) = (0_u64, 0_u64);
        for resolved in keys.map(|name| self.resolve(name)) {
            refused += u64::from(resolved.refused.is_some());
            ending += u64::from(resolved.valid_until < Timestamp::MAX);
        }
        if refused > 0 {
            remark(&format!(
                "{refused} keys belong to accounts that this configuration refuses; they are played as if not"
            ));
        }
        if ending > 0 {
            remark(&format!("{ending} keys have overrides with an expiry; they hold for the whole simulation"));
        }
    }

    fn resolve(&self, name: &KeyName) -> Resolved {
        let key = KeyRef::new(&name.account, &name.model, "");
        let key = key.expect("the names of a trace are within the bounds of the wire");
        // Traces have no dates. At the beginning of time no override has expired.
        self.policy.resolve(key, Timestamp::ZERO)
    }
}
