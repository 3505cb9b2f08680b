//! Pipeline: many calls in flight on one stream, each answered by its id.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};

use super::batch::refused;
use super::exchange::{NoAnswer, Verdicts};
use super::fields::{Fields, Value, put_bytes, put_varint};
use super::keys::Keys;
use super::link::{CallError, Rpc, check_status};
use super::meter::Meter;
use super::reserve::{PREFIX_BYTES, Template, framed, put_settle, read_decision, read_settled};

const PATH: &str = "/tidegate.v1.RateLimiterService/Pipeline";

/// Bytes that are sent at once, those of a frame: what is to be sent goes out together.
const CHUNK_BYTES: usize = 16 * 1_024;

/// The id of the call in slot 0. The ids of all slots are three bytes long, so that they can be written over each other.
const FIRST_ID: u64 = 1 << 14;
/// Bytes of an id.
const ID_BYTES: usize = 3;

/// What is sent on a pipeline.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    template: Template,
    framed: Vec<u8>,
    in_flight: u16,
    settles: bool,
}

impl Calls {
    /// Reservations, `in_flight` at a time, and the settlements of what was allowed if it `settles`.
    pub(super) fn new(template: Template, in_flight: u16, settles: bool) -> Self {
        let mut call = id(0);
        put_bytes(&mut call, 2, template.message());
        Self { framed: framed(&call), template, in_flight, settles }
    }
}

/// The field `call_id` of the call in a slot.
fn id(slot: u16) -> Vec<u8> {
    let mut field = vec![8];
    put_varint(&mut field, FIRST_ID + u64::from(slot));
    field
}

/// Keeps a pipeline full until the meter is off, then waits for its answers.
pub(super) async fn run(requests: SendRequest<Bytes>, calls: Calls, keys: Keys, meter: Rc<Meter>) {
    if let Err(error) = drive(requests, calls, keys, &meter).await {
        meter.on_error(error.to_string());
    }
}

async fn drive(requests: SendRequest<Bytes>, calls: Calls, keys: Keys, meter: &Meter) -> Result<(), CallError> {
    let mut requests = requests.ready().await?;
    let (response, mut sender) = requests.send_request(Rpc::at(PATH).request(), false)?;
    let mut pipe = Pipe::new(calls, keys, meter);
    pipe.fill(&mut sender)?;
    let response = response.await?;
    if response.headers().contains_key("grpc-status") {
        return check_status(PATH, response.headers());
    }
    let mut body = response.into_body();
    while pipe.free.len() < usize::from(pipe.calls.in_flight) {
        poll_fn(|cx| pipe.receive(&mut body, cx)).await?;
        if meter.is_open() || !pipe.settles.is_empty() {
            pipe.fill(&mut sender)?;
        }
    }
    sender.send_data(Bytes::new(), true)?;
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    check_status(PATH, &body.trailers().await?.unwrap_or_default())
}

/// A place for a call in flight.
#[derive(Clone, Copy)]
struct Slot {
    sent: u64,
    is_taken: bool,
}

struct Pipe<'a> {
    calls: Calls,
    keys: Keys,
    meter: &'a Meter,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// SettleRequests that are to be sent.
    settles: Vec<Vec<u8>>,
    /// The beginning of a message whose end has not come.
    rest: Vec<u8>,
}

impl<'a> Pipe<'a> {
    fn new(calls: Calls, keys: Keys, meter: &'a Meter) -> Self {
        let slots = vec![Slot { sent: 0, is_taken: false }; calls.in_flight.into()];
        let free = (0..calls.in_flight).collect();
        Self { calls, keys, meter, slots, free, settles: Vec::new(), rest: Vec::new() }
    }

