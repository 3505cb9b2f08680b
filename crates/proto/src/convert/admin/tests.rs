use proptest::prelude::*;
use prost_types::Timestamp as WireTimestamp;
use tidegate_core::policy::{Account, Degrade, Model, Override, PartialBounds, PolicyWrite, Scope, Tier, WindowBounds};
use tidegate_core::time::Timestamp;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

fn bounds(floor: impl Into<Option<u64>>, ceiling: impl Into<Option<u64>>) -> v1::Bounds {
    v1::Bounds { floor_tpm: floor.into(), ceiling_tpm: ceiling.into() }
}

fn wire_tier() -> v1::Tier {
    let prompt = |bounds| Some(v1::WindowBounds { prompt: Some(bounds), ..Default::default() });
    v1::Tier {
        name: "gold".into(),
        bounds: Some(v1::WindowBounds {
            prompt: Some(bounds(10, 20)),
            uncached_prompt: None,
            generated: Some(bounds(None, 7)),
        }),
        models: vec![v1::ModelBounds { model: "m".into(), variant: "turbo".into(), bounds: prompt(bounds(1, None)) }],
        law_profile: "published".into(),
        enforcement: v1::Enforcement::Shadow.into(),
        degrade: v1::DegradeMode::Open.into(),
        revision: 0,
    }
}

fn wire_override() -> v1::Override {
    v1::Override {
        override_id: "launch".into(),
        scope: Some(v1::Scope { account: "acme".into(), model: Some("m".into()), variant: Some(String::new()) }),
        bounds: wire_tier().bounds,
        reason: "a launch".into(),
        expire_time: Some(WireTimestamp { seconds: 2_000_000_000, nanos: 5_000 }),
        revision: 0,
    }
}

fn gold() -> Tier {
    create(Some(&wire_tier())).expect("well formed")
}

fn refused<T: std::fmt::Debug>(result: Result<T, InvalidField>, field: &str) {
    assert_eq!(result.expect_err(field).field, field);
}

#[test]
fn what_was_created_reads_back_the_same() {
    assert_eq!(gold().to_wire(), wire_tier());
    assert_eq!(gold().bounds.generated, PartialBounds { floor_tpm: None, ceiling_tpm: Some(7) });
    let account = v1::Account { name: "acme".into(), tier: "gold".into(), blocked: true, enforcement: 1, revision: 0 };
    assert_eq!(create::<Account>(Some(&account)).expect("well formed").to_wire(), account);
    let model = v1::Model {
        name: "m".into(),
        variant: "turbo".into(),
        bounds: wire_tier().bounds,
        law_profile: "static".into(),
        revision: 0,
    };
    assert_eq!(create::<Model>(Some(&model)).expect("well formed").to_wire(), model);
    let entry: Override = create(Some(&wire_override())).expect("well formed");
    assert_eq!(entry.expires_at, Some(Timestamp::from_micros(2_000_000_000_000_005)));
    assert_eq!(entry.to_wire(), wire_override());
}

#[test]
fn a_tier_says_what_decides_without_the_store_or_nothing() {
    refused(create::<Tier>(Some(&v1::Tier { degrade: 4, ..wire_tier() })), "tier.degrade");
    let inherits = v1::Tier { degrade: 0, ..wire_tier() };
    assert_eq!(create::<Tier>(Some(&inherits)).expect("well formed").degrade, None);
    for (wire, degrade) in [(1, Degrade::Share), (2, Degrade::Closed), (3, Degrade::Open)] {
        let tier = create::<Tier>(Some(&v1::Tier { degrade: wire, ..wire_tier() })).expect("well formed");
        assert_eq!((tier.degrade, tier.to_wire().degrade), (Some(degrade), wire));
    }
}

#[test]
fn enforcement_is_on_or_shadow_and_only_tiers_and_accounts_inherit() {
    refused(create::<Tier>(Some(&v1::Tier { enforcement: 3, ..wire_tier() })), "tier.enforcement");
    refused(create::<Account>(Some(&v1::Account { enforcement: -1, ..Default::default() })), "account.enforcement");
    let inherits = v1::Tier { enforcement: 0, ..wire_tier() };
    assert_eq!(create::<Tier>(Some(&inherits)).expect("well formed").enforcement, None);
    for enforcement in [0, 3] {
        refused(turned_switch(&v1::UpdateEnforcementRequest { enforcement, options: None }), "enforcement");
    }
    let turned = turned_switch(&v1::UpdateEnforcementRequest { enforcement: 2, options: None });
    assert_eq!(turned.map(|switch| switch.enforcement), Ok(tidegate_core::policy::Enforcement::Shadow));
}

