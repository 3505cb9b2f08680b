use std::path::Path;

use proptest::prelude::*;
use tidegate_core::policy::{PartialBounds, PolicyWrite};
use tidegate_core::policy::{Scope, WindowBounds, Written};
use tidegate_core::window::PerWindow;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// What a server with the policy `server` would list, compared with `file` as `apply` and `diff` do.
fn plan(server: &Policy, file: &Policy, prune: bool) -> Plan {
    fn walk<E: Object>(server: &Policy, file: &Policy, prune: bool, steps: &mut Vec<Step>) {
        let mut merge = Merge { wanted: E::list(file, None).peekable(), now: NOW, prune, steps };
        E::list(server, None).for_each(|entry| merge.on_server(&entry.to_wire()));
        merge.finish();
    }
    let mut steps = Vec::new();
    walk::<Tier>(server, file, prune, &mut steps);
    walk::<Model>(server, file, prune, &mut steps);
    walk::<Account>(server, file, prune, &mut steps);
    walk::<Override>(server, file, prune, &mut steps);
    Plan::ordered(steps)
}

/// The policy after the plan's writes, done one by one as the server does them.
fn applied(mut server: Policy, file: &Policy, plan: &Plan) -> Policy {
    for step in plan.writes() {
        let Step { kind, name, variant, .. } = step.clone();
        let entry = || file.find(kind, &step.name, &step.variant).expect("the file has it");
        let write = match step.action {
            Action::Create => PolicyWrite::Create(entry()),
            Action::Update(revision) => PolicyWrite::Update { entry: entry(), expected_revision: Some(revision) },
            Action::Delete(revision) => PolicyWrite::Delete { kind, name, variant, expected_revision: Some(revision) },
            Action::Keep => continue,
        };
        server.write(write, NOW).unwrap_or_else(|error| panic!("{}: {error}", step.title()));
    }
    server
}

fn floor(tpm: u64) -> WindowBounds {
    let bounds = PartialBounds { floor_tpm: Some(tpm), ceiling_tpm: None };
    PerWindow::new(PartialBounds::default(), PartialBounds::default(), bounds)
}

fn over(id: &str, account: &str, tpm: u64) -> Override {
    let scope = Scope { account: account.to_owned(), ..Scope::default() };
    Override { id: id.to_owned(), scope, bounds: floor(tpm), ..Override::default() }
}

fn with(entries: impl IntoIterator<Item = Written>) -> Policy {
    let mut policy = Policy::built_in();
    for entry in entries {
        policy.write(PolicyWrite::Create(entry), Timestamp::ZERO).expect("a sound entry");
    }
    policy
}

fn titles(plan: &Plan) -> Vec<(String, Action)> {
    plan.steps.iter().map(|step| (step.title(), step.action)).collect()
}

#[test]
fn a_file_is_compared_with_the_policy_that_it_gave() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tidegate.example.toml");
    let file = tidegate_server::config::check(&example).expect("it is right").policy;
    assert_eq!(plan(&file, &file, true), Plan::default());
}

#[test]
fn what_is_named_comes_first_and_goes_last() {
    let gold = Written::Tier(Tier { name: "gold".to_owned(), ..Tier::default() });
    let old = Written::Tier(Tier { name: "old".to_owned(), ..Tier::default() });
    let acme =
        |tier: &str| Written::Account(Account { name: "acme".to_owned(), tier: tier.to_owned(), ..Account::default() });
    let server = with([old, acme("old")]);
    let file = with([gold, acme("gold"), Written::Override(over("launch", "acme", 9))]);
    let kept = plan(&server, &file, false);
    let title = |text: &str| text.to_owned();
    let writes = [
        (title("tier \"gold\""), Action::Create),
        (title("account \"acme\""), Action::Update(1)),
        (title("override \"launch\""), Action::Create),
    ];
    assert_eq!(titles(&kept), [&writes[..], &[(title("tier \"old\""), Action::Keep)]].concat());
    assert!(kept.waits(&kept.steps[1]) && !kept.waits(&kept.steps[2]));

    let pruned = plan(&server, &file, true);
    assert_eq!(titles(&pruned), [&writes[..], &[(title("tier \"old\""), Action::Delete(1))]].concat());
    assert_eq!(plan(&applied(server, &file, &pruned), &file, true), Plan::default());
}

#[test]
fn an_override_in_the_way_of_another_goes_just_before_it() {
    let server = with([Written::Override(over("before", "acme", 5)), Written::Override(over("other", "b", 5))]);
    let file = with([Written::Override(over("now", "acme", 9))]);
    let pruned = plan(&server, &file, true);
    let title = |text: &str| text.to_owned();
    assert_eq!(
        titles(&pruned),
        [
            (title("override \"before\""), Action::Delete(1)),
            (title("override \"now\""), Action::Create),
            (title("override \"other\""), Action::Delete(1)),
        ]
    );
    assert_eq!(plan(&applied(server, &file, &pruned), &file, true), Plan::default());
}

