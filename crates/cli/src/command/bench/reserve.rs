//! CheckAndReserve and Settle as a load sends and reads them.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::exchange::{Decided, Exchange, NoAnswer, Verdicts};
use super::fields::{Fields, Value, put_bytes, put_number};
use super::keys::{self, Keys};
use tidegate_proto::v1::{Decision, ResponseView, SettleOutcome};

/// What every request asks for: that of an ordinary chat turn.
const PROMPT_TOKENS: u64 = 1_000;
const MAX_GENERATED_TOKENS: u64 = 400;
/// What every settlement says that it was.
const GENERATED_TOKENS: u64 = 100;

/// Bytes before a gRPC message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// A CheckAndReserveRequest, encoded once: only the names in it change.
#[derive(Clone, Debug)]
pub(super) struct Template {
    message: Vec<u8>,
    account: Range<usize>,
    model: Range<usize>,
}

impl Template {
    /// A request for `view` whose reservation lives for `ttl`.
    pub(super) fn new(view: ResponseView, ttl: Duration) -> Self {
        let (account, model) = keys::names();
        let mut key = Vec::new();
        put_bytes(&mut key, 1, &account);
        let account_end = key.len();
        put_bytes(&mut key, 2, &model);
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &key);
        let key_start = message.len() - key.len();
        let (account_end, model_end) = (key_start + account_end, message.len());
        put_number(&mut message, 2, PROMPT_TOKENS);
        put_number(&mut message, 4, MAX_GENERATED_TOKENS);
        let mut lives = Vec::new();
        put_number(&mut lives, 1, ttl.as_secs());
        put_number(&mut lives, 2, ttl.subsec_nanos().into());
        put_bytes(&mut message, 7, &lives);
        put_number(&mut message, 8, view as u64);
        Self {
            message,
            account: account_end - keys::ACCOUNT_BYTES..account_end,
            model: model_end - keys::MODEL_BYTES..model_end,
        }
    }

    /// The message about some key.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Makes the message that begins at `at` of `bytes` one about `key`.
    pub(super) fn name(&self, bytes: &mut [u8], at: usize, key: u32) {
        keys::write_account(&mut bytes[at..][self.account.clone()], key);
        keys::write_model(&mut bytes[at..][self.model.clone()], key);
    }
}

/// Puts a gRPC prefix before `message`.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PREFIX_BYTES + message.len());
    frame.push(0);
    // No message of ours comes near 4 GiB.
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Appends a SettleRequest.
pub(super) fn put_settle(to: &mut Vec<u8>, reservation_id: &[u8]) {
    put_bytes(to, 1, reservation_id);
    put_number(to, 4, GENERATED_TOKENS);
}

/// What a CheckAndReserveResponse decides, and the reservation of one that allows.
///
/// # Errors
/// It decides nothing, or allows without a reservation.
pub(super) fn read_decision(message: &[u8]) -> Result<(Verdicts, Option<&[u8]>), NoAnswer> {
    const ALLOW: u64 = Decision::Allow as u64;
    let (mut decision, mut reservation_id) = (0, None);
    for field in Fields::of(message) {
        match field {
            Ok((1, Value::Number(number))) => decision = number,
            Ok((2, Value::Bytes(id))) => reservation_id = Some(id),
            // Fields come in the order of their numbers, or a server does more than it must: what comes now is of no interest.
            Ok(_) if reservation_id.is_some() && decision != 0 => break,
            Ok(_) => {}
            Err(()) => return Err(NoAnswer("the answer is no message".to_owned())),
        }
    }
    match decision {
        ALLOW if reservation_id.is_none() => Err(NoAnswer("the answer allows and has no reservation".to_owned())),
        ALLOW => Ok((Verdicts::ALLOWED, reservation_id)),
        0 => Err(NoAnswer("the answer has no decision".to_owned())),
        _ => Ok((Verdicts::DENIED, None)),
    }
}

/// Whether a SettleResponse says that it was applied.
pub(super) fn read_settled(message: &[u8]) -> Result<u64, NoAnswer> {
    const APPLIED: u64 = SettleOutcome::Applied as u64;
    let outcome = Fields::of(message).find_map(|field| match field {
        Ok((1, Value::Number(outcome))) => Some(outcome),
        _ => None,
    });
    match outcome {
        Some(APPLIED) => Ok(1),
        _ => Err(NoAnswer(format!("the settlement was not applied (outcome {})", outcome.unwrap_or(0)))),
    }
}

