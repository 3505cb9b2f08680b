//! A crowd of clients of a server that goes away and comes back: what they were told, and a ledger over it.
//!
//! The ledger stands outside of the server. It books each ALLOW with when it was sent and answered, and never looks at a counter
//! of the server. Of the ALLOWs of a key that were answered by some instant and sent within the 60 s before it, whichever was
//! decided last has seen all the others, so together they fit the limit; but for those that a killed process took with it,
//! which are those answered in its last second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{Decision, SettleOutcome, SettleRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::gateway::Ask;

/// The trailing minute.
const WINDOW: Duration = Duration::from_secs(60);
/// What a crash may take: what was answered within this before it.
pub const LAST_SECOND: Duration = Duration::from_secs(1);
/// Answers that were on their way when the process was killed arrive within this.
const ON_THEIR_WAY: Duration = Duration::from_millis(500);
/// Longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a crowd behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Accounts, each with one key. They must have this limit in every window.
    pub accounts: Vec<String>,
    /// Tokens a minute.
    pub limit: u64,
    /// Prompt tokens of a request, none cached; it generates as many.
    pub tokens: u64,
    /// Connections, and clients on each.
    pub connections: usize,
    /// Clients on each connection.
    pub clients: usize,
    /// How long each waits between two requests.
    pub pause: Duration,
    /// Of so many reservations one is not settled; 0: all are.
    pub one_open_in: usize,
}

/// An ALLOW.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Index of the account.
    pub account: usize,
    /// When it was sent, and answered.
    pub sent: Instant,
    /// See `sent`.
    pub received: Instant,
    /// What it charged.
    pub tokens: u64,
    /// The reservation.
    pub id: String,
    /// When its settlement was answered, if it was.
    pub settled: Option<Instant>,
}

/// What the crowd was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Every ALLOW.
    pub allowed: Vec<Allowed>,
    /// Decisions answered, ALLOW or not.
    pub decisions: u64,
    /// Settlements that took effect.
    pub settled: u64,
    /// Settlements of live reservations that took effect as if they had ended.
    pub late: u64,
    /// Calls without an answer.
    pub lost_calls: u64,
    /// Longest time from a call to its answer.
    pub slowest: Duration,
}

/// Clients that ask and settle until they are told to stop.
pub struct Crowd {
    clients: JoinSet<Told>,
    address: watch::Sender<String>,
    stop: Arc<AtomicBool>,
}

#[expect(clippy::disallowed_methods, reason = "what really happened is measured in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Told {
    /// Adds what others were told.
    pub fn add(&mut self, other: Self) {
        self.allowed.extend(other.allowed);
        self.decisions += other.decisions;
        self.settled += other.settled;
        self.late += other.late;
        self.lost_calls += other.lost_calls;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl Crowd {
    /// Lets clients loose on the limiter at `address`.
    #[must_use]
    pub fn start(behaviour: &Behaviour, address: &str) -> Self {
        let (sender, receiver) = watch::channel(address.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for connection in 0..behaviour.connections {
            let shared: Shared = Arc::default();
            for client in 0..behaviour.clients {
                let seed = (connection * behaviour.clients + client) as u64;
                let client = Client {
                    behaviour: behaviour.clone(),
                    address: receiver.clone(),
                    stop: Arc::clone(&stop),
                    shared: Arc::clone(&shared),
                    draws: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
                    told: Told::default(),
                };
                clients.spawn(client.run());
            }
        }
        Self { clients, address: sender, stop }
    }

    /// The server is at another address now.
    pub fn moved(&self, address: &str) {
        self.address.send_replace(address.to_owned());
    }

    /// Ends the load and adds up what all were told.
    pub async fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        while let Some(told) = self.clients.join_next().await {
            all.add(told.expect("no client panics"));
        }
        all
    }
}

/// A channel, and the address that it leads to.
type Shared = Arc<Mutex<Option<(String, Channel)>>>;

struct Client {
    behaviour: Behaviour,
    address: watch::Receiver<String>,
    stop: Arc<AtomicBool>,
    shared: Shared,
    draws: u64,
    told: Told,
}

impl Client {
    async fn run(mut self) -> Told {
        while !self.stop.load(Ordering::SeqCst) {
            self.once().await;
            tokio::time::sleep(self.behaviour.pause).await;
        }
        self.told
    }

    fn draw(&mut self, below: usize) -> usize {
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        usize::try_from(self.draws % below as u64).unwrap_or(0)
    }

    /// The connection to where the server is now.
    fn channel(&self) -> Channel {
        let address = self.address.borrow().clone();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some((at, channel)) if *at == address => channel.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
                let channel = endpoint.connect_lazy();
                *shared = Some((address, channel.clone()));
                channel
            }
        }
    }

    async fn once(&mut self) {
        let account = self.draw(self.behaviour.accounts.len());
        let tokens = self.behaviour.tokens;
        let ask = Ask::of(&self.behaviour.accounts[account]).tokens(tokens, tokens, tokens);
        let sent = now();
        let mut call = Request::new(ask.request);
        call.set_timeout(PATIENCE);
        let answer = RateLimiterServiceClient::new(self.channel()).check_and_reserve(call).await;
        let received = now();
        let Ok(answer) = answer.map(tonic::Response::into_inner) else {
            self.told.lost_calls += 1;
            return tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.told.decisions += 1;
        self.told.slowest = self.told.slowest.max(received - sent);
        if answer.decision() != Decision::Allow {
            return;
        }
        let id = answer.reservation_id;
        let index = self.told.allowed.len();
        self.told.allowed.push(Allowed { account, sent, received, tokens, id: id.clone(), settled: None });
        // Some are left for later; the others end after up to a tenth of a second.
        let one_open_in = self.behaviour.one_open_in;
        if one_open_in == 0 || self.draw(one_open_in) > 0 {
            let wait = Duration::from_millis(self.draw(100) as u64);
            tokio::time::sleep(wait).await;
            if let Some(outcome) = self.settle(&id, tokens).await {
                self.told.allowed[index].settled = Some(now());
                match outcome {
                    SettleOutcome::Applied => self.told.settled += 1,
                    _ => self.told.late += 1,
                }
            }
        }
    }

    async fn settle(&self, id: &str, generated: u64) -> Option<SettleOutcome> {
        settle(self.channel(), id, generated).await
    }
}

