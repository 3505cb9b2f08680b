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
        figures.on_settled(&Sample { used, duration: Some(Duration::from_secs(10)) });
    }
    figures
}

const WIDE: Tokens = Tokens::new(u64::MAX, u64::MAX, u64::MAX);

#[test]
fn a_key_that_always_does_the_same_is_forecast_exactly() {
    let figures = learned(64, 400).or(&Figures::from_defaults(&ForecastDefaults::default()));
    assert_eq!(figures.ask(&request(1_000, None, None), &WIDE), Tokens::new(1_000, 250, 400));
    assert_eq!(figures.variance(400, 0, None), 0);
    assert_eq!(figures.duration(400, 0, Duration::ZERO), Duration::from_secs(10));
}

#[test]
fn a_new_key_falls_back_and_leaves_the_fallback_behind_as_it_settles() {
    let fallback = Figures::from_defaults(&ForecastDefaults::default());
    let forecast = |samples| learned(samples, 1_000).or(&fallback).generated_tokens();
    assert_eq!(forecast(0), 256);
    assert!((256..1_000).contains(&forecast(4)));
    assert!(forecast(4) < forecast(16));
    assert_eq!(forecast(TRUSTED), 1_000);
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
fn the_margin_covers_the_sum_and_never_more_than_is_held() {
    let defaults = ForecastDefaults::default();
    assert_eq!(margin(&defaults, 0, 1_000), 0);
    assert_eq!(margin(&defaults, 10_000, 1_000), 232);
    assert_eq!(margin(&defaults, 10_000, 100), 100);
    assert_eq!(margin(&defaults, u128::MAX, u64::MAX), u64::MAX);
}

#[test]
fn hostile_counts_saturate() {
    let mut figures = Figures::default();
    for generated in [0, crate::MAX_TOKENS, 0, crate::MAX_TOKENS] {
        let used = Tokens::new(crate::MAX_TOKENS, crate::MAX_TOKENS, generated);
        figures.on_settled(&Sample { used, duration: Some(Duration::MAX) });
    }
    let ask = figures.ask(&request(crate::MAX_TOKENS, None, None), &WIDE);
    assert!(ask.generated <= crate::MAX_TOKENS);
    assert!(figures.duration(u64::MAX, 0, Duration::ZERO) <= LONGEST);
}
