//! Keys that were read back and not yet called: nobody can tell that they sleep.

use super::*;
use crate::memory::slot::Slot;

/// Copies a directory that no process has.
fn copy(from: &Path) -> TempDir {
    let copy = folder();
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("room on the disk");
    }
    copy
}

fn asleep(served: &Served) -> usize {
    served.store.table.keys.iter().filter(|slot| matches!(slot.value(), Slot::Asleep(_))).count()
}

/// Wakes all keys up.
fn wake(served: &Served) {
    let table = &served.store.table;
    let known: Vec<_> = table.keys.iter().map(|slot| *slot.key()).collect();
    assert!(known.into_iter().all(|key| table.known(key).is_some()));
    assert_eq!(asleep(served), 0);
}

/// What anybody can see of all keys, without a word about the disk.
async fn seen(served: &Served) -> (ListPage, Stats) {
    let query = ListQuery { page_size: 1_000, ..ListQuery::default() };
    let page = served.store.list_limits(served.now(), &query).await;
    (page, Stats { disk: None, ..served.store.stats() })
}

#[derive(Clone, Debug)]
enum Step {
    Admit(usize, u64),
    /// One of those admitted before the restart.
    Settle(usize, u64),
    Wait(u64),
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..12, 1_u64..400).prop_map(|(account, prompt)| Step::Admit(account, prompt)),
        4 => (0_usize..40, 0_u64..12).prop_map(|(index, generated)| Step::Settle(index, generated)),
        3 => (1_u64..90_000).prop_map(Step::Wait),
        1 => (0_usize..12).prop_map(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_key_that_slept_answers_as_one_that_did_not(
        before in prop::collection::vec(step(), 1..60),
        after in prop::collection::vec(step(), 1..60),
        late in 0_u64..100_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let served = Served::open(folder.path(), START);
            let mut ids = Vec::new();
            for step in &before {
                take(&served, step, &mut ids).await;
            }
            served.flush().await;
            let opened_at = served.crash().after(Duration::from_millis(late));
            let other = copy(folder.path());
            let (sleeping, woken) = (Served::open(folder.path(), opened_at), Served::open(other.path(), opened_at));
            let keys = sleeping.store.stats().keys;
            assert_eq!(asleep(&sleeping) as u64, keys, "nobody has called them");
            let counts = Stats { disk: None, ..sleeping.store.stats() };
            wake(&woken);
            assert_eq!(counts, Stats { disk: None, ..woken.store.stats() }, "waking changes no count");
            let (mut of_sleeping, mut of_woken) = (ids.clone(), ids);
            for step in &after {
                let answers = (take(&sleeping, step, &mut of_sleeping).await, take(&woken, step, &mut of_woken).await);
                assert_eq!(answers.0, answers.1, "{step:?}");
            }
            assert_eq!(seen(&sleeping).await, seen(&woken).await);
        });
    }
}

/// What the step answers, but for ids, which name their process.
async fn take(served: &Served, step: &Step, ids: &mut Vec<String>) -> String {
    let account = |number: usize| format!("account {number}");
    match step {
        Step::Admit(number, prompt) => {
            let account = account(*number);
            let request_id = (prompt % 3 == 0).then_some(account.as_str());
            let request = Request { request_id, ..request(&account, *prompt) };
            let reserved = served.store.check_and_reserve(served.now(), &request).await;
            let answer = reserved.map(|Reserved { answer, reservation_id, .. }| {
                ids.extend(reservation_id.map(|id| id.text(request.key)));
                (
                    answer.outcome.map(|allowed| (allowed.reserved, allowed.admitted_at, allowed.replayed)),
                    answer.windows,
                )
            });
            format!("{answer:?}")
        }
        Step::Settle(index, generated) => match ids.get(index % ids.len().max(1)) {
            Some(id) => format!("{:?}", served.settle(id, *generated).await),
            None => String::new(),
        },
        Step::Wait(millis) => {
            served.wait(Duration::from_millis(*millis));
            served.store.on_tick(served.now());
            format!("{:?}", Stats { disk: None, ..served.store.stats() })
        }
        Step::Reset(number) => {
            let account = account(*number);
            let key = request(&account, 1).key.to_owned();
            let reset = Reset { key, windows: PerWindow::new(true, true, true), drop_holds: true };
            let done = served.store.reset_limit(served.now(), &reset, Author::default(), false).await;
            format!("{:?}", done.map(|done| done.map(|done| (done.dropped_hold_tokens, done.boosted))))
        }
    }
}

#[tokio::test]
async fn an_account_that_is_configured_while_its_key_sleeps_is_counted_as_configured() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    served.admit("acme", 1).await;
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!((served.store.stats().unknown_account_keys, asleep(&served)), (1, 1));
    // A policy that comes from elsewhere: nobody looks at what it does to known keys, which would wake them.
    let account = Account { name: "acme".into(), ..Account::default() };
    let create = PolicyWrite::Create(Written::Account(account));
    let (policy, _) = served.store.policy().apply(create, served.now()).expect("a good write");
    served.store.table.policy.store(Arc::new(policy));
    assert_eq!((served.store.stats().unknown_account_keys, asleep(&served)), (1, 1));
    wake(&served);
    assert_eq!(served.store.stats().unknown_account_keys, 0);
}

#[tokio::test]
async fn reading_the_names_of_keys_wakes_nobody_and_a_timer_wakes_one() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    for account in ["a", "b", "c"] {
        served.admit(account, 1).await;
    }
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    let query = ListQuery { account: Some("b".into()), page_size: 10, ..ListQuery::default() };
    let rows = served.store.list_limits(served.now(), &query).await.rows;
    assert_eq!((rows.len(), asleep(&served)), (1, 2), "the one that is shown is awake");
    // Their reservations run into their TTL.
    served.wait(Duration::from_secs(62));
    served.store.on_tick(served.now());
    assert_eq!((asleep(&served), served.store.stats().expired), (0, 3));
}

#[tokio::test]
async fn a_key_sleeps_on_while_the_batch_that_it_is_in_is_taken_away() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    for number in 0..50 {
        served.ask(&Request { ttl: Duration::from_secs(3_000), ..request(&format!("quiet {number}"), 7) }).await;
    }
    served.flush().await;
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    // So much is written of others that the oldest batch goes.
    let mut packed = 0;
    for _ in 0..200 {
        for number in 0..100 {
            served.admit(&format!("busy {number}"), 0).await;
        }
        served.flush().await;
        if served.store.writer.packed_bytes() < packed {
            break;
        }
        packed = served.store.writer.packed_bytes();
    }
    assert!(served.store.writer.packed_bytes() < packed, "batches were taken away");
    assert_eq!(asleep(&served), 50);
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(served.used("quiet 49").await.prompt, 7);
    assert_eq!(served.store.stats().keys, 150);
}
