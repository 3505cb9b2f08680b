use std::cmp::Reverse;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use tidegate_core::decision::{Denial, Denied, ServiceTier};
use tidegate_core::policy::{Account, PartialBounds, Tier, Written};
use tidegate_core::window::WINDOW;

use super::*;
use crate::Place;

mod asleep;
mod pressure;
mod shadow;
mod stall;

const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// What each of a million keys takes in any case: a class of the allocator's sizes.
#[test]
fn a_key_in_the_table_takes_a_kilobyte() {
    assert!(size_of::<Entry>() <= 1_024, "{}", size_of::<Entry>());
}

/// Runs a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    match future.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the memory store never waits"),
    }
}

fn policy(limit: u64) -> Policy {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(limit), ceiling_tpm: Some(limit) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, law_profile: "static".into(), ..Tier::default() });
    Policy::built_in().apply(PolicyWrite::Update { entry, expected_revision: None }, START).expect("a good tier").0
}

fn store(bounds: MemoryBounds, limit: u64) -> MemoryStore {
    MemoryStore::new(bounds, ForecastDefaults::default(), policy(limit)).expect("randomness")
}

fn request<'a>(account: &'a str, prompt: u64) -> Request<'a> {
    Request {
        key: KeyRef::new(account, "opus", "").expect("well formed"),
        prompt_tokens: prompt,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(0),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    }
}

fn ask(store: &MemoryStore, at: Timestamp, request: &Request<'_>) -> Result<String, Denied> {
    let reserved = now(store.check_and_reserve(at, request)).expect("no request id");
    reserved.answer.outcome.map(|_| reserved.id_text(request.key).expect("an ALLOW has an id"))
}

fn capacity(bound: Bound) -> impl Fn(Denied) -> bool {
    move |denied| denied.denial == Denial::Capacity(bound)
}

