//! The metrics page. Every handle that a call needs is registered at start: counting looks nothing up and formats nothing.
//!
//! Rejected: the global recorder of `metrics`, which would mix the counts of two servers in one process (every test has
//! one), and its macros on the data path, which hash the labels of each call. What the store counts is copied when the
//! page is drawn, so the store knows no metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tidegate_core::decision::{Answer, Bound, ServiceTier, SettleOutcome};
use tidegate_core::window::{PerWindow, Tokens, Window};
use tidegate_store::{Booked, DeploymentPressure, Stats};
use tonic::Code;

pub(crate) mod catalogue;
mod decisions;
mod disk;
mod fleet;
mod pressure;
mod scrapes;

use catalogue::{Described, Kind};
use decisions::{Decisions, ShadowDecisions};
pub(crate) use pressure::MOST_DEPLOYMENTS;
pub(crate) use scrapes::ScrapeResult;

/// Counts what a server does, and draws the page.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    page: PrometheusHandle,
    /// Every method that is served or could be, by its path; any other is `unknown`, so that callers make up no labels.
    methods: HashMap<String, SharedString>,
    decisions: Decisions,
    shadow_decisions: ShadowDecisions,
    decision_seconds: Histogram,
    admitted: PerWindow<Counter>,
    settled: PerWindow<Counter>,
    denied: PerWindow<Counter>,
    shadow: PerWindow<Counter>,
    ended_settled: Counter,
    ended_released: Counter,
    ended_late: Counter,
    bounds: [Counter; ServerBound::ALL.len()],
    scrapes: [Counter; ScrapeResult::ALL.len()],
    /// For which the shared store did not answer.
    degraded_seconds: AtomicU64,
    on_scrape: OnScrape,
}

/// What is copied when the page is drawn.
#[derive(Debug)]
struct OnScrape {
    reservations: Gauge,
    remembered: Gauge,
    held: PerWindow<Gauge>,
    keys: Gauge,
    unknown_account_keys: Gauge,
    keys_evicted: Counter,
    expired: Counter,
    store_bounds: [Counter; Bound::ALL.len()],
    forgotten_early: Counter,
    floor_above_ceiling: Counter,
    deployments: Gauge,
    deployments_full: Counter,
    reporters_full: Counter,
    connections: Gauge,
    calls_in_flight: Gauge,
    ready: Gauge,
    /// Of the global switch, of tiers, of accounts.
    in_shadow: [Gauge; 3],
}

/// A bound of the shell (contract C14); those of the store are [`Bound`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerBound {
    /// Connections to the limiter.
    Connections,
    /// Connections to the admin listener.
    AdminConnections,
    /// Connections to the HTTP listener.
    HttpConnections,
    /// Limiter calls in flight.
    CallsInFlight,
    /// Bytes of a limiter message.
    LimiterMessage,
    /// Bytes of a message of many calls.
    BatchMessage,
    /// Bytes of an admin message.
    AdminMessage,
    /// Watches of limits.
    Watches,
}

impl ServerBound {
    pub(crate) const ALL: [Self; 8] = [
        Self::Connections,
        Self::AdminConnections,
        Self::HttpConnections,
        Self::CallsInFlight,
        Self::LimiterMessage,
        Self::BatchMessage,
        Self::AdminMessage,
        Self::Watches,
    ];

    /// Its name in metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::AdminConnections => "admin_connections",
            Self::HttpConnections => "http_connections",
            Self::CallsInFlight => "calls_in_flight",
            Self::LimiterMessage => "limiter_message",
            Self::BatchMessage => "batch_message",
            Self::AdminMessage => "admin_message",
            Self::Watches => "watches",
        }
    }
}

/// What only the running server knows, at the moment the page is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) connections: usize,
    pub(crate) calls_in_flight: usize,
    pub(crate) ready: bool,
    /// Whether limits are in shadow globally, then how many tiers and how many accounts say so for themselves.
    pub(crate) in_shadow: (bool, usize, usize),
}

