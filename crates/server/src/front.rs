//! Where the limiter's calls come in: those that come with each request of a gateway are answered here, past the generated service.
//!
//! What is unusual goes there: a method that is called seldom, a message that is compressed, too long or not as expected, a store
//! that has to be waited for. So the generated service says what is wrong with a call, and what is here stays short.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::Service;
use tidegate_store::Store;
use tonic::Status;
use tonic::service::Routes;
use tower::Service as _;

use crate::config::Bounds;
use crate::limiter::quick::Method;
use crate::limiter::{Limiter, pipeline};
use crate::reply::{self, PREFIX_BYTES, Prefix, Reply};
use crate::services;

/// The limiter's calls, by their paths. Clones share everything.
#[derive(Debug)]
pub(crate) struct Front<S>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    limiter: Limiter<S>,
    routes: Routes,
    bounds: Bounds,
}

impl<S> Clone for Front<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store> Front<S> {
    /// Answers with `limiter` itself where it can, else by `routes`.
    pub(crate) fn new(limiter: Limiter<S>, routes: Routes, bounds: Bounds) -> Self {
        Self(Arc::new(Inner { limiter, routes, bounds }))
    }
}

impl<S: Store> Service<Request<Incoming>> for Front<S> {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Call<S>;

    fn call(&self, request: Request<Incoming>) -> Call<S> {
        let inner = &self.0;
        #[cfg(feature = "test-clock")]
        if let Err(status) = inner.limiter.advance(request.headers()) {
            return Call { inner: Arc::clone(inner), progress: Progress::Answered(Some(status.into_http())) };
        }
        let path = request.uri().path();
        let progress = if path == pipeline::PATH {
            let limiter = inner.limiter.clone();
            let calls = pipeline::Pipeline::new(limiter, request.into_body(), inner.bounds.limiter_message_bytes);
            Progress::Answered(Some(reply::response(Reply::Stream(Box::pin(calls)))))
        } else if let Some(method) = Method::of(path) {
            let (_, most) = services::limiter_message(&inner.bounds, path);
            let (head, body) = request.into_parts();
            Progress::Reading(Box::new(Reading { method, most, head, body, read: Bytes::new() }))
        } else {
            Progress::Routed(Box::pin(inner.routes.clone().call(request.map(tonic::body::Body::new))))
        };
        Call { inner: Arc::clone(inner), progress }
    }
}

/// A call on its way.
pub(crate) struct Call<S> {
    inner: Arc<Inner<S>>,
    progress: Progress,
}

type Routed = Pin<Box<<Routes as tower::Service<Request<tonic::body::Body>>>::Future>>;

enum Progress {
    Reading(Box<Reading>),
    Routed(Routed),
    Answered(Option<Response<Reply>>),
}

/// A message that is not there yet, as a whole.
struct Reading {
    method: Method,
    /// Bytes that it may have.
    most: usize,
    head: Parts,
    body: Incoming,
    read: Bytes,
}

impl<S: Store> Future for Call<S> {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.progress {
                Progress::Reading(reading) => {
                    let is_whole = ready!(reading.poll(cx));
                    let answer = if is_whole { reading.answer(&this.inner.limiter) } else { None };
                    this.progress = match answer {
                        Some(Ok(message)) => Progress::Answered(Some(reply::response(Reply::Message(message)))),
                        Some(Err(status)) => Progress::Answered(Some(status.into_http())),
                        None => {
                            let Progress::Reading(reading) =
                                std::mem::replace(&mut this.progress, Progress::Answered(None))
                            else {
                                unreachable!("it is being read")
                            };
                            Progress::Routed(Box::pin(this.inner.routes.clone().call(reading.into_request())))
                        }
                    };
                }
                Progress::Routed(call) => {
                    let Ok(response) = ready!(call.as_mut().poll(cx));
                    return Poll::Ready(Ok(response.map(Reply::Generated)));
                }
                Progress::Answered(response) => {
                    return Poll::Ready(Ok(response.take().expect("a call is answered once")));
                }
            }
        }
    }
}

impl Reading {
    /// Whether what was read is one plain message, now that there is nothing more to come, or more than there may be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.body.is_end_stream() {
            if self.read.len() > self.most + PREFIX_BYTES {
                return Poll::Ready(false);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if self.read.is_empty() => self.read = data,
                Some(Ok(Ok(data))) => {
                    let mut read = BytesMut::from(std::mem::take(&mut self.read));
                    read.extend_from_slice(&data);
                    self.read = read.freeze();
                }
                // Trailers.
                Some(Ok(Err(_))) => {}
                // The caller has gone; whatever is answered, nobody reads it.
                Some(Err(_)) => return Poll::Ready(false),
                None => break,
            }
        }
        let Prefix::Message(length) = reply::prefix(&self.read, self.most) else { return Poll::Ready(false) };
        Poll::Ready(self.read.len() == length + PREFIX_BYTES)
    }

    fn answer<S: Store>(&self, limiter: &Limiter<S>) -> Option<Result<Bytes, Status>> {
        limiter.answer_alone(self.method, &self.read[PREFIX_BYTES..])
    }

    /// The call as it came.
    fn into_request(self) -> Request<tonic::body::Body> {
        let body = AsItCame { read: Some(self.read).filter(|read| !read.is_empty()), rest: self.body };
        Request::from_parts(self.head, tonic::body::Body::new(body))
    }
}

/// A body of which the beginning was read.
struct AsItCame {
    read: Option<Bytes>,
    rest: Incoming,
}

impl Body for AsItCame {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.take() {
            Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.rest.is_end_stream()
    }
}
