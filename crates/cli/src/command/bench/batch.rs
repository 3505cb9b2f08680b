//! BatchCheckAndReserve and BatchSettle: many reservations in a call.

use bytes::Bytes;

use super::exchange::{Decided, Exchange, NoAnswer, Verdicts};
use super::fields::{Fields, Value, put_bytes};
use super::keys::Keys;
use super::reserve::{PREFIX_BYTES, Template, framed, put_settle, read_decision, read_settled};

/// As many reservations a call as it was made for.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    template: Template,
    framed: Vec<u8>,
    /// Bytes from one request to the next.
    stride: usize,
    size: usize,
    settles: bool,
}

impl Batch {
    /// Reserves `size` times a call, and settles at once what was allowed if it `settles`.
    pub(super) fn new(template: Template, size: u16, settles: bool) -> Self {
        let size = usize::from(size);
        let mut request = Vec::new();
        put_bytes(&mut request, 1, template.message());
        let framed = framed(&request.repeat(size));
        Self { stride: request.len(), template, framed, size, settles }
    }
}

impl Exchange for Batch {
    fn path(&self) -> &'static str {
        "/tidegate.v1.RateLimiterService/BatchCheckAndReserve"
    }

    fn settle_path(&self) -> &'static str {
        "/tidegate.v1.RateLimiterService/BatchSettle"
    }

    fn ask(&self, keys: &mut Keys) -> Bytes {
        let mut frame = self.framed.clone();
        let first = PREFIX_BYTES + self.stride - self.template.message().len();
        for at in (first..frame.len()).step_by(self.stride) {
            self.template.name(&mut frame, at, keys.draw());
        }
        frame.into()
    }

    fn decided(&self, message: &[u8]) -> Result<Decided, NoAnswer> {
        let (mut verdicts, mut settle) = (Verdicts::NONE, Vec::new());
        for response in results(message) {
            let (verdict, reservation_id) = read_decision(response?)?;
            verdicts = verdicts.and(verdict);
            if let Some(id) = reservation_id.filter(|_| self.settles) {
                let mut one = Vec::with_capacity(id.len() + 8);
                put_settle(&mut one, id);
                put_bytes(&mut settle, 1, &one);
            }
        }
        if verdicts.count() != self.size as u64 {
            return Err(NoAnswer(format!("{} decisions to a batch of {}", verdicts.count(), self.size)));
        }
        Ok(Decided { verdicts, settle: (!settle.is_empty()).then(|| framed(&settle).into()) })
    }

    fn settled(&self, message: &[u8]) -> Result<u64, NoAnswer> {
        results(message).map(|response| read_settled(response?)).sum()
    }
}

/// The responses in a batch's answer.
fn results(message: &[u8]) -> impl Iterator<Item = Result<&[u8], NoAnswer>> {
    Fields::of(message).map(|field| match field {
        Ok((1, Value::Bytes(result))) => match Fields::of(result).next() {
            Some(Ok((1, Value::Bytes(response)))) => Ok(response),
            Some(Ok((2, Value::Bytes(error)))) => Err(refused(error)),
            _ => Err(NoAnswer("a result is neither an answer nor an error".to_owned())),
        },
        _ => Err(NoAnswer("the answer is no batch".to_owned())),
    })
}

/// What a CallError says.
pub(super) fn refused(error: &[u8]) -> NoAnswer {
    let text = |wanted| {
        let found = Fields::of(error).find_map(|field| match field {
            Ok((number, Value::Bytes(text))) if number == wanted => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        });
        found.unwrap_or_default()
    };
    NoAnswer(format!("{}: {}", text(2), text(3)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use tidegate_proto::v1::check_and_reserve_result::Result as Result_;
    use tidegate_proto::v1::{
        BatchCheckAndReserveRequest, BatchCheckAndReserveResponse, BatchSettleRequest, CallError,
        CheckAndReserveResponse, CheckAndReserveResult, ResponseView,
    };

    use super::*;
    use crate::command::bench::keys::Draw;

    fn batch(settles: bool) -> Batch {
        Batch::new(Template::new(ResponseView::Full, Duration::from_secs(1)), 3, settles)
    }

    fn answer(results: &[Result_]) -> Vec<u8> {
        let results = results.iter().map(|result| CheckAndReserveResult { result: Some(result.clone()) }).collect();
        BatchCheckAndReserveResponse { results }.encode_to_vec()
    }

    fn response(decision: i32) -> Result_ {
        let reservation_id = if decision == 1 { "id".to_owned() } else { String::new() };
        Result_::Response(CheckAndReserveResponse { decision, reservation_id, ..Default::default() })
    }

    #[test]
    fn each_request_of_a_batch_names_a_key_of_its_own() {
        let frame = batch(false).ask(&mut Keys::new(1 << 31, Draw::Uniform, 1));
        let sent = BatchCheckAndReserveRequest::decode(&frame[PREFIX_BYTES..]).expect("a message");
        let accounts: Vec<_> = sent.requests.iter().flat_map(|one| one.key.as_ref()).map(|key| &key.account).collect();
        assert_eq!(accounts.len(), 3);
        assert!(accounts[0] != accounts[1] && accounts[1] != accounts[2], "{accounts:?}");
    }

    #[test]
    fn what_a_batch_allowed_is_settled_in_one_call() {
        let decided = batch(true).decided(&answer(&[response(1), response(2), response(1)])).expect("decisions");
        assert_eq!(decided.verdicts, Verdicts { allowed: 2, denied: 1 });
        let settle = decided.settle.expect("two are settled");
        assert_eq!(BatchSettleRequest::decode(&settle[PREFIX_BYTES..]).expect("a message").requests.len(), 2);
        let denied = batch(true).decided(&answer(&[response(2), response(2), response(2)])).expect("decisions");
        assert_eq!(denied.settle, None);
    }

    #[test]
    fn a_batch_that_is_not_answered_whole_is_an_error() {
        assert!(batch(false).decided(&answer(&[response(1), response(1)])).is_err());
        let (reason, message) = ("TOO_BUSY".to_owned(), "later".to_owned());
        let error = Result_::Error(CallError { code: 14, reason, message, ..CallError::default() });
        let error = batch(false).decided(&answer(&[response(1), error, response(1)])).expect_err("one failed");
        assert_eq!(error.to_string(), "TOO_BUSY: later");
    }
}
