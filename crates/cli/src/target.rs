//! Where a command finds the server, and the connection to it.

use std::time::Duration;

pub(crate) use tidegate_client::Target;
use tidegate_client::with_sources;
use tidegate_server::config::amount::parse_duration;
use tonic::transport::Channel;

use crate::failure::Failure;

/// How long connecting may take before the server counts as not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long without a word, a server with a call under way is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// Opens one connection to `target`. `call_timeout` bounds every call on it.
pub(crate) async fn connect(target: &Target, call_timeout: Duration) -> Result<Channel, Failure> {
    let endpoint = target.endpoint();
    let endpoint = endpoint.map_err(|error| Failure::Usage(format!("{target}: {}", with_sources(&error))))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(call_timeout);
    let endpoint = endpoint.http2_keep_alive_interval(SILENCE).keep_alive_timeout(CONNECT_TIMEOUT);
    endpoint.connect().await.map_err(|error| {
        let why = with_sources(&error);
        Failure::Failed(format!("cannot connect to {target}: {why}\nIs `tidegate serve` running there? Set --target."))
    })
}

/// The limiter listener, in the commands that act as a gateway.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LimiterTarget {
    /// The limiter: http://host:port, https://host:port or unix:/path
    #[arg(long, value_name = "URL", env = "TIDEGATE_TARGET", default_value = "http://127.0.0.1:7437")]
    pub(crate) target: Target,

    /// How long each call may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// The admin listener, in the commands that act as an operator.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AdminTarget {
    /// The admin listener: http://host:port, https://host:port or unix:/path
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEGATE_ADMIN_TARGET",
        default_value = "http://127.0.0.1:7438",
        global = true
    )]
    pub(crate) target: Target,

    /// How long each call may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration, global = true)]
    pub(crate) timeout: Duration,
}
