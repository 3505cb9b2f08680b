//! What writes refuse, and what applies afterwards; `resolution` compares it with a model.

use std::string::ToString;
use std::vec;

use proptest::collection::vec as vectors;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::decision::Denial;
use crate::key::KeyRef;

mod enforcement;
mod origin;
mod resolution;

const START: Timestamp = Timestamp::from_seconds(1_000);

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_000 + seconds)
}

fn both(floor: u64, ceiling: u64) -> WindowBounds {
    let bounds = PartialBounds { floor_tpm: Some(floor), ceiling_tpm: Some(ceiling) };
    PerWindow::new(bounds, bounds, bounds)
}

fn tier(name: &str, bounds: WindowBounds) -> Tier {
    Tier { name: name.into(), bounds, ..Tier::default() }
}

fn account(name: &str, tier: &str) -> Account {
    Account { name: name.into(), tier: tier.into(), ..Account::default() }
}

fn scope(account: &str, model: Option<&str>, variant: Option<&str>) -> Scope {
    Scope { account: account.into(), model: model.map(String::from), variant: variant.map(String::from) }
}

fn exception(id: &str, scope: Scope) -> Override {
    Override { id: id.into(), scope, bounds: both(10, 20), ..Override::default() }
}

fn create(policy: &Policy, entry: Written) -> Result<Policy, WriteError> {
    policy.apply(PolicyWrite::Create(entry), START).map(|(policy, _)| policy)
}

fn update(policy: &Policy, entry: Written, expected_revision: Option<u64>) -> Result<Policy, WriteError> {
    policy.apply(PolicyWrite::Update { entry, expected_revision }, START).map(|(policy, _)| policy)
}

fn delete(kind: Kind, name: &str, expected_revision: Option<u64>) -> PolicyWrite {
    PolicyWrite::Delete { kind, name: name.into(), variant: String::new(), expected_revision }
}

fn resolve(policy: &Policy, names: [&str; 3], now: Timestamp) -> Resolved {
    policy.resolve(KeyRef::new(names[0], names[1], names[2]).expect("well formed"), now)
}

fn prompt(resolved: &Resolved) -> (u64, u64) {
    (resolved.bounds.prompt.floor_tpm(), resolved.bounds.prompt.ceiling_tpm())
}

proptest! {
    /// Writes of all kinds to few names: what is refused changes nothing, what is not raises two revisions by one.
    #[test]
    fn a_refused_write_changes_nothing(writes in vectors(some_write(), 1..60)) {
        let mut policy = Policy::built_in();
        let mut now = 0;
        // The last revision of every name that ever was, and whether anything was deleted.
        let (mut last, mut deleted) = (std::collections::BTreeMap::new(), false);
        for (write, wait) in writes {
            now += wait;
            let title = write.title();
            let before = policy.clone();
            let outcome = policy.write(write.clone(), at(now));
            prop_assert_eq!(&before.apply(write.clone(), at(now)).map(|(_, result)| result), &outcome);
            let Ok(result) = outcome else {
                prop_assert_eq!(&policy, &before, "refused: {:?}", write);
                continue;
            };
            prop_assert_eq!(policy.revision(), before.revision() + 1);
            match (write, result.written) {
                (PolicyWrite::Create(_), Some(written)) => {
                    let revision = found(&policy, &written).expect("it is there");
                    prop_assert!(revision > last.insert(title, revision).unwrap_or(0), "a revision came back");
                    prop_assert!(deleted || revision == 1);
                }
                (PolicyWrite::Update { .. }, Some(written)) => {
                    let revision = found(&before, &written).expect("it existed");
                    prop_assert_eq!(found(&policy, &written), Some(revision + 1));
                    last.insert(title, revision + 1);
                }
                (PolicyWrite::Delete { .. }, None) => deleted = true,
                (write, written) => prop_assert!(false, "{:?} wrote {:?}", write, written),
            }
            // Each scope has at most one override that has not expired, at any time from now on.
            for now in (now..120).map(at) {
                let mut live: Vec<_> = policy.overrides().values().filter(|entry| entry.is_live(now)).collect();
                live.sort_by(|one, other| one.scope.cmp(&other.scope));
                prop_assert!(live.windows(2).all(|pair| pair[0].scope != pair[1].scope), "{:?}", live);
                for entry in live {
                    let scope = &entry.scope;
                    let (model, variant) = (scope.model.as_deref(), scope.variant.as_deref());
                    let resolved = resolve(&policy, [&scope.account, model.unwrap_or("m"), variant.unwrap_or("")], now);
                    prop_assert!(resolved.valid_until <= entry.expires_at.unwrap_or(Timestamp::MAX));
                }
            }
        }
    }
}

