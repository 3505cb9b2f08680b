//! Setting a key of the fleet back: its law in the store, and its holds on all sidecars.
//!
//! The record of it is written first, then the law, which is in another slot of the store: a write that nobody recorded cannot
//! happen. The law is written by compare-and-set, like every step of it.

use std::time::Duration;

use redis::{RedisResult, Script};
use tidegate_core::effect::{Effect, Turn};
use tidegate_core::fleet::KnownLaw;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::state::Outlook;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Desk;
use super::elsewhere::{Errand, Letter, post};
use super::link::Connection;
use super::policy::PATIENCE;
use crate::durable::layout::encoded;
use crate::redis::{LAW, SIDECARS_KEY, law_arguments, ledger_key, named};
use crate::{Author, Change, NotDurable, Reset, ResetDone};

/// How often it is done anew because somebody moved the law on meanwhile.
const MOST_ATTEMPTS: usize = 8;

/// A law that is to be in the place of the one of version `expected`.
pub(super) struct LawWrite {
    pub(super) key: LimitKey,
    pub(super) expected: u64,
    pub(super) law: KnownLaw,
    pub(super) lasts: Duration,
    pub(super) tell: oneshot::Sender<bool>,
}

impl LawWrite {
    pub(super) async fn make(self, mut connection: Connection) -> RedisResult<()> {
        let script = Script::new(LAW);
        let mut call = script.key(ledger_key(self.key.as_ref()));
        call.arg(law_arguments(self.expected, &self.law, self.lasts));
        let written: i64 = call.invoke_async(&mut connection).await?;
        // Whoever asked may have given up.
        let _ = self.tell.send(written == 1);
        Ok(())
    }
}

fn away(why: impl Into<String>) -> NotDurable {
    NotDurable::Nothing(why.into())
}

impl Desk {
    pub(super) async fn reset_limit(
        &self,
        now: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> Result<Option<ResetDone>, NotDurable> {
        let key = reset.key.as_ref();
        let fingerprint = self.table.of_key(key);
        let mut is_recorded = false;
        for _ in 0..MOST_ATTEMPTS {
            let Some(known) = self.newest_law(key, 0).await? else {
                return Err(away(self.status.failure().unwrap_or_else(|| "it grants nothing yet".to_owned())));
            };
            let resolved = self.table.policy.load().resolve(key, now);
            let before = Outlook::of(now, key.phase_seconds(), known.law);
            if !self.table.has(fingerprint) && known.law.is_default(&resolved.bounds) {
                return Ok(None);
            }
            let mut after = before;
            after.reset(&reset.windows, &resolved.bounds);
            after.advance(now, &resolved);
            let mut effect = Effect::default();
            effect.compare(key, (&before, &resolved), (&after, &resolved));
            let (old, limits) = (before.limits(&resolved), after.limits(&resolved));
            let turns = PerWindow::from_fn(|window| Turn { before: old[window], after: limits[window] });
            let is_above = |window| limits[window] > resolved.bounds[window].floor_tpm();
            let boosted = PerWindow::from_fn(|window| reset.windows[window] && is_above(window));
            let held = if reset.drop_holds { self.table.held(now, fingerprint) } else { 0 };
            let done = ResetDone { effect, persisted: !dry_run, dropped_hold_tokens: held, boosted };
            if dry_run {
                return Ok(Some(done));
            }
            if !is_recorded {
                self.record_reset(now, author.clone(), format!("limit/{key}"), turns).await?;
                is_recorded = true;
            }
            let policy = self.policy_revision().max(known.policy);
            let law = KnownLaw { version: known.version + 1, policy, law: after.law(), limits };
            if !self.write_law(key, known.version, law).await? {
                continue;
            }
            if reset.drop_holds {
                self.table.drop_holds(now, fingerprint);
                self.on_news(now, key, Duration::ZERO);
                // Best effort: a sidecar that cannot be reached keeps its holds until they fade.
                let _ = self.elsewhere.errands.try_send(Errand::DropHolds(reset.key.clone()));
            }
            // So that this sidecar has it when this is answered. It is in the store in any case.
            let _ = self.newest_law(key, law.version).await;
            return Ok(Some(done));
        }
        Err(NotDurable::Perhaps(PATIENCE))
    }

    /// The law that the store has, of this version or later; `None` where it does not grant anything.
    async fn newest_law(&self, key: KeyRef<'_>, version: u64) -> Result<Option<KnownLaw>, NotDurable> {
        let fingerprint = self.table.of_key(key);
        for _ in 0..MOST_ATTEMPTS {
            let now = (self.now)();
            if !self.is_ready(now, key) {
                return Ok(None);
            }
            let told = self.question(now, key, |_| true).ok_or_else(|| away("too many wait for it"))?;
            timeout(PATIENCE, told).await.map_err(|_| away("it has not answered in time"))?.ok();
            let law = self.leases.get(&fingerprint).and_then(|lease| lease.lock().law);
            if let Some(law) = law.filter(|law| law.version >= version) {
                return Ok(Some(law));
            }
        }
        Ok(None)
    }

    async fn record_reset(
        &self,
        now: Timestamp,
        author: Author,
        object: String,
        turns: PerWindow<Turn>,
    ) -> Result<(), NotDurable> {
        let _turn = self.policy.turn().await?;
        for _ in 0..MOST_ATTEMPTS {
            let expected = self.known_stamp()?;
            let sequence = self.table.writing.lock().next();
            let (author, object) = (author.clone(), object.clone());
            let (before, after, limits) = (None, None, Some(turns));
            let change = Change { sequence, time: now, author, object, before, after, limits };
            let policy = (*self.table.policy.load_full()).clone();
            if self.submit(expected, policy, change, Vec::new()).await? {
                return Ok(());
            }
        }
        Err(away("other sidecars wrote all the time"))
    }

    async fn write_law(&self, key: KeyRef<'_>, expected: u64, law: KnownLaw) -> Result<bool, NotDurable> {
        let (tell, told) = oneshot::channel();
        let lasts = self.table.law_lasts((self.now)(), key, &law.law);
        let write = LawWrite { key: key.to_owned(), expected, law, lasts, tell };
        let errand = Errand::Law(Box::new(write));
        self.elsewhere.errands.try_send(errand).map_err(|_| away("too many writes wait for it"))?;
        match timeout(PATIENCE, told).await {
            Ok(Ok(is_written)) => Ok(is_written),
            Ok(Err(_)) | Err(_) => Err(NotDurable::Perhaps(PATIENCE)),
        }
    }

    /// Tells all other sidecars to drop the holds of a key.
    pub(super) async fn tell_all_to_drop(&self, mut connection: Connection, key: LimitKey) -> RedisResult<()> {
        let key = key.as_ref();
        let (account, model, variant) = (key.account().into(), key.model().into(), key.variant().into());
        let letter = encoded(&Letter::DropHolds { account, model, variant });
        let all: Vec<String> =
            redis::cmd("ZRANGE").arg(SIDECARS_KEY).arg(0).arg(-1).query_async(&mut connection).await?;
        let others = all.iter().filter_map(|name| u64::from_str_radix(name, 16).ok());
        for other in others.filter(|other| named(*other) != named(self.table.incarnation)) {
            post(&mut connection, other, &letter).await?;
        }
        Ok(())
    }

    /// Another sidecar says so.
    pub(super) fn drop_holds(&self, key: KeyRef<'_>) {
        let now = (self.now)();
        self.table.drop_holds(now, self.table.of_key(key));
        self.on_news(now, key, Duration::ZERO);
    }
}
