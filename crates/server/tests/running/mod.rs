//! A server in this process, on free ports, for the tests of its wire.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_core::ask::Request as Ask;
use tidegate_core::decision::{SettleOutcome, WindowStatus};
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Policy, PolicyWrite};
use tidegate_core::pressure::Report;
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{CheckAndReserveRequest, LimitKey};
use tidegate_server::banner::Served;
use tidegate_server::clock::Clock;
use tidegate_server::config::{Address, ListenerSettings, ProcessSettings};
use tidegate_server::listen::Listeners;
use tidegate_store::memory::MemoryStore;
use tidegate_store::{
    Author, Booked, ChangePage, ChangeQuery, DeploymentPressure, EndError, KeyExplained, ListPage, ListQuery,
    NotDurable, PolicyError, PolicyWritten, ReportError, ReserveError, Reserved, Reset, ResetDone, Stats, Store,
};
use tokio::sync::{Semaphore, oneshot};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A server on free ports; stopped when told, or dropped.
pub(crate) struct Running {
    pub(crate) served: Served,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    pub(crate) fn start<S: Store>(store: S, change: impl FnOnce(&mut ProcessSettings)) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = ProcessSettings {
            listeners: ListenerSettings {
                limiter: Some(free),
                admin: Some(Address::Tcp(free)),
                http: Some(free),
                ..ListenerSettings::default()
            },
            drain: Duration::from_secs(5),
            ..ProcessSettings::default()
        };
        change(&mut settings);
        let listeners = Listeners::bind(&settings.listeners).expect("free ports");
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let on_serving = |served: &Served| tell.send(served.clone()).expect("the test waits");
            let stopped = async { drop(stopped.await) };
            tidegate_server::run(listeners, Clock::start(), Arc::new(store), &settings, on_serving, stopped)
        });
        let served = told.recv().expect("it serves");
        Self { served, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn memory(change: impl FnOnce(&mut ProcessSettings)) -> Self {
        Self::start(store(), change)
    }

    pub(crate) fn tcp(address: Option<&Address>) -> SocketAddr {
        match address {
            Some(Address::Tcp(address)) => *address,
            other => panic!("{other:?} is not TCP"),
        }
    }

    pub(crate) fn limiter_address(&self) -> SocketAddr {
        Self::tcp(self.served.limiter.first())
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.limiter_address())).expect("a URL");
        endpoint.connect().await.expect("connects")
    }

    pub(crate) async fn limiter(&self) -> RateLimiterServiceClient<Channel> {
        RateLimiterServiceClient::new(self.channel().await)
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(Self::tcp(self.served.http.as_ref())).expect("connects");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        answer
    }

    pub(crate) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops it; meanwhile its clients go on, so that they hear that they should leave.
    pub(crate) async fn join(mut self) {
        self.tell_to_stop();
        let thread = self.thread.take().expect("joined once");
        let joined = tokio::task::spawn_blocking(|| thread.join()).await.expect("no panic here");
        joined.expect("no panic").expect("no error");
    }
}

fn store() -> MemoryStore {
    let settings = ProcessSettings::default();
    MemoryStore::new(settings.bounds.store, settings.forecast, Policy::built_in()).expect("randomness")
}

pub(crate) fn ask() -> CheckAndReserveRequest {
    ask_of("acme")
}

pub(crate) fn ask_of(account: &str) -> CheckAndReserveRequest {
    let key = LimitKey { account: account.into(), model: "m".into(), variant: String::new() };
    CheckAndReserveRequest { key: Some(key), prompt_tokens: 100, ..CheckAndReserveRequest::default() }
}

pub(crate) fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("every error has ErrorInfo").reason)
}

/// A store of which the decisions of some accounts go wrong: `panics`, `hangs` for ever, or waits for a turn (those that begin with
/// `waits`).
pub(crate) struct Broken {
    inner: MemoryStore,
    /// Whether nobody waits here, as for memory.
    at_once: bool,
    /// Turns of those that wait.
    pub(crate) turns: Arc<Semaphore>,
    /// Decisions that were begun.
    pub(crate) begun: Arc<AtomicUsize>,
}

impl Broken {
    pub(crate) fn new() -> Self {
        Self { inner: store(), at_once: false, turns: Arc::new(Semaphore::new(0)), begun: Arc::default() }
    }

    /// One of which no decision waits.
    pub(crate) fn at_once() -> Self {
        Self { at_once: true, ..Self::new() }
    }
}

impl Store for Broken {
    async fn check_and_reserve(&self, now: Timestamp, ask: &Ask<'_>) -> Result<Reserved, ReserveError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match ask.key.account() {
            "panics" => panic!("a bug"),
            "hangs" => std::future::pending().await,
            account if account.starts_with("waits") => {
                self.turns.acquire().await.expect("it is never closed").forget();
                self.inner.check_and_reserve(now, ask).await
            }
            _ => self.inner.check_and_reserve(now, ask).await,
        }
    }
    fn check_and_reserve_now(&self, now: Timestamp, ask: &Ask<'_>) -> Option<Result<Reserved, ReserveError>> {
        let (at_once, account) = (self.at_once, ask.key.account());
        assert!(!at_once || account != "panics", "a bug");
        at_once.then(|| self.inner.check_and_reserve_now(now, ask))?
    }
    fn report_progress(
        &self,
        at: Timestamp,
        id: &str,
        n: u64,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        self.inner.report_progress(at, id, n)
    }
    fn settle(
        &self,
        at: Timestamp,
        id: &str,
        n: SettleCounts,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        self.inner.settle(at, id, n)
    }
    fn release(&self, at: Timestamp, id: &str) -> impl Future<Output = Result<SettleOutcome, EndError>> + Send {
        self.inner.release(at, id)
    }
    fn limits(&self, at: Timestamp, key: KeyRef<'_>) -> impl Future<Output = PerWindow<WindowStatus>> + Send {
        self.inner.limits(at, key)
    }
    fn explain_limit(&self, at: Timestamp, key: KeyRef<'_>) -> impl Future<Output = KeyExplained> + Send {
        self.inner.explain_limit(at, key)
    }
    fn list_limits(&self, at: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send {
        self.inner.list_limits(at, query)
    }
    fn report_pressure(
        &self,
        at: Timestamp,
        report: &Report<'_>,
    ) -> impl Future<Output = Result<(), ReportError>> + Send {
        self.inner.report_pressure(at, report)
    }
    fn deployments(&self, at: Timestamp, most: usize) -> Vec<DeploymentPressure> {
        self.inner.deployments(at, most)
    }
    fn policy(&self) -> Arc<Policy> {
        self.inner.policy()
    }
    fn write_policy(
        &self,
        at: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<PolicyWritten, PolicyError>> + Send {
        self.inner.write_policy(at, write, author, dry_run)
    }
    fn reset_limit(
        &self,
        at: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<Option<ResetDone>, NotDurable>> + Send {
        self.inner.reset_limit(at, reset, author, dry_run)
    }
    fn changes(&self, query: &ChangeQuery) -> impl Future<Output = ChangePage> + Send {
        self.inner.changes(query)
    }
    fn on_tick(&self, at: Timestamp) {
        self.inner.on_tick(at);
    }
    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
