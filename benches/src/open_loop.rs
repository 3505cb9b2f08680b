//! Load at a steady rate, as a gateway has it: calls fall due at random instants, each is sent when it is due whatever became
//! of those before it, and is timed from then.
//!
//! Rejected: as many clients as there are calls in flight, each of which waits for its answer (a stalled server is asked less
//! often); the runtime's own timers (they tick once a millisecond, so that twenty calls at a time queue behind each other and
//! what is measured is that queue); a generated client (it takes more of the two cores than the server does).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{Method, Request, Version};
use prost::Message;
use tidegate_cli::timer::Timer;
use tidegate_core::time::Timestamp;
use tidegate_proto::v1::{CheckAndReserveRequest, CheckAndReserveResponse, LimitKey, SettleRequest, SettleResponse};
use tidegate_server::clock::Clock;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::durable::Draws;
use crate::zipf::Zipf;

/// Slower answers count as this slow, in nanoseconds.
const SLOWEST: u64 = 60_000_000_000;
/// More calls in flight than this: the server does not keep up, and there is nothing to measure.
const MOST_IN_FLIGHT: usize = 16_384;

/// Bytes of answers on their way on a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The connection's.
    #[error(transparent)]
    Connection(#[from] h2::Error),
    /// The server refused a call, or did not answer as it should.
    #[error("{0}")]
    Answer(String),
    /// The server does not keep up.
    #[error("{MOST_IN_FLIGHT} calls are in flight: the server does not keep up")]
    TooSlow,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Decisions a second.
    pub rate: u64,
    /// For how long.
    pub length: Duration,
    /// Over how many connections to each server.
    pub connections: usize,
    /// Share of reservations that are settled at once, percent.
    pub settled: u64,
    /// Of the pseudo-random numbers.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Seen {
    /// From when a decision was due to when it was there, nanoseconds.
    pub latencies: Histogram<u64>,
    /// Decisions that allowed.
    pub allowed: u64,
    /// From the first call to the last answer.
    pub took: Duration,
}

/// Asks these servers for decisions about `keys`, each call any one of them.
///
/// # Errors
/// [`LoadError`].
pub async fn run(servers: &[&str], load: Load, keys: &Zipf) -> Result<Seen, LoadError> {
    LocalSet::new().run_until(drive(servers, load, keys)).await
}

async fn drive(servers: &[&str], load: Load, keys: &Zipf) -> Result<Seen, LoadError> {
    let mut connections = Vec::new();
    let mut driven = JoinSet::new();
    for server in servers.iter().flat_map(|server| std::iter::repeat_n(*server, load.connections)) {
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        // Of small answers that nobody has read yet, a connection takes as many as fit its window: a stall is measured, not refused.
        let mut settings = h2::client::Builder::new();
        settings.initial_connection_window_size(CONNECTION_WINDOW).data_frame_budget(CONNECTION_WINDOW as usize);
        let (requests, connection) = settings.handshake(socket).await?;
        driven.spawn_local(connection);
        connections.push(requests);
    }
    let clock = Clock::start();
    let timer = Timer::new()?;
    let began = clock.now();
    let (mut draws, mut due, until) = (Draws(load.seed), began, began.after(load.length));
    let latencies = Histogram::new_with_max(SLOWEST, 3).map_err(|error| LoadError::Answer(error.to_string()))?;
    let seen = Rc::new(RefCell::new(Seen { latencies, allowed: 0, took: Duration::ZERO }));
    let mut calls: JoinSet<Result<(), LoadError>> = JoinSet::new();
    #[expect(clippy::cast_precision_loss, reason = "rates are small")]
    let mean = 1.0 / load.rate as f64;
    while due < until {
        while let Some(ended) = calls.try_join_next() {
            ended.map_err(|error| LoadError::Answer(error.to_string()))??;
        }
        let now = clock.now();
        if due > now {
            timer.sleep(due.since(now)).await?;
            continue;
        }
        if calls.len() >= MOST_IN_FLIGHT {
            return Err(LoadError::TooSlow);
        }
        let call = Call {
            connection: draws.one_of(&connections).clone(),
            clock: clock.clone(),
            due,
            account: format!("account {}", keys.draw(&mut draws)),
            settle: draws.next() % 100 < load.settled,
            seen: Rc::clone(&seen),
        };
        calls.spawn_local(call.run());
        due = due.after(Duration::from_secs_f64(-mean * (1.0 - draws.unit()).ln()));
    }
    while let Some(ended) = calls.join_next().await {
        ended.map_err(|error| LoadError::Answer(error.to_string()))??;
    }
    drop(connections);
    driven.shutdown().await;
    let took = clock.now().since(began);
    let seen = Rc::into_inner(seen).ok_or_else(|| LoadError::Answer("a call goes on".to_owned()))?.into_inner();
    Ok(Seen { took, ..seen })
}

struct Call {
    connection: SendRequest<Bytes>,
    clock: Clock,
    due: Timestamp,
    account: String,
    settle: bool,
    seen: Rc<RefCell<Seen>>,
}

impl Call {
    async fn run(self) -> Result<(), LoadError> {
        let Self { mut connection, clock, due, account, settle, seen } = self;
        let ask = CheckAndReserveRequest {
            key: Some(LimitKey { account, model: "model".to_owned(), variant: String::new() }),
            prompt_tokens: 200,
            max_generated_tokens: Some(100),
            ..CheckAndReserveRequest::default()
        };
        let answer: CheckAndReserveResponse;
        (connection, answer) = unary(connection, "CheckAndReserve", &ask).await?;
        let took = clock.now().since(due);
        {
            let mut seen = seen.borrow_mut();
            seen.latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            seen.allowed += u64::from(answer.http_status == 200);
        }
        if settle && answer.http_status == 200 {
            let settle = SettleRequest {
                reservation_id: answer.reservation_id,
                generated_tokens: Some(60),
                ..SettleRequest::default()
            };
            let _: (_, SettleResponse) = unary(connection, "Settle", &settle).await?;
        }
        Ok(())
    }
}

/// One gRPC call.
async fn unary<T: Message + Default>(
    connection: SendRequest<Bytes>,
    method: &str,
    message: &impl Message,
) -> Result<(SendRequest<Bytes>, T), LoadError> {
    let wrong = |what: &dyn std::fmt::Display| LoadError::Answer(format!("{method}: {what}"));
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|error| wrong(&error))?);
    message.encode(&mut frame).map_err(|error| wrong(&error))?;
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://limiter/tidegate.v1.RateLimiterService/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .map_err(|error| wrong(&error))?;
    let mut connection = connection.ready().await?;
    let (response, mut body) = connection.send_request(request, false)?;
    body.send_data(frame.freeze(), true)?;
    let mut body = response.await?.into_body();
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    if trailers.get("grpc-status").is_none_or(|status| status != "0") {
        return Err(wrong(&format_args!("{trailers:?}")));
    }
    let message = answer.get(5..).ok_or_else(|| wrong(&"no message"))?;
    Ok((connection, T::decode(message).map_err(|error| wrong(&error))?))
}
