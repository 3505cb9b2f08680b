//! HTTP/2 to the server, and one gRPC call on it.
//!
//! Rejected: the generated client on its channel, which takes more of the machine than the server that it measures.

use std::io;

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;

use super::reserve::PREFIX_BYTES;
use crate::failure::Failure;
use crate::target::Target;

/// Bytes of answers under way on a connection, and on a stream: the load never makes the server wait for room.
const WINDOW_BYTES: u32 = 16 << 20;

/// Opens one connection, which lives as long as what makes requests on it.
pub(super) async fn connect(target: &Target) -> Result<SendRequest<Bytes>, Failure> {
    let unreachable = |error: io::Error| {
        Failure::Failed(format!(
            "cannot connect to {target}: {error}\nIs `tidegate serve` running there? Set --target."
        ))
    };
    match target {
        Target::Http(authority) => {
            let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            shake_hands(stream, target).await
        }
        Target::Unix(path) => shake_hands(UnixStream::connect(path).await.map_err(unreachable)?, target).await,
        Target::Https(_) => {
            Err(Failure::Usage("bench speaks plain HTTP/2: --target http://host:port or unix:/path".to_owned()))
        }
    }
}

async fn shake_hands<S>(stream: S, target: &Target) -> Result<SendRequest<Bytes>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut settings = Builder::new();
    settings
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .data_frame_budget(WINDOW_BYTES as usize)
        .enable_push(false);
    let shaken = settings.handshake(stream).await;
    let (requests, connection) =
        shaken.map_err(|error| Failure::Failed(format!("{target} does not speak HTTP/2: {error}")))?;
    // An error of the connection is one of each call on it.
    spawn_local(connection);
    Ok(requests)
}

/// What is the same in all calls of one method.
#[derive(Clone, Debug)]
pub(super) struct Rpc {
    path: &'static str,
    uri: Uri,
    headers: HeaderMap,
}

impl Rpc {
    /// The method at `path`, such as `/package.Service/Method`.
    pub(super) fn at(path: &'static str) -> Self {
        let headers = [
            (HeaderName::from_static("te"), HeaderValue::from_static("trailers")),
            (http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        ];
        let uri = Uri::builder().scheme("http").authority("limiter").path_and_query(path).build();
        Self { path, uri: uri.unwrap_or_default(), headers: headers.into_iter().collect() }
    }

    /// The head of a call.
    pub(super) fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The connection is over: no call on it can succeed any more.
    #[error("the connection ended: {0}")]
    Connection(#[from] h2::Error),
    /// This one call failed.
    #[error("{0}")]
    Refused(String),
}

/// Makes one call: the message that answers it.
pub(super) async fn call(
    requests: SendRequest<Bytes>,
    method: &Rpc,
    message: Bytes,
) -> (Option<SendRequest<Bytes>>, Result<Bytes, CallError>) {
    let mut requests = match requests.ready().await {
        Ok(requests) => requests,
        Err(error) => return (None, Err(error.into())),
    };
    let sent = requests.send_request(method.request(), false);
    let answer = async {
        let (response, mut body) = sent?;
        body.send_data(message, true)?;
        read(method, response.await?).await
    };
    let answer = answer.await;
    (Some(requests), answer)
}

async fn read(method: &Rpc, response: http::Response<h2::RecvStream>) -> Result<Bytes, CallError> {
    if response.status() != StatusCode::OK {
        return Err(CallError::Refused(format!("{}: HTTP {}", method.path, response.status())));
    }
    let (head, mut body) = response.into_parts();
    let mut answer = Bytes::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if answer.is_empty() {
            answer = data;
        } else {
            let mut longer = BytesMut::from(answer);
            longer.extend_from_slice(&data);
            answer = longer.freeze();
        }
    }
    let trailers = body.trailers().await?;
    let ends = trailers.as_ref().unwrap_or(&head.headers);
    check_status(method.path, ends)?;
    if answer.len() < PREFIX_BYTES {
        return Err(CallError::Refused(format!("{}: OK without a message", method.path)));
    }
    Ok(answer.split_off(PREFIX_BYTES))
}

/// Whether a call ended well, by what came at its end.
pub(super) fn check_status(path: &str, ends: &HeaderMap) -> Result<(), CallError> {
    let field = |name: &str| ends.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match ends.get("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        Some(_) => Err(CallError::Refused(format!(
            "{path}: gRPC status {}: {}",
            field("grpc-status").unwrap_or_default(),
            field("grpc-message").unwrap_or_default()
        ))),
        None => Err(CallError::Refused(format!("{path}: ended without a gRPC status"))),
    }
}
