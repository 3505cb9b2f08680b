//! throttlecrab's own call, for comparison: one limit of one key.

use bytes::Bytes;

use super::exchange::{Decided, Exchange, NoAnswer, Verdicts};
use super::fields::{Fields, Value, put_bytes, put_number};
use super::keys::{ACCOUNT_BYTES, Keys, names, write_account, write_model};
use super::reserve::{PREFIX_BYTES, framed};

/// A limit that nobody reaches: calls in [`PERIOD_S`].
const LIMIT: u64 = 1_000_000_000;
const PERIOD_S: u64 = 60;

/// `throttlecrab.RateLimiter/Throttle`; its key is account and model.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    framed: Vec<u8>,
    /// Where the key stands.
    key: std::ops::Range<usize>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        let (account, model) = names();
        let key = [&account[..], b":", &model].concat();
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &key);
        let end = PREFIX_BYTES + message.len();
        for (field, number) in [(2, LIMIT), (3, LIMIT), (4, PERIOD_S), (5, 1)] {
            put_number(&mut message, field, number);
        }
        Self { framed: framed(&message), key: end - key.len()..end }
    }
}

impl Exchange for Throttle {
    fn path(&self) -> &'static str {
        "/throttlecrab.RateLimiter/Throttle"
    }

    /// There is nothing to settle.
    fn settle_path(&self) -> &'static str {
        self.path()
    }

    fn ask(&self, keys: &mut Keys) -> Bytes {
        let (mut frame, key) = (self.framed.clone(), keys.draw());
        let name = &mut frame[self.key.clone()];
        write_account(&mut name[..ACCOUNT_BYTES], key);
        write_model(name, key);
        frame.into()
    }

    fn decided(&self, message: &[u8]) -> Result<Decided, NoAnswer> {
        // A denial leaves the field out; an answer that has no field at all is none.
        let verdicts = match Fields::of(message).next() {
            Some(Ok((1, Value::Number(1)))) => Verdicts::ALLOWED,
            Some(Ok(_)) => Verdicts::DENIED,
            Some(Err(())) | None => return Err(NoAnswer("the answer has no decision".to_owned())),
        };
        Ok(Decided { verdicts, settle: None })
    }

    fn settled(&self, _: &[u8]) -> Result<u64, NoAnswer> {
        Ok(0)
    }
}
