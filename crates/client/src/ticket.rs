//! The right to one answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_proto::v1::pipeline_request::Call;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::calls::{Calls, Closed, Told};

/// Resolves to the answer of a call, or to `None` when the stream has broken. Dropped early, it leaves no reservation behind that only
/// the client knows the request id of.
pub(crate) struct Ticket {
    calls: Arc<Calls>,
    told: oneshot::Receiver<Told>,
    releases: bool,
    is_used: bool,
}

impl Ticket {
    /// Puts a call in line. `releases` where an ALLOW is to be released when nobody waits for it any more.
    pub(crate) fn of(
        calls: &Arc<Calls>,
        call: Call,
        place: OwnedSemaphorePermit,
        releases: bool,
    ) -> Result<Self, Closed> {
        let told = calls.submit(call, place, releases)?;
        Ok(Self { calls: Arc::clone(calls), told, releases, is_used: false })
    }
}

impl Future for Ticket {
    type Output = Option<Told>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = std::task::ready!(Pin::new(&mut self.told).poll(cx));
        self.is_used = true;
        Poll::Ready(told.ok())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        // Whoever answers from now on sees that nobody waits; what was told before is taken care of here.
        self.told.close();
        if self.releases
            && let Ok(Ok(answer)) = self.told.try_recv()
        {
            self.calls.release(&answer);
        }
        self.calls.changed.notify_waiters();
    }
}
