//! The switch between enforcing limits and shadow, on the wire.

use tidegate_core::policy::{Enforcement, EnforcementSwitch};

use crate::convert::InvalidField;
use crate::v1;

/// What a tier or an account says; `None`: nothing.
///
/// # Errors
/// Names `field` where the value is unknown.
pub(super) fn said(field: &'static str, wire: i32) -> Result<Option<Enforcement>, InvalidField> {
    match v1::Enforcement::try_from(wire) {
        Ok(v1::Enforcement::Unspecified) => Ok(None),
        Ok(v1::Enforcement::On) => Ok(Some(Enforcement::On)),
        Ok(v1::Enforcement::Shadow) => Ok(Some(Enforcement::Shadow)),
        Err(_) => Err(InvalidField::new(field, "must be ENFORCEMENT_ON or ENFORCEMENT_SHADOW, or unset")),
    }
}

/// Where the global switch is to go. Its revision is the server's to set.
///
/// # Errors
/// Names `enforcement` where it is unset or unknown.
pub fn turned_switch(wire: &v1::UpdateEnforcementRequest) -> Result<EnforcementSwitch, InvalidField> {
    let refusal = || InvalidField::new("enforcement", "must be ENFORCEMENT_ON or ENFORCEMENT_SHADOW");
    let enforcement = said("enforcement", wire.enforcement).ok().flatten().ok_or_else(refusal)?;
    Ok(EnforcementSwitch { enforcement, revision: 0 })
}

/// As the wire has it; `None` is unspecified.
#[must_use]
pub const fn wire_enforcement(enforcement: Option<Enforcement>) -> v1::Enforcement {
    match enforcement {
        None => v1::Enforcement::Unspecified,
        Some(Enforcement::On) => v1::Enforcement::On,
        Some(Enforcement::Shadow) => v1::Enforcement::Shadow,
    }
}

/// The global switch.
#[must_use]
pub fn wire_switch(switch: EnforcementSwitch) -> v1::EnforcementSwitch {
    let enforcement = wire_enforcement(Some(switch.enforcement)).into();
    v1::EnforcementSwitch { enforcement, revision: switch.revision }
}
