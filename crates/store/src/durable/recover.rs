//! Reading a directory back: secrets, policy, audit log, figures, keys. Keys are read by all cores at once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Policy, PolicyHead, Written};
use tidegate_core::state::Restored;
use tidegate_core::time::Timestamp;

use super::OpenError;
use super::batch::{Batch, Table};
use super::engine::Engine;
use super::layout::{self, Endings, KeyHead, KeyPlace, Progress, Secrets, encode_to, place};
use crate::memory::marks::OnDisk;
use crate::memory::{KnownModel, MemoryStore};
use crate::timers::Fingerprint;
use crate::{Change, ChangeLog};

/// A record that nothing here can have written.
fn damaged(table: Table, what: impl ToString) -> OpenError {
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
    batch.put(Table::Meta, place::POLICY, |out| encode_to(&policy.head(), out));
    for entry in policy.entries() {
        batch.put(Table::Policy, &layout::place_of(&entry), |out| encode_to(&entry, out));
    }
    Ok(engine.commit(&batch)?)
}

/// The policy on disk, with what nobody writes from `described`.
pub(super) fn policy(engine: &Engine, described: &Policy) -> Result<Policy, OpenError> {
    let head: PolicyHead = read(engine, place::POLICY)?.ok_or_else(|| damaged(Table::Meta, "there is no policy"))?;
    let mut entries = Vec::new();
    scan(engine, Table::Policy, &[], None, |_, bytes| {
        entries.push(minicbor::decode::<Written>(bytes).map_err(|error| damaged(Table::Policy, error))?);
        Ok(())
    })?;
    Ok(described.restored(head, entries))
}

/// The audit log on disk.
pub(super) fn changes(engine: &Engine) -> Result<ChangeLog, OpenError> {
    let mut log = ChangeLog::default();
    scan(engine, Table::Changes, &[], None, |_, bytes| {
        log.append(minicbor::decode::<Change>(bytes).map_err(|error| damaged(Table::Changes, error))?);
        Ok(())
    })?;
    Ok(log)
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
    scan(engine, Table::Models, &[], None, |place, bytes| {
        let model = place.try_into().map_err(|_| damaged(Table::Models, "a place that is none"))?;
        let figures = minicbor::decode(bytes).map_err(|error| damaged(Table::Models, error))?;
        table.models.insert(Fingerprint::from_be_bytes(model), KnownModel { figures, changed: false });
        Ok(())
    })
}

/// Puts all keys into the table, as of when they were written down; returns the latest of these instants.
pub(super) fn keys(engine: &Engine, table: &MemoryStore, now: Timestamp) -> Result<Timestamp, OpenError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // By the first byte of their fingerprints, which are drawn evenly.
    let part = |index: usize| u8::try_from(256 * index / threads).ok();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|index| {
                let (from, to) = (part(index).unwrap_or(u8::MAX), part(index + 1));
                scope.spawn(move || some_keys(engine, table, now, from, to))
            })
            .collect();
        let newest = parts.into_iter().map(|part| part.join().unwrap_or_else(|_| Err(damaged(Table::Keys, "a panic"))));
        newest.collect::<Result<Vec<_>, _>>().map(|newest| newest.into_iter().max().unwrap_or(Timestamp::ZERO))
    })
}

/// A key that is being read: its head, and then its pieces.
struct Reading {
    fingerprint: Fingerprint,
    key: tidegate_core::key::LimitKey,
    disk: OnDisk,
    next: u32,
    state: Restored,
}

impl Reading {
    fn begin(fingerprint: Fingerprint, bytes: &[u8]) -> Result<Self, OpenError> {
        let wrong = |error: &dyn std::fmt::Display| damaged(Table::Keys, format_args!("{fingerprint:032x}: {error}"));
        let (head, state, items) = KeyHead::split(bytes).map_err(|error| wrong(&error))?;
        let key = KeyRef::new(head.account, head.model, head.variant);
        let key = key.map_err(|error| wrong(&format_args!("{} {}", error.field, error.error)))?.to_owned();
        let mut state = Restored::read_head(state).map_err(|error| wrong(&error))?;
        state.read_items(items).map_err(|error| wrong(&error))?;
        let disk = head.on_disk();
        Ok(Self { fingerprint, key, disk, next: disk.first, state })
    }

