//! The rows of the specification, end to end over gRPC: A1 to A10.
//!
//! A4, A7 and A8 take minutes to hours and run on the test clock, A10 on both; the others run against the binary as it is released.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::{
    Account, Decision, DenyReason, ExplainLimitRequest, ExplainLimitResponse, ModelBounds, Pressure,
    ReportPressureRequest, Tier, UpdateAccountRequest, Window,
};
use tidegate_tests::gateway::{Answer, Ask, Gateway, bounds};
use tidegate_tests::page::Page;
use tidegate_tests::server::Setup;

const MINUTE: Duration = Duration::from_secs(60);
const FLOORS: [u64; 3] = [3_600_000, 900_000, 36_000];

/// Asks for the account's whole limits in all three windows and settles the ask in full: a minute's worth of use.
async fn use_whole_limits(gateway: &Gateway, ask: &Ask) -> [u64; 3] {
    let limits = gateway.windows(ask).await.limits();
    let answer = gateway.allow(&ask.clone().tokens(limits[0], limits[1], limits[2])).await;
    gateway.settle_as_admitted(&answer.reservation_id, limits[2]).await;
    limits
}

#[tokio::test]
async fn a1_three_windows_are_checked_and_charged_together_or_not_at_all() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000, 500, 100]).await;
    let ask = Ask::of("acme");

    let answer = gateway.allow(&ask.clone().tokens(600, 100, 0)).await;
    let used = [Window::Prompt, Window::UncachedPrompt, Window::Generated].map(|w| answer.window(w).used_tokens);
    assert_eq!(used, [600, 100, 0], "cached prompt tokens count in one of the two prompt windows");
    assert_eq!(answer.reserved.map(|tokens| (tokens.prompt, tokens.uncached_prompt)), Some((600, 100)));

    for (tokens, binding) in [
        ((401, 1, 0), vec![Window::Prompt]),
        ((400, 400, 0), vec![]),
        ((1, 1, 0), vec![Window::Prompt, Window::UncachedPrompt]),
    ] {
        let answer = gateway.ask(&ask.clone().tokens(tokens.0, tokens.1, tokens.2)).await.expect("decided");
        assert_eq!(answer.binding(), binding, "{tokens:?}");
        assert_eq!(answer.allowed(), binding.is_empty(), "{tokens:?}");
    }
    let full = gateway.windows(&ask).await;
    assert_eq!(full.used(), [1_000, 500, 0], "what was denied was charged in no window");

    // The generated window alone stands in the way of an account whose prompt windows are empty.
    gateway.fix("chatty", [1_000_000, 1_000_000, 100]).await;
    let chatty = Ask::of("chatty");
    let first = gateway.allow(&chatty.clone().tokens(10, 10, 100)).await;
    gateway.settle_as_admitted(&first.reservation_id, 100).await;
    let denied = gateway.deny(&chatty.clone().tokens(10, 10, 100)).await;
    assert_eq!(denied.binding(), [Window::Generated]);
    assert_eq!(gateway.windows(&chatty).await.used(), [10, 10, 100]);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a2_an_account_that_nobody_configured_starts_at_the_built_in_floors() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("new");
    let windows = gateway.windows(&ask).await;
    assert_eq!(windows.limits(), FLOORS);
    assert_eq!([windows.prompt(), windows.uncached(), windows.generated()].map(|status| status.floor_tpm), FLOORS);

    gateway.allow(&ask.clone().tokens(3_600_000, 900_000, 0)).await;
    let denied = gateway.deny(&ask.clone().tokens(1, 1, 0)).await;
    assert_eq!((denied.decision(), denied.reason()), (Decision::RateLimited, DenyReason::WindowFull));
    assert_eq!(denied.http_status, 429);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a3_a_burst_passes_as_long_as_the_minute_fits() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("bursty").tokens(36_000, 9_000, 0);
    // 100 requests as fast as they go: the whole minute's tokens at once, 60 times what the same rate is in a second.
    for _ in 0..100 {
        gateway.allow(&ask).await;
    }
    let denied = gateway.deny(&ask).await;
    assert_eq!(denied.reason(), DenyReason::WindowFull);
    let verdict = gateway.verdict();
    verdict.assert_clean();
    assert_eq!(verdict.fullest_permille[..2], [1000, 1000]);
}

