//! Views of an answer, many calls in one message, and many on one stream: the server in this process, over real sockets.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use running::{Broken, Running, ask, ask_of, reason};
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{
    BatchCheckAndReserveRequest, BatchSettleRequest, CallError, CheckAndReserveRequest, Decision, DenyReason,
    GetLimitsRequest, PipelineRequest, PipelineResponse, ReportProgressRequest, ResponseView, SettleOutcome,
    SettleRequest, check_and_reserve_result, settle_result,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

mod running;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn of_tokens(account: &str, prompt_tokens: u64) -> CheckAndReserveRequest {
    CheckAndReserveRequest { prompt_tokens, ..ask_of(account) }
}

/// More than any limit.
const NEVER: u64 = 1 << 40;

#[tokio::test]
async fn a_view_leaves_out_windows_or_headers_and_nothing_else() {
    let server = Running::memory(|_| {});
    let mut limiter = server.limiter().await;
    for (view, windows, headers) in [
        (ResponseView::Unspecified, true, true),
        (ResponseView::Full, true, true),
        (ResponseView::Headers, false, true),
        (ResponseView::Windows, true, false),
        (ResponseView::Decision, false, false),
    ] {
        let allowed = CheckAndReserveRequest { view: view.into(), ..ask() };
        let allowed = limiter.check_and_reserve(allowed).await.expect("decided").into_inner();
        assert_eq!((allowed.windows.len(), !allowed.headers.is_empty()), (if windows { 3 } else { 0 }, headers));
        assert_eq!((allowed.decision(), allowed.http_status), (Decision::Allow, 200));
        assert!(!allowed.reservation_id.is_empty() && allowed.reserved.is_some_and(|reserved| reserved.prompt == 100));
        let denied = CheckAndReserveRequest { view: view.into(), ..of_tokens("acme", NEVER) };
        let denied = limiter.check_and_reserve(denied).await.expect("decided").into_inner();
        assert_eq!((denied.windows.len(), !denied.headers.is_empty()), (if windows { 3 } else { 0 }, headers));
        assert_eq!((denied.reason(), denied.http_status), (DenyReason::NeverFits, 429));
    }
    server.join().await;
}

fn error(result: Option<check_and_reserve_result::Result>) -> CallError {
    match result {
        Some(check_and_reserve_result::Result::Error(error)) => error,
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test]
async fn a_batch_decides_each_for_itself_in_its_order() {
    let server = Running::memory(|_| {});
    let mut limiter = server.limiter().await;
    // Two thirds of the default limit, three times, and what is wrong in between.
    let limit = limiter.get_limits(GetLimitsRequest { key: ask().key }).await.expect("limits").into_inner();
    let part = limit.windows[0].limit_tpm.min(limit.windows[1].limit_tpm) * 2 / 3;
    let requests = vec![
        of_tokens("acme", part),
        of_tokens("acme", 0),
        of_tokens("acme", part),
        of_tokens("other", part),
        CheckAndReserveRequest { request_id: "same".into(), ..ask_of("third") },
        CheckAndReserveRequest { request_id: "same".into(), ..ask_of("third") },
        CheckAndReserveRequest { request_id: "same".into(), ..of_tokens("third", 7) },
    ];
    let answers = limiter.batch_check_and_reserve(BatchCheckAndReserveRequest { requests }).await;
    let mut answers = answers.expect("answered").into_inner().results.into_iter().map(|result| result.result);
    let mut next = || answers.next().expect("one for each");
    let decision = |result| match result {
        Some(check_and_reserve_result::Result::Response(response)) => (response.reason(), response.replayed),
        other => panic!("not decided: {other:?}"),
    };
    assert_eq!(decision(next()), (DenyReason::Unspecified, false));
    let wrong = error(next());
    assert_eq!((wrong.code, wrong.reason.as_str(), wrong.field.as_str()), (3, "INVALID_FIELD", "prompt_tokens"));
    assert_eq!(decision(next()), (DenyReason::WindowFull, false), "the first one has taken it");
    assert_eq!(decision(next()), (DenyReason::Unspecified, false), "another account");
    assert_eq!(decision(next()), (DenyReason::Unspecified, false));
    assert_eq!(decision(next()), (DenyReason::Unspecified, true));
    assert_eq!(error(next()).reason, "REQUEST_ID_REUSED");
    assert!(answers.next().is_none());
    let row = "tidegate_rpc_errors_total{method=\"RateLimiterService/CheckAndReserve\",code=\"invalid_argument\"} 1";
    let page = server.get("/metrics");
    assert!(page.lines().any(|line| line == row), "{page}");
    server.join().await;
}

#[tokio::test]
async fn a_batch_settles_each_for_itself_in_its_order() {
    let server = Running::memory(|_| {});
    let mut limiter = server.limiter().await;
    let id = limiter.check_and_reserve(ask()).await.expect("decided").into_inner().reservation_id;
    let settle = |reservation_id: &str, generated| SettleRequest {
        reservation_id: reservation_id.into(),
        generated_tokens: Some(generated),
        ..SettleRequest::default()
    };
    let requests = vec![settle(&id, 7), settle("forged", 1), settle(&id, 900)];
    let answers = limiter.batch_settle(BatchSettleRequest { requests }).await.expect("answered").into_inner();
    let outcomes = answers.results.into_iter().map(|result| match result.result.expect("one of both") {
        settle_result::Result::Response(response) => Ok(response.outcome()),
        settle_result::Result::Error(error) => Err(error.reason),
    });
    let wanted = [Ok(SettleOutcome::Applied), Err("INVALID_RESERVATION_ID".to_owned()), Ok(SettleOutcome::Duplicate)];
    assert_eq!(outcomes.collect::<Vec<_>>(), wanted);
    let limits = limiter.get_limits(GetLimitsRequest { key: ask().key }).await.expect("limits").into_inner();
    assert_eq!(limits.windows[2].used_tokens, 7, "the first one counts");
    server.join().await;
}

#[tokio::test]
async fn a_batch_is_bounded_in_calls_and_bytes() {
    let server = Running::memory(|settings| settings.bounds.batch_message_bytes = 200 * 1_024);
    let mut limiter = server.limiter().await;
    let none = limiter.batch_check_and_reserve(BatchCheckAndReserveRequest::default()).await.expect("none of none");
    assert!(none.into_inner().results.is_empty());
    // 256 of these are longer than one message to another method may be.
    let long = |id: usize| CheckAndReserveRequest { request_id: format!("{id:064}"), ..ask_of(&"a".repeat(250)) };
    let requests: Vec<_> = (0..256).map(long).collect();
    let all = limiter.batch_check_and_reserve(BatchCheckAndReserveRequest { requests: requests.clone() }).await;
    let all = all.expect("as many as may be").into_inner().results;
    assert!(
        all.len() == 256
            && all.iter().all(|one| matches!(one.result, Some(check_and_reserve_result::Result::Response(_))))
    );
    let one_more = requests.iter().cloned().chain([long(256)]).collect();
    let refused = limiter.batch_check_and_reserve(BatchCheckAndReserveRequest { requests: one_more }).await;
    let refused = refused.expect_err("too many");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(refused.message().contains("requests") && refused.message().contains("256"), "{refused}");
    let requests =
        (0..256).map(|_| SettleRequest { reservation_id: "x".repeat(1_000), ..Default::default() }).collect();
    let long = limiter.batch_settle(BatchSettleRequest { requests }).await.expect_err("too long");
    assert!(long.message().contains("204800 bytes of bounds.batch_message"), "{long}");
    assert!(server.get("/metrics").contains("tidegate_bound_reached_total{bound=\"batch_message\"} 1"));
    server.join().await;
}

/// A stream of calls, and its answers.
struct Stream {
    calls: mpsc::Sender<PipelineRequest>,
    answers: Streaming<PipelineResponse>,
}

impl Stream {
    async fn open(server: &Running) -> Self {
        let (calls, waiting) = mpsc::channel(4_096);
        let mut limiter = server.limiter().await;
        let answers = limiter.pipeline(ReceiverStream::new(waiting)).await.expect("it opens").into_inner();
        Self { calls, answers }
    }

    async fn call(&self, call_id: u64, call: Option<Call>) {
        self.calls.send(PipelineRequest { call_id, call }).await.expect("it is open");
    }

    async fn check(&self, call_id: u64, account: &str) {
        self.call(call_id, Some(Call::CheckAndReserve(ask_of(account)))).await;
    }

    async fn next(&mut self) -> (u64, Answer) {
        let next = timeout(PATIENCE, self.answers.next()).await.expect("an answer").expect("one more");
        let PipelineResponse { call_id, answer } = next.expect("no error");
        (call_id, answer.expect("one of all"))
    }

    /// The ids of the next answers.
    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.next().await.0);
        }
        ids
    }
}

