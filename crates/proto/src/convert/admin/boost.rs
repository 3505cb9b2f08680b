//! Boosts on the wire.

use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Boost, BoostLimit, Policy, Scope};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Window};

use crate::convert::{self, InvalidField, time};
use crate::v1;

/// What a `Boost` request asks for; ranges are the core's to check.
///
/// # Errors
/// Names the field that is missing or malformed.
pub fn boost(wire: &v1::BoostRequest) -> Result<Boost, InvalidField> {
    let required = |field| move || InvalidField::new(field, "is required");
    let v1::Scope { account, model, variant } = wire.scope.clone().ok_or_else(required("scope"))?;
    let limits = wire.limit_tpm.as_ref().ok_or_else(required("limit_tpm"))?;
    let expires_at = time::timestamp(wire.expire_time.as_ref().ok_or_else(required("expire_time"))?, "expire_time")?;
    let limits = PerWindow::new(limits.prompt, limits.uncached_prompt, limits.generated);
    let windows = limits.map(|limit_tpm| (limit_tpm > 0).then_some(BoostLimit { limit_tpm, expires_at }));
    Ok(Boost { scope: Scope { account, model, variant }, windows, revision: 0 })
}

/// The boosts of a scope.
#[must_use]
pub fn wire_boost(boost: &Boost) -> v1::BoostedScope {
    let Scope { account, model, variant } = boost.scope.clone();
    v1::BoostedScope {
        scope: Some(v1::Scope { account, model, variant }),
        windows: boosted(boost, Timestamp::ZERO),
        revision: boost.revision,
    }
}

/// The boosts that cover a key and have not ended at `now`.
#[must_use]
pub fn wire_boosts_on(policy: &Policy, key: KeyRef<'_>, now: Timestamp) -> Vec<v1::BoostedScope> {
    let live =
        policy.boosts_on(key).map(|boost| v1::BoostedScope { windows: boosted(boost, now), ..wire_boost(boost) });
    live.filter(|boost| !boost.windows.is_empty()).collect()
}

/// The windows whose boost ends after `now`.
fn boosted(boost: &Boost, now: Timestamp) -> Vec<v1::BoostedWindow> {
    let window = |window: Window| {
        let BoostLimit { limit_tpm, expires_at } = boost.windows[window].filter(|limit| limit.expires_at > now)?;
        let expire_time = Some(time::wire_timestamp(expires_at));
        Some(v1::BoostedWindow { window: convert::window(window).into(), limit_tpm, expire_time })
    };
    Window::ALL.into_iter().filter_map(window).collect()
}