    /// Takes in a piece; one that does not belong to the key any longer is left alone.
    fn piece(&mut self, number: u32, bytes: &[u8]) -> Result<(), OpenError> {
        if !(self.disk.first..self.disk.next).contains(&number) {
            return Ok(());
        }
        if number != self.next {
            return Err(self.lacks(self.next));
        }
        self.next += 1;
        let read = self.state.read_items(bytes);
        read.map_err(|error| damaged(Table::Keys, format_args!("{}: {error}", self.key.as_ref())))
    }

    fn lacks(&self, piece: u32) -> OpenError {
        damaged(Table::Keys, format_args!("{}: piece {piece} is missing", self.key.as_ref()))
    }

    fn finish(self, table: &MemoryStore, now: Timestamp) -> Result<Timestamp, OpenError> {
        if self.next != self.disk.next {
            return Err(self.lacks(self.next));
        }
        let newest = self.state.now();
        let mut state = self.state.finish(self.key.as_ref());
        if self.disk.next > self.disk.first {
            state.note_items();
        }
        table.restore(now, self.fingerprint, self.key, state, self.disk);
        Ok(newest)
    }
}

fn some_keys(
    engine: &Engine,
    table: &MemoryStore,
    now: Timestamp,
    from: u8,
    to: Option<u8>,
) -> Result<Timestamp, OpenError> {
    let mut newest = Timestamp::ZERO;
    let mut reading: Option<Reading> = None;
    let mut finish = |reading: Option<Reading>| -> Result<(), OpenError> {
        if let Some(reading) = reading {
            newest = newest.max(reading.finish(table, now)?);
        }
        Ok(())
    };
    scan(engine, Table::Keys, &[from], to.as_ref().map(std::slice::from_ref), |place, bytes| {
        match KeyPlace::parse(place) {
            Some(KeyPlace::Head(fingerprint)) => {
                finish(reading.take())?;
                reading = Some(Reading::begin(fingerprint, bytes)?);
                Ok(())
            }
            Some(KeyPlace::Piece(fingerprint, number)) => match &mut reading {
                Some(reading) if reading.fingerprint == fingerprint => reading.piece(number, bytes),
                // Of a key that is gone.
                _ => Ok(()),
            },
            None => Err(damaged(Table::Keys, "a place that is none")),
        }
    })?;
    finish(reading)?;
    Ok(newest)
}

/// Looks at each record of a table from `from` on and before `to`, in the order of their places.
fn scan(
    engine: &Engine,
    table: Table,
    from: &[u8],
    to: Option<&[u8]>,
    mut look: impl FnMut(&[u8], &[u8]) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let mut wrong = None;
    engine.scan(table, from, to, |place, bytes| match look(place, bytes) {
        Ok(()) => true,
        Err(error) => {
            wrong = Some(error);
            false
        }
    })?;
    wrong.map_or(Ok(()), Err)
}

/// What a write of policy changes on disk: its entry, what it put out of force, and what is no entry.
pub(super) fn policy_writes(old: &Policy, new: &Policy, change: &Change, gone: Range<u64>) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Meta, place::POLICY, |out| encode_to(&new.head(), out));
    match (&change.before, &change.after) {
        (_, Some(entry)) => batch.put(Table::Policy, &layout::place_of(entry), |out| encode_to(entry, out)),
        (Some(entry), None) => batch.remove(Table::Policy, &layout::place_of(entry)),
        (None, None) => {}
    }
    // A boost puts those that ended long ago out.
    let left: BTreeMap<_, ()> = new.boosts().map(|boost| (&boost.scope, ())).collect();
    for boost in old.boosts().filter(|boost| !left.contains_key(&boost.scope)) {
        batch.remove(Table::Policy, &layout::place_of_boost(&boost.scope));
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
