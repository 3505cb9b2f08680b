//! Explanations, and the revisions of boosts.

use super::*;

fn asking(account: &str) -> v1::ExplainLimitRequest {
    let key = v1::LimitKey { account: account.into(), model: "m".into(), variant: String::new() };
    v1::ExplainLimitRequest { key: Some(key), ..Default::default() }
}

async fn explained(admin: &Admin<MemoryStore>, request: v1::ExplainLimitRequest) -> v1::ExplainLimitResponse {
    good(admin.explain_limit(Request::new(request)).await)
}

fn origin(source: v1::BoundSource, name: &str, stated_tpm: u64) -> v1::BoundOrigin {
    v1::BoundOrigin { source: source.into(), name: name.into(), stated_tpm, ..Default::default() }
}

#[tokio::test]
async fn bounds_say_where_they_came_from_before_any_traffic() {
    let admin = admin();
    let nobody = refusal(admin.explain_limit(Request::new(asking("acme"))).await);
    assert_eq!(nobody, is(Code::NotFound, error::LIMIT_KEY_NOT_FOUND));
    good(admin.create_tier(Request::new(v1::CreateTierRequest { tier: Some(tier("gold")), options: None })).await);
    good(admin.create_account(Request::new(account("acme", "gold"))).await);
    let said = explained(&admin, asking("acme")).await;
    assert_eq!((said.known, said.tier.as_str(), said.windows.len()), (false, "gold", 3));
    assert!(said.sentences[0].contains("No traffic yet"), "{:?}", said.sentences);
    let gold = |stated| Some(origin(v1::BoundSource::Tier, "gold", stated));
    assert_eq!((&said.windows[0].floor_origin, &said.windows[0].ceiling_origin), (&gold(10), &gold(20)));
    assert_eq!(said.windows[0].motion(), v1::LimitMotion::Idle);
    assert_eq!(admin.store.stats().keys, 0, "explaining creates no key");

    // An override with an end whose floor is above the tier's ceiling.
    let end = prost_types::Timestamp { seconds: admin.clock.now().as_seconds().cast_signed() + 60, nanos: 0 };
    let floor = Some(v1::Bounds { floor_tpm: Some(3_000), ceiling_tpm: None });
    let mut launch = exception("launch", "acme");
    launch.r#override = launch.r#override.map(|entry| v1::Override {
        bounds: Some(v1::WindowBounds { prompt: floor, ..Default::default() }),
        expire_time: Some(end),
        reason: "a launch".into(),
        ..entry
    });
    good(admin.create_override(Request::new(launch)).await);
    let said = explained(&admin, v1::ExplainLimitRequest { window: v1::Window::Prompt.into(), ..asking("acme") }).await;
    let [window] = &said.windows[..] else { panic!("one window was asked for: {said:?}") };
    let from = v1::BoundOrigin {
        expire_time: Some(end),
        reason: "a launch".into(),
        ..origin(v1::BoundSource::AccountOverride, "launch", 3_000)
    };
    assert_eq!(window.floor_origin.as_ref(), Some(&from));
    let clash = v1::BoundOrigin { source: v1::BoundSource::Floor.into(), stated_tpm: 20, ..from };
    assert_eq!(window.ceiling_origin.as_ref(), Some(&clash));
    assert!(window.sentences[1].contains("3,000 exceeds the ceiling of 20 that tier gold states"), "{window:?}");
    let next = window.next_change_after.expect("always there").seconds;
    assert!((0..=60).contains(&next), "{next}");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let admin = admin();
    let invalid = is(Code::InvalidArgument, error::INVALID_FIELD);
    let send = async |request| refusal(admin.explain_limit(Request::new(request)).await);
    assert_eq!(send(v1::ExplainLimitRequest::default()).await, invalid);
    assert_eq!(send(v1::ExplainLimitRequest { window: 99, ..asking("a") }).await, invalid);
    for target in [0, (1 << 40) + 1] {
        assert_eq!(send(v1::ExplainLimitRequest { target_tpm: Some(target), ..asking("a") }).await, invalid);
    }
}

#[tokio::test]
async fn a_boost_of_a_stale_revision_is_refused_and_changes_nothing() {
    let admin = admin();
    let now = admin.clock.now().as_seconds().cast_signed();
    let boost = |prompt, expected_revision| v1::BoostRequest {
        scope: Some(v1::Scope { account: "acme".into(), ..Default::default() }),
        limit_tpm: Some(v1::Tokens { prompt, ..Default::default() }),
        expire_time: Some(prost_types::Timestamp { seconds: now + 600, nanos: 0 }),
        options: Some(v1::WriteOptions { expected_revision, ..Default::default() }),
    };
    let send = |request| admin.boost(Request::new(request));
    let stale = is(Code::Aborted, error::STALE_REVISION);
    assert_eq!(refusal(send(boost(7_200_000, Some(1))).await), stale, "there is none");
    let first = good(send(boost(7_200_000, Some(0))).await).boosted.expect("always there").revision;
    let second = good(send(boost(8_000_000, Some(first))).await).boosted.expect("always there").revision;
    assert!(second > first);

    let (policy, log) = (admin.store.policy(), v1::ListChangesRequest::default());
    let logged = good(admin.list_changes(Request::new(log.clone())).await);
    for revision in [0, first, second + 1] {
        assert_eq!(refusal(send(boost(9_000_000, Some(revision))).await), stale, "{revision}");
    }
    assert_eq!((admin.store.policy(), good(admin.list_changes(Request::new(log)).await)), (policy, logged));

    // Who looks at the limits sees the boost: a key without traffic, and one with.
    let said = explained(&admin, asking("acme")).await;
    assert_eq!((said.boosts.len(), said.boosts[0].revision), (1, second));
    assert_eq!((said.boosts[0].windows.len(), said.boosts[0].windows[0].limit_tpm), (1, 8_000_000));
    assert_eq!(said.windows[0].motion(), v1::LimitMotion::Boosted);
    steering::make_known(&admin, "acme", 1).await;
    let page = good(admin.list_limits(Request::new(v1::ListLimitsRequest::default())).await);
    assert_eq!(page.limits[0].boosts, said.boosts);
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_is_said_not_to_be() {
    let admin = admin();
    steering::make_known(&admin, "acme", 1).await;
    let says = async || explained(&admin, asking("acme")).await.sentences.iter().any(|said| said.contains("shadow"));
    assert!(!says().await);
    let shadow = v1::UpdateEnforcementRequest { enforcement: v1::Enforcement::Shadow.into(), ..Default::default() };
    good(admin.update_enforcement(Request::new(shadow)).await);
    assert!(says().await);
}
