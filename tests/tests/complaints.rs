//! What users of other limiters complain about, each as a test that keeps it from happening here: D1 to D6, D8 to D10, D13,
//! D15, D16.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::{
    CheckAndReserveRequest, Decision, DenyReason, SettleOutcome, Tier, UpdateTierRequest, Window,
};
use tidegate_tests::gateway::{Answer, Ask, Gateway, bounds};
use tidegate_tests::server::Setup;
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Asks for everything in `asks` at the same time: how many were allowed, and the ids of their reservations.
async fn ask_all(gateway: &Gateway, asks: Vec<Ask>) -> Vec<String> {
    let mut calls = JoinSet::new();
    for ask in asks {
        let gateway = gateway.clone();
        calls.spawn(async move { gateway.ask(&ask).await.expect("decided") });
    }
    let answers = calls.join_all().await;
    answers.into_iter().filter(Answer::allowed).map(|answer| answer.reservation_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_concurrent_requests_cannot_all_pass() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    for round in 0..5 {
        let account = format!("rush {round}");
        gateway.fix(&account, [1_000, 1_000, 1_000]).await;
        let asks = vec![Ask::of(&account).tokens(100, 100, 0); 64];
        assert_eq!(ask_all(&gateway, asks).await.len(), 10, "of 64 requests at once, ten fit");
        // Of the generated window too: what is expected to be generated is set aside before anything is.
        let account = format!("chatty rush {round}");
        gateway.fix(&account, [1_000_000, 1_000_000, 1_000]).await;
        let asks = vec![Ask::of(&account).tokens(1, 1, 300); 64];
        let allowed = ask_all(&gateway, asks).await;
        assert!((1..=10).contains(&allowed.len()), "{} streams of about 300 tokens in 1,000", allowed.len());
    }
    gateway.verdict().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_reserve_and_settle_together_never_admit_too_much() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("churn", [10_000, 10_000, 10_000]).await;
    let mut tasks = JoinSet::new();
    for task in 0..32_u64 {
        let gateway = gateway.reconnected(&server).await;
        tasks.spawn(async move {
            for round in 0..40 {
                let prompt = 1 + (task * 97 + round * 31) % 700;
                let answer = gateway.ask(&Ask::of("churn").tokens(prompt, prompt / 2, 50)).await.expect("decided");
                if !answer.allowed() {
                    continue;
                }
                let id = &answer.reservation_id;
                match (task + round) % 3 {
                    // Far less was used than was asked for: the rest is free again at once, and not twice.
                    0 => assert!(gateway.settle(id, Some(prompt / 10), Some(0), Some(3)).await.is_ok()),
                    1 => assert!(gateway.release(id).await.is_ok()),
                    _ => {}
                }
            }
        });
    }
    tasks.join_all().await;
    let verdict = gateway.verdict();
    verdict.assert_clean();
    assert!(verdict.fullest_permille[0] > 900, "the window was full: {verdict:?}");
}

#[tokio::test]
async fn d3_every_window_has_a_cost_of_its_own() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("mixed", [1_000, 200, 50]).await;
    let ask = Ask::of("mixed").tokens(900, 20, 30);
    let answer = gateway.allow(&ask).await;
    let reserved = answer.reserved.expect("an ALLOW says what it reserved");
    assert_eq!((reserved.prompt, reserved.uncached_prompt), (900, 20));
    assert!(reserved.generated <= 30);
    gateway.settle_as_admitted(&answer.reservation_id, 25).await;
    assert_eq!(gateway.windows(&ask).await.used(), [900, 20, 25]);
    // A large prompt does not use up the output, nor the output the prompt.
    gateway.allow(&Ask::of("mixed").tokens(100, 100, 0)).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d4_a_denied_request_uses_no_quota_in_any_window() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000, 500, 100]).await;
    let ask = Ask::of("acme");
    gateway.allow(&ask.clone().tokens(500, 400, 0)).await;
    let before = gateway.windows(&ask).await;
    for denied in [
        ask.clone().tokens(501, 1, 0),   // the prompt window alone is in the way
        ask.clone().tokens(101, 101, 0), // the uncached one alone
        ask.clone().tokens(1_001, 1, 0), // never fits
    ] {
        for _ in 0..10 {
            gateway.deny(&denied).await;
        }
        assert_eq!(gateway.windows(&ask).await, before);
    }
    // What was left before all those denials is left now.
    gateway.allow(&ask.clone().tokens(500, 100, 0)).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d5_cached_prompt_tokens_do_not_count_as_fresh_ones() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("cacher", [10_000, 100, 1_000]).await;
    let ask = Ask::of("cacher").tokens(1_000, 10, 0);
    for _ in 0..10 {
        gateway.allow(&ask).await;
    }
    let denied = gateway.deny(&ask).await;
    assert_eq!(denied.binding(), [Window::Prompt, Window::UncachedPrompt]);
    assert_eq!(gateway.windows(&ask).await.used(), [10_000, 100, 0]);

    // A cache hit that is known only afterwards is given back at settlement.
    gateway.fix("hindsight", [10_000, 100, 1_000]).await;
    let ask = Ask::of("hindsight").tokens(100, 100, 0);
    let answer = gateway.allow(&ask).await;
    gateway.settle(&answer.reservation_id, None, Some(90), None).await.expect("it is live");
    assert_eq!(gateway.windows(&ask).await.used(), [100, 10, 0]);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d6_a_forecast_alone_never_denies_on_an_idle_window() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("small", [10, 10, 5]).await;
    // Nothing declared, or far more than the limit: the first request passes all the same.
    for most_generated in [None, Some(4_096), Some(1_000_000)] {
        let mut ask = Ask::of("small").on(&format!("{most_generated:?}"), "").tokens(10, 10, 0);
        ask.request.max_generated_tokens = most_generated;
        ask.request.cached_prompt_tokens = None;
        let answer = gateway.allow(&ask).await;
        let reserved = answer.reserved.expect("an ALLOW says what it reserved");
        assert!(reserved.generated <= 5, "held {} in a limit of 5", reserved.generated);
    }
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d8_holds_of_lost_streams_fade_and_expire() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("lost", [1_000_000, 1_000_000, 1_000]).await;
    let ask = Ask::of("lost").tokens(10, 10, 1_000).ttl(10 * MINUTE);
    let mut lost = 0;
    while gateway.ask(&ask).await.expect("decided").allowed() {
        lost += 1;
    }
    assert!(lost > 0);
    let full = gateway.windows(&ask).await;
    assert!(full.generated().held_tokens > 0 && full.generated().remaining_tokens < 1_000, "{full:?}");
    // A hold is gone after its expected duration and twice that, or a minute if that is longer: at 1,000 tokens in far
    // less than the TTL of ten minutes.
    gateway.advance(5 * MINUTE);
    let windows = gateway.windows(&ask).await;
    assert_eq!(windows.generated().held_tokens, 0, "{windows:?}");
    assert_eq!(windows.generated().remaining_tokens, 1_000);
    gateway.verdict().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d8_a_retried_settlement_charges_once() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("retrier", [10_000, 10_000, 10_000]).await;
    let ask = Ask::of("retrier").tokens(1_000, 1_000, 500);
    let id = gateway.allow(&ask).await.reservation_id;
    let mut calls = JoinSet::new();
    for attempt in 0..50 {
        let (gateway, id) = (gateway.clone(), id.clone());
        // The first wins; the others differ, and change nothing.
        calls.spawn(async move {
            gateway.settle(&id, Some(1_000 + attempt), Some(0), Some(500)).await.expect("settled").outcome()
        });
    }
    let outcomes = calls.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == SettleOutcome::Applied).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == SettleOutcome::Duplicate).count(), 49);
    let used = gateway.windows(&ask).await.used();
    assert!((1_000..1_050).contains(&used[0]) && used[1] == used[0] && used[2] == 500, "{used:?}");
    assert_eq!(gateway.release(&id).await.expect("known").outcome(), SettleOutcome::Duplicate);
    assert_eq!(gateway.windows(&ask).await.used(), used);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d9_a_limit_changed_in_mid_window_acts_at_once() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("edited", [1_000, 1_000, 1_000]).await;
    let ask = Ask::of("edited");
    let set = async |limit: u64| {
        let bounds = Some(bounds([limit; 3], [limit; 3]));
        let tier = Tier { name: "tier of edited".into(), bounds, ..Tier::default() };
        let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
        gateway.admin().update_tier(gateway.call(request)).await.expect("the tier is updated");
    };
    gateway.allow(&ask.clone().tokens(1_000, 1_000, 0)).await;
    gateway.deny(&ask.clone().tokens(500, 500, 0)).await;
    set(1_500).await;
    gateway.allow(&ask.clone().tokens(500, 500, 0)).await;
    set(700).await;
    let denied = gateway.deny(&ask.clone().tokens(1, 1, 0)).await;
    let status = denied.window(Window::Prompt);
    assert_eq!((status.limit_tpm, status.used_tokens, status.remaining_tokens), (700, 1_500, 0), "never negative");
    set(1).await;
    gateway.deny(&ask).await;
    set(1 << 40).await;
    gateway.allow(&ask.clone().tokens(1 << 39, 1 << 39, 0)).await;
    gateway.verdict().assert_clean();
}

