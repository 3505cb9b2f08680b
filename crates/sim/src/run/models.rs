//! What the keys of a model have in common: what is known of its requests, and the deployment that serves it.

use tidegate_core::forecast::{Model, Prior, Sample};
use tidegate_core::pressure::{DEFAULT_TTL, Deployment};
use tidegate_core::window::Tokens;

use super::player::{Moment, What};
use super::{Setup, at};
use crate::busy::{Load, Served};
use crate::policy::Surroundings;
use crate::workload::{Arrival, Workload};

/// The one that reports pressure.
const REPORTER: u128 = 1;

pub(super) struct Models<'a> {
    setup: &'a Setup<'a>,
    defaults: Prior,
    /// Of each key.
    of_key: Vec<usize>,
    models: Vec<Model>,
    /// What each deployment does, and what is known of it; none where nobody reports.
    busy: Vec<(Load, Deployment)>,
    /// Seconds that have ended.
    seconds: u64,
}

impl<'a> Models<'a> {
    pub(super) fn new(workload: &Workload, setup: &'a Setup<'a>) -> Self {
        let defaults = Prior::from_defaults(setup.forecast);
        let (of_key, count) = workload.models();
        let reporting = if setup.capacity.is_some() { count } else { 0 };
        Self {
            setup,
            defaults,
            of_key,
            models: vec![Model::new(&defaults); count],
            busy: (0..reporting).map(|_| Default::default()).collect(),
            seconds: 0,
        }
    }

    /// What is believed of a key of which nothing is known.
    pub(super) const fn defaults(&self) -> &Prior {
        &self.defaults
    }

    /// What a key sees of others.
    pub(super) fn around(&mut self, key: usize, at_ms: u64) -> Surroundings<'_> {
        let model = self.of_key[key];
        let pressure =
            self.busy.get_mut(model).map(|(_, deployment)| deployment.readings(at(at_ms))).unwrap_or_default();
        Surroundings { prior: self.models[model].prior(), pressure }
    }

    /// A request of this key has ended.
    pub(super) fn learn(&mut self, key: usize, sample: &Sample) {
        self.models[self.of_key[key]].on_settled(sample, &self.defaults);
    }

    /// A request of this key was refused, or admitted; `used` is what its windows hold.
    pub(super) fn on_decision(&mut self, key: usize, at_ms: u64, used: Option<Tokens>, admitted: Option<&Arrival>) {
        let Some((load, deployment)) = self.busy.get_mut(self.of_key[key]) else { return };
        if let Some(used) = used {
            deployment.on_decision(at(at_ms), used, &self.setup.rules[key].bounds);
        }
        if let Some(request) = admitted {
            load.admit(request);
        }
    }

    /// Every second that has ended by `moment` is reported. One that ends together with a stream's report ends first.
    pub(super) fn end_seconds(&mut self, moment: Moment) {
        let Some(capacity) = self.setup.capacity else { return };
        loop {
            let end_ms = (self.seconds + 1) * 1_000;
            if (Moment { at_ms: end_ms, what: What::Second, request: 0 }) > moment {
                return;
            }
            for (load, deployment) in &mut self.busy {
                let permille = load.end_second(capacity);
                let reported = deployment.report(at(end_ms), REPORTER, permille.map(Some), DEFAULT_TTL);
                reported.expect("there is one reporter");
            }
            self.seconds += 1;
        }
    }

    pub(super) fn finish(self) -> Vec<Served> {
        self.busy.into_iter().map(|(load, _)| load.finish()).collect()
    }
}
