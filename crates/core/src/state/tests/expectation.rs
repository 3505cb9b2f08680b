//! What the forecast lets in: the margin of the sum, the guard, declared maxima, and the waits that follow from them.

use super::*;
use crate::decision::Allowed;

/// Settles `count` streams of alternating lengths, a minute apart, so that the forecast has a mean and a deviation.
fn teach(key: &mut Key, lengths: [u64; 2]) {
    for step in 0..64 {
        let ticket = key.admit(&Request { max_generated_tokens: None, ..request(1, 1, 0) });
        key.now += 10_000;
        key.settle(&ticket, lengths[step % 2]).expect("live");
        key.now += 120_000;
    }
}

#[test]
fn the_margin_of_the_sum_narrows_what_remains() {
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let remaining = |lengths, sigmas| {
        let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 100_000));
        key.forecast.margin_sigmas_permille = sigmas;
        teach(&mut key, lengths);
        for _ in 0..100 {
            key.admit(&asked);
        }
        key.windows().generated.remaining_tokens
    };
    let margin = |lengths| remaining(lengths, 0) - remaining(lengths, 2_576);
    // 100 streams of 200 tokens each. Their mean may be off by 2.5 %: 500. With a deviation of 100 each, that of the sum is
    // 1,000 beside it.
    let (alike, varied) = (margin([200, 200]), margin([100, 300]));
    assert!((1_288..1_700).contains(&alike), "{alike}");
    // What is expected of a stream that begins may be three answers old.
    assert!((2_700..3_400).contains(&varied), "2.576 deviations of the sum, not of each: {varied}");
}

#[test]
fn the_guard_bounds_what_all_streams_could_produce_within_a_minute() {
    let admitted = |guard_permille, declared| {
        let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
        key.forecast.guard_permille = guard_permille;
        // Answers of 10 tokens, too short to show a pace: 40 tokens a second are taken for granted.
        teach(&mut key, [10, 10]);
        let asked = Request { max_generated_tokens: declared, ..request(1, 1, 0) };
        (0..2_000).take_while(|_| key.ask(&asked).outcome.is_ok()).count()
    };
    assert_eq!(admitted(2_000, None), 30, "2 * 36,000 / 2,400");
    assert_eq!(admitted(1_000, None), 15);
    assert!(admitted(0, None) > 1_000);
    assert!(admitted(2_000, Some(100)) > 500, "no more than they declare");
    // However small the limit, eight streams may run.
    let mut small = Key::new(Tokens::new(1_000, 1_000, 240));
    teach(&mut small, [10, 10]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    assert_eq!((0..100).take_while(|_| small.ask(&asked).outcome.is_ok()).count(), 8);
}

#[test]
fn giants_after_small_answers_overrun_the_limit_once() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let mut salvo = |minutes_later: u64| {
        key.now += minutes_later * 60_000;
        for _ in 0..20 {
            let ticket = key.admit(&asked);
            key.now += 1_000;
            key.settle(&ticket, 10).expect("live");
        }
        let mut streams = Vec::new();
        while let Answer { outcome: Ok(allowed), .. } = key.ask(&asked) {
            let Allowed { number, admitted_at, ttl, reserved, .. } = allowed;
            streams.push(Ticket { number, admitted_at, ttl, reserved });
        }
        let mut most = 0;
        for second in 1..=120 {
            key.now += 1_000;
            for stream in &streams {
                key.progress(stream, second * 40).expect("live");
            }
            most = key.windows().generated.used_tokens.max(most);
        }
        for stream in &streams {
            key.settle(stream, 4_800).expect("live");
        }
        (streams.len(), most / 1_000)
    };
    assert_eq!(salvo(0), (30, 72), "at 2,400 tokens a minute each");
    assert_eq!(salvo(10), (15, 36));
    assert!(salvo(24 * 60 + 1).0 > 15, "a day later only the lengths are remembered");
}

#[test]
fn streams_teach_by_their_progress_before_they_settle() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 100_000));
    teach(&mut key, [50, 50]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let streams: Vec<_> = (0..10).map(|_| key.admit(&asked)).collect();
    let expected = |key: &Key| key.state.lengths.course(&key.fallback.hazards, 0, 100_000, 25_000).total;
    let before = expected(&key);
    for second in 1..=50 {
        key.now += 1_000;
        for stream in &streams {
            key.progress(stream, second * 40).expect("live");
        }
    }
    assert!(before < 70 && expected(&key) > 150, "{before}, then {}", expected(&key));
}

