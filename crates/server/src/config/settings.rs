//! The settings of the process, valid: listeners, threads, bounds, logging. Their defaults are here and nowhere else.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::headers::HeaderUnit;
use tidegate_store::fleet::FleetSettings;
use tidegate_store::memory::MemoryBounds;

use super::scrape::ScrapeTarget;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 picks a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine's users reach it.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => fmt::Display::fmt(address, f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Which addresses are served. `None` is `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The limiter on TCP; default 127.0.0.1:7437.
    pub limiter: Option<SocketAddr>,
    /// The limiter on a Unix socket; default off. Both may be on.
    pub unix_socket: Option<PathBuf>,
    /// Permissions of every Unix socket made here; default 0o660.
    pub unix_socket_mode: u32,
    /// The admin service; default 127.0.0.1:7438.
    pub admin: Option<Address>,
    /// Metrics and probes; default 127.0.0.1:7439.
    pub http: Option<SocketAddr>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            limiter: Some(loopback(7437)),
            unix_socket: None,
            unix_socket_mode: 0o660,
            admin: Some(Address::Tcp(loopback(7438))),
            http: Some(loopback(7439)),
        }
    }
}

/// Everything that is bounded (contract C14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of the memory store.
    pub store: MemoryBounds,
    /// Connections to the limiter, on all its listeners; default 1,024. Beyond, a new connection is closed at once.
    pub connections: usize,
    /// Concurrent calls of one connection; default 256. Beyond, HTTP/2 makes the client wait.
    pub streams_per_connection: u32,
    /// Limiter calls in flight in the process; default 65,536. Beyond, UNAVAILABLE.
    pub calls_in_flight: usize,
    /// Bytes of a limiter message; default 64 KiB.
    pub limiter_message_bytes: usize,
    /// Bytes of a message of many calls: BatchCheckAndReserve, BatchSettle; default 1 MiB.
    pub batch_message_bytes: usize,
    /// Bytes of an admin message; default 4 MiB.
    pub admin_message_bytes: usize,
    /// TTL of a reservation whose request states none; default 10 min, 1 s to 1 h.
    pub reservation_ttl: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            store: MemoryBounds::default(),
            connections: 1_024,
            streams_per_connection: 256,
            calls_in_flight: 65_536,
            limiter_message_bytes: 64 * 1_024,
            batch_message_bytes: 1_024 * 1_024,
            admin_message_bytes: 4 * 1_024 * 1_024,
            reservation_ttl: Duration::from_secs(600),
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// What is logged to standard error, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Text or JSON; default text.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, known to parse; default `info`.
    pub filter: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The settings of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Which addresses are served.
    pub listeners: ListenerSettings,
    /// With whom limits are shared, and how; default nobody.
    pub fleet: Option<FleetSettings>,
    /// Where state and admin writes are kept; default nowhere: memory only.
    pub data_dir: Option<PathBuf>,
    /// Whether an admin address that strangers reach is accepted; default no.
    pub insecure_admin: bool,
    /// Threads that serve the limiter, 1 to 1,024; default one per core.
    pub threads: NonZeroUsize,
    /// Time that calls in flight get after SIGTERM; default 10 s, at most 1 h.
    pub drain: Duration,
    /// Everything that is bounded.
    pub bounds: Bounds,
    /// How a new key's requests are forecast.
    pub forecast: ForecastDefaults,
    /// Unit of the `x-ratelimit-*` headers; default tokens per second.
    pub header_unit: HeaderUnit,
    /// What is logged, and how.
    pub logging: Logging,
    /// Whose pressure is scraped; default nobody's, at most 64.
    pub scrape: Vec<ScrapeTarget>,
    /// Start of the test clock, seconds since 1970; `None`: real time.
    #[cfg(feature = "test-clock")]
    pub test_clock: Option<u64>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            listeners: ListenerSettings::default(),
            fleet: None,
            data_dir: None,
            insecure_admin: false,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            drain: Duration::from_secs(10),
            bounds: Bounds::default(),
            forecast: ForecastDefaults::default(),
            header_unit: HeaderUnit::TokensPerSecond,
            logging: Logging::default(),
            scrape: Vec::new(),
            #[cfg(feature = "test-clock")]
            test_clock: None,
        }
    }
}