/// The revision of the entry of this name.
fn found(policy: &Policy, written: &Written) -> Option<u64> {
    match written {
        Written::Tier(entry) => policy.tiers().get(&entry.name).map(|entry| entry.revision),
        Written::Account(entry) => policy.accounts().get(entry.name.as_str()).map(|entry| entry.revision),
        Written::Model(entry) => {
            policy.models().get(&(entry.name.clone(), entry.variant.clone())).map(|entry| entry.revision)
        }
        Written::Override(entry) => policy.overrides().get(&entry.id).map(|entry| entry.revision),
        Written::Boost(_) | Written::Enforcement(_) => None,
    }
}

/// A write, and the seconds before it.
fn some_write() -> impl Strategy<Value = (PolicyWrite, u64)> {
    let named = select(&["x", "y"][..]);
    let entry = prop_oneof![
        (named.clone(), 0..30_u64).prop_map(|(name, floor)| Written::Tier(tier(name, both(floor, 20)))),
        (named.clone(), select(&["", "x", "tier-2"][..]))
            .prop_map(|(name, tier)| Written::Account(account(name, tier))),
        (named.clone(), select(&["", "v"][..]), select(&["", "static", "none"][..])).prop_map(
            |(name, variant, profile)| Written::Model(Model {
                name: name.into(),
                variant: variant.into(),
                law_profile: profile.into(),
                ..Model::default()
            })
        ),
        (select(&["x", "y", "z"][..]), option::of(Just("m")), option::of(Just("v")), option::of(1..100_u64)).prop_map(
            |(id, model, variant, expires)| Written::Override(Override {
                expires_at: expires.map(at),
                ..exception(id, scope("x", model, variant))
            })
        ),
    ];
    let kind = select(&[Kind::Tier, Kind::Account, Kind::Model, Kind::Override][..]);
    let revision = option::weighted(0.3, 0..4_u64);
    let write = prop_oneof![
        3 => entry.clone().prop_map(PolicyWrite::Create),
        3 => (entry, revision.clone())
            .prop_map(|(entry, expected_revision)| PolicyWrite::Update { entry, expected_revision }),
        1 => (kind, named, revision).prop_map(|(kind, name, revision)| delete(kind, name, revision)),
    ];
    (write, 0..4_u64)
}

#[test]
fn an_unconfigured_server_has_the_built_in_bounds() {
    let resolved = resolve(&Policy::built_in(), ["anyone", "any", ""], START);
    for (window, bounds) in resolved.bounds.iter() {
        assert_eq!(bounds.floor_tpm(), BUILT_IN_FLOORS[window]);
        assert_eq!(bounds.ceiling_tpm(), 3 * BUILT_IN_FLOORS[window]);
    }
    assert_eq!((resolved.configured, resolved.refused), (false, None));
    assert_eq!(resolved.law, LawParams::DEFAULT);
    assert_eq!(resolved.valid_until, Timestamp::MAX);
}

