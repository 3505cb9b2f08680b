//! What a busy deployment does to those who call, in their words.

use super::*;
use crate::headers::{HeaderUnit, render};
use crate::law::level;
use crate::pressure::Signal;

const FLOOR: Tokens = Tokens::new(1_000, 1_000, 1_000);
const CEILING: Tokens = Tokens::new(50_000, 50_000, 50_000);

/// A key whose limits have grown to 10,000.
fn grown() -> Key {
    let mut key = Key::between(FLOOR, CEILING);
    for window in Window::ALL {
        key.state.law.boost(window, 10_000, &key.bounds[window]);
    }
    key
}

/// Pressure on the prompt window, and the level it squeezes to.
fn on_prompt(permille: u32, water_level_tpm: Option<u64>) -> PerWindow<Reading> {
    let prompt = Reading::new(Signal::Live(permille), water_level_tpm.map(level::of_tokens));
    PerWindow { prompt, ..PerWindow::default() }
}

/// Pressure on the prompt window that has stayed.
fn shedding_prompt(permille: u32) -> PerWindow<Reading> {
    PerWindow { prompt: Reading::shedding(permille), ..PerWindow::default() }
}

fn prompt(tokens: u64) -> Request<'static> {
    request(tokens, tokens, 0)
}

fn priority(tokens: u64) -> Request<'static> {
    Request { service_tier: ServiceTier::Priority, ..prompt(tokens) }
}

fn header(answer: &Answer, name: &str) -> Option<std::string::String> {
    let mut found = None;
    render(answer, HeaderUnit::TokensPerMinute, |known, value| {
        if known == name {
            found = Some(std::string::String::from(value));
        }
    });
    found
}

/// A7: in the same second, on the same busy deployment.
#[test]
fn within_the_limit_it_is_503_and_above_the_limit_429() {
    let (mut within, mut above) = (grown(), grown());
    for key in [&mut within, &mut above] {
        key.admit(&prompt(4_000));
        key.pressure = on_prompt(1_050, Some(5_000));
    }
    let law = within.state.law;
    let answer = within.ask(&prompt(2_000));
    assert_eq!(denial(&answer), Some(Denial::Squeezed));
    assert!(answer.windows.prompt.binding && !answer.windows.generated.binding);
    assert_eq!(header(&answer, "x-ratelimit-over-limit").as_deref(), Some("no"));
    assert_eq!(header(&answer, "x-should-retry").as_deref(), Some("true"));
    assert_eq!(within.state.law, law, "a 503 sets no mark");

    let answer = above.ask(&prompt(7_000));
    assert_eq!(denial(&answer), Some(Denial::WindowFull), "429 wins where both apply");
    assert_eq!(header(&answer, "x-ratelimit-over-limit").as_deref(), Some("yes"));
    assert!(above.state.law.windows.prompt.den);
    let answer = above.ask(&prompt(20_000));
    assert_eq!(denial(&answer), Some(Denial::ExceedsCurrentLimit), "by the limit, not by what is left of it");
    assert_eq!(denial(&above.ask(&prompt(60_000))), Some(Denial::NeverFits));
}

#[test]
fn a_503_charges_nothing_and_tells_the_limit_and_what_is_left_of_the_effective_one() {
    let mut key = grown();
    key.admit(&prompt(4_000));
    key.pressure = on_prompt(1_050, Some(5_000));
    let before = key.windows();
    let answer = key.ask(&prompt(2_000));
    assert_eq!(denial(&answer), Some(Denial::Squeezed));
    let after = key.windows();
    for (window, status) in after.iter() {
        assert_eq!(status, &before[window]);
    }
    let status = answer.windows.prompt;
    let limit = level::tokens(level::of_tokens(10_000) + 1);
    assert_eq!(status.limit_tpm, limit);
    assert_eq!(status.effective_limit_tpm, level::tokens(level::of_tokens(5_000)));
    assert_eq!(status.remaining_tokens, status.effective_limit_tpm - 4_000);
    assert_eq!(header(&answer, "x-ratelimit-limit-tokens-prompt"), Some(std::format!("{limit}")));
    let left = std::format!("{}", status.remaining_tokens);
    assert_eq!(header(&answer, "x-ratelimit-remaining-tokens-prompt"), Some(left));
    // What is said to be left is what is admitted.
    key.admit(&prompt(status.remaining_tokens));
    assert_eq!(denial(&key.ask(&prompt(1))), Some(Denial::Squeezed));
}

