//! Keys with many reservations, over many batches, crashes and cleanings: what is read back is what was written.

use std::collections::BTreeMap;

use super::*;

/// What a gateway does with one of three keys.
#[derive(Clone, Debug)]
enum Step {
    Admit(usize, usize),
    Settle(usize, usize),
    Flush,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..3, 1_usize..150).prop_map(|(key, many)| Step::Admit(key, many)),
        4 => (0_usize..3, 1_usize..120).prop_map(|(key, many)| Step::Settle(key, many)),
        5 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ]
}

const ACCOUNTS: [&str; 3] = ["one", "two", "three"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reservations_are_there_exactly_as_long_as_they_are_not_settled(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let file = policy(1 << 30);
            let open = |wall| {
                let opened = opened(folder.path(), &file, wall).expect("it opens");
                let time = Arc::new(AtomicU64::new(wall.max(opened.newest()).as_micros()));
                let clock = Arc::clone(&time);
                let now: Now = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
                Served { store: opened.start(now).expect("a thread"), time }
            };
            let mut served = open(START);
            let mut live: [BTreeMap<usize, String>; 3] = Default::default();
            let mut ended: Vec<String> = Vec::new();
            let mut number = 0;
            for step in steps.into_iter().chain([Step::Crash]) {
                served.wait(Duration::from_millis(3));
                match step {
                    Step::Admit(key, many) => {
                        for _ in 0..many {
                            number += 1;
                            let request = Request { ttl: Duration::from_secs(3_000), ..request(ACCOUNTS[key], 1) };
                            let id = served.ask(&request).await.id_text(request.key);
                            live[key].insert(number, id.expect("it fits"));
                        }
                    }
                    Step::Settle(key, many) => {
                        for _ in 0..many {
                            // Now the oldest, now the newest.
                            let next = if number % 2 == 0 { live[key].pop_first() } else { live[key].pop_last() };
                            number += 1;
                            let Some((_, id)) = next else { break };
                            assert_eq!(served.settle(&id, 2).await, Ok(SettleOutcome::Applied));
                            ended.push(id);
                        }
                    }
                    Step::Flush => served.flush().await,
                    Step::Crash => {
                        served.flush().await;
                        let mut used = Vec::new();
                        for account in ACCOUNTS {
                            used.push(served.used(account).await);
                        }
                        let (stats, killed) = (served.store.stats(), served.crash());
                        served = open(killed);
                        assert_eq!(served.store.stats().reservations, stats.reservations);
                        for (account, used) in ACCOUNTS.into_iter().zip(used) {
                            assert_eq!(served.used(account).await, used, "{account}");
                        }
                        for id in ended.iter().rev().take(200) {
                            assert_eq!(served.settle(id, 2).await, Ok(SettleOutcome::Duplicate));
                        }
                    }
                }
            }
            let left: usize = live.iter().map(BTreeMap::len).sum();
            assert_eq!(served.store.stats().reservations, left as u64);
            for id in live.iter().flat_map(BTreeMap::values) {
                assert_eq!(served.settle(id, 2).await, Ok(SettleOutcome::Applied));
            }
        });
    }
}

#[tokio::test]
async fn what_no_longer_counts_is_removed_from_the_disk() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    let accounts: Vec<String> = (0..300).map(|number| format!("account {number}")).collect();
    let live = || served.store.table.disk_live.load(Ordering::SeqCst);
    for account in &accounts {
        served.admit(account, 1).await;
    }
    let (mut most, mut before) = (0, 0);
    let written = || served.store.stats().disk.expect("there is one").bytes_written;
    for round in 0..200 {
        served.wait(Duration::from_secs(1));
        // A third changes all the time, a third once, a third never.
        for account in accounts.iter().step_by(3).chain(accounts.iter().skip(1).step_by(3).filter(|_| round == 90)) {
            served.admit(account, 1).await;
        }
        // It is cleaned by what counts before the batch.
        let live = live();
        served.flush().await;
        let packed = served.store.writer.packed_bytes();
        let batch = written() - before;
        assert!(
            packed <= 2 * live + writer::SLACK_BYTES + batch,
            "{packed} of packs, {live} count, {batch} in a batch"
        );
        (most, before) = (most.max(packed), written());
    }
    assert!(written() > 4 * most, "it was cleaned: {} written, at most {most} there", written());
    let live = live();
    let killed = served.crash();
    let served = Served::open(folder.path(), killed);
    assert_eq!(served.store.stats().keys, 300);
    assert_eq!(served.store.table.disk_live.load(Ordering::SeqCst), live, "counted alike");
}