#[tokio::test]
async fn a4_limits_grow_with_use_and_shrink_without() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.account("growing", "enterprise").await;
    let ask = Ask::of("growing");

    // Profile `default` doubles in ten minutes of full use: 24 of 240 steps an octave at the close of each minute.
    for minute in 0..=40_i32 {
        let limits = use_whole_limits(&gateway, &ask).await;
        for (limit, floor) in limits.into_iter().zip(FLOORS) {
            let grown = 2_f64.powf(f64::from(minute) / 10.0);
            let share = f64_of(limit) / f64_of(floor) / grown;
            assert!((0.99..=1.003).contains(&share), "minute {minute}: {limit} is not {grown:.2} x {floor}");
        }
        if minute == 20 {
            // Traffic that ramps up faster than the limits grow is denied.
            let denied = gateway.deny(&ask.clone().tokens(limits[0], limits[1], 0)).await;
            assert_eq!((denied.http_status, denied.reason()), (429, DenyReason::WindowFull));
        }
        gateway.advance(MINUTE);
    }
    let peak = gateway.windows(&ask).await.limits();

    // Unused, they are held for a while, then halve every hour, down to the floor and never below.
    gateway.advance(40 * MINUTE);
    assert_eq!(gateway.windows(&ask).await.limits(), peak, "held for more than 40 minutes");
    gateway.advance(160 * MINUTE);
    let falling = gateway.windows(&ask).await.limits();
    gateway.advance(60 * MINUTE);
    for (after, before) in gateway.windows(&ask).await.limits().into_iter().zip(falling) {
        assert!((498..=502).contains(&(after * 1000 / before)), "half, an hour later: {after} of {before}");
    }
    gateway.advance(24 * 60 * MINUTE);
    assert_eq!(gateway.windows(&ask).await.limits(), FLOORS);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a4_the_published_profile_follows_the_published_ramp() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let ceilings = FLOORS.map(|floor| floor * 50);
    let bounds = Some(bounds(FLOORS, ceilings));
    let tier = Tier { name: "ramp".into(), bounds, law_profile: "published".into(), ..Tier::default() };
    gateway.tier("ramping", tier).await;
    let ask = Ask::of("ramping");
    for minute in 0..=120 {
        let limits = use_whole_limits(&gateway, &ask).await;
        let least = match minute {
            10 => 199,
            60 => 1_200,
            120 => 2_400,
            _ => 100,
        };
        for (limit, floor) in limits.into_iter().zip(FLOORS) {
            assert!(limit * 100 >= floor * least, "minute {minute}: {limit} is less than {least} % of {floor}");
        }
        gateway.advance(MINUTE);
    }
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a5_tiers_bound_the_limits_and_a_change_of_tier_acts_on_the_next_decision() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    for (tier, times) in [("tier-1", 3), ("tier-2", 6), ("tier-3", 12), ("tier-4", 18), ("enterprise", 50)] {
        let account = format!("{tier} account");
        gateway.account(&account, tier).await;
        let windows = gateway.windows(&Ask::of(&account)).await;
        for (status, floor) in [windows.prompt(), windows.uncached(), windows.generated()].into_iter().zip(FLOORS) {
            assert_eq!((status.floor_tpm, status.ceiling_tpm), (floor, floor * times), "{tier}");
        }
    }

    let move_to = async |tier: &str| {
        let account = Account { name: "tier-1 account".into(), tier: tier.into(), ..Account::default() };
        let request = UpdateAccountRequest { account: Some(account), ..UpdateAccountRequest::default() };
        gateway.admin().update_account(gateway.call(request)).await.expect("the account is updated");
    };
    let large = Ask::of("tier-1 account").tokens(20_000_000, 1, 0);
    assert_eq!(gateway.deny(&large).await.reason(), DenyReason::NeverFits, "above 3 x 3.6M");
    move_to("enterprise").await;
    assert_eq!(gateway.deny(&large).await.reason(), DenyReason::ExceedsCurrentLimit, "within 50 x 3.6M");
    move_to("tier-1").await;
    assert_eq!(gateway.deny(&large).await.reason(), DenyReason::NeverFits);

    // A tier's bounds on one (model, variant) differ from its bounds elsewhere.
    let small =
        ModelBounds { model: "large".into(), variant: "turbo".into(), bounds: Some(bounds([9, 8, 7], [90, 80, 70])) };
    let tier = Tier { name: "per model".into(), models: vec![small], ..Tier::default() };
    gateway.tier("modelled", tier).await;
    let ask = Ask::of("modelled");
    assert_eq!(gateway.windows(&ask.clone().on("large", "turbo")).await.limits(), [9, 8, 7]);
    assert_eq!(gateway.windows(&ask.clone().on("large", "")).await.limits(), FLOORS);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a6_every_answer_carries_the_limits_in_tokens_per_second() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("reader");
    let headers = |limit: [&str; 3], remaining: [&str; 3]| {
        let of = |kind: &str, values: [&str; 3]| {
            let names = ["prompt", "cache-adjusted-prompt", "generated"];
            let pair = |(name, value): (&str, &str)| (format!("x-ratelimit-{kind}-tokens-{name}"), value.to_owned());
            names.into_iter().zip(values).map(pair).collect::<Vec<_>>()
        };
        [of("limit", limit), of("remaining", remaining)].concat()
    };
    let allowed = gateway.allow(&ask.clone().tokens(1_200_000, 300_000, 0)).await;
    for (name, value) in headers(["60000", "15000", "600"], ["40000", "10000", "600"]) {
        assert_eq!(allowed.header(&name), Some(value.as_str()), "{name}");
    }
    assert_eq!(allowed.header("x-ratelimit-over-limit"), Some("no"));
    assert_eq!(allowed.http_status, 200);

    let denied = gateway.deny(&ask.clone().tokens(3_000_000, 300_000, 0)).await;
    for (name, value) in headers(["60000", "15000", "600"], ["40000", "10000", "600"]) {
        assert_eq!(denied.header(&name), Some(value.as_str()), "{name}");
    }
    assert_eq!(denied.header("x-ratelimit-over-limit"), Some("yes"));
    for answer in [&allowed, &denied] {
        assert!(answer.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=3600000")), "{answer:?}");
        assert!(answer.header("ratelimit").is_some_and(|left| left.contains("r=2400000")), "{answer:?}");
        assert!(answer.headers.iter().all(|header| header.name == header.name.to_lowercase()));
    }

    let server = Setup::release().config("[headers]\nunit = \"tpm\"\n").start();
    let gateway = Gateway::of(&server).await;
    let allowed = gateway.allow(&ask.clone().tokens(1_200_000, 300_000, 0)).await;
    for (name, value) in headers(["3600000", "900000", "36000"], ["2400000", "600000", "36000"]) {
        assert_eq!(allowed.header(&name), Some(value.as_str()), "{name}");
    }
}

