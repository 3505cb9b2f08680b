//! What a crash takes and what it leaves, with a real directory and time that the tests move.

use std::fs::{self, OpenOptions};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_core::decision::ServiceTier;
use tidegate_core::effect::Turn;
use tidegate_core::policy::{
    Account, Boost, BoostLimit, Enforcement, EnforcementSwitch, Kind, Model, Override, PartialBounds, Scope, Tier,
    WriteError, Written,
};
use tidegate_core::window::Tokens;

use super::*;

mod asleep;
mod busy;
mod damage;
mod moved;

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// A store in a directory, with a clock that stands still until it is moved.
struct Served {
    store: DurableStore,
    time: Arc<AtomicU64>,
}

fn opened(path: &Path, file: &Policy, wall: Timestamp) -> Result<OpenDirectory, OpenError> {
    OpenDirectory::open(path, MemoryBounds::default(), ForecastDefaults::default(), file, wall)
}

fn policy(limit: u64) -> Policy {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(limit), ceiling_tpm: Some(limit) });
    let tier = Tier { name: "tier-1".into(), bounds, ..Tier::default() };
    let write = PolicyWrite::Update { entry: Written::Tier(tier), expected_revision: None };
    Policy::built_in().apply(write, START).expect("a good tier").0
}

impl Served {
    fn open(path: &Path, wall: Timestamp) -> Self {
        let opened = opened(path, &policy(1_000), wall).expect("it opens");
        let time = Arc::new(AtomicU64::new(wall.max(opened.newest()).as_micros()));
        let clock = Arc::clone(&time);
        let now: Now = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
        Self { store: opened.start(now).expect("a thread"), time }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.time.load(Ordering::SeqCst))
    }

    fn wait(&self, span: Duration) {
        self.time.fetch_add(u64::try_from(span.as_micros()).expect("short"), Ordering::SeqCst);
    }

    /// What changed so far is on disk.
    async fn flush(&self) {
        self.store.commit(Batch::default(), true, || ()).await.expect("the disk takes it");
    }

    /// As a process that is killed: nothing more is written.
    fn crash(self) -> Timestamp {
        let now = self.now();
        drop(self.store);
        now
    }

    async fn ask(&self, request: &Request<'_>) -> Reserved {
        self.store.check_and_reserve(self.now(), request).await.expect("a new request id")
    }

    async fn admit(&self, account: &str, prompt: u64) -> String {
        let request = request(account, prompt);
        self.ask(&request).await.id_text(request.key).expect("it fits")
    }

    async fn settle(&self, id: &str, generated: u64) -> Result<SettleOutcome, EndError> {
        let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
        self.store.settle(self.now(), id, counts).await.map(|booked| booked.outcome)
    }

    async fn used(&self, account: &str) -> Tokens {
        let windows = self.store.limits(self.now(), request(account, 1).key).await;
        windows.map(|status| status.used_tokens)
    }

    async fn write(&self, write: PolicyWrite) -> PolicyWritten {
        let author = Author { rpc: "Write".into(), reason: "a test".into(), ..Author::default() };
        self.store.write_policy(self.now(), write, author, false).await.expect("a good write")
    }
}

fn request(account: &str, prompt: u64) -> Request<'_> {
    Request {
        key: KeyRef::new(account, "opus", "").expect("well formed"),
        prompt_tokens: prompt,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(10),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(60),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[tokio::test]
async fn what_is_on_disk_survives_a_crash_and_no_fresh_budget_is_handed_out() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let id = served.admit("acme", 600).await;
    served.flush().await;
    served.admit("acme", 300).await;
    let killed = served.crash();

    let served = Served::open(folder.path(), killed.after(Duration::from_secs(2)));
    assert_eq!(served.used("acme").await.prompt, 600, "what came after the last batch is lost, and nothing else");
    assert!(served.ask(&request("acme", 401)).await.reservation_id.is_none());
    assert_eq!(served.settle(&id, 7).await, Ok(SettleOutcome::Applied), "live across the restart");
    assert_eq!(served.settle(&id, 7).await, Ok(SettleOutcome::Duplicate));
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(
        served.settle(&id, 7).await,
        Ok(SettleOutcome::Duplicate),
        "the settlement is remembered with its charge"
    );
    assert_eq!(served.used("acme").await, Tokens::new(600, 600, 7));
}

