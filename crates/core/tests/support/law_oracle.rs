//! The law once more, as slowly and as literally as it can be written: one window, every minute closed by itself, wide
//! integers, no closed form, and nothing shared with `tidegate_core::law`. It exists to disagree with the real one.

use std::sync::LazyLock;

/// Tokens of each level from 0 on, up to 2^62: `floor(M[x mod 240] * 2^(floor(x/240) - 31))`.
static GRID: LazyLock<Vec<i128>> = LazyLock::new(|| {
    let mantissa = |i: u32| i128::from((2f64.powf(f64::from(i) / 240.0) * 2f64.powi(31)).round() as u32);
    (0..62 * 240).map(|x| mantissa(x % 240) * 2i128.pow(x / 240) / 2i128.pow(31)).collect()
});

fn tok(level: i128) -> i128 {
    GRID[usize::try_from(level).expect("levels of a window are within its bounds")]
}

/// The greatest level of at most `tokens`; none below one token.
fn lvl(tokens: i128) -> Option<i128> {
    let levels = GRID.partition_point(|&of_level| of_level <= tokens);
    levels.checked_sub(1).map(|level| i128::try_from(level).expect("a small number"))
}

/// Most growth in an epoch, tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cap {
    None,
    Tokens(i128),
    PermilleOfFloor(i128),
}

/// The parameters, by the letters of `docs/law.md`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) gamma_permille: i128,
    pub(crate) g: i128,
    pub(crate) gf: i128,
    pub(crate) a: i128,
    pub(crate) d: i128,
    pub(crate) r: i128,
    pub(crate) memory_epochs: i128,
    pub(crate) slow: i128,
    pub(crate) stop: i128,
    pub(crate) cap: Cap,
}

/// What one epoch saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tokens: i128,
    pub(crate) denied: bool,
    pub(crate) pressure: i128,
}

pub(crate) struct Oracle {
    pub(crate) numbers: Numbers,
    pub(crate) lo: i128,
    pub(crate) hi: i128,
    bottom: i128,
    top: i128,
    pub(crate) now: i128,
    pub(crate) p: i128,
    pub(crate) v: i128,
    pub(crate) q: i128,
    pub(crate) seen: Seen,
}

impl Oracle {
    pub(crate) fn new(numbers: Numbers, lo: i128, hi: i128) -> Self {
        let (bottom, top) = ends(lo, hi);
        Self { numbers, lo, hi, bottom, top, now: 0, p: bottom, v: bottom, q: bottom, seen: Seen::default() }
    }

    pub(crate) fn limit(&self) -> i128 {
        let tokens = tok(self.p);
        if tokens < self.lo {
            self.lo
        } else if tokens > self.hi {
            self.hi
        } else {
            tokens
        }
    }

    pub(crate) fn rebound(&mut self, lo: i128, hi: i128) {
        (self.lo, self.hi) = (lo, hi);
        let (bottom, top) = ends(lo, hi);
        (self.bottom, self.top) = (bottom, top);
        self.p = between(bottom, self.p, top);
        self.q = between(bottom, self.q, top);
        self.v = between(bottom, self.v, top + self.numbers.r);
    }

    pub(crate) fn wait_until(&mut self, epoch: i128) {
        while self.now < epoch {
            self.minute_passes();
        }
    }

    pub(crate) fn settle(&mut self, tokens: i128, pressure: i128) {
        self.seen.tokens += tokens;
        if pressure > self.seen.pressure {
            self.seen.pressure = pressure;
        }
    }

    pub(crate) fn deny(&mut self, ask: i128) {
        if ask <= self.limit() {
            self.seen.denied = true;
        }
    }

    /// Section 4 of the law, line by line.
    fn minute_passes(&mut self) {
        let n = self.numbers;
        let Seen { tokens, denied, pressure } = std::mem::take(&mut self.seen);
        let (bottom, top) = (self.bottom, self.top);

        let used = if tokens > tok(self.p) { tok(self.p) } else { tokens };
        let recommended = lvl(used * n.gamma_permille / 1000);

        // The reserve: up towards R above the recommendation, or down, not below it.
        let line = recommended.map(|r| r + n.r);
        self.v = match line {
            Some(line) if line > self.v + n.a => self.v + n.a,
            Some(line) if line > self.v - n.d => line,
            _ => self.v - n.d,
        };
        self.v = between(bottom, self.v, top + n.r);

        // The limit.
        let mut target = recommended;
        if denied && used > 0 && recommended.is_none_or(|r| r < self.v) {
            target = Some(self.v);
        }
        if let Some(target) = target.filter(|&target| target > self.p && used > 0) {
            // k = clamp((stop - pressure) / (stop - slow), 0, 1), as a fraction.
            let whole = n.stop - n.slow;
            let part = between(0, n.stop - pressure, whole);
            let slow_way = self.p + n.g * part / whole;
            let fast_way = self.p + n.gf * part / whole;
            let mut reach = if fast_way < self.q { fast_way } else { self.q };
            if slow_way > reach {
                reach = slow_way;
            }
            let room = match n.cap {
                Cap::None => None,
                Cap::Tokens(tokens) => Some(tokens),
                Cap::PermilleOfFloor(permille) => Some((self.lo * permille / 1000).max(1)),
            };
            if let Some(room) = room {
                let capped = lvl(tok(self.p) + room).expect("at least one token").max(self.p);
                reach = reach.min(capped);
            }
            self.p = if target < reach { target } else { reach };
        }
        if self.p > self.v {
            self.p = self.v;
        }
        self.p = between(bottom, self.p, top);

        // The memory.
        let forgotten = |epoch: i128| epoch * 240 / n.memory_epochs;
        let remembered = self.q - (forgotten(self.now + 1) - forgotten(self.now));
        let proven = recommended.map(|r| if r < self.p { r } else { self.p });
        self.q = [Some(bottom), Some(remembered), proven].into_iter().flatten().max().expect("bottom is there");

        self.now += 1;
    }
}

/// The lowest and the highest limit level; the highest is above the ceiling, which may lie between two levels.
fn ends(lo: i128, hi: i128) -> (i128, i128) {
    let level = |bound| lvl(bound).expect("a bound is at least one token");
    (level(lo), level(hi) + 1)
}

fn between(least: i128, value: i128, most: i128) -> i128 {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}
