//! The link to the shared store: connections, and whether it answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use super::address::Opener;
use crate::redis::SLOTS;

/// Longest that a connection may take to be there.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// Longest that an answer may take, before the connection counts as broken. Whoever decides has long gone on by then.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// Time between two attempts to connect: at first, and at most. Spread by half of it both ways.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection, to one server or to a Cluster.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Whether it leads to several servers, of which one can be away while the others answer.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

impl Opener {
    /// A connection to a server that takes writes, and the run id of that server; empty for a Cluster, which has many.
    pub(super) async fn connect(&mut self) -> RedisResult<(Connection, String)> {
        let config =
            || AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        match self {
            Self::Servers(clients) => {
                let mut failure = None;
                for client in clients {
                    match client.get_multiplexed_async_connection_with_config(&config()).await {
                        Ok(connection) => match run_id(connection).await {
                            Ok(found) => return Ok(found),
                            Err(error) => failure = Some(error),
                        },
                        Err(error) => failure = Some(error),
                    }
                }
                Err(failure.unwrap_or_else(no_server))
            }
            Self::Sentinel(client) => run_id(client.get_async_connection_with_config(&config()).await?).await,
            Self::Cluster(client) => {
                let connection = client.get_async_connection().await?;
                Ok((Connection::Cluster(connection), String::new()))
            }
        }
    }
}

/// The run id of a server, if it takes writes.
async fn run_id(mut connection: MultiplexedConnection) -> RedisResult<(Connection, String)> {
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let role: Value = redis::cmd("ROLE").query_async(&mut connection).await?;
    let is_master = matches!(&role, Value::Array(parts) if parts.first().is_some_and(is_master));
    if !is_master {
        return Err(RedisError::from((redis::ErrorKind::Client, "the server is a replica and takes no writes")));
    }
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
    let run_id = run_id.trim().chars().filter(char::is_ascii_alphanumeric).collect();
    Ok((Connection::Server(connection), run_id))
}

fn is_master(role: &Value) -> bool {
    match role {
        Value::BulkString(bytes) => bytes == b"master",
        Value::SimpleString(text) => text == "master",
        _ => false,
    }
}

fn no_server() -> RedisError {
    RedisError::from((redis::ErrorKind::Client, "no server is named"))
}

/// Pauses between attempts to connect, spread so that a fleet does not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    middle: Duration,
    draws: u64,
}

impl Backoff {
    pub(super) const fn new(seed: u64) -> Self {
        Self { middle: FIRST_PAUSE, draws: seed | 1 }
    }

    pub(super) fn reset(&mut self) {
        self.middle = FIRST_PAUSE;
    }

