//! `CheckAndReserveRequest` into what the core decides on.

use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::key::{KeyError, KeyRef};

use super::{InvalidField, time, token_count};
use crate::v1;
use crate::wire::CheckAndReserve;
use crate::wire::read::Names;

/// Longest request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 64;

/// The reservation TTLs that a server grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlRange {
    /// The shortest that a request may name.
    pub shortest: Duration,
    /// What a request that names none gets; within the range.
    pub default: Duration,
    /// The longest that a request may name.
    pub longest: Duration,
}

impl Default for TtlRange {
    /// 1 s, 10 min, 1 h.
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            default: Duration::from_secs(600),
            longest: Duration::from_secs(3_600),
        }
    }
}

/// The request as the core reads it. The view is not part of it: see [`view`].
///
/// # Errors
/// Names the first field that is missing, malformed or out of range.
pub fn check_and_reserve<'a>(wire: impl Into<CheckAndReserve<'a>>, ttl: TtlRange) -> Result<Request<'a>, InvalidField> {
    let wire = wire.into();
    let key = named(wire.key)?;
    if wire.prompt_tokens == 0 {
        return Err(InvalidField::new("prompt_tokens", "must be at least 1"));
    }
    let prompt_tokens = token_count(wire.prompt_tokens, "prompt_tokens")?;
    if wire.cached_prompt_tokens.is_some_and(|cached| cached > prompt_tokens) {
        return Err(InvalidField::new("cached_prompt_tokens", "must be at most prompt_tokens"));
    }
    let max_generated_tokens =
        wire.max_generated_tokens.map(|count| token_count(count, "max_generated_tokens")).transpose()?;
    Ok(Request {
        key,
        prompt_tokens,
        cached_prompt_tokens: wire.cached_prompt_tokens,
        max_generated_tokens,
        service_tier: service_tier(wire.service_tier)?,
        request_id: request_id(wire.request_id)?,
        ttl: reservation_ttl(wire.reservation_ttl.as_ref(), ttl)?,
    })
}

/// The limit key of any request that has one in its field `key`.
///
/// # Errors
/// Names `key` where it is missing, else the first of its names that is not well formed.
pub fn limit_key(wire: Option<&v1::LimitKey>) -> Result<KeyRef<'_>, InvalidField> {
    named(wire.map(Names::from))
}

fn named(names: Option<Names<'_>>) -> Result<KeyRef<'_>, InvalidField> {
    let names = names.ok_or_else(|| InvalidField::new("key", "is required"))?;
    KeyRef::new(names.account, names.model, names.variant).map_err(|KeyError { field, error }| {
        let path = match field {
            "account" => "key.account",
            "model" => "key.model",
            _ => "key.variant",
        };
        InvalidField::new(path, error.to_string())
    })
}

/// How much of the answer the caller wants; FULL where it says nothing.
///
/// # Errors
/// Names `view` where its value is not known.
pub fn view(wire: i32) -> Result<v1::ResponseView, InvalidField> {
    match v1::ResponseView::try_from(wire) {
        Ok(v1::ResponseView::Unspecified) => Ok(v1::ResponseView::Full),
        Ok(view) => Ok(view),
        Err(_) => Err(unknown("view", wire)),
    }
}

fn service_tier(wire: i32) -> Result<ServiceTier, InvalidField> {
    match v1::ServiceTier::try_from(wire) {
        Ok(v1::ServiceTier::Unspecified | v1::ServiceTier::Standard) => Ok(ServiceTier::Standard),
        Ok(v1::ServiceTier::Priority) => Ok(ServiceTier::Priority),
        Err(_) => Err(unknown("service_tier", wire)),
    }
}

fn request_id(wire: &str) -> Result<Option<&str>, InvalidField> {
    if wire.is_empty() {
        return Ok(None);
    }
    if wire.len() > MAX_REQUEST_ID_BYTES || !wire.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidField::new("request_id", "must be 1 to 64 printable ASCII characters without space"));
    }
    Ok(Some(wire))
}

fn reservation_ttl(wire: Option<&prost_types::Duration>, range: TtlRange) -> Result<Duration, InvalidField> {
    let Some(wire) = wire else { return Ok(range.default) };
    let ttl = time::duration(wire, "reservation_ttl")?;
    if ttl < range.shortest || ttl > range.longest {
        let message = format!("must be {:?} to {:?}", range.shortest, range.longest);
        return Err(InvalidField::new("reservation_ttl", message));
    }
    Ok(ttl)
}

fn unknown(field: &'static str, value: i32) -> InvalidField {
    InvalidField::new(field, format!("has the unknown value {value}"))
}
