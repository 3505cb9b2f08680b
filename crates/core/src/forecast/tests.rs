use proptest::prelude::*;

use super::*;
use crate::decision::ServiceTier;
use crate::key::KeyRef;

fn request(prompt: u64, cached: Option<u64>, declared: Option<u64>) -> Request<'static> {
    Request {
        key: KeyRef::new("a", "m", "").expect("well formed"),
        prompt_tokens: prompt,
        cached_prompt_tokens: cached,
        max_generated_tokens: declared,
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    }
}

fn learned(samples: u32, generated: u64) -> Figures {
    let mut figures = Figures::default();
    for _ in 0..samples {
        let used = Tokens::new(1_000, 250, generated);
        figures.on_settled(&Sample { used, micros_per_token: pace_shown(Duration::from_secs(10), generated, true) });
    }
    figures
}

const WIDE: Tokens = Tokens::new(u64::MAX, u64::MAX, u64::MAX);

#[test]
fn a_model_takes_what_is_said() {
    assert_eq!(size_of::<Model>(), 272);
}

#[test]
fn a_key_that_always_does_the_same_is_forecast_exactly() {
    let figures = learned(64, 400).or(&Figures::from_defaults(&ForecastDefaults::default()));
    assert_eq!(figures.ask(&request(1_000, None, None), &WIDE), Tokens::new(1_000, 250, 400));
    assert_eq!(figures.micros_per_token(), 25_000);
    assert_eq!(duration(400, figures.micros_per_token()), Duration::from_secs(10));
}

#[test]
fn a_new_key_falls_back_and_leaves_the_fallback_behind_as_it_settles() {
    let fallback = Figures::from_defaults(&ForecastDefaults::default());
    let forecast = |samples| learned(samples, 1_000).or(&fallback).typical_generated();
    assert_eq!(forecast(0), 256);
    assert!((256..1_000).contains(&forecast(4)));
    assert!(forecast(4) < forecast(16));
    assert_eq!(forecast(TRUSTED), 1_000);
}

#[test]
fn a_rare_long_answer_hardly_makes_a_typical_one_longer() {
    let mut figures = learned(64, 100);
    figures.on_settled(&Sample { used: Tokens::new(1, 1, 25_600), micros_per_token: None });
    let typical = figures.typical_generated();
    assert!((101..120).contains(&typical), "{typical}; the mean is 498");
}

proptest! {
    /// A typical answer is no longer than the mean, and as long as all of them where they are all as long.
    #[test]
    fn a_typical_answer_is_at_most_the_mean(lengths in prop::collection::vec(0_u64..100_000, 1..64), same in 0_u64..=crate::MAX_TOKENS) {
        let mut figures = Figures::default();
        for &generated in &lengths {
            figures.on_settled(&Sample { used: Tokens::new(1, 1, generated), micros_per_token: None });
        }
        let (typical, count) = (figures.typical_generated(), lengths.len() as u64);
        let mean = lengths.iter().sum::<u64>().div_ceil(count);
        // Each step of the running mean rounds up by less than 2^-16 of an octave.
        prop_assert!(typical <= mean + mean / 500 + 1, "{typical} > {mean}");
        prop_assert!(typical >= *lengths.iter().min().expect("one at least"));
        // 16 digits of an octave.
        let typical = learned(64, same).typical_generated();
        prop_assert!(typical.abs_diff(same) <= same >> 15, "{typical} is not {same}");
    }
}

#[test]
fn a_declared_maximum_and_the_limit_cap_the_forecast() {
    let figures = learned(64, 400);
    assert_eq!(figures.ask(&request(1, None, Some(16)), &WIDE).generated, 16);
    let small = Tokens::new(1_000, 100, 50);
    assert_eq!(figures.ask(&request(1_000, None, None), &small), Tokens::new(1_000, 100, 50));
}

#[test]
fn a_stated_cached_count_is_no_forecast() {
    assert_eq!(learned(64, 1).ask(&request(1_000, Some(990), None), &Tokens::new(9, 9, 9)).uncached_prompt, 10);
}

#[test]
fn short_answers_do_not_slow_the_usual_pace() {
    let mut figures = Figures::default();
    for step in 0..512_u64 {
        // Half a second until the first token, then 40 a second; every other answer is a single token.
        let generated = if step % 2 == 0 { 1 } else { 400 };
        let micros_per_token = pace_shown(Duration::from_millis(500 + 25 * generated), generated, true);
        figures.on_settled(&Sample { used: Tokens::new(1, 1, generated), micros_per_token });
    }
    assert!((26_000..27_000).contains(&figures.micros_per_token()), "{}", figures.micros_per_token());
    // A running stream does not wait for its first token.
    assert_eq!(pace_shown(Duration::from_secs(1), 40, false), Some(25_000));
    assert_eq!(pace_shown(Duration::from_secs(1), 3, false), None);
    assert_eq!(pace_shown(Duration::from_millis(1), 40, false), None, "two reports that were sent together");
}

#[test]
fn the_margin_is_sigmas_of_the_sum_and_drift_beside_it() {
    let defaults = ForecastDefaults::default();
    assert_eq!(defaults.margin(0, 0), 0);
    assert_eq!(defaults.margin(0, 10_000), 258);
    // 2.5 % of 4,000 is as much as the deviation.
    assert_eq!(defaults.margin(4_000, 10_000), 365);
    assert!(defaults.margin(1 << 50, u64::MAX) > 1 << 45);
}

#[test]
fn the_guard_leaves_room_for_twice_the_limit_and_once_for_a_key_that_is_watched() {
    let defaults = ForecastDefaults::default();
    assert_eq!(defaults.most_reach(36_000, false), 72_000);
    assert_eq!(defaults.most_reach(36_000, true), 36_000);
    let off = ForecastDefaults { guard_permille: 0, ..defaults };
    assert_eq!(off.most_reach(1, true), u64::MAX);
}

proptest! {
    /// The cheap question and the exact margin never disagree.
    #[test]
    fn a_sum_fits_exactly_where_its_margin_does(
        sum in 0_u64..1 << 41, tokens in 0_u64..1 << 41, variance in any::<u64>(), most in 0_u64..1 << 42, sigmas in 0_u32..=10_000,
    ) {
        let defaults = ForecastDefaults { margin_sigmas_permille: sigmas, ..ForecastDefaults::default() };
        let fits = sum.saturating_add(defaults.margin(tokens, variance)) <= most;
        prop_assert_eq!(defaults.fits(sum, tokens, variance, most), fits);
    }
}

#[test]
fn hostile_counts_saturate() {
    let mut figures = Figures::default();
    for generated in [0, crate::MAX_TOKENS, 0, crate::MAX_TOKENS] {
        let used = Tokens::new(crate::MAX_TOKENS, crate::MAX_TOKENS, generated);
        figures.on_settled(&Sample { used, micros_per_token: pace_shown(Duration::MAX, generated, true) });
    }
    let ask = figures.ask(&request(crate::MAX_TOKENS, None, None), &WIDE);
    assert!(ask.generated <= crate::MAX_TOKENS);
    assert!(duration(u64::MAX, figures.micros_per_token()) <= LONGEST);
}
