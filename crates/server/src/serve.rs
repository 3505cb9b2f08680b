//! The life of a serving process: bind, start threads, say where, serve, drain.

use std::future::{Future, ready};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::policy::{Enforcement, Policy};
use tidegate_core::time::Timestamp;
use tidegate_proto::convert::TtlRange;
use tidegate_store::Store;
use tidegate_store::durable::OpenDirectory;
use tidegate_store::fleet::{FleetSettings, FleetStore};
use tidegate_store::memory::MemoryStore;
use tokio::runtime::Builder;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

use crate::accept::Acceptor;
use crate::background::Background;
use crate::banner::{self, Served};
use crate::calls::{Guard, Guarded};
use crate::clock::{self, Clock};
use crate::config::{Bounds, Config, ProcessSettings};
use crate::connection::{Accepted, Connection, Peer, Place, Places};
use crate::front::Front;
use crate::http::Probes;
use crate::limiter::Limiter;
use crate::listen::Listeners;
use crate::metrics::{MOST_DEPLOYMENTS, Metrics, Now, ServerBound};
use crate::pressure::scrape;
use crate::readiness::{Life, Readiness};
use crate::services::Generated;
use crate::threads::{Grpc, Threads};
use crate::{logging, services, signals};

/// Connections to the admin listener, and as many to the HTTP listener: kept apart from the gateways', so that operators
/// get in when those have taken every place.
const OPERATOR_CONNECTIONS: usize = 64;

/// How long a start waits for the shared store: a new one is silent for 5 s.
const STORE_START: Duration = Duration::from_secs(7);
/// How long the last reports to the shared store may take after the drain.
const LAST_REPORTS: Duration = Duration::from_secs(3);
/// How long the last batch may take after the drain.
const LAST_BATCH: Duration = Duration::from_secs(10);

