//! A closed loop: each stream makes its next call when the one before is answered.

use std::rc::Rc;

use bytes::Bytes;
use h2::client::SendRequest;

use super::exchange::{Exchange, Verdicts};
use super::keys::Keys;
use super::link::{CallError, Rpc, call};
use super::meter::Meter;

/// Calls one after the other until the meter is off. An error of the connection ends it.
pub(super) async fn run(
    mut requests: SendRequest<Bytes>,
    exchange: Rc<impl Exchange>,
    mut keys: Keys,
    meter: Rc<Meter>,
) {
    let turns = Turns::new(exchange, meter);
    while turns.meter.is_open() {
        let (due, ask) = (turns.meter.now(), turns.exchange.ask(&mut keys));
        match turns.turn(requests, ask, due).await {
            Some(next) => requests = next,
            None => return,
        }
    }
}

/// Makes calls, and the settlements that follow from their answers; counts both.
pub(super) struct Turns<E> {
    pub(super) exchange: Rc<E>,
    pub(super) meter: Rc<Meter>,
    ask: Rpc,
    settle: Rpc,
}

impl<E: Exchange> Turns<E> {
    pub(super) fn new(exchange: Rc<E>, meter: Rc<Meter>) -> Self {
        let (ask, settle) = (Rpc::at(exchange.path()), Rpc::at(exchange.settle_path()));
        Self { exchange, meter, ask, settle }
    }

    /// The call `ask`, which was due at `due`. `None` where the connection ended.
    pub(super) async fn turn(&self, requests: SendRequest<Bytes>, ask: Bytes, due: u64) -> Option<SendRequest<Bytes>> {
        let (requests, answer) = call(requests, &self.ask, ask).await;
        let Some(answer) = self.noted(answer)? else { return requests };
        let decided = match self.exchange.decided(&answer) {
            Ok(decided) => decided,
            Err(error) => {
                self.meter.on_error(error.to_string());
                return requests;
            }
        };
        let now = self.meter.now();
        self.meter.on_answer(now, due, decided.verdicts, 0, answer.len());
        let Some(message) = decided.settle else { return requests };
        let (requests, answer) = call(requests?, &self.settle, message).await;
        if let Some(answer) = self.noted(answer)? {
            match self.exchange.settled(&answer) {
                Ok(settled) => self.meter.on_answer(self.meter.now(), now, Verdicts::NONE, settled, 0),
                Err(error) => self.meter.on_error(error.to_string()),
            }
        }
        requests
    }

    /// Counts an error: `None` where no call can follow, `Some(None)` where only this one failed.
    fn noted(&self, answer: Result<Bytes, CallError>) -> Option<Option<Bytes>> {
        match answer {
            Ok(answer) => Some(Some(answer)),
            Err(error) => {
                self.meter.on_error(error.to_string());
                matches!(error, CallError::Refused(_)).then_some(None)
            }
        }
    }
}
