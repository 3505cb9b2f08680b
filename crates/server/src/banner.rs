//! What `serve` says on standard output before it serves.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;

use tidegate_core::law::level::STEPS_PER_OCTAVE;
use tidegate_core::law::{LawParams, MaxStep};
use tidegate_core::policy::{DEFAULT_PROFILE, Degrade, Enforcement, Policy};

use tidegate_store::fleet::{FleetSettings, StoreMode};

use crate::config::{Address, ProcessSettings};
use crate::listen::{Listener, Listeners};

/// Where a process serves, with the ports that were picked. `None` is `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The limiter's addresses, TCP first.
    pub limiter: Vec<Address>,
    /// The admin service's.
    pub admin: Option<Address>,
    /// That of metrics and probes.
    pub http: Option<Address>,
}

impl Served {
    pub(crate) fn of(listeners: &Listeners) -> Self {
        Self {
            limiter: listeners.limiter.iter().filter_map(Listener::address).collect(),
            admin: listeners.admin.as_ref().and_then(Listener::address),
            http: listeners.http.as_ref().and_then(Listener::address),
        }
    }

    /// The last line before serving. Where the limiter is on TCP and on a Unix socket, it names the TCP address.
    fn line(&self) -> String {
        let limiter = self.limiter.first();
        let (admin, http) = (name(self.admin.as_ref()), name(self.http.as_ref()));
        let mut line = format!("listening limiter={} admin={admin} http={http}", name(limiter));
        line.push_str("; try: tidegate check --account demo --model demo --prompt 1000");
        let target = match limiter {
            Some(Address::Tcp(tcp)) if tcp.ip().is_unspecified() => format!("http://127.0.0.1:{}", tcp.port()),
            Some(Address::Tcp(tcp)) => format!("http://{tcp}"),
            Some(unix) => unix.to_string(),
            None => return line,
        };
        if target != "http://127.0.0.1:7437" {
            let _ = write!(line, " --target {target}");
        }
        line
    }
}

fn name(address: Option<&Address>) -> String {
    address.map_or_else(|| "off".to_owned(), Address::to_string)
}

/// Where state is kept.
pub(crate) enum Kept {
    /// Nowhere else.
    InMemory,
    /// In a directory that had so many keys and live reservations.
    InDirectory { path: PathBuf, keys: u64, reservations: u64 },
    /// What counts for limits, in a store that others share; the rest nowhere else.
    Shared(FleetSettings),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InMemory => f.write_str(
                "memory only: windows, limits and admin writes are lost when the process ends, and the file is policy at each \
                 start; --data-dir DIR keeps them",
            ),
            Self::Shared(FleetSettings { address, mode, degrade, .. }) => write!(
                f,
                "limits and policy are shared through {address}, {}; while it is away, {}. Admin writes act on all who share it, and its policy \
                 wins over the file's",
                match mode {
                    StoreMode::Leased => "leased",
                    StoreMode::Strict => "asked for each decision",
                },
                match degrade {
                    Degrade::Share => "each sidecar has its share of every limit",
                    Degrade::Closed => "nothing is admitted",
                    Degrade::Open => "each sidecar has the whole of every limit",
                }
            ),
            Self::InDirectory { path, keys, reservations } => write!(
                f,
                "state is kept in {}: {keys} keys and {reservations} live reservations were there. Admin writes are on disk when \
                 they are answered, all else at most a second later; its policy wins over the file's",
                path.display()
            ),
        }
    }
}