/// 64 threads ask, settle and release on one key. A counter that is never above what is really reserved (added to after an
/// ALLOW, taken from before a release) never exceeds the limit, and the window is full at some time.
#[test]
fn concurrent_asks_never_exceed_the_limit() {
    const LIMIT: u64 = 10_000;
    let store = store(MemoryBounds::default(), LIMIT);
    let (reserved, full) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for thread in 0..64_u64 {
            let (store, reserved, full) = (&store, &reserved, &full);
            scope.spawn(move || {
                let mut random = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for _ in 0..400 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let prompt = random % 500 + 1;
                    match ask(store, START, &request("acme", prompt)) {
                        Ok(id) => {
                            let sum = reserved.fetch_add(prompt, Ordering::SeqCst) + prompt;
                            assert!(sum <= LIMIT, "{sum} admitted");
                            // A tenth stays, settled; the others are given back.
                            if random.is_multiple_of(10) {
                                let counts = SettleCounts::default();
                                assert_eq!(now(store.settle(START, &id, counts)).map(|b| b.tokens.prompt), Ok(prompt));
                            } else {
                                reserved.fetch_sub(prompt, Ordering::SeqCst);
                                assert_eq!(now(store.release(START, &id)), Ok(SettleOutcome::Applied));
                            }
                        }
                        Err(denied) => {
                            assert_eq!(denied.denial, Denial::WindowFull);
                            full.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(full.load(Ordering::Relaxed), "the test must reach the limit");
    let windows = now(store.limits(START, request("acme", 1).key));
    assert_eq!(windows.prompt.used_tokens, reserved.load(Ordering::SeqCst));
    assert_eq!(store.stats().reservations, 0);
}

#[test]
fn a_forged_or_foreign_id_is_refused_and_changes_nothing() {
    let (store, other) = (store(MemoryBounds::default(), 1_000), store(MemoryBounds::default(), 1_000));
    let id = ask(&store, START, &request("acme", 10)).expect("admitted");
    for id in ["", "abc", "AAAA", &"x".repeat(5_000), &id[1..]] {
        assert_eq!(now(store.settle(START, id, SettleCounts::default())), Err(EndError::Forged));
        assert_eq!(now(store.release(START, id)), Err(EndError::Forged));
        assert_eq!(now(store.report_progress(START, id, 5)), Err(EndError::Forged));
    }
    assert_eq!(now(other.release(START, &id)), Err(EndError::Forged));
    assert_eq!(store.stats().reservations, 1);
}

#[test]
fn abandoned_reservations_expire_without_a_call() {
    let store = store(MemoryBounds::default(), 1_000_000);
    for _ in 0..1_000 {
        ask(&store, START, &Request { max_generated_tokens: Some(10), ..request("acme", 1) }).expect("admitted");
    }
    assert_eq!(store.stats().reservations, 1_000);
    assert!(store.stats().held.generated > 0);
    for second in 0..=602 {
        store.on_tick(START.after(Duration::from_secs(second)));
    }
    let stats = store.stats();
    assert_eq!((stats.reservations, stats.expired, stats.held), (0, 1_000, Tokens::default()));
    assert_eq!(stats.remembered, 1_000);
    for minute in 10..40 {
        for _ in 0..20 {
            store.on_tick(START.after(Duration::from_secs(minute * 60)));
        }
    }
    let stats = store.stats();
    assert_eq!((stats.remembered, stats.keys, stats.keys_evicted), (0, 0, 1));
}

#[test]
fn strangers_take_at_most_half_of_the_table() {
    let bounds = MemoryBounds { keys: 100, ..MemoryBounds::default() };
    let store = store(bounds, 1_000);
    let customer = Written::Account(Account { name: "customer".into(), ..Account::default() });
    now(store.write_policy(START, PolicyWrite::Create(customer), Author::default(), false)).expect("a good account");
    let mut refused = 0;
    for stranger in 0..200 {
        let name = format!("stranger-{stranger}");
        match ask(&store, START, &request(&name, 10)) {
            Ok(_) => {}
            Err(denied) => {
                assert!(capacity(Bound::UnknownAccountKeys)(denied));
                assert!(denied.retry_after.is_some_and(|wait| (1..=5).contains(&wait.as_secs())));
                refused += 1;
            }
        }
    }
    assert_eq!((store.stats().keys, refused), (50, 150));
    ask(&store, START, &request("customer", 10)).expect("a customer is admitted");
    assert_eq!(store.stats().bound_reached[Bound::UnknownAccountKeys as usize], 150);
}

#[test]
fn a_full_table_forgets_the_longest_idle_key_and_never_one_in_use() {
    let bounds = MemoryBounds { keys: 20, ..MemoryBounds::default() };
    let store = store(bounds, 1_000);
    let mut at = START;
    for stranger in 0..10 {
        let id = ask(&store, at, &request(&format!("s{stranger}"), 10)).expect("room");
        now(store.settle(at, &id, SettleCounts::default())).expect("live");
        at = at.after(Duration::from_secs(5));
        store.on_tick(at);
    }
    assert!(capacity(Bound::UnknownAccountKeys)(ask(&store, at, &request("new", 10)).expect_err("charges are needed")));
    at = START.after(WINDOW).after(Duration::from_secs(7));
    store.on_tick(at);
    ask(&store, at, &request("new", 10)).expect("s0 has been idle for a minute");
    assert_eq!((store.stats().keys, store.stats().keys_evicted), (10, 1));
    assert_eq!(now(store.limits(at, request("s0", 1).key)).prompt.used_tokens, 0);
    assert_eq!(now(store.limits(at, request("s9", 1).key)).prompt.used_tokens, 10);
}

#[test]
fn reservations_are_bounded_and_a_limit_is_said_first() {
    let bounds = MemoryBounds { reservations: 3, reservations_per_key: 2, ..MemoryBounds::default() };
    let store = store(bounds, 1_000);
    let first = ask(&store, START, &request("a", 10)).expect("room");
    ask(&store, START, &request("a", 10)).expect("room");
    assert!(capacity(Bound::ReservationsPerKey)(ask(&store, START, &request("a", 10)).expect_err("two are live")));
    ask(&store, START, &request("b", 10)).expect("room");
    assert!(capacity(Bound::Reservations)(ask(&store, START, &request("c", 10)).expect_err("three are live")));
    assert_eq!(ask(&store, START, &request("c", 1_001)).map_err(|denied| denied.denial), Err(Denial::NeverFits));
    now(store.release(START, &first)).expect("live");
    ask(&store, START, &request("c", 10)).expect("room again");
}

#[test]
fn a_request_id_admits_one_of_a_hundred_asks() {
    let store = store(MemoryBounds::default(), 100_000);
    let admitted = (1..=100).filter(|&prompt| {
        let asked = Request { request_id: Some("3f0e"), ..request("acme", prompt) };
        now(store.check_and_reserve(START, &asked)).is_ok_and(|reserved| reserved.answer.outcome.is_ok())
    });
    assert_eq!(admitted.count(), 1);
    let again = Request { request_id: Some("3f0e"), ..request("acme", 1) };
    let again = now(store.check_and_reserve(START, &again)).expect("the same ask");
    assert!(again.answer.outcome.is_ok_and(|allowed| allowed.replayed));
    assert_eq!(again.answer.windows.prompt.used_tokens, 1);
    let other_key = Request { request_id: Some("3f0e"), ..request("other", 50) };
    now(store.check_and_reserve(START, &other_key)).expect("a request id is scoped to its limit key");
}

#[test]
fn what_is_remembered_is_bounded_and_ids_that_may_repeat_their_answer_are_kept() {
    for (settled, expected) in [(true, (5, 15)), (false, (20, 0))] {
        let store = store(MemoryBounds { remembered: 5, ..MemoryBounds::default() }, 100_000);
        for request_id in 0..20 {
            let id = format!("id-{request_id}");
            let asked = Request { request_id: Some(&id), ..request("acme", 1) };
            let at = START.after(Duration::from_millis(request_id));
            let reserved = now(store.check_and_reserve(at, &asked)).expect("a new id");
            if settled {
                let id = reserved.id_text(asked.key).expect("admitted");
                now(store.settle(at, &id, SettleCounts::default())).expect("live");
            }
        }
        assert_eq!((store.stats().remembered, store.stats().forgotten_early), expected);
    }
}

#[test]
fn a_changed_bound_acts_on_the_next_decision() {
    let store = store(MemoryBounds::default(), 1_000);
    ask(&store, START, &request("acme", 600)).expect("fits");
    assert!(ask(&store, START, &request("acme", 600)).is_err());
    for (limit, fits) in [(1_200, true), (900, false), (5_000, true)] {
        let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(limit), ceiling_tpm: Some(limit) });
        let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
        now(store.write_policy(
            START,
            PolicyWrite::Update { entry, expected_revision: None },
            Author::default(),
            false,
        ))
        .expect("good");
        let windows = now(store.limits(START, request("acme", 1).key));
        assert_eq!(windows.prompt.limit_tpm, limit);
        assert_eq!(ask(&store, START, &request("acme", 600)).is_ok(), fits, "{limit}");
    }
}

#[test]
fn a_list_is_in_order_and_complete_page_by_page() {
    let store = store(MemoryBounds::default(), 1_000);
    for account in 0..25 {
        ask(&store, START, &request(&format!("a{account:02}"), 10)).expect("room");
    }
    let mut query = ListQuery { page_size: 10, ..ListQuery::default() };
    let mut seen = Vec::new();
    loop {
        let page = now(store.list_limits(START, &query));
        seen.extend(page.rows.iter().map(|row| row.key.as_ref().account().to_owned()));
        query.after = page.rows.last().map(|row| Place { denied: Reverse(0), key: row.key.clone() });
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|account| format!("a{account:02}")).collect::<Vec<_>>());
    let one = ListQuery { account: Some("a07".into()), page_size: 10, ..ListQuery::default() };
    assert_eq!(now(store.list_limits(START, &one)).rows.len(), 1);
}

#[test]
fn an_ended_key_answers_as_if_it_were_fresh_and_a_late_settlement_is_refused() {
    let store = store(MemoryBounds { keys: 2, ..MemoryBounds::default() }, 1_000);
    let id = ask(&store, START, &request("a", 10)).expect("room");
    now(store.release(START, &id)).expect("live");
    let later = START.after(Duration::from_secs(120));
    store.on_tick(later);
    ask(&store, later, &request("b", 10)).expect("a goes: strangers have one place");
    assert_eq!(now(store.settle(later, &id, SettleCounts::default())), Err(EndError::TooLate));
    assert_eq!(store.stats().remembered, 0);
}

#[test]
fn keys_that_come_and_go_leave_nothing_behind() {
    let store = store(MemoryBounds::default(), 1_000);
    let mut at = START;
    for day in 0..4 {
        for stranger in 0..1_500 {
            let name = format!("s{day}-{stranger}");
            let asked = Request { ttl: Duration::from_secs(1), ..request(&name, 10) };
            let id = ask(&store, at, &asked).expect("room");
            now(store.settle(at, &id, SettleCounts::default())).expect("live");
        }
        for _ in 0..60 {
            at = at.after(Duration::from_secs(60));
            store.on_tick(at);
        }
        assert_eq!(store.stats().keys, 0);
    }
    assert!(store.room.queued() < 1_500, "{} keys that have gone are still queued", store.room.queued());
}

#[test]
fn a_denial_evicts_nobody() {
    let store = store(MemoryBounds { keys: 2, ..MemoryBounds::default() }, 1_000);
    let id = ask(&store, START, &request("a", 10)).expect("room");
    now(store.release(START, &id)).expect("live");
    let later = START.after(Duration::from_secs(120));
    store.on_tick(later);
    assert!(ask(&store, later, &request("b", 1_001)).is_err_and(|denied| denied.denial == Denial::NeverFits));
    assert_eq!(now(store.settle(later, &id, SettleCounts::default())).map(|b| b.outcome), Ok(SettleOutcome::Late));
}

#[test]
fn a_repeated_answer_names_the_same_reservation() {
    let store = store(MemoryBounds::default(), 1_000);
    let asked = Request { request_id: Some("id"), ..request("a", 10) };
    let first = now(store.check_and_reserve(START, &asked)).expect("new");
    let retried = Request { ttl: Duration::from_secs(1), ..asked };
    let again = now(store.check_and_reserve(START, &retried)).expect("the same ask");
    assert_eq!(first.reservation_id, again.reservation_id);
}

#[test]
fn keys_in_use_again_do_not_hide_the_one_that_may_go() {
    let store = store(MemoryBounds { keys: 80, ..MemoryBounds::default() }, 1_000);
    for stranger in 0..40 {
        let id = ask(&store, START, &request(&format!("s{stranger:02}"), 10)).expect("room");
        now(store.settle(START, &id, SettleCounts::default())).expect("live");
    }
    let later = START.after(Duration::from_secs(90));
    store.on_tick(later);
    for stranger in 0..39 {
        ask(&store, later, &request(&format!("s{stranger:02}"), 10)).expect("known");
    }
    ask(&store, later, &request("new", 10)).expect("s39 may go");
}

#[test]
fn one_settlement_does_not_move_what_other_accounts_are_expected_to_do() {
    let store = store(MemoryBounds::default(), 10_000);
    let undeclared = |account| Request { max_generated_tokens: None, ..request(account, 1) };
    let settle = |id: &str, generated| {
        let counts = SettleCounts { generated_tokens: Some(generated), ..SettleCounts::default() };
        now(store.settle(START, id, counts)).expect("live");
    };
    for account in 0..100 {
        settle(&ask(&store, START, &request(&format!("a{account}"), 1)).expect("room"), 200);
    }
    settle(&ask(&store, START, &request("absurd", 1)).expect("room"), 1 << 40);
    let reserved = now(store.check_and_reserve(START, &undeclared("new"))).expect("no id");
    let held = reserved.answer.outcome.expect("idle").reserved.generated;
    assert!(held < 400, "{held} held for a new account");
}
