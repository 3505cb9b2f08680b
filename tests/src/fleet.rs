//! Sidecars that share one Redis, each with clients of its own, and one ledger over all that these were told.

use std::time::Duration;

use crate::crowd::{Balance, Behaviour, Crowd, Told, balance};
use crate::page::Page;
use crate::redis;
use crate::server::{Server, Setup};

/// The limit of the one account, in each window, tokens a minute.
pub const LIMIT: u64 = 600_000;
/// Tokens of a request: a thousandth of the limit.
pub const TOKENS: u64 = 600;
/// The account.
pub const ACCOUNT: &str = "shared";

/// Sidecars on one store.
#[derive(Debug)]
pub struct Fleet {
    /// Those that run.
    pub sidecars: Vec<Server>,
}

/// How to start a sidecar that shares limits through the store at `url`; degraded, it does `degrade`.
#[must_use]
pub fn setup(url: &str, degrade: &str, expected: usize) -> Setup {
    let bounds = format!("{{ floor = {LIMIT}, ceiling = {LIMIT} }}");
    let config = format!(
        "[store]\nurl = \"redis://127.0.0.1:1\"\ndegrade = \"{degrade}\"\nexpected_sidecars = {expected}\n\
         [tiers.tier-1.bounds]\nprompt = {bounds}\nuncached_prompt = {bounds}\ngenerated = {bounds}\n"
    );
    Setup::release().config(&config).environment("TIDEGATE_STORE", url)
}

impl Fleet {
    /// So many sidecars on this server, closed while it is away.
    #[must_use]
    pub fn start(count: usize, store: &redis::Server) -> Self {
        Self::start_with(count, &store.url(), &["--store-mode", "leased"])
    }

    /// As [`Fleet::start`], with these flags.
    #[must_use]
    pub fn start_with(count: usize, url: &str, flags: &[&str]) -> Self {
        let start = || setup(url, "closed", 0).arguments(flags.iter().copied()).start();
        // The first one waits for the new store, the others find it ready.
        Self { sidecars: (0..count).map(|_| start()).collect() }
    }

    /// So many clients on the sidecar `which`, each of which asks once in `pause`.
    #[must_use]
    pub fn crowd(&self, which: usize, clients: usize, pause: Duration) -> Crowd {
        let behaviour = Behaviour {
            accounts: vec![ACCOUNT.to_owned()],
            limit: LIMIT,
            tokens: TOKENS,
            connections: 1,
            clients,
            pause,
        };
        Crowd::start(&behaviour, self.sidecars[which].limiter())
    }

    /// The sum of a row of the metrics pages of all that run.
    #[must_use]
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecars.iter().map(|sidecar| Page::scrape(sidecar.http()).sum(metric, labels)).sum()
    }
}

/// All that clients of several sidecars were told, as if they were of one.
#[must_use]
pub fn together(told: impl IntoIterator<Item = Told>) -> Told {
    let mut all = Told::default();
    for told in told {
        all.add(told);
    }
    all
}

/// The verdict of the ledger over all of them.
///
/// # Panics
/// If in some trailing minute more was admitted than the limit.
#[must_use]
pub fn assert_within(told: &Told) -> Balance {
    let balance = balance(told, LIMIT, &[]);
    assert!(balance.fullest_permille <= 1_000, "above the limit: {balance:?}");
    balance
}