#[test]
fn accounts_are_refused_when_blocked_or_when_strangers_are() {
    let policy = Policy::built_in().with_unknown_accounts(UnknownAccounts::Forbidden);
    let policy = create(&policy, Written::Account(account("known", ""))).expect("good");
    let blocked = Account { blocked: true, ..account("blocked", "tier-4") };
    let policy = create(&policy, Written::Account(blocked)).expect("good");
    let refused = |name| resolve(&policy, [name, "m", ""], START).refused;
    assert_eq!(refused("known"), None);
    assert_eq!(refused("blocked"), Some(Denial::AccountBlocked));
    assert_eq!(refused("stranger"), Some(Denial::UnknownAccount));
}

#[test]
fn an_override_ends_at_its_expiry_and_is_replaced_by_the_next_wider_one() {
    let key = Override { expires_at: Some(at(60)), ..exception("key", scope("a", Some("m"), Some(""))) };
    let wide = Override { bounds: both(5, 6), expires_at: Some(at(90)), ..exception("wide", scope("a", None, None)) };
    let policy = create(&Policy::built_in(), Written::Override(key)).expect("good");
    let policy = create(&policy, Written::Override(wide)).expect("good");
    let now = |seconds| {
        let resolved = resolve(&policy, ["a", "m", ""], at(seconds));
        (prompt(&resolved), resolved.valid_until)
    };
    assert_eq!(now(59), ((10, 20), at(60)));
    assert_eq!(now(60), ((5, 6), at(90)));
    assert_eq!(now(90), ((3_600_000, 10_800_000), Timestamp::MAX));
    assert_eq!(prompt(&resolve(&policy, ["a", "m", "turbo"], START)), (5, 6));
}

#[test]
fn where_sources_disagree_the_floor_wins_and_the_write_says_so() {
    let policy = create(&Policy::built_in(), Written::Tier(tier("t", both(10, 20)))).expect("good");
    let policy = create(&policy, Written::Account(account("a", "t"))).expect("good");
    let mut entry = exception("launch", scope("a", None, None));
    entry.bounds = WindowBounds::default();
    entry.bounds.generated.floor_tpm = Some(100);
    let write = PolicyWrite::Create(Written::Override(entry));
    let (policy, result) = policy.apply(write, START).expect("no source contradicts itself");
    let warned: Vec<_> = result.warnings.iter().map(|warning| warning.window).collect();
    assert_eq!(warned, [Window::Generated]);
    assert!(result.warnings[0].to_string().starts_with("generated: "), "{}", result.warnings[0]);
    let resolved = resolve(&policy, ["a", "m", ""], START);
    assert_eq!(resolved.floor_won, PerWindow::new(false, false, true));
    assert_eq!(resolved.bounds.generated, Bounds::new(100, 100).expect("in range"));
    assert_eq!(prompt(&resolved), (10, 20));
}

/// `entry` cannot be created: this field is wrong.
fn refused(entry: Written, wrong: &str) {
    let policy = create(&Policy::built_in(), Written::Account(account("there", ""))).expect("good");
    match create(&policy, entry) {
        Err(WriteError::Invalid { field, message }) => {
            assert_eq!(field, wrong);
            assert!(!message.is_empty());
        }
        other => panic!("{wrong}: {other:?}"),
    }
}

