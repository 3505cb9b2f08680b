//! What is on disk, record by record: `docs/storage.md` describes it.
//!
//! Records are CBOR, by the numbers of the fields; the core's are described in `tidegate_core::record`.

use std::collections::BTreeMap;
use std::ops::Range;

use minicbor::{Decode, Decoder, Encode, decode};
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::policy::{Boost, Policy, Scope, Written};
use tidegate_core::state::Restored;
use tidegate_core::time::Timestamp;

use crate::Change;
use crate::memory::marks::OnDisk;
use crate::timers::Fingerprint;

/// The version of the layout that this program writes. It reads this one and every earlier one.
pub(crate) const VERSION: u32 = 1;

/// Where the records of [`super::batch::Table::Meta`] are.
pub(crate) mod place {
    pub(crate) const SECRETS: &[u8] = b"secrets";
    pub(crate) const PROGRESS: &[u8] = b"progress";
    pub(crate) const ENDINGS: &[u8] = b"endings";
    pub(crate) const POLICY: &[u8] = b"policy";
}

/// What is drawn once for a directory.
#[derive(Clone, Encode, Decode)]
pub(crate) struct Secrets {
    /// Of the layout.
    #[n(0)]
    pub(crate) version: u32,
    /// Of the fingerprints of keys.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) fingerprint: [u8; 16],
    /// Of the checksum in reservation ids.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) checksum: [u8; 16],
}

/// How far the writer has come; part of every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Progress {
    /// Everything up to this instant is here.
    #[n(0)]
    pub(crate) durable_at: Timestamp,
    /// The process that wrote.
    #[n(1)]
    pub(crate) incarnation: u64,
    /// Whether it has stopped in good order: then nothing is missing.
    #[n(2)]
    pub(crate) stopped: bool,
    /// Batches that were ever written here.
    #[n(3)]
    pub(crate) batches: u64,
    /// Keys in the table, about: room for them is made at once.
    #[n(4)]
    pub(crate) keys: u64,
}

/// Processes that were killed, and up to when what they did is here; the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Endings(pub(crate) Vec<Progress>);

impl Endings {
    /// A reservation that was admitted so much sooner than everything was here may still be missing: calls that were running.
    const RUNNING: std::time::Duration = std::time::Duration::from_secs(1);
    /// How long ids of the longest TTL are good, and how many processes can be killed within that time and count.
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(2 * 3_600);
    const MOST: usize = 1_000;

    pub(crate) fn push(&mut self, ending: Progress) {
        let stays = |earlier: &Progress| earlier.durable_at.after(Self::LONGEST) > ending.durable_at;
        self.0.retain(stays);
        if self.0.len() >= Self::MOST {
            self.0.remove(0);
        }
        self.0.push(ending);
    }

    /// Whether a reservation of this process, admitted then, may have been lost with it.
    pub(crate) fn may_have_lost(&self, incarnation: u64, admitted_at: Timestamp) -> bool {
        let ending = self.0.iter().find(|ending| ending.incarnation == incarnation);
        ending.is_some_and(|ending| admitted_at.after(Self::RUNNING) >= ending.durable_at)
    }
}

/// Where an entry of the policy is: its kind, and its names.
pub(crate) fn place_of(entry: &Written) -> Vec<u8> {
    let names = |kind: u8, names: &[&str]| encoded(&(kind, names));
    match entry {
        Written::Tier(tier) => names(0, &[&tier.name]),
        Written::Account(account) => names(1, &[&account.name]),
        Written::Model(model) => names(2, &[&model.name, &model.variant]),
        Written::Override(entry) => names(3, &[&entry.id]),
        Written::Boost(Boost { scope, .. }) => place_of_boost(scope),
        // It is in the head.
        Written::Enforcement(_) => names(5, &[]),
    }
}

pub(crate) fn place_of_boost(scope: &Scope) -> Vec<u8> {
    encoded(&(4_u8, &scope.account, &scope.model, &scope.variant))
}

/// What a write of policy changes of its entries, by their places; `None` where one is gone.
pub(crate) fn entry_writes(old: &Policy, new: &Policy, change: &Change) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let written = match (&change.before, &change.after) {
        (_, Some(entry)) => Some((place_of(entry), Some(encoded(entry)))),
        (Some(entry), None) => Some((place_of(entry), None)),
        (None, None) => None,
    };
    // A boost puts those that ended long ago out.
    let left: BTreeMap<_, ()> = new.boosts().map(|boost| (&boost.scope, ())).collect();
    let ended = old.boosts().filter(|boost| !left.contains_key(&boost.scope));
    written.into_iter().chain(ended.map(|boost| (place_of_boost(&boost.scope), None))).collect()
}