#[tokio::test]
async fn a_stop_loses_nothing() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let id = served.admit("acme", 600).await;
    served.store.stop(Duration::from_secs(10)).expect("the disk answers");
    let stopped = served.crash();
    let opened = opened(folder.path(), &policy(1_000), stopped).expect("it opens");
    assert!(opened.was_stopped() && opened.had_state());
    drop(opened);
    let served = Served::open(folder.path(), stopped);
    assert_eq!(served.settle(&id, 0).await, Ok(SettleOutcome::Applied));
    assert_eq!(served.used("acme").await.prompt, 600);
}

#[tokio::test]
async fn what_was_admitted_in_the_last_moment_is_settled_late_and_once() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    served.admit("known", 1).await;
    served.flush().await;
    let (known, new) = (served.admit("known", 100).await, served.admit("new", 100).await);
    let killed = served.crash();

    let served = Served::open(folder.path(), killed.after(Duration::from_secs(5)));
    for (account, id) in [("known", &known), ("new", &new)] {
        let before = served.used(account).await.prompt;
        assert_eq!(served.settle(id, 3).await, Ok(SettleOutcome::Late), "{account}: nobody here knows it");
        assert_eq!(served.settle(id, 3).await, Ok(SettleOutcome::Duplicate), "{account}");
        assert_eq!(served.used(account).await.prompt, before + 100, "{account}");
    }
    // And so after another crash, and another process.
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(served.settle(&new, 3).await, Ok(SettleOutcome::Duplicate));
}

#[tokio::test]
async fn an_id_of_a_key_that_was_evicted_is_not_taken_for_one_that_was_lost() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let id = served.admit("acme", 100).await;
    served.wait(Duration::from_secs(30));
    // Nothing is missing of what was admitted half a minute ago; that its key is not here means that it left.
    served.admit("other", 1).await;
    served.flush().await;
    assert!(served.store.table.keys.remove(&served.store.table.of_key(request("acme", 1).key)).is_some());
    served
        .store
        .table
        .marks
        .as_ref()
        .expect("marks")
        .put_back_gone(vec![served.store.table.of_key(request("acme", 1).key)]);
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(served.settle(&id, 3).await, Err(EndError::TooLate));
    assert_eq!(served.used("acme").await.prompt, 0);
}

#[tokio::test]
async fn every_kind_of_policy_and_its_record_are_there_after_a_crash() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(7), ceiling_tpm: Some(70) });
    let scope = |model: Option<&str>| Scope { account: "acme".into(), model: model.map(Into::into), variant: None };
    let at = |seconds| START.after(Duration::from_secs(seconds));
    let boost = BoostLimit { limit_tpm: 50, expires_at: at(900) };
    let tier = Tier {
        name: "gold".into(),
        bounds,
        law_profile: "published".into(),
        enforcement: Some(Enforcement::Shadow),
        ..Tier::default()
    };
    let created = [
        Written::Tier(tier),
        Written::Account(Account { name: "acme".into(), tier: "gold".into(), blocked: true, ..Account::default() }),
        Written::Model(Model { name: "a/b".into(), variant: "c".into(), bounds, ..Model::default() }),
        Written::Model(Model { name: "a".into(), variant: "b/c".into(), bounds, ..Model::default() }),
        Written::Override(Override {
            id: "o".into(),
            scope: scope(None),
            bounds,
            reason: "why".into(),
            ..Override::default()
        }),
        Written::Override(Override {
            id: "p".into(),
            scope: scope(Some("m")),
            bounds,
            expires_at: Some(at(60)),
            ..Override::default()
        }),
        Written::Boost(Boost { scope: scope(None), windows: PerWindow::new(Some(boost), None, None), revision: 0 }),
    ];
    for entry in created {
        assert!(served.write(PolicyWrite::Create(entry)).await.persisted);
    }
    let switch = EnforcementSwitch { enforcement: Enforcement::Shadow, revision: 0 };
    served.write(PolicyWrite::Update { entry: Written::Enforcement(switch), expected_revision: None }).await;
    let gone = Account { name: "gone".into(), ..Account::default() };
    served.write(PolicyWrite::Create(Written::Account(gone))).await;
    let delete = PolicyWrite::Delete {
        kind: Kind::Account,
        name: "gone".into(),
        variant: String::new(),
        expected_revision: None,
    };
    served.write(delete).await;
    served.admit("limited", 10).await;
    let key = request("limited", 1).key.to_owned();
    let reset = Reset { key, windows: PerWindow::new(true, true, true), drop_holds: true };
    let done = served.store.reset_limit(served.now(), &reset, Author::default(), false).await;
    assert!(done.expect("the disk answers").expect("the key is known").persisted);
    let (before, log) =
        (served.store.policy(), served.store.changes(&ChangeQuery { page_size: 100, ..ChangeQuery::default() }).await);
    assert_eq!(log.rows.len(), 11);
    assert_eq!(log.rows[0].limits.map(|limits| limits.prompt), Some(Turn { before: 1_000, after: 1_000 }));

    // At once: nothing was flushed.
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(served.store.policy(), before);
    let query = ChangeQuery { page_size: 100, ..ChangeQuery::default() };
    assert_eq!(served.store.changes(&query).await, log);
    // What is deleted is not there, and what is created anew in its place begins after it.
    let gone = Account { name: "gone".into(), ..Account::default() };
    let again = served.write(PolicyWrite::Create(Written::Account(gone))).await;
    assert!(matches!(again.result.written, Some(Written::Account(Account { revision: 2, .. }))), "{again:?}");
    let refused = served.store.write_policy(
        served.now(),
        PolicyWrite::Create(Written::Tier(Tier { name: "gold".into(), ..Tier::default() })),
        Author::default(),
        false,
    );
    let refused = refused.await.expect_err("it exists");
    assert!(matches!(refused, PolicyError::Refused(WriteError::AlreadyExists { .. })), "{refused:?}");
}

