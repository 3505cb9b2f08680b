//! Reservation ids: opaque, unguessable, self-contained (contract C6).
//!
//! An id says everything that another replica needs to settle it: limit key, admission time, TTL, what was reserved, and its
//! number. A keyed checksum (SipHash-2-4, 128 bits) over all of it keeps strangers from making one. Written in URL-safe
//! base64 without padding: at most 1,124 characters.

use std::hash::Hasher;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip128::{Hasher128, SipHasher24};
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::time::{Timestamp, micros};
use tidegate_core::window::Tokens;

/// Longest id that is looked at, in bytes.
pub const MAX_ID_BYTES: usize = 1_200;

/// First byte of every id: the version of the layout.
const VERSION: u8 = 1;
/// Bytes of the checksum, at the end.
const CHECKSUM_BYTES: usize = 16;

/// The key of the checksum. A durable or shared store keeps it; the memory store draws one at each start.
#[derive(Clone, Copy)]
pub struct ChecksumKey([u8; 16]);

impl ChecksumKey {
    /// The key made of these 16 secret bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As a shared store keeps it.
    pub(crate) fn to_hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// What [`ChecksumKey::to_hex`] wrote; `None` where it was not.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }

    /// A hash of a request id and its limit key that nobody without the key of the checksum can aim at.
    pub(crate) fn name(&self, key: KeyRef<'_>, request_id: &str) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for name in [key.account(), key.model(), key.variant(), request_id] {
            hasher.write(name.as_bytes());
            // No name contains a zero byte.
            hasher.write_u8(0);
        }
        hasher.finish128().as_u128()
    }

    fn checksum(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// The key with which ids are made, and the one with which they were made before, if that was another.
#[derive(Clone, Copy)]
pub(crate) struct ChecksumKeys {
    pub(crate) newest: ChecksumKey,
    before: Option<ChecksumKey>,
}

impl From<ChecksumKey> for ChecksumKeys {
    fn from(newest: ChecksumKey) -> Self {
        Self { newest, before: None }
    }
}

impl ChecksumKeys {
    /// With another key from now on; ids made with this one stay good.
    pub(crate) fn followed_by(&self, newest: ChecksumKey) -> Self {
        if newest.0 == self.newest.0 { *self } else { Self { newest, before: Some(self.newest) } }
    }

    /// What `id` says, if it was made with one of them.
    pub(crate) fn decode(&self, id: &str) -> Option<(LimitKey, Ticket)> {
        decode(&self.newest, id).or_else(|| self.before.as_ref().and_then(|before| decode(before, id)))
    }
}

/// The id of `ticket`, a reservation of `key`.
#[must_use]
pub fn encode(secret: &ChecksumKey, key: KeyRef<'_>, ticket: &Ticket) -> String {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(VERSION);
    for name in [key.account(), key.model(), key.variant()] {
        // A name has at most 256 bytes.
        bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    for number in [
        ticket.admitted_at.as_micros(),
        micros(ticket.ttl),
        ticket.number.incarnation,
        ticket.number.sequence,
        ticket.reserved.prompt,
        ticket.reserved.uncached_prompt,
        ticket.reserved.generated,
    ] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    let checksum = secret.checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What `id` says, if it was made with `secret`.
#[must_use]
pub fn decode(secret: &ChecksumKey, id: &str) -> Option<(LimitKey, Ticket)> {
    if id.len() > MAX_ID_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
    let (signed, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    // One comparison of two integers: its time says nothing about where they differ.
    if secret.checksum(signed) ^ u128::from_be_bytes(checksum.try_into().ok()?) != 0 {
        return None;
    }
    let mut rest = signed.strip_prefix(&[VERSION])?;
    let key = KeyRef::new(name(&mut rest)?, name(&mut rest)?, name(&mut rest)?).ok()?.to_owned();
    let ticket = Ticket {
        admitted_at: Timestamp::from_micros(number(&mut rest)?),
        ttl: Duration::from_micros(number(&mut rest)?),
        number: Number { incarnation: number(&mut rest)?, sequence: number(&mut rest)? },
        reserved: Tokens::new(number(&mut rest)?, number(&mut rest)?, number(&mut rest)?),
    };
    rest.is_empty().then_some((key, ticket))
}

fn name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (name, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = after;
    std::str::from_utf8(name).ok()
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            number: Number { incarnation: 7, sequence: u64::MAX },
            admitted_at: Timestamp::from_micros(1_700_000_000_123_456),
            ttl: Duration::from_micros(600_000_001),
            reserved: Tokens::new(1 << 40, 0, 17),
        }
    }

    #[test]
    fn the_longest_names_fit_the_bound() {
        let long = "é".repeat(128);
        let key = KeyRef::new(&long, &long, &long).expect("256 bytes");
        let secret = ChecksumKey::new([3; 16]);
        let id = encode(&secret, key, &ticket());
        assert!(id.len() <= MAX_ID_BYTES, "{}", id.len());
        assert_eq!(decode(&secret, &id), Some((key.to_owned(), ticket())));
    }

    #[test]
    fn no_character_can_be_changed_and_no_other_key_fits() {
        let key = KeyRef::new("acme", "opus", "").expect("well formed");
        let secret = ChecksumKey::new([3; 16]);
        let id = encode(&secret, key, &ticket());
        assert!(decode(&ChecksumKey::new([4; 16]), &id).is_none());
        for at in 0..id.len() {
            for other in ["A", "z", "_", "!", ""] {
                let mut forged = id.clone();
                forged.replace_range(at..=at, other);
                assert!(forged == id || decode(&secret, &forged).is_none(), "{forged}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_refused_without_a_panic(id in ".{0,1300}") {
            prop_assert!(decode(&ChecksumKey::new([3; 16]), &id).is_none());
        }
    }
}
