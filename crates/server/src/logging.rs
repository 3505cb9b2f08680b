//! The log: to standard error, as text or JSON. Bodies and secrets are never logged.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// What else would talk at `debug` and `trace`: of every frame.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,tonic=info,tower=info";

/// `filter`; a bare level means ours, not that of the libraries below.
fn directives(filter: &str) -> String {
    match filter.to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => format!("{level},{QUIET}"),
        _ => filter.to_owned(),
    }
}

/// Starts logging, once for the process; where somebody else did, theirs stays. A panic in any thread becomes a log line.
pub(crate) fn start(logging: &Logging) {
    // The filter was parsed with the configuration; were it wrong all the same, errors would be logged.
    let filter = EnvFilter::try_new(directives(&logging.filter)).unwrap_or_default();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match logging.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            subscriber.with_ansi(colours).try_init()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, message = panic.payload_as_str(), "panic");
        }));
    }
}
