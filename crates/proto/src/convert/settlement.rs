//! Progress, settlement and release: what is said about a reservation.

use super::{InvalidField, token_count};
use crate::v1;
use crate::wire::Settle;

/// Longest reservation id, in bytes.
pub const MAX_RESERVATION_ID_BYTES: usize = 1_200;

/// How far a running request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Not empty, at most [`MAX_RESERVATION_ID_BYTES`]; whether it is genuine is for the server to say.
    pub reservation_id: &'a str,
    /// Tokens generated since admission; at most 2^40.
    pub generated_tokens: u64,
}

/// The actual counts of a request that ended, each at most 2^40. More cached than prompt tokens are no error here: a
/// refused settlement would lose tokens that were really used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// Not empty, at most [`MAX_RESERVATION_ID_BYTES`]; whether it is genuine is for the server to say.
    pub reservation_id: &'a str,
    /// All prompt tokens; `None`: as admitted.
    pub prompt_tokens: Option<u64>,
    /// Those of them that the prefix cache served; `None`: as admitted.
    pub cached_prompt_tokens: Option<u64>,
    /// Tokens generated; `None`: as last reported, else 0.
    pub generated_tokens: Option<u64>,
}

/// A progress report, parsed.
///
/// # Errors
/// Names the field that is out of range.
pub fn progress(wire: &v1::ReportProgressRequest) -> Result<Progress<'_>, InvalidField> {
    Ok(Progress {
        reservation_id: reservation_id(&wire.reservation_id)?,
        generated_tokens: token_count(wire.generated_tokens, "generated_tokens")?,
    })
}

/// A settlement, parsed.
///
/// # Errors
/// Names the first field that is out of range.
pub fn settle<'a>(wire: impl Into<Settle<'a>>) -> Result<Settlement<'a>, InvalidField> {
    let wire = wire.into();
    let count = |count: Option<u64>, field| count.map(|count| token_count(count, field)).transpose();
    Ok(Settlement {
        reservation_id: reservation_id(wire.reservation_id)?,
        prompt_tokens: count(wire.prompt_tokens, "prompt_tokens")?,
        cached_prompt_tokens: count(wire.cached_prompt_tokens, "cached_prompt_tokens")?,
        generated_tokens: count(wire.generated_tokens, "generated_tokens")?,
    })
}

/// The reservation id of a release.
///
/// # Errors
/// Names `reservation_id` where it is empty or too long.
pub fn release(wire: &v1::ReleaseRequest) -> Result<&str, InvalidField> {
    reservation_id(&wire.reservation_id)
}

fn reservation_id(wire: &str) -> Result<&str, InvalidField> {
    if wire.is_empty() {
        return Err(InvalidField::new("reservation_id", "must not be empty"));
    }
    if wire.len() > MAX_RESERVATION_ID_BYTES {
        return Err(InvalidField::new("reservation_id", "must have at most 1200 bytes"));
    }
    Ok(wire)
}
