use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use prost::Message;
use tidegate_core::decision::{Allowed, Answer, Bound, Denial, Denied, WindowStatus};
use tidegate_core::headers::HeaderUnit;
use tidegate_core::reservation::Number;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use super::write::{Response, nested, number, settle_response};
use super::*;
use crate::{convert, v1};

/// Numbers of every length on the wire, the smallest most often.
fn any_number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..=64).prop_map(|(number, shift)| number.checked_shr(shift).unwrap_or(0))
}

fn any_request() -> impl Strategy<Value = v1::CheckAndReserveRequest> {
    let key = (".{0,40}", ".{0,40}", ".{0,10}").prop_map(|(account, model, variant)| v1::LimitKey {
        account,
        model,
        variant,
    });
    let ttl = (any_number(), any::<i32>())
        .prop_map(|(seconds, nanos)| prost_types::Duration { seconds: seconds.cast_signed(), nanos });
    let numbers = (any_number(), proptest::option::of(any_number()), proptest::option::of(any_number()));
    let enums = (-2..6, -2..6);
    (proptest::option::of(key), numbers, enums, ".{0,70}", proptest::option::of(ttl)).prop_map(
        |(key, (prompt_tokens, cached_prompt_tokens, max_generated_tokens), (service_tier, view), request_id, ttl)| {
            v1::CheckAndReserveRequest {
                key,
                prompt_tokens,
                cached_prompt_tokens,
                max_generated_tokens,
                service_tier,
                request_id,
                reservation_ttl: ttl,
                view,
            }
        },
    )
}

fn any_settle() -> impl Strategy<Value = v1::SettleRequest> {
    let count = || proptest::option::of(any_number());
    (".{0,200}", count(), count(), count()).prop_map(
        |(reservation_id, prompt_tokens, cached_prompt_tokens, generated_tokens)| v1::SettleRequest {
            reservation_id,
            prompt_tokens,
            cached_prompt_tokens,
            generated_tokens,
        },
    )
}

fn any_tokens() -> impl Strategy<Value = Tokens> {
    (any_number(), any_number(), any_number())
        .prop_map(|(prompt, uncached, generated)| Tokens::new(prompt, uncached, generated))
}

fn any_denial() -> impl Strategy<Value = Denial> {
    proptest::sample::select(vec![
        Denial::WindowFull,
        Denial::ExceedsCurrentLimit,
        Denial::NeverFits,
        Denial::Squeezed,
        Denial::Shed,
        Denial::Capacity(Bound::Keys),
        Denial::StoreUnavailable,
        Denial::UnknownAccount,
        Denial::AccountBlocked,
    ])
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let span = || (any_number(), 0_u32..1_000_000_000).prop_map(|(seconds, nanos)| Duration::new(seconds >> 1, nanos));
    let numbers = proptest::array::uniform7(any_number());
    let status = (numbers, span(), any::<bool>()).prop_map(|(numbers, reset_after, binding)| WindowStatus {
        limit_tpm: numbers[0],
        effective_limit_tpm: numbers[1],
        floor_tpm: numbers[2],
        ceiling_tpm: numbers[3],
        used_tokens: numbers[4],
        held_tokens: numbers[5],
        remaining_tokens: numbers[6],
        reset_after,
        binding,
    });
    let windows = proptest::array::uniform3(status)
        .prop_map(|[prompt, uncached, generated]| PerWindow::new(prompt, uncached, generated));
    let allowed = (any_tokens(), any::<bool>()).prop_map(|(reserved, replayed)| Allowed {
        number: Number { incarnation: 1, sequence: 2 },
        reserved,
        admitted_at: Timestamp::ZERO,
        ttl: Duration::from_secs(600),
        replayed,
    });
    let denied = (any_denial(), proptest::option::of(span()), any_tokens())
        .prop_map(|(denial, retry_after, ask)| Denied { denial, retry_after, ask });
    (prop_oneof![allowed.prop_map(Ok), denied.prop_map(Err)], windows)
        .prop_map(|(outcome, windows)| Answer { outcome, windows })
}

