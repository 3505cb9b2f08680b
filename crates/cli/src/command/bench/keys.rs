//! Which limit key each call names, and what it is called.

use clap::ValueEnum;

/// Bytes of an account's name: that of an organisation's id.
pub(super) const ACCOUNT_BYTES: usize = 24;
/// Bytes of a model's name: a long one.
pub(super) const MODEL_BYTES: usize = 32;

/// Digits in which names differ, at their ends.
const ACCOUNT_DIGITS: usize = 8;

/// How often each key comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Draw {
    /// All equally
    Uniform,
    /// The n-th about 1/n times as often as the first
    Zipf,
}

/// Pseudo-random keys, the same in every run (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Keys {
    state: u64,
    keys: u32,
    draw: Draw,
}

impl Keys {
    /// Of `keys` keys, at least one; another sequence for each `seed`.
    pub(super) fn new(keys: u32, draw: Draw, seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0xd134_2543_de82_ef95), keys, draw }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From zero on, below one.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The number of the next key, from zero on.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the number of keys")]
    pub(super) fn draw(&mut self) -> u32 {
        match self.draw {
            Draw::Uniform => (((self.next() >> 32) * u64::from(self.keys)) >> 32) as u32,
            // Rank r with probability ln(1 + 1/r) / ln(keys + 1), which is Zipf's law of exponent 1 but for the first ranks (0.69 instead
            // of 1 for the first), and takes one exponential instead of a search in a table that does not fit the cache.
            Draw::Zipf => {
                let rank = (self.unit() * f64::from(self.keys).ln_1p()).exp_m1();
                (rank as u32).min(self.keys - 1)
            }
        }
    }
}

/// What a key's account and model are called where nothing was written over them yet.
pub(super) fn names() -> ([u8; ACCOUNT_BYTES], [u8; MODEL_BYTES]) {
    (*b"account-0000000000000000", *b"large-language-model-instruct-00")
}

/// Writes the number of a key into its account's name: its last eight hexadecimal digits.
pub(super) fn write_account(name: &mut [u8], key: u32) {
    for (at, digit) in name.iter_mut().rev().take(ACCOUNT_DIGITS).enumerate() {
        *digit = hex(key >> (4 * at));
    }
}

/// Writes which of sixteen models a key is about into the model's name.
pub(super) fn write_model(name: &mut [u8], key: u32) {
    if let Some(digit) = name.last_mut() {
        *digit = hex(key);
    }
}

fn hex(digit: u32) -> u8 {
    b"0123456789abcdef"[(digit & 15) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_keys_apart() {
        let (mut account, mut model) = names();
        write_account(&mut account, 0xdead_beef);
        write_model(&mut model, 0xdead_beef);
        assert_eq!(&account, b"account-00000000deadbeef");
        assert_eq!(&model, b"large-language-model-instruct-0f");
    }

    #[test]
    fn every_key_comes_up_and_none_beyond() {
        for draw in [Draw::Uniform, Draw::Zipf] {
            let mut seen = [0_u32; 10];
            let mut keys = Keys::new(10, draw, 1);
            for _ in 0..10_000 {
                seen[keys.draw() as usize] += 1;
            }
            assert!(seen.iter().all(|times| *times > 300), "{draw:?}: {seen:?}");
            assert_eq!(Keys::new(1, draw, 7).draw(), 0);
        }
        let mut zipf = Keys::new(1_000_000, Draw::Zipf, 1);
        let first = (0..100_000).filter(|_| zipf.draw() < 10).count();
        // ln(11) / ln(1,000,001) = 0.174
        assert!((16_500..18_300).contains(&first), "{first}");
    }
}
