//! Answers, written once, where they are sent from: byte for byte what the generated types write.

use bytes::{BufMut, BytesMut};
use tidegate_core::decision::{Answer, WindowStatus};
use tidegate_core::headers::{self, HeaderUnit};
use tidegate_core::window::{PerWindow, Tokens};

use super::super::convert::{self, answer};
use crate::v1;

/// Bytes of a window's status, at most: nine numbers and a duration.
const MOST_STATUS_BYTES: usize = 127;

/// What an answer to `CheckAndReserve` is made of.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// What was decided.
    pub answer: &'a Answer,
    /// Whether it is a denial that is not enforced.
    pub shadow: bool,
    /// What of it is told.
    pub view: v1::ResponseView,
    /// Unit of its headers.
    pub unit: HeaderUnit,
    /// Characters of its reservation id; 0 where it has none.
    pub id_length: usize,
}

impl Response<'_> {
    /// Appends it to `out`. `write_id` writes the reservation id into the bytes that it is given, all of them.
    pub fn write(&self, out: &mut BytesMut, write_id: impl FnOnce(&mut [u8])) {
        use v1::ResponseView as View;
        let Self { answer, shadow, view, unit, id_length } = *self;
        let (with_windows, with_headers) = match view {
            View::Unspecified | View::Full => (true, true),
            View::Windows => (true, false),
            View::Headers => (false, true),
            View::Decision => (false, false),
        };
        let told = Told::of(answer);
        let shown = if shadow { Told::ALLOWED } else { told };
        number(out, 1, shown.decision);
        if id_length > 0 {
            length(out, 2, id_length);
            let at = out.len();
            out.put_bytes(0, id_length);
            write_id(&mut out[at..]);
        }
        number(out, 3, shown.http_status);
        if with_windows {
            for (window, status) in answer.windows.iter() {
                let binding = status.binding && !shadow;
                write_status(out, convert::window(window).into(), &WindowStatus { binding, ..*status });
            }
        }
        if with_headers && shadow {
            headers::render_shadow(answer, unit, |name, value| header(out, name, value));
        } else if with_headers {
            headers::render(answer, unit, |name, value| header(out, name, value));
        }
        if let Some(wait) = shown.retry_after {
            nested(out, 6, |out| duration(out, &wait));
        }
        number(out, 7, shown.reason);
        number(out, 8, answer.outcome.is_ok_and(|allowed| allowed.replayed).into());
        match answer.outcome {
            Ok(allowed) => nested(out, 9, |out| tokens(out, &allowed.reserved)),
            Err(_) if shadow => nested(out, 9, |_| {}),
            Err(_) => {}
        }
        if shadow {
            nested(out, 10, |out| shadowed(out, &told, &answer.windows));
        }
    }
}

/// What an answer says beside windows and headers, as numbers of the wire.
#[derive(Clone, Copy)]
struct Told {
    decision: u64,
    reason: u64,
    http_status: u64,
    retry_after: Option<prost_types::Duration>,
}

impl Told {
    const ALLOWED: Self = Self { decision: v1::Decision::Allow as u64, reason: 0, http_status: 200, retry_after: None };

    fn of(answer: &Answer) -> Self {
        let Err(denied) = answer.outcome else { return Self::ALLOWED };
        Self {
            decision: answer::decision(denied.denial) as u64,
            reason: answer::reason(denied.denial) as u64,
            http_status: denied.denial.http_status().into(),
            retry_after: denied.retry_after.map(convert::time::wire_duration),
        }
    }
}

/// Appends the message of a settlement, a release or a progress report that came to `outcome`.
pub fn settle_response(out: &mut BytesMut, outcome: v1::SettleOutcome, clamped: bool) {
    number(out, 1, outcome as u64);
    number(out, 2, clamped.into());
}

