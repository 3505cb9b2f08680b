//! The clerk: one thread that carries reports to the ledger and answers back.
//!
//! Serving threads put keys into a bounded queue and wait, or do not. The clerk makes the report of a key when it takes it out,
//! so that all who joined meanwhile are in it. Each key has one report on its way at most.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{RedisResult, Script};
use tidegate_core::fleet::{Granted, Lost};
use tidegate_core::key::LimitKey;
use tidegate_core::time::Timestamp;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::address::Opener;
use super::desk::answer;
use super::elsewhere::MOST_CARRIED;
use super::lease::Said;
use super::link::{Backoff, Connection, described};
use super::policy::PolicyKeeper;
use super::request_id::claim::Write;
use super::{Desk, Orders};
use crate::redis::{
    LAW, LIFE, REPORT, REQUEST, SIDECARS, SIDECARS_KEY, SLOTS, arguments, granted, law_arguments, ledger_key, life_key,
    named, slot,
};
use crate::timers::Fingerprint;
use roll::Slots;

/// Reports on their way at a time.
const MOST_AT_ONCE: usize = 256;
/// How often leases that are due are looked for.
const LOOK: Duration = Duration::from_millis(20);
/// How often the ledger is asked who is there and whether its data are.
const ROLL_CALL: Duration = Duration::from_secs(1);
/// How often a newer policy is looked for.
const LOOK_FOR_POLICY: Duration = Duration::from_millis(300);
/// Roll calls from one look at the server's settings to the next: a minute.
const CALLS_PER_INSPECTION: u32 = 60;
/// How often one report is made anew because the law had to be moved on first, or the data were lost.
const MOST_ROUNDS: usize = 4;

/// How long a start waits for the first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

mod roll;

/// The thread.
pub(super) struct Clerk {
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Clerk {
    /// Starts it, and waits until decisions find the ledger ready: for a connection at most [`FIRST_CONNECTION`], and then for
    /// as long as a new ledger is silent. `patience` bounds both.
    pub(super) fn start(desk: Arc<Desk>, opener: Opener, orders: Orders, patience: Duration) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (tell_connected, connected) = std::sync::mpsc::channel();
        let (tell_ended, ended) = std::sync::mpsc::channel();
        let work = Work {
            desk: Arc::clone(&desk),
            report: Script::new(REPORT),
            law: Script::new(LAW),
            life: Script::new(LIFE),
            sidecars: Script::new(SIDECARS),
            request: Script::new(REQUEST),
            policy: PolicyKeeper::new(),
            ahead: Mutex::default(),
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            runtime.block_on(Arc::new(work).run(opener, orders, stopped, tell_connected));
            // Connections may still be closing; nobody waits for them.
            runtime.shutdown_background();
            let _ = tell_ended.send(());
        })?;
        if connected.recv_timeout(patience.min(FIRST_CONNECTION)).is_ok() {
            let now = (desk.now)();
            let ready_at = desk.slots.iter().map(|slot| slot.ready_at.load(Ordering::Relaxed));
            // Those that are away may be so for long.
            let ready_at = ready_at.filter(|ready_at| *ready_at < u64::MAX).max();
            let silence = Timestamp::from_micros(ready_at.unwrap_or(0)).since(now);
            std::thread::sleep(silence.min(patience));
        }
        Ok(Self { stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)), ended: Mutex::new(ended) })
    }

    /// Has the last reports made, and ends it. Waits for `patience` at most.
    pub(super) fn stop(&self, patience: Duration) {
        drop(self.stop.lock().take());
        let has_ended = self.ended.lock().recv_timeout(patience).is_ok();
        if let Some(thread) = self.thread.lock().take().filter(|_| has_ended) {
            // A panic was logged by its hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(self.stop.lock().take());
    }
}

/// What the thread works with.
struct Work {
    desk: Arc<Desk>,
    report: Script,
    law: Script,
    life: Script,
    sidecars: Script,
    request: Script,
    policy: PolicyKeeper,
    /// By how much the server's clock was ahead at the last roll call, microseconds.
    ahead: Mutex<Option<i64>>,
}

/// How serving on a connection ended.
enum Ended {
    Stopped,
    Broken(String),
}