#[test]
fn an_account_within_its_floor_is_not_squeezed() {
    let mut key = grown();
    key.pressure = on_prompt(5_000, Some(1));
    assert_eq!(key.windows().prompt.effective_limit_tpm, 1_000);
    key.admit(&prompt(1_000));
    assert_eq!(denial(&key.ask(&prompt(1))), Some(Denial::Squeezed));
}

/// A8: the service tier counts in squeeze and shed, and in nothing else.
#[test]
fn priority_is_not_squeezed_and_is_shed_after_standard() {
    let mut key = grown();
    key.admit(&prompt(4_000));
    key.pressure = on_prompt(1_050, Some(5_000));
    assert_eq!(denial(&key.ask(&prompt(2_000))), Some(Denial::Squeezed));
    let answer = key.ask(&priority(2_000));
    assert_eq!(denial(&answer), None);
    assert_eq!(answer.windows.prompt.effective_limit_tpm, answer.windows.prompt.limit_tpm);
    assert_eq!(denial(&key.ask(&priority(5_000))), Some(Denial::WindowFull), "the windows are shared");

    for permille in (1_000..3_000).step_by(10) {
        key.pressure = shedding_prompt(permille);
        let before = key.state.clone();
        let standard = denial(&key.ask(&prompt(1)));
        key.state = before.clone();
        let first = denial(&key.ask(&priority(1)));
        key.state = before;
        assert!(first.is_none() || standard == Some(Denial::Shed), "{permille}");
        assert_eq!(standard.is_some(), permille > 1_170, "six floors in use: {permille}");
        assert_eq!(first.is_some(), permille > 2_080, "{permille}");
    }
}

#[test]
fn what_is_shed_changes_nothing_and_accounts_far_above_their_floor_go_first() {
    let (mut far, mut near) = (grown(), grown());
    far.admit(&prompt(8_000));
    near.admit(&prompt(900));
    for key in [&mut far, &mut near] {
        key.pressure = shedding_prompt(1_200);
    }
    let (law, before) = (far.state.law, far.windows());
    let answer = far.ask(&prompt(50));
    assert_eq!(denial(&answer), Some(Denial::Shed));
    assert!(answer.windows.prompt.binding && !answer.windows.uncached_prompt.binding);
    assert_eq!((far.state.law, far.windows()), (law, before));
    near.admit(&prompt(50));
}

#[test]
fn where_the_deployment_is_busy_the_wait_is_1_to_30_seconds_longer_with_pressure_and_spread() {
    let waits = |permille: u32| -> Vec<u128> {
        let mut key = grown();
        key.admit(&prompt(4_000));
        let wait = |call: u64| {
            key.now = call;
            key.pressure = on_prompt(permille, Some(4_000));
            key.ask(&prompt(2_000)).outcome.expect_err("squeezed").retry_after.expect("a wait").as_millis()
        };
        (1..1_000).map(wait).collect()
    };
    let range = |waits: &[u128]| (*waits.iter().min().expect("some"), *waits.iter().max().expect("some"));
    for (permille, from, to) in
        [(900, 1_000, 3_000), (1_225, 5_500, 16_500), (1_500, 10_000, 30_000), (9_999, 10_000, 30_000)]
    {
        let waits = waits(permille);
        let (least, most) = range(&waits);
        assert!(from <= least && most <= to, "{permille}: {least} to {most} ms");
        assert!(most - least > (to - from) * 9 / 10, "spread: {permille}: {least} to {most} ms");
    }
    let mut key = grown();
    key.admit(&prompt(4_000));
    key.pressure = on_prompt(1_500, Some(4_000));
    let mut ask = |id| key.ask(&Request { request_id: Some(id), ..prompt(2_000) }).outcome.expect_err("squeezed");
    assert_ne!(ask("a").retry_after, ask("b").retry_after, "two calls at one instant");
}