/// Says that the deployment of the asks' model is so busy, in all windows.
async fn report_pressure(gateway: &Gateway, permille: u32) {
    let pressure = Pressure { model: "m".into(), pressure_permille: permille, ..Pressure::default() };
    let report = ReportPressureRequest { reporter: "gateway".into(), reports: vec![pressure], ttl: None };
    gateway.raw().report_pressure(gateway.call(report)).await.expect("it is taken");
}

/// All that the server says of the key's limits.
async fn explain(gateway: &Gateway, ask: &Ask) -> ExplainLimitResponse {
    let request = ExplainLimitRequest { key: Some(ask.key()), ..ExplainLimitRequest::default() };
    gateway.admin().explain_limit(gateway.call(request)).await.expect("it is explained").into_inner()
}

#[tokio::test]
async fn a7_a_busy_model_answers_503_within_the_limit_and_429_above_it() {
    const TICK: Duration = Duration::from_secs(10);
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let (within, above) = (Ask::of("within"), Ask::of("above"));
    for account in ["within", "above"] {
        gateway.account(account, "enterprise").await;
    }
    for _ in 0..20 {
        for ask in [&within, &above] {
            use_whole_limits(&gateway, ask).await;
        }
        gateway.advance(MINUTE);
    }
    for _ in 0..24 {
        report_pressure(&gateway, 1_050).await;
        for ask in [&within, &above] {
            let windows = gateway.windows(ask).await;
            let part = (windows.prompt().limit_tpm / 6).min(windows.prompt().remaining_tokens);
            if part > 0 {
                let answer = gateway.allow(&ask.clone().tokens(part, 0, 0)).await;
                gateway.settle_as_admitted(&answer.reservation_id, 0).await;
            }
        }
        gateway.advance(TICK);
    }
    report_pressure(&gateway, 1_050).await;

    // In the same instant.
    let windows = gateway.windows(&within).await;
    let status = windows.prompt();
    assert!(
        status.floor_tpm <= status.effective_limit_tpm && status.effective_limit_tpm < status.limit_tpm,
        "{status:?}"
    );
    let own = status.limit_tpm - status.used_tokens;
    let law = explain(&gateway, &within).await;
    let denied = gateway.deny(&within.clone().tokens(own, 0, 0)).await;
    assert_eq!((denied.http_status, denied.reason()), (503, DenyReason::Squeezed));
    assert_eq!(denied.header("x-ratelimit-over-limit"), Some("no"));
    assert_eq!(denied.header("x-should-retry"), Some("true"));
    let limit = (status.limit_tpm / 60).to_string();
    assert_eq!(denied.header("x-ratelimit-limit-tokens-prompt"), Some(limit.as_str()), "the published limit");
    let wait = denied.wait().expect("a busy model says how long to wait");
    assert!((1..=30).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(explain(&gateway, &within).await, law, "a 503 leaves the law as it was");
    let windows = gateway.windows(&above).await;
    let more = windows.prompt().limit_tpm - windows.prompt().used_tokens + 1;
    let denied = gateway.deny(&above.clone().tokens(more, 0, 0)).await;
    assert_eq!((denied.http_status, denied.reason()), (429, DenyReason::WindowFull));
    assert_eq!(denied.header("x-ratelimit-over-limit"), Some("yes"));
    let page = Page::scrape(server.http());
    let counted = |decision| page.sum("tidegate_decisions_total", &[("decision", decision)]).to_string();
    assert_eq!(["overloaded", "rate_limited"].map(counted), ["1", "1"], "counted apart");

    // What the floor guarantees is not squeezed, and Priority is not.
    gateway.allow(&Ask::of("new").tokens(FLOORS[0], 0, 0)).await;
    gateway.allow(&within.clone().priority().tokens(own, 0, 0)).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a8_priority_is_shed_after_standard() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("acme").tokens(1_000, 1_000, 0);
    let mut shed = 0;
    for _ in 0..60 {
        report_pressure(&gateway, 1_600).await;
        let answer = gateway.ask(&ask).await.expect("decided");
        if !answer.allowed() {
            assert_eq!((answer.http_status, answer.reason()), (503, DenyReason::Shed));
            shed += 1;
        }
        gateway.allow(&ask.clone().priority()).await;
        gateway.advance(Duration::from_secs(10));
    }
    assert!(shed > 30, "{shed}");
    for _ in 0..18 {
        report_pressure(&gateway, 300).await;
        gateway.advance(Duration::from_secs(10));
    }
    gateway.allow(&ask).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a9_accounts_models_and_variants_have_limits_of_their_own_and_priority_has_not() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100, 100, 100]).await;
    gateway.fix("other", [100, 100, 100]).await;
    let ask = Ask::of("acme").tokens(100, 100, 0);
    gateway.allow(&ask).await;
    gateway.allow(&ask.clone().on("m", "turbo")).await;
    gateway.allow(&ask.clone().on("n", "")).await;
    gateway.allow(&Ask::of("other").tokens(100, 100, 0)).await;
    for full in [&ask, &ask.clone().on("m", "turbo"), &ask.clone().on("n", "")] {
        gateway.deny(full).await;
        gateway.deny(&full.clone().priority()).await;
    }
    // And the other way round: what priority used is not left for standard.
    gateway.fix("third", [100, 100, 100]).await;
    let third = Ask::of("third").tokens(100, 100, 0);
    gateway.allow(&third.clone().priority()).await;
    gateway.deny(&third).await;
    gateway.verdict().assert_clean();
}

