use std::task::Waker;

use tidegate_proto::v1::{GetLimitsRequest, SettleRequest};

use super::*;

fn calls(in_flight: usize) -> Calls {
    Calls::new(&Options::default().in_flight(in_flight))
}

fn submit(calls: &Calls) -> oneshot::Receiver<Told> {
    let place = Arc::clone(&calls.places).try_acquire_owned().expect("a place is free");
    calls.submit(Call::GetLimits(GetLimitsRequest::default()), place, false).expect("it is open")
}

fn queue(calls: &Calls, number: usize) {
    let id = number.to_string();
    let settle = SettleRequest { reservation_id: id.clone(), ..SettleRequest::default() };
    calls.queue(|outbox| outbox.end(&id, End::Settle(settle))).expect("there is room");
}

fn next(calls: &Calls, stream: u64) -> Option<Call> {
    match calls.next(stream, Instant::now(), Waker::noop()) {
        Next::Call(request) => request.call,
        Next::Nothing(_) | Next::Over => None,
    }
}

#[test]
fn callers_and_the_outbox_take_turns() {
    let calls = calls(8);
    let waiting: Vec<_> = (0..4).map(|_| submit(&calls)).collect();
    (0..100).for_each(|number| queue(&calls, number));
    let stream = calls.on_stream();
    let sent: Vec<_> = std::iter::from_fn(|| next(&calls, stream)).collect();
    assert_eq!(sent.len(), 8, "as many as may be in flight");
    assert_eq!(sent.iter().filter(|call| matches!(call, Call::GetLimits(_))).count(), 4);
    drop(waiting);
}

#[test]
fn a_call_whose_caller_has_left_is_not_sent_and_gives_its_place_back() {
    let calls = calls(2);
    drop(submit(&calls));
    let waits = submit(&calls);
    assert!(calls.places.try_acquire().is_err());
    let stream = calls.on_stream();
    assert!(next(&calls, stream).is_some() && next(&calls, stream).is_none());
    assert!(calls.places.try_acquire().is_ok());
    drop(waits);
}

#[test]
fn a_stream_that_is_over_gets_nothing() {
    let calls = calls(8);
    let old = calls.on_stream();
    let mut told = submit(&calls);
    assert!(next(&calls, old).is_some());
    calls.on_broken("cut");
    assert!(matches!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "the caller hears of it");
    queue(&calls, 1);
    assert!(matches!(calls.next(old, Instant::now(), Waker::noop()), Next::Over));
    let new = calls.on_stream();
    assert!(next(&calls, new).is_some());
    calls.end();
    assert!(matches!(calls.next(new, Instant::now(), Waker::noop()), Next::Over));
    assert_eq!(calls.undelivered().settlements, 1);
}

#[test]
fn an_answer_that_nobody_asked_for_is_passed_over() {
    let calls = calls(8);
    calls.on_answer(PipelineResponse { call_id: 7, answer: None }, Instant::now());
    assert!(calls.is_done());
}
