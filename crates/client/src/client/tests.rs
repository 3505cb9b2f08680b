use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_proto::error;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{
    CheckAndReserveRequest, GetLimitsRequest, LimitKey, ReleaseResponse, ReportProgressResponse, SettleRequest,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};
use tonic::{Code, Status};

use super::*;
use crate::fake::{Fake, Stream};

/// Longer than any wait that is right, shorter than the default close.
fn patient() -> Options {
    Options::default().decision_timeout(Duration::from_secs(5))
}

fn ask(prompt_tokens: u64) -> CheckAndReserveRequest {
    let key = LimitKey { account: "acme".into(), model: "m".into(), variant: String::new() };
    CheckAndReserveRequest { key: Some(key), prompt_tokens, ..CheckAndReserveRequest::default() }
}

fn settlement(reservation_id: &str, generated_tokens: Option<u64>) -> SettleRequest {
    SettleRequest { reservation_id: reservation_id.into(), generated_tokens, ..SettleRequest::default() }
}

/// Asks in a task of its own: the reservation id.
fn asks(client: &Client, request: CheckAndReserveRequest) -> JoinHandle<Result<String, CallFailed>> {
    let client = client.clone();
    tokio::spawn(async move {
        let checked = client.check_and_reserve(request).await?;
        Ok(checked.reservation_id().expect("the tests allow").to_owned())
    })
}

fn busy(wait: Duration) -> Status {
    error::unavailable(error::TOO_BUSY, "busy", wait)
}

