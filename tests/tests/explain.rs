//! Limits explained, end to end: through the API and as operators read them.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use serde_json::Value;
use tidegate_proto::v1::{ExplainLimitRequest, LimitExplanation, LimitMotion, Window};
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::server::{Build, Server, Setup};

const MINUTE: Duration = Duration::from_secs(60);

/// The generated window explained, and in how many minutes it is said to come to `target`.
async fn explain(gateway: &Gateway, ask: &Ask, target: u64) -> (LimitExplanation, Option<u64>) {
    let request =
        ExplainLimitRequest { key: Some(ask.key()), window: Window::Generated.into(), target_tpm: Some(target) };
    let answer = gateway.admin().explain_limit(gateway.call(request)).await.expect("it is explained").into_inner();
    let [window] = <[_; 1]>::try_from(answer.windows).expect("one window was asked for");
    let minutes = window.target_after.map(|after| u64::try_from(after.seconds).expect("not negative").div_ceil(60));
    (window, minutes)
}

/// One request that is settled as stated.
async fn spend(gateway: &Gateway, ask: &Ask, generated: u64) {
    let answer = gateway.allow(&ask.clone().tokens(1, 1, generated)).await;
    gateway.settle_as_admitted(&answer.reservation_id, generated).await;
}

const EXPLAIN_ACME: [&str; 7] = ["admin", "limits", "explain", "--account", "acme", "--model", "m"];

fn shown(server: &Server, arguments: &[&str]) -> String {
    let (exit, output, error) = server.run(Build::TestClock, &[&EXPLAIN_ACME[..], arguments].concat());
    assert_eq!(exit, Some(0), "{arguments:?}\n{output}{error}");
    output
}

#[tokio::test]
async fn a_limit_grows_when_and_as_far_as_its_explanation_says() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("acme");
    gateway.bound("acme", [36_000; 3], [100_000; 3]).await;
    let (idle, never) = explain(&gateway, &ask, 50_000).await;
    assert_eq!((idle.motion(), never), (LimitMotion::Idle, None));

    // 36,000 tokens in the minute: they recommend 54,000, as far as levels are exact (0.3 %), in steps of a tenth of a
    // doubling a minute.
    spend(&gateway, &ask, 36_000).await;
    let (grows, minutes) = explain(&gateway, &ask, 50_000).await;
    assert_eq!((grows.motion(), grows.settled_tokens), (LimitMotion::Grows, 36_000));
    assert!((53_850..=54_000).contains(&grows.recommended_tpm), "{}", grows.recommended_tpm);
    let minutes = minutes.expect("it is below what use recommends");
    assert_eq!(explain(&gateway, &ask, 60_000).await.1, None, "use of 36,000 carries no 60,000");
    let mut took = 0;
    let mut next = grows.next_limit_tpm;
    while gateway.windows(&ask).await.generated().limit_tpm < 50_000 {
        gateway.advance(MINUTE);
        took += 1;
        assert_eq!(gateway.windows(&ask).await.generated().limit_tpm, next, "minute {took}");
        spend(&gateway, &ask, 36_000).await;
        next = explain(&gateway, &ask, 50_000).await.0.next_limit_tpm;
        assert!(took < 30, "the ramp is a tenth of a doubling a minute");
    }
    assert_eq!(took, minutes);
    let (told, _) = explain(&gateway, &ask, 50_000).await;
    let first = told.steps.last().expect("it has grown");
    assert!(told.steps.iter().all(|step| step.reason == "grew by use"), "{:?}", told.steps);
    assert_eq!((told.steps.len() as u64, first.limit_before_tpm), (took, 36_000));
    let chained = told.steps.windows(2).all(|pair| pair[0].limit_before_tpm == pair[1].limit_after_tpm);
    assert!(chained, "{:?}", told.steps);

    // And down again: what holds it, then the fall.
    gateway.advance(2 * MINUTE);
    let (held, minutes) = explain(&gateway, &ask, 40_000).await;
    assert_eq!(held.motion(), LimitMotion::Idle);
    assert!(held.sentences.iter().any(|sentence| sentence.contains("Without use it stays")), "{:?}", held.sentences);
    let minutes = minutes.expect("it sinks for want of use");
    let mut took = 0;
    while gateway.windows(&ask).await.generated().limit_tpm > 40_000 {
        gateway.advance(MINUTE);
        took += 1;
        assert!(took < 300, "the reserve holds for 45 min, the fall takes less");
    }
    assert_eq!(took, minutes);
    assert_eq!(explain(&gateway, &ask, 1).await.0.steps[0].reason, "fell for want of use");
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn operators_read_it_as_a_table_as_sentences_and_as_json() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let (exit, _, error) =
        server.run(Build::TestClock, &["admin", "limits", "explain", "--account", "nobody", "--model", "m"]);
    assert_eq!(exit, Some(1), "{error}");
    assert!(error.contains("\"nobody/m\""), "{error}");
    gateway.bound("acme", [36_000; 3], [100_000; 3]).await;

    let text = shown(&server, &["--to", "50k"]);
    for expected in
        ["No traffic yet", "both from tier tier of acme", "uncached_prompt", "36,000", "100,000", "within a week"]
    {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    let ask = Ask::of("acme").on("m", "");
    spend(&gateway, &ask, 36_000).await;
    gateway.advance(MINUTE);
    spend(&gateway, &ask, 36_000).await;
    let text = shown(&server, &["--window", "generated"]);
    for expected in ["It grows to", "-> 38,5", "grew by use", "it is the fullest"] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    let json: Value = serde_json::from_str(&shown(&server, &["--variant", "", "--to", "50k", "--json"])).expect("JSON");
    let generated = &json["windows"][2];
    assert_eq!((&json["known"], &generated["motion"]), (&true.into(), &"grows".into()), "{json}");
    assert_eq!(generated["floor_origin"]["name"], "tier of acme");
    assert!(generated["target_after_ms"].as_u64().is_some_and(|ms| ms > 60_000), "{generated}");
    let (exit, ..) = server.run(Build::TestClock, &[&EXPLAIN_ACME[..], &["--window", "all"]].concat());
    assert_eq!(exit, Some(2));
    gateway.verdict().assert_clean();
}