#[test]
fn a_refusal_names_the_path_of_the_field() {
    refused(Written::Tier(tier("", WindowBounds::default())), "tier.name");
    refused(Written::Tier(tier(&"x".repeat(257), WindowBounds::default())), "tier.name");
    refused(Written::Tier(tier("new\nline", WindowBounds::default())), "tier.name");
    refused(Written::Tier(tier("t", both(21, 20))), "tier.bounds.prompt.floor_tpm");
    refused(Written::Tier(tier("t", both(0, 20))), "tier.bounds.prompt.floor_tpm");
    let mut bounds = both(10, 20);
    bounds.uncached_prompt.ceiling_tpm = Some(MAX_TOKENS + 1);
    refused(Written::Tier(tier("t", bounds)), "tier.bounds.uncached_prompt.ceiling_tpm");
    let entry = ModelBounds { model: "m".into(), variant: String::new(), bounds: both(10, 20) };
    let with_models = |models| Written::Tier(Tier { models, ..tier("t", WindowBounds::default()) });
    refused(with_models(vec![entry.clone(), entry.clone()]), "tier.models[1].model");
    refused(
        with_models(vec![entry.clone(), ModelBounds { variant: "v".into(), bounds: both(2, 1), ..entry.clone() }]),
        "tier.models[1].bounds.prompt.floor_tpm",
    );
    refused(with_models(vec![ModelBounds { model: String::new(), ..entry.clone() }]), "tier.models[0].model");
    refused(with_models(vec![entry; 1_001]), "tier.models");
    refused(
        Written::Tier(Tier { law_profile: "wild".into(), ..tier("t", WindowBounds::default()) }),
        "tier.law_profile",
    );

    refused(Written::Account(account("", "")), "account.name");
    refused(Written::Account(account("a", "no-such-tier")), "account.tier");

    let model = |name: &str, variant: &str| Model { name: name.into(), variant: variant.into(), ..Model::default() };
    refused(Written::Model(model("", "")), "model.name");
    refused(Written::Model(model("m", "\0")), "model.variant");
    refused(Written::Model(Model { bounds: both(2, 1), ..model("m", "") }), "model.bounds.prompt.floor_tpm");
    refused(Written::Model(Model { law_profile: "wild".into(), ..model("m", "") }), "model.law_profile");

    let at_account = || exception("o", scope("a", None, None));
    refused(Written::Override(exception("", scope("a", None, None))), "override.override_id");
    refused(Written::Override(exception("two words", scope("a", None, None))), "override.override_id");
    refused(Written::Override(exception(&"x".repeat(65), scope("a", None, None))), "override.override_id");
    refused(Written::Override(exception("o", scope("", None, None))), "override.scope.account");
    refused(Written::Override(exception("o", scope("a", Some(""), None))), "override.scope.model");
    refused(Written::Override(exception("o", scope("a", None, Some("turbo")))), "override.scope.variant");
    refused(Written::Override(Override { bounds: WindowBounds::default(), ..at_account() }), "override.bounds");
    refused(Written::Override(Override { bounds: both(2, 1), ..at_account() }), "override.bounds.prompt.floor_tpm");
    refused(Written::Override(Override { reason: "x".repeat(1_025), ..at_account() }), "override.reason");
    refused(Written::Override(Override { expires_at: Some(START), ..at_account() }), "override.expire_time");
    refused(Written::Override(Override { expires_at: Some(Timestamp::ZERO), ..at_account() }), "override.expire_time");
}

#[test]
fn what_is_absent_taken_stale_or_in_use_is_refused_as_that() {
    let policy = create(&Policy::built_in(), Written::Tier(tier("t", both(10, 20)))).expect("good");
    let policy = create(&policy, Written::Account(account("a", "t"))).expect("good");
    let refusal = |write| policy.apply(write, START).expect_err("refused");
    let t = || Written::Tier(tier("t", both(1, 2)));
    assert_eq!(refusal(PolicyWrite::Create(t())), WriteError::AlreadyExists { kind: Kind::Tier, name: "t".into() });
    assert_eq!(
        refusal(PolicyWrite::Update { entry: Written::Account(account("b", "")), expected_revision: None }),
        WriteError::NotFound { kind: Kind::Account, name: "b".into() }
    );
    assert_eq!(refusal(delete(Kind::Model, "m", None)), WriteError::NotFound { kind: Kind::Model, name: "m".into() });
    let stale = WriteError::Stale { expected: 2, actual: 1 };
    assert_eq!(refusal(PolicyWrite::Update { entry: t(), expected_revision: Some(2) }), stale);
    assert_eq!(refusal(delete(Kind::Account, "a", Some(2))), stale);
    for (tier, by) in [("t", "account \"a\""), ("tier-1", "accounts that name no tier")] {
        let refused = refusal(delete(Kind::Tier, tier, None));
        assert_eq!(refused, WriteError::InUse { kind: Kind::Tier, name: tier.into(), by: by.into() });
    }
    let policy = update(&policy, Written::Account(account("a", "")), Some(1)).expect("the revision it has");
    policy.apply(delete(Kind::Tier, "t", Some(1)), START).expect("nobody names it now");
}