    /// Sends as many calls as there are free slots, settlements first. Once the meter is off, those alone.
    fn fill(&mut self, sender: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let (now, is_open) = (self.meter.now(), self.meter.is_open());
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while (is_open || !self.settles.is_empty())
            && let Some(slot) = self.free.pop()
        {
            self.slots[usize::from(slot)] = Slot { sent: now, is_taken: true };
            if chunk.len() + self.calls.framed.len() > CHUNK_BYTES {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES));
                sender.send_data(full.into(), false)?;
            }
            match self.settles.pop() {
                Some(settle) => {
                    let mut call = id(slot);
                    put_bytes(&mut call, 4, &settle);
                    chunk.extend_from_slice(&framed(&call));
                }
                None => self.put_ask(&mut chunk, slot),
            }
        }
        if !chunk.is_empty() {
            sender.send_data(chunk.into(), false)?;
        }
        Ok(())
    }

    fn put_ask(&mut self, chunk: &mut Vec<u8>, slot: u16) {
        let start = chunk.len();
        chunk.extend_from_slice(&self.calls.framed);
        chunk[start + PREFIX_BYTES + 1..][..ID_BYTES].copy_from_slice(&id(slot)[1..]);
        let message = chunk.len() - self.calls.template.message().len();
        self.calls.template.name(chunk, message, self.keys.draw());
    }

    /// Reads all that has come, and waits for something where that is nothing.
    fn receive(&mut self, body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let mut now = None;
        loop {
            let data = match body.poll_data(cx) {
                Poll::Ready(Some(data)) => data?,
                Poll::Ready(None) => {
                    return Poll::Ready(Err(CallError::Refused(format!("{PATH}: the stream ended, calls are open"))));
                }
                Poll::Pending if now.is_some() => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            body.flow_control().release_capacity(data.len())?;
            let now = *now.get_or_insert_with(|| self.meter.now());
            if self.rest.is_empty() {
                let read = self.read(&data, now);
                self.rest.extend_from_slice(&data[read..]);
            } else {
                let mut all = std::mem::take(&mut self.rest);
                all.extend_from_slice(&data);
                all.drain(..self.read(&all, now));
                self.rest = all;
            }
        }
    }

    /// Reads the messages that are whole: how many bytes they take.
    fn read(&mut self, bytes: &[u8], now: u64) -> usize {
        let mut left = bytes;
        while let Some((prefix, rest)) = left.split_first_chunk::<PREFIX_BYTES>() {
            let [_, length @ ..] = *prefix;
            let Some((message, rest)) = rest.split_at_checked(u32::from_be_bytes(length) as usize) else { break };
            left = rest;
            if let Err(error) = self.on_answer(message, now) {
                self.meter.on_error(format!("{PATH}: {error}"));
            }
        }
        bytes.len() - left.len()
    }

    fn on_answer(&mut self, message: &[u8], now: u64) -> Result<(), NoAnswer> {
        let mut fields = Fields::of(message);
        let (Some(Ok((1, Value::Number(id)))), Some(Ok((kind, Value::Bytes(answer))))) = (fields.next(), fields.next())
        else {
            return Err(NoAnswer("an answer has no id, or nothing else".to_owned()));
        };
        let slot = id.checked_sub(FIRST_ID).and_then(|slot| u16::try_from(slot).ok());
        let Some((slot, place)) = slot.and_then(|slot| Some((slot, self.slots.get_mut(usize::from(slot))?))) else {
            return Err(NoAnswer(format!("an answer to {id}, which was not asked")));
        };
        if !std::mem::replace(&mut place.is_taken, false) {
            return Err(NoAnswer(format!("a second answer to {id}")));
        }
        let sent = place.sent;
        self.free.push(slot);
        match kind {
            2 => {
                let (verdicts, reservation_id) = read_decision(answer)?;
                self.meter.on_answer(now, sent, verdicts, 0, answer.len());
                if let Some(id) = reservation_id.filter(|_| self.calls.settles) {
                    let mut settle = Vec::with_capacity(id.len() + 8);
                    put_settle(&mut settle, id);
                    self.settles.push(settle);
                }
            }
            4 => self.meter.on_answer(now, sent, Verdicts::NONE, read_settled(answer)?, 0),
            7 => return Err(refused(answer)),
            _ => return Err(NoAnswer("an answer of an unknown kind".to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use tidegate_proto::v1::pipeline_request::Call;
    use tidegate_proto::v1::pipeline_response::Answer;
    use tidegate_proto::v1::{
        CheckAndReserveResponse, PipelineRequest, PipelineResponse, ResponseView, SettleResponse,
    };

    use super::*;
    use crate::command::bench::keys::Draw;

    fn pipe(meter: &Meter) -> Pipe<'_> {
        let template = Template::new(ResponseView::Full, Duration::from_secs(1));
        Pipe::new(Calls::new(template, 2, true), Keys::new(1 << 31, Draw::Uniform, 1), meter)
    }

    #[test]
    fn a_call_has_the_id_of_its_slot_and_a_key() {
        let meter = Meter::new().expect("a meter");
        let mut chunk = Vec::new();
        pipe(&meter).put_ask(&mut chunk, 1_023);
        let call = PipelineRequest::decode(&chunk[PREFIX_BYTES..]).expect("a message");
        assert_eq!(call.call_id, FIRST_ID + 1_023);
        let Some(Call::CheckAndReserve(ask)) = call.call else { panic!("{call:?}") };
        assert_eq!(ask.view(), ResponseView::Full);
        assert!(ask.key.expect("a key").account.starts_with("account-00000000"));
    }

    #[test]
    fn answers_are_found_wherever_frames_cut_them() {
        let allow = CheckAndReserveResponse { decision: 1, reservation_id: "id".to_owned(), ..Default::default() };
        let answer = |slot: u64, answer| PipelineResponse { call_id: FIRST_ID + slot, answer: Some(answer) };
        let mut bytes = framed(&answer(1, Answer::CheckAndReserve(allow)).encode_to_vec());
        let first = bytes.len();
        let settled = SettleResponse { outcome: 1, clamped: false };
        bytes.extend(framed(&answer(0, Answer::Settle(settled)).encode_to_vec()));
        let meter = Meter::new().expect("a meter");
        for cut in 0..=bytes.len() {
            let mut pipe = pipe(&meter);
            pipe.free.clear();
            pipe.slots.iter_mut().for_each(|slot| slot.is_taken = true);
            let read = pipe.read(&bytes[..cut], 1);
            assert_eq!(
                read,
                if cut == bytes.len() {
                    cut
                } else if cut < first {
                    0
                } else {
                    first
                }
            );
            pipe.read(&bytes[read..], 1);
            assert_eq!(pipe.free, [1, 0]);
            assert_eq!(pipe.settles.len(), 1);
        }
        assert_eq!(meter.errors(), None);
    }

    #[test]
    fn answers_that_nobody_waits_for_are_errors() {
        let meter = Meter::new().expect("a meter");
        let mut pipe = pipe(&meter);
        for id in [0, FIRST_ID, FIRST_ID + 2, u64::MAX] {
            let answer = Answer::Settle(SettleResponse { outcome: 1, clamped: false });
            let message = PipelineResponse { call_id: id, answer: Some(answer) }.encode_to_vec();
            assert!(pipe.on_answer(&message, 1).is_err(), "{id}");
        }
        assert!(pipe.on_answer(&[], 1).is_err());
    }
}
