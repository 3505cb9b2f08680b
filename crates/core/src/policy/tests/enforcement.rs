//! The switch: which of its three places counts.

use super::*;
use crate::policy::{Enforcement, EnforcementSwitch};

const SAID: [Option<Enforcement>; 3] = [None, Some(Enforcement::On), Some(Enforcement::Shadow)];

fn switched(enforcement: Enforcement) -> Written {
    Written::Enforcement(EnforcementSwitch { enforcement, revision: 0 })
}

#[test]
fn global_shadow_reaches_everybody_and_else_the_most_specific_counts() {
    for (of_tier, of_account) in SAID.iter().flat_map(|tier| SAID.iter().map(move |account| (*tier, *account))) {
        let tier = Tier { enforcement: of_tier, ..tier("t", both(1, 2)) };
        let policy = create(&Policy::built_in(), Written::Tier(tier)).expect("new");
        let account = Account { enforcement: of_account, ..account("a", "t") };
        let policy = create(&policy, Written::Account(account)).expect("new");
        let applies = |policy: &Policy| resolve(policy, ["a", "m", ""], START).enforcement;
        let expected = of_account.or(of_tier).unwrap_or(Enforcement::On);
        assert_eq!(applies(&policy), expected, "{of_tier:?} {of_account:?}");
        let pressed = update(&policy, switched(Enforcement::Shadow), None).expect("written");
        assert_eq!(applies(&pressed), Enforcement::Shadow);
        assert_eq!(resolve(&pressed, ["stranger", "m", ""], START).enforcement, Enforcement::Shadow);
        let back = update(&pressed, switched(Enforcement::On), None).expect("written");
        assert_eq!(applies(&back), expected, "what tiers and accounts say was kept");
    }
}

#[test]
fn the_switch_has_a_revision_and_a_stale_one_changes_nothing() {
    let policy = Policy::built_in().with_enforcement(Enforcement::Shadow);
    assert_eq!(policy.enforcement(), EnforcementSwitch { enforcement: Enforcement::Shadow, revision: 1 });
    let (next, result) = policy
        .apply(PolicyWrite::Update { entry: switched(Enforcement::On), expected_revision: Some(1) }, START)
        .expect("the revision is 1");
    assert_eq!(result.before, Some(Written::Enforcement(policy.enforcement())));
    assert_eq!(
        result.written,
        Some(Written::Enforcement(EnforcementSwitch { enforcement: Enforcement::On, revision: 2 }))
    );
    assert!(next.revision() > policy.revision(), "keys take it over");
    let stale = update(&next, switched(Enforcement::Shadow), Some(1));
    assert_eq!(stale, Err(WriteError::Stale { expected: 1, actual: 2 }));
}

#[test]
fn tiers_and_accounts_in_shadow_are_counted_through_every_write() {
    let shadow = |name: &str| Account { enforcement: Some(Enforcement::Shadow), ..account(name, "") };
    let mut policy = Policy::built_in();
    for name in ["a", "b"] {
        policy = create(&policy, Written::Account(shadow(name))).expect("new");
    }
    let tier = Tier { enforcement: Some(Enforcement::Shadow), ..tier("t", both(1, 2)) };
    policy = create(&policy, Written::Tier(tier)).expect("new");
    assert_eq!(policy.shadows(), (1, 2));
    policy = update(&policy, Written::Account(shadow("a")), None).expect("there");
    assert_eq!(policy.shadows(), (1, 2), "once is once");
    policy = update(&policy, Written::Account(account("a", "")), None).expect("there");
    policy = policy.apply(delete(Kind::Account, "b", None), START).expect("there").0;
    assert_eq!(policy.shadows(), (1, 0));
}
