//! What a request states, and what it asks for.

use core::time::Duration;

use crate::decision::ServiceTier;
use crate::key::KeyRef;

/// A request as the gateway stated it, parsed: every field is within its range.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whose tokens.
    pub key: KeyRef<'a>,
    /// All prompt tokens; 1 to 2^40.
    pub prompt_tokens: u64,
    /// Those of them that the prefix cache serves; at most `prompt_tokens`. `None`: forecast.
    pub cached_prompt_tokens: Option<u64>,
    /// The most that the model may generate; at most 2^40. `None`: not declared.
    pub max_generated_tokens: Option<u64>,
    /// Standard or priority.
    pub service_tier: ServiceTier,
    /// The gateway's name for this attempt, 1 to 64 printable ASCII characters; makes a retried call safe.
    pub request_id: Option<&'a str>,
    /// How long the reservation lives without progress; 1 s to 1 h.
    pub ttl: Duration,
}