#[test]
fn a_revision_in_a_request_is_ignored_and_empty_bounds_are_as_none() {
    let wire = v1::Tier {
        revision: 9,
        bounds: Some(v1::WindowBounds { prompt: Some(bounds(None, None)), ..Default::default() }),
        ..wire_tier()
    };
    let entry: Tier = create(Some(&wire)).expect("well formed");
    assert_eq!((entry.revision, entry.to_wire().bounds), (0, None));
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    refused(create::<Tier>(None), "tier");
    refused(create::<Override>(None), "override");
    refused(create::<Override>(Some(&v1::Override { scope: None, ..wire_override() })), "override.scope");
    let before_1970 = Some(WireTimestamp { seconds: -1, nanos: 0 });
    let wire = v1::Override { expire_time: before_1970, ..wire_override() };
    refused(create::<Override>(Some(&wire)), "override.expire_time");
    // A refusal quotes it.
    let wire = v1::Account { name: "acme".into(), tier: "x".repeat(1 << 20), ..Default::default() };
    refused(create::<Account>(Some(&wire)), "account.tier");
    let wire = v1::Tier { law_profile: "x".repeat(1 << 20), ..wire_tier() };
    refused(create::<Tier>(Some(&wire)), "tier.law_profile");
    refused(Id::parse("name", "", ""), "name");
    refused(Id::parse("override_id", "new\nline", ""), "override_id");
    refused(Id::parse("name", "m", &"x".repeat(257)), "variant");
}

#[test]
fn a_mask_takes_what_it_names_and_clears_what_is_unset_there() {
    let empty = v1::Tier { name: "gold".into(), ..Default::default() };
    let updated = |paths: &[&str]| update(&gold(), &empty, mask(paths).as_ref()).expect("known paths");
    assert_eq!(updated(&["law_profile"]), Tier { law_profile: String::new(), ..gold() });
    assert_eq!(updated(&["models"]), Tier { models: Vec::new(), ..gold() });
    assert_eq!(updated(&["bounds"]), Tier { bounds: WindowBounds::default(), ..gold() });

    let prompt = |bounds| v1::Tier {
        bounds: Some(v1::WindowBounds { prompt: Some(bounds), ..Default::default() }),
        ..Default::default()
    };
    let side = |wire: &v1::Tier, path| update(&gold(), wire, mask(&[path]).as_ref()).expect("a known path").bounds;
    let both = |floor_tpm, ceiling_tpm| PartialBounds { floor_tpm, ceiling_tpm };
    assert_eq!(side(&prompt(bounds(5, 6)), "bounds.prompt").prompt, both(Some(5), Some(6)));
    assert_eq!(side(&prompt(bounds(5, 6)), "bounds.prompt.floor_tpm").prompt, both(Some(5), Some(20)));
    assert_eq!(side(&prompt(bounds(None, 6)), "bounds.prompt.floor_tpm").prompt, both(None, Some(20)));
    assert_eq!(side(&prompt(bounds(5, 6)), "bounds.generated.ceiling_tpm").generated, both(None, None));
    assert_eq!(side(&prompt(bounds(5, 6)), "bounds.uncached_prompt"), gold().bounds);
}

#[test]
fn no_mask_an_empty_one_and_a_star_are_every_field_that_can_change() {
    let wire = v1::Tier { name: "other".into(), law_profile: "static".into(), revision: 77, ..Default::default() };
    let expected = Tier { name: "gold".into(), law_profile: "static".into(), ..Tier::default() };
    for mask in [None, mask(&[]), mask(&["*"]), mask(&["models", "*"])] {
        assert_eq!(update(&gold(), &wire, mask.as_ref()).expect("known paths"), expected);
    }
    let wire = v1::Override { scope: None, ..wire_override() };
    let entry: Override = create(Some(&wire_override())).expect("well formed");
    refused(update(&entry, &wire, None), "override.scope");
    update(&entry, &wire, mask(&["reason"]).as_ref()).expect("the scope stays");
}

