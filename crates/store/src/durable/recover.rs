//! Reading a directory back: secrets, policy, audit log, figures, keys. Keys are read by all cores at once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use tidegate_core::forecast::Prior;
use tidegate_core::key::LimitKey;
use tidegate_core::policy::{Policy, PolicyHead, Written};
use tidegate_core::state::{KeyState, Restored};
use tidegate_core::time::Timestamp;

use super::OpenError;
use super::batch::{Batch, Table};
use super::engine::{Engine, EngineError};
use super::layout::{self, Endings, KeyPlace, KeyRecord, Progress, Secrets, encode_to, place};
use super::packs;
use crate::memory::marks::OnDisk;
use crate::memory::{Fingerprinted, KnownModel, MemoryStore};
use crate::timers::Fingerprint;
use crate::{Change, ChangeLog};

/// A record that nothing here can have written.
pub(super) fn damaged(table: Table, what: impl ToString) -> OpenError {
    OpenError::Damaged { table: table.name(), what: what.to_string() }
}

/// The record at `place`, if there is one.
fn read<T: for<'b> minicbor::Decode<'b, ()>>(engine: &Engine, place: &[u8]) -> Result<Option<T>, OpenError> {
    let bytes = engine.get(Table::Meta, place)?;
    let record = bytes.map(|bytes| minicbor::decode(&bytes)).transpose();
    record.map_err(|error| damaged(Table::Meta, error))
}

/// The secrets of a directory; `None` where it is new. A newer layout is refused.
pub(super) fn secrets(engine: &Engine) -> Result<Option<Secrets>, OpenError> {
    let secrets: Option<Secrets> = read(engine, place::SECRETS)?;
    match secrets.as_ref().map(|secrets| secrets.version) {
        Some(version) if version != layout::VERSION => Err(OpenError::Version { found: version }),
        _ => Ok(secrets),
    }
}

/// Everything that a new directory begins with.
pub(super) fn seed(engine: &mut Engine, secrets: &Secrets, policy: &Policy) -> Result<(), OpenError> {
    let mut batch = Batch::default();
    batch.put(Table::Meta, place::SECRETS, |out| encode_to(secrets, out));
    put_policy(policy, &mut batch);
    Ok(engine.commit(&batch)?)
}

/// The policy on disk, with what nobody writes from `described`.
pub(super) fn policy(engine: &Engine, described: &Policy) -> Result<Policy, OpenError> {
    let head: PolicyHead = read(engine, place::POLICY)?.ok_or_else(|| damaged(Table::Meta, "there is no policy"))?;
    let mut entries = Vec::new();
    scan(engine, Table::Policy, false, |_, bytes| {
        entries.push(minicbor::decode::<Written>(bytes).map_err(|error| damaged(Table::Policy, error))?);
        Ok(())
    })?;
    Ok(described.restored(head, entries))
}

/// The audit log on disk, and the number of its first record there.
pub(super) fn changes(engine: &Engine) -> Result<(ChangeLog, u64), OpenError> {
    let (mut log, mut first) = (ChangeLog::default(), None);
    scan(engine, Table::Changes, false, |_, bytes| {
        let change: Change = minicbor::decode(bytes).map_err(|error| damaged(Table::Changes, error))?;
        first = first.or(Some(change.sequence));
        log.append(change);
        Ok(())
    })?;
    let first = first.unwrap_or(log.next());
    Ok((log, first))
}

/// How far the last process came, and the processes before it that were killed; of these it is one now, if it was.
pub(super) fn endings(engine: &mut Engine) -> Result<(Option<Progress>, Endings), OpenError> {
    let progress: Option<Progress> = read(engine, place::PROGRESS)?;
    let mut endings: Endings = read(engine, place::ENDINGS)?.unwrap_or_default();
    if let Some(killed) = progress.filter(|progress| !progress.stopped) {
        endings.push(killed);
        let mut batch = Batch::default();
        batch.put(Table::Meta, place::ENDINGS, |out| encode_to(&endings, out));
        engine.commit(&batch)?;
    }
    Ok((progress, endings))
}

/// Puts the figures of all models into the table.
pub(super) fn models(engine: &Engine, table: &MemoryStore) -> Result<(), OpenError> {
    scan(engine, Table::Models, false, |place, bytes| {
        let model = place.try_into().map_err(|_| damaged(Table::Models, "a place that is none"))?;
        let figures = minicbor::decode(bytes).map_err(|error| damaged(Table::Models, error))?;
        table.models.insert(Fingerprint::from_be_bytes(model), KnownModel { figures, changed: false });
        Ok(())
    })
}

/// What was found of the keys.
pub(super) struct Found {
    /// The latest instant at which one was written down.
    pub(super) newest: Timestamp,
    /// The batches that have packs, in their order, and the bytes of each.
    pub(super) batches: VecDeque<(u32, u64)>,
}

