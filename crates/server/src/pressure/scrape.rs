//! Scrapes the metrics pages of serving engines and reports what they show, as a gateway would with `ReportPressure`.
//!
//! One task for each target, on the thread that accepts connections: it fetches, reads, reports, sleeps. What cannot be scraped
//! is not reported, so that the deployment goes stale as when a reporter falls silent. Redirects are not followed, and a page
//! is read to at most 4 MiB.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tidegate_core::pressure::{DeploymentReport, Report};
use tidegate_core::window::PerWindow;
use tidegate_store::{ReportError, Store};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::gauges::{NoGauge, pressure};
use crate::clock::Clock;
use crate::config::ScrapeTarget;
use crate::metrics::{Metrics, ScrapeResult};

/// Most bytes of a page.
const MAX_PAGE_BYTES: usize = 4 * 1_024 * 1_024;
/// Most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 64 * 1_024;

/// Starts a task for each target, their first scrapes spread over the interval of each. They end when the set is dropped.
pub(crate) fn start<S: Store>(
    targets: &[ScrapeTarget],
    store: &Arc<S>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (index, target) in (0_u32..).zip(targets) {
        let share = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let offset = target.every * index / share;
        let (store, clock, metrics) = (Arc::clone(store), clock.clone(), Arc::clone(metrics));
        let reporter = format!("scrape {}", target.url.as_str());
        let scraper = Scraper { reporter, target: target.clone(), state: State::New, lookup: None };
        tasks.spawn(scraper.run(offset, store, clock, metrics));
    }
    tasks
}

/// Whether the last scrape worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Up,
    Down,
}

/// Why a scrape did not end in a report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no HTTP answer: {0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the page is longer than {MAX_PAGE_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    NoGauge(#[from] NoGauge),
    #[error(transparent)]
    Refused(#[from] ReportError),
}

impl Failure {
    const fn result(&self) -> ScrapeResult {
        match self {
            Self::Connect(_) | Self::Http(_) => ScrapeResult::Unreachable,
            Self::Timeout(_) => ScrapeResult::Timeout,
            Self::Status(_) => ScrapeResult::Status,
            Self::TooLarge => ScrapeResult::TooLarge,
            Self::NoGauge(_) => ScrapeResult::NoGauge,
            Self::Refused(_) => ScrapeResult::Refused,
        }
    }
}

struct Scraper {
    /// One reporter for each page: several pages of one deployment are several, of which the largest pressure counts.
    reporter: String,
    target: ScrapeTarget,
    state: State,
    lookup: Option<Lookup>,
}

/// The host's name being resolved. It outlives a scrape that it was too slow for: nothing ends a system's lookup, and one more for
/// each scrape would pile up.
type Lookup = JoinHandle<io::Result<Vec<SocketAddr>>>;

impl Scraper {
    async fn run<S: Store>(mut self, offset: Duration, store: Arc<S>, clock: Clock, metrics: Arc<Metrics>) {
        let mut due = interval_at(tokio::time::Instant::now() + offset, self.target.every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let scraped = self.scrape(&*store, &clock).await;
            metrics.on_scraped(scraped.as_ref().map_or_else(Failure::result, |_| ScrapeResult::Ok));
            self.log(&scraped);
        }
    }

    async fn scrape<S: Store>(&mut self, store: &S, clock: &Clock) -> Result<u32, Failure> {
        let most = self.target.timeout;
        let page = timeout(most, self.fetch()).await.map_err(|_| Failure::Timeout(most))??;
        let Self { reporter, target, .. } = self;
        let permille = pressure(&target.gauges, &page)?;
        let deployment = DeploymentReport {
            model: &target.model,
            variant: &target.variant,
            permille: PerWindow::from_fn(|_| Some(permille)),
        };
        let report = Report { reporter, ttl: target.ttl, deployments: vec![deployment] };
        store.report_pressure(clock.now(), &report).await?;
        Ok(permille)
    }

    async fn fetch(&mut self) -> Result<Bytes, Failure> {
        let lookup = self.lookup.get_or_insert_with(|| {
            let (host, port) = (self.target.url.host.clone(), self.target.url.port);
            tokio::spawn(async move { lookup_host((host, port)).await.map(Iterator::collect) })
        });
        let found = lookup.await;
        self.lookup = None;
        let addresses = found.map_err(io::Error::other).flatten().map_err(Failure::Connect)?;
        fetch(&self.target, &addresses).await
    }

    /// One line when a target begins to work and one when it ceases to.
    fn log(&mut self, scraped: &Result<u32, Failure>) {
        let ScrapeTarget { url, model, variant, .. } = &self.target;
        match scraped {
            Ok(permille) if self.state != State::Up => {
                self.state = State::Up;
                tracing::info!(%url, model, variant, permille, "pressure is scraped");
            }
            Err(failure) if self.state != State::Down => {
                self.state = State::Down;
                tracing::warn!(%url, model, variant, %failure, "pressure cannot be scraped");
            }
            _ => {}
        }
    }
}

/// The page. Its connection ends with this, also when this is dropped halfway.
async fn fetch(target: &ScrapeTarget, addresses: &[SocketAddr]) -> Result<Bytes, Failure> {
    let url = &target.url;
    let stream = TcpStream::connect(addresses).await.map_err(Failure::Connect)?;
    let http = |error: hyper::Error| Failure::Http(error.into());
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await.map_err(http)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(&url.path)
        .header(HOST, &url.authority)
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "text/plain;version=0.0.4")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Http(error.into()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status() != StatusCode::OK {
        return Err(Failure::Status(response.status()));
    }
    let page = Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await;
    page.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => Failure::TooLarge,
        Err(error) => Failure::Http(error),
    })
}