/// Settles a reservation as it was admitted; `None` where no answer came.
pub async fn settle(channel: Channel, id: &str, generated: u64) -> Option<SettleOutcome> {
    let request =
        SettleRequest { reservation_id: id.to_owned(), generated_tokens: Some(generated), ..SettleRequest::default() };
    let mut call = Request::new(request);
    call.set_timeout(PATIENCE);
    let answer = RateLimiterServiceClient::new(channel).settle(call).await;
    answer.ok().map(|answer| answer.into_inner().outcome())
}

/// What the ledger found.
#[derive(Clone, Debug, Default)]
pub struct Balance {
    /// Most that one key was allowed in a trailing minute, without what crashes may have taken; permille of its limit.
    pub fullest_permille: u64,
    /// The same with it.
    pub fullest_with_lost_permille: u64,
    /// ALLOWs that a crash may have taken, and all.
    pub lost: usize,
    /// See `lost`.
    pub allows: usize,
}

/// Whether a process that was killed then may have taken what was answered at `received`.
fn taken(received: Instant, sent: Instant, kills: &[Instant]) -> bool {
    kills.iter().any(|kill| received + LAST_SECOND >= *kill && sent <= *kill && received <= *kill + ON_THEIR_WAY)
}

/// Goes over all ALLOWs of all keys.
#[must_use]
pub fn balance(told: &Told, limit: u64, kills: &[Instant]) -> Balance {
    let mut by_account: BTreeMap<usize, Vec<&Allowed>> = BTreeMap::new();
    for allowed in &told.allowed {
        by_account.entry(allowed.account).or_default().push(allowed);
    }
    let mut balance = Balance { allows: told.allowed.len(), ..Balance::default() };
    for allowed in by_account.values_mut() {
        allowed.sort_by_key(|allowed| allowed.received);
        // In the order of when they were sent: those that have left the minute go first.
        let mut within: BinaryHeap<Reverse<(Instant, u64, bool)>> = BinaryHeap::new();
        let (mut sum, mut sum_with_lost) = (0, 0);
        for next in allowed {
            let lost = taken(next.received, next.sent, kills);
            balance.lost += usize::from(lost);
            while let Some(Reverse((sent, tokens, was_lost))) = within.peek().copied() {
                if sent + WINDOW > next.received {
                    break;
                }
                within.pop();
                sum_with_lost -= tokens;
                sum -= if was_lost { 0 } else { tokens };
            }
            within.push(Reverse((next.sent, next.tokens, lost)));
            sum_with_lost += next.tokens;
            sum += if lost { 0 } else { next.tokens };
            balance.fullest_permille = balance.fullest_permille.max(sum * 1_000 / limit);
            balance.fullest_with_lost_permille = balance.fullest_with_lost_permille.max(sum_with_lost * 1_000 / limit);
        }
    }
    balance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(start: Instant, millis: u64, tokens: u64) -> Allowed {
        let sent = start + Duration::from_millis(millis);
        Allowed {
            account: 0,
            sent,
            received: sent + Duration::from_millis(2),
            tokens,
            id: String::new(),
            settled: None,
        }
    }

    #[test]
    fn the_ledger_finds_a_fresh_budget_and_excuses_the_last_second_alone() {
        let start = now();
        let kill = start + Duration::from_secs(10);
        let of = |allowed: Vec<Allowed>| Told { allowed, ..Told::default() };
        let full = |told: &Told, kills: &[Instant]| {
            let balance = balance(told, 100, kills);
            (balance.fullest_permille, balance.fullest_with_lost_permille)
        };
        let fresh = of(vec![allowed(start, 0, 100), allowed(start, 12_000, 60)]);
        assert_eq!(full(&fresh, &[kill]), (1_600, 1_600));
        let last_second = of(vec![allowed(start, 9_500, 60), allowed(start, 12_000, 100)]);
        assert_eq!(full(&last_second, &[kill]), (1_000, 1_600));
        assert_eq!(full(&last_second, &[]), (1_600, 1_600));
        let apart = of(vec![allowed(start, 0, 100), allowed(start, 60_003, 100)]);
        assert_eq!(full(&apart, &[kill]), (1_000, 1_000));
    }
}
