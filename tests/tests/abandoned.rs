//! Nobody locks a customer out: not a gateway that died, nor strangers by their number.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_proto::v1::{Decision, DenyReason, SettleOutcome};
use tidegate_tests::gateway::{Answer, Ask, Failure, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::server::Setup;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_thousand_abandoned_reservations_lock_nobody_out() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("crashed", [1_000_000, 1_000_000, 10_000]).await;
    let ask = Ask::of("crashed").tokens(10, 10, 10).ttl(10 * MINUTE);
    let mut ids = Vec::new();
    for _ in 0..1_000 {
        ids.push(gateway.allow(&ask).await.reservation_id);
    }
    let full = gateway.windows(&ask).await;
    assert!(full.generated().held_tokens > 0, "{full:?}");
    let large = Ask::of("crashed").tokens(10, 10, 10_000);

    // No call about the account from anyone until then: the holds fade by themselves. Each stream was expected to take less
    // than a second or so; they are gone a minute after their expected end, and in any case twice their expected duration.
    let other = Ask::of("somebody else");
    for _ in 0..100 {
        gateway.advance(SECOND);
        gateway.allow(&other).await;
    }
    let page = Page::scrape(server.http());
    assert!(
        page.sum("tidegate_held_tokens", &[("window", "generated")]) < 1_000.0,
        "held tokens return without a call"
    );
    let windows = gateway.windows(&large).await;
    assert_eq!((windows.generated().held_tokens, windows.generated().remaining_tokens), (0, 10_000), "{windows:?}");
    gateway.allow(&large).await;

    // And once their TTL is over the reservations are gone too; what they used can still be settled.
    let page = Page::scrape(server.http());
    assert!(page.sum("tidegate_reservations", &[]) >= 1_000.0);
    gateway.advance(10 * MINUTE);
    gateway.allow(&other).await;
    let page = Page::scrape(server.http());
    assert!(page.sum("tidegate_reservations_ended_total", &[("how", "expired")]) >= 1_000.0, "expired without a call");
    let late = gateway.settle(&ids[0], None, None, Some(7)).await.expect("it is remembered");
    assert_eq!(late.outcome(), SettleOutcome::Late);
    let again = gateway.settle(&ids[0], None, None, Some(7)).await.expect("it is remembered");
    assert_eq!(again.outcome(), SettleOutcome::Duplicate);
    gateway.advance(16 * MINUTE);
    let failure = Failure::of(&gateway.settle(&ids[1], None, None, Some(7)).await.expect_err("it is forgotten"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        (tonic::Code::FailedPrecondition, "SETTLEMENT_TOO_LATE"),
        "{failure:?}"
    );
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn progress_keeps_a_reservation_alive() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let id = gateway.allow(&Ask::of("slow").tokens(10, 10, 1_000).ttl(MINUTE)).await.reservation_id;
    for report in 1..=10 {
        gateway.advance(45 * SECOND);
        gateway.progress(&id, 10 * report).await.expect("it is live");
    }
    gateway.advance(61 * SECOND);
    let failure = Failure::of(&gateway.progress(&id, 200).await.expect_err("it has expired"));
    assert_eq!(failure.reason, "RESERVATION_ENDED", "{failure:?}");
}

#[tokio::test]
async fn invented_accounts_do_not_crowd_out_a_configured_one() {
    let config = "[bounds]\nkeys = 100\n";
    let server = Setup::release().config(config).start();
    let gateway = Gateway::of(&server).await;
    gateway.account("customer", "tier-1").await;
    let (mut admitted, mut refused) = (0, 0);
    for stranger in 0..300 {
        let answer = gateway.ask(&Ask::of(&format!("invented {stranger}"))).await.expect("decided");
        if answer.allowed() {
            admitted += 1;
        } else {
            refused += 1;
            assert_eq!((answer.decision(), answer.reason()), (Decision::Overloaded, DenyReason::Capacity));
            assert_eq!(answer.http_status, 503);
            assert!(answer.wait().is_some_and(|wait| (SECOND..=5 * SECOND).contains(&wait)), "{answer:?}");
            assert_eq!(answer.header("x-should-retry"), Some("true"));
        }
    }
    assert_eq!((admitted, refused), (50, 250), "strangers take at most half of the table");
    for model in 0..50 {
        gateway.allow(&Ask::of("customer").on(&format!("model {model}"), "")).await;
    }
    let page = Page::scrape(server.http());
    assert!(page.sum("tidegate_bound_reached_total", &[]) >= 250.0, "reaching a bound is visible");
    assert!((page.sum("tidegate_keys", &[]) - 100.0).abs() < 0.5, "{}", page.text);

    // The other half is full now, with keys that are in use: a new key is refused, the known ones are served.
    let answer = gateway.deny(&Ask::of("customer").on("one more", "")).await;
    assert_eq!(answer.reason(), DenyReason::Capacity);
    gateway.allow(&Ask::of("customer").on("model 7", "")).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn idle_keys_make_room_and_used_ones_do_not() {
    let server = Setup::test_clock().config("[bounds]\nkeys = 100\n").start();
    let gateway = Gateway::of(&server).await;
    for stranger in 0..50 {
        let id = gateway.allow(&Ask::of(&format!("invented {stranger}"))).await.reservation_id;
        gateway.settle_as_admitted(&id, 0).await;
    }
    assert_eq!(gateway.deny(&Ask::of("too early")).await.reason(), DenyReason::Capacity);
    gateway.advance(61 * SECOND);
    for stranger in 0..50 {
        gateway.allow(&Ask::of(&format!("another {stranger}"))).await;
    }
    let page = Page::scrape(server.http());
    assert!(page.sum("tidegate_keys_evicted_total", &[]) >= 50.0);
    gateway.verdict().assert_clean();
}
