//! The client of tidegate for gateways.
//!
//! A [`Client`] carries every call over one `Pipeline` stream: it matches answers to calls, opens the stream anew when it breaks,
//! and repeats what was not answered under the same request id or reservation id, so that nothing counts twice. What need not be
//! waited for (progress, settlements, releases) goes into an outbox, which sends the newest of it and never forgets a settlement
//! silently.
//!
//! The path of a call: [`Client`] → `calls.rs` (in line, in flight) → `outbound.rs` (onto the stream) → the server → `link.rs` (from
//! the stream) → `calls.rs` → the caller. `outbox.rs` says what becomes of several reports of one reservation.
//!
//! ```no_run
//! use tidegate_client::wire::{CheckAndReserveRequest, Decision, LimitKey, SettleRequest};
//! use tidegate_client::{Checked, Client};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tidegate = Client::new(&"http://127.0.0.1:7437".parse()?)?;
//! let key = LimitKey { account: "acme".into(), model: "large".into(), ..LimitKey::default() };
//! let request = CheckAndReserveRequest { key: Some(key), prompt_tokens: 12_000, ..CheckAndReserveRequest::default() };
//! if let Checked::Decided(decision) = tidegate.check_and_reserve(request).await?
//!     && decision.decision() == Decision::Allow
//! {
//!     // Forward the request; then:
//!     let used = Some(345);
//!     let reservation_id = decision.reservation_id;
//!     tidegate.settle_later(SettleRequest { reservation_id, generated_tokens: used, ..SettleRequest::default() })?;
//! }
//! tidegate.close().await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod backoff;
mod calls;
mod checked;
mod client;
mod failure;
#[cfg(test)]
mod fake;
mod link;
mod options;
mod outbound;
mod outbox;
mod request_id;
mod target;
mod ticket;

pub use checked::{Checked, OnUnavailable};
pub use client::{Client, NotMade};
pub use failure::{CallFailed, NotQueued, Refusal, Undelivered};
pub use options::Options;
pub use outbox::OutboxCounts;
pub use target::{Target, TargetError, with_sources};

/// The messages of `tidegate.v1`.
pub use tidegate_proto::v1 as wire;

#[cfg(test)]
mod tests {
    /// The README shows what the documentation above compiles.
    #[test]
    fn the_readme_has_the_example() {
        let readme = include_str!("../../../README.md");
        let example = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let shown = include_str!("lib.rs").lines().filter_map(|line| line.strip_prefix("//! ")).collect::<Vec<_>>();
        let example = example.lines().collect::<Vec<_>>();
        assert!(shown.windows(example.len()).any(|lines| lines == example), "{example:#?}");
    }
}
