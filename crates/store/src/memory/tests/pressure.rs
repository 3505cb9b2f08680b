//! A busy deployment, from the report of a gateway to the answers that its customers get.

use std::num::NonZeroU64;

use tidegate_core::pressure::{DEFAULT_TTL, DeploymentReport, MOST_REPORTERS, Report, Signal};

use super::*;
use crate::ReportError;
use crate::memory::pressure::MOST_DEPLOYMENTS;

const FLOOR: u64 = 1_000;

/// A store whose limits may grow, and a clock of seconds that the test moves.
struct World {
    store: MemoryStore,
    second: u64,
}

impl World {
    fn new() -> Self {
        let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(FLOOR), ceiling_tpm: Some(100_000) });
        let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
        let policy = Policy::built_in().apply(PolicyWrite::Update { entry, expected_revision: None }, START);
        let policy = policy.expect("a good tier").0;
        let store = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), policy).expect("randomness");
        Self { store, second: 0 }
    }

    fn at(&self) -> Timestamp {
        START.after(Duration::from_secs(self.second))
    }

    fn report(&self, permille: u32) {
        report(&self.store, self.at(), "gateway", &["opus"], permille).expect("one reporter");
    }

    /// The account's prompt window.
    fn window(&self, account: &str) -> WindowStatus {
        now(self.store.limits(self.at(), request(account, 1).key)).prompt
    }

    /// Asks, and settles as asked.
    fn ask(&self, account: &str, prompt: u64) -> Option<Denial> {
        match ask(&self.store, self.at(), &request(account, prompt)) {
            Ok(id) => {
                now(self.store.settle(self.at(), &id, SettleCounts::default())).expect("live");
                None
            }
            Err(denied) => Some(denied.denial),
        }
    }

    /// Uses all that the account may, for some minutes.
    fn saturate(&mut self, account: &str, minutes: u64) {
        for _ in 0..minutes * 60 {
            // In as many parts as there are seconds, so that the window is always full.
            let part = self.window(account).effective_limit_tpm / 60;
            self.ask(account, part.min(self.window(account).remaining_tokens).max(1));
            self.second += 1;
        }
    }

    /// Goes on for some seconds, at a pressure.
    fn go_on(&mut self, seconds: u64, permille: u32, each: impl Fn(&Self)) {
        for _ in 0..seconds {
            self.report(permille);
            each(self);
            self.second += 1;
        }
    }
}

fn report(
    store: &MemoryStore,
    at: Timestamp,
    reporter: &str,
    models: &[&str],
    permille: u32,
) -> Result<(), ReportError> {
    let permille = PerWindow::from_fn(|_| Some(permille));
    let said = models.iter().map(|model| DeploymentReport { model, variant: "", permille });
    let report = Report { reporter, ttl: DEFAULT_TTL, deployments: said.collect() };
    now(store.report_pressure(at, &report))
}

/// A7 and A8 in one second: who is above its limit hears 429, who is within it 503, who is within its floor nothing at all, and
/// Priority passes.
#[test]
fn a_busy_deployment_answers_429_above_the_limit_and_503_within_it() {
    let mut world = World::new();
    world.saturate("big", 25);
    let limit = world.window("big").limit_tpm;
    assert!(limit > 4 * FLOOR, "{limit}");
    world.go_on(300, 1_080, |world| {
        // It keeps asking for a sixtieth of its limit each second.
        world.ask("big", limit / 60);
    });
    let window = world.window("big");
    assert!(window.effective_limit_tpm < window.limit_tpm * 8 / 10, "{window:?}");
    assert!(window.effective_limit_tpm >= window.floor_tpm);
    let left = window.limit_tpm - window.used_tokens;
    assert!(left > window.remaining_tokens, "{window:?}");
    assert_eq!(world.ask("big", left + 1), Some(Denial::WindowFull));
    assert_eq!(world.ask("big", left), Some(Denial::Squeezed));
    let priority = Request { service_tier: ServiceTier::Priority, ..request("big", left) };
    ask(&world.store, world.at(), &priority).expect("Priority is not squeezed");
    assert_eq!(world.ask("small", FLOOR), None, "its floor is its own");
    assert_eq!(world.ask("small", 1), Some(Denial::WindowFull));
}

#[test]
fn reports_that_end_freeze_limits_and_a_calm_deployment_gives_everything_back() {
    let mut world = World::new();
    world.saturate("big", 20);
    world.go_on(180, 1_080, |world| {
        world.ask("big", 100);
    });
    let squeezed = world.window("big");
    assert!(squeezed.effective_limit_tpm < squeezed.limit_tpm);
    // Nobody reports any more.
    world.second += 120;
    let frozen = world.window("big");
    assert_eq!(frozen.effective_limit_tpm, frozen.limit_tpm, "nothing is squeezed");
    world.saturate("big", 10);
    assert!(world.window("big").limit_tpm <= frozen.limit_tpm, "nothing grows");
    // They are back, and the deployment is calm.
    for _ in 0..10 {
        world.report(300);
        world.saturate("big", 1);
    }
    let grown = world.window("big");
    assert!(grown.limit_tpm > frozen.limit_tpm * 15 / 10, "{grown:?}");
    assert_eq!(grown.effective_limit_tpm, grown.limit_tpm);
}

