//! The policy of a fleet: one truth, in the shared store. Each sidecar decides by its copy in memory, and looks for a newer one a
//! few times a second.
//!
//! A stamp says which policy is there: its revision, and something that nobody else draws. Who writes says which stamp it
//! knows, and is refused where another is there; it reads that one, and applies its write again. A store without a policy gets that of
//! the first sidecar's file, which counts as older than any that was written; one that has an older policy than it once had (it was flushed, or a fail-over lost the newest writes) gets
//! the newest that a sidecar remembers.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{ErrorKind, RedisError, RedisResult, Script};
use tidegate_core::policy::{Policy, PolicyHead, PolicyWrite, Written};
use tidegate_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::Desk;
use super::link::{Connection, described};
use crate::changes::MOST_CHANGES;
use crate::durable::layout::{encoded, entry_writes, place_of};
use crate::policy_difference;
use crate::redis::{CHANGES_KEY, CHECKSUM_KEY, POLICY_KEY, named};
use crate::reservation_id::ChecksumKey;
use crate::{Author, Change, ChangeLog, NotDurable, PolicyError, PolicyWritten, Store};

/// How long an operator's write waits for the store.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// How often a write is applied anew because somebody else was first.
const MOST_ATTEMPTS: usize = 16;
/// Writes that wait for the store; one more is refused.
pub(super) const MOST_WRITES: usize = 64;
/// Where the stamp is, and the head of the policy; entries are at their places, after [`ENTRY`].
const STAMP: &str = "stamp";
const HEAD: &[u8] = b"head";
const ENTRY: &[u8] = b"entry:";

/// What this sidecar knows of the policy in the store.
pub(super) struct SharedPolicy {
    /// The file's: what nobody can write comes from here, and what an empty store begins with.
    described: Policy,
    known: Mutex<Known>,
    jobs: mpsc::Sender<Job>,
    /// Whoever has it writes.
    turn: tokio::sync::Mutex<()>,
    /// What the file says otherwise than the store.
    pub(super) differences: Mutex<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// The stamp of the policy that decides here; empty: it is not the store's, as far as is known.
    stamp: String,
    /// The newest revision that the store ever had, as stamps name it: that of a file's policy, which nobody wrote to, is 0.
    revision: u64,
}

/// What is to be done about the policy in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// It decides here from now on.
    Take,
    /// It is older than the one that decides here, or there is none.
    Give,
}

impl Known {
    fn step(&self, stored: &str) -> Step {
        match revision_of(stored) {
            Some(_) if stored == self.stamp => Step::Nothing,
            Some(revision) if revision >= self.revision => Step::Take,
            Some(_) | None => Step::Give,
        }
    }
}

/// The revision that a stamp names; `None` where it names none.
fn revision_of(stamp: &str) -> Option<u64> {
    stamp.split_once(':')?.0.parse().ok()
}

/// Records by their places; `None`: there is to be none.
pub(super) type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A write that is to be made.
pub(super) struct Job {
    expected: String,
    new: Policy,
    change: Change,
    writes: Writes,
    tell: oneshot::Sender<Result<Made, NotDurable>>,
}

impl Job {
    /// The store is away.
    pub(super) fn refuse(self) {
        let _ = self.tell.send(Err(nothing("it does not answer")));
    }
}

/// What became of a write.
enum Made {
    Written,
    /// Another sidecar was first; what it wrote is known now.
    Overtaken,
}

impl SharedPolicy {
    pub(super) fn new(described: Policy) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, waiting) = mpsc::channel(MOST_WRITES);
        let (known, turn, differences) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        (Self { described, known, jobs, turn, differences }, waiting)
    }

    /// Waits for the turn to write.
    pub(super) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, NotDurable> {
        let turn = tokio::time::timeout(PATIENCE, self.turn.lock()).await;
        turn.map_err(|_| nothing("other writes have waited for it for too long"))
    }

    /// Whether what decides here is what the store had a moment ago.
    pub(super) fn is_shared(&self) -> bool {
        !self.known.lock().stamp.is_empty()
    }
}

