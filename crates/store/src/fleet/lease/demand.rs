//! How much comes in, and how often the ledger was asked.

use std::time::Duration;

use tidegate_core::time::Timestamp;
use tidegate_core::window::{Tokens, Window};

/// Over which span what comes in is added up.
const SPAN: Duration = Duration::from_millis(200);
/// What is asked for covers one and a half of them: a lease until its renewal, and then some.
const COVERED: (u64, u64) = (3, 2);
/// What came in so many spans ago does not come any more.
const FORGET: u32 = 2;

/// Tokens asked for, admitted or not.
#[derive(Debug, Default)]
pub(super) struct Demand {
    began: Timestamp,
    current: Tokens,
    last: Tokens,
}

impl Demand {
    pub(super) fn add(&mut self, now: Timestamp, ask: &Tokens) {
        self.turn(now);
        for window in Window::ALL {
            self.current[window] = self.current[window].saturating_add(ask[window]);
        }
    }

    /// What is to be expected until the lease is renewed.
    pub(super) fn expected(&mut self, now: Timestamp) -> Tokens {
        self.turn(now);
        let (covered, spans) = COVERED;
        Tokens::from_fn(|window| self.current[window].max(self.last[window]).saturating_mul(covered) / spans)
    }

    fn turn(&mut self, now: Timestamp) {
        let elapsed = now.since(self.began);
        if elapsed >= SPAN {
            self.last = if elapsed < SPAN * FORGET { self.current } else { Tokens::default() };
            self.current = Tokens::default();
            self.began = now;
        }
    }
}

/// Calls in a row.
const BURST: u64 = 3;
/// One more after so many microseconds: with those in a row, at most twelve in any second.
const EVERY_MICROS: u64 = 111_000;

/// How often one key may be asked about.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// When as many as may be made in a row may be made again, microseconds.
    rested_at: u64,
}

impl Calls {
    pub(super) fn try_take(&mut self, now: Timestamp) -> bool {
        let now = now.as_micros();
        let rested_at = self.rested_at.max(now).saturating_add(EVERY_MICROS);
        let takes = rested_at <= now.saturating_add(BURST * EVERY_MICROS);
        if takes {
            self.rested_at = rested_at;
        }
        takes
    }
}
