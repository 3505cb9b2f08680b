use tidegate_core::ask::Request as Ask;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Enforcement, Policy};
use tidegate_core::window::Tokens;
use tidegate_store::memory::{MemoryBounds, MemoryStore};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::readiness::Life;

fn admin() -> Admin<MemoryStore> {
    let store = MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), Policy::built_in());
    Admin::new(Arc::new(store.expect("randomness")), Clock::start())
}

async fn ask(admin: &Admin<MemoryStore>, account: &str, model: &str) {
    let request = Ask {
        key: KeyRef::new(account, model, "").expect("a key"),
        prompt_tokens: 100,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(10),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(60),
    };
    admin.store.check_and_reserve(admin.clock.now(), &request).await.expect("decided");
}

fn every(ms: i32) -> v1::WatchLimitsRequest {
    let interval = Some(prost_types::Duration { seconds: 0, nanos: ms * 1_000_000 });
    v1::WatchLimitsRequest { interval, ..Default::default() }
}

async fn accounts(watch: &mut LimitsStream) -> Vec<String> {
    let answer = watch.next().await.expect("goes on").expect("no error");
    answer.limits.into_iter().map(|limits| limits.key.expect("a key").account).collect()
}

#[tokio::test(start_paused = true)]
async fn each_matching_key_comes_once_and_then_when_it_changes() {
    let admin = admin();
    ask(&admin, "a", "m").await;
    ask(&admin, "b", "m").await;
    ask(&admin, "b", "other").await;
    let filtered = v1::WatchLimitsRequest { model: Some("m".into()), ..every(100) };
    let mut watch = admin.watch(filtered).expect("started");
    assert_eq!(accounts(&mut watch).await, ["a", "b"]);

    ask(&admin, "b", "m").await;
    ask(&admin, "b", "other").await;
    assert_eq!(accounts(&mut watch).await, ["b"]);
    ask(&admin, "c", "m").await;
    assert_eq!(accounts(&mut watch).await, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn one_message_says_that_nothing_matches() {
    let admin = admin();
    let mut watch = admin.watch(every(100)).expect("started");
    assert_eq!(accounts(&mut watch).await, [""; 0]);
    assert!(timeout(Duration::from_secs(60), watch.next()).await.is_err(), "nothing changed");
}

#[tokio::test(start_paused = true)]
async fn each_message_says_where_the_switch_stands_and_a_turn_alone_is_one() {
    let admin = admin();
    let mut watch = admin.watch(every(100)).expect("started");
    let mut message = async || watch.next().await.expect("goes on").expect("no error");
    assert_eq!(message().await.enforcement(), v1::Enforcement::On);
    for to in [v1::Enforcement::Shadow, v1::Enforcement::On] {
        let request = v1::UpdateEnforcementRequest { enforcement: to.into(), options: None };
        admin.turn(&request, String::new()).await.expect("written");
        let message = message().await;
        assert_eq!((message.enforcement(), message.limits.len()), (to, 0));
    }
    ask(&admin, "a", "m").await;
    assert_eq!(message().await.limits[0].enforcement(), v1::Enforcement::On, "of the key");
}

#[tokio::test(start_paused = true)]
async fn many_keys_come_in_messages_of_a_thousand() {
    let admin = admin();
    for number in 0..2_500 {
        ask(&admin, &format!("a{number:04}"), "m").await;
    }
    let mut watch = admin.watch(every(100)).expect("started");
    let mut all = Vec::new();
    for rows in [1_000, 1_000, 500] {
        let message = accounts(&mut watch).await;
        assert_eq!(message.len(), rows);
        all.extend(message);
    }
    assert!(all.is_sorted(), "in the order of their names, each once");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_makes_nothing_grow_and_then_sees_the_newest() {
    let admin = admin();
    ask(&admin, "a", "m").await;
    let mut watch = admin.watch(every(100)).expect("started");
    for _ in 0..1_000 {
        // Ten intervals each, unread.
        ask(&admin, "a", "m").await;
        sleep(Duration::from_secs(1)).await;
    }
    let mut states = Vec::new();
    while let Ok(Some(answer)) = timeout(Duration::from_secs(1), watch.next()).await {
        states.push(answer.expect("no error").limits[0].live_reservations);
    }
    assert!(states.len() <= 3, "one message waited, and a walk behind it: {states:?}");
    assert_eq!(states.last(), Some(&1_001));
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_and_a_client_that_goes_gives_its_place_back() {
    let admin = admin();
    let watches = (0..MOST_WATCHES).map(|_| admin.watch(every(100)).expect("a place")).collect::<Vec<_>>();
    let refused = admin.watch(every(100)).map(|_| ()).expect_err("one too many");
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_details_error_info().expect("says why").reason, error::TOO_BUSY);
    drop(watches);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(admin.watches.places.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_process_whether_it_is_read_or_not() {
    let (life, readiness) = Life::start();
    life.on_serving();
    let metrics = Arc::new(Metrics::new(false, []));
    let admin = admin().with_watches(Watches::new(metrics, readiness));
    ask(&admin, "a", "m").await;
    let mut read = admin.watch(every(100)).expect("started");
    let unread = admin.watch(every(100)).expect("started");
    assert_eq!(accounts(&mut read).await, ["a"]);
    life.on_stopping();
    assert!(read.next().await.is_none(), "ends well");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(admin.watches.places.taken(), 0);
    drop(unread);
}

#[tokio::test]
async fn what_cannot_be_watched_names_its_field() {
    let admin = admin();
    let minute = Some(prost_types::Duration { seconds: 60, nanos: 1 });
    for (request, field) in [
        (every(99), "interval"),
        (v1::WatchLimitsRequest { interval: minute, ..Default::default() }, "interval"),
        (v1::WatchLimitsRequest { account: Some(String::new()), ..Default::default() }, "account"),
        (v1::WatchLimitsRequest { variant: Some("\n".into()), ..Default::default() }, "variant"),
    ] {
        let refused = admin.watch(request).map(|_| ()).expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().expect("BadRequest").field_violations[0].field, field);
    }
}

#[test]
fn the_marks_of_a_watch_are_bounded() {
    let limits = |number: usize, reservations| KeyLimits {
        key: KeyRef::new(&format!("a{number}"), "m", "").expect("a key").to_owned(),
        windows: Default::default(),
        reservations,
        denied_at_ceiling: Tokens::default(),
        denied_requests: 0,
        enforcement: Enforcement::On,
        pressure_permille: None,
    };
    let mut sent = Sent::default();
    let mut row = |number, reservations| sent.on_row(&limits(number, reservations), "tier-1");
    assert!((0..MOST_KEYS).all(|number| row(number, 0) == Some(true)));
    assert_eq!(row(MOST_KEYS, 0), None);
    sent.on_end();
    let mut row = |number, reservations| sent.on_row(&limits(number, reservations), "tier-1");
    assert_eq!((row(1, 0), row(2, 1), row(MOST_KEYS, 0)), (Some(false), Some(true), Some(true)));
    for limits in [
        KeyLimits { denied_requests: 1, ..limits(3, 0) },
        KeyLimits { enforcement: Enforcement::Shadow, ..limits(4, 0) },
        KeyLimits { pressure_permille: Some(950), ..limits(5, 0) },
    ] {
        assert_eq!(sent.on_row(&limits, "tier-1"), Some(true), "{limits:?}");
    }
}
