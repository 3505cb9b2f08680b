//! Pure decisions of tidegate: may this limit key spend these tokens now?
//!
//! Everything here is a function of (state, input, now). The crate reads no clock, draws no random number and does no IO;
//! it is `no_std`, uses integers only, and never panics on input. The path of a decision, in files:
//!
//! [`key`] → [`policy`] (the bounds that apply) → [`law`] (today's limits) → [`forecast`] and [`ask`] (what the request
//! wants) → [`charges`] and [`holds`] (what the windows carry) → [`decision`] → [`headers`]. [`state`] ties them together,
//! one [`state::KeyState`] per limit key.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ask;
pub mod charges;
pub mod decision;
pub mod effect;
pub mod fleet;
pub mod forecast;
pub mod headers;
pub mod holds;
pub mod key;
pub mod law;
pub mod policy;
pub mod pressure;
mod record;
pub mod reservation;
mod room;
mod small_map;
pub mod state;
pub mod time;
pub mod window;

/// Largest token count that any call may state, and largest bound that a window may have: 2^40.
pub const MAX_TOKENS: u64 = 1 << 40;
