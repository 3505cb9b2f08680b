//! Boosts on the wire.

use tidegate_core::policy::{Boost, BoostLimit, Scope};
use tidegate_core::window::{PerWindow, Window};

use super::WriteOptions;
use crate::convert::{self, InvalidField, time};
use crate::v1;

/// What a `Boost` request asks for; ranges are the core's to check.
///
/// # Errors
/// Names the field that is missing or malformed, or `options.expected_revision` where it is set: a boost has none.
pub fn boost(wire: &v1::BoostRequest, options: &WriteOptions) -> Result<Boost, InvalidField> {
    let required = |field| move || InvalidField::new(field, "is required");
    if options.expected_revision.is_some() {
        return Err(InvalidField::new("options.expected_revision", "must be unset: a boost has no revision"));
    }
    let v1::Scope { account, model, variant } = wire.scope.clone().ok_or_else(required("scope"))?;
    let limits = wire.limit_tpm.as_ref().ok_or_else(required("limit_tpm"))?;
    let expires_at = time::timestamp(wire.expire_time.as_ref().ok_or_else(required("expire_time"))?, "expire_time")?;
    let limits = PerWindow::new(limits.prompt, limits.uncached_prompt, limits.generated);
    let windows = limits.map(|limit_tpm| (limit_tpm > 0).then_some(BoostLimit { limit_tpm, expires_at }));
    Ok(Boost { scope: Scope { account, model, variant }, windows })
}

/// The boosts of a scope.
#[must_use]
pub fn wire_boost(boost: &Boost) -> v1::BoostedScope {
    let Scope { account, model, variant } = boost.scope.clone();
    let window = |window: Window| {
        let BoostLimit { limit_tpm, expires_at } = boost.windows[window]?;
        let expire_time = Some(time::wire_timestamp(expires_at));
        Some(v1::BoostedWindow { window: convert::window(window).into(), limit_tpm, expire_time })
    };
    v1::BoostedScope {
        scope: Some(v1::Scope { account, model, variant }),
        windows: Window::ALL.into_iter().filter_map(window).collect(),
    }
}
