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
/// What has come since the ledger was asked last comes on as fast; in a shorter time than this no pace is seen.
const SHORTEST: Duration = Duration::from_millis(5);

/// Tokens asked for, admitted or not.
#[derive(Debug, Default)]
pub(super) struct Demand {
    began: Timestamp,
    current: Tokens,
    last: Tokens,
    /// Since the ledger was asked last, and when that was.
    since: Tokens,
    asked_at: Timestamp,
}

impl Demand {
    pub(super) fn add(&mut self, now: Timestamp, ask: &Tokens) {
        self.turn(now);
        for window in Window::ALL {
            self.current[window] = self.current[window].saturating_add(ask[window]);
            self.since[window] = self.since[window].saturating_add(ask[window]);
        }
    }

    /// What is to be expected until the lease is renewed; called when the ledger is asked.
    pub(super) fn expected(&mut self, now: Timestamp) -> Tokens {
        self.turn(now);
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let elapsed = micros(now.since(self.asked_at).max(SHORTEST));
        let (covered, spans) = COVERED;
        let is_over = self.current == Tokens::default() && self.last == Tokens::default();
        let expected = Tokens::from_fn(|window| {
            if is_over {
                return 0;
            }
            // A key that was quiet and is busy now is so for less than a span.
            let at_this_pace = self.since[window].saturating_mul(micros(SPAN)) / elapsed;
            self.current[window].max(self.last[window]).max(at_this_pace).saturating_mul(covered) / spans
        });
        (self.since, self.asked_at) = (Tokens::default(), now);
        expected
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