/// Puts all keys into the table, as of when they were written down.
pub(super) fn keys(engine: &Engine, table: &MemoryStore, now: Timestamp) -> Result<Found, OpenError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let part = |index| scope.spawn(move || some_keys(engine, table, now, Part::new(index, threads)));
        let parts: Vec<_> = (0..threads).map(part).collect();
        let mut found = Found { newest: Timestamp::ZERO, batches: VecDeque::new() };
        for part in parts {
            let part = part.join().unwrap_or_else(|_| Err(damaged(Table::Keys, "a panic")))?;
            found = Found { newest: found.newest.max(part.newest), batches: part.batches };
        }
        Ok(found)
    })
}

fn some_keys(engine: &Engine, table: &MemoryStore, now: Timestamp, mut part: Part) -> Result<Found, OpenError> {
    let mut found = Found { newest: Timestamp::ZERO, batches: VecDeque::new() };
    let mut restore = |read: ReadKey<'_>| {
        found.newest = found.newest.max(read.newest);
        let (fingerprint, record) = (read.fingerprint, read.record);
        let fallback = table.fallback(table.of_model(read.key.as_ref()));
        let (key, state, disk) = read.finish(&fallback);
        table.restore(now, fingerprint, key, state, disk, record);
    };
    scan(engine, Table::Keys, true, |row, pack| {
        let batch = part.read(row, pack, &mut restore)?;
        match found.batches.front_mut().filter(|(first, _)| *first == batch) {
            Some((_, bytes)) => *bytes += pack.len() as u64,
            None => found.batches.push_front((batch, pack.len() as u64)),
        }
        Ok(())
    })?;
    part.finish(&mut restore)?;
    Ok(found)
}

/// A key as of when it was written down.
pub(super) struct ReadKey<'a> {
    pub(super) fingerprint: Fingerprint,
    pub(super) key: LimitKey,
    state: Restored,
    disk: OnDisk,
    pub(super) newest: Timestamp,
    /// As it is on disk, where all of it is in its head.
    record: Option<&'a [u8]>,
}

impl ReadKey<'_> {
    /// Its state; `fallback` is what requests of its model do.
    pub(super) fn finish(self, fallback: &Prior) -> (LimitKey, KeyState, OnDisk) {
        let Self { key, state, mut disk, .. } = self;
        let mut state = state.finish(key.as_ref(), fallback);
        if disk.first < disk.next {
            state.note_items();
            disk.whole = u32::try_from(state.items()).unwrap_or(u32::MAX);
        }
        (key, state, disk)
    }
}

/// Reads those keys whose fingerprints fall to it, from the newest pack to the oldest: the first record of a place counts.
pub(super) struct Part {
    index: usize,
    parts: usize,
    seen: HashSet<Fingerprint, BuildHasherDefault<Fingerprinted>>,
    /// Keys whose pieces are older than their heads.
    unfinished: HashMap<Fingerprint, Reading, BuildHasherDefault<Fingerprinted>>,
}

impl Part {
    pub(super) fn new(index: usize, parts: usize) -> Self {
        Self { index, parts, seen: HashSet::default(), unfinished: HashMap::default() }
    }

