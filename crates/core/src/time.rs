//! Instants. The shell reads the clock once per call and passes the instant down; nothing in this crate reads one.

use core::time::Duration;

use minicbor::{Decode, Encode};

/// Microseconds in a second.
pub const MICROS_PER_SECOND: u64 = 1_000_000;

/// An instant: microseconds since the Unix epoch, on the clock of contract C15 (steps of the wall clock are not seen).
///
/// Microseconds, not milliseconds: an instant is cut down to its unit, and a coarser unit would let a charge leave its
/// window visibly early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The earliest instant.
    pub const ZERO: Self = Self(0);
    /// The latest instant.
    pub const MAX: Self = Self(u64::MAX);

    /// The instant `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The instant `millis` milliseconds after the Unix epoch; saturates.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// The instant `seconds` seconds after the Unix epoch; saturates.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    /// This instant plus `span`; saturates at [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// This instant plus so many microseconds; saturates.
    #[must_use]
    pub(crate) fn after_micros(self, micros: u32) -> Self {
        Self(self.0.saturating_add(micros.into()))
    }

    /// This instant minus `span`; saturates at [`Timestamp::ZERO`].
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }

    /// Time from `earlier` to this instant; zero where `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// `span` in microseconds, cut down; saturates at `u64::MAX`.
#[must_use]
pub fn micros(span: Duration) -> u64 {
    // In 64 bits, which is much cheaper than as_micros.
    span.as_secs().saturating_mul(MICROS_PER_SECOND).saturating_add(span.subsec_micros().into())
}