proptest! {
    #[test]
    fn a_request_reads_as_the_generated_type_reads_it(request in any_request(), cut in 0_usize..400, flip in any::<u8>()) {
        let mut bytes = request.encode_to_vec();
        let of_generated = CheckAndReserve::from(&request);
        match CheckAndReserve::read(&bytes) {
            Some(read) => prop_assert_eq!(read, of_generated),
            // Negative numbers are the generated type's to read.
            None => prop_assert!(
                request.view < 0 || request.service_tier < 0
                    || request.reservation_ttl.is_some_and(|ttl| ttl.nanos < 0)
            ),
        }
        // And whatever else comes: as the generated type, or not at all.
        if let Some(byte) = bytes.get_mut(cut) {
            *byte ^= flip;
        }
        for bytes in [&bytes[..], &bytes[..cut.min(bytes.len())]] {
            if let Some(read) = CheckAndReserve::read(bytes) {
                let generated = v1::CheckAndReserveRequest::decode(bytes);
                prop_assert_eq!(Ok(read), generated.as_ref().map(CheckAndReserve::from));
            }
        }
    }

    #[test]
    fn two_requests_in_a_row_are_merged_as_the_generated_type_merges_them(first in any_request(), second in any_request()) {
        let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
        if let Some(read) = CheckAndReserve::read(&bytes) {
            let generated = v1::CheckAndReserveRequest::decode(&bytes[..]).expect("well formed");
            prop_assert_eq!(read, CheckAndReserve::from(&generated));
        }
    }

    #[test]
    fn a_settlement_reads_as_the_generated_type_reads_it(settle in any_settle(), cut in 0_usize..250, flip in any::<u8>()) {
        let mut bytes = settle.encode_to_vec();
        prop_assert_eq!(Settle::read(&bytes), Some(Settle::from(&settle)));
        if let Some(byte) = bytes.get_mut(cut) {
            *byte ^= flip;
        }
        if let Some(read) = Settle::read(&bytes) {
            let generated = v1::SettleRequest::decode(&bytes[..]);
            prop_assert_eq!(Ok(read), generated.as_ref().map(Settle::from));
        }
    }

    #[test]
    fn calls_of_a_stream_and_of_a_batch_are_told_apart(
        call_id in any_number(), request in any_request(), settle in any_settle(), cut in 0_usize..400, flip in any::<u8>(),
    ) {
        use v1::pipeline_request::Call;
        for call in [Call::CheckAndReserve(request.clone()), Call::Settle(settle.clone())] {
            let mut bytes = v1::PipelineRequest { call_id, call: Some(call) }.encode_to_vec();
            if flip % 2 == 0 && let Some(byte) = bytes.get_mut(cut) {
                *byte ^= flip;
            }
            let Some(read) = PipelineCall::read(&bytes) else { continue };
            let generated = v1::PipelineRequest::decode(&bytes[..]).expect("what is read is well formed");
            prop_assert_eq!(read.0, generated.call_id);
            match (read.1, &generated.call) {
                (PipelineCall::CheckAndReserve(read), Some(Call::CheckAndReserve(call))) => prop_assert_eq!(read, call.into()),
                (PipelineCall::Settle(read), Some(Call::Settle(call))) => prop_assert_eq!(read, call.into()),
                (read, call) => prop_assert!(false, "{:?} but {:?}", read, call),
            }
        }
        let batch = v1::BatchCheckAndReserveRequest { requests: vec![request.clone(), request.clone()] }.encode_to_vec();
        let one = request.encode_to_vec();
        prop_assert_eq!(read::requests(&batch).collect::<Vec<_>>(), [Some(&one[..]), Some(&one[..])]);
    }

    #[test]
    fn an_answer_is_written_as_the_generated_type_writes_it(
        answer in any_answer(), id in "[a-zA-Z0-9_-]{0,300}", per_minute in any::<bool>(), shadow in any::<bool>(), view in 0..5,
    ) {
        let view = v1::ResponseView::try_from(view).expect("known");
        let unit = if per_minute { HeaderUnit::TokensPerMinute } else { HeaderUnit::TokensPerSecond };
        let shadow = shadow && answer.outcome.is_err();
        let headers = convert::http_headers(&answer, unit, shadow);
        let generated = if shadow {
            convert::shadow_response(&answer, id.clone(), headers, view)
        } else {
            convert::check_and_reserve_response(&answer, id.clone(), headers, view)
        };
        let mut out = BytesMut::from("before");
        let response = Response { answer: &answer, shadow, view, unit, id_length: id.len() };
        response.write(&mut out, |bytes| bytes.copy_from_slice(id.as_bytes()));
        prop_assert_eq!(&out[6..], &generated.encode_to_vec()[..]);
    }
}

#[test]
fn a_settlements_answer_is_written_as_the_generated_type_writes_it() {
    for outcome in [v1::SettleOutcome::Applied, v1::SettleOutcome::Late, v1::SettleOutcome::Duplicate] {
        for clamped in [false, true] {
            let mut out = BytesMut::new();
            settle_response(&mut out, outcome, clamped);
            assert_eq!(out[..], v1::SettleResponse { outcome: outcome.into(), clamped }.encode_to_vec()[..]);
        }
    }
}

#[test]
fn a_message_in_a_message_may_have_any_length() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
        let reservation_id = "x".repeat(length);
        let settle = v1::SettleRequest { reservation_id, ..v1::SettleRequest::default() };
        let call = v1::PipelineRequest { call_id: 300, call: Some(v1::pipeline_request::Call::Settle(settle.clone())) };
        let mut out = BytesMut::new();
        number(&mut out, 1, 300);
        nested(&mut out, 4, |out| settle.encode(out).expect("there is room"));
        assert!(out[..] == call.encode_to_vec()[..], "{length}");
    }
}