#[tokio::test]
async fn a_stream_answers_every_call_by_its_id_and_survives_those_that_are_wrong() {
    let server = Running::memory(|_| {});
    let mut stream = Stream::open(&server).await;
    stream.call(7, Some(Call::CheckAndReserve(ask()))).await;
    let (id, Answer::CheckAndReserve(allowed)) = stream.next().await else { panic!("a decision") };
    assert_eq!((id, allowed.decision()), (7, Decision::Allow));
    let reservation_id = allowed.reservation_id;
    let progress = ReportProgressRequest { reservation_id: reservation_id.clone(), generated_tokens: 5 };
    stream.call(8, Some(Call::ReportProgress(progress))).await;
    let settle = SettleRequest { reservation_id, generated_tokens: Some(9), ..Default::default() };
    stream.call(9, Some(Call::Settle(settle.clone()))).await;
    stream.call(9, Some(Call::Settle(settle))).await;
    stream.call(10, None).await;
    stream.call(11, Some(Call::CheckAndReserve(of_tokens("acme", 0)))).await;
    stream.call(12, Some(Call::GetLimits(GetLimitsRequest { key: ask().key }))).await;
    let Answer::ReportProgress(progress) = stream.next().await.1 else { panic!("a report") };
    assert_eq!(progress.outcome(), SettleOutcome::Applied);
    for wanted in [SettleOutcome::Applied, SettleOutcome::Duplicate] {
        let (9, Answer::Settle(settled)) = stream.next().await else { panic!("a settlement") };
        assert_eq!(settled.outcome(), wanted);
    }
    for (id, field) in [(10, "call"), (11, "prompt_tokens")] {
        let (found, Answer::Error(error)) = stream.next().await else { panic!("an error") };
        assert_eq!((found, error.reason.as_str(), error.field.as_str()), (id, "INVALID_FIELD", field));
    }
    let (12, Answer::GetLimits(limits)) = stream.next().await else { panic!("limits") };
    assert_eq!((limits.windows[0].used_tokens, limits.windows[2].used_tokens), (100, 9));
    // Many more than may be in flight: as none waits, all are answered in their order.
    for id in 0..4_000 {
        stream.check(id, "many").await;
    }
    assert_eq!(stream.ids(4_000).await, (0..4_000).collect::<Vec<_>>());
    let Stream { calls, mut answers } = stream;
    drop(calls);
    assert!(timeout(PATIENCE, answers.next()).await.expect("it ends").is_none(), "well");
    server.join().await;
}

