//! `WatchLimits`: the limits of the keys that match, and then what changes about them.
//!
//! Each watch walks the table once an interval, a page at a time, and remembers two hashes for each key that it has sent.
//! Rejected: telling the watches about each decision, which would put them on the hot path.
//!
//! What a watch may hold is bounded: one page of at most 10,000 rows (11 MB with the longest names), two messages (one waits
//! for its reader, one behind it, 1.5 MB each) and the marks of at most 100,000 keys twice (the walk before and this one,
//! 4.5 MB): less than 20 MB, times 64 watches.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::convert::admin::{watch_interval, wire_enforcement};
use tidegate_proto::{error, v1};
use tidegate_store::{KeyLimits, ListQuery, Place, Store};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Admin;
use super::list::key_limits;
use crate::clock::Clock;
use crate::connection::Places;
use crate::metrics::{Metrics, ServerBound};
use crate::readiness::Readiness;

/// Watches at a time; the next one is refused.
const MOST_WATCHES: usize = 64;
/// Limit keys that one watch may match.
const MOST_KEYS: usize = 100_000;
/// Rows that a walk reads at a time: the store goes through its whole table for each page.
const PAGE_ROWS: usize = 10_000;
/// Rows of a message: with the longest names, about 1 MB of the 4 MiB that clients take.
const MESSAGE_ROWS: usize = 1_000;
/// A page that took this long or longer is followed by nine times as long for others: the thread accepts connections too.
const REST_FROM: Duration = Duration::from_micros(100);
const REST_TIMES: u32 = 9;
/// When a client that was refused should come back.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// What a watch answers with.
pub type LimitsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchLimitsResponse, Status>> + Send>>;

/// The watches under way, at most 64. Clones share them.
#[derive(Clone, Debug)]
pub struct Watches {
    places: Places,
    /// Whoever reads the table: one page at a time, and the rest after it.
    turn: Arc<Mutex<()>>,
    /// Counts refusals, and says when to end; without it, only the client ends a watch.
    process: Option<(Arc<Metrics>, Readiness)>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { places: Places::new(MOST_WATCHES), turn: Arc::default(), process: None }
    }
}

impl Watches {
    /// None yet; they will end when the process stops.
    pub(crate) fn new(metrics: Arc<Metrics>, readiness: Readiness) -> Self {
        Self { process: Some((metrics, readiness)), ..Self::default() }
    }
}

