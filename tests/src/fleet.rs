//! Sidecars that share one Redis, each with clients of its own, and one ledger over all that these were told.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidegate_core::key::KeyRef;
use tidegate_proto::v1::DenyReason;
use tidegate_store::redis::ledger_key;

use crate::crowd::{Balance, Behaviour, Crowd, Told, balance};
use crate::gateway::{Answer, Ask, Gateway};
use crate::page::Page;
use crate::patience::until;
use crate::redis::{self, Cluster};
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
    setup_that_waits(url, degrade, expected, Duration::from_millis(5))
}

/// As [`setup`], where a decision waits so long for the store: a busy machine does not always answer in the default.
#[must_use]
pub fn setup_that_waits(url: &str, degrade: &str, expected: usize, timeout: Duration) -> Setup {
    let timeout = timeout.as_millis();
    let bounds = format!("{{ floor = {LIMIT}, ceiling = {LIMIT} }}");
    let config = format!(
        "[store]\nurl = \"redis://127.0.0.1:1\"\ntimeout = \"{timeout}ms\"\n\
         degrade = \"{degrade}\"\nexpected_sidecars = {expected}\n\
         [tiers.tier-1.bounds]\nprompt = {bounds}\nuncached_prompt = {bounds}\ngenerated = {bounds}\n"
    );
    Setup::release().config(&config).environment("TIDEGATE_STORE", url)
}

/// How clients of a fleet behave: one of eight requests is never settled.
#[must_use]
pub fn behaviour() -> Behaviour {
    Behaviour {
        accounts: vec![ACCOUNT.to_owned()],
        limit: LIMIT,
        tokens: TOKENS,
        connections: 1,
        clients: 1,
        pause: Duration::from_secs(1),
        one_open_in: 8,
    }
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
        self.crowd_of(ACCOUNT, which, clients, pause)
    }

    /// As [`Fleet::crowd`], of another account, which has the same limit for itself.
    #[must_use]
    pub fn crowd_of(&self, account: &str, which: usize, clients: usize, pause: Duration) -> Crowd {
        self.crowd_that(&Behaviour { accounts: vec![account.to_owned()], clients, pause, ..behaviour() }, which)
    }

    /// As [`Fleet::crowd`], of clients that behave so.
    #[must_use]
    pub fn crowd_that(&self, behaviour: &Behaviour, which: usize) -> Crowd {
        Crowd::start(behaviour, self.sidecars[which].limiter())
    }

    /// As [`Fleet::crowd`], so many on each sidecar.
    #[must_use]
    pub fn all(&self, clients: usize, pause: Duration) -> Vec<Crowd> {
        (0..self.sidecars.len()).map(|which| self.crowd(which, clients, pause)).collect()
    }

    /// A client of each sidecar, all with one ledger.
    pub async fn gateways(&self) -> Vec<Gateway> {
        let first = Gateway::of(&self.sidecars[0]).await;
        let mut gateways = vec![first.clone()];
        for sidecar in &self.sidecars[1..] {
            gateways.push(first.reconnected(sidecar).await);
        }
        gateways
    }

    /// Readiness stays, whatever the store does.
    ///
    /// # Panics
    /// If one of those that run is not ready.
    pub fn assert_ready(&self) {
        for sidecar in &self.sidecars {
            let ready = Page::scrape(sidecar.http()).sum("tidegate_ready", &[]);
            assert!((ready - 1.0).abs() < 0.1, "not ready:\n{}", sidecar.output());
        }
    }

    /// Waits until every sidecar has found that the store is away, or that it is back: how long that took.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_until_degraded(&self, is_degraded: bool) -> Duration {
        let expected = if is_degraded { self.sidecars.len() as f64 } else { 0.0 };
        let ((), took) = until("all know how the store is", || {
            let degraded = self.sum("tidegate_degraded", &[("part", "store")]);
            let output = || self.sidecars.iter().map(Server::output).collect::<Vec<_>>().join("\n");
            if (degraded - expected).abs() < 0.1 { Ok(()) } else { Err(format!("{degraded}, {}", output())) }
        });
        took
    }

    /// What one sidecar admits is used for all others: the limit of an account that nobody has used, in equal parts.
    ///
    /// # Panics
    /// If it is not.
    pub async fn assert_one_limit(&self, account: &str) {
        self.wait_until_degraded(false);
        let part = LIMIT / self.sidecars.len() as u64;
        for sidecar in &self.sidecars {
            let answer = Gateway::of(sidecar).await.ask_until_decided(&Ask::of(account).tokens(part, 0, 0)).await;
            assert!(answer.allowed(), "{answer:?}");
        }
        self.assert_full(account).await;
    }

    /// Every sidecar knows that all of the account's limit is used.
    ///
    /// # Panics
    /// If one does not.
    pub async fn assert_full(&self, account: &str) {
        for sidecar in &self.sidecars {
            let answer = Gateway::of(sidecar).await.ask_until_decided(&Ask::of(account)).await;
            assert_eq!(answer.reason(), DenyReason::WindowFull, "{answer:?}");
        }
    }

    /// The sum of a row of the metrics pages of all that run.
    #[must_use]
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecars.iter().map(|sidecar| Page::scrape(sidecar.http()).sum(metric, labels)).sum()
    }
}

/// Ends the load of all of them: what they were told.
pub async fn stop(crowds: Vec<Crowd>) -> Told {
    let mut told = Vec::new();
    for crowd in crowds {
        told.push(crowd.stop().await);
    }
    together(told)
}

/// What was admitted, permille of the limit.
#[must_use]
pub fn admitted_permille(told: &Told) -> u64 {
    told.allowed.len() as u64 * TOKENS * 1_000 / LIMIT
}

/// Has a sidecar stand still (SIGSTOP), leases and all.
///
/// # Panics
/// If it does not run.
pub fn pause(sidecar: &Server) {
    signal(sidecar, Signal::STOP);
}

/// Has it go on (SIGCONT).
///
/// # Panics
/// If it does not run.
pub fn resume(sidecar: &Server) {
    signal(sidecar, Signal::CONT);
}

fn signal(sidecar: &Server, signal: Signal) {
    let pid = i32::try_from(sidecar.pid()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it runs");
}

/// An account of which the key of model `m` is on this master.
///
/// # Panics
/// If there is no such master.
#[must_use]
pub fn account_on(cluster: &Cluster, master: usize) -> String {
    let names = (0..1_000).map(|number| format!("account-{number}"));
    let home = |name: &String| cluster.home_of(&ledger_key(KeyRef::new(name, "m", "").expect("a key")));
    names.into_iter().find(|name| home(name) == master).expect("a thousand keys are on all three masters")
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
