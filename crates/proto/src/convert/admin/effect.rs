//! What a write does to limits, on the wire.

use tidegate_core::effect::{Effect, LimitChange};

use super::wire_limit_key;
use crate::convert;
use crate::v1;

/// The counts.
#[must_use]
pub const fn wire_effect(effect: &Effect) -> v1::WriteEffect {
    v1::WriteEffect {
        keys: effect.keys,
        limits_raised: effect.raised,
        limits_lowered: effect.lowered,
        limits_released: effect.released,
        gained_tpm: effect.gained_tpm,
        lost_tpm: effect.lost_tpm,
    }
}

/// The changes, in the same order.
#[must_use]
pub fn wire_changes(changes: &[LimitChange]) -> Vec<v1::LimitChange> {
    let wire = |change: &LimitChange| v1::LimitChange {
        key: Some(wire_limit_key(change.key.as_ref())),
        window: convert::window(change.window).into(),
        limit_before_tpm: change.limit_tpm.before,
        limit_after_tpm: change.limit_tpm.after,
        floor_before_tpm: change.floor_tpm.before,
        floor_after_tpm: change.floor_tpm.after,
        ceiling_before_tpm: change.ceiling_tpm.before,
        ceiling_after_tpm: change.ceiling_tpm.after,
    };
    changes.iter().map(wire).collect()
}