#[test]
fn the_guards_wait_is_for_a_stream_to_end() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [10, 10]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let streams: Vec<_> = (0..30).map(|_| key.admit(&asked)).collect();
    let denied = key.ask(&asked).outcome.expect_err("the guard is full");
    // 10 tokens at 40 a second, at least a second; and whoever is admitted within half a second is held until the last ends.
    assert_eq!((denied.denial, denied.retry_after), (Denial::WindowFull, Some(Duration::from_secs(2))));
    assert_eq!(key.windows().generated.remaining_tokens, 0);
    key.now += 1_000;
    key.settle(&streams[0], 10).expect("live");
    key.admit(&asked);
}

#[test]
fn what_streams_have_declared_bounds_what_is_expected_of_them_margin_and_all() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 10_000));
    let asked = request(1, 1, 10);
    // All of the limit, to the token, and not one more.
    assert_eq!((0..2_000).take_while(|_| key.ask(&asked).outcome.is_ok()).count(), 1_000);
}

#[test]
fn a_wait_among_holds_is_for_the_charges_to_leave() {
    let mut key = Key::new(Tokens::new(1_000, 1_000, 1_000));
    let first = key.admit(&request(1, 1, 900));
    key.now = 100;
    key.settle(&first, 900).expect("live");
    key.now = 30_000;
    // A stream that will have produced its 50 tokens long before the 900 leave.
    key.admit(&request(1, 1, 50));
    let answer = key.ask(&request(1, 1, 100));
    let wait = answer.outcome.expect_err("full").retry_after.expect("it fits later");
    assert_eq!(wait, Duration::from_millis(60_100 - 30_000));
}

#[test]
fn a_wait_is_for_the_windows_that_bind() {
    // 900 prompt tokens at 0 s; a stream of 1,000 tokens over 200 s from 50 s on. Only the prompt is in the way, and only
    // until 60 s: what the stream produces much later keeps nobody waiting.
    let mut key = Key::new(Tokens::new(1_000, 1_000, 1_000));
    key.forecast.tokens_per_second = 5;
    key.fallback = Prior::from_defaults(&key.forecast);
    let first = key.admit(&request(900, 900, 0));
    key.settle(&first, 0).expect("live");
    key.now = 50_000;
    key.fallback.clone_from(&Prior::from_defaults(&ForecastDefaults { generated_tokens: 1_000, ..key.forecast }));
    key.forecast.margin_sigmas_permille = 0;
    key.admit(&request(1, 1, 1_000));
    let asked = request(200, 200, 600);
    let wait = key.ask(&asked).outcome.expect_err("full").retry_after.expect("it fits later");
    assert_eq!(wait, Duration::from_secs(10));
    key.now += 10_000;
    key.admit(&asked);
}

#[test]
fn one_absurd_settlement_does_not_move_the_forecast_beyond_the_limit() {
    let mut key = Key::new(LIMIT);
    let ticket = key.admit(&request(1, 1, 0));
    let counts = SettleCounts { generated_tokens: Some(MAX_TOKENS), ..SettleCounts::default() };
    let sample = key.settle_counts(&ticket, &counts).expect("live").sample.expect("applied");
    assert_eq!(sample.used.generated, LIMIT.generated);
}

#[test]
fn a_stream_that_has_not_settled_is_believed_to_be_a_long_one() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 2_000]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    for _ in 0..10 {
        key.admit(&asked);
    }
    let room = |key: &mut Key| 36_000 - key.windows().generated.remaining_tokens;
    let at_first = room(&mut key);
    key.now += 12_000;
    let later = room(&mut key);
    // The short ones would have settled after 10 s, as all before them.
    assert!(later > at_first * 5 / 4, "{at_first}, then {later}");
    // Nobody hears of them for good: what is believed of them fades with their holds.
    key.now += 300_000;
    assert_eq!(room(&mut key), 0);
}

