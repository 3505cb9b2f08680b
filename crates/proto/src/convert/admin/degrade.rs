//! What a tier says of a shared store that is away, on the wire.

use tidegate_core::policy::Degrade;

use crate::convert::InvalidField;
use crate::v1::DegradeMode;

/// What a tier says; `None`: nothing.
///
/// # Errors
/// Names `field` where the value is unknown.
pub(super) fn said_degrade(field: &'static str, wire: i32) -> Result<Option<Degrade>, InvalidField> {
    match DegradeMode::try_from(wire) {
        Ok(DegradeMode::Unspecified) => Ok(None),
        Ok(DegradeMode::Share) => Ok(Some(Degrade::Share)),
        Ok(DegradeMode::Closed) => Ok(Some(Degrade::Closed)),
        Ok(DegradeMode::Open) => Ok(Some(Degrade::Open)),
        Err(_) => Err(InvalidField::new(
            field,
            "must be DEGRADE_MODE_SHARE, DEGRADE_MODE_CLOSED or DEGRADE_MODE_OPEN, or unset",
        )),
    }
}

/// As the wire has it; `None` is unspecified.
pub(super) const fn wire_degrade(degrade: Option<Degrade>) -> DegradeMode {
    match degrade {
        None => DegradeMode::Unspecified,
        Some(Degrade::Share) => DegradeMode::Share,
        Some(Degrade::Closed) => DegradeMode::Closed,
        Some(Degrade::Open) => DegradeMode::Open,
    }
}
