//! A batch of what changed: the keys copied, a few at a time, and as much of the oldest batches taken away as no longer counts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_core::time::{Timestamp, micros};

use super::Thread;
use crate::durable::batch::Batch;
use crate::durable::engine::EngineError;
use crate::durable::layout::{KeyPlace, place_of_key};
use crate::durable::packs::{self, Packs};
use crate::memory::marks::Marks;
use crate::timers::Fingerprint;

/// For how long it copies without a rest, if that is not more rests than [`RESTS_COPYING`].
const COPYING: Duration = Duration::from_micros(40);
/// Most rests of a batch while keys are copied: 0.2 s.
const RESTS_COPYING: u32 = 1_500;
/// Most rests while old batches are looked through, and while a batch is written: 0.13 s.
const RESTS_WRITING: u32 = 1_000;
/// After this much of a batch, it is written, and the rest is another one.
const MOST_BATCH_BYTES: usize = 64 << 20;
/// More than twice what counts, and this, is not on disk.
pub(in crate::durable) const SLACK_BYTES: u64 = if cfg!(test) { 256 << 10 } else { 32 << 20 };
/// Most of it that one batch removes.
const MOST_CLEANED_BYTES: u64 = 16 << 20;

/// What a batch was made of, to be marked anew where it comes to nothing.
#[derive(Default)]
struct Taken {
    keys: Vec<Fingerprint>,
    gone: Vec<Fingerprint>,
}

/// Copying the keys of a batch.
struct Copying {
    keys: usize,
    /// For how long without a rest.
    piece: Duration,
    /// The last rest.
    since: Timestamp,
    /// Before that.
    worked: Duration,
}

impl Copying {
    /// Begins with so many keys that take about as long as `of_a_key` each.
    fn of(keys: usize, of_a_key: Duration, now: Timestamp) -> Self {
        let all = of_a_key.saturating_mul(u32::try_from(keys).unwrap_or(u32::MAX));
        Self { keys, piece: COPYING.max(all / RESTS_COPYING), since: now, worked: Duration::ZERO }
    }

    fn of_a_key(&self) -> Duration {
        self.worked / u32::try_from(self.keys).unwrap_or(u32::MAX).max(1)
    }
}

