//! The body of an answer, and how gRPC lays messages into bodies: a flag, a length of four bytes, the message.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, Version};
use hyper::body::{Body, Frame};
use tonic::Status;

/// Bytes before a message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Longer frames are not copied together by h2: each would be a write of its own.
const MOST_FRAME_BYTES: usize = 1_023;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What an answer is made of.
#[derive(Default)]
pub(crate) enum Reply {
    /// One message, and that all is well.
    Message(Bytes),
    /// That all is well.
    Well,
    /// Nothing any more.
    #[default]
    Over,
    /// Frames that are made one after the other, and trailers.
    Stream(Pin<Box<dyn Frames>>),
    /// Of the generated service.
    Generated(tonic::body::Body),
}

/// Makes the frames of a stream; trailers at last, with how it ended.
pub(crate) trait Frames: Send {
    /// The next of them; `None` when nothing comes any more.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>>;
}

impl Reply {
    /// Whether it may be an error that the generated service made.
    pub(crate) const fn is_generated(&self) -> bool {
        matches!(self, Self::Generated(_) | Self::Over)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match std::mem::take(&mut *self) {
            Self::Message(mut message) => {
                let frame = message.split_to(message.len().min(MOST_FRAME_BYTES));
                *self = if message.is_empty() { Self::Well } else { Self::Message(message) };
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            Self::Well => Poll::Ready(Some(Ok(Frame::trailers(well())))),
            Self::Over => Poll::Ready(None),
            Self::Stream(mut frames) => {
                let frame = frames.as_mut().poll_frame(cx).map(|frame| frame.map(Ok));
                *self = Self::Stream(frames);
                frame
            }
            Self::Generated(mut body) => {
                let frame = Pin::new(&mut body).poll_frame(cx);
                *self = Self::Generated(body);
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Over => true,
            Self::Generated(body) => body.is_end_stream(),
            Self::Message(_) | Self::Well | Self::Stream(_) => false,
        }
    }
}

/// An answer with this body.
pub(crate) fn response(reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    *response.version_mut() = Version::HTTP_2;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The trailers of a stream that ended as `ended` says.
pub(crate) fn trailers(ended: Result<(), Status>) -> HeaderMap {
    let Err(status) = ended else { return well() };
    let mut trailers = HeaderMap::with_capacity(4);
    if status.add_header(&mut trailers).is_err() {
        // What it says cannot be said in a header.
        trailers.insert(GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

/// Appends to `out` the message that `write` appends, or nothing where that fails.
pub(crate) fn framed<T, E>(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Result<T, E>) -> Result<T, E> {
    let at = out.len();
    out.put_bytes(0, PREFIX_BYTES);
    let written = write(out);
    if written.is_err() {
        out.truncate(at);
    } else {
        let length = u32::try_from(out.len() - at - PREFIX_BYTES).expect("a message of less than 4 GiB");
        out[at + 1..at + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    }
    written
}

/// What stands at the front of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// A message of so many bytes, behind its prefix.
    Message(usize),
    /// Part of one, or nothing.
    Part,
    /// One of so many bytes, which is more than it may have.
    TooLong(usize),
    /// One that is compressed.
    Compressed,
}

/// Looks at what came of a body whose messages may have `most` bytes.
pub(crate) fn prefix(body: &[u8], most: usize) -> Prefix {
    let Some((&[flag, a, b, c, d], rest)) = body.split_first_chunk() else { return Prefix::Part };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match (flag, length) {
        (0, length) if length > most => Prefix::TooLong(length),
        (0, length) if length <= rest.len() => Prefix::Message(length),
        (0, _) => Prefix::Part,
        _ => Prefix::Compressed,
    }
}