/// A write that failed may be on disk all the same. Nobody was told that it took effect, so it does not later either.
#[tokio::test]
async fn a_write_that_failed_and_is_on_disk_is_taken_back() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let account = |name: &str| Written::Account(Account { name: name.into(), ..Account::default() });
    served.write(PolicyWrite::Create(account("kept"))).await;
    let old = served.store.policy();
    let (new, result) = old.apply(PolicyWrite::Create(account("failed")), START).expect("a good write");
    let (object, author) = ("account/failed".into(), Author::default());
    let change = Change { sequence: 2, time: START, author, object, before: None, after: result.written, limits: None };
    let writes = recover::policy_writes(&old, &new, &change, 0..0);
    served.store.commit(writes, false, || ()).await.expect("the disk takes it, and nobody publishes it");
    served.crash();
    let mut engine = Engine::open(&folder.path().join("state.redb")).expect("it opens");
    recover::take_back(&mut engine, &old, 2).expect("the disk takes it");
    drop(engine);
    let served = Served::open(folder.path(), START);
    assert_eq!(served.store.policy(), old);
    let query = ChangeQuery { page_size: 10, ..ChangeQuery::default() };
    assert_eq!(served.store.changes(&query).await.rows.len(), 1);
}

#[tokio::test]
async fn the_directory_wins_over_the_file_and_the_differences_are_named() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let account = Account { name: "acme".into(), tier: "tier-2".into(), ..Account::default() };
    served.write(PolicyWrite::Create(Written::Account(account))).await;
    served.crash();
    let account = Account { name: "acme".into(), tier: "tier-3".into(), ..Account::default() };
    let other = Account { name: "other".into(), ..Account::default() };
    let mut file = policy(1_000);
    for entry in [account, other] {
        file.write(PolicyWrite::Create(Written::Account(entry)), START).expect("a good account");
    }
    let file = file.with_enforcement(Enforcement::Shadow);
    let opened = opened(folder.path(), &file, START).expect("it opens");
    assert_eq!(opened.policy().accounts()["acme"].tier, "tier-2");
    let lines = opened.differences();
    let named = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (lines.len(), named("enforcement is shadow by"), named("account/acme"), named("account/other")),
        (3, 1, 1, 1)
    );
}

#[test]
fn time_never_goes_back_behind_what_is_stored() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let served = Served::open(folder.path(), START);
        served.admit("acme", 600).await;
        served.flush().await;
        served.crash();
        // The wall clock of the next process is an hour behind: nothing leaves early.
        let served = Served::open(folder.path(), START.before(Duration::from_secs(3_600)));
        assert!(served.now() >= START);
        assert_eq!(served.used("acme").await.prompt, 600);
        served.wait(Duration::from_secs(61));
        assert_eq!(served.used("acme").await.prompt, 0);
        let crashed = served.crash();
        // And hours ahead: everything has aged.
        let served = Served::open(folder.path(), crashed.after(Duration::from_secs(50 * 3_600)));
        assert_eq!(served.used("acme").await.prompt, 0);
        served.admit("acme", 1_000).await;
    });
}
