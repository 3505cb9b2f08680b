//! The flags of `tidegate serve`, as written.
//!
//! Everything is text here: [`super::load`] parses flags, environment and file together, so that all mistakes are
//! reported at once.

use std::path::PathBuf;

/// Flags of `tidegate serve`. Each also comes from an environment variable (`--admin-listen`: `TIDEGATE_ADMIN_LISTEN`) and
/// from the file; a flag wins over the environment, the environment over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Read settings and policy from this TOML file [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Serve the limiter on this TCP address; port 0 picks a free one [env: TIDEGATE_LISTEN] [default: 127.0.0.1:7437]
    #[arg(long, value_name = "ADDR|off", help_heading = "Listeners")]
    pub listen: Option<String>,

    /// Serve the limiter on this Unix socket too [env: TIDEGATE_UNIX_SOCKET] [default: off]
    #[arg(long, value_name = "PATH|off", help_heading = "Listeners")]
    pub unix_socket: Option<String>,

    /// Permissions of Unix sockets, octal [env: TIDEGATE_UNIX_SOCKET_MODE] [default: 0660]
    #[arg(long, value_name = "MODE", help_heading = "Listeners")]
    pub unix_socket_mode: Option<String>,

    /// Serve the admin API on this address [env: TIDEGATE_ADMIN_LISTEN] [default: 127.0.0.1:7438]
    #[arg(long, value_name = "ADDR|unix:PATH|off", help_heading = "Listeners")]
    pub admin_listen: Option<String>,

    /// Let an admin address be neither loopback nor a Unix socket, though nobody is authenticated
    /// [env: TIDEGATE_INSECURE_ADMIN]
    #[arg(long, help_heading = "Listeners")]
    pub insecure_admin: bool,

    /// Serve /metrics, /healthz and /readyz on this address [env: TIDEGATE_HTTP_LISTEN] [default: 127.0.0.1:7439]
    #[arg(long, value_name = "ADDR|off", help_heading = "Listeners")]
    pub http_listen: Option<String>,

    /// Enforce limits, or decide and count alone and let everybody through; `tidegate admin enforcement` turns it while it runs
    /// [env: TIDEGATE_ENFORCEMENT] [default: on]
    #[arg(long, value_name = "on|shadow")]
    pub enforcement: Option<String>,

    /// Where processes share limits: `memory`, each has them for itself; or the address of a Redis or Valkey:
    /// redis://HOST:PORT (several with commas between them, USER:PASSWORD@ before the first), redis+cluster://...,
    /// redis+sentinel://.../NAME, unix:PATH. A password is seen by whoever may list processes: better give it in the variable
    /// [env: TIDEGATE_STORE] [default: memory]
    #[arg(long, value_name = "memory|URL", help_heading = "Shared limits")]
    pub store: Option<String>,

    /// When a shared store is asked: for what the next moments need, or for each decision [env: TIDEGATE_STORE_MODE]
    /// [default: leased]
    #[arg(long, value_name = "leased|strict", help_heading = "Shared limits")]
    pub store_mode: Option<String>,

    /// Keep state and admin writes in this directory, across restarts and crashes; it is made where it does not exist
    /// [env: TIDEGATE_DATA_DIR] [default: off, memory only]
    #[arg(long, value_name = "DIR|off")]
    pub data_dir: Option<String>,

    /// Threads that serve the limiter, 1 to 1024 [env: TIDEGATE_THREADS] [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,

    /// Time that calls in flight get after SIGTERM [env: TIDEGATE_DRAIN] [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,

    /// Form of the log on standard error [env: TIDEGATE_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "text|json", help_heading = "Logging")]
    pub log_format: Option<String>,

    /// What to log: a level, or tracing directives such as `info,tidegate_server::limiter=debug`
    /// [env: TIDEGATE_LOG_FILTER] [default: info]
    #[arg(long, value_name = "FILTER", help_heading = "Logging")]
    pub log_filter: Option<String>,

    /// Most limit keys [env: TIDEGATE_MAX_KEYS] [default: 1M]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub max_keys: Option<String>,

    /// Most live reservations [env: TIDEGATE_MAX_RESERVATIONS] [default: 1M]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub max_reservations: Option<String>,

    /// Most live reservations of one key [env: TIDEGATE_MAX_RESERVATIONS_PER_KEY] [default: 100k]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub max_reservations_per_key: Option<String>,

    /// Most connections of gateways [env: TIDEGATE_MAX_CONNECTIONS] [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub max_connections: Option<String>,

    /// Most limiter calls in flight [env: TIDEGATE_MAX_CALLS_IN_FLIGHT] [default: 65536]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub max_calls_in_flight: Option<String>,

    /// Run on a clock that requests advance, starting at this many seconds since 1970. For tests alone.
    #[cfg(feature = "test-clock")]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1700000000")]
    pub test_clock: Option<String>,
}