#[test]
fn other_paths_are_refused() {
    let paths = [
        "",
        "name",
        "revision",
        "tier.bounds",
        "bounds.",
        "bounds.output",
        "bounds.prompt.",
        "bounds.prompt.limit_tpm",
        "bounds.prompt.floor_tpm.x",
        "models.bounds",
        "Bounds",
        "*.bounds",
    ];
    for path in paths {
        refused(update(&gold(), &wire_tier(), mask(&[path]).as_ref()), "update_mask");
        refused(update(&gold(), &wire_tier(), mask(&["*", path]).as_ref()), "update_mask");
    }
    refused(update(&gold(), &wire_tier(), mask(&["bounds"; 65]).as_ref()), "update_mask");
    let long = "x".repeat(1 << 20);
    let fault = update(&gold(), &wire_tier(), mask(&[&long]).as_ref()).expect_err("no field");
    assert!(fault.message.len() < 200);
    let account = Account { name: "acme".into(), ..Account::default() };
    for path in ["name", "bounds", "revision"] {
        refused(update(&account, &v1::Account::default(), mask(&[path]).as_ref()), "update_mask");
    }
    let entry: Override = create(Some(&wire_override())).expect("well formed");
    for path in ["override_id", "scope.account", "expire_time.seconds"] {
        refused(update(&entry, &wire_override(), mask(&[path]).as_ref()), "update_mask");
    }
}

#[test]
fn an_update_finds_what_it_names_or_says_why_not() {
    let policy = Policy::built_in();
    let named = |name: &str| v1::Tier { name: name.into(), ..Default::default() };
    let wire = named("tier-2");
    let (found, same) = find_for_update::<Tier>(&policy, Some(&wire)).expect("built in");
    assert_eq!((found.name.as_str(), same), ("tier-2", &wire));
    let code = |wire: Option<&v1::Tier>| find_for_update::<Tier>(&policy, wire).expect_err("refused").code();
    assert_eq!(code(None), Code::InvalidArgument);
    assert_eq!(code(Some(&named(""))), Code::InvalidArgument);
    assert_eq!(code(Some(&named("gold"))), Code::NotFound);
    let status = find_for_update::<Override>(&policy, Some(&v1::Override::default())).expect_err("no id");
    let violations = status.get_details_bad_request().expect("a bad request").field_violations;
    assert_eq!(violations[0].field, "override.override_id");
}

#[test]
fn options_are_bounded() {
    assert_eq!(WriteOptions::parse(None).expect("defaults"), WriteOptions::default());
    let options = v1::WriteOptions {
        expected_revision: Some(3),
        dry_run: false,
        reason: "r".repeat(MAX_REASON_BYTES),
        actor: "a".repeat(MAX_ACTOR_BYTES),
    };
    assert_eq!(WriteOptions::parse(Some(&options)).expect("in range").expected_revision, Some(3));
    let code = |options: v1::WriteOptions| WriteOptions::parse(Some(&options)).expect_err("refused").code();
    assert_eq!(code(v1::WriteOptions { reason: "r".repeat(1_025), ..options.clone() }), Code::InvalidArgument);
    assert_eq!(code(v1::WriteOptions { actor: "a".repeat(257), ..options.clone() }), Code::InvalidArgument);
    let status = WriteOptions::parse_for_create(Some(&options)).expect_err("there can be no revision 3");
    assert_eq!(status.code(), Code::InvalidArgument);
    let absent = v1::WriteOptions { expected_revision: Some(0), ..options };
    WriteOptions::parse_for_create(Some(&absent)).expect("0: it must not exist");
}

#[test]
fn a_refused_write_answers_its_code_and_reason() {
    let (kind, name) = (Kind::Tier, String::from("gold"));
    let in_use = WriteError::InUse { kind, name: name.clone(), by: "account \"acme\"".into() };
    let (field, message) = (String::from("tier.bounds.prompt.floor_tpm"), String::from("must be 1 to 2^40"));
    let taken = |kind| WriteError::AlreadyExists { kind, name: name.clone() };
    let cases = [
        (WriteError::Invalid { field, message }, Code::InvalidArgument, error::INVALID_FIELD),
        (WriteError::NotFound { kind, name: name.clone() }, Code::NotFound, error::TIER_NOT_FOUND),
        (taken(Kind::Tier), Code::AlreadyExists, error::TIER_EXISTS),
        (taken(Kind::Account), Code::AlreadyExists, error::ACCOUNT_EXISTS),
        (taken(Kind::Model), Code::AlreadyExists, error::MODEL_EXISTS),
        (taken(Kind::Override), Code::AlreadyExists, error::OVERRIDE_EXISTS),
        (WriteError::ScopeTaken { id: "launch".into() }, Code::AlreadyExists, error::OVERRIDE_SCOPE_TAKEN),
        (WriteError::Stale { expected: 1, actual: 2 }, Code::Aborted, error::STALE_REVISION),
        (in_use, Code::FailedPrecondition, error::TIER_IN_USE),
        (WriteError::Full { kind, most: 10_000 }, Code::FailedPrecondition, error::POLICY_FULL),
    ];
    for (refused, code, reason) in cases {
        let status = write_error(&refused);
        let named = status.get_details_error_info().expect("every error says why").reason;
        assert_eq!((status.code(), named.as_str()), (code, reason), "{refused:?}");
    }
}

