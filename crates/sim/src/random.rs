//! A seeded generator, the same numbers on every machine.

/// Sebastiano Vigna's SplitMix64 (prng.di.unimi.it/splitmix64.c), public domain: tiny, seedable by any number, good enough
/// for made-up traffic.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator; any seed is as good as another.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below `bound`, which is at least 1. The bias is below bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        let high = (u128::from(self.next_u64()) * u128::from(bound)) >> 64;
        u64::try_from(high).expect("the upper half of a product of two u64 is below 2^64")
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}