/// One reservation a call.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    template: Template,
    framed: Vec<u8>,
    settles: bool,
}

impl Reserve {
    /// Reserves, and settles at once what was allowed if it `settles`.
    pub(super) fn new(template: Template, settles: bool) -> Self {
        Self { framed: framed(template.message()), template, settles }
    }
}

impl Exchange for Reserve {
    fn path(&self) -> &'static str {
        "/tidegate.v1.RateLimiterService/CheckAndReserve"
    }

    fn settle_path(&self) -> &'static str {
        "/tidegate.v1.RateLimiterService/Settle"
    }

    fn ask(&self, keys: &mut Keys) -> Bytes {
        let mut frame = self.framed.clone();
        self.template.name(&mut frame, PREFIX_BYTES, keys.draw());
        frame.into()
    }

    fn decided(&self, message: &[u8]) -> Result<Decided, NoAnswer> {
        let (verdicts, reservation_id) = read_decision(message)?;
        let settle = reservation_id.filter(|_| self.settles).map(|id| {
            let mut settle = Vec::with_capacity(id.len() + 8);
            put_settle(&mut settle, id);
            framed(&settle).into()
        });
        Ok(Decided { verdicts, settle })
    }

    fn settled(&self, message: &[u8]) -> Result<u64, NoAnswer> {
        read_settled(message)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tidegate_proto::v1::{CheckAndReserveRequest, CheckAndReserveResponse, LimitKey, SettleRequest};

    use super::*;
    use crate::command::bench::keys::Draw;

    #[test]
    fn the_request_is_what_the_generated_code_would_send() {
        let template = Template::new(ResponseView::Windows, Duration::from_millis(1_500));
        let mut frame = Reserve::new(template, true).ask(&mut Keys::new(1, Draw::Uniform, 0)).to_vec();
        Template::new(ResponseView::Windows, Duration::ZERO).name(&mut frame, PREFIX_BYTES, 0x2a);
        let request = CheckAndReserveRequest::decode(&frame[PREFIX_BYTES..]).expect("a message");
        let key = LimitKey {
            account: "account-000000000000002a".to_owned(),
            model: "large-language-model-instruct-0a".to_owned(),
            variant: String::new(),
        };
        let expected = CheckAndReserveRequest {
            key: Some(key),
            prompt_tokens: PROMPT_TOKENS,
            max_generated_tokens: Some(MAX_GENERATED_TOKENS),
            reservation_ttl: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            view: ResponseView::Windows.into(),
            ..CheckAndReserveRequest::default()
        };
        assert_eq!(request, expected);
        assert_eq!(frame[PREFIX_BYTES..], expected.encode_to_vec());
        assert_eq!(frame[..PREFIX_BYTES], [0, 0, 0, 0, u8::try_from(frame.len() - PREFIX_BYTES).expect("short")]);
    }

    #[test]
    fn what_is_allowed_is_settled() {
        let template = Template::new(ResponseView::Decision, Duration::from_secs(1));
        let settling = Reserve::new(template.clone(), true);
        let answer = |decision: Decision, id: &str| {
            let reservation_id = id.to_owned();
            CheckAndReserveResponse { decision: decision.into(), reservation_id, ..Default::default() }.encode_to_vec()
        };
        let decided = settling.decided(&answer(Decision::Allow, "id")).expect("a decision");
        let settle = SettleRequest::decode(&decided.settle.expect("settles")[PREFIX_BYTES..]).expect("a message");
        assert_eq!((settle.reservation_id.as_str(), settle.generated_tokens), ("id", Some(GENERATED_TOKENS)));

        let denied = settling.decided(&answer(Decision::RateLimited, "")).expect("a decision");
        assert_eq!(denied, Decided { verdicts: Verdicts::DENIED, settle: None });
        let kept = Reserve::new(template, false).decided(&answer(Decision::Allow, "id")).expect("a decision");
        assert_eq!(kept.settle, None);
    }

    #[test]
    fn what_decides_nothing_is_an_error() {
        assert!(read_decision(&[]).is_err());
        assert!(read_decision(&[0xff]).is_err());
        assert!(read_decision(&[0x18, 200]).is_err());
        assert!(read_decision(&[0x08, 1]).is_err(), "allowed without a reservation");
        assert!(read_settled(&[]).is_err());
        assert!(read_settled(&[8, 3]).is_err());
        assert_eq!(read_settled(&[8, 1]), Ok(1));
    }
}
