//! What the system tells the process, and what the process asks of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process at once, with exit code 1.
pub(crate) async fn stop() {
    let mut signals = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot listen to signals: only SIGKILL will stop tidegate");
            return std::future::pending().await;
        }
    };
    received(&mut signals).await;
    tokio::spawn(async move {
        received(&mut signals).await;
        tracing::warn!("told twice to stop: calls in flight are dropped");
        std::process::exit(1);
    });
}

async fn received((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Raises the soft limit of open files to the hard one: the usual 1,024 are fewer than the connections that are allowed.
pub(crate) fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "cannot raise the limit of open files");
    }
}