#[test]
fn where_the_pressure_stays_high_standard_is_shed_and_priority_passes() {
    let mut world = World::new();
    world.go_on(120, 1_600, |_| {});
    assert_eq!(world.ask("small", FLOOR / 20), None, "far below its floor: not yet");
    world.go_on(60, 1_600, |_| {});
    assert_eq!(world.ask("small", 10), Some(Denial::Shed));
    let priority = Request { service_tier: ServiceTier::Priority, ..request("small", 10) };
    ask(&world.store, world.at(), &priority).expect("shed last");
    world.go_on(10, 1_600, |_| {});
    assert_eq!(world.ask("small", 10), Some(Denial::Shed));
    // Another model's deployment is not busy.
    let other = Request { key: KeyRef::new("small", "haiku", "").expect("well formed"), ..request("small", 10) };
    ask(&world.store, world.at(), &other).expect("calm");
}

/// Ten accounts on a deployment that keeps a part of its capacity for half an hour: two have grown and want all they may have,
/// eight stay below their floors. Its pressure is what all of them use, against what it can do. Returns how many asks of the small
/// ones were refused, for how many seconds it was over its capacity, and the permille of it that was used.
fn after_losing_capacity(left_permille: u64) -> (u64, u64, u64) {
    let mut world = World::new();
    for account in ["big-1", "big-2"] {
        world.saturate(account, 30);
    }
    let small: Vec<String> = (1..=8).map(|number| format!("small-{number}")).collect();
    let accounts: Vec<&str> = small.iter().map(String::as_str).chain(["big-1", "big-2"]).collect();
    let (mut capacity, mut refused, mut over, mut used) = (None, 0, 0, 0);
    for second in 0..2_400 {
        let sum: u64 = accounts.iter().map(|account| world.window(account).used_tokens).sum();
        if second == 600 {
            capacity = NonZeroU64::new(sum * left_permille / 1_000);
        }
        if let Some(capacity) = capacity {
            world.report(u32::try_from(sum * 1_000 / capacity).expect("small"));
            over += u64::from(sum > capacity.get());
            used += sum;
        }
        for account in &small {
            // A tenth below the floor in each minute.
            refused += u64::from(world.ask(account, FLOOR * 9 / 600).is_some());
        }
        for account in ["big-1", "big-2"] {
            let part = (world.window(account).limit_tpm / 60).min(world.window(account).remaining_tokens);
            if part > 0 {
                world.ask(account, part);
            }
        }
        world.second += 1;
    }
    (refused, over, used * 1_000 / 1_800 / capacity.expect("it is busy"))
}

#[test]
fn a_deployment_that_loses_capacity_is_relieved_by_those_who_use_most() {
    for left_permille in [900, 667, 500] {
        let (refused, over, used) = after_losing_capacity(left_permille);
        assert_eq!(refused, 0, "{left_permille}: small accounts notice nothing");
        assert!(over < 300, "{left_permille}: {over} s over its capacity");
        assert!(used > 850, "{left_permille}: {used} permille of its capacity used");
    }
}

#[test]
fn deployments_are_bounded_a_refused_report_says_nothing_and_silence_makes_room() {
    let store = store(MemoryBounds::default(), 1_000);
    let names: Vec<String> = (0..MOST_DEPLOYMENTS).map(|model| format!("model-{model}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for models in names.chunks(256) {
        report(&store, START, "gateway", models, 900).expect("room");
    }
    assert_eq!(report(&store, START, "gateway", &["model-0", "one more"], 5_000), Err(ReportError::Deployments));
    report(&store, START, "gateway", &["model-0", "model-9999"], 900).expect("they are known");
    let stats = store.stats();
    assert_eq!((stats.deployments, stats.deployments_full, stats.reporters_full), (10_000, 1, 0));
    let shown = store.deployments(START, 100);
    assert_eq!(shown.len(), 100);
    assert!(shown.is_sorted_by_key(|row| row.model.clone()));
    assert!(shown.iter().all(|row| row.windows.prompt.signal() == Signal::Live(900)), "the refused call said nothing");
    let later = START.after(Duration::from_secs(60 + 24 * 3_600));
    report(&store, later, "gateway", &["one more"], 900).expect("nobody has reported on the others for a day");
    assert_eq!(store.stats().deployments, 1);
    store.on_tick(later.after(Duration::from_secs(60 + 24 * 3_600)));
    assert_eq!(store.stats().deployments, 0);
}

#[test]
fn reporters_are_bounded_and_a_refused_report_says_nothing_of_its_other_deployments() {
    let store = store(MemoryBounds::default(), 1_000);
    for reporter in 0..MOST_REPORTERS {
        report(&store, START, &format!("gateway-{reporter}"), &["busy"], 900).expect("room");
    }
    report(&store, START, "gateway-0", &["calm"], 100).expect("room");
    let refused = report(&store, START, "one more", &["calm", "new", "busy"], 5_000);
    assert_eq!(refused, Err(ReportError::Reporters));
    assert_eq!((store.stats().deployments, store.stats().reporters_full), (2, 1));
    let calm = store.deployments(START, 10).into_iter().find(|row| row.model == "calm").expect("known");
    assert_eq!(calm.windows.prompt.signal(), Signal::Live(100));
}

/// Reports, decisions and ticks of many threads: no lock waits for another, and no window exceeds its limit.
#[test]
fn reports_and_decisions_run_side_by_side() {
    let store = store(MemoryBounds::default(), 10_000);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let store = &store;
            scope.spawn(move || {
                for step in 0..500 {
                    let at = START.after(Duration::from_millis(step * 7));
                    if step % 5 == 0 {
                        let reporter = format!("gateway-{thread}");
                        report(store, at, &reporter, &["opus", "haiku"], 1_400).expect("few reporters");
                    }
                    let _ = ask(store, at, &request("acme", 100));
                    store.on_tick(at);
                    store.deployments(at, 10);
                }
            });
        }
    });
    assert!(now(store.limits(START, request("acme", 1).key)).prompt.used_tokens <= 10_000);
}
