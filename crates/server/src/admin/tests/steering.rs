//! Dry runs, boosts, resets, demand at ceilings, and the log of it all.

use super::*;

#[tokio::test]
async fn every_write_is_in_the_audit_log_and_nothing_else() {
    let admin = admin();
    let options = Some(v1::WriteOptions { reason: "launch".into(), actor: "kim".into(), ..Default::default() });
    let mut create = Request::new(v1::CreateTierRequest { tier: Some(tier("gold")), options });
    create.extensions_mut().insert(Peer::Unix { uid: 7, pid: Some(9) });
    good(admin.create_tier(create).await);
    let update = || v1::UpdateTierRequest { tier: Some(tier("gold")), update_mask: None, options: expecting(1) };
    let mut request = Request::new(update());
    request.extensions_mut().insert(Peer::Tcp("10.0.0.1:99".parse().expect("an address")));
    good(admin.update_tier(request).await);
    refusal(admin.update_tier(Request::new(update())).await);
    good(admin.create_account(Request::new(account("acme", "gold"))).await);
    let delete = || Request::new(v1::DeleteTierRequest { name: "gold".into(), options: None });
    refusal(admin.delete_tier(delete()).await);
    let gone = v1::DeleteAccountRequest { name: "acme".into(), options: None };
    good(admin.delete_account(Request::new(gone)).await);
    good(admin.delete_tier(delete()).await);

    let mut rows = Vec::new();
    let mut request = v1::ListChangesRequest { page_size: 2, ..Default::default() };
    loop {
        let page = good(admin.list_changes(Request::new(request.clone())).await);
        assert_eq!(page.forgotten, 0);
        rows.extend(page.changes);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let seen: Vec<_> = rows.iter().map(|row| (row.sequence, row.rpc.as_str(), row.object.as_str())).collect();
    let expected = [
        (5, "DeleteTier", "tier/gold"),
        (4, "DeleteAccount", "account/acme"),
        (3, "CreateAccount", "account/acme"),
        (2, "UpdateTier", "tier/gold"),
        (1, "CreateTier", "tier/gold"),
    ];
    assert_eq!(seen, expected);
    let created = &rows[4];
    assert_eq!((created.reason.as_str(), created.unverified_actor.as_str()), ("launch", "kim"));
    assert_eq!((created.peer.as_str(), rows[3].peer.as_str()), ("uid 7 pid 9", "10.0.0.1:99"));
    assert_eq!((created.before_json.as_str(), rows[0].after_json.as_str()), ("", ""));
    assert_eq!(rows[3].before_json, created.after_json);
    assert!(rows[3].after_json.contains(r#""revision":"2""#), "{}", rows[3].after_json);

    let end_time = created.time;
    let none = v1::ListChangesRequest { end_time, ..Default::default() };
    assert_eq!(good(admin.list_changes(Request::new(none)).await).changes, [], "its end is exclusive");
    let all = v1::ListChangesRequest { start_time: end_time, page_size: 2, ..Default::default() };
    let page = good(admin.list_changes(Request::new(all)).await);
    assert_eq!(page.changes.len(), 2);
    let other = v1::ListChangesRequest { page_token: page.next_page_token, ..Default::default() };
    let refused = refusal(admin.list_changes(Request::new(other)).await);
    assert_eq!(refused, is(Code::InvalidArgument, error::INVALID_FIELD), "a token of other filters");
}

fn ask(account: &str, prompt_tokens: u64) -> Ask<'_> {
    Ask {
        key: KeyRef::new(account, "m", "").expect("well formed"),
        prompt_tokens,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(0),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    }
}

/// One request of the key (`account`, m), admitted, so that the server knows it.
pub(super) async fn make_known(admin: &Admin<MemoryStore>, account: &str, tokens: u64) {
    let reserved =
        admin.store.check_and_reserve(admin.clock.now(), &ask(account, tokens)).await.expect("no request id");
    reserved.answer.outcome.expect("it fits");
}

#[tokio::test]
async fn a_dry_run_answers_what_the_write_would_and_changes_nothing() {
    let admin = admin();
    good(admin.create_tier(Request::new(v1::CreateTierRequest { tier: Some(tier("gold")), options: None })).await);
    for name in ["acme", "other"] {
        good(admin.create_account(Request::new(account(name, "gold"))).await);
        make_known(&admin, name, 1).await;
    }
    make_known(&admin, "stranger", 1).await;
    let (policy, log) = (admin.store.policy(), v1::ListChangesRequest::default());
    let logged = good(admin.list_changes(Request::new(log.clone())).await);

    let update = |floor, ceiling, dry_run| v1::UpdateTierRequest {
        tier: Some(v1::Tier { bounds: bounds(floor, ceiling), ..tier("gold") }),
        update_mask: None,
        options: Some(v1::WriteOptions { dry_run, ..Default::default() }),
    };
    let invalid = refusal(admin.update_tier(Request::new(update(31, 30, true))).await);
    assert_eq!(invalid, is(Code::InvalidArgument, error::INVALID_FIELD));
    let dry = good(admin.update_tier(Request::new(update(15, 18, true))).await);
    assert_eq!(admin.store.policy(), policy, "nothing was written");
    assert_eq!(good(admin.list_changes(Request::new(log)).await), logged);

    let real = good(admin.update_tier(Request::new(update(15, 18, false))).await);
    assert_eq!(dry, real);
    assert_eq!(real.tier.map(|tier| tier.revision), Some(2));
    // The stranger has another tier; six windows of two accounts rise from 10 to 15.
    let effect = v1::WriteEffect { keys: 2, limits_raised: 6, gained_tpm: 30, ..Default::default() };
    assert_eq!(real.effect, Some(effect));
    assert_eq!(real.changes.len(), 6);
    let key = Some(v1::LimitKey { account: "acme".into(), model: "m".into(), variant: String::new() });
    let first = v1::LimitChange {
        key,
        window: v1::Window::Prompt.into(),
        limit_before_tpm: 10,
        limit_after_tpm: 15,
        floor_before_tpm: 10,
        floor_after_tpm: 15,
        ceiling_before_tpm: 20,
        ceiling_after_tpm: 18,
    };
    assert_eq!(real.changes[0], first);

    // A lower floor takes nothing away at once; a lower ceiling does.
    let released = good(admin.update_tier(Request::new(update(5, 18, true))).await).effect;
    let kept = v1::WriteEffect { keys: 2, limits_released: 6, ..Default::default() };
    assert_eq!(released, Some(kept));
    let clamped = good(admin.update_tier(Request::new(update(5, 11, false))).await).effect;
    assert_eq!(clamped.map(|effect| (effect.limits_lowered, effect.lost_tpm)), Some((6, 24)));
    let delete = v1::DeleteAccountRequest { name: "acme".into(), options: None };
    let effect = good(admin.delete_account(Request::new(delete)).await).effect.expect("always there");
    assert_eq!((effect.keys, effect.limits_raised), (1, 3), "it has the default tier's floors now");
}

#[tokio::test]
async fn whom_a_ceiling_holds_back_most_stands_first() {
    let admin = admin();
    for (name, denials) in [("a", 1), ("b", 3), ("c", 2), ("d", 0)] {
        // Its limit is at a ceiling above its floor: it came down there from a higher floor.
        let mut high = exception(name, name);
        high.r#override = high.r#override.map(|entry| v1::Override { bounds: bounds(20, 40), ..entry });
        good(admin.create_override(Request::new(high)).await);
        make_known(&admin, name, 15).await;
        let lower = v1::Override { override_id: name.into(), bounds: bounds(10, 20), ..Default::default() };
        let update_mask = mask(&["bounds"]);
        let update = v1::UpdateOverrideRequest { r#override: Some(lower), update_mask, options: None };
        good(admin.update_override(Request::new(update)).await);
        for _ in 0..denials {
            let ask = ask(name, 6);
            let reserved = admin.store.check_and_reserve(admin.clock.now(), &ask).await.expect("no request id");
            reserved.answer.outcome.expect_err("15 + 6 > 20");
        }
    }
    let mut rows = Vec::new();
    let mut request = v1::ListLimitsRequest { page_size: 1, at_ceiling: true, ..Default::default() };
    loop {
        let page = good(admin.list_limits(Request::new(request.clone())).await);
        rows.extend(page.limits);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let row = |row: &v1::KeyLimits| {
        let (key, denied) = (row.key.clone().expect("always there"), row.denied_at_ceiling.expect("always there"));
        (key.account, denied.prompt, denied.uncached_prompt, denied.generated)
    };
    let expected = [("b", 18), ("c", 12), ("a", 6), ("d", 0)].map(|(name, n)| (name.to_owned(), n, n, 0));
    assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_boost_acts_at_once_on_every_key_of_its_scope() {
    let admin = admin();
    make_known(&admin, "acme", 1).await;
    make_known(&admin, "other", 1).await;
    let now = admin.clock.now().as_seconds().cast_signed();
    let boost = |account: &str, prompt, seconds, dry_run| v1::BoostRequest {
        scope: Some(v1::Scope { account: account.into(), ..Default::default() }),
        limit_tpm: Some(v1::Tokens { prompt, ..Default::default() }),
        expire_time: Some(prost_types::Timestamp { seconds: now + seconds, nanos: 0 }),
        options: Some(v1::WriteOptions { dry_run, reason: "launch".into(), ..Default::default() }),
    };
    let send = |request| admin.boost(Request::new(request));
    let invalid = is(Code::InvalidArgument, error::INVALID_FIELD);
    let before = admin.store.policy();
    assert_eq!(refusal(send(v1::BoostRequest::default()).await), invalid);
    assert_eq!(refusal(send(boost("acme", 7_200_000, -1, false)).await), invalid, "its expiry has passed");
    assert_eq!(refusal(send(boost("acme", 0, 60, false)).await), invalid, "no window");
    assert_eq!(refusal(send(boost("", 7_200_000, 60, false)).await), invalid);
    assert_eq!(refusal(send(boost("acme", (1 << 40) + 1, 60, false)).await), invalid);
    let dry = good(send(boost("acme", 7_200_000, 600, true)).await);
    assert_eq!(admin.store.policy(), before);

    let real = good(send(boost("acme", 7_200_000, 600, false)).await);
    assert_eq!(real, dry);
    let effect = real.effect.expect("always there");
    assert_eq!((effect.keys, effect.limits_raised, real.changes.len()), (1, 1, 1));
    let limit = async |account, model| {
        let key = KeyRef::new(account, model, "").expect("well formed");
        admin.store.limits(admin.clock.now(), key).await.prompt.limit_tpm
    };
    for model in ["m", "never seen"] {
        let boosted = limit("acme", model).await;
        assert!((7_200_000..7_222_000).contains(&boosted), "{boosted}");
    }
    assert_eq!(limit("other", "m").await, 3_600_000);
    good(send(boost("acme", 1 << 40, 600, false)).await);
    assert_eq!(limit("acme", "m").await, 3 * 3_600_000, "the ceiling");

    let changes = good(admin.list_changes(Request::new(v1::ListChangesRequest::default())).await).changes;
    let row = &changes[1];
    assert_eq!((row.rpc.as_str(), row.object.as_str(), row.reason.as_str()), ("Boost", "boost/acme", "launch"));
    assert_eq!((row.before_json.as_str(), &changes[0].before_json), ("", &row.after_json));
    assert!(row.after_json.contains(r#""limitTpm":"7200000""#), "{}", row.after_json);
}

#[tokio::test]
async fn an_effect_counts_the_keys_that_the_write_applies_to_and_no_others() {
    let admin = admin();
    good(admin.create_tier(Request::new(v1::CreateTierRequest { tier: Some(tier("gold")), options: None })).await);
    good(admin.create_account(Request::new(account("acme", "gold"))).await);
    for name in ["acme", "other", "stranger"] {
        make_known(&admin, name, 1).await;
    }
    let update =
        v1::UpdateTierRequest { tier: Some(v1::Tier { bounds: bounds(15, 18), ..tier("gold") }), ..Default::default() };
    let effect = good(admin.update_tier(Request::new(update)).await).effect.expect("always there");
    assert_eq!(effect.keys, 1, "of three known keys one has the tier");
    let on = |model: &str| {
        let mut wire = exception(model, "acme");
        let scope = wire.r#override.as_mut().and_then(|entry| entry.scope.as_mut()).expect("it has one");
        scope.model = Some(model.into());
        Request::new(wire)
    };
    for (model, keys) in [("elsewhere", 0), ("m", 1)] {
        let effect = good(admin.create_override(on(model)).await).effect.expect("always there");
        assert_eq!(effect.keys, keys, "the only key is on m: {model}");
    }
}

#[tokio::test]
async fn a_reset_takes_limits_to_their_floors_and_holds_to_nothing() {
    let admin = admin();
    good(admin.create_override(Request::new(exception("x", "acme"))).await);
    let mut held = ask("acme", 1);
    held.max_generated_tokens = Some(9);
    let reserved = admin.store.check_and_reserve(admin.clock.now(), &held).await.expect("no request id");
    let id = reserved.id_text(held.key).expect("it fits");
    let held = admin.store.stats().held.generated;
    assert!(held > 0);
    // Limits of 20 at their ceiling, above a floor of 10.
    for (floor, ceiling) in [(20, 20), (10, 20)] {
        let wire = v1::Override { override_id: "x".into(), bounds: bounds(floor, ceiling), ..Default::default() };
        let update =
            v1::UpdateOverrideRequest { r#override: Some(wire), update_mask: mask(&["bounds"]), options: None };
        good(admin.update_override(Request::new(update)).await);
        admin
            .store
            .list_limits(admin.clock.now(), &tidegate_store::ListQuery { page_size: 9, ..Default::default() })
            .await;
    }
    let key = |account: &str| Some(v1::LimitKey { account: account.into(), model: "m".into(), ..Default::default() });
    let reset = |account, dry_run| v1::ResetLimitRequest {
        key: key(account),
        windows: vec![v1::Window::Prompt.into()],
        drop_holds: true,
        options: Some(v1::WriteOptions { dry_run, ..Default::default() }),
    };
    let send = |request| admin.reset_limit(Request::new(request));
    assert_eq!(refusal(send(v1::ResetLimitRequest::default()).await), is(Code::InvalidArgument, error::INVALID_FIELD));
    assert_eq!(refusal(send(reset("nobody", false)).await), is(Code::NotFound, error::LIMIT_KEY_NOT_FOUND));
    let dry = good(send(reset("acme", true)).await);
    assert_eq!(admin.store.stats().held.generated, held);
    let real = good(send(reset("acme", false)).await);
    assert_eq!(real, dry);
    assert_eq!((real.dropped_hold_tokens, admin.store.stats().held.generated), (held, 0));
    assert_eq!(real.effect.map(|effect| (effect.limits_lowered, effect.lost_tpm)), Some((1, 10)));
    let key = KeyRef::new("acme", "m", "").expect("well formed");
    let now = admin.store.limits(admin.clock.now(), key).await;
    assert_eq!((now.prompt.limit_tpm, now.generated.limit_tpm), (10, 20), "the named window alone");
    let counts = tidegate_core::state::SettleCounts::default();
    let settled = admin.store.settle(admin.clock.now(), &id, counts).await.expect("its reservation stays");
    assert_eq!(settled.outcome, tidegate_core::decision::SettleOutcome::Applied);
    let log = good(admin.list_changes(Request::new(v1::ListChangesRequest::default())).await).changes;
    assert_eq!((log[0].sequence, log[0].rpc.as_str(), log[0].object.as_str()), (4, "ResetLimit", "limit/acme/m"));
    let limits = [&log[0].before_json, &log[0].after_json];
    let of = |prompt| format!(r#"{{"prompt":"{prompt}","uncachedPrompt":"20","generated":"20"}}"#);
    assert_eq!(limits, [&of(20), &of(10)], "the limits before and after");
}
