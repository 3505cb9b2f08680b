//! Wire types into core types and back: the only place that knows both.
//!
//! Nothing is validated twice: a wire message is parsed once into a type that cannot be out of range, or refused as an
//! [`InvalidField`] with the path of its first bad field. An enum value that this version does not know is refused where
//! it would change the decision.

pub mod admin;
pub mod answer;
pub mod pressure;
pub mod request;
pub mod settlement;
pub mod shadow;
pub mod time;

use std::borrow::Cow;

use tidegate_core::MAX_TOKENS;

pub use answer::{check_and_reserve_response, http_headers, settle_outcome, tokens, window_statuses};
pub use pressure::report_pressure;
pub use request::{TtlRange, check_and_reserve, limit_key, view};
pub use settlement::{Progress, Settlement, progress, release, settle};
pub use shadow::shadow_response;

use crate::v1;

/// A field of a request that was refused: nothing was changed, and the caller must send another value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct InvalidField {
    /// Its path from the request on, such as `key.account`.
    pub field: Cow<'static, str>,
    /// What it must be, such as `must not be empty`; it reads on from the field's path.
    pub message: Cow<'static, str>,
}

impl InvalidField {
    /// `field` is refused: it `message`.
    #[must_use]
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// The wire's name of a window.
#[must_use]
pub const fn window(window: tidegate_core::window::Window) -> v1::Window {
    match window {
        tidegate_core::window::Window::Prompt => v1::Window::Prompt,
        tidegate_core::window::Window::UncachedPrompt => v1::Window::UncachedPrompt,
        tidegate_core::window::Window::Generated => v1::Window::Generated,
    }
}

/// `count` if it is at most 2^40.
pub(crate) fn token_count(count: u64, field: &'static str) -> Result<u64, InvalidField> {
    if count > MAX_TOKENS {
        return Err(InvalidField::new(field, "must be at most 2^40"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