#[test]
fn a_forecast_alone_denies_nothing_under_a_squeeze_either() {
    let mut key = grown();
    key.forecast.generated_tokens = 100_000;
    key.fallback = Prior::from_defaults(&key.forecast);
    let generated = Reading::new(Signal::Live(1_050), Some(level::of_tokens(2_000)));
    key.pressure = PerWindow { generated, ..PerWindow::default() };
    let undeclared = Request { max_generated_tokens: None, ..prompt(1) };
    let answer = key.ask(&undeclared);
    let reserved = answer.outcome.expect("an idle window").reserved;
    assert_eq!(reserved.generated, answer.windows.generated.effective_limit_tpm);
    assert!(reserved.generated <= 2_000);
}

/// Each minute the account settles as much as its limit; how far has the limit come after ten minutes?
fn ten_minutes(pressure: PerWindow<Reading>) -> u64 {
    let mut key = grown();
    key.pressure = pressure;
    for minute in 0..10 {
        key.now = minute * 60_000;
        let most = key.windows().prompt.remaining_tokens;
        let ticket = key.admit(&prompt(most));
        key.settle(&ticket, 0).expect("live");
    }
    key.now = 600_000;
    key.windows().prompt.limit_tpm
}

#[test]
fn a_busy_or_silent_deployment_stops_growth() {
    let from = grown().windows().prompt.limit_tpm;
    let free = ten_minutes(PerWindow::default());
    assert!(free > from * 19 / 10, "x2 in ten minutes: {free}");
    assert_eq!(ten_minutes(on_prompt(700, None)), free, "up to 700 nothing is braked");
    let slow = ten_minutes(on_prompt(775, None));
    assert!(from < slow && slow < free * 8 / 10, "half way to 850, about half as fast: {slow}");
    assert_eq!(ten_minutes(on_prompt(850, None)), from);
    let stale = Reading::new(Signal::Stale, None);
    let stale = ten_minutes(PerWindow { prompt: stale, ..PerWindow::default() });
    assert_eq!(stale, from, "reports that ended freeze the limit");
}

#[test]
fn a_squeeze_cuts_no_published_limit_and_its_end_gives_everything_back() {
    let mut key = grown();
    let before = key.windows();
    key.pressure = on_prompt(1_050, Some(2_000));
    assert_eq!(key.windows().prompt.limit_tpm, before.prompt.limit_tpm);
    assert_eq!(denial(&key.ask(&prompt(5_000))), Some(Denial::Squeezed));
    key.pressure = on_prompt(400, None);
    key.admit(&prompt(5_000));
}

proptest! {
    /// C1 under a squeeze that comes and goes: an ALLOW fits what is enforced at its instant, which is between floor and limit;
    /// what is said to be left is admitted, and one token more is not.
    #[test]
    fn no_allow_exceeds_the_effective_limit(
        steps in prop::collection::vec((0_u64..8_000, 1_u64..3_000, prop::option::of(1_u64..20_000), any::<bool>()), 1..80),
    ) {
        let mut key = grown();
        for (wait, tokens, cap, first) in steps {
            key.now += wait;
            key.pressure = on_prompt(1_000, cap);
            let before = key.windows().prompt;
            let asked = if first { priority(tokens) } else { prompt(tokens) };
            let answer = key.ask(&asked);
            let status = answer.windows.prompt;
            prop_assert!(status.floor_tpm <= status.effective_limit_tpm && status.effective_limit_tpm <= status.limit_tpm);
            if answer.outcome.is_ok() {
                prop_assert!(status.used_tokens <= status.effective_limit_tpm);
                let ticket = ticket(&answer, &asked);
                key.settle(&ticket, 0).expect("live");
            } else if !first {
                prop_assert!(tokens > before.remaining_tokens);
                let own = before.limit_tpm.saturating_sub(before.used_tokens);
                let expected = if tokens > own { Denial::WindowFull } else { Denial::Squeezed };
                prop_assert_eq!(denial(&answer), Some(expected));
            }
        }
    }
}