/// Fills the prompt windows in two steps, `apart` apart as the caller makes it, and gives the wait that a third ask gets.
async fn denied_wait(gateway: &Gateway, ask: &Ask) -> Duration {
    let denied = gateway.deny(ask).await;
    assert_eq!(denied.reason(), DenyReason::WindowFull);
    let wait = denied.wait().expect("a full window says how long to wait");
    assert!(wait <= MINUTE, "{wait:?}");
    let milliseconds = wait.as_nanos().div_ceil(1_000_000).to_string();
    let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1).to_string();
    assert_eq!(denied.header("retry-after-ms"), Some(milliseconds.as_str()));
    assert_eq!(denied.header("retry-after"), Some(seconds.as_str()));
    assert_eq!(denied.header("x-should-retry"), Some("true"));
    wait
}

#[tokio::test]
async fn a10_a_client_that_waits_as_told_is_admitted() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("patient", [100, 100, 100]).await;
    let ask = Ask::of("patient").tokens(60, 60, 0);
    gateway.allow(&ask).await;
    let wait = denied_wait(&gateway, &ask).await;
    assert!(wait > Duration::from_secs(55), "{wait:?}");
    // A second earlier it is not.
    tokio::time::sleep(wait - Duration::from_secs(1)).await;
    let rest = denied_wait(&gateway, &ask).await;
    tokio::time::sleep(rest).await;
    gateway.allow(&ask).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a10_the_wait_is_exact_on_the_test_clock() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    for (step, (first, second, asked)) in
        [(60, 40, 10), (60, 40, 60), (60, 40, 61), (1, 99, 2), (100, 0, 100)].into_iter().enumerate()
    {
        let account = format!("patient {step}");
        gateway.fix(&account, [100, 100, 100]).await;
        let of = |tokens| Ask::of(&account).tokens(tokens, tokens, 0);
        gateway.allow(&of(first)).await;
        gateway.advance(Duration::from_millis(12_345));
        if second > 0 {
            gateway.allow(&of(second)).await;
        }
        gateway.advance(Duration::from_millis(4_321));
        let wait = denied_wait(&gateway, &of(asked)).await;
        gateway.advance(wait - Duration::from_secs(1));
        denied_wait(&gateway, &of(asked)).await;
        gateway.advance(Duration::from_secs(1));
        gateway.allow(&of(asked)).await;
        gateway.advance(MINUTE);
    }
    gateway.verdict().assert_clean();
}

#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
fn f64_of(tokens: u64) -> f64 {
    tokens as f64
}