    pub(super) fn pause(&mut self) -> Duration {
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        let permille = u32::try_from(500 + self.draws % 1_001).unwrap_or(1_000);
        let pause = self.middle * permille / 1_000;
        self.middle = (self.middle * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Whether the store answers.
#[derive(Debug, Default)]
pub(super) struct Status {
    is_connected: AtomicBool,
    /// It is a Cluster: what is slow or away is known for each slot.
    is_cluster: AtomicBool,
    /// Somebody waited in vain, and nothing was answered since.
    is_slow: AtomicBool,
    /// The slots of a Cluster that do not answer, a bit for each.
    away: AtomicU64,
    /// Nor does that of what the whole fleet has in common.
    is_fleet_away: AtomicBool,
    pub(super) failures: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Status {
    pub(super) fn answers(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed) && !self.is_slow.load(Ordering::Relaxed)
    }

    pub(super) fn on_connected(&self, is_cluster: bool) {
        self.is_cluster.store(is_cluster, Ordering::Relaxed);
        self.is_fleet_away.store(false, Ordering::Relaxed);
        self.is_slow.store(false, Ordering::Relaxed);
        self.is_connected.store(true, Ordering::Relaxed);
        *self.failure.lock() = None;
    }

    pub(super) fn on_answer(&self) {
        self.is_slow.store(false, Ordering::Relaxed);
    }

    /// Somebody waited in vain. One key says nothing of the others in a Cluster: see [`Status::on_slot_away`].
    pub(super) fn on_slow(&self) {
        if !self.is_cluster.load(Ordering::Relaxed) {
            self.is_slow.store(true, Ordering::Relaxed);
        }
    }

    /// A slot of a Cluster does not answer.
    pub(super) fn on_slot_away(&self, slot: u64, why: String) {
        let before = self.away.fetch_or(1 << slot, Ordering::Relaxed);
        if before & (1 << slot) == 0 {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        *self.failure.lock() = Some(why);
    }

    pub(super) fn on_slot_answer(&self, slot: u64) {
        self.away.fetch_and(!(1 << slot), Ordering::Relaxed);
    }

    /// Whether what the whole fleet has in common was reached: its policy, and who is there.
    pub(super) fn on_fleet(&self, answers: bool) {
        self.is_fleet_away.store(!answers, Ordering::Relaxed);
    }

    pub(super) fn is_fleet_away(&self) -> bool {
        self.is_fleet_away.load(Ordering::Relaxed)
    }

    pub(super) fn is_slot_away(&self, slot: u64) -> bool {
        self.away.load(Ordering::Relaxed) & (1 << slot) != 0
    }

    /// How many slots of a Cluster do not answer.
    pub(super) fn slots_away(&self) -> u64 {
        self.away.load(Ordering::Relaxed).count_ones().into()
    }

    pub(super) fn on_failure(&self, why: String) {
        self.is_connected.store(false, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.failure.lock() = Some(why);
    }

    /// Why it does not answer, or not for all keys.
    pub(super) fn failure(&self) -> Option<String> {
        let (answers, away) = (self.answers(), self.slots_away());
        if answers && away == 0 {
            return None;
        }
        let failure = self.failure.lock().clone();
        let failure = failure.unwrap_or_else(|| "it has not answered in time".to_owned());
        Some(if answers { format!("for {away} of {SLOTS} slots of keys: {failure}") } else { failure })
    }
}

/// What went wrong, in words that hold no secret: the library's errors may repeat what was sent.
pub(super) fn described(error: &RedisError) -> String {
    let code = error.code().map(|code| format!("{code}: ")).unwrap_or_default();
    if error.is_timeout() {
        return "it has not answered in time".to_owned();
    }
    if error.is_io_error() {
        return format!("{code}{error}");
    }
    format!("{code}{}", error.category())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_no_two_sidecars_take_the_same() {
        let mut one = Backoff::new(7);
        let pauses: Vec<Duration> = (0..20).map(|_| one.pause()).collect();
        assert!(pauses[0] <= FIRST_PAUSE * 3 / 2 && pauses[0] >= FIRST_PAUSE / 2);
        assert!(pauses[10..].iter().all(|pause| (LONGEST_PAUSE / 2..=LONGEST_PAUSE * 3 / 2).contains(pause)));
        let mut other = Backoff::new(8_888);
        assert_ne!(pauses, (0..20).map(|_| other.pause()).collect::<Vec<_>>());
        one.reset();
        assert!(one.pause() <= FIRST_PAUSE * 3 / 2);
    }

    #[test]
    fn a_store_that_was_slow_answers_again_with_its_next_answer() {
        let status = Status::default();
        assert!(!status.answers());
        status.on_connected(false);
        assert!(status.answers() && status.failure().is_none());
        status.on_slow();
        assert!(!status.answers() && status.failure().is_some());
        status.on_answer();
        assert!(status.answers());
        status.on_failure("gone".to_owned());
        assert_eq!(status.failure().as_deref(), Some("gone"));
    }

    #[test]
    fn a_slot_of_a_cluster_that_does_not_answer_says_nothing_of_the_others() {
        let status = Status::default();
        status.on_connected(true);
        status.on_slow();
        (0..2).for_each(|_| status.on_slot_away(63, "gone".to_owned()));
        assert_eq!(status.failures.load(Ordering::Relaxed), 1);
        assert!(status.answers() && status.is_slot_away(63) && !status.is_slot_away(62));
        assert_eq!(status.failure().as_deref(), Some("for 1 of 64 slots of keys: gone"));
        status.on_slot_answer(63);
        assert_eq!(status.failure(), None);
    }
}
