//! Keys as real traffic has them: a few of them come up all the time.

use crate::durable::Draws;

/// Keys by their rank, so that the first is asked for most: Zipf's law, exponent 1.
#[derive(Debug)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Of so many keys, at least one.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let up_to = |rank: usize| {
            sum += 1.0 / (rank + 1) as f64;
            sum
        };
        Self((0..keys).map(up_to).collect())
    }

    /// So many keys, at least one, that are all asked for equally.
    #[must_use]
    pub fn even(keys: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let up_to = |rank: usize| (rank + 1) as f64;
        Self((0..keys).map(up_to).collect())
    }

    /// The rank of the next key, from zero on.
    pub fn draw(&self, draws: &mut Draws) -> usize {
        let at = draws.unit() * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}
