//! Reservation ids: opaque, unguessable, self-contained (contract C6).
//!
//! An id says everything that another replica needs to settle it: limit key, admission time, TTL, what was reserved, and its
//! number. A keyed checksum (SipHash-2-4, 128 bits) over all of it keeps strangers from making one. Written in URL-safe
//! base64 without padding: at most 1,130 characters.

use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip128::{Hasher128, SipHasher24};
use tidegate_core::key::{KeyRef, LimitKey, MAX_NAME_BYTES};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::time::{Timestamp, micros};
use tidegate_core::window::Tokens;

/// Longest id that is looked at, in bytes.
pub const MAX_ID_BYTES: usize = 1_200;

/// First byte of every id: the version of the layout.
const VERSION: u8 = 1;
/// Bytes of the checksum, at the end.
const CHECKSUM_BYTES: usize = 16;

/// Longest names of a key, in bytes, all three together.
const MAX_NAMES_BYTES: usize = 3 * MAX_NAME_BYTES;
/// Bytes beside the names: the version, their lengths, seven numbers, the checksum.
const OTHER_BYTES: usize = 1 + 3 * 2 + 7 * 8 + CHECKSUM_BYTES;

/// The key of the checksum. A durable or shared store keeps it; the memory store draws one at each start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChecksumKey([u8; 16]);

/// It is a secret.
impl fmt::Debug for ChecksumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChecksumKey(..)")
    }
}

/// The id of a reservation, not written out yet: that costs as much as the decision, and who writes it has a place for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationId {
    secret: ChecksumKey,
    ticket: Ticket,
}

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

impl ReservationId {
    /// The id of `ticket`.
    #[must_use]
    pub const fn new(secret: ChecksumKey, ticket: Ticket) -> Self {
        Self { secret, ticket }
    }

    /// How many characters it has for a reservation of `key`: at most 1,130.
    #[must_use]
    pub const fn len(key: KeyRef<'_>) -> usize {
        let names = key.account().len() + key.model().len() + key.variant().len();
        ((names + OTHER_BYTES) * 8).div_ceil(6)
    }

    /// Writes it, for a reservation of `key`, into `out`, which has [`ReservationId::len`] bytes.
    ///
    /// # Panics
    /// `out` has fewer.
    pub fn write(&self, key: KeyRef<'_>, out: &mut [u8]) {
        let Self { secret, ticket } = self;
        let mut bytes = [0; MAX_NAMES_BYTES + OTHER_BYTES];
        let mut length = 0;
        let mut push = |part: &[u8]| {
            bytes[length..length + part.len()].copy_from_slice(part);
            length += part.len();
        };
        push(&[VERSION]);
        for name in [key.account(), key.model(), key.variant()] {
            // A name has at most 256 bytes.
            push(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
            push(name.as_bytes());
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
            push(&number.to_be_bytes());
        }
        let (signed, rest) = bytes.split_at_mut(length);
        rest[..CHECKSUM_BYTES].copy_from_slice(&secret.checksum(signed).to_be_bytes());
        let written = URL_SAFE_NO_PAD.encode_slice(&bytes[..length + CHECKSUM_BYTES], out);
        written.expect("the caller has room for it");
    }

    /// The same, for a reservation of `key`, as text of its own.
    #[must_use]
    pub fn text(&self, key: KeyRef<'_>) -> String {
        let mut text = vec![0; Self::len(key)];
        self.write(key, &mut text);
        String::from_utf8(text).expect("base64 is ASCII")
    }
}

/// What `id` says, if it was made with `secret`.
#[must_use]
pub fn decode(secret: &ChecksumKey, id: &str) -> Option<(LimitKey, Ticket)> {
    let mut bytes = [0; MAX_ID_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()?;
    let (signed, checksum) = bytes[..length].split_at_checked(length.checked_sub(CHECKSUM_BYTES)?)?;
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
        let id = ReservationId::new(secret, ticket()).text(key);
        assert!(id.len() == 1_130 && id.len() <= MAX_ID_BYTES, "{}", id.len());
        assert_eq!(decode(&secret, &id), Some((key.to_owned(), ticket())));
    }

    #[test]
    fn no_character_can_be_changed_and_no_other_key_fits() {
        let key = KeyRef::new("acme", "opus", "").expect("well formed");
        let secret = ChecksumKey::new([3; 16]);
        let id = ReservationId::new(secret, ticket()).text(key);
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
