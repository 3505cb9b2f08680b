//! Which data the store has, and which parts of a Cluster answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::{RedisError, RedisResult};
use tokio::task::JoinSet;

use super::Work;
use crate::fleet::Desk;
use crate::fleet::link::Connection;
use crate::redis::{SIDECARS_KEY, SLOTS, life_key, named};

/// A clock that is off by so much more or less than a roll call ago was stepped, microseconds.
const STEP: u64 = 500_000;
/// A sidecar that was not seen for so long is none.
const SEEN_MS: u64 = 10_000;

impl Work {
    /// The answer of a call about a slot. Where one of a Cluster has none in the time that a decision waits, the slot counts
    /// as away until it has.
    pub(super) async fn in_time<T>(
        &self,
        mut connection: Connection,
        slot: u64,
        call: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut call = std::pin::pin!(call);
        if !connection.is_cluster() {
            return call.await;
        }
        if let Ok(answer) = tokio::time::timeout(self.desk.settings.timeout, &mut call).await {
            return answer;
        }
        self.desk.on_slot_away(slot, &RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        let answer = call.await?;
        self.learn_life(&mut connection, "", slot, None).await?;
        Ok(answer)
    }

    /// Learns of the life of a slot's data, or begins another one where those of `lost` are.
    pub(super) async fn learn_life(
        &self,
        connection: &mut Connection,
        run_id: &str,
        slot: u64,
        lost: Option<u64>,
    ) -> RedisResult<u64> {
        let new = getrandom::u64().map_err(|error| redis::RedisError::from(std::io::Error::other(error)))?;
        let mut call = self.life.key(life_key(slot));
        call.arg(run_id).arg(named(new)).arg(lost.map(named).unwrap_or_default());
        let asked_at = (self.desk.now)();
        let (life, age_ms): (String, u64) = call.invoke_async(connection).await?;
        let life = u64::from_str_radix(&life, 16).unwrap_or(0);
        self.desk.on_life(asked_at, slot, life, age_ms);
        Ok(life)
    }

    /// Looks whether the data of a slot are those that were there, or whether they are there again.
    async fn look_at_life(&self, connection: &mut Connection, run_id: &str, slot: u64) -> RedisResult<()> {
        let life: Option<String> = redis::cmd("GET").arg(life_key(slot)).query_async(connection).await?;
        self.desk.status.on_answer();
        self.compare_life(connection, run_id, slot, life).await
    }

    async fn compare_life(
        &self,
        connection: &mut Connection,
        run_id: &str,
        slot: u64,
        life: Option<String>,
    ) -> RedisResult<()> {
        let is_known =
            life.and_then(|life| u64::from_str_radix(life.get(..16)?, 16).ok()) == Some(self.desk.life(slot));
        if !is_known || self.desk.status.is_slot_away(slot) {
            self.learn_life(connection, run_id, slot, None).await?;
        }
        Ok(())
    }

    /// Looks whether the server's clock was stepped. What leaves "in so many seconds" is said again then; where it went
    /// back, a life that has not begun yet is over. In a Cluster each server has its own: there it is not looked for.
    async fn look_at_clock(&self, connection: &mut Connection, run_id: &str) -> RedisResult<()> {
        let before = (self.desk.now)();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
        let now = (self.desk.now)();
        let there = seconds.saturating_mul(1_000_000).saturating_add(micros);
        let ahead = there.wrapping_sub(before.as_micros()).cast_signed();
        let Some(known) = self.ahead.lock().replace(ahead) else { return Ok(()) };
        let took = now.as_micros().saturating_sub(before.as_micros());
        if ahead.abs_diff(known) < STEP.saturating_add(took) {
            return Ok(());
        }
        self.desk.on_clock_step(now);
        for slot in (0..SLOTS).filter(|_| ahead < known) {
            self.learn_life(connection, run_id, slot, None).await?;
        }
        Ok(())
    }

    async fn looked_at(
        self: Arc<Self>,
        mut connection: Connection,
        run_id: String,
        slot: u64,
    ) -> (u64, RedisResult<()>) {
        (slot, self.look_at_life(&mut connection, &run_id, slot).await)
    }

    /// Says that this sidecar is there, and looks whether the data still are.
    pub(super) async fn call_roll(
        self: Arc<Self>,
        mut connection: Connection,
        run_id: String,
        inspects: bool,
    ) -> RedisResult<()> {
        if connection.is_cluster() {
            self.look_at_each(&connection, &run_id).await?;
        } else {
            self.look_at_clock(&mut connection, &run_id).await?;
            self.look_at_all(&mut connection, &run_id).await?;
        }
        let me = named(self.desk.table.incarnation);
        let mut call = self.sidecars.key(SIDECARS_KEY);
        let sidecars = call.arg(&me).arg(SEEN_MS).invoke_async::<u64>(&mut connection).await;
        self.desk.status.on_fleet(sidecars.is_ok());
        match sidecars {
            Ok(sidecars) => self.desk.sidecars.store(sidecars, Ordering::Relaxed),
            // As many as were seen last.
            Err(_) if connection.is_cluster() => {}
            Err(error) => return Err(error),
        }
        if inspects {
            *self.desk.counters.warnings.lock() = inspect(&mut connection).await;
        }
        Ok(())
    }

    /// One server: in one command.
    async fn look_at_all(&self, connection: &mut Connection, run_id: &str) -> RedisResult<()> {
        let places: Vec<String> = (0..SLOTS).map(life_key).collect();
        let lives: Vec<Option<String>> = redis::cmd("MGET").arg(places).query_async(connection).await?;
        self.desk.status.on_answer();
        for (slot, life) in (0..).zip(lives) {
            self.compare_life(connection, run_id, slot, life).await?;
        }
        Ok(())
    }

    /// A Cluster, of which some may be away.
    async fn look_at_each(self: &Arc<Self>, connection: &Connection, run_id: &str) -> RedisResult<()> {
        let mut slots = Slots::default();
        let mut looks = JoinSet::new();
        let status = &self.desk.status;
        let (away, present): (Vec<u64>, Vec<u64>) = (0..SLOTS).partition(|slot| status.is_slot_away(*slot));
        // Of those that are away, one is enough to see whether others are worth a look.
        let drawn = usize::try_from(getrandom::u64().unwrap_or(0) % SLOTS).unwrap_or(0);
        let tried = away.get(drawn % away.len().max(1)).copied();
        for slot in present.into_iter().chain(tried) {
            looks.spawn(Arc::clone(self).looked_at(connection.clone(), run_id.to_owned(), slot));
        }
        while let Some(Ok((slot, looked))) = looks.join_next().await {
            if looked.is_ok() && tried == Some(slot) {
                for slot in away.iter().filter(|other| **other != slot) {
                    looks.spawn(Arc::clone(self).looked_at(connection.clone(), run_id.to_owned(), *slot));
                }
            }
            slots.found(&self.desk, connection, slot, looked)?;
        }
        slots.any_answers()
    }
}

/// Which slots answered, of all of them.
#[derive(Default)]
pub(super) struct Slots {
    answer: bool,
    failure: Option<RedisError>,
}

impl Slots {
    /// What was found of a slot. A server that fails at one of them is away.
    pub(super) fn found(
        &mut self,
        desk: &Desk,
        connection: &Connection,
        slot: u64,
        found: RedisResult<()>,
    ) -> RedisResult<()> {
        match found {
            Ok(()) => self.answer = true,
            Err(error) if connection.is_cluster() => {
                desk.on_slot_away(slot, &error);
                self.failure = Some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A Cluster of which nothing answers is away.
    pub(super) fn any_answers(self) -> RedisResult<()> {
        self.failure.filter(|_| !self.answer).map_or(Ok(()), Err)
    }
}

/// What an operator should know of the server's settings. What may not be asked is not known.
async fn inspect(connection: &mut Connection) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut setting = async |name: &str| -> Option<String> {
        let answer: RedisResult<Vec<String>> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        answer.ok()?.into_iter().nth(1)
    };
    if let Some(policy) = setting("maxmemory-policy").await.filter(|policy| policy != "noeviction") {
        warnings.push(format!(
            "maxmemory-policy is {policy}: short of memory, the server drops what limits rest on; set it to noeviction"
        ));
    }
    if let (Some(appendonly), Some(save)) = (setting("appendonly").await, setting("save").await)
        && appendonly == "no"
        && save.is_empty()
    {
        warnings.push(
            "the server keeps nothing on disk: limits above their floors are lost when it restarts while no sidecar runs"
                .to_owned(),
        );
    }
    warnings
}
