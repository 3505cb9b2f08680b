//! The truth ledger: what the tokens really were, when they really happened, against the limit in force.
//!
//! It may exceed the limit by forecast error and by limits that fell, and by nothing else; it says by how much. Prompt
//! tokens happen at the admission, generated ones evenly from the admission to the last token. The excess is sampled at
//! every second.

use std::collections::BTreeMap;

use crate::ledger::{Key, Tokens, WINDOWS};

/// A window's length in microseconds.
const WINDOW: u64 = 60_000_000;
/// Microseconds between two samples.
const STEP: u64 = 1_000_000;

#[derive(Debug, Default)]
struct KeyTruth {
    admitted: Vec<Admitted>,
    /// Effective limits, as the answers stated them: (microsecond, one per window).
    limits: Vec<(u64, Tokens)>,
}

#[derive(Clone, Copy, Debug)]
struct Admitted {
    at: u64,
    until: u64,
    tokens: Tokens,
}

impl Admitted {
    /// Tokens of one window that happened in `(now - 60 s, now]`.
    fn within(&self, window: usize, now: u64) -> u128 {
        let tokens = u128::from(self.tokens[window]);
        let edge = now.saturating_sub(WINDOW);
        if window < 2 || self.until <= self.at {
            let happened = if window < 2 { self.at } else { self.until };
            return if happened <= now && (happened > edge || now < WINDOW) { tokens } else { 0 };
        }
        let overlap = self.until.min(now).saturating_sub(self.at.max(edge));
        tokens * u128::from(overlap) / u128::from(self.until - self.at)
    }
}

/// The largest excess over the limit in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excess {
    /// Tokens above the limit; 0 where it was never exceeded.
    pub tokens: u64,
    /// The same, in permille of the limit.
    pub permille: u64,
    /// When it was largest, microseconds.
    pub at: u64,
    /// Seconds sampled, and those of them with an excess.
    pub seconds: u64,
    /// Sampled seconds with an excess.
    pub seconds_over: u64,
}

/// Books true tokens when they happen.
#[derive(Debug, Default)]
pub struct TruthLedger {
    keys: BTreeMap<Key, KeyTruth>,
}

impl TruthLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the effective limits that an answer of this microsecond stated, an ALLOW's or a denial's; in order of time.
    pub fn limits(&mut self, key: &Key, at: u64, limits: Tokens) {
        self.keys.entry(key.clone()).or_default().limits.push((at, limits));
    }

    /// Books an admitted request: its true tokens, and the microseconds from its admission to its last token.
    pub fn admitted(&mut self, key: &Key, at: u64, duration: u64, tokens: Tokens) {
        self.keys.entry(key.clone()).or_default().admitted.push(Admitted { at, until: at + duration, tokens });
    }

    /// The largest excess of each window, over all keys.
    #[must_use]
    pub fn excess(&self) -> [Excess; 3] {
        let mut worst = [Excess::default(); 3];
        for truth in self.keys.values() {
            truth.sample(&mut worst);
        }
        worst
    }

    /// One line for people, such as `prompt 0 (0.0 %), uncached_prompt 0 (0.0 %), generated 812 (2.2 %, 31 of 3600 s)`.
    #[must_use]
    pub fn statement(&self) -> String {
        let excess = self.excess();
        let parts: Vec<String> = WINDOWS
            .iter()
            .zip(excess)
            .map(|(window, Excess { tokens, permille, seconds, seconds_over, .. })| {
                let (percent, tenth) = (permille / 10, permille % 10);
                format!("{window} {tokens} ({percent}.{tenth} % of the limit, {seconds_over} of {seconds} s)")
            })
            .collect();
        parts.join(", ")
    }
}

impl KeyTruth {
    fn sample(&self, worst: &mut [Excess; 3]) {
        let mut admitted = self.admitted.clone();
        admitted.sort_by_key(|request| request.at);
        let (Some(first), Some(end)) = (admitted.first(), admitted.iter().map(|request| request.until).max()) else {
            return;
        };
        let mut active: Vec<Admitted> = Vec::new();
        let (mut next, mut limit_index) = (0, 0);
        let mut now = first.at.next_multiple_of(STEP);
        while now <= end + STEP {
            while next < admitted.len() && admitted[next].at <= now {
                active.push(admitted[next]);
                next += 1;
            }
            active.retain(|request| request.until + WINDOW > now);
            while self.limits.get(limit_index + 1).is_some_and(|(at, _)| *at <= now) {
                limit_index += 1;
            }
            if let Some((_, limits)) = self.limits.get(limit_index) {
                for window in 0..3 {
                    let used: u128 = active.iter().map(|request| request.within(window, now)).sum();
                    let over = u64::try_from(used.saturating_sub(limits[window].into())).unwrap_or(u64::MAX);
                    let worst = &mut worst[window];
                    worst.seconds += 1;
                    worst.seconds_over += u64::from(over > 0);
                    if over > worst.tokens {
                        let permille = u128::from(over) * 1000 / u128::from(limits[window].max(1));
                        worst.tokens = over;
                        worst.permille = u64::try_from(permille).unwrap_or(u64::MAX);
                        worst.at = now;
                    }
                }
            }
            now += STEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn ledger(limit: u64) -> (Key, TruthLedger) {
        let key: Key = ("a".into(), "m".into(), String::new());
        let mut ledger = TruthLedger::new();
        ledger.limits(&key, 0, [limit; 3]);
        (key, ledger)
    }

    #[test]
    fn one_token_too_many_is_stated() {
        let (key, mut truth) = ledger(1000);
        truth.admitted(&key, 10 * SECOND, 0, [600, 1, 0]);
        truth.admitted(&key, 69 * SECOND, 0, [400, 1, 0]);
        assert_eq!(truth.excess().map(|excess| excess.tokens), [0, 0, 0]);
        truth.admitted(&key, 69 * SECOND + 1, 0, [0, 0, 1001]);
        truth.admitted(&key, 68 * SECOND, 0, [1, 0, 0]);
        let excess = truth.excess();
        assert_eq!(excess.map(|excess| excess.tokens), [1, 0, 1]);
        assert_eq!(excess[0].at, 69 * SECOND);
        assert_eq!(excess[0].seconds_over, 1, "at 70 s the first 600 have left");
    }

    #[test]
    fn long_answers_count_as_they_are_produced() {
        let (key, mut truth) = ledger(600);
        // 1,200 tokens in 120 s are 600 in any minute.
        truth.admitted(&key, 0, 120 * SECOND, [1, 1, 1200]);
        assert_eq!(truth.excess()[2].tokens, 0);
        truth.admitted(&key, 30 * SECOND, 10 * SECOND, [1, 1, 300]);
        assert_eq!(truth.excess()[2].tokens, 300, "{}", truth.statement());
        assert_eq!(truth.excess()[2].permille, 500);
    }

    #[test]
    fn a_limit_that_fell_shows() {
        let (key, mut truth) = ledger(1000);
        truth.admitted(&key, 10 * SECOND, 0, [900, 0, 0]);
        truth.admitted(&key, 20 * SECOND, 5 * SECOND, [0, 0, 0]);
        truth.limits(&key, 15 * SECOND, [850; 3]);
        assert_eq!(truth.excess()[0].tokens, 50);
    }
}
