//! Resolution against a model that knows no maps.

use super::*;

/// What the policy is made of, in lists.
#[derive(Clone, Debug)]
struct World {
    tiers: Vec<Tier>,
    accounts: Vec<Account>,
    models: Vec<Model>,
    overrides: Vec<Override>,
}

impl World {
    fn policy(&self) -> Policy {
        let mut policy = Policy::built_in();
        let tiers = self.tiers.iter().cloned().map(Written::Tier);
        let accounts = self.accounts.iter().cloned().map(Written::Account);
        let models = self.models.iter().cloned().map(Written::Model);
        let overrides = self.overrides.iter().cloned().map(Written::Override);
        for entry in tiers.chain(accounts).chain(models).chain(overrides) {
            policy.write(PolicyWrite::Create(entry), START).expect("a good entry");
        }
        policy.with_default_tier("t").expect("it was just created")
    }

    /// The contract, word by word: design.md, a decision, step 2.
    fn resolve(&self, [account_name, model_name, variant]: [&str; 3], now: Timestamp) -> Resolved {
        let account = self.accounts.iter().find(|account| account.name == account_name);
        let tier_name = account.map_or("t", |account| if account.tier.is_empty() { "t" } else { &account.tier });
        let tier = self.tiers.iter().find(|tier| tier.name == tier_name).expect("accounts name tiers that exist");
        let of_tier = tier.models.iter().find(|entry| entry.model == model_name && entry.variant == variant);
        let model = self.models.iter().find(|model| model.name == model_name && model.variant == variant);
        let exception = |scope: &Scope| {
            let live = |entry: &&Override| entry.expires_at.is_none_or(|expiry| expiry > now);
            self.overrides.iter().filter(|entry| entry.scope == *scope).find(live)
        };
        let overrides = [
            exception(&scope(account_name, Some(model_name), Some(variant))),
            exception(&scope(account_name, Some(model_name), None)),
            exception(&scope(account_name, None, None)),
        ];
        let mut sources: Vec<WindowBounds> = overrides.iter().flatten().map(|entry| entry.bounds).collect();
        sources.extend(of_tier.map(|entry| entry.bounds));
        sources.extend(model.map(|model| model.bounds));
        sources.push(tier.bounds);
        sources
            .push(BUILT_IN_FLOORS.map(|floor| PartialBounds { floor_tpm: Some(floor), ceiling_tpm: Some(3 * floor) }));
        let side = |window: Window, side: fn(&PartialBounds) -> Option<u64>| {
            sources.iter().find_map(|bounds| side(&bounds[window])).expect("the built-in bounds state both")
        };
        let floor = PerWindow::from_fn(|window| side(window, |bounds| bounds.floor_tpm));
        let ceiling = PerWindow::from_fn(|window| side(window, |bounds| bounds.ceiling_tpm));
        let profiles = [model.map_or("", |model| &model.law_profile), &tier.law_profile, "default"];
        let profile = profiles.into_iter().find(|name| !name.is_empty()).expect("the last is not empty");
        Resolved {
            bounds: PerWindow::from_fn(|window| {
                Bounds::new(floor[window], ceiling[window].max(floor[window])).expect("in range")
            }),
            law: law::profile(profile).expect("a built-in profile"),
            boosts: crate::law::Boosts::default(),
            configured: account.is_some(),
            refused: account.filter(|account| account.blocked).map(|_| Denial::AccountBlocked),
            enforcement: account.and_then(|account| account.enforcement).or(tier.enforcement).unwrap_or_default(),
            floor_won: PerWindow::from_fn(|window| floor[window] > ceiling[window]),
            valid_until: overrides
                .iter()
                .flatten()
                .filter_map(|entry| entry.expires_at)
                .min()
                .unwrap_or(Timestamp::MAX),
        }
    }
}

/// One source's bounds of a window: either side may be inherited; within a source the floor is not above the ceiling.
fn some_bounds() -> impl Strategy<Value = PartialBounds> {
    // Around the built-in floor of the generated window, so that the built-in bounds take part.
    let bound = || option::of(1..=200_000_u64);
    (bound(), bound()).prop_map(|(floor_tpm, ceiling_tpm)| match (floor_tpm, ceiling_tpm) {
        (Some(floor), Some(ceiling)) if floor > ceiling => {
            PartialBounds { floor_tpm: Some(ceiling), ceiling_tpm: Some(floor) }
        }
        _ => PartialBounds { floor_tpm, ceiling_tpm },
    })
}

fn some_window_bounds() -> BoxedStrategy<WindowBounds> {
    (some_bounds(), some_bounds(), some_bounds())
        .prop_map(|(prompt, uncached_prompt, generated)| PerWindow::new(prompt, uncached_prompt, generated))
        .boxed()
}

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const MODELS: [[&str; 2]; 4] = [["m", ""], ["m", "v"], ["n", ""], ["n", "v"]];
const PROFILES: [&str; 4] = ["", "default", "published", "static"];