impl Work {
    async fn run(
        self: Arc<Self>,
        mut opener: Opener,
        mut orders: Orders,
        mut stopped: oneshot::Receiver<()>,
        tell_connected: std::sync::mpsc::Sender<()>,
    ) {
        let mut backoff = Backoff::new(self.desk.table.incarnation);
        loop {
            let connected = tokio::select! {
                biased;
                _ = &mut stopped => return,
                connected = self.connect(&mut opener) => connected,
            };
            let failure = match connected {
                Ok((connection, mail, run_id)) => {
                    backoff.reset();
                    self.desk.status.on_connected(connection.is_cluster());
                    // Whoever started us may wait no longer.
                    let _ = tell_connected.send(());
                    match self.serve((&connection, mail), &run_id, &mut orders, &mut stopped).await {
                        Ended::Stopped => return self.farewell(&connection).await,
                        Ended::Broken(why) => why,
                    }
                }
                Err(error) => described(&error),
            };
            self.desk.status.on_failure(failure);
            let pause = tokio::time::sleep(backoff.pause());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    () = &mut pause => break,
                    Some(key) = orders.keys.recv() => self.desk.give_up(key),
                    Some(write) = orders.writes.recv() => write.refuse(),
                    // Whoever asked books it where it was asked.
                    Some(errand) = orders.errands.recv() => drop(errand),
                    Some(write) = orders.request_ids.recv() => drop(write),
                }
            }
        }
    }

    /// A connection on which everything is known that reports need, and another one for letters.
    async fn connect(&self, opener: &mut Opener) -> RedisResult<(Connection, Connection, String)> {
        let (mut connection, run_id) = opener.connect().await?;
        let (mail, _) = opener.connect().await?;
        let mut slots = Slots::default();
        for slot in 0..SLOTS {
            let learnt = self.learn_life(&mut connection, &run_id, slot, None).await;
            slots.found(&self.desk, &connection, slot, learnt.map(drop))?;
        }
        slots.any_answers()?;
        let is_known = connection.is_cluster() && self.desk.policy.is_shared();
        match self.learn_of_the_fleet(&mut connection).await {
            // It was known before: a Cluster can do without the slot that has it.
            Err(_) if is_known => self.desk.status.on_fleet(false),
            learnt => learnt?,
        }
        Ok((connection, mail, run_id))
    }

    /// What all sidecars have in common: the key of the checksums, and the policy.
    async fn learn_of_the_fleet(&self, connection: &mut Connection) -> RedisResult<()> {
        self.desk.give_checksum_key(connection, false).await?;
        self.desk.take_checksum_key(connection).await?;
        self.policy.keep(&self.desk, connection).await
    }

    async fn serve(
        self: &Arc<Self>,
        (connection, mail): (&Connection, Connection),
        run_id: &str,
        orders: &mut Orders,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Ended {
        let mut tasks: JoinSet<RedisResult<()>> = JoinSet::new();
        // Apart from reports: a sidecar that does not answer holds up no decision.
        let mut letters: JoinSet<RedisResult<()>> = JoinSet::new();
        let (desk, answers) = (Arc::clone(&self.desk), connection.clone());
        letters.spawn(async move { desk.read_letters(mail, answers).await });
        let (mut look, mut roll_call, mut calls) = (interval(LOOK), interval(ROLL_CALL), 0_u32);
        let mut policy = interval(LOOK_FOR_POLICY);
        policy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        roll_call.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = &mut *stopped => return Ended::Stopped,
                Some(done) = tasks.join_next() => {
                    if let Ok(Err(error)) = done {
                        return Ended::Broken(described(&error));
                    }
                }
                Some(done) = letters.join_next() => {
                    if let Ok(Err(error)) = done && !connection.is_cluster() {
                        return Ended::Broken(described(&error));
                    }
                }
                _ = look.tick() => self.desk.look(),
                _ = roll_call.tick() => {
                    let (work, connection, run_id) = (Arc::clone(self), connection.clone(), run_id.to_owned());
                    let inspects = calls.is_multiple_of(CALLS_PER_INSPECTION);
                    calls = calls.wrapping_add(1);
                    tasks.spawn(async move { work.call_roll(connection, run_id, inspects).await });
                }
                _ = policy.tick(), if !self.desk.status.is_fleet_away() => {
                    let (work, mut connection) = (Arc::clone(self), connection.clone());
                    tasks.spawn(async move {
                        let kept = work.policy.keep(&work.desk, &mut connection).await;
                        work.desk.status.on_fleet(kept.is_ok());
                        if connection.is_cluster() { Ok(()) } else { kept }
                    });
                }
                Some(write) = orders.writes.recv() => {
                    let (work, mut connection) = (Arc::clone(self), connection.clone());
                    tasks.spawn(async move {
                        let made = work.policy.make(&work.desk, &mut connection, write).await;
                        if connection.is_cluster() { Ok(()) } else { made }
                    });
                }
                Some(errand) = orders.errands.recv(), if letters.len() < MOST_CARRIED => {
                    let (desk, connection) = (Arc::clone(&self.desk), connection.clone());
                    letters.spawn(async move { desk.run(connection, errand).await });
                }
                Some(write) = orders.request_ids.recv(), if tasks.len() < MOST_AT_ONCE => {
                    let (work, connection) = (Arc::clone(self), connection.clone());
                    tasks.spawn(async move { work.write_request_id(connection, write).await });
                }
                Some(key) = orders.keys.recv(), if tasks.len() < MOST_AT_ONCE => {
                    let (work, connection, run_id) = (Arc::clone(self), connection.clone(), run_id.to_owned());
                    let asking = Asking { desk: Arc::clone(&self.desk), key, is_answered: false };
                    tasks.spawn(async move { work.carry(connection, &run_id, asking).await });
                }
            }
        }
    }

    /// Makes the report of a key, carries it there, and the answer back. In a Cluster it is the key's slot that fails.
    async fn carry(&self, connection: Connection, run_id: &str, asking: Asking) -> RedisResult<()> {
        if !connection.is_cluster() {
            return self.carry_there(connection, run_id, asking).await;
        }
        let slot = self.desk.leases.get(&asking.key).map(|lease| slot(lease.lock().key.as_ref()));
        let Some(slot) = slot.filter(|slot| !self.desk.status.is_slot_away(*slot)) else { return Ok(()) };
        if let Err(error) = self.carry_there(connection, run_id, asking).await {
            self.desk.on_slot_away(slot, &error);
        }
        Ok(())
    }

    async fn write_request_id(&self, connection: Connection, write: Write) -> RedisResult<()> {
        let (slot, is_cluster) = (write.slot(), connection.is_cluster());
        if is_cluster && self.desk.status.is_slot_away(slot) {
            return Ok(());
        }
        match write.make(&self.request, connection).await {
            Ok(()) => self.desk.status.on_answer(),
            Err(error) if is_cluster => self.desk.on_slot_away(slot, &error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn carry_there(&self, mut connection: Connection, run_id: &str, mut asking: Asking) -> RedisResult<()> {
        for _ in 0..MOST_ROUNDS {
            let Some((key, said)) = self.desk.say(asking.key) else { return Ok(()) };
            let answer = self.send(&mut connection, &key, &said).await?;
            let key = key.as_ref();
            match answer {
                Err(Lost) => {
                    let there = self.learn_life(&mut connection, run_id, slot(key), None).await?;
                    if there == said.life {
                        // The life is the same, and yet this sidecar said more than is there.
                        self.learn_life(&mut connection, run_id, slot(key), Some(there)).await?;
                    }
                }
                Ok(granted) => match self.desk.on_answer(asking.key, &said, &granted) {
                    None => {
                        asking.finish();
                        return Ok(());
                    }
                    Some((expected, from)) => {
                        let now = (self.desk.now)();
                        let (next, lasts) = self.desk.table.next_law(
                            now,
                            key,
                            from.as_ref(),
                            granted.epoch,
                            self.desk.policy_revision(),
                        );
                        let mut call = self.law.key(ledger_key(key));
                        call.arg(law_arguments(expected, &next, lasts));
                        // Whoever was first has written what comes to the same.
                        let _: i64 = call.invoke_async(&mut connection).await?;
                    }
                },
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        connection: &mut Connection,
        key: &LimitKey,
        said: &Said,
    ) -> RedisResult<Result<Granted, Lost>> {
        let began = (self.desk.now)();
        let mut call = self.report.key(ledger_key(key.as_ref()));
        call.key(life_key(slot(key.as_ref()))).arg(arguments(&said.report()));
        let answer: Vec<i64> =
            self.in_time(connection.clone(), slot(key.as_ref()), call.invoke_async(connection)).await?;
        let took = (self.desk.now)().since(began);
        self.desk.status.on_answer();
        self.desk.counters.on_report(took);
        granted(&answer).ok_or_else(|| {
            redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "the script's answer is not understood"))
        })
    }

    /// The last reports: what is not used goes back, and what is left leaves as they say.
    async fn farewell(self: Arc<Self>, connection: &Connection) {
        let mut tasks = JoinSet::new();
        for key in self.desk.close_all() {
            let (work, connection) = (Arc::clone(&self), connection.clone());
            let asking = Asking { desk: Arc::clone(&self.desk), key, is_answered: false };
            tasks.spawn(async move { work.carry(connection, "", asking).await });
            if tasks.len() >= MOST_AT_ONCE {
                tasks.join_next().await;
            }
        }
        while tasks.join_next().await.is_some() {}
        let me = named(self.desk.table.incarnation);
        let mut connection = connection.clone();
        let _: RedisResult<u64> = self.sidecars.key(SIDECARS_KEY).arg(&me).arg(0).invoke_async(&mut connection).await;
    }
}

/// A key whose report is to be made or on its way. Dropped without an answer, nobody knows whether it arrived.
struct Asking {
    desk: Arc<Desk>,
    key: Fingerprint,
    is_answered: bool,
}

impl Asking {
    fn finish(&mut self) {
        self.is_answered = true;
        if let Some(lease) = self.desk.leases.get(&self.key) {
            let waiters = lease.lock().finish((self.desk.now)());
            answer(waiters);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.is_answered {
            self.desk.give_up(self.key);
        }
    }
}