#[tokio::test]
async fn calls_that_wait_hold_up_those_alone_that_name_the_same() {
    let broken = Broken::new();
    let (turns, begun) = (Arc::clone(&broken.turns), Arc::clone(&broken.begun));
    let server = Running::start(broken, |_| {});
    let mut stream = Stream::open(&server).await;
    for (id, account) in [(1, "waits"), (2, "acme"), (3, "waits"), (4, "waits too"), (5, "waits"), (6, "acme")] {
        stream.check(id, account).await;
    }
    assert_eq!(stream.ids(2).await, [2, 6]);
    assert_eq!(begun.load(Ordering::SeqCst), 4, "3 and 5 are behind 1");
    turns.add_permits(4);
    let mut rest = stream.ids(4).await;
    assert!(rest.iter().position(|id| *id == 1) < rest.iter().position(|id| *id == 3));
    assert!(rest.iter().position(|id| *id == 3) < rest.iter().position(|id| *id == 5));
    rest.sort_unstable();
    assert_eq!(rest, [1, 3, 4, 5]);
    server.join().await;
}

#[tokio::test]
async fn a_stream_is_not_read_beyond_its_bound() {
    const MANY: u64 = 20_000;
    let broken = Broken::new();
    let (turns, begun) = (Arc::clone(&broken.turns), Arc::clone(&broken.begun));
    let server = Running::start(broken, |_| {});
    let mut stream = Stream::open(&server).await;
    let calls = stream.calls.clone();
    // More than are read, and than the connection has room for: the client has to wait, and nothing breaks.
    let sending = tokio::spawn(async move {
        for id in 0..MANY {
            let call = Some(Call::CheckAndReserve(ask_of(&format!("waits {id}"))));
            calls.send(PipelineRequest { call_id: id, call }).await.expect("it is open");
            // A frame for each.
            tokio::task::yield_now().await;
        }
    });
    let in_flight = || server.get("/metrics").contains("tidegate_calls_in_flight 1024");
    let all = async {
        while !in_flight() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.expect("1,024 calls of it");
    assert_eq!(begun.load(Ordering::SeqCst), 1_024);
    turns.add_permits(usize::try_from(MANY).expect("few"));
    let mut ids = Vec::new();
    for _ in 0..MANY {
        ids.push(stream.next().await.0);
    }
    sending.await.expect("no panic");
    ids.sort_unstable();
    assert_eq!(ids, (0..MANY).collect::<Vec<_>>());
    server.join().await;
}

#[tokio::test]
async fn a_panic_on_a_stream_ends_its_call_alone() {
    for broken in [Broken::new(), Broken::at_once()] {
        let server = Running::start(broken, |settings| settings.threads = std::num::NonZeroUsize::MIN);
        let mut stream = Stream::open(&server).await;
        for (id, account) in [(1, "panics"), (2, "acme"), (3, "panics"), (4, "acme")] {
            stream.check(id, account).await;
        }
        let mut answers = BTreeMap::new();
        for _ in 0..4 {
            let (id, answer) = stream.next().await;
            answers.insert(id, answer);
        }
        for id in [1, 3] {
            let Some(Answer::Error(error)) = answers.get(&id) else { panic!("{answers:?}") };
            assert_eq!((error.code, error.reason.as_str()), (13, "INTERNAL"));
            assert!(!error.message.contains("bug"), "the inside stays inside");
        }
        assert!([2, 4].iter().all(|id| matches!(answers[id], Answer::CheckAndReserve(_))), "{answers:?}");
        server.join().await;
    }
}

#[tokio::test]
async fn a_call_that_is_too_long_ends_its_stream_and_is_counted() {
    let server = Running::memory(|settings| settings.bounds.limiter_message_bytes = 1_024);
    let mut stream = Stream::open(&server).await;
    stream.check(1, "acme").await;
    stream.check(2, &"a".repeat(2_000)).await;
    assert_eq!(stream.ids(1).await, [1]);
    let end = timeout(PATIENCE, stream.answers.next()).await.expect("it ends").expect("a word").expect_err("not well");
    assert_eq!(reason(&end), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    let page = server.get("/metrics");
    assert!(page.contains("tidegate_bound_reached_total{bound=\"limiter_message\"} 1"), "{page}");
    server.join().await;
}

/// A stream would never end by itself: the stop ends it, once what was read is answered.
#[tokio::test]
async fn a_stop_ends_streams_with_a_word_and_answers_what_was_read() {
    let broken = Broken::new();
    let turns = Arc::clone(&broken.turns);
    let mut server = Running::start(broken, |_| {});
    let mut stream = Stream::open(&server).await;
    stream.check(1, "waits").await;
    stream.check(2, "acme").await;
    assert_eq!(stream.ids(1).await, [2]);
    server.tell_to_stop();
    turns.add_permits(1);
    assert_eq!(stream.ids(1).await, [1]);
    let end = timeout(PATIENCE, stream.answers.next()).await.expect("it ends").expect("a word").expect_err("not well");
    assert_eq!(reason(&end), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
    // Less than the drain.
    timeout(Duration::from_secs(4), server.join()).await.expect("the drain was not waited for");
}
