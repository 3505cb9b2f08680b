//! The task that keeps a stream open: it connects, carries answers to their callers, and starts anew when the stream breaks.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::{Channel, Error};

use crate::backoff::Backoff;
use crate::calls::Calls;
use crate::failure::Undelivered;
use crate::outbound::Outbound;
use crate::target::with_sources;

/// Opens one connection.
pub(crate) type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;
pub(crate) type Connecting = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send>>;

/// Keeps a stream open until the client is closed and, for at most `close_timeout` more, what it has is delivered.
pub(crate) async fn keep(calls: Arc<Calls>, connect: Connect, target: String, close_timeout: Duration) {
    let kept = Kept { calls, target };
    tokio::select! {
        never = stay_connected(&kept.calls, &connect, &kept.target) => match never {},
        () = wound_down(&kept.calls, close_timeout) => {}
    }
    kept.calls.end();
}

/// However the task ends (the runtime may, before the client does), the next call may start another one.
struct Kept {
    calls: Arc<Calls>,
    target: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.calls.on_broken("the runtime of the connection has ended");
        if self.calls.is_closing() {
            say_what_is_left(&self.calls, &self.target);
        }
        self.calls.is_kept.store(false, Ordering::Release);
        self.calls.changed.notify_waiters();
    }
}

/// Nobody will deliver what is in the outbox now: not without a word.
pub(crate) fn say_what_is_left(calls: &Calls, target: &str) {
    let left = calls.undelivered();
    if left != Undelivered::default() {
        tracing::warn!(%target, "the client was closed; {left}");
    }
}

async fn wound_down(calls: &Calls, close_timeout: Duration) {
    until(calls, Calls::is_closing).await;
    // What is left then is told by whoever closed the client, and by the log.
    let _ = timeout(close_timeout, until(calls, Calls::is_done)).await;
}

/// Waits until `is_so`.
pub(crate) async fn until(calls: &Calls, is_so: impl Fn(&Calls) -> bool) {
    loop {
        let changed = calls.changed.notified();
        if is_so(calls) {
            return;
        }
        changed.await;
    }
}

async fn stay_connected(calls: &Arc<Calls>, connect: &Connect, target: &str) -> Infallible {
    let mut backoff = Backoff::new();
    let mut is_lost = false;
    loop {
        let trouble = match connect().await {
            Ok(channel) => {
                let (answered, trouble) = carried(calls, channel, target).await;
                if answered {
                    backoff.reset();
                    is_lost = false;
                }
                trouble
            }
            Err(error) => with_sources(&error),
        };
        calls.on_broken(&trouble);
        // Once, however often the attempts to come fail.
        if !std::mem::replace(&mut is_lost, true) {
            tracing::warn!(%target, trouble, "tidegate is away");
        }
        sleep(backoff.wait()).await;
    }
}

/// Carries calls and answers until the stream ends: whether it brought any answer, and how it ended.
async fn carried(calls: &Arc<Calls>, channel: Channel, target: &str) -> (bool, String) {
    let mut client = RateLimiterServiceClient::new(channel);
    let mut answers = match client.pipeline(Outbound::new(calls)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return (false, text(&status)),
    };
    tracing::debug!(%target, "a stream is open");
    let mut has_answered = false;
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                has_answered = true;
                calls.on_answer(answer, Instant::now());
            }
            Ok(None) => return (has_answered, "the server ended the stream".to_owned()),
            Err(status) => return (has_answered, text(&status)),
        }
    }
}

fn text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