/// Says what an operator should know before relying on it.
pub(crate) fn print_notices(settings: &ProcessSettings, policy: &Policy, kept: &Kept) {
    let bytes = settings.bounds.store.memory_bytes();
    say(&format!("tidegate {}, {} threads", env!("CARGO_PKG_VERSION"), settings.threads));
    say(&kept.to_string());
    if settings.fleet.is_none() {
        say("limits are per process: two processes admit twice as much");
    }
    say(&format!("the configured bounds can take {:.1} GiB of memory", gibibytes(bytes)));
    let tier = policy.default_tier();
    let profile = policy.tiers().get(tier).map(|tier| tier.law_profile.as_str()).filter(|profile| !profile.is_empty());
    let profile = profile.unwrap_or(DEFAULT_PROFILE);
    if let Some(law) = policy.profiles().get(profile) {
        say(&format!("limits of {tier}, law profile {profile}: {}", law_facts(law)));
    }
    if let Some(path) = &settings.listeners.unix_socket {
        say(&format!("the limiter listens on unix:{} too", path.display()));
    }
    if policy.enforcement().enforcement == Enforcement::Shadow {
        say("enforcement is in shadow: limits are decided and counted, and nobody is denied by one");
        tracing::warn!("enforcement is in shadow: nobody is denied by a limit");
    }
    if settings.insecure_admin {
        tracing::warn!("--insecure-admin: whoever reaches the admin address may change every limit");
    }
}

/// Says where it listens: the last line before it serves.
pub(crate) fn print_listening(served: &Served) {
    say(&served.line());
    for limiter in &served.limiter {
        tracing::info!(%limiter, admin = name(served.admin.as_ref()), http = name(served.http.as_ref()), "serving");
    }
}

/// A reader that went away is no reason not to serve.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// What the law's steps mean, in minutes.
fn law_facts(law: &LawParams) -> String {
    let steps = law.steps();
    let octave = f64::from(STEPS_PER_OCTAVE);
    if steps.growth == 0 {
        return "they do not grow".to_owned();
    }
    let (growth, decay) = (f64::from(steps.growth), f64::from(steps.decay));
    let tenfold = (octave * 10_f64.log2() / growth).ceil();
    let hold = f64::from(steps.reserve) / decay;
    let half = hold + octave / decay;
    let duty = (decay + f64::from(steps.rise)) / decay;
    let lead = octave / growth * (1_000.0 / f64::from(steps.slow_permille.max(1))).log2();
    let cap = match steps.max_step {
        MaxStep::Off => String::new(),
        MaxStep::Tokens(tokens) => format!(", at most {tokens} TPM more per minute"),
        MaxStep::PermilleOfFloor(permille) => format!(", at most {} floors more per minute", f64::from(permille) / 1e3),
    };
    format!(
        "10x in {tenfold:.0} min of full use{cap}; held for {hold:.0} min after use, half after {half:.0}; kept by one used \
         minute in {duty:.0}; safe for a replica lead time of {lead:.0} min"
    )
}

fn gibibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let bytes = bytes as f64;
    bytes / f64::from(1_u32 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laws_facts_are_those_of_its_page() {
        let facts = law_facts(&LawParams::DEFAULT);
        for fact in ["10x in 34 min", "held for 45 min", "half after 105", "minute in 13", "lead time of 5 min"] {
            assert!(facts.contains(fact), "{fact} in {facts}");
        }
        assert!(law_facts(&LawParams::PUBLISHED).contains("at most 0.23 floors more per minute"));
        assert_eq!(law_facts(&LawParams::STATIC), "they do not grow");
    }

    #[test]
    fn the_line_says_where_and_what_to_try() {
        let tcp = |text: &str| Address::Tcp(text.parse().expect("an address"));
        let mut served = Served {
            limiter: vec![tcp("127.0.0.1:7437"), Address::Unix("/run/t.sock".into())],
            admin: Some(tcp("127.0.0.1:7438")),
            http: None,
        };
        assert_eq!(
            served.line(),
            "listening limiter=127.0.0.1:7437 admin=127.0.0.1:7438 http=off; \
             try: tidegate check --account demo --model demo --prompt 1000"
        );
        served.limiter = vec![tcp("0.0.0.0:9")];
        assert!(served.line().ends_with(" --prompt 1000 --target http://127.0.0.1:9"), "{}", served.line());
        served.limiter = vec![Address::Unix("/run/t.sock".into())];
        assert!(served.line().starts_with("listening limiter=unix:/run/t.sock admin="), "{}", served.line());
        assert!(served.line().ends_with(" --target unix:/run/t.sock"), "{}", served.line());
    }
}
