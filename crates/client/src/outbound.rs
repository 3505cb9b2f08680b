//! The calls of one stream, as the connection has room for them.
//!
//! The connection asks for the next call when its window allows one and writes all that is ready in one frame. Until then reports stay
//! in the outbox, where newer ones take the place of older.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tidegate_proto::v1::PipelineRequest;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::calls::{Calls, Next};

pub(crate) struct Outbound {
    calls: Arc<Calls>,
    stream: u64,
    /// Rings when a report has rested.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Outbound {
    /// Of a new stream; those before it are over.
    pub(crate) fn new(calls: &Arc<Calls>) -> Self {
        Self { calls: Arc::clone(calls), stream: calls.on_stream(), alarm: None }
    }
}

impl Stream for Outbound {
    type Item = PipelineRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PipelineRequest>> {
        let this = &mut *self;
        loop {
            match this.calls.next(this.stream, Instant::now(), cx.waker()) {
                Next::Call(call) => return Poll::Ready(Some(call)),
                Next::Over => return Poll::Ready(None),
                Next::Nothing(None) => {
                    this.alarm = None;
                    return Poll::Pending;
                }
                Next::Nothing(Some(at)) => {
                    let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if alarm.deadline() != at {
                        alarm.as_mut().reset(at);
                    }
                    std::task::ready!(alarm.as_mut().poll(cx));
                }
            }
        }
    }
}