impl Thread {
    /// Writes `batch` and, with it, what changed so far, in several commits where it is much.
    pub(super) fn write_changes(&mut self, mut batch: Batch) -> Result<(), EngineError> {
        let began = (self.now)();
        // What is done from here on is in this batch or in the next; what was done before is marked.
        let mut keys = self.marks().take_changed();
        let mut taken = Taken { keys: Vec::new(), gone: self.marks().take_gone() };
        batch.keys.lend(&mut self.spare);
        self.grant(RESTS_WRITING);
        for key in &taken.gone {
            batch.keys.remove(&place_of_key(*key));
        }
        self.table.write_models(&mut batch);
        let cleaned = match self.clean(&mut keys, &mut batch) {
            Ok(cleaned) => cleaned,
            Err(failure) => {
                self.put_back(taken, keys);
                return Err(failure);
            }
        };
        keys.sort_unstable();
        // One that changed while it was put back, or that is cleaned as well, is there twice.
        keys.dedup();
        let mut written = 0;
        let mut copying = Copying::of(keys.len(), self.copying, (self.now)());
        self.grant(RESTS_COPYING);
        while let Some(key) = keys.pop() {
            taken.keys.push(key);
            self.table.write_key(key, self.number, cleaned, &mut batch);
            self.rest_of(&mut copying);
            if batch.bytes() > MOST_BATCH_BYTES || (keys.is_empty() && !batch.unfinished.is_empty()) {
                self.table.write_unfinished(&mut batch, || self.rest_of(&mut copying));
            }
            if batch.bytes() > MOST_BATCH_BYTES && !keys.is_empty() {
                // What is removed goes with the last of them.
                let (part, rest) = batch.split();
                batch = rest;
                written += taken.keys.len() as u64;
                if let Err(failure) = self.commit(part) {
                    self.put_back(taken, keys);
                    return Err(failure);
                }
                taken.keys.clear();
                batch.keys.lend(&mut self.spare);
                copying.since = (self.now)();
            }
        }
        self.copying = copying.of_a_key();
        self.grant(RESTS_WRITING);
        written += taken.keys.len() as u64;
        if written > 0 || !batch.is_empty() {
            let before = std::mem::replace(&mut self.progress.durable_at, began);
            if let Err(failure) = self.commit(batch) {
                self.progress.durable_at = before;
                self.put_back(taken, keys);
                return Err(failure);
            }
            while self.log.front().is_some_and(|(batch, _)| *batch < cleaned) {
                self.log.pop_front();
            }
            self.shared.batches.fetch_add(1, Ordering::Relaxed);
            self.shared.keys.fetch_add(written, Ordering::Relaxed);
            self.shared.packed.store(self.log.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
            if let Some(engine) = &self.engine {
                self.shared.disk_bytes.store(engine.disk_bytes(), Ordering::Relaxed);
            }
        }
        self.progress.durable_at = began;
        let took = micros((self.now)().since(began));
        self.shared.last_batch_micros.store(took, Ordering::Relaxed);
        self.shared.durable_at.store(began.as_micros(), Ordering::Relaxed);
        Ok(())
    }

    fn grant(&self, rests: u32) {
        if let Some(engine) = &self.engine {
            engine.pace().grant(rests);
        }
    }

    /// Rests, if it has been copying for long enough.
    fn rest_of(&self, copying: &mut Copying) {
        let worked = (self.now)().since(copying.since);
        if worked >= copying.piece
            && let Some(engine) = &self.engine
        {
            copying.worked += worked;
            engine.pace().rest();
            copying.since = (self.now)();
        }
    }

    /// Where more is on disk than should be, removes the oldest batches, and adds the keys of which something counts there to
    /// those that are written. Returns the oldest batch that stays.
    fn clean(&self, keys: &mut Vec<Fingerprint>, batch: &mut Batch) -> Result<u32, EngineError> {
        let live = self.table.disk_live.load(Ordering::Relaxed);
        let most = live.saturating_mul(2).saturating_add(SLACK_BYTES);
        let mut bytes: u64 = self.log.iter().map(|(_, bytes)| bytes).sum();
        let (mut oldest, mut cleaned) = (0, 0);
        for (number, of_batch) in &self.log {
            if bytes <= most || cleaned >= MOST_CLEANED_BYTES {
                break;
            }
            self.clean_batch(*number, keys, batch)?;
            oldest = number + 1;
            bytes -= of_batch;
            cleaned += of_batch;
        }
        Ok(oldest)
    }

    fn clean_batch(&self, number: u32, keys: &mut Vec<Fingerprint>, batch: &mut Batch) -> Result<(), EngineError> {
        let Some(engine) = &self.engine else { return Ok(()) };
        engine.scan(Packs::TABLE, &packs::row_of(number, 0), false, |row, pack| {
            if packs::parse_row(row).is_none_or(|(of, _)| of != number) {
                return false;
            }
            engine.pace().rest();
            batch.remove(Packs::TABLE, row);
            let places = packs::records(pack).flatten().filter_map(|(place, _)| KeyPlace::parse(place));
            let count = places.map(|place| place.fingerprint()).filter(|key| self.table.counts_in(*key, number));
            keys.extend(count);
            true
        })
    }

    /// Nothing of what was taken is on disk, as far as is known.
    fn put_back(&self, taken: Taken, left: Vec<Fingerprint>) {
        self.table.write_models_again();
        taken.keys.into_iter().chain(left).for_each(|key| self.table.write_again(key));
        self.marks().put_back_gone(taken.gone);
    }

    fn marks(&self) -> &Marks {
        self.table.marks.as_ref().expect("a durable store's table has marks")
    }
}
