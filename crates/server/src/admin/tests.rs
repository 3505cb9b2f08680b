use std::time::Duration;

use prost_types::FieldMask;
use tidegate_core::ask::Request as Ask;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::Policy;
use tidegate_proto::error;
use tidegate_store::memory::{MemoryBounds, MemoryStore};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

mod enforcement;
mod explaining;
mod steering;

fn admin() -> Admin<MemoryStore> {
    let store = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), Policy::built_in());
    Admin::new(Arc::new(store.expect("randomness")), Clock::start())
}

fn bounds(floor: u64, ceiling: u64) -> Option<v1::WindowBounds> {
    let bounds = Some(v1::Bounds { floor_tpm: Some(floor), ceiling_tpm: Some(ceiling) });
    Some(v1::WindowBounds { prompt: bounds, uncached_prompt: bounds, generated: bounds })
}

fn tier(name: &str) -> v1::Tier {
    v1::Tier { name: name.into(), bounds: bounds(10, 20), ..Default::default() }
}

fn account(name: &str, tier: &str) -> v1::CreateAccountRequest {
    let account = v1::Account { name: name.into(), tier: tier.into(), ..Default::default() };
    v1::CreateAccountRequest { account: Some(account), options: None }
}

fn exception(id: &str, account: &str) -> v1::CreateOverrideRequest {
    let scope = Some(v1::Scope { account: account.into(), ..Default::default() });
    let entry = v1::Override { override_id: id.into(), scope, bounds: bounds(10, 20), ..Default::default() };
    v1::CreateOverrideRequest { r#override: Some(entry), options: None }
}

fn expecting(revision: u64) -> Option<v1::WriteOptions> {
    Some(v1::WriteOptions { expected_revision: Some(revision), ..Default::default() })
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

/// The answer, out of its wrapping.
fn good<T>(answer: Result<Response<T>, Status>) -> T {
    answer.expect("it is served").into_inner()
}

/// Code and reason of a refusal; it is `error`'s, so never without a reason.
fn refusal<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> (Code, String) {
    let status = answer.expect_err("refused");
    (status.code(), status.get_details_error_info().expect("every error says why").reason)
}

fn is(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test]
async fn a_tier_is_created_read_changed_and_deleted() {
    let admin = admin();
    let create = v1::CreateTierRequest { tier: Some(tier("gold")), options: expecting(0) };
    let created = good(admin.create_tier(Request::new(create.clone())).await);
    assert_eq!(created.tier, Some(v1::Tier { revision: 1, ..tier("gold") }));
    assert!(!created.persisted, "memory alone");
    assert_eq!(refusal(admin.create_tier(Request::new(create)).await), is(Code::AlreadyExists, error::TIER_EXISTS));

    let wire = v1::Tier { bounds: bounds(15, 99), law_profile: "ignored by the mask".into(), ..tier("gold") };
    let update = v1::UpdateTierRequest {
        tier: Some(wire),
        update_mask: mask(&["bounds.prompt.floor_tpm"]),
        options: expecting(1),
    };
    let mut expected = v1::Tier { revision: 2, ..tier("gold") };
    if let Some(v1::WindowBounds { prompt: Some(prompt), .. }) = &mut expected.bounds {
        prompt.floor_tpm = Some(15);
    }
    let updated = good(admin.update_tier(Request::new(update.clone())).await);
    assert_eq!(updated.tier, Some(expected.clone()));
    let stale = refusal(admin.update_tier(Request::new(update)).await);
    assert_eq!(stale, is(Code::Aborted, error::STALE_REVISION));
    let get = || Request::new(v1::GetTierRequest { name: "gold".into() });
    assert_eq!(good(admin.get_tier(get()).await).tier, Some(expected));

    good(admin.create_account(Request::new(account("acme", "gold"))).await);
    let delete = |revision| Request::new(v1::DeleteTierRequest { name: "gold".into(), options: expecting(revision) });
    assert_eq!(refusal(admin.delete_tier(delete(1)).await), is(Code::Aborted, error::STALE_REVISION));
    assert_eq!(refusal(admin.delete_tier(delete(2)).await), is(Code::FailedPrecondition, error::TIER_IN_USE));
    let gone = v1::DeleteAccountRequest { name: "acme".into(), options: None };
    good(admin.delete_account(Request::new(gone.clone())).await);
    assert_eq!(refusal(admin.delete_account(Request::new(gone)).await), is(Code::NotFound, error::ACCOUNT_NOT_FOUND));
    good(admin.delete_tier(delete(2)).await);
    assert_eq!(refusal(admin.get_tier(get()).await), is(Code::NotFound, error::TIER_NOT_FOUND));
}

#[tokio::test]
async fn every_variant_of_a_model_is_an_object_of_its_own() {
    let admin = admin();
    let model = |variant: &str| v1::Model { name: "m".into(), variant: variant.into(), ..Default::default() };
    let create = |variant| v1::CreateModelRequest { model: Some(model(variant)), options: None };
    for variant in ["", "turbo"] {
        good(admin.create_model(Request::new(create(variant))).await);
    }
    let update = v1::UpdateModelRequest { model: Some(model("turbo")), update_mask: None, options: None };
    assert_eq!(good(admin.update_model(Request::new(update)).await).model.map(|model| model.revision), Some(2));
    let delete = v1::DeleteModelRequest { name: "m".into(), variant: "turbo".into(), options: None };
    good(admin.delete_model(Request::new(delete)).await);
    let get = |variant: &str| Request::new(v1::GetModelRequest { name: "m".into(), variant: variant.into() });
    assert_eq!(good(admin.get_model(get("")).await).model, Some(v1::Model { revision: 1, ..model("") }));
    assert_eq!(refusal(admin.get_model(get("turbo")).await), is(Code::NotFound, error::MODEL_NOT_FOUND));
}

#[tokio::test]
async fn an_override_without_id_gets_one_and_its_scope_is_its_own() {
    let admin = admin();
    let created = good(admin.create_override(Request::new(exception("", "acme"))).await).r#override;
    let id = created.expect("it was created").override_id;
    assert!(!id.is_empty());
    let get = v1::GetOverrideRequest { override_id: id.clone() };
    good(admin.get_override(Request::new(get)).await);
    let create = |id, account| admin.create_override(Request::new(exception(id, account)));
    assert_eq!(refusal(create("", "acme").await), is(Code::AlreadyExists, error::OVERRIDE_SCOPE_TAKEN));
    assert_eq!(refusal(create(&id, "other").await), is(Code::AlreadyExists, error::OVERRIDE_EXISTS));
    assert_eq!(refusal(create("two words", "other").await), is(Code::InvalidArgument, error::INVALID_FIELD));
    good(create("", "other").await);
    let list = v1::ListOverridesRequest { account: "acme".into(), ..Default::default() };
    let listed = good(admin.list_overrides(Request::new(list)).await).overrides;
    assert_eq!(listed.iter().map(|entry| entry.override_id.as_str()).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_refused_write_changes_nothing() {
    let admin = admin();
    let before = admin.store.policy();
    let create = |tier, options| admin.create_tier(Request::new(v1::CreateTierRequest { tier, options }));
    let invalid = is(Code::InvalidArgument, error::INVALID_FIELD);
    assert_eq!(refusal(create(None, None).await), invalid);
    assert_eq!(refusal(create(Some(v1::Tier { bounds: bounds(21, 20), ..tier("gold") }), None).await), invalid);
    assert_eq!(refusal(create(Some(tier("gold")), expecting(1)).await), invalid);
    let options = v1::WriteOptions { reason: "r".repeat(1_025), ..Default::default() };
    assert_eq!(refusal(create(Some(tier("gold")), Some(options)).await), invalid);
    assert_eq!(refusal(admin.create_account(Request::new(account("acme", "no-such-tier"))).await), invalid);
    let update = |name, paths: &[&str]| {
        let request = v1::UpdateTierRequest { tier: Some(tier(name)), update_mask: mask(paths), options: None };
        admin.update_tier(Request::new(request))
    };
    assert_eq!(refusal(update("tier-4", &["bounds", "name"]).await), invalid);
    assert_eq!(refusal(update("gold", &[]).await), is(Code::NotFound, error::TIER_NOT_FOUND));
    assert_eq!(admin.store.policy(), before);
}

#[tokio::test]
async fn a_floor_above_the_ceiling_it_meets_is_said() {
    let admin = admin();
    let mut request = exception("launch", "acme");
    let floor = Some(v1::Bounds { floor_tpm: Some(1 << 40), ceiling_tpm: None });
    let bounds = Some(v1::WindowBounds { generated: floor, ..Default::default() });
    request.r#override = request.r#override.map(|entry| v1::Override { bounds, ..entry });
    let warnings = good(admin.create_override(Request::new(request)).await).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("generated: "), "{warnings:?}");
}

/// Threads change fields of their own of one object: all their changes are there in the end.
#[test]
fn of_updates_at_once_none_is_lost() {
    const ROUNDS: u64 = 200;
    let admin = admin();
    let create = v1::CreateTierRequest { tier: Some(tier("gold")), options: None };
    let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    good(runtime().block_on(admin.create_tier(Request::new(create))));
    std::thread::scope(|threads| {
        for path in ["bounds.prompt", "bounds.uncached_prompt", "bounds.generated"] {
            let admin = &admin;
            threads.spawn(move || {
                for round in 1..=ROUNDS {
                    let wire = v1::Tier { bounds: bounds(round, 1_000), ..tier("gold") };
                    let update = v1::UpdateTierRequest { tier: Some(wire), update_mask: mask(&[path]), options: None };
                    // So unlucky eight times in a row: the caller's turn.
                    while let Err(status) = runtime().block_on(admin.update_tier(Request::new(update.clone()))) {
                        assert_eq!(status.code(), Code::Aborted);
                    }
                }
            });
        }
    });
    let policy = admin.store.policy();
    assert_eq!(
        policy.tiers()["gold"].to_wire(),
        v1::Tier { bounds: bounds(ROUNDS, 1_000), revision: 1 + 3 * ROUNDS, ..tier("gold") }
    );
}

#[tokio::test]
async fn lists_are_in_order_and_complete_page_by_page() {
    let admin = admin();
    for index in (0..25).rev() {
        good(admin.create_account(Request::new(account(&format!("a{index:02}"), ""))).await);
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = v1::ListAccountsRequest { page_size: 10, page_token, tier: String::new() };
        let page = good(admin.list_accounts(Request::new(list)).await);
        assert!(page.accounts.len() <= 10);
        seen.extend(page.accounts.into_iter().map(|account| account.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|index| format!("a{index:02}")).collect::<Vec<_>>());
    good(admin.create_account(Request::new(account("z", "tier-2"))).await);
    let filtered = v1::ListAccountsRequest { page_size: 1, tier: "tier-2".into(), ..Default::default() };
    let accounts = good(admin.list_accounts(Request::new(filtered)).await).accounts;
    assert_eq!(accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>(), ["z"]);
    let exact = v1::ListAccountsRequest { page_size: 26, ..Default::default() };
    assert_eq!(good(admin.list_accounts(Request::new(exact)).await).next_page_token, "");
    let malformed = v1::ListAccountsRequest { page_token: "junk".into(), ..Default::default() };
    let refused = refusal(admin.list_accounts(Request::new(malformed)).await);
    assert_eq!(refused, is(Code::InvalidArgument, error::INVALID_FIELD));
}

/// Tiers of a thousand models each: a page of them is cut before it is more than a client takes.
#[tokio::test]
async fn a_page_of_large_rows_is_short_and_says_that_more_follow() {
    let admin = admin();
    let models = (0..1_000).map(|index| v1::ModelBounds {
        model: format!("{index:0256}"),
        variant: "v".repeat(256),
        bounds: bounds(1 << 39, 1 << 40),
    });
    let models: Vec<_> = models.collect();
    for name in ["big-1", "big-2", "big-3", "big-4"] {
        let tier = v1::Tier { models: models.clone(), ..tier(name) };
        good(admin.create_tier(Request::new(v1::CreateTierRequest { tier: Some(tier), options: None })).await);
    }
    let mut seen = 0;
    let mut list = v1::ListTiersRequest::default();
    loop {
        let page = good(admin.list_tiers(Request::new(list.clone())).await);
        assert!(prost::Message::encoded_len(&page) < 4 << 20);
        seen += page.tiers.len();
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
        assert!(page.tiers.len() < 4);
    }
    assert_eq!(seen, 4 + 5, "and the built-in ones");
}

#[tokio::test]
async fn limits_are_listed_with_tier_and_live_reservations() {
    let admin = admin();
    good(admin.create_account(Request::new(account("acme", "tier-2"))).await);
    for (account, count) in [("acme", 3), ("stranger", 1)] {
        for variant in ["", "turbo"] {
            for _ in 0..count {
                let ask = Ask {
                    key: KeyRef::new(account, "m", variant).expect("well formed"),
                    prompt_tokens: 100,
                    cached_prompt_tokens: Some(0),
                    max_generated_tokens: Some(0),
                    service_tier: ServiceTier::Standard,
                    request_id: None,
                    ttl: Duration::from_secs(600),
                };
                let reserved = admin.store.check_and_reserve(admin.clock.now(), &ask).await.expect("no request id");
                reserved.answer.outcome.expect("an empty window");
            }
        }
    }
    let list = |request: v1::ListLimitsRequest| admin.list_limits(Request::new(request));
    let mut rows = Vec::new();
    let mut request = v1::ListLimitsRequest { page_size: 3, ..Default::default() };
    loop {
        let page = good(list(request.clone()).await);
        rows.extend(page.limits);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let row = |row: &v1::KeyLimits| {
        let key = row.key.clone().expect("always there");
        (key.account, key.variant, row.tier.clone(), row.live_reservations)
    };
    let expected = [
        ("acme", "", "tier-2", 3),
        ("acme", "turbo", "tier-2", 3),
        ("stranger", "", "tier-1", 1),
        ("stranger", "turbo", "tier-1", 1),
    ];
    let expected = expected.map(|(a, v, t, n)| (a.to_owned(), v.to_owned(), t.to_owned(), n));
    assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row.windows.len() == 3 && row.windows.iter().all(|window| !window.binding)));
    assert_eq!(rows[0].windows[0].used_tokens, 300);

    let regular = v1::ListLimitsRequest {
        account: Some("acme".into()),
        variant: Some(String::new()),
        page_size: 1,
        ..Default::default()
    };
    let page = good(list(regular.clone()).await);
    assert_eq!((page.limits.len(), page.next_page_token.as_str()), (1, ""));
    let at_ceiling = v1::ListLimitsRequest { at_ceiling: true, ..Default::default() };
    assert_eq!(good(list(at_ceiling).await).limits, [], "all are at their floors");
    // A token of other filters.
    let first = good(list(v1::ListLimitsRequest { page_size: 1, ..Default::default() }).await);
    let other = v1::ListLimitsRequest { page_token: first.next_page_token, ..regular };
    assert_eq!(refusal(list(other).await), is(Code::InvalidArgument, error::INVALID_FIELD));
}
