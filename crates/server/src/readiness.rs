//! Whether decisions are being answered: what `/readyz`, gRPC health and every drain look at.

use std::future::Future;

use tokio::sync::watch;

/// The life of a serving process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Serving,
    Stopping,
}

/// Moves the process through its life. There is one.
#[derive(Debug)]
pub(crate) struct Life(watch::Sender<Phase>);

/// Sees where the process is in its life.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(watch::Receiver<Phase>);

impl Life {
    pub(crate) fn start() -> (Self, Readiness) {
        let (sender, receiver) = watch::channel(Phase::Starting);
        (Self(sender), Readiness(receiver))
    }

    /// Decisions are being answered.
    pub(crate) fn on_serving(&self) {
        self.0.send_replace(Phase::Serving);
    }

    /// SIGTERM came: no new connections, what is in flight is answered.
    pub(crate) fn on_stopping(&self) {
        self.0.send_replace(Phase::Stopping);
    }
}

impl Readiness {
    /// Whether decisions are being answered, and will be in a moment.
    pub(crate) fn is_ready(&self) -> bool {
        *self.0.borrow() == Phase::Serving
    }

    /// Resolves when the process is about to end.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.0.clone();
        async move {
            // An error says that `Life` is gone: the process is past stopping.
            let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
        }
    }

    /// Where the process is; what comes after it is a change.
    pub(crate) fn see(&mut self) -> Phase {
        *self.0.borrow_and_update()
    }

    /// Resolves at the next change since [`Readiness::see`]; `false`: there is none any more.
    pub(crate) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}