#[test]
fn overrides_that_move_leave_a_scope_before_another_comes() {
    let server =
        with([("m1", "x"), ("m2", "y"), ("o", "z"), ("p", "u")].map(|(id, of)| Written::Override(over(id, of, 5))));
    // Two have new ids; p goes where o was, which leaves for a free scope.
    let file =
        with([("k1", "x"), ("k2", "y"), ("o", "w"), ("p", "z")].map(|(id, of)| Written::Override(over(id, of, 5))));
    let plan_of = plan(&server, &file, true);
    let order: Vec<_> = plan_of.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(order, ["m1", "k1", "m2", "k2", "o", "p"]);
    assert_eq!(plan(&applied(server, &file, &plan_of), &file, true), Plan::default());
}

#[test]
fn overrides_that_exchange_their_scopes_are_named() {
    let server = with([("a", "x"), ("b", "y"), ("c", "z")].map(|(id, of)| Written::Override(over(id, of, 5))));
    let file = with([("a", "y"), ("b", "z"), ("c", "x")].map(|(id, of)| Written::Override(over(id, of, 5))));
    assert_eq!(plan(&server, &file, true).exchange, ["a", "b", "c"]);
    assert_eq!(plan(&server, &server, true).exchange, [""; 0]);
}

#[test]
fn what_would_be_deleted_is_shown() {
    let blocked = Written::Account(Account { name: "evil".to_owned(), blocked: true, ..Account::default() });
    let plan_of = plan(&with([blocked]), &Policy::built_in(), true);
    let [FieldChange { field, server, file: None }] = &plan_of.steps[0].changes[..] else { panic!("{plan_of:?}") };
    assert_eq!((field.as_str(), server), ("blocked", &Some(true.into())));
}

#[test]
fn an_override_that_has_expired_is_not_written() {
    let expired = |tpm| Override { expires_at: Some(Timestamp::from_seconds(1_700_000_000)), ..over("x", "acme", tpm) };
    let file = with([Written::Override(expired(5))]);
    assert_eq!(plan(&Policy::built_in(), &file, true), Plan::default());
    assert_eq!(plan(&file, &file, true), Plan::default());
    let server = with([Written::Override(expired(6))]);
    assert_eq!(plan(&server, &file, false).steps[0].action, Action::Keep);
}

/// A policy of a few tiers, accounts, models and overrides.
fn policies() -> impl Strategy<Value = Policy> {
    let tiers = proptest::collection::btree_map("[a-c]", 1_u64..4, 0..3);
    let accounts = proptest::collection::btree_map("[a-f]", (0_usize..4, any::<bool>()), 0..6);
    let models = proptest::collection::btree_map(("[a-b]", "[a-b]?"), 1_u64..4, 0..4);
    let overrides = proptest::collection::btree_map("[a-f]", 1_u64..4, 0..5);
    let ids = Just(["1", "2", "3", "4", "5", "6"]).prop_shuffle();
    (tiers, accounts, models, overrides, ids).prop_map(|(tiers, accounts, models, overrides, ids)| {
        let names: Vec<_> = tiers.keys().cloned().collect();
        let tier = |(name, tpm)| Written::Tier(Tier { name, bounds: floor(tpm), ..Tier::default() });
        let account = |(name, (tier, blocked)): (String, (usize, bool))| {
            let tier = names.get(tier).cloned().unwrap_or_default();
            Written::Account(Account { name, tier, blocked, ..Account::default() })
        };
        let model =
            |((name, variant), tpm)| Written::Model(Model { name, variant, bounds: floor(tpm), ..Model::default() });
        // Two policies may have the same scope under two ids, and the same id with two scopes.
        let over = |((account, tpm), id): ((String, u64), &str)| Written::Override(over(id, &account, tpm));
        let tiers: Vec<_> = tiers.into_iter().map(tier).collect();
        let rest = accounts.into_iter().map(account).chain(models.into_iter().map(model));
        with(tiers.into_iter().chain(rest).chain(overrides.into_iter().zip(ids).map(over)))
    })
}

proptest! {
    /// Whatever a server has and whatever a file says: the plan can be carried out in its order, and then nothing differs.
    #[test]
    fn a_plan_can_be_carried_out_and_ends_all_differences((server, file) in (policies(), policies())) {
        let plan_of = plan(&server, &file, true);
        prop_assume!(plan_of.exchange.is_empty());
        let after = applied(server, &file, &plan_of);
        prop_assert_eq!(plan(&after, &file, true), Plan::default());
    }

    /// Without `--prune`, and where no override is in the way, only what the file does not have is left.
    #[test]
    fn without_prune_nothing_is_lost((server, file) in (policies(), policies())) {
        let plan_of = plan(&server, &file, false);
        prop_assume!(plan_of.exchange.is_empty());
        prop_assume!(plan_of.steps.iter().all(|step| step.action != Action::Keep || step.in_the_way_of.is_none()));
        let after = plan(&applied(server.clone(), &file, &plan_of), &file, false);
        prop_assert!(after.steps.iter().all(|step| step.action == Action::Keep));
        for step in &after.steps {
            prop_assert!(server.find(step.kind, &step.name, &step.variant).is_some());
        }
    }
}
