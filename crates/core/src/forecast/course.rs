//! What one stream is expected to produce from here on, and how sure that is.

/// Seconds after a report at which a course is known; straight lines in between. Dense where a course bends.
pub const MARKS: [u64; 10] = [1, 2, 3, 4, 6, 9, 14, 22, 36, 60];

/// What a stream is expected to produce from its last report on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Tokens until its end; at most 2^40.
    pub total: u64,
    /// Tokens within the coming minute if it does not end, by its pace and what it may produce at most; a key counts no
    /// stream for more than the guard allows one.
    pub reach: u64,
    /// Tokens that it can produce at most: what is left of its declared maximum, at most the limit.
    pub most: u64,
    /// Tokens until each of [`MARKS`], with [`Course::DIGITS`]. Never falls from one mark to the next.
    pub produced: [u64; MARKS.len()],
    /// Variance of that, tokens squared. Never falls either.
    pub variance: [u64; MARKS.len()],
}

impl Course {
    /// Binary digits behind the point of [`Course::produced`].
    pub const DIGITS: u32 = 16;

    /// The larger of two expectations, each of a mean of tokens and of their square with [`Course::DIGITS`], at a mark.
    pub(super) fn set(&mut self, mark: usize, left: (u64, u64), right: (u64, u64)) {
        let before = mark.checked_sub(1).map_or((0, 0), |before| (self.produced[before], self.variance[before]));
        self.produced[mark] = left.0.max(right.0).max(before.0);
        self.variance[mark] = variance(left).max(variance(right)).max(before.1);
    }
}

/// Of a mean and a mean square.
fn variance((mean, square): (u64, u64)) -> u64 {
    let mean_squared = (u128::from(mean) * u128::from(mean)) >> (2 * Course::DIGITS);
    let variance = u128::from(square >> Course::DIGITS).saturating_sub(mean_squared);
    u64::try_from(variance).unwrap_or(u64::MAX)
}