#[test]
fn silent_streams_are_looked_at_before_a_decision_that_they_matter_to() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 2_000]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let decide = |key: &mut Key| {
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: 100 };
        let number = Number { incarnation: INCARNATION, sequence: key.next };
        key.next += 1;
        key.call(|state, now, rules| state.decide(now, rules, &reserve, || Ok(number))).expect("no request id").is_ok()
    };
    let first = key.admit(&asked);
    assert!((0..100).any(|_| !decide(&mut key)), "full");
    key.settle(&first, 0).expect("live");
    assert!(decide(&mut key.clone()), "room for one");
    // Nobody calls for 12 s; the answers that were to be short have not settled.
    key.now += 12_000;
    assert!(!decide(&mut key));
}

#[test]
fn streams_that_end_before_anybody_looks_leave_nothing_behind() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 1_000_000));
    let asked = request(1, 1, 10);
    for _ in 0..1_000 {
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: 100 };
        let number = Number { incarnation: INCARNATION, sequence: key.next };
        key.next += 1;
        let allowed = key.call(|state, now, rules| state.decide(now, rules, &reserve, || Ok(number)));
        let allowed = allowed.expect("no request id").expect("room");
        let ticket = Ticket { number, admitted_at: allowed.admitted_at, ttl: asked.ttl, reserved: allowed.reserved };
        key.settle(&ticket, 1).expect("live");
        key.now += 600;
    }
    assert_eq!(key.state.live.len(), 0);
    assert!(key.state.cohorts.len() <= 100 && key.state.looks.len() <= 100, "{:?}", key.state.cohorts.len());
}

#[test]
fn an_answer_that_says_what_is_left_has_looked_at_silent_streams() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 2_000]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    for _ in 0..9 {
        key.admit(&asked);
    }
    key.now += 12_000;
    let answer = key.ask(&asked);
    assert!(answer.outcome.is_ok());
    assert_eq!(answer.windows.generated.remaining_tokens, key.windows().generated.remaining_tokens);
}

#[test]
fn a_stream_that_falls_silent_after_a_report_is_believed_to_be_a_long_one() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 2_000]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    let streams: Vec<_> = (0..10).map(|_| key.admit(&asked)).collect();
    key.now += 1_000;
    for stream in &streams {
        key.progress(stream, 40).expect("live");
    }
    let room = |key: &mut Key| 36_000 - key.windows().generated.remaining_tokens;
    let at_first = room(&mut key);
    key.now += 11_000;
    let later = room(&mut key);
    assert!(later > at_first * 6 / 5, "{at_first}, then {later}");
}

#[test]
fn whoever_is_admitted_late_in_a_cohort_is_held_in_full_until_its_own_expected_end() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 100]);
    let asked = Request { max_generated_tokens: None, ..request(1, 1, 0) };
    for late in (0..500).step_by(100) {
        key.admit(&asked);
        let (held, first) = (key.state.held_tokens(), key.now);
        key.now = first + 499 - late;
        let last = key.admit(&asked);
        let duration = crate::forecast::duration(last.reserved.generated, key.state.figures.micros_per_token());
        key.now += u64::try_from(duration.as_millis()).expect("short");
        assert_eq!(key.windows().generated.held_tokens, held + last.reserved.generated);
        key.now = first + 300_000;
        assert_eq!(key.windows().generated.held_tokens, 0);
        key.now += late + 100;
    }
}

#[test]
fn a_silent_stream_is_not_believed_to_exceed_its_declared_maximum() {
    let mut key = Key::new(Tokens::new(1_000_000, 1_000_000, 36_000));
    teach(&mut key, [100, 2_000]);
    let declared = Request { max_generated_tokens: Some(150), ..request(1, 1, 0) };
    for _ in 0..100 {
        key.admit(&declared);
    }
    for _ in 0..10 {
        key.now += 3_000;
        assert!(key.windows().generated.remaining_tokens >= 36_000 - 100 * 150);
    }
}

/// The fullest instant, found by looking at all of them.
pub(super) fn peak(state: &KeyState, forecast: &ForecastDefaults) -> u64 {
    let mut peak = state.generated.sum();
    state.coming_minute(|stretch| {
        for (_, charged, expected) in stretch.instants() {
            let margin = forecast.margin(expected.tokens, expected.variance);
            peak = peak.max(charged.saturating_add(expected.tokens).saturating_add(margin));
        }
        true
    });
    peak.min(state.generated.sum().saturating_add(state.holds.most()))
}