fn some_profile() -> impl Strategy<Value = String> {
    select(&PROFILES[..]).prop_map(String::from)
}

fn some_tier(name: &'static str) -> BoxedStrategy<Tier> {
    let models = vectors(option::of(some_window_bounds()), MODELS.len());
    let tier_of = move |(bounds, models, law_profile): (_, Vec<Option<WindowBounds>>, _)| {
        let models = MODELS.into_iter().zip(models).filter_map(|([model, variant], bounds)| {
            Some(ModelBounds { model: model.into(), variant: variant.into(), bounds: bounds? })
        });
        Tier { models: models.collect(), law_profile, ..tier(name, bounds) }
    };
    (some_window_bounds(), models, some_profile()).prop_map(tier_of).boxed()
}

fn some_accounts() -> BoxedStrategy<Vec<Account>> {
    let some = option::of((select(&["", "t", "u"][..]), any::<bool>()));
    let accounts_of = |some: Vec<Option<_>>| {
        let accounts = ACCOUNTS.into_iter().zip(some).filter_map(|(name, some)| {
            let (tier, blocked) = some?;
            Some(Account { blocked, ..account(name, tier) })
        });
        accounts.collect()
    };
    vectors(some, ACCOUNTS.len()).prop_map(accounts_of).boxed()
}

fn some_models() -> BoxedStrategy<Vec<Model>> {
    let some = option::of((some_window_bounds(), some_profile()));
    let models_of = |some: Vec<Option<_>>| {
        let models = MODELS.into_iter().zip(some).filter_map(|([name, variant], some)| {
            let (bounds, law_profile) = some?;
            Some(Model { name: name.into(), variant: variant.into(), bounds, law_profile, revision: 0 })
        });
        models.collect()
    };
    vectors(some, MODELS.len()).prop_map(models_of).boxed()
}

fn some_overrides() -> BoxedStrategy<Vec<Override>> {
    let scopes_of = |name: &&'static str| {
        let keys = MODELS.map(|[model, variant]| scope(name, Some(model), Some(variant)));
        let wider = [scope(name, Some("m"), None), scope(name, Some("n"), None), scope(name, None, None)];
        keys.into_iter().chain(wider)
    };
    let scopes: Vec<Scope> = ACCOUNTS.iter().flat_map(scopes_of).collect();
    let some = option::of((some_window_bounds(), option::of(1..100_u64)));
    let count = scopes.len();
    let overrides_of = move |some: Vec<Option<(_, Option<u64>)>>| {
        let overrides = scopes.iter().zip(some).enumerate().filter_map(|(index, (scope, some))| {
            let (bounds, expires) = some?;
            let entry = exception(&index.to_string(), scope.clone());
            let entry = Override { bounds, expires_at: expires.map(at), ..entry };
            (bounds != WindowBounds::default()).then_some(entry)
        });
        overrides.collect()
    };
    vectors(some, count).prop_map(overrides_of).boxed()
}

fn some_world() -> impl Strategy<Value = World> {
    (some_tier("t"), some_tier("u"), some_accounts(), some_models(), some_overrides())
        .prop_map(|(t, u, accounts, models, overrides)| World { tiers: vec![t, u], accounts, models, overrides })
}

proptest! {
    #[test]
    fn every_side_of_every_window_comes_from_its_most_specific_source(world in some_world(), now in 0..110_u64) {
        let policy = world.policy();
        for account in ACCOUNTS.into_iter().chain(["stranger"]) {
            for [model, variant] in MODELS.into_iter().chain([["other", ""]]) {
                let key = [account, model, variant];
                let resolved = resolve(&policy, key, at(now));
                prop_assert_eq!(&resolved, &world.resolve(key, at(now)), "{:?}", key);
                let key_ref = KeyRef::new(account, model, variant).expect("well formed");
                for (window, origins) in policy.origins(key_ref, at(now)).0.iter() {
                    let [floor, ceiling] = [origins.floor.stated_tpm, origins.ceiling.stated_tpm];
                    prop_assert_eq!(Bounds::new(floor, ceiling.max(floor)), Some(resolved.bounds[window]));
                    prop_assert_eq!(origins.floor_won(), resolved.floor_won[window]);
                }
                // It holds until then, and not only now.
                if resolved.valid_until < Timestamp::MAX {
                    let last = Timestamp::from_micros(resolved.valid_until.as_micros() - 1);
                    prop_assert_eq!(&resolve(&policy, key, last), &resolved);
                    let next = resolve(&policy, key, resolved.valid_until);
                    prop_assert_eq!(next, world.resolve(key, resolved.valid_until));
                }
            }
        }
    }
}