#[test]
fn a_scope_is_free_again_when_its_override_has_expired_moved_or_gone() {
    let first = Override { expires_at: Some(at(60)), ..exception("first", scope("a", Some("m"), None)) };
    let policy = create(&Policy::built_in(), Written::Override(first.clone())).expect("good");
    let second = || Written::Override(exception("second", scope("a", Some("m"), None)));
    let taken = WriteError::ScopeTaken { id: "first".into() };
    assert_eq!(create(&policy, second()).expect_err("taken"), taken);
    // The same model in another scope is another scope.
    create(&policy, Written::Override(exception("key", scope("a", Some("m"), Some(""))))).expect("free");

    let (later, _) = policy.apply(PolicyWrite::Create(second()), at(60)).expect("the first has expired");
    assert_eq!(resolve(&later, ["a", "m", ""], at(60)).valid_until, Timestamp::MAX);
    // The expired one can go without taking the other with it, and cannot come back while the other is there.
    let (gone, _) = later.apply(delete(Kind::Override, "first", None), at(60)).expect("it exists");
    assert_eq!(prompt(&resolve(&gone, ["a", "m", ""], at(60))), (10, 20));
    let again = Written::Override(Override { expires_at: None, ..first.clone() });
    let back = later.apply(PolicyWrite::Update { entry: again, expected_revision: None }, at(61));
    assert_eq!(back.expect_err("taken"), WriteError::ScopeTaken { id: "second".into() });

    let elsewhere = Written::Override(exception("first", scope("b", None, None)));
    let moved = update(&policy, elsewhere, Some(1)).expect("free");
    assert_eq!(prompt(&resolve(&moved, ["b", "m", ""], START)), (10, 20));
    assert_eq!(prompt(&resolve(&moved, ["a", "m", ""], START)).0, 3_600_000);
    create(&moved, second()).expect("free");
    let (gone, _) = policy.apply(delete(Kind::Override, "first", Some(1)), START).expect("it exists");
    create(&gone, second()).expect("free");
}

/// An operator reads an entry; meanwhile it is deleted and made anew. What was read is stale, whatever was made.
#[test]
fn a_revision_that_was_read_before_a_deletion_is_stale_for_what_was_made_since() {
    let mut policy = create(&Policy::built_in(), Written::Tier(tier("gold", both(10, 20)))).expect("made");
    let key = scope("acme", None, None);
    for entry in [Written::Account(account("acme", "")), Written::Override(exception("launch", key))] {
        policy = create(&policy, entry).expect("made");
    }
    let model = Model { name: "m".into(), bounds: both(10, 20), ..Model::default() };
    policy = create(&policy, Written::Model(model)).expect("made");
    for (kind, name) in [(Kind::Tier, "gold"), (Kind::Account, "acme"), (Kind::Model, "m"), (Kind::Override, "launch")]
    {
        let entry = policy.find(kind, name, "").expect("there");
        let (gone, _) = policy.apply(delete(kind, name, Some(1)), START).expect("deleted");
        let (again, result) = gone.apply(PolicyWrite::Create(entry.clone()), START).expect("made anew");
        let revision = match result.written.expect("it is there") {
            Written::Tier(tier) => tier.revision,
            Written::Account(account) => account.revision,
            Written::Model(model) => model.revision,
            Written::Override(entry) => entry.revision,
            other => panic!("{other:?}"),
        };
        let stale = Err(WriteError::Stale { expected: 1, actual: revision });
        assert_eq!(update(&again, entry.clone(), Some(1)).map(|_| ()), stale, "{name}");
        assert_eq!(again.apply(delete(kind, name, Some(1)), START).map(|_| ()), stale, "{name}");
        update(&again, entry, Some(revision)).expect("what was read since is good");
    }
}