/// Appends field `field`, a message that `write` appends.
pub fn nested(out: &mut BytesMut, field: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(field << 3 | 2);
    let at = out.len();
    // Most are longer than 127 bytes; none has more than 16,383.
    out.put_u16(0);
    write(out);
    let length = out.len() - at - 2;
    if length < 0x80 {
        out.copy_within(at + 2.., at + 1);
        out.truncate(at + 1 + length);
        out[at] = low(length as u64);
    } else if length < 0x4000 {
        out[at] = low(length as u64) | 0x80;
        out[at + 1] = low(length as u64 >> 7);
    } else {
        let message = out.split_off(at + 2);
        out.truncate(at);
        varint(out, length as u64);
        out.extend_from_slice(&message);
    }
}

/// Appends field `field`; nothing where it is 0, as the wire has it.
pub fn number(out: &mut impl BufMut, field: u8, number: u64) {
    if number > 0 {
        out.put_u8(field << 3);
        varint(out, number);
    }
}

fn write_status(out: &mut BytesMut, window: i32, status: &WindowStatus) {
    let mut bytes = [0; MOST_STATUS_BYTES];
    let mut rest = &mut bytes[..];
    number(&mut rest, 1, u64::from(window.unsigned_abs()));
    number(&mut rest, 2, status.limit_tpm);
    number(&mut rest, 3, status.used_tokens);
    number(&mut rest, 4, status.held_tokens);
    number(&mut rest, 5, status.remaining_tokens);
    let mut span = [0; 24];
    let mut span_rest = &mut span[..];
    duration(&mut span_rest, &convert::time::wire_duration(status.reset_after));
    let span_length = 24 - span_rest.len();
    length(&mut rest, 6, span_length);
    rest.put_slice(&span[..span_length]);
    number(&mut rest, 7, status.binding.into());
    number(&mut rest, 8, status.floor_tpm);
    number(&mut rest, 9, status.ceiling_tpm);
    number(&mut rest, 10, status.effective_limit_tpm);
    let status_length = MOST_STATUS_BYTES - rest.len();
    length(out, 4, status_length);
    out.extend_from_slice(&bytes[..status_length]);
}

fn header(out: &mut BytesMut, name: &str, value: &str) {
    let of_value = value.len() + if value.len() < 0x80 { 2 } else { 3 };
    length(out, 5, name.len() + 2 + of_value);
    length(out, 1, name.len());
    out.extend_from_slice(name.as_bytes());
    length(out, 2, value.len());
    out.extend_from_slice(value.as_bytes());
}

fn tokens(out: &mut impl BufMut, tokens: &Tokens) {
    number(out, 1, tokens.prompt);
    number(out, 2, tokens.uncached_prompt);
    number(out, 3, tokens.generated);
}

fn duration(out: &mut impl BufMut, duration: &prost_types::Duration) {
    number(out, 1, duration.seconds.cast_unsigned());
    number(out, 2, u64::from(duration.nanos.unsigned_abs()));
}

fn shadowed(out: &mut BytesMut, told: &Told, windows: &PerWindow<WindowStatus>) {
    number(out, 1, told.decision);
    number(out, 2, told.reason);
    number(out, 3, told.http_status);
    if let Some(wait) = &told.retry_after {
        nested(out, 4, |out| duration(out, wait));
    }
    let binding = windows.iter().filter(|(_, status)| status.binding);
    if windows.iter().any(|(_, status)| status.binding) {
        nested(out, 5, |out| binding.for_each(|(window, _)| varint(out, convert::window(window) as u64)));
    }
}

/// The tag and the length of a field of bytes.
fn length(out: &mut impl BufMut, field: u8, bytes: usize) {
    out.put_u8(field << 3 | 2);
    varint(out, bytes as u64);
}

fn varint(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(low(number) | 0x80);
        number >>= 7;
    }
    out.put_u8(low(number));
}

/// The lowest seven bits.
const fn low(number: u64) -> u8 {
    (number & 0x7f).to_le_bytes()[0]
}