#[test]
fn the_server_makes_ids_that_no_other_override_has() {
    let mut policy = Policy::built_in();
    let mut seen = Vec::new();
    for account in 0..5 {
        let scope = Some(v1::Scope { account: format!("a{account}"), ..Default::default() });
        let wire = v1::Override { override_id: String::new(), scope, ..wire_override() };
        let mut entry: Override = create(Some(&wire)).expect("well formed");
        assert!(entry.make_name(&policy));
        assert!(!entry.make_name(&policy), "it has one now");
        assert!(!seen.contains(&entry.id), "{} again", entry.id);
        seen.push(entry.id.clone());
        let id = entry.id.clone();
        policy.write(PolicyWrite::Create(Written::Override(entry)), Timestamp::ZERO).expect("a good id");
        if account % 2 == 0 {
            let variant = String::new();
            let gone = PolicyWrite::Delete { kind: Kind::Override, name: id, variant, expected_revision: None };
            policy.write(gone, Timestamp::ZERO).expect("it exists");
        }
    }
    let next = format!("override-{}", policy.revision() + 1);
    let scope = Scope { account: "taken".into(), ..Scope::default() };
    let entry = Override { id: next.clone(), scope, ..create(Some(&wire_override())).expect("well formed") };
    policy.write(PolicyWrite::Create(Written::Override(entry)), Timestamp::ZERO).expect("a good id");
    let mut entry = Override::default();
    entry.make_name(&policy);
    assert_ne!(entry.id, next);
    let mut kept = Tier::default();
    assert!(!kept.make_name(&policy), "tiers are named by people");
}

#[test]
fn page_sizes_have_a_default_and_a_most() {
    let rows = |size| Paging::parse("tier", b"", 2, size, "").expect("the first page").rows;
    assert_eq!([0, 1, 1_000, 1_001, u32::MAX].map(rows), [100, 1, 1_000, 1_000, 1_000]);
}

#[test]
fn a_token_is_good_for_its_own_list_and_filters_only() {
    let paging = Paging::parse("model", b"acme", 2, 0, "").expect("the first page");
    let token = paging.next_page_token(&["llama \u{2603}", ""]);
    let next = Paging::parse("model", b"acme", 2, 0, &token).expect("its own");
    let names = next.after.expect("not the first page");
    assert_eq!((Paging::name(&names, 0), Paging::name(&names, 1), Paging::name(&names, 2)), ("llama \u{2603}", "", ""));
    refused(Paging::parse("tier", b"acme", 2, 0, &token), "page_token");
    refused(Paging::parse("model", b"acne", 2, 0, &token), "page_token");
    refused(Paging::parse("model", b"acme", 3, 0, &token), "page_token");
    for malformed in ["x", "AAAA", "!!!!", &token[..token.len() - 2], &token[1..]] {
        refused(Paging::parse("model", b"acme", 2, 0, malformed), "page_token");
    }
}

#[test]
fn filters_that_no_key_can_match_are_refused() {
    let wire = v1::ListLimitsRequest { variant: Some(String::new()), ..Default::default() };
    list_filters(&wire).expect("the regular variant");
    refused(list_filters(&v1::ListLimitsRequest { account: Some(String::new()), ..wire.clone() }), "account");
    refused(list_filters(&v1::ListLimitsRequest { model: Some("\n".into()), ..wire.clone() }), "model");
    refused(list_filters(&v1::ListLimitsRequest { variant: Some("x".repeat(257)), ..wire }), "variant");
}

proptest! {
    #[test]
    fn a_token_reads_back_and_nothing_panics(names in proptest::collection::vec("[^\\x00]{0,40}", 1..4), junk in ".{0,60}") {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let paging = Paging::parse("limits", b"f", names.len(), 0, "").expect("the first page");
        let next = Paging::parse("limits", b"f", names.len(), 0, &paging.next_page_token(&names)).expect("its own");
        prop_assert_eq!(next.after.expect("not the first page"), names);
        let _ = Paging::parse("limits", b"f", 3, 0, &junk);
        let _ = update(&gold(), &wire_tier(), mask(&[&junk]).as_ref());
    }
}