/// Two replicas after each other, as a rolling restart has it: stopped, and killed.
#[tokio::test]
async fn d10_a_restart_hands_out_no_fresh_budget() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data").display().to_string();
    let start = || Setup::release().arguments(["--data-dir", data.as_str()]).start();
    let mut server = start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("roller", [1_000, 1_000, 1_000]).await;
    let ask = |prompt| Ask::of("roller").tokens(prompt, prompt, 10);
    let live = gateway.allow(&ask(800)).await.reservation_id;
    for kill in [false, true] {
        if kill {
            // What is a second old is on the disk.
            tokio::time::sleep(SECOND).await;
            drop(server);
        } else {
            server.terminate();
            assert!(server.wait().is_some_and(|status| status.success()), "{}", server.output());
        }
        server = start();
        let gateway = gateway.reconnected(&server).await;
        assert_eq!(gateway.deny(&ask(201)).await.reason(), DenyReason::WindowFull);
        let windows = gateway.windows(&ask(1)).await;
        assert_eq!((windows.prompt().used_tokens, windows.prompt().limit_tpm), (800, 1_000));
    }
    let gateway = gateway.reconnected(&server).await;
    gateway.settle_as_admitted(&live, 7).await;
    let again = gateway.settle(&live, None, None, Some(7)).await.expect("answered");
    assert_eq!(again.outcome(), SettleOutcome::Duplicate);
    gateway.allow(&ask(200)).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d13_a_denial_carries_the_headers_and_an_honest_wait() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.bound("acme", [6_000, 6_000, 6_000], [60_000, 60_000, 60_000]).await;
    let ask = Ask::of("acme");
    gateway.allow(&ask.clone().tokens(5_400, 5_400, 0)).await;
    gateway.advance(15 * SECOND);

    let full = gateway.deny(&ask.clone().tokens(601, 601, 0)).await;
    assert_eq!((full.http_status, full.reason()), (429, DenyReason::WindowFull));
    assert_eq!(full.header("retry-after"), Some("45"));
    assert_eq!(full.header("retry-after-ms"), Some("45000"));
    assert_eq!(full.header("x-should-retry"), Some("true"));
    assert_eq!(full.header("x-ratelimit-remaining-tokens-prompt"), Some("10"), "600 TPM left, not the whole limit");
    assert_eq!(full.header("x-ratelimit-remaining-tokens-generated"), Some("100"));
    assert_eq!(full.header("x-ratelimit-over-limit"), Some("yes"));

    let large = gateway.deny(&ask.clone().tokens(6_001, 1, 0)).await;
    assert_eq!((large.http_status, large.reason()), (429, DenyReason::ExceedsCurrentLimit));
    assert_eq!(large.header("x-should-retry"), Some("false"));
    assert!(large.wait().is_some_and(|wait| wait <= MINUTE), "until the law's minute closes: {large:?}");

    let never = gateway.deny(&ask.clone().tokens(60_001, 1, 0)).await;
    assert_eq!((never.http_status, never.reason()), (429, DenyReason::NeverFits));
    assert_eq!(never.header("x-should-retry"), Some("false"));
    assert_eq!((never.wait(), never.header("retry-after"), never.header("retry-after-ms")), (None, None, None));

    for answer in [&full, &large, &never] {
        for name in ["prompt", "cache-adjusted-prompt", "generated"] {
            assert_eq!(answer.header(&format!("x-ratelimit-limit-tokens-{name}")), Some("100"));
            assert!(answer.header(&format!("x-ratelimit-remaining-tokens-{name}")).is_some());
        }
        assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some());
        assert_eq!(answer.decision(), Decision::RateLimited);
    }
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d15_limits_have_a_ceiling_and_neither_jump_nor_ratchet() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.bound("greedy", [1_000; 3], [3_000; 3]).await;
    let ask = Ask::of("greedy");

    // Denials without use raise nothing.
    for _ in 0..60 {
        for _ in 0..20 {
            gateway.deny(&ask.clone().tokens(1_001, 1, 0)).await;
        }
        gateway.advance(MINUTE);
    }
    assert_eq!(gateway.windows(&ask).await.limits(), [1_000; 3]);

    // Use beyond all measure raises them to the ceiling and no further, one step a minute.
    let mut before = [1_000; 3];
    for _ in 0..120 {
        let limits = gateway.windows(&ask).await.limits();
        for (limit, before) in limits.into_iter().zip(before) {
            assert!(limit <= 3_000 && limit * 1000 <= before * 1_080, "{before} to {limit} in a minute");
        }
        before = limits;
        let answer = gateway.allow(&ask.clone().tokens(limits[0], limits[1], limits[2])).await;
        gateway.settle_as_admitted(&answer.reservation_id, 1_000_000).await;
        gateway.advance(2 * MINUTE);
    }
    assert_eq!(gateway.windows(&ask).await.limits(), [3_000; 3]);

    // Idling lowers them to the floor. It does not fill anything up.
    let mut before = [3_000; 3];
    for _ in 0..48 {
        gateway.advance(30 * MINUTE);
        let limits = gateway.windows(&ask).await.limits();
        assert!(
            limits.iter().zip(before).all(|(limit, before)| *limit <= before),
            "{before:?} to {limits:?} when idle"
        );
        before = limits;
    }
    assert_eq!(before, [1_000; 3]);
    gateway.deny(&ask.clone().tokens(1_001, 1, 0)).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn d16_the_worst_minute_admits_the_limit_and_not_twice_it() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("saver", [1_000, 1_000, 1_000]).await;
    let ask = |tokens| Ask::of("saver").tokens(tokens, tokens, 0);
    // A bucket that was full after a long idle time, and refills while it is emptied, would admit 2,000 in this minute.
    gateway.advance(60 * MINUTE);
    gateway.allow(&ask(1_000)).await;
    let mut admitted = 0;
    for _ in 0..119 {
        gateway.advance(SECOND / 2);
        admitted += u64::from(gateway.ask(&ask(10)).await.expect("decided").allowed());
    }
    assert_eq!(admitted, 0, "in the minute after the limit was used up");
    // From then on, steady asking gets the limit in every minute.
    let mut admitted = 0;
    for _ in 0..600 {
        gateway.advance(SECOND / 2);
        admitted += 10 * u64::from(gateway.ask(&ask(10)).await.expect("decided").allowed());
    }
    assert!((4_900..=5_000).contains(&admitted), "{admitted} in 5 minutes");
    let verdict = gateway.verdict();
    verdict.assert_clean();
    assert_eq!(verdict.fullest_permille[0], 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_id_with_a_hundred_asks_admits_one_of_them() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let mut calls = JoinSet::new();
    for prompt in 1..=100 {
        let gateway = gateway.clone();
        let ask = Ask::of("repeater").tokens(prompt, prompt, 0).id("0c8ef1a4-one-id");
        calls.spawn(async move { gateway.ask(&ask).await.map_err(|status| status.code()) });
    }
    let answers = calls.join_all().await;
    let allowed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(allowed.len(), 1);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|code| *code == tonic::Code::AlreadyExists));
    let windows = gateway.windows(&Ask::of("repeater")).await;
    let reserved = allowed[0].reserved.expect("an ALLOW says what it reserved");
    assert_eq!(windows.used(), [reserved.prompt, reserved.uncached_prompt, 0], "one of them was charged");

    // The same ask again is answered again, and charged no second time.
    let request = CheckAndReserveRequest { prompt_tokens: reserved.prompt, ..Ask::of("repeater").request };
    let again = Ask { request }.id("0c8ef1a4-one-id");
    let again = gateway.allow(&again).await;
    assert!(again.replayed);
    assert_eq!(again.reservation_id, allowed[0].reservation_id);
    assert_eq!(gateway.windows(&Ask::of("repeater")).await.used()[0], reserved.prompt);
    gateway.verdict().assert_clean();
}
