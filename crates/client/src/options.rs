//! What a client may be told; every one has a default.

use std::time::Duration;

use crate::checked::OnUnavailable;

/// Most calls in flight on a stream: beyond, the server does not read it.
const MOST_IN_FLIGHT: usize = 1_024;
/// Most reservations in an outbox: 2^20, at up to 1.3 KiB each.
const MOST_IN_OUTBOX: usize = 1 << 20;
/// A duration outside of these is taken as the nearer one.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3_600);

/// How a [`Client`](crate::Client) behaves. A value outside a range is taken as the nearest one inside.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) decision_timeout: Duration,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) call_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) in_flight: usize,
    pub(crate) outbox: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            decision_timeout: Duration::from_millis(50),
            on_unavailable: OnUnavailable::Fail,
            call_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(10),
            in_flight: MOST_IN_FLIGHT,
            outbox: 16_384,
        }
    }
}

impl Options {
    /// How long a decision may take, waiting for a place, connecting and repeats included; 1 ms to 1 h, default 50 ms. The first call
    /// of a client connects too.
    #[must_use]
    pub fn decision_timeout(mut self, timeout: Duration) -> Self {
        self.decision_timeout = timeout.clamp(SHORTEST, LONGEST);
        self
    }

    /// What a decision is where tidegate does not answer in that time; default [`OnUnavailable::Fail`].
    #[must_use]
    pub const fn on_unavailable(mut self, policy: OnUnavailable) -> Self {
        self.on_unavailable = policy;
        self
    }

    /// How long the other calls that are waited for may take; 1 ms to 1 h, default 5 s.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout.clamp(SHORTEST, LONGEST);
        self
    }

    /// How long [`Client::close`](crate::Client::close) tries to deliver what is in the outbox; 1 ms to 1 h, default 10 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout.clamp(SHORTEST, LONGEST);
        self
    }

    /// Most calls in flight; 1 to 1,024, default 1,024. As many may be in line or in flight for callers who wait; beyond, a call waits
    /// for its place, within its time.
    #[must_use]
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls.clamp(1, MOST_IN_FLIGHT);
        self
    }

    /// Most reservations with something in the outbox; 1 to 2^20, default 16,384. Each takes less than 3 KiB, mostly its reservation
    /// id. Beyond, [`NotQueued::Full`](crate::NotQueued::Full).
    #[must_use]
    pub fn outbox(mut self, reservations: usize) -> Self {
        self.outbox = reservations.clamp(1, MOST_IN_OUTBOX);
        self
    }
}