impl Desk {
    /// Writes policy: in the store first, and then here.
    pub(super) async fn write_policy(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> Result<PolicyWritten, PolicyError> {
        if dry_run {
            return self.table.write_policy(now, write, author, true).await;
        }
        let _turn = self.policy.turn().await?;
        for _ in 0..MOST_ATTEMPTS {
            let expected = self.known_stamp()?;
            let old = self.table.policy.load_full();
            let object = write.title();
            let (new, result) = old.apply(write.clone(), now)?;
            let effect = self.table.effect(now, &old, &new, &result).await;
            let sequence = self.table.writing.lock().next();
            let (before, after) = (result.before.clone(), result.written.clone());
            let change = Change { sequence, time: now, author: author.clone(), object, before, after, limits: None };
            let mut writes = vec![(HEAD.to_vec(), Some(encoded(&new.head())))];
            writes.extend(entry_writes(&old, &new, &change).into_iter().map(|(place, record)| (at(&place), record)));
            if self.submit(expected, new, change, writes).await? {
                return Ok(PolicyWritten { result, persisted: true, effect });
            }
        }
        Err(nothing("other sidecars wrote all the time").into())
    }

    /// The stamp of the policy that decides here. To be asked for before that policy is looked at.
    pub(super) fn known_stamp(&self) -> Result<String, NotDurable> {
        let stamp = self.policy.known.lock().stamp.clone();
        if !self.status.answers() || stamp.is_empty() {
            return Err(nothing(self.status.failure().unwrap_or_else(|| "its policy is not known yet".to_owned())));
        }
        Ok(stamp)
    }

    /// Has a write made of the policy of this stamp; `false`: another sidecar was first, and what it wrote is known now.
    pub(super) async fn submit(
        &self,
        expected: String,
        new: Policy,
        change: Change,
        writes: Writes,
    ) -> Result<bool, NotDurable> {
        let (tell, told) = oneshot::channel();
        let job = Job { expected, new, change, writes, tell };
        self.policy.jobs.try_send(job).map_err(|_| nothing("too many writes wait for it"))?;
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(made)) => made.map(|made| matches!(made, Made::Written)),
            Ok(Err(_)) | Err(_) => Err(NotDurable::Perhaps(PATIENCE)),
        }
    }

    /// Gives the store the key with which ids are made here, if it has none; `again`: where another one is there, too, which somebody has
    /// drawn who did not know this one.
    pub(super) async fn give_checksum_key(&self, connection: &mut Connection, again: bool) -> RedisResult<()> {
        let mut give = redis::cmd("SET");
        give.arg(CHECKSUM_KEY).arg(self.table.checksum_keys.load().newest.to_hex());
        if !again {
            give.arg("NX");
        }
        let _: Option<String> = give.query_async(connection).await?;
        Ok(())
    }

    /// Makes ids with the key that the store has from now on; those that were made before stay good.
    pub(super) async fn take_checksum_key(&self, connection: &mut Connection) -> RedisResult<()> {
        let keys = &self.table.checksum_keys;
        let known: Option<String> = redis::cmd("GET").arg(CHECKSUM_KEY).query_async(connection).await?;
        if let Some(known) = known.and_then(|known| ChecksumKey::from_hex(&known)) {
            keys.store(Arc::new(keys.load().followed_by(known)));
        }
        Ok(())
    }

    /// What is in the store decides from now on.
    fn take_policy(&self, stored: Stored) {
        let Stored { stamp, head, entries, log } = stored;
        let policy = self.policy.described.restored(head, entries);
        if self.policy.known.lock().revision == 0 {
            *self.policy.differences.lock() =
                policy_difference::between(&self.policy.described, &policy, "the shared store");
        }
        {
            let mut kept = self.table.writing.lock();
            let revision = policy.revision();
            let before = self.table.policy.swap(Arc::new(policy));
            *kept = log;
            if before.revision() >= revision {
                // Keys hold on to a policy until a newer one comes.
                self.table.look_at_policy_again();
            }
        }
        let mut known = self.policy.known.lock();
        known.revision = known.revision.max(revision_of(&stamp).unwrap_or(0));
        known.stamp = stamp;
    }
}

fn nothing(why: impl Into<String>) -> NotDurable {
    NotDurable::Nothing(why.into())
}

/// The field of an entry.
fn at(place: &[u8]) -> Vec<u8> {
    [ENTRY, place].concat()
}

/// Places and what is there.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A policy as the store has it.
struct Stored {
    stamp: String,
    head: PolicyHead,
    entries: Vec<Written>,
    log: ChangeLog,
}

impl Stored {
    /// `None` where there is none.
    fn read(fields: Fields, records: &[Vec<u8>]) -> Result<Option<Self>, minicbor::decode::Error> {
        let (mut stamp, mut head, mut entries) = (None, None, Vec::new());
        for (field, record) in fields {
            if field == STAMP.as_bytes() {
                stamp = String::from_utf8(record).ok();
            } else if field == HEAD {
                head = Some(minicbor::decode(&record)?);
            } else if field.starts_with(ENTRY) {
                entries.push(minicbor::decode(&record)?);
            }
            // Anything else is a later program's.
        }
        let mut log = ChangeLog::default();
        for record in records {
            log.append(minicbor::decode(record)?);
        }
        Ok(stamp.zip(head).map(|(stamp, head)| Self { stamp, head, entries, log }))
    }
}

fn not_understood(error: impl std::fmt::Display) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "the policy in the store is not understood", error.to_string()))
}

/// The clerk's part: it alone reads and writes the policy in the store, one step at a time.
pub(super) struct PolicyKeeper {
    script: Script,
    turn: tokio::sync::Mutex<()>,
}

impl PolicyKeeper {
    pub(super) fn new() -> Self {
        Self { script: Script::new(crate::redis::POLICY), turn: tokio::sync::Mutex::default() }
    }

    /// Takes over what the store has, or gives it what decides here.
    pub(super) async fn keep(&self, desk: &Desk, connection: &mut Connection) -> RedisResult<()> {
        let _turn = self.turn.lock().await;
        self.catch_up(desk, connection).await
    }