impl<S: Store> Admin<S> {
    /// Starts a watch. It ends when the client goes, when the process stops, or with an error when it grows too wide.
    pub(super) fn watch(&self, wire: v1::WatchLimitsRequest) -> Result<LimitsStream, Status> {
        let every = watch_interval(&wire)?;
        let Some(place) = self.watches.places.try_take() else {
            if let Some((metrics, _)) = &self.watches.process {
                metrics.on_bound_reached(ServerBound::Watches);
            }
            let message = format!("{MOST_WATCHES} watches are under way");
            return Err(error::unavailable(error::TOO_BUSY, message, BUSY_RETRY));
        };
        let v1::WatchLimitsRequest { account, model, variant, .. } = wire;
        let query = ListQuery { account, model, variant, page_size: PAGE_ROWS, ..ListQuery::default() };
        let (store, clock, turn) = (Arc::clone(&self.store), self.clock.clone(), Arc::clone(&self.watches.turn));
        // One message: a walk begins when its reader has taken all of the walk before.
        let (sender, receiver) = channel(1);
        let (sent, told) = (Sent::default(), v1::Enforcement::Unspecified);
        let watch = Watch { store, clock, turn, query, sent, told, sender: sender.clone() };
        let readiness = self.watches.process.as_ref().map(|(_, readiness)| readiness.clone());
        tokio::spawn(async move {
            let _place = place;
            let stopping = async move {
                match readiness {
                    Some(readiness) => readiness.stopping().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = watch.run(every) => {}
                () = sender.closed() => {}
                () = stopping => {}
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// One watch under way.
struct Watch<S> {
    store: Arc<S>,
    clock: Clock,
    turn: Arc<Mutex<()>>,
    query: ListQuery,
    sent: Sent,
    /// Where the global switch stood when the client was last told.
    told: v1::Enforcement,
    sender: Sender<Result<v1::WatchLimitsResponse, Status>>,
}

/// Why a watch ends by itself.
enum End {
    ClientGone,
    TooWide,
}

impl<S: Store> Watch<S> {
    async fn run(mut self, every: Duration) {
        let mut rounds = interval(every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = true;
        loop {
            rounds.tick().await;
            match self.walk(first).await {
                Ok(()) => first = false,
                Err(End::ClientGone) => return,
                Err(End::TooWide) => {
                    let message = format!("more than {MOST_KEYS} limit keys match: narrow the filters");
                    // Whoever is gone need not hear it.
                    let _ = self.sender.send(Err(error::failed_precondition(error::WATCH_TOO_WIDE, message))).await;
                    return;
                }
            }
        }
    }

    /// Looks at every key that matches, and sends those that changed.
    async fn walk(&mut self, first: bool) -> Result<(), End> {
        let mut answered = false;
        self.query.after = None;
        loop {
            let page = {
                let _turn = self.turn.lock().await;
                let start = self.clock.read();
                self.query.denied_as_of = start.now;
                let page = self.store.list_limits(start.now, &self.query).await;
                let took = Duration::from_secs_f64(self.clock.seconds_since(&start));
                if took >= REST_FROM {
                    sleep(took * REST_TIMES).await;
                }
                page
            };
            let policy = self.store.policy();
            let mut changed = Vec::new();
            for row in &page.rows {
                let limits = key_limits(&policy, row);
                if self.sent.on_row(row, &limits.tier).ok_or(End::TooWide)? {
                    changed.push(limits);
                }
                if changed.len() == MESSAGE_ROWS {
                    answered = true;
                    self.send(std::mem::take(&mut changed)).await?;
                }
            }
            if !page.more {
                if !changed.is_empty() || (first && !answered) || self.told != self.switch() {
                    self.send(changed).await?;
                }
                self.sent.on_end();
                return Ok(());
            }
            if !changed.is_empty() {
                answered = true;
                self.send(changed).await?;
            }
            let last = page.rows.into_iter().next_back();
            self.query.after = last.map(|row| Place { denied: Reverse(0), key: row.key });
        }
    }

    fn switch(&self) -> v1::Enforcement {
        wire_enforcement(Some(self.store.policy().enforcement().enforcement))
    }

    async fn send(&mut self, limits: Vec<v1::KeyLimits>) -> Result<(), End> {
        self.told = self.switch();
        let news = v1::WatchLimitsResponse { limits, enforcement: self.told.into() };
        self.sender.send(Ok(news)).await.map_err(|_| End::ClientGone)
    }
}

/// What was sent about which key, as two hashes of 64 bits. Where two keys share theirs, which happens in one of
/// 3 * 10^9 full watches, one of the two is sent in every round, changed or not.
#[derive(Debug, Default)]
struct Sent {
    hasher: RandomState,
    before: HashMap<u64, u64>,
    now: HashMap<u64, u64>,
}

impl Sent {
    /// Whether `row` has changed since it was last seen; `None`: one key too many.
    fn on_row(&mut self, row: &KeyLimits, tier: &str) -> Option<bool> {
        let windows = row.windows.iter().map(|(_, status)| {
            // Neither `reset_after`, which runs by itself, nor `binding`, which is of a decision.
            let bounds = [status.floor_tpm, status.ceiling_tpm, status.limit_tpm, status.effective_limit_tpm];
            (bounds, [status.used_tokens, status.held_tokens, status.remaining_tokens])
        });
        let windows = windows.collect::<Vec<_>>();
        // A pressure that glides changes a key of which nothing else changes once a percent.
        let pressure = row.pressure_permille.map(|permille| permille / 10);
        let counts = (row.reservations, row.denied_requests, row.enforcement, pressure);
        let mark = self.hasher.hash_one((windows, counts, tier));
        let key = row.key.as_ref();
        let key = self.hasher.hash_one((key.account(), key.model(), key.variant()));
        if self.now.len() >= MOST_KEYS && !self.now.contains_key(&key) {
            return None;
        }
        self.now.insert(key, mark);
        Some(self.before.get(&key) != Some(&mark))
    }

    /// The walk is over: keys that it did not see are forgotten.
    fn on_end(&mut self) {
        std::mem::swap(&mut self.before, &mut self.now);
        self.now.clear();
    }
}

#[cfg(test)]
mod tests;