/// `tidegate serve`: runs until SIGTERM or SIGINT. Logs to standard error; says where it listens on standard output.
///
/// Exit code 0 after a stop that was asked for; 1 where it could not start or was told twice to stop.
#[must_use]
pub fn serve(config: Config) -> ExitCode {
    logging::start(&config.process.logging);
    match try_serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Not only to the log: its filter may be `off`.
            let _ = writeln!(io::stderr(), "tidegate: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn try_serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let Config { process, policy, has_file, warnings } = config;
    for warning in &warnings {
        tracing::warn!(path = warning.path, "{}", warning.message);
    }
    signals::raise_open_files();
    let listeners = Listeners::bind(&process.listeners)?;
    match (&process.fleet, &process.data_dir) {
        (Some(fleet), _) => serve_fleet(listeners, fleet, &process, policy)?,
        (None, Some(path)) => serve_durable(listeners, path, &process, &policy, has_file)?,
        (None, None) => {
            let clock = start_clock(&process, Timestamp::ZERO);
            banner::print_notices(&process, &policy, &banner::Kept::InMemory);
            let store = MemoryStore::new(process.bounds.store, process.forecast, policy)?;
            run(listeners, clock, Arc::new(store), &process, banner::print_listening, signals::stop())?;
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves limits that are shared as `fleet` says.
fn serve_fleet(
    listeners: Listeners,
    fleet: &FleetSettings,
    process: &ProcessSettings,
    policy: Policy,
) -> Result<(), Box<dyn std::error::Error>> {
    let clock = start_clock(process, Timestamp::ZERO);
    banner::print_notices(process, &policy, &banner::Kept::Shared(fleet.clone()));
    let (time, settings) = (clock.clone(), fleet.clone());
    let now = Arc::new(move || time.now());
    let store = FleetStore::start(process.bounds.store, process.forecast, policy, settings, now, STORE_START)?;
    let store = Arc::new(store);
    let served = run(listeners, clock, Arc::clone(&store), process, banner::print_listening, signals::stop());
    store.stop(LAST_REPORTS);
    Ok(served?)
}

/// Serves from the directory at `path`, and leaves in it all that is to be known.
fn serve_durable(
    listeners: Listeners,
    path: &Path,
    process: &ProcessSettings,
    described: &Policy,
    has_file: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let (timer, wall) = (Clock::start(), clock::wall_time());
    let began = timer.read();
    let opened = OpenDirectory::open(path, process.bounds.store, process.forecast, described, wall)?;
    let (keys, reservations) = opened.counts();
    let seconds = timer.seconds_since(&began);
    let data_dir = path.display().to_string();
    tracing::info!(data_dir, keys, reservations, seconds, was_stopped = opened.was_stopped(), "state is read");
    if !opened.was_stopped() {
        tracing::warn!(data_dir, "the last process was killed: what it did in its last second may be missing");
    }
    if opened.missing_batches() > 0 {
        let batches = opened.missing_batches();
        tracing::error!(
            data_dir,
            batches,
            "batches are missing that were on disk: a file was cut off, altered or lost; limits and policy are as before them"
        );
    }
    if has_file {
        for difference in opened.differences() {
            tracing::warn!(data_dir, "policy: {difference}");
        }
    }
    let newest = opened.newest();
    if newest > wall {
        let behind = newest.since(wall);
        tracing::warn!(?behind, "the wall clock is behind what is stored; time goes on from the newest stored instant");
    }
    let clock = start_clock(process, newest);
    let kept = banner::Kept::InDirectory { path: path.to_owned(), keys, reservations };
    banner::print_notices(process, &opened.policy(), &kept);
    let time = clock.clone();
    let store = Arc::new(opened.start(Arc::new(move || time.now()))?);
    let served = run(listeners, clock, Arc::clone(&store), process, banner::print_listening, signals::stop());
    let stopped = store.stop(LAST_BATCH);
    served?;
    stopped.map_err(|failure| format!("the last changes are not in {data_dir}: {failure}"))?;
    Ok(())
}

fn start_clock(process: &ProcessSettings, newest: Timestamp) -> Clock {
    #[cfg(feature = "test-clock")]
    if let Some(seconds) = process.test_clock {
        return Clock::test(Timestamp::from_seconds(seconds).max(newest));
    }
    let ProcessSettings { .. } = process;
    Clock::start_not_before(newest)
}

/// Serves `store` on `listeners` at the time of `clock` until `stop` resolves, then drains: readiness goes off, no
/// connection is accepted any more, calls in flight are answered, for at most `settings.drain`. Blocks.
///
/// `on_serving` is called once decisions are being answered. Settings that say where to listen are not looked at again.
///
/// # Errors
/// The system's: threads or file descriptors could not be had. Nothing is left running.
pub fn run<S: Store>(
    listeners: Listeners,
    clock: Clock,
    store: Arc<S>,
    settings: &ProcessSettings,
    on_serving: impl FnOnce(&Served),
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let served = Served::of(&listeners);
    let (life, readiness) = Life::start();
    let metrics = Arc::new(Metrics::new(settings.insecure_admin, services::method_paths()));
    let _background = Background::spawn(Arc::clone(&store), clock.clone(), Arc::clone(&metrics))?;
    let shell = Shell {
        connections: Places::new(settings.bounds.connections),
        calls: Places::new(settings.bounds.calls_in_flight),
        clock,
        store,
        metrics,
        readiness,
        settings,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut stop = std::pin::pin!(stop);
        // Polled before anyone is told that we serve: from then on a signal stops us in good order.
        tokio::select! { biased; () = &mut stop => return Ok(()), () = ready(()) => {} }
        let running = shell.start(listeners)?;
        life.on_serving();
        on_serving(&served);
        stop.await;
        life.on_stopping();
        tracing::info!(drain = ?settings.drain, "stopping: calls in flight are answered");
        running.drain().await;
        Ok(())
    });
    // What is left is a lookup of a name that has to be scraped, at most: it is not waited for.
    runtime.shutdown_background();
    ended
}

/// Everything that serving needs, on the thread that accepts connections and serves operators.
struct Shell<'a, S> {
    store: Arc<S>,
    clock: Clock,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    connections: Places,
    calls: Places,
    settings: &'a ProcessSettings,
}

/// What has to end, in this order.
struct Running {
    /// Looks at the pages of serving engines.
    scrapes: JoinSet<()>,
    /// Gateways and operators come in here.
    doors: JoinSet<()>,
    threads: Arc<Threads>,
    admin: JoinSet<()>,
    /// Answers probes until the end.
    http: JoinSet<()>,
}

impl<S: Store> Shell<'_, S> {
    fn start(&self, listeners: Listeners) -> io::Result<Running> {
        let bounds = &self.settings.bounds;
        let threads = Arc::new(Threads::spawn(self.settings.threads, &self.limiter())?);
        let (mut doors, mut admin, mut http) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for listener in listeners.limiter {
            let threads = Arc::clone(&threads);
            let deal = move |accepted, place| threads.deal(accepted, place);
            self.open(
                &mut doors,
                Acceptor::register(listener)?,
                ServerBound::Connections,
                self.connections.clone(),
                deal,
            );
        }
        if let Some(listener) = listeners.admin {
            let (sender, queue) = unbounded_channel();
            let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
            let routes = services::admin(store, self.clock.clone(), metrics, bounds, &self.readiness);
            let guard = self.guard(None, services::admin_message);
            let service = move |peer: &Peer| {
                let (routes, peer) = (routes.clone(), peer.clone());
                Guarded::new(Generated { routes, peer }, Arc::clone(&guard))
            };
            admin.spawn(self.grpc(service).serve(queue));
            let here = Places::new(OPERATOR_CONNECTIONS);
            let deal = move |accepted, place| {
                // It fails when the server has stopped; then the connection came too late.
                let _ = here.try_take().map(|here| sender.send((accepted, (place, here))));
            };
            let places = Places::new(OPERATOR_CONNECTIONS);
            self.open(&mut doors, Acceptor::register(listener)?, ServerBound::AdminConnections, places, deal);
        }
        if let Some(listener) = listeners.http {
            let probes = self.probes();
            let here = Places::new(OPERATOR_CONNECTIONS);
            let deal = move |accepted, place| {
                let Some(here) = here.try_take() else { return };
                match Connection::register(accepted, (place, here)) {
                    Ok(connection) => drop(tokio::spawn(probes.clone().serve(connection))),
                    Err(error) => tracing::warn!(%error, "cannot serve an HTTP connection"),
                }
            };
            let places = Places::new(OPERATOR_CONNECTIONS);
            self.open(&mut http, Acceptor::register(listener)?, ServerBound::HttpConnections, places, deal);
        }
        let scrapes = scrape::start(&self.settings.scrape, &self.store, &self.clock, &self.metrics);
        Ok(Running { scrapes, doors, threads, admin, http })
    }

    /// Accepts from `door` as long as there are places; beyond, a connection is closed at once, and counted.
    fn open(
        &self,
        doors: &mut JoinSet<()>,
        door: Acceptor,
        bound: ServerBound,
        places: Places,
        mut deal: impl FnMut(Accepted, Place) + Send + 'static,
    ) {
        let metrics = Arc::clone(&self.metrics);
        doors.spawn(async move {
            let deal = |accepted| match places.try_take() {
                Some(place) => deal(accepted, place),
                None => {
                    tracing::debug!(bound = bound.name(), "a connection was refused");
                    metrics.on_bound_reached(bound);
                }
            };
            door.accept_all(deal).await;
        });
    }

    fn limiter(&self) -> Grpc<impl Fn(&Peer) -> Guarded<Front<S>> + Clone + Send + 'static> {
        let bounds = &self.settings.bounds;
        let ttl = TtlRange { default: bounds.reservation_ttl, ..TtlRange::default() };
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let wire = (ttl, self.settings.header_unit);
        let (calls, readiness) = (self.calls.clone(), self.readiness.clone());
        let limiter = Limiter::new(store, self.clock.clone(), metrics, wire, calls, readiness);
        let front = services::limiter(limiter, *bounds, &self.readiness);
        let guard = self.guard(Some(self.calls.clone()), services::limiter_message);
        self.grpc(move |_: &Peer| Guarded::new(front.clone(), Arc::clone(&guard)))
    }

    fn guard(&self, calls: Option<Places>, message: fn(&Bounds, &str) -> (ServerBound, usize)) -> Arc<Guard> {
        Arc::new(Guard { metrics: Arc::clone(&self.metrics), calls, message, bounds: self.settings.bounds })
    }

    fn grpc<F>(&self, service: F) -> Grpc<F> {
        Grpc {
            service,
            streams_per_connection: self.settings.bounds.streams_per_connection,
            readiness: self.readiness.clone(),
            drain: self.settings.drain,
        }
    }

    fn probes(&self) -> Probes {
        let (store, metrics, readiness) = (Arc::clone(&self.store), Arc::clone(&self.metrics), self.readiness.clone());
        let (connections, calls, clock) = (self.connections.clone(), self.calls.clone(), self.clock.clone());
        let switch = Arc::clone(&self.store);
        let in_shadow = move || switch.policy().enforcement().enforcement == Enforcement::Shadow;
        let page = move || {
            let policy = store.policy();
            let (tiers, accounts) = policy.shadows();
            let in_shadow = (policy.enforcement().enforcement == Enforcement::Shadow, tiers, accounts);
            let ready = readiness.is_ready();
            let now = Now { connections: connections.taken(), calls_in_flight: calls.taken(), ready, in_shadow };
            let deployments = store.deployments(clock.now(), MOST_DEPLOYMENTS);
            metrics.draw(&store.stats(), &deployments, now)
        };
        Probes { readiness: self.readiness.clone(), metrics: Arc::new(page), in_shadow: Arc::new(in_shadow) }
    }
}

impl Running {
    /// Closes the doors, waits for what is in flight, then lets go of the rest.
    async fn drain(mut self) {
        self.scrapes.shutdown().await;
        self.doors.shutdown().await;
        let threads = Arc::into_inner(self.threads).expect("only the doors had it beside us, and they are closed");
        let joined = tokio::task::spawn_blocking(|| threads.join());
        while self.admin.join_next().await.is_some() {}
        // It catches the threads' panics; it has none of its own.
        let _ = joined.await;
        self.http.shutdown().await;
    }
}