    async fn catch_up(&self, desk: &Desk, connection: &mut Connection) -> RedisResult<()> {
        for _ in 0..MOST_ATTEMPTS {
            let stored: Option<String> = redis::cmd("HGET").arg(POLICY_KEY).arg(STAMP).query_async(connection).await?;
            desk.status.on_answer();
            let stored = stored.unwrap_or_default();
            let step = desk.policy.known.lock().step(&stored);
            match step {
                Step::Nothing => return Ok(()),
                Step::Take => {
                    let mut read = redis::pipe();
                    read.atomic().hgetall(POLICY_KEY).lrange(CHANGES_KEY, 0, -1);
                    let (fields, records): (Fields, Vec<Vec<u8>>) = read.query_async(connection).await?;
                    // If the store was given back what it lost, that as well.
                    desk.take_checksum_key(connection).await?;
                    if let Some(stored) = Stored::read(fields, &records).map_err(not_understood)? {
                        desk.take_policy(stored);
                    }
                }
                Step::Give => self.give(desk, connection, &stored).await?,
            }
        }
        Ok(())
    }

    /// Puts the policy that decides here in the place of what the store has.
    async fn give(&self, desk: &Desk, connection: &mut Connection, stored: &str) -> RedisResult<()> {
        let (policy, records) = {
            let log = desk.table.writing.lock();
            (desk.table.policy.load_full(), log.all().map(encoded).collect())
        };
        let mut writes = vec![(HEAD.to_vec(), Some(encoded(&policy.head())))];
        writes.extend(policy.entries().map(|entry| (at(&place_of(&entry)), Some(encoded(&entry)))));
        // It went with the policy.
        desk.give_checksum_key(connection, desk.policy.is_shared()).await?;
        let revision = desk.policy.known.lock().revision;
        let stamp = new_stamp(revision)?;
        if self.write(connection, (stored, &stamp), true, writes, records).await? == stamp {
            *desk.policy.known.lock() = Known { stamp, revision };
        }
        Ok(())
    }

    /// Makes a write, and what it makes decide here, unless another sidecar was first: then takes over what that one wrote.
    pub(super) async fn make(&self, desk: &Desk, connection: &mut Connection, job: Job) -> RedisResult<()> {
        let Job { expected, new, change, writes, tell } = job;
        let _turn = self.turn.lock().await;
        let made = async {
            let stamp = new_stamp(new.revision())?;
            let records = vec![encoded(&change)];
            if self.write(connection, (&expected, &stamp), false, writes, records).await? == stamp {
                let revision = new.revision();
                desk.table.publish(new, change);
                *desk.policy.known.lock() = Known { stamp, revision };
                return Ok(Made::Written);
            }
            self.catch_up(desk, connection).await?;
            Ok(Made::Overtaken)
        };
        let made: RedisResult<Made> = made.await;
        let (told, result) = match made {
            Ok(made) => (Ok(made), Ok(())),
            Err(error) => {
                // It may be there: what the store has is read anew.
                desk.policy.known.lock().stamp.clear();
                let is_refused = error.kind() != ErrorKind::Io && !error.is_timeout();
                let told = if is_refused { nothing(described(&error)) } else { NotDurable::Perhaps(PATIENCE) };
                (Err(told), Err(error))
            }
        };
        // Whoever asked may have given up.
        let _ = tell.send(told);
        result
    }

    async fn write(
        &self,
        connection: &mut Connection,
        (expected, stamp): (&str, &str),
        replaces: bool,
        writes: Writes,
        records: Vec<Vec<u8>>,
    ) -> RedisResult<String> {
        let mut call = self.script.key(POLICY_KEY);
        call.key(CHANGES_KEY).arg(expected).arg(stamp).arg(u8::from(replaces)).arg(MOST_CHANGES);
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (place, record) in writes {
            match record {
                Some(record) => put.extend([place, record]),
                None => gone.push(place),
            }
        }
        for list in [put, gone, records] {
            call.arg(list.len());
            for part in list {
                call.arg(part);
            }
        }
        call.invoke_async(connection).await
    }
}

/// A stamp of this revision that nobody else makes.
fn new_stamp(revision: u64) -> RedisResult<String> {
    let drawn = getrandom::u64().map_err(|error| RedisError::from(std::io::Error::other(error)))?;
    Ok(format!("{revision}:{}", named(drawn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_has_decides_unless_it_is_older_than_what_it_had() {
        let fresh = Known::default();
        assert_eq!((fresh.step(""), fresh.step("3:a"), fresh.step("nonsense")), (Step::Give, Step::Take, Step::Give));
        let known = Known { stamp: "7:a".into(), revision: 7 };
        assert_eq!(known.step("7:a"), Step::Nothing);
        assert_eq!((known.step("8:b"), known.step("7:b")), (Step::Take, Step::Take), "newer, or as new and not ours");
        assert_eq!((known.step("6:c"), known.step("")), (Step::Give, Step::Give), "lost in part, or flushed");
        let unsure = Known { stamp: String::new(), revision: 7 };
        assert_eq!((unsure.step("7:a"), unsure.step("6:c")), (Step::Take, Step::Give));
    }
}