    /// Reads the next older pack, which is in this row; returns its batch.
    pub(super) fn read(
        &mut self,
        row: &[u8],
        pack: &[u8],
        found: &mut impl FnMut(ReadKey<'_>),
    ) -> Result<u32, OpenError> {
        let (batch, _) = packs::parse_row(row).ok_or_else(|| damaged(Table::Keys, "a row that is none"))?;
        let records: Option<Vec<_>> = packs::records(pack).collect();
        let records = records.ok_or_else(|| damaged(Table::Keys, "a pack that ends within a record"))?;
        // Within a pack too, the newest comes last: a head after its pieces.
        records.into_iter().rev().try_for_each(|(place, value)| self.take(batch, place, value, found))?;
        Ok(batch)
    }

    /// After the oldest pack.
    pub(super) fn finish(self, found: &mut impl FnMut(ReadKey<'_>)) -> Result<(), OpenError> {
        self.unfinished.into_values().try_for_each(|reading| reading.finish(None).map(&mut *found))
    }

    fn take(
        &mut self,
        batch: u32,
        place: &[u8],
        value: Option<&[u8]>,
        found: &mut impl FnMut(ReadKey<'_>),
    ) -> Result<(), OpenError> {
        let place = KeyPlace::parse(place).ok_or_else(|| damaged(Table::Keys, "a place that is none"))?;
        if place.fingerprint() % self.parts as u128 != self.index as u128 {
            return Ok(());
        }
        match (place, value) {
            (KeyPlace::Head(fingerprint), value) => {
                if !self.seen.insert(fingerprint) {
                    return Ok(());
                }
                let Some(value) = value else { return Ok(()) };
                let reading = Reading::begin(fingerprint, batch, value)?;
                if reading.is_whole() {
                    return reading.finish(Some(value)).map(found);
                }
                self.unfinished.insert(fingerprint, reading);
            }
            (KeyPlace::Piece(fingerprint, number), value) => {
                if let Some((reading, value)) = self.unfinished.get_mut(&fingerprint).zip(value) {
                    reading.piece(number, batch, value);
                }
            }
        }
        Ok(())
    }
}

/// A key that is being read: its head, and then its pieces, the newest first.
struct Reading {
    fingerprint: Fingerprint,
    key: LimitKey,
    disk: OnDisk,
    state: Restored,
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Reading {
    fn begin(fingerprint: Fingerprint, batch: u32, bytes: &[u8]) -> Result<Self, OpenError> {
        let wrong = |error| damaged(Table::Keys, format_args!("{fingerprint:032x}: {error}"));
        let record = KeyRecord::read(bytes).map_err(wrong)?;
        let (key, state) = (record.key.to_owned(), record.restore().map_err(wrong)?);
        let disk = OnDisk {
            written: true,
            first: record.pieces.start,
            next: record.pieces.end,
            oldest: batch,
            bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            ..OnDisk::default()
        };
        Ok(Self { fingerprint, key, disk, state, pieces: BTreeMap::new() })
    }

    fn is_whole(&self) -> bool {
        self.pieces.len() == (self.disk.first..self.disk.next).len()
    }

    /// Keeps a piece, unless it does not belong to the key any longer.
    fn piece(&mut self, number: u32, batch: u32, bytes: &[u8]) {
        if (self.disk.first..self.disk.next).contains(&number) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.disk.oldest = self.disk.oldest.min(batch);
            self.disk.bytes = self.disk.bytes.saturating_add(length);
            self.disk.pieces_bytes = self.disk.pieces_bytes.saturating_add(length);
            self.pieces.insert(number, bytes.to_vec());
        }
    }

    fn finish(mut self, record: Option<&[u8]>) -> Result<ReadKey<'_>, OpenError> {
        let wrong = |key: &LimitKey, error: &dyn std::fmt::Display| {
            damaged(Table::Keys, format_args!("{}: {error}", key.as_ref()))
        };
        if !self.is_whole() {
            return Err(wrong(&self.key, &"pieces of it are missing"));
        }
        for piece in self.pieces.values() {
            self.state.read_items(piece).map_err(|error| wrong(&self.key, &error))?;
        }
        let newest = self.state.now();
        let Self { fingerprint, key, state, disk, .. } = self;
        Ok(ReadKey { fingerprint, key, state, disk, newest, record })
    }
}

/// Looks at each row of a table, in the order of their keys or backwards.
fn scan(
    engine: &Engine,
    table: Table,
    backwards: bool,
    mut look: impl FnMut(&[u8], &[u8]) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let mut wrong = None;
    engine.scan(table, &[], backwards, |key, value| match look(key, value) {
        Ok(()) => true,
        Err(error) => {
            wrong = Some(error);
            false
        }
    })?;
    wrong.map_or(Ok(()), Err)
}

/// Makes the policy on disk the one in force, where a write came to nothing and is there all the same; `next` is the number of the
/// next record of the audit log.
pub(super) fn take_back(engine: &mut Engine, policy: &Policy, next: u64) -> Result<(), EngineError> {
    let head = engine.get(Table::Meta, place::POLICY)?;
    if head.is_some_and(|head| minicbor::decode::<PolicyHead>(&head).is_ok_and(|head| head == policy.head())) {
        return Ok(());
    }
    let mut batch = Batch::default();
    engine.scan(Table::Policy, &[], false, |place, _| {
        batch.remove(Table::Policy, place);
        true
    })?;
    engine.scan(Table::Changes, &next.to_be_bytes(), false, |place, _| {
        batch.remove(Table::Changes, place);
        true
    })?;
    put_policy(policy, &mut batch);
    engine.commit(&batch)
}

fn put_policy(policy: &Policy, batch: &mut Batch) {
    batch.put(Table::Meta, place::POLICY, |out| encode_to(&policy.head(), out));
    for entry in policy.entries() {
        batch.put(Table::Policy, &layout::place_of(&entry), |out| encode_to(&entry, out));
    }
}

/// What a write of policy changes on disk: its entry, what it put out of force, and what is no entry.
pub(super) fn policy_writes(old: &Policy, new: &Policy, change: &Change, gone: Range<u64>) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Meta, place::POLICY, |out| encode_to(&new.head(), out));
    for (place, record) in layout::entry_writes(old, new, change) {
        match record {
            Some(record) => batch.put(Table::Policy, &place, |out| out.extend_from_slice(&record)),
            None => batch.remove(Table::Policy, &place),
        }
    }
    change_writes(change, gone, &mut batch);
    batch
}

/// Puts the record of a write on disk, and removes those that the log no longer keeps.
pub(super) fn change_writes(change: &Change, gone: Range<u64>, batch: &mut Batch) {
    batch.put(Table::Changes, &change.sequence.to_be_bytes(), |out| encode_to(change, out));
    for gone in gone {
        batch.remove(Table::Changes, &gone.to_be_bytes());
    }
}
