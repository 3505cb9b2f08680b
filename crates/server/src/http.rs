//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1: for Prometheus, and for probes that speak no gRPC.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::connection::Connection;
use crate::readiness::Readiness;

/// A request's head must be there after this long, and a kept connection ends after as much silence.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1_024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// Draws the metrics page.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// What the HTTP listener tells about.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Page,
    /// Whether limits are in shadow for everybody.
    pub(crate) in_shadow: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Probes {
    /// Serves one connection until the client leaves or is silent for 30 s. Request bodies are not read.
    pub(crate) async fn serve(self, connection: Connection) {
        let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(connection), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an HTTP connection ended");
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "not found; there are /metrics, /healthz and /readyz\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/metrics" => {
                let mut page = text(StatusCode::OK, (self.metrics)());
                let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                page.headers_mut().insert(CONTENT_TYPE, version);
                page
            }
            "/readyz" if !self.readiness.is_ready() => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/readyz" if (self.in_shadow)() => {
                text(StatusCode::OK, "ok; enforcement is in shadow: nobody is denied by a limit\n")
            }
            _ => text(StatusCode::OK, "ok\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !status.is_success() && status != StatusCode::SERVICE_UNAVAILABLE {
        // A refused request may have a body, which nobody reads: what follows on the connection is no request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::Life;

    fn status(probes: &Probes, method: Method, path: &str) -> (StatusCode, bool) {
        let request = Request::builder().method(method).uri(path).body(()).expect("a request");
        let response = probes.answer(&request);
        (response.status(), response.headers().contains_key(CONNECTION))
    }

    #[test]
    fn each_path_says_what_it_knows() {
        let (life, readiness) = Life::start();
        let probes = Probes { readiness, metrics: Arc::new(|| "page".to_owned()), in_shadow: Arc::new(|| false) };
        assert_eq!(status(&probes, Method::GET, "/readyz"), (StatusCode::SERVICE_UNAVAILABLE, false));
        life.on_serving();
        assert_eq!(status(&probes, Method::GET, "/readyz"), (StatusCode::OK, false));
        assert_eq!(status(&probes, Method::HEAD, "/metrics?x=1"), (StatusCode::OK, false));
        let shadowed = Probes { in_shadow: Arc::new(|| true), ..probes.clone() };
        assert_eq!(status(&shadowed, Method::GET, "/readyz"), (StatusCode::OK, false), "shadow is no outage");
        life.on_stopping();
        assert_eq!(status(&probes, Method::GET, "/readyz"), (StatusCode::SERVICE_UNAVAILABLE, false));
        assert_eq!(status(&probes, Method::GET, "/healthz"), (StatusCode::OK, false));
        assert_eq!(status(&probes, Method::POST, "/metrics"), (StatusCode::METHOD_NOT_ALLOWED, true));
        assert_eq!(status(&probes, Method::GET, "/"), (StatusCode::NOT_FOUND, true));
    }
}
