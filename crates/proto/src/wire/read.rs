//! Requests, borrowed from the bytes that they came in.
//!
//! `None` is no error: the generated types read those bytes, or say what is wrong with them.

use prost_types::Duration;

use crate::v1;

/// The names of a limit key, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// Whose.
    pub account: &'a str,
    /// Of which model.
    pub model: &'a str,
    /// Of which variant.
    pub variant: &'a str,
}

/// A `CheckAndReserveRequest`, unchecked: fields as they are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckAndReserve<'a> {
    /// `key`
    pub key: Option<Names<'a>>,
    /// `prompt_tokens`
    pub prompt_tokens: u64,
    /// `cached_prompt_tokens`
    pub cached_prompt_tokens: Option<u64>,
    /// `max_generated_tokens`
    pub max_generated_tokens: Option<u64>,
    /// `service_tier`
    pub service_tier: i32,
    /// `request_id`
    pub request_id: &'a str,
    /// `reservation_ttl`
    pub reservation_ttl: Option<Duration>,
    /// `view`
    pub view: i32,
}

/// A `SettleRequest`, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settle<'a> {
    /// `reservation_id`
    pub reservation_id: &'a str,
    /// `prompt_tokens`
    pub prompt_tokens: Option<u64>,
    /// `cached_prompt_tokens`
    pub cached_prompt_tokens: Option<u64>,
    /// `generated_tokens`
    pub generated_tokens: Option<u64>,
}

/// What a `PipelineRequest` carries, of the calls that come most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PipelineCall<'a> {
    /// `check_and_reserve`
    CheckAndReserve(CheckAndReserve<'a>),
    /// `settle`
    Settle(Settle<'a>),
}

impl<'a> Names<'a> {
    fn take(&mut self, message: &'a [u8]) -> Option<()> {
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => self.account = text(bytes)?,
                (2, Value::Bytes(bytes)) => self.model = text(bytes)?,
                (3, Value::Bytes(bytes)) => self.variant = text(bytes)?,
                (4.., _) => {}
                _ => return None,
            }
        }
        Some(())
    }
}

impl<'a> From<&'a v1::LimitKey> for Names<'a> {
    fn from(key: &'a v1::LimitKey) -> Self {
        Self { account: &key.account, model: &key.model, variant: &key.variant }
    }
}

impl<'a> CheckAndReserve<'a> {
    /// What `message` says.
    #[must_use]
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let mut read = Self::default();
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => read.key.get_or_insert_default().take(bytes)?,
                (2, Value::Number(number)) => read.prompt_tokens = number,
                (3, Value::Number(number)) => read.cached_prompt_tokens = Some(number),
                (4, Value::Number(number)) => read.max_generated_tokens = Some(number),
                (5, Value::Number(number)) => read.service_tier = i32::try_from(number).ok()?,
                (6, Value::Bytes(bytes)) => read.request_id = text(bytes)?,
                (7, Value::Bytes(bytes)) => add_duration(read.reservation_ttl.get_or_insert_default(), bytes)?,
                (8, Value::Number(number)) => read.view = i32::try_from(number).ok()?,
                (9.., _) => {}
                _ => return None,
            }
        }
        Some(read)
    }
}

impl<'a> From<&'a v1::CheckAndReserveRequest> for CheckAndReserve<'a> {
    fn from(message: &'a v1::CheckAndReserveRequest) -> Self {
        Self {
            key: message.key.as_ref().map(Names::from),
            prompt_tokens: message.prompt_tokens,
            cached_prompt_tokens: message.cached_prompt_tokens,
            max_generated_tokens: message.max_generated_tokens,
            service_tier: message.service_tier,
            request_id: &message.request_id,
            reservation_ttl: message.reservation_ttl,
            view: message.view,
        }
    }
}

impl<'a> Settle<'a> {
    /// What `message` says.
    #[must_use]
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let mut read = Self::default();
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => read.reservation_id = text(bytes)?,
                (2, Value::Number(number)) => read.prompt_tokens = Some(number),
                (3, Value::Number(number)) => read.cached_prompt_tokens = Some(number),
                (4, Value::Number(number)) => read.generated_tokens = Some(number),
                (5.., _) => {}
                _ => return None,
            }
        }
        Some(read)
    }
}

impl<'a> From<&'a v1::SettleRequest> for Settle<'a> {
    fn from(message: &'a v1::SettleRequest) -> Self {
        Self {
            reservation_id: &message.reservation_id,
            prompt_tokens: message.prompt_tokens,
            cached_prompt_tokens: message.cached_prompt_tokens,
            generated_tokens: message.generated_tokens,
        }
    }
}

impl<'a> PipelineCall<'a> {
    /// The id of the call in `message`, a `PipelineRequest`, and the call.
    #[must_use]
    pub fn read(message: &'a [u8]) -> Option<(u64, Self)> {
        let (mut call_id, mut call) = (0, None);
        for field in Fields(message) {
            match field? {
                (1, Value::Number(number)) => call_id = number,
                // A second call would be merged with the first, or replace it.
                (2..=6, _) if call.is_some() => return None,
                (2, Value::Bytes(bytes)) => call = Some(Self::CheckAndReserve(CheckAndReserve::read(bytes)?)),
                (4, Value::Bytes(bytes)) => call = Some(Self::Settle(Settle::read(bytes)?)),
                (7.., _) => {}
                _ => return None,
            }
        }
        Some((call_id, call?))
    }
}

/// The messages in field 1 of `message`, of a batch; `None` in place of one that cannot be told apart.
pub fn requests(message: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    Fields(message).filter_map(|field| match field {
        Some((1, Value::Bytes(bytes))) => Some(Some(bytes)),
        Some((2.., _)) => None,
        Some(_) | None => Some(None),
    })
}

/// Adds what `message` says to `duration`.
fn add_duration(duration: &mut Duration, message: &[u8]) -> Option<()> {
    for field in Fields(message) {
        match field? {
            (1, Value::Number(number)) => duration.seconds = number.cast_signed(),
            (2, Value::Number(number)) => duration.nanos = i32::try_from(number).ok()?,
            (3.., _) => {}
            _ => return None,
        }
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The fields of a message, in order. `None` once, and then the end, at what is not well formed, or a group.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field here has.
    Other,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint().filter(|tag| u32::try_from(*tag).is_ok())?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((tag >> 3, value)).filter(|(number, _)| *number > 0)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let (&first, rest) = self.0.split_first()?;
        if first < 0x80 {
            self.0 = rest;
            return Some(first.into());
        }
        let mut number = 0;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit left.
            if at == 9 && bits > 1 {
                return None;
            }
            number |= bits << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Some(number);
            }
        }
        None
    }
}
