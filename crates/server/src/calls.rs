//! What every gRPC call passes on its way in and out: the bound on calls in flight, and one place that sees its error.
//!
//! tonic answers some errors before a service is asked (a message too long, bytes that are no message); here they get the
//! code and the details that every other error has. A panic in a call ends that call with INTERNAL: caught here and not
//! left to the runtime, which would reset the stream and leave the caller guessing.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tidegate_proto::error;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::config::Bounds;
use crate::connection::{Place, Places};
use crate::metrics::{Metrics, ServerBound};
use crate::reply::Reply;

/// When to come back after too many calls were in flight: they are answered within microseconds.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The calls that are bounded: those of tidegate. A probe is answered however busy we are.
const BOUNDED: &str = "/tidegate.v1.";

/// How long the caller of a call waits.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A service, guarded.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

/// What guards the services of one listener.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) metrics: Arc<Metrics>,
    /// Places for calls in flight; `None`: not bounded here.
    pub(crate) calls: Option<Places>,
    /// Bytes that a message to this path may have, and which bound that is.
    pub(crate) message: fn(&Bounds, &str) -> (ServerBound, usize),
    pub(crate) bounds: Bounds,
}

impl<S> Guarded<S> {
    pub(crate) const fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }
}

impl<S> Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        let timeout = request.headers().get(GRPC_TIMEOUT).and_then(timeout);
        let calls = self.guard.calls.as_ref().filter(|_| request.uri().path().starts_with(BOUNDED));
        let progress = match calls.map(Places::try_take) {
            Some(None) => Progress::Refused,
            Some(place) => Progress::Running { call: self.inner.call(request), _place: place },
            None => Progress::Running { call: self.inner.call(request), _place: None },
        };
        Call { progress, path, deadline: Deadline::In(timeout), guard: Arc::clone(&self.guard) }
    }
}

/// What the caller says of how long it waits: at most 8 digits and a unit, as gRPC has it; anything else is no word of it.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let value = value.to_str().ok().filter(|value| value.len() <= 9)?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u64 = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// A call being answered. Gives its place back when it is answered, or when the caller goes away.
#[derive(Debug)]
pub(crate) struct Call<F> {
    progress: Progress<F>,
    path: Option<PathAndQuery>,
    deadline: Deadline,
    guard: Arc<Guard>,
}

#[derive(Debug)]
enum Progress<F> {
    Refused,
    Running {
        call: F,
        /// Given back on drop.
        _place: Option<Place>,
    },
}

/// Until when the caller waits. A timer is set only where the call does.
#[derive(Debug)]
enum Deadline {
    In(Option<Duration>),
    At(Pin<Box<Sleep>>),
}

impl Deadline {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::In(Some(timeout)) = self {
            *self = Self::At(Box::pin(sleep(*timeout)));
        }
        match self {
            Self::In(_) => Poll::Pending,
            Self::At(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Reply>, Infallible>> + Unpin,
{
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answered = match &mut this.progress {
            Progress::Refused => {
                this.guard.metrics.on_bound_reached(ServerBound::CallsInFlight);
                let message = "too many calls are in flight (bounds.calls_in_flight)";
                Ok(error::unavailable(error::TOO_BUSY, message, BUSY_RETRY).into_http())
            }
            Progress::Running { call, .. } => match catch_unwind(AssertUnwindSafe(|| Pin::new(call).poll(cx))) {
                Ok(Poll::Ready(answered)) => answered,
                Ok(Poll::Pending) if this.deadline.poll(cx).is_pending() => return Poll::Pending,
                Ok(Poll::Pending) => Ok(error::deadline_passed().into_http()),
                Err(panic) => Ok(internal(panic.as_ref()).into_http()),
            },
        };
        let path = this.path.as_ref().map_or("", PathAndQuery::path);
        Poll::Ready(answered.map(|response| this.guard.on_answer(path, response)))
    }
}

impl Guard {
    /// Counts the error in `response`, if there is one, and completes it where tonic made it. Errors of streams that come
    /// after their first answer are not seen here.
    fn on_answer(&self, path: &str, response: Response<Reply>) -> Response<Reply> {
        if !response.body().is_generated() {
            return response;
        }
        // An answered call has its status in trailers: only an error is in the headers.
        let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
        else {
            return response;
        };
        let completed = if status.details().is_empty() { self.completed(path, &status) } else { None };
        self.metrics.on_rpc_error(path, completed.as_ref().map_or(status.code(), Status::code));
        completed.map_or(response, Status::into_http)
    }

    /// The error that we would have made where tonic made `status`; `None` where it stays.
    fn completed(&self, path: &str, status: &Status) -> Option<Status> {
        let (bound, bytes) = (self.message)(&self.bounds, path);
        match status.code() {
            Code::OutOfRange => {
                self.metrics.on_bound_reached(bound);
                let what = format!("is longer than the {bytes} bytes of bounds.{}", bound.name());
                Some(error::invalid_field("request", &what))
            }
            Code::Internal if status.message().contains("failed to decode Protobuf message") => {
                Some(error::invalid_field("request", &format!("is malformed: {}", status.message())))
            }
            Code::Unimplemented if status.message().is_empty() => Some(error::unimplemented("this method")),
            _ => None,
        }
    }
}

/// INTERNAL for a panic. The panic hook has logged it; the caller learns nothing of our inside.
pub(crate) fn internal(_: &(dyn Any + Send)) -> Status {
    let details = ErrorDetails::with_error_info("INTERNAL", error::DOMAIN, []);
    Status::with_error_details(Code::Internal, "tidegate failed to answer this call; it may have taken effect", details)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::services;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_the_deadline_of_its_caller() {
        let metrics = Arc::new(Metrics::new(false, services::method_paths()));
        let bounds = Bounds::default();
        let guard = Arc::new(Guard { metrics, calls: None, message: services::limiter_message, bounds });
        let call = |timeout| Call {
            progress: Progress::Running { call: Box::pin(pending()), _place: None },
            path: None,
            deadline: Deadline::In(timeout),
            guard: Arc::clone(&guard),
        };
        let began = tokio::time::Instant::now();
        let Ok(response) = call(Some(Duration::from_millis(200))).await;
        let status = Status::from_header_map(response.headers()).expect("an error");
        assert_eq!((status.code(), began.elapsed().as_millis()), (Code::DeadlineExceeded, 200));
        let details = status.get_details_error_info().expect("every error has ErrorInfo");
        assert_eq!(details.reason, error::DEADLINE_PASSED);
        let forever = tokio::time::timeout(Duration::from_secs(86_400), call(None)).await;
        assert!(forever.is_err(), "who sets no deadline waits");
    }

    #[test]
    fn a_deadline_is_up_to_eight_digits_and_a_unit() {
        let of = |text: &str| timeout(&HeaderValue::from_str(text).expect("a header"));
        for (text, span) in [
            ("99999999H", Duration::from_secs(359_999_996_400)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("200m", Duration::from_millis(200)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(of(text), Some(span), "{text}");
        }
        for text in ["", "m", "5", "5s", "-5m", "+5m", "123456789m", "5\u{e9}"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
