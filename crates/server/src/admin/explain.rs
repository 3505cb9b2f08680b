//! Why limits are what they are.

mod sentences;

use tidegate_core::law::history::Applied;
use tidegate_core::policy::Source;
use tidegate_core::window::Window;
use tidegate_proto::convert::admin::{self, Explain};
use tidegate_proto::convert::time;
use tidegate_proto::error::{self, Object};
use tidegate_proto::v1;
use tidegate_store::{KeyExplained, Store};
use tonic::Status;

use super::Admin;
use super::list::tier_of;
use sentences::Target;

impl<S: Store> Admin<S> {
    /// Explains the limits of a key; one that the store does not hold only where somebody names its account.
    pub(super) async fn explain(&self, wire: &v1::ExplainLimitRequest) -> Result<v1::ExplainLimitResponse, Status> {
        let asked = admin::explain(wire)?;
        let Explain { key, window, .. } = asked;
        let said = self.store.explain_limit(self.clock.now(), key).await;
        let policy = self.store.policy();
        let boosts = admin::wire_boosts_on(&policy, key, said.state.now);
        if !said.known && boosts.is_empty() && !is_named(&said) {
            return Err(error::not_found(Object::LimitKey, &key.to_string()));
        }
        let windows = Window::ALL.into_iter().filter(|one| window.is_none_or(|wanted| wanted == *one));
        Ok(v1::ExplainLimitResponse {
            windows: windows.map(|window| explanation(window, &said, asked.target_tpm)).collect(),
            key: Some(admin::wire_limit_key(key)),
            known: said.known,
            tier: tier_of(&policy, key).to_owned(),
            live_reservations: said.reservations as u64,
            boosts,
            sentences: sentences::of_key(&said, tier_of(&policy, key)),
        })
    }
}

/// Whether somebody configured the account, or made an override of it.
fn is_named(said: &KeyExplained) -> bool {
    let exception = |source| matches!(source, Source::KeyOverride | Source::ModelOverride | Source::AccountOverride);
    let mut origins = said.origins.iter().flat_map(|(_, origins)| [origins.floor.source, origins.ceiling.source]);
    said.resolved.configured || origins.any(exception)
}

fn explanation(window: Window, said: &KeyExplained, target_tpm: Option<u64>) -> v1::LimitExplanation {
    let state = &said.state;
    let explained = &state.windows[window];
    let applied = Applied {
        now: state.now,
        phase_seconds: state.phase_seconds,
        bounds: &said.resolved.bounds,
        params: &said.resolved.law,
        boosts: &said.resolved.boosts,
    };
    let target = target_tpm.map(|tpm| Target { tpm, after: state.course.reaches(window, tpm, &applied) });
    // An override that ends may move the limit before the law does.
    let override_ends = said.resolved.valid_until.since(state.now);
    v1::LimitExplanation {
        law_profile: said.law_profile.clone(),
        sentences: sentences::of_window(window, said, target.as_ref()),
        next_change_after: Some(time::wire_duration(state.epoch_closes_after.min(override_ends))),
        target_after: target.and_then(|target| target.after).map(time::wire_duration),
        ..admin::wire_explanation(window, explained, &said.origins[window], &said.pressure[window])
    }
}

#[cfg(test)]
mod tests;
