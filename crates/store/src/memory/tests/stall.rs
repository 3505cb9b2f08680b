//! How long a decision waits while a dry run looks at a million keys. Slow, and 2 to 4 GiB: run it by hand, optimised,
//!
//! ```text
//! cargo test --profile ci -p tidegate-store --lib dry_run_over_a_million -- --ignored --nocapture
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use super::*;

const ACCOUNTS: u64 = 1_000;
const KEYS_EACH: u64 = 1_000;
/// The longest that a lock may be held.
const MOST: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "the measurement of a wait; no decision depends on it")]
fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = call();
    (result, start.elapsed())
}

/// Runs a future that lets other work go first now and then.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        thread::yield_now();
    }
}

/// A million keys of configured accounts, each with one settled request.
fn full_store() -> MemoryStore {
    let mut policy = policy(1_000_000);
    for account in 0..ACCOUNTS {
        let entry = Written::Account(Account { name: format!("account-{account}"), ..Account::default() });
        policy.write(PolicyWrite::Create(entry), START).expect("a new account");
    }
    let store = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), policy).expect("randomness");
    for number in 0..ACCOUNTS * KEYS_EACH {
        decide(&store, number);
    }
    assert_eq!(store.stats().keys, ACCOUNTS * KEYS_EACH);
    store
}

/// One decision on a key, and its settlement.
fn decide(store: &MemoryStore, number: u64) {
    let (account, model) =
        (format!("account-{}", number % ACCOUNTS), format!("model-{}", number / ACCOUNTS % KEYS_EACH));
    let request = Request { key: KeyRef::new(&account, &model, "").expect("well formed"), ..request("a", 1) };
    let id = ask(store, START, &request).expect("it fits");
    now(store.settle(START, &id, SettleCounts::default())).expect("it is live");
}

/// What decisions waited for while other work ran.
#[derive(Debug, Default)]
struct Waits {
    decisions: u64,
    /// The longest decision by the clock, and how many took longer than a lock may be held.
    longest: Duration,
    late: u64,
    /// The same without the time for which the deciding thread was ready and had no processor.
    longest_running: Duration,
    late_running: u64,
}

/// For how long this thread has been ready without a processor, as Linux counts it; zero elsewhere.
fn without_processor(schedstat: Option<&File>) -> Duration {
    let mut text = [0; 96];
    let length = schedstat.and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// Decides on one thread while `work` runs on this one.
fn waits<T>(store: &MemoryStore, work: impl FnOnce() -> T) -> (T, Waits) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let deciding = scope.spawn(|| {
            let schedstat = File::open("/proc/thread-self/schedstat").ok();
            let (mut waits, mut number) = (Waits::default(), 1_u64);
            while !done.load(Ordering::Relaxed) {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let before = without_processor(schedstat.as_ref());
                let ((), took) = timed(|| decide(store, (number >> 33) % (ACCOUNTS * KEYS_EACH)));
                let running = took.saturating_sub(without_processor(schedstat.as_ref()).saturating_sub(before));
                waits.decisions += 1;
                waits.longest = waits.longest.max(took);
                waits.late += u64::from(took > MOST);
                waits.longest_running = waits.longest_running.max(running);
                waits.late_running += u64::from(running > MOST);
            }
            waits
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, deciding.join().expect("it decides"))
    })
}

/// The shard of the table that is read for longest is the longest lock of a dry run: nothing else holds one for more than one
/// key. On a busy machine a decision may also wait because its thread does not run: what it waits without a dry run says so.
#[test]
#[ignore = "a million keys: minutes, and gigabytes"]
fn a_dry_run_over_a_million_keys_holds_no_lock_longer_than_a_millisecond() {
    let store = full_store();
    let entry = Written::Tier(Tier {
        name: "tier-1".into(),
        bounds: PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(2_000_000), ceiling_tpm: Some(3_000_000) }),
        ..Tier::default()
    });
    let write = || PolicyWrite::Update { entry: entry.clone(), expected_revision: None };
    let author = || Author { rpc: "UpdateTier".into(), ..Author::default() };

    let ((written, took), busy) =
        waits(&store, || timed(|| run(store.write_policy(START, write(), author(), true)).expect("a good tier")));
    assert_eq!(written.effect.keys, ACCOUNTS * KEYS_EACH);
    println!("dry run over {} keys, {took:?}: {busy:?}", written.effect.keys);
    // A thread that is as busy for as long, and takes no lock.
    let spin = || {
        timed(|| {
            let mut spun = Duration::ZERO;
            while spun < took {
                spun += timed(|| (0..10_000_u64).map(std::hint::black_box).sum::<u64>()).1;
            }
        })
    };
    let (_, idle) = waits(&store, spin);
    println!("a busy thread in its place: {idle:?}");

    // The walk over each shard, timed where nobody else runs: the best of some, as other processes take their share.
    let result = written.result;
    let walk = (0..5).map(|_| timed(|| store.concerned(&result)).1).min().expect("five walks");
    let each = walk / u32::try_from(SHARDS).expect("few");
    println!("walk over all {SHARDS} shards {walk:?}, {each:?} each");
    assert!(each < MOST, "a shard is locked for {each:?}");
}
