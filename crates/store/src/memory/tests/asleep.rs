//! Keys that fell asleep: nobody can tell.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Admit { account: usize, prompt: u64, named: bool, ttl: u64 },
    Report(usize, u64),
    Settle(usize, u64),
    Release(usize),
    Wait { seconds: u64, together: u64 },
    Explain(usize),
    List { at_ceiling: bool },
    Reset(usize),
    Bound { floor: u64, ceiling: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let account = || 0_usize..8;
    prop_oneof![
        8 => (account(), 1_u64..700, any::<bool>(), 1_u64..200)
            .prop_map(|(account, prompt, named, ttl)| Step::Admit { account, prompt, named, ttl }),
        2 => (0_usize..40, 1_u64..300).prop_map(|(index, generated)| Step::Report(index, generated)),
        8 => (0_usize..40, 0_u64..300).prop_map(|(index, generated)| Step::Settle(index, generated)),
        1 => (0_usize..40).prop_map(Step::Release),
        5 => (1_u64..90).prop_map(|seconds| Step::Wait { seconds, together: 1 }),
        2 => (1_u64..300).prop_map(|seconds| Step::Wait { seconds, together: 11 }),
        1 => account().prop_map(Step::Explain),
        1 => any::<bool>().prop_map(|at_ceiling| Step::List { at_ceiling }),
        1 => account().prop_map(Step::Reset),
        1 => (100_u64..900, 500_u64..3_000).prop_map(|(floor, ceiling)| Step::Bound { floor, ceiling }),
    ]
}

fn adaptive(floor: u64, ceiling: u64) -> PolicyWrite {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(floor), ceiling_tpm: Some(ceiling) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
    PolicyWrite::Update { entry, expected_revision: None }
}

struct Played {
    store: MemoryStore,
    now: Timestamp,
    ids: Vec<String>,
    sleepless: bool,
}

impl Played {
    fn new(sleepless: bool) -> Self {
        let bounds = MemoryBounds { keys: 12, remembered: 30, ..MemoryBounds::default() };
        let (policy, _) = Policy::built_in().apply(adaptive(600, 2_000), START).expect("a good tier");
        let secrets = ([7; 16], ChecksumKey::new([8; 16]));
        let store = MemoryStore::with_secrets(bounds, ForecastDefaults::default(), policy, secrets, 0);
        Self { store: store.expect("randomness"), now: START, ids: Vec::new(), sleepless }
    }

    /// What has changed since a disk was told stays awake.
    fn keep_awake(&self) {
        for mut slot in self.store.keys.iter_mut().filter(|_| self.sleepless) {
            slot.value_mut().awake(&self.store).disk.changed = true;
        }
    }

    fn asleep(&self) -> usize {
        self.store.keys.iter().filter(|slot| matches!(slot.value(), Slot::Asleep(_))).count()
    }

    /// What it answers, but for ids.
    fn take(&mut self, step: &Step) -> String {
        let (store, at) = (&self.store, self.now);
        let name = |account: usize| format!("account {account}");
        let id = |index: usize| self.ids.get(index % self.ids.len().max(1)).cloned().unwrap_or_default();
        match *step {
            Step::Admit { account, prompt, named, ttl } => {
                let (account, request_id) = (name(account), format!("request {prompt}"));
                let asked = Request {
                    max_generated_tokens: Some(400),
                    cached_prompt_tokens: None,
                    request_id: named.then_some(&request_id),
                    ttl: Duration::from_secs(ttl),
                    ..request(&account, prompt)
                };
                let reserved = now(store.check_and_reserve(at, &asked));
                let answer = reserved.map(|Reserved { answer, reservation_id, .. }| {
                    self.ids.extend(reservation_id.map(|id| id.text(asked.key)));
                    let outcome = answer.outcome.map(|of| (of.reserved, of.admitted_at, of.replayed));
                    (outcome, answer.windows)
                });
                format!("{answer:?}")
            }
            Step::Report(index, generated) => format!("{:?}", now(store.report_progress(at, &id(index), generated))),
            Step::Settle(index, generated) => {
                let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
                format!("{:?}", now(store.settle(at, &id(index), counts)))
            }
            Step::Release(index) => format!("{:?}", now(store.release(at, &id(index)))),
            Step::Wait { seconds, together } => {
                for _ in 0..seconds {
                    self.keep_awake();
                    self.now = self.now.after(Duration::from_secs(together));
                    self.store.on_tick(self.now);
                }
                format!("{:?}", self.store.stats())
            }
            Step::Explain(account) => format!("{:?}", now(store.explain_limit(at, request(&name(account), 1).key))),
            Step::List { at_ceiling } => {
                let query = ListQuery { at_ceiling, denied_as_of: at, page_size: 20, ..ListQuery::default() };
                format!("{:?}", now(store.list_limits(at, &query)))
            }
            Step::Reset(account) => {
                let key = request(&name(account), 1).key.to_owned();
                let reset = Reset { key, windows: PerWindow::new(true, false, true), drop_holds: true };
                let done = now(store.reset_limit(at, &reset, Author::default(), false));
                format!("{:?}", done.map(|done| done.map(|done| (done.dropped_hold_tokens, done.boosted))))
            }
            Step::Bound { floor, ceiling } => {
                let write = adaptive(floor, ceiling.max(floor));
                let written = now(store.write_policy(at, write, Author::default(), false));
                format!("{:?}", written.map(|written| written.effect))
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_key_that_falls_asleep_answers_as_one_that_does_not(steps in prop::collection::vec(step(), 1..150)) {
        let (mut sleeping, mut sleepless) = (Played::new(false), Played::new(true));
        for step in &steps {
            prop_assert_eq!(sleeping.take(step), sleepless.take(step), "{:?}", step);
        }
        prop_assert_eq!(sleepless.asleep(), 0);
        for step in (0..8).map(Step::Explain).chain([false, true].map(|at_ceiling| Step::List { at_ceiling })) {
            prop_assert_eq!(sleeping.take(&step), sleepless.take(&step));
        }
    }
}

#[test]
fn an_idle_key_falls_asleep_and_wakes_up_when_it_is_called() {
    let mut played = Played::new(false);
    let admit = Step::Admit { account: 0, prompt: 590, named: false, ttl: 100 };
    for _ in 0..3 {
        played.take(&admit);
        played.take(&Step::Settle(played.ids.len() - 1, 100));
        played.take(&Step::Wait { seconds: 65, together: 1 });
        assert_eq!(played.asleep(), 1);
    }
    let windows = now(played.store.limits(played.now, request("account 0", 1).key));
    assert!(windows.prompt.limit_tpm > 600, "it has proven something");
    assert_eq!(played.asleep(), 0);
}