/// Everybody gets what they can do without time.
async fn settle_down() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_in_any_order_reach_those_who_asked() {
    let (mut server, client) = Fake::start(patient());
    let callers: Vec<_> = (1..=300).map(|prompt| asks(&client, ask(prompt))).collect();
    let mut stream = server.stream().await;
    let mut calls = Vec::new();
    for _ in 1..=300 {
        calls.push(stream.check().await);
    }
    // Not the order of the calls, nor its reverse.
    calls.sort_by_key(|(_, check)| check.prompt_tokens * 7 % 301);
    for (id, check) in &calls {
        stream.allow(*id, &check.prompt_tokens.to_string());
    }
    for (prompt, caller) in (1..=300).zip(callers) {
        assert_eq!(caller.await.expect("no panic").expect("decided"), prompt.to_string());
    }
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|(_, check)| check.request_id.clone()).collect();
    assert_eq!(ids.len(), 300, "each has a request id of its own");
    assert!(server.has_no_stream());
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_callers_wait_for_their_place() {
    let (mut server, client) = Fake::start(patient().in_flight(4));
    let callers: Vec<_> = (1..=10).map(|prompt| asks(&client, ask(prompt))).collect();
    let mut stream = server.stream().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(stream.check().await.0);
    }
    assert!(stream.is_quiet().await, "four are in flight");
    // What goes out behind their backs counts too.
    client.settle_later(settlement("r", Some(1))).expect("it is queued");
    assert!(stream.is_quiet().await, "four are in flight");
    // One answer makes room for one call, up to the last.
    for _ in 0..7 {
        let id = open.pop().expect("one is in flight");
        stream.allow(id, "one");
        let (id, call) = stream.call().await;
        match call {
            Call::Settle(_) => stream.settled(id),
            _ => open.push(id),
        }
        assert!(open.len() < 4 || stream.is_quiet().await, "four are in flight");
    }
    for id in open {
        stream.allow(id, "one");
    }
    for caller in callers {
        caller.await.expect("no panic").expect("decided");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_broken_stream_did_not_answer_is_repeated_under_its_ids() {
    let (mut server, client) = Fake::start(patient());
    let callers: Vec<_> = (1..=3).map(|prompt| asks(&client, ask(prompt))).collect();
    let mut stream = server.stream().await;
    let mut first = vec![stream.check().await, stream.check().await, stream.check().await];
    client.settle_later(settlement("r", Some(9))).expect("it is queued");
    let (_, settled) = stream.settle().await;
    let (answered, _) = first.remove(0);
    stream.allow(answered, "before");
    settle_down().await;
    stream.end(error::unavailable(error::SHUTTING_DOWN, "stopping", Duration::from_secs(1)));
    let mut stream = server.stream().await;
    let (mut again, mut settled_again) = (Vec::new(), None);
    for _ in 0..3 {
        match stream.call().await {
            (id, Call::CheckAndReserve(check)) => {
                stream.allow(id, "after");
                again.push(check);
            }
            (id, Call::Settle(settle)) => {
                stream.settled(id);
                settled_again = Some(settle);
            }
            other => panic!("{other:?}"),
        }
    }
    again.sort_by_key(|check| check.prompt_tokens);
    assert_eq!(again, first.into_iter().map(|(_, check)| check).collect::<Vec<_>>(), "the same, ids included");
    assert_eq!(settled_again, Some(settled));
    assert!(stream.is_quiet().await, "nothing twice");
    let mut ids = Vec::new();
    for caller in callers {
        ids.push(caller.await.expect("no panic").expect("decided"));
    }
    assert_eq!(ids, ["before", "after", "after"]);
    assert_eq!((client.outbox().delivered, client.outbox().waiting), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_in_time_the_policy_decides() {
    for policy in [OnUnavailable::Fail, OnUnavailable::Open, OnUnavailable::Closed] {
        for is_shut in [false, true] {
            let (server, client) = Fake::start(Options::default().on_unavailable(policy));
            server.shut(is_shut);
            let begin = Instant::now();
            let checked = client.check_and_reserve(ask(1)).await;
            let took = begin.elapsed();
            assert!(took >= Duration::from_millis(50) && took < Duration::from_millis(52), "{took:?}");
            let failed = match (policy, checked) {
                (OnUnavailable::Fail, Err(failed)) => failed,
                (OnUnavailable::Open, Ok(checked @ Checked::Open(_))) => {
                    assert!(checked.may_pass() && checked.reservation_id().is_none());
                    let Checked::Open(failed) = checked else { unreachable!("it is open") };
                    failed
                }
                (OnUnavailable::Closed, Ok(checked @ Checked::Closed(_))) => {
                    assert!(!checked.may_pass() && checked.reservation_id().is_none());
                    let Checked::Closed(failed) = checked else { unreachable!("it is closed") };
                    failed
                }
                other => panic!("{other:?}"),
            };
            let CallFailed::NoAnswer { trouble, .. } = &failed else { panic!("{failed:?}") };
            assert_eq!(trouble.is_some(), is_shut, "{failed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_a_call_come_back_with_their_reason_and_are_not_repeated() {
    // Not even a policy for when tidegate is away changes that.
    let (mut server, client) = Fake::start(patient().on_unavailable(OnUnavailable::Open));
    let caller = asks(&client, ask(1));
    let mut stream = server.stream().await;
    let (id, _) = stream.check().await;
    stream.error(id, &error::already_exists(error::REQUEST_ID_REUSED, "used"));
    let failed = caller.await.expect("no panic").expect_err("refused");
    assert_eq!(failed.reason(), Some("REQUEST_ID_REUSED"));
    let CallFailed::Refused(refusal) = &failed else { panic!("{failed:?}") };
    assert_eq!((refusal.code, failed.is_unavailable()), (Code::AlreadyExists, false));
    assert!(stream.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_could_not_be_decided_is_repeated_when_the_server_says_so() {
    let (mut server, client) = Fake::start(patient());
    let caller = asks(&client, ask(1));
    let mut stream = server.stream().await;
    let (id, first) = stream.check().await;
    let begin = Instant::now();
    stream.error(id, &busy(Duration::from_secs(2)));
    let (id, again) = stream.check().await;
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited <= Duration::from_millis(2_501), "{waited:?}");
    assert_eq!(first, again);
    // Longer than the call has left: at once, and with the reason.
    stream.error(id, &error::unavailable(error::REQUEST_ID_PENDING, "pending", Duration::from_secs(3)));
    let failed = caller.await.expect("no panic").expect_err("not decided");
    assert!(failed.is_unavailable() && begin.elapsed() < Duration::from_secs(3), "{failed:?}");
    assert_eq!(failed.reason(), Some("REQUEST_ID_PENDING"));
}

/// Nobody else knows the request id that the client made; where the caller made it, the caller may ask again.
#[tokio::test(start_paused = true)]
async fn an_allow_that_nobody_waits_for_is_released_unless_the_caller_can_ask_again() {
    let (mut server, client) = Fake::start(Options::default());
    let named = CheckAndReserveRequest { request_id: "mine".into(), ..ask(2) };
    let callers = [asks(&client, ask(1)), asks(&client, named)];
    let mut stream = server.stream().await;
    let calls = [stream.check().await, stream.check().await];
    for caller in callers {
        caller.await.expect("no panic").expect_err("no answer in time");
    }
    for (id, check) in calls {
        stream.allow(id, if check.request_id == "mine" { "mine" } else { "theirs" });
    }
    let (id, Call::Release(release)) = stream.call().await else { panic!("not a release") };
    assert_eq!(release.reservation_id, "theirs");
    stream.answer(id, Answer::Release(ReleaseResponse::default()));
    assert!(stream.is_quiet().await);
}

/// The answer is there, and the caller leaves before it looks.
#[tokio::test(start_paused = true)]
async fn an_allow_that_was_not_looked_at_is_released() {
    let (mut server, client) = Fake::start(patient());
    let mut waiting = Box::pin(client.check_and_reserve(ask(1)));
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut stream = server.stream().await;
    let (id, _) = stream.check().await;
    stream.allow(id, "left alone");
    settle_down().await;
    drop(waiting);
    let (_, Call::Release(release)) = stream.call().await else { panic!("not a release") };
    assert_eq!(release.reservation_id, "left alone");
}

#[tokio::test(start_paused = true)]
async fn of_what_piles_up_the_newest_is_sent() {
    let (mut server, client) = Fake::start(patient());
    server.shut(true);
    for total in 1..=1_000 {
        client.report_progress_later("a", total).expect("it is queued");
        client.report_progress_later("b", total).expect("it is queued");
        client.report_progress_later("c", total).expect("it is queued");
    }
    client.settle_later(settlement("b", Some(7))).expect("it is queued");
    client.settle_later(settlement("c", None)).expect("it is queued");
    settle_down().await;
    server.shut(false);
    let mut stream = server.stream().await;
    let (id, Call::ReportProgress(progress)) = stream.call().await else { panic!("no report") };
    assert_eq!((progress.reservation_id.as_str(), progress.generated_tokens), ("a", 1_000));
    for settle in [settlement("b", Some(7)), settlement("c", Some(1_000))] {
        let (id, found) = stream.settle().await;
        assert_eq!(found, settle);
        stream.settled(id);
    }
    // While one is in flight, the next ones gather.
    for total in 1_001..=2_000 {
        client.report_progress_later("a", total).expect("it is queued");
    }
    assert!(stream.is_quiet().await);
    stream.answer(id, Answer::ReportProgress(ReportProgressResponse::default()));
    let (_, Call::ReportProgress(progress)) = stream.call().await else { panic!("no report") };
    assert_eq!(progress.generated_tokens, 2_000);
    let counts = client.outbox();
    assert_eq!((counts.waiting, counts.delivered, counts.failed, counts.superseded), (1, 3, 0, 999 * 3 + 2 + 999));
}

#[tokio::test(start_paused = true)]
async fn settlements_that_piled_up_leave_in_few_writes() {
    const MANY: usize = 1_000;
    let (mut server, client) = Fake::start(patient());
    for number in 0..MANY {
        client.settle_later(settlement(&format!("reservation {number}"), Some(1))).expect("it is queued");
    }
    let mut stream = server.stream().await;
    let mut ids = Vec::new();
    for _ in 0..MANY {
        ids.push(stream.settle().await.0);
    }
    let writes = server.writes();
    assert!(writes < 20, "{writes} writes for {MANY} settlements");
    for id in ids {
        stream.settled(id);
    }
    client.close().await.expect("all are delivered");
}

#[tokio::test(start_paused = true)]
async fn a_settlement_is_repeated_until_the_server_takes_it_or_refuses_it_for_good() {
    let (mut server, client) = Fake::start(patient());
    client.settle_later(settlement("taken", Some(1))).expect("it is queued");
    client.settle_later(settlement("refused", Some(1))).expect("it is queued");
    let mut stream = server.stream().await;
    let (taken, _) = stream.settle().await;
    let (refused, _) = stream.settle().await;
    stream.error(refused, &error::failed_precondition(error::SETTLEMENT_TOO_LATE, "too late"));
    let mut id = taken;
    for _ in 0..5 {
        let begin = Instant::now();
        stream.error(id, &busy(Duration::from_secs(8)));
        let (next, settle) = stream.settle().await;
        assert!(begin.elapsed() >= Duration::from_secs(8));
        assert_eq!(settle.reservation_id, "taken");
        id = next;
    }
    stream.settled(id);
    client.close().await.expect("nothing is left");
    let counts = client.outbox();
    assert_eq!((counts.waiting, counts.delivered, counts.failed), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_is_waited_for_takes_its_queued_progress_along() {
    let (mut server, client) = Fake::start(patient());
    server.shut(true);
    client.report_progress_later("r", 42).expect("it is queued");
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.settle(settlement("r", None)).await })
    };
    settle_down().await;
    server.shut(false);
    let mut stream = server.stream().await;
    let (id, settle) = stream.settle().await;
    assert_eq!(settle.generated_tokens, Some(42));
    stream.settled(id);
    waiting.await.expect("no panic").expect("settled");
    assert!(stream.is_quiet().await);
    assert_eq!((client.outbox().superseded, client.outbox().waiting), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_outbox_is_bounded_and_says_what_it_turned_away() {
    let (server, client) = Fake::start(patient().outbox(2));
    server.shut(true);
    client.settle_later(settlement("a", None)).expect("it is queued");
    client.release_later("b").expect("it is queued");
    assert_eq!(client.settle_later(settlement("c", None)), Err(NotQueued::Full));
    assert_eq!(client.report_progress_later("d", 1), Err(NotQueued::Full));
    client.settle_later(settlement("b", None)).expect("a known one has its place");
    assert_eq!(client.release_later(&"x".repeat(1_201)), Err(NotQueued::TooLong(1_201)));
    assert_eq!((client.outbox().waiting, client.outbox().turned_away), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_close_delivers_all_and_takes_no_more() {
    let (mut server, client) = Fake::start(patient());
    for number in 0..3_000 {
        client.settle_later(settlement(&number.to_string(), Some(1))).expect("it is queued");
    }
    let closing = {
        let client = client.clone();
        tokio::spawn(async move { client.close().await })
    };
    let mut stream = server.stream().await;
    for _ in 0..2_000 {
        let (id, _) = stream.settle().await;
        stream.settled(id);
    }
    assert!(!closing.is_finished());
    assert_eq!(client.settle_later(settlement("late", None)), Err(NotQueued::Closed));
    assert!(matches!(client.check_and_reserve(ask(1)).await, Err(CallFailed::Closed)));
    for _ in 0..1_000 {
        let (id, _) = stream.settle().await;
        stream.settled(id);
    }
    closing.await.expect("no panic").expect("all are delivered");
    assert_eq!((client.outbox().delivered, client.outbox().waiting), (3_000, 0));
    client.close().await.expect("once more changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_close_in_vain_says_what_is_left() {
    let (mut server, client) = Fake::start(patient());
    let unanswered = asks(&client, ask(1));
    let mut stream = server.stream().await;
    stream.check().await;
    client.settle_later(settlement("in flight", Some(1))).expect("it is queued");
    stream.settle().await;
    stream.end(Status::unavailable("gone"));
    server.shut(true);
    client.settle_later(settlement("queued", Some(1))).expect("it is queued");
    client.release_later("unused").expect("it is queued");
    client.report_progress_later("unused", 1).expect("it is queued");
    client.report_progress_later("running", 1).expect("it is queued");
    let begin = Instant::now();
    let left = client.close().await.expect_err("nobody is there");
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert_eq!(left, Undelivered { settlements: 2, releases: 1, progress_reports: 1 });
    unanswered.await.expect("no panic").expect_err("nobody answers");
    assert_eq!(client.close().await, Err(left), "at once, and the same");
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_close_the_last_clone_delivers_behind_its_back() {
    let (mut server, client) = Fake::start(patient());
    client.settle_later(settlement("r", Some(1))).expect("it is queued");
    drop(client);
    let mut stream = server.stream().await;
    let (id, _) = stream.settle().await;
    stream.settled(id);
    settle_down().await;
    assert!(stream.is_over().await, "and then it hangs up");
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_are_few_and_do_not_end() {
    let (mut server, client) = Fake::start(patient());
    server.shut(true);
    client.settle_later(settlement("r", Some(1))).expect("it is queued");
    sleep(Duration::from_secs(600)).await;
    let attempts = server.attempts();
    assert!((600..1_250).contains(&attempts), "{attempts} in ten minutes");
    server.shut(false);
    let begin = Instant::now();
    server.stream().await.settle().await;
    assert!(begin.elapsed() <= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_longer_than_any_valid_one_is_not_sent() {
    let (mut server, client) = Fake::start(patient());
    let key = LimitKey { account: "a".repeat(100_000), ..LimitKey::default() };
    let failed = client.get_limits(GetLimitsRequest { key: Some(key) }).await.expect_err("it is too long");
    assert_eq!(failed.reason(), Some("INVALID_FIELD"));
    settle_down().await;
    assert!(server.has_no_stream());
}

/// Runtimes of a thread each come and go; the client stays.
#[test]
fn a_client_outlives_the_runtime_of_its_connection() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let serving = runtime();
    let (mut server, client) = {
        let _inside = serving.enter();
        Fake::start(patient())
    };
    std::thread::scope(|scope| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(move || {
            serving.block_on(async {
                let answer = async {
                    loop {
                        let mut stream = server.stream().await;
                        tokio::spawn(async move {
                            while let Some((id, _)) = stream.try_call().await {
                                stream.allow(id, "r");
                            }
                        });
                    }
                };
                tokio::select! {
                    () = answer => {}
                    _ = stopped => {}
                }
            });
        });
        for _ in 0..3 {
            let first = runtime();
            let checked = first.block_on(client.check_and_reserve(ask(1))).expect("decided");
            assert_eq!(checked.reservation_id(), Some("r"));
        }
        drop(stop);
    });
}

/// A stream that the client gave up still asks for calls: it gets none.
#[tokio::test(start_paused = true)]
async fn progress_in_flight_of_a_broken_stream_gives_way_to_a_settlement() {
    let (mut server, client) = Fake::start(patient());
    client.report_progress_later("r", 5).expect("it is queued");
    let mut stream: Stream = server.stream().await;
    stream.call().await;
    client.settle_later(settlement("r", None)).expect("it is queued");
    stream.end(Status::unavailable("gone"));
    let mut stream = server.stream().await;
    let (id, settle) = stream.settle().await;
    assert_eq!(settle.generated_tokens, Some(5));
    stream.settled(id);
    advance(Duration::from_secs(1)).await;
    assert!(stream.is_quiet().await);
}
