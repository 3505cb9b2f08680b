//! Where bounds come from.

use super::*;

#[test]
fn each_bound_names_the_entry_that_states_it() {
    let mut policy = Policy::built_in();
    let mut write = |entry| {
        policy.write(PolicyWrite::Create(entry), START).expect("a good entry");
    };
    let only = |floor_tpm, ceiling_tpm| {
        let bounds = PartialBounds { floor_tpm, ceiling_tpm };
        PerWindow::new(PartialBounds::default(), PartialBounds::default(), bounds)
    };
    write(Written::Tier(Tier {
        models: Vec::from([ModelBounds { model: "n".into(), variant: "v".into(), bounds: only(Some(20), None) }]),
        ..tier("gold", only(Some(10), None))
    }));
    write(Written::Account(account("acme", "gold")));
    write(Written::Model(Model {
        name: "m".into(),
        variant: "v".into(),
        bounds: only(None, Some(500)),
        law_profile: "static".into(),
        revision: 0,
    }));
    let entry = |id: &str, scope: Scope, bounds| Override { bounds, ..exception(id, scope) };
    let end = Some(at(60));
    let launch = entry("launch", scope("acme", Some("m"), Some("v")), only(Some(900), None));
    write(Written::Override(Override { reason: "a launch".into(), expires_at: end, ..launch }));
    write(Written::Override(entry("on-n", scope("acme", Some("n"), None), only(None, Some(700)))));

    let origins = |account, model, variant, now| {
        let key = KeyRef::new(account, model, variant).expect("well formed");
        let (origins, profile) = policy.origins(key, now);
        let Origins { floor, ceiling } = origins.generated;
        let short = |origin: Origin| (origin.source, origin.name, origin.stated_tpm);
        (short(floor), short(ceiling), profile)
    };
    let of = |source, name: &str, stated| (source, String::from(name), stated);
    let ceiling = of(Source::BuiltIn, "", 108_000);
    let profile = String::from;
    let gold = of(Source::Tier, "gold", 10);
    assert_eq!(origins("acme", "else", "", START), (gold.clone(), ceiling.clone(), profile("default")));
    let of_model = of(Source::Model, "m/v", 500);
    let lifted = (of(Source::KeyOverride, "launch", 900), of_model.clone(), profile("static"));
    assert_eq!(origins("acme", "m", "v", START), lifted);
    assert_eq!(origins("acme", "m", "v", at(60)), (gold, of_model, profile("static")), "the override has ended");
    let tier_model = of(Source::TierModel, "gold", 20);
    let on_n = of(Source::ModelOverride, "on-n", 700);
    assert_eq!(origins("acme", "n", "v", START), (tier_model, on_n, profile("default")));
    let tier_1 = (of(Source::Tier, "tier-1", 36_000), of(Source::Tier, "tier-1", 108_000), profile("default"));
    assert_eq!(origins("stranger", "m", "", START), tier_1);

    let (exact, _) = policy.origins(KeyRef::new("acme", "m", "v").expect("well formed"), START);
    let floor = &exact.generated.floor;
    assert_eq!((floor.expires_at, floor.reason.as_str()), (end, "a launch"));
    assert!(exact.generated.floor_won() && !exact.prompt.floor_won());
}

#[test]
fn boosts_carry_a_revision_and_a_stale_one_changes_nothing() {
    let boost = |prompt| Boost {
        scope: scope("acme", None, None),
        windows: PerWindow::new(Some(BoostLimit { limit_tpm: prompt, expires_at: at(60) }), None, None),
        revision: 77,
    };
    let write = |policy: &Policy, prompt, expected_revision| {
        let entry = Written::Boost(boost(prompt));
        let (policy, result) = policy.apply(PolicyWrite::Update { entry, expected_revision }, START)?;
        match result.written {
            Some(Written::Boost(boost)) => Ok::<_, WriteError>((policy, boost.revision)),
            other => panic!("{other:?}"),
        }
    };
    let policy = Policy::built_in();
    assert_eq!(write(&policy, 5, Some(1)).expect_err("there is none"), WriteError::Stale { expected: 1, actual: 0 });
    let (policy, first) = write(&policy, 5, Some(0)).expect("there is none");
    let (later, second) = write(&policy, 6, Some(first)).expect("it is the last one's");
    assert!(second > first && first > 0);
    let stale = write(&later, 7, Some(first)).expect_err("somebody else has boosted since");
    assert_eq!(stale, WriteError::Stale { expected: first, actual: second });
    write(&later, 7, None).expect("no matter which");
}
