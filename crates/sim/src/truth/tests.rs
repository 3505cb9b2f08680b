use super::*;

fn request(at_ms: u64, generated_tokens: u64, duration_ms: u32) -> Arrival {
    Arrival {
        at_ms,
        key: 0,
        prompt_tokens: 10,
        uncached_prompt_tokens: 4,
        generated_tokens,
        duration_ms,
        max_generated_tokens: None,
    }
}

fn span(first_ms: u64, last_ms: u64) -> Span {
    Span { first_ms, last_ms, end_ms: last_ms }
}

const WIDE: Tokens = Tokens::new(1_000_000, 1_000_000, 1_000_000);

#[test]
fn a_window_holds_what_came_in_the_sixty_seconds_before() {
    let mut truth = Truth::new(&span(0, 100_000), WIDE, true);
    truth.admit(&request(1_000, 100, 10_500));
    truth.admit(&request(100_000, 0, 0));
    let (windows, held) = truth.finish();
    let held = held.expect("recorded");
    // 0.5 s without a token, then 10 a second.
    assert_eq!(
        [1, 2, 7, 12, 60, 61, 62, 70, 72].map(|second| held[second].generated),
        [0, 5, 55, 100, 100, 100, 95, 15, 0]
    );
    assert_eq!([1, 60, 61, 99, 100].map(|second| held[second].prompt), [10, 10, 0, 0, 10]);
    assert_eq!((windows.generated.peak, windows.uncached_prompt.peak), (100, 4));
}

#[test]
fn overshoot_is_what_is_above_the_limit_and_goodput_what_is_below() {
    // 100 tokens are in the window for 60 s; the limit is 80.
    let mut truth = Truth::new(&span(0, 4_000_000), Tokens::new(1_000, 1_000, 80), false);
    truth.admit(&request(0, 0, 0));
    truth.admit(&request(200_000, 100, 500));
    truth.admit(&request(4_000_000, 0, 0));
    let (windows, _) = truth.finish();
    assert_eq!(windows.generated.filled, 60 * 80);
    assert_eq!((windows.generated.max(), windows.generated.first), (0.25, 0.0));
    assert_eq!((windows.generated.seconds, windows.generated.samples), (4_001, 3_880));
    // 60 of 3,880 seconds are above the limit: more than 1 %.
    assert_eq!(windows.generated.p99(), 0.25);
    let rare = WindowTruth { samples: 6_100, ..windows.generated.clone() };
    assert_eq!(rare.p99(), 0.0);
}

#[test]
fn the_first_three_minutes_are_judged_apart() {
    let mut truth = Truth::new(&span(5_000, 300_000), Tokens::new(1_000, 1_000, 80), false);
    truth.admit(&request(5_000, 120, 500));
    truth.admit(&request(300_000, 88, 500));
    let (windows, _) = truth.finish();
    assert_eq!((windows.generated.first, windows.generated.max()), (0.5, 88.0 / 80.0 - 1.0));
}