impl Metrics {
    /// Nothing counted yet. `methods` are the paths (`/tidegate.v1.RateLimiterService/Settle`) that may become labels.
    #[must_use]
    pub fn new(insecure_admin: bool, methods: impl IntoIterator<Item = String>) -> Self {
        let buckets = Matcher::Full(catalogue::DECISION_SECONDS.name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(buckets, &catalogue::DECISION_BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        for described in catalogue::ALL {
            describe(&recorder, described);
        }
        let counter = |described: &Described, labels| recorder.register_counter(&key(described, labels), &METADATA);
        let gauge = |described: &Described, labels| recorder.register_gauge(&key(described, labels), &METADATA);
        let one = |label, value| vec![Label::from_static_parts(label, value)];
        let tokens = |kind| {
            PerWindow::from_fn(|window: Window| {
                let labels =
                    vec![Label::from_static_parts("window", window.name()), Label::from_static_parts("kind", kind)];
                counter(&catalogue::TOKENS, labels)
            })
        };
        let ended = |how| counter(&catalogue::RESERVATIONS_ENDED, one("how", how));
        let bound = |name| counter(&catalogue::BOUND_REACHED, one("bound", name));

        gauge(&catalogue::BUILD_INFO, one("version", env!("CARGO_PKG_VERSION"))).set(1.0);
        gauge(&catalogue::INSECURE_ADMIN, Vec::new()).set(if insecure_admin { 1.0 } else { 0.0 });
        Self {
            decisions: Decisions::register(|labels| counter(&catalogue::DECISIONS, labels)),
            shadow_decisions: ShadowDecisions::register(|labels| counter(&catalogue::SHADOW_DECISIONS, labels)),
            decision_seconds: recorder.register_histogram(&key(&catalogue::DECISION_SECONDS, Vec::new()), &METADATA),
            admitted: tokens("admitted"),
            settled: tokens("settled"),
            denied: tokens("denied"),
            shadow: tokens("shadow"),
            ended_settled: ended("settled"),
            ended_released: ended("released"),
            ended_late: ended("late"),
            bounds: ServerBound::ALL.map(|server| bound(server.name())),
            scrapes: ScrapeResult::ALL.map(|result| counter(&catalogue::SCRAPES, one("result", result.name()))),
            degraded_seconds: AtomicU64::new(0),
            on_scrape: OnScrape {
                reservations: gauge(&catalogue::RESERVATIONS, Vec::new()),
                remembered: gauge(&catalogue::REMEMBERED, Vec::new()),
                held: PerWindow::from_fn(|window: Window| gauge(&catalogue::HELD_TOKENS, one("window", window.name()))),
                keys: gauge(&catalogue::KEYS, Vec::new()),
                unknown_account_keys: gauge(&catalogue::UNKNOWN_ACCOUNT_KEYS, Vec::new()),
                keys_evicted: counter(&catalogue::KEYS_EVICTED, Vec::new()),
                expired: ended("expired"),
                store_bounds: Bound::ALL.map(|store| bound(store.name())),
                forgotten_early: bound("remembered"),
                floor_above_ceiling: counter(&catalogue::FLOOR_ABOVE_CEILING, Vec::new()),
                deployments: gauge(&catalogue::DEPLOYMENTS, Vec::new()),
                deployments_full: bound("deployments"),
                reporters_full: bound("reporters"),
                connections: gauge(&catalogue::CONNECTIONS, Vec::new()),
                calls_in_flight: gauge(&catalogue::CALLS_IN_FLIGHT, Vec::new()),
                ready: gauge(&catalogue::READY, Vec::new()),
                in_shadow: ["global", "tiers", "accounts"]
                    .map(|scope| gauge(&catalogue::ENFORCEMENT_SHADOW, one("scope", scope))),
            },
            methods: methods.into_iter().map(|path| (path.clone(), SharedString::from(method_label(&path)))).collect(),
            page: recorder.handle(),
            recorder,
        }
    }

    /// One answer to `CheckAndReserve`, which took `seconds`; in `shadow`, a denial was told beside an ALLOW.
    pub(crate) fn on_decision(&self, tier: ServiceTier, answer: &Answer, shadow: bool, seconds: f64) {
        self.decision_seconds.record(seconds);
        if let Err(denied) = &answer.outcome
            && shadow
        {
            self.decisions.allow(tier).increment(1);
            self.shadow_decisions.of(tier, answer).inspect(|counter| counter.increment(1));
            add(&self.shadow, &denied.ask);
            return;
        }
        self.decisions.of(tier, answer).increment(1);
        match &answer.outcome {
            // What the first answer reserved was counted with the first answer.
            Ok(allowed) if allowed.replayed => {}
            Ok(allowed) => add(&self.admitted, &allowed.reserved),
            Err(denied) => add(&self.denied, &denied.ask),
        }
    }

    /// A progress report was booked.
    pub(crate) fn on_progress(&self, booked: &Booked) {
        add(&self.settled, &booked.tokens);
    }

    /// A settlement was booked.
    pub(crate) fn on_settled(&self, booked: &Booked) {
        add(&self.settled, &booked.tokens);
        match booked.outcome {
            SettleOutcome::Applied => self.ended_settled.increment(1),
            SettleOutcome::Late => self.ended_late.increment(1),
            SettleOutcome::Duplicate => {}
        }
    }

    /// A release was answered.
    pub(crate) fn on_released(&self, outcome: SettleOutcome) {
        match outcome {
            SettleOutcome::Applied => self.ended_released.increment(1),
            SettleOutcome::Late | SettleOutcome::Duplicate => {}
        }
    }

    /// Something was refused because `bound` is reached.
    pub(crate) fn on_bound_reached(&self, bound: ServerBound) {
        for (counter, known) in self.bounds.iter().zip(ServerBound::ALL) {
            if known == bound {
                counter.increment(1);
            }
        }
    }

    /// A call of the method at `path` was answered with the error `code`. Looks its counter up: errors are rare.
    pub(crate) fn on_rpc_error(&self, path: &str, code: Code) {
        let method = self.methods.get(path).cloned().unwrap_or(SharedString::const_str("unknown"));
        let labels = vec![Label::new("method", method), Label::from_static_parts("code", code_name(code))];
        self.recorder.register_counter(&key(&catalogue::RPC_ERRORS, labels), &METADATA).increment(1);
    }

    /// The page, in Prometheus' text format, with what the store counted by now and what these deployments say.
    pub(crate) fn draw(&self, stats: &Stats, deployments: &[DeploymentPressure], now: Now) -> String {
        let scrape = &self.on_scrape;
        scrape.reservations.set(float(stats.reservations));
        scrape.remembered.set(float(stats.remembered));
        for (window, gauge) in scrape.held.iter() {
            gauge.set(float(stats.held[window]));
        }
        scrape.keys.set(float(stats.keys));
        scrape.unknown_account_keys.set(float(stats.unknown_account_keys));
        scrape.keys_evicted.absolute(stats.keys_evicted);
        scrape.expired.absolute(stats.expired);
        for (counter, reached) in scrape.store_bounds.iter().zip(stats.bound_reached) {
            counter.absolute(reached);
        }
        scrape.forgotten_early.absolute(stats.forgotten_early);
        scrape.floor_above_ceiling.absolute(stats.floor_above_ceiling);
        scrape.deployments.set(float(stats.deployments));
        scrape.deployments_full.absolute(stats.deployments_full);
        scrape.reporters_full.absolute(stats.reporters_full);
        scrape.connections.set(float(now.connections.try_into().unwrap_or(u64::MAX)));
        scrape.calls_in_flight.set(float(now.calls_in_flight.try_into().unwrap_or(u64::MAX)));
        scrape.ready.set(if now.ready { 1.0 } else { 0.0 });
        let (globally, tiers, accounts) = now.in_shadow;
        for (gauge, count) in scrape.in_shadow.iter().zip([usize::from(globally), tiers, accounts]) {
            gauge.set(float(count as u64));
        }
        if let Some(disk) = &stats.disk {
            disk::set(&self.recorder, disk);
        }
        if let Some(fleet) = &stats.fleet {
            fleet::set(&self.recorder, fleet, self.degraded_seconds.load(Ordering::Relaxed));
        }
        let mut page = self.page.render();
        pressure::draw(&mut page, deployments);
        page
    }

    /// Counts a second in which the shared store did not answer.
    pub(crate) fn on_degraded_second(&self) {
        self.degraded_seconds.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves recorded samples into their buckets; to be called a few times a second, so that they do not pile up unscraped.
    pub(crate) fn on_tick(&self) {
        self.page.run_upkeep();
    }
}

const METADATA: Metadata<'static> = Metadata::new("tidegate", Level::INFO, None);

fn key(described: &Described, labels: Vec<Label>) -> Key {
    debug_assert!(labels.iter().map(Label::key).eq(described.labels.iter().copied()), "{}", described.name);
    Key::from_parts(described.name, labels)
}

fn describe(recorder: &PrometheusRecorder, described: &Described) {
    let (name, meaning) = (KeyName::from_const_str(described.name), SharedString::const_str(described.meaning));
    match described.kind {
        Kind::Counter => recorder.describe_counter(name, None, meaning),
        Kind::Gauge => recorder.describe_gauge(name, None, meaning),
        Kind::Histogram => recorder.describe_histogram(name, None, meaning),
    }
}

fn add(counters: &PerWindow<Counter>, tokens: &Tokens) {
    for (window, counter) in counters.iter() {
        counter.increment(tokens[window]);
    }
}

/// Prometheus knows floats only; above 2^53 the last digits go.
fn float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people; exact up to 2^53")]
    let float = count as f64;
    float
}

/// `RateLimiterService/Settle` of `/tidegate.v1.RateLimiterService/Settle`.
fn method_label(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let service_and_method = path.rsplit_once('.').filter(|(_, name)| name.contains('/')).map(|(_, name)| name);
    service_and_method.unwrap_or(path).to_owned()
}

/// The code's name in gRPC's own spelling, in lower case.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests;
