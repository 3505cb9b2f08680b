//! The request ids of a client's calls: what makes a repeated `CheckAndReserve` safe.

use std::sync::atomic::{AtomicU64, Ordering};

/// Random bytes at the start of each id: no two clients share them.
const RANDOM: usize = 10;

/// Ids of 32 hexadecimal digits: 80 random bits of this client, then a number of 48 bits that counts its calls, so that a decision
/// needs no randomness of its own, which could be slow or fail.
#[derive(Debug)]
pub(crate) struct RequestIds {
    client: [u8; RANDOM],
    calls: AtomicU64,
}

impl RequestIds {
    /// Ids that no other client makes.
    ///
    /// # Errors
    /// Where the operating system has no randomness to give.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut client = [0; RANDOM];
        getrandom::fill(&mut client)?;
        Ok(Self { client, calls: AtomicU64::new(0) })
    }

    /// The next one.
    pub(crate) fn next(&self) -> String {
        use std::fmt::Write as _;

        let call = self.calls.fetch_add(1, Ordering::Relaxed) & ((1 << 48) - 1);
        let mut id = String::with_capacity(32);
        for byte in self.client {
            write!(id, "{byte:02x}").expect("a string takes everything");
        }
        write!(id, "{call:012x}").expect("a string takes everything");
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_digits_and_never_the_same() {
        let (one, other) = (RequestIds::new().expect("randomness"), RequestIds::new().expect("randomness"));
        let ids = [one.next(), one.next(), other.next(), other.next()];
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), 4);
    }
}
