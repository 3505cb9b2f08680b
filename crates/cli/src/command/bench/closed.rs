//! A closed loop: each stream makes its next call when the one before is answered.

use std::rc::Rc;

use bytes::Bytes;
use h2::client::SendRequest;

use super::exchange::{Exchange, Verdicts};
use super::link::{CallError, Rpc, call};
use super::meter::Meter;

/// Calls one after the other until the meter is off. An error of the connection ends it.
pub(super) async fn run(mut requests: SendRequest<Bytes>, mut exchange: impl Exchange, meter: Rc<Meter>) {
    let (ask, settle) = (Rpc::at(exchange.path()), Rpc::at(exchange.settle_path()));
    while meter.is_open() {
        match turn(requests, &mut exchange, (&ask, &settle), &meter, meter.now()).await {
            Some(next) => requests = next,
            None => return,
        }
    }
}

/// One call that was due at `due`, and the settlement that follows from its answer; counts both. `None` where the connection ended.
pub(super) async fn turn(
    requests: SendRequest<Bytes>,
    exchange: &mut impl Exchange,
    (ask, settle): (&Rpc, &Rpc),
    meter: &Meter,
    due: u64,
) -> Option<SendRequest<Bytes>> {
    let (requests, answer) = call(requests, ask, exchange.ask()).await;
    let answer = noted(answer, meter)?;
    let Some(answer) = answer else { return requests };
    let decided = match exchange.decided(&answer) {
        Ok(decided) => decided,
        Err(error) => {
            meter.on_error(error.to_string());
            return requests;
        }
    };
    let now = meter.now();
    meter.on_answer_at(now, due, decided.verdicts, 0, answer.len());
    let Some(message) = decided.settle else { return requests };
    let (requests, answer) = call(requests?, settle, message).await;
    if let Some(answer) = noted(answer, meter)? {
        match exchange.settled(&answer) {
            Ok(settled) => meter.on_answer(now, Verdicts::default(), settled, 0),
            Err(error) => meter.on_error(error.to_string()),
        }
    }
    requests
}

/// Counts an error: `None` where no call can follow, `Some(None)` where only this one failed.
fn noted(answer: Result<Bytes, CallError>, meter: &Meter) -> Option<Option<Bytes>> {
    match answer {
        Ok(answer) => Some(Some(answer)),
        Err(error) => {
            meter.on_error(error.to_string());
            matches!(error, CallError::Refused(_)).then_some(None)
        }
    }
}
