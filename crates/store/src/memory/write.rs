//! Writing policy: what it does to known limits, the write itself, and its record.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tidegate_core::effect::Effect;
use tidegate_core::policy::{Policy, PolicyWrite, WriteResult, Written};
use tidegate_core::time::Timestamp;

use super::MemoryStore;
use crate::timers::Fingerprint;
use crate::{Author, Change, PolicyError, PolicyWritten};

/// How often a write is looked at anew when others write in between; then it is made, its effect as last looked at.
const ATTEMPTS: usize = 4;
/// Keys looked at before other work of the thread gets its turn: some 0.3 ms.
const KEYS_AT_ONCE: usize = 128;

impl MemoryStore {
    pub(super) async fn write(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> Result<PolicyWritten, PolicyError> {
        let mut attempt = 1;
        loop {
            let old = self.policy.load_full();
            let (new, result) = old.apply(write.clone(), now)?;
            let effect = self.effect(now, &old, &new, &result).await;
            if dry_run {
                return Ok(PolicyWritten { result, persisted: false, effect });
            }
            let object = write.title();
            let mut log = self.writing.lock();
            let current = self.policy.load_full();
            let (new, result) = if Arc::ptr_eq(&old, &current) {
                (new, result)
            } else if attempt < ATTEMPTS {
                attempt += 1;
                continue;
            } else {
                current.apply(write, now)?
            };
            self.policy.store(Arc::new(new));
            log.push(now, author, object, result.before.clone(), result.written.clone());
            return Ok(PolicyWritten { result, persisted: false, effect });
        }
    }

    /// Publishes a policy, and the record of the write that made it.
    pub(crate) fn publish(&self, policy: Policy, change: Change) {
        let mut log = self.writing.lock();
        self.policy.store(Arc::new(policy));
        log.append(change);
    }

    /// What turning `old` into `new` does to known keys. First their fingerprints are taken, shard by shard, then each key is
    /// looked up by itself and only copied from under its lock: the longest lock is one walk over a shard's names.
    pub(crate) async fn effect(&self, now: Timestamp, old: &Policy, new: &Policy, result: &WriteResult) -> Effect {
        let mut effect = Effect::default();
        for (index, fingerprint) in self.concerned(result).into_iter().enumerate() {
            if index % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                step_aside().await;
            }
            let known = self.known(fingerprint).map(|entry| (entry.key.clone(), entry.state.outlook()));
            // It may have left the table.
            let Some((key, outlook)) = known else { continue };
            let key = key.as_ref();
            // An entry is in the policy before it, the one after it, or both.
            let applies = [(old, &result.before), (new, &result.written)]
                .into_iter()
                .any(|(policy, entry)| entry.as_ref().is_some_and(|entry| entry.applies_to(policy, key)));
            if !applies {
                continue;
            }
            effect.look_at(key, outlook, now, &old.resolve(key, now), &new.resolve(key, now));
        }
        effect
    }

    pub(super) fn concerned(&self, result: &WriteResult) -> Vec<Fingerprint> {
        if matches!(result.written, Some(Written::Enforcement(_))) {
            // It changes no limit, and it is for emergencies: it does not wait for a walk over a million keys.
            return Vec::new();
        }
        let concerns = [&result.before, &result.written];
        let keys = self.keys.iter().filter(|slot| {
            let key = slot.value().key();
            concerns.iter().any(|written| written.as_ref().is_some_and(|written| written.concerns(key)))
        });
        keys.map(|slot| *slot.key()).collect()
    }
}

/// Lets other work of this thread go first.
async fn step_aside() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