/// `record` as it is on disk.
pub(crate) fn encoded(record: &impl Encode<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_to(record, &mut bytes);
    bytes
}

pub(crate) fn encode_to(record: &impl Encode<()>, out: &mut Vec<u8>) {
    let written: Result<(), minicbor::encode::Error<std::convert::Infallible>> = minicbor::encode(record, out);
    written.expect("memory takes everything, and no type here refuses");
}

/// Where the head of a key is.
pub(crate) const fn place_of_key(key: Fingerprint) -> [u8; 16] {
    key.to_be_bytes()
}

/// Where a piece with items of a key is: behind its head, in the order of their numbers.
pub(crate) fn place_of_piece(key: Fingerprint, piece: u32) -> [u8; 20] {
    let mut place = [0; 20];
    place[..16].copy_from_slice(&key.to_be_bytes());
    place[16..].copy_from_slice(&piece.to_be_bytes());
    place
}

/// What is at a place of [`super::batch::Table::Keys`].
pub(crate) enum KeyPlace {
    Head(Fingerprint),
    Piece(Fingerprint, u32),
}

impl KeyPlace {
    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Head(key) | Self::Piece(key, _) => *key,
        }
    }

    pub(crate) fn parse(place: &[u8]) -> Option<Self> {
        let (key, piece) = place.split_first_chunk::<16>()?;
        let key = Fingerprint::from_be_bytes(*key);
        match piece {
            [] => Some(Self::Head(key)),
            piece => Some(Self::Piece(key, u32::from_be_bytes(piece.try_into().ok()?))),
        }
    }
}

/// What comes before the core's head in the head of a key: its names, and which pieces belong to it. The items of a key
/// without pieces come after the core's head.
#[derive(Encode, Decode)]
pub(crate) struct KeyHead<'a> {
    #[b(0)]
    pub(crate) account: &'a str,
    #[b(1)]
    pub(crate) model: &'a str,
    #[b(2)]
    pub(crate) variant: &'a str,
    #[n(3)]
    pub(crate) first: u32,
    #[n(4)]
    pub(crate) next: u32,
}

impl<'a> KeyHead<'a> {
    pub(crate) fn of(key: &'a LimitKey, disk: &OnDisk) -> Self {
        let OnDisk { first, next, .. } = *disk;
        let key = key.as_ref();
        Self { account: key.account(), model: key.model(), variant: key.variant(), first, next }
    }

    fn key(&self) -> Result<KeyRef<'a>, decode::Error> {
        KeyRef::new(self.account, self.model, self.variant).map_err(decode::Error::message)
    }
}

/// A key as it is written down.
pub(crate) struct KeyRecord<'a> {
    pub(crate) key: KeyRef<'a>,
    /// The pieces that belong to it.
    pub(crate) pieces: Range<u32>,
    /// The core's head, and items.
    head: &'a [u8],
    items: &'a [u8],
}

impl<'a> KeyRecord<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, decode::Error> {
        let mut decoder = Decoder::new(bytes);
        let names: KeyHead<'_> = decoder.decode()?;
        let start = decoder.position();
        decoder.skip()?;
        let (before, items) = bytes.split_at(decoder.position());
        Ok(Self { key: names.key()?, pieces: names.first..names.next, head: &before[start..], items })
    }

    /// Bytes of the names, with which it begins.
    pub(crate) fn names(bytes: &[u8]) -> Result<usize, decode::Error> {
        let mut decoder = Decoder::new(bytes);
        decoder.skip()?;
        Ok(decoder.position())
    }

    /// Whose it is, no more.
    pub(crate) fn read_key(bytes: &'a [u8]) -> Result<KeyRef<'a>, decode::Error> {
        minicbor::decode::<KeyHead<'_>>(bytes)?.key()
    }

    /// Its state, but for what is in its pieces.
    pub(crate) fn restore(&self) -> Result<Restored, decode::Error> {
        let mut state = Restored::read_head(self.head)?;
        state.read_items(self.items)?;
        Ok(state)
    }
}
