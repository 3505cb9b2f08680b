//! Shadow: what is let through, what is not, and that nothing comes of it.

use tidegate_core::policy::{Enforcement, EnforcementSwitch};

use super::*;

fn switched(store: &MemoryStore, enforcement: Enforcement) {
    let entry = Written::Enforcement(EnforcementSwitch { enforcement, revision: 0 });
    let write = PolicyWrite::Update { entry, expected_revision: None };
    now(store.write(START, write, Author::default(), false)).expect("written");
}

fn reserve(store: &MemoryStore, at: Timestamp, request: &Request<'_>) -> Reserved {
    now(store.check_and_reserve(at, request)).expect("no request id")
}

/// One store enforces, one is in shadow, and both are asked the same: what shadow says beside its ALLOW is what enforcement
/// says, number by number, whatever gateways report of the requests that were let through.
#[test]
fn shadow_says_what_enforcement_says_of_the_same_arrivals() {
    let (on, shadow) = (store(MemoryBounds::default(), 1_000), store(MemoryBounds::default(), 1_000));
    switched(&shadow, Enforcement::Shadow);
    let mut random = 7_u64;
    let (mut denied, mut at) = (0, START);
    for _ in 0..2_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        at = at.after(Duration::from_millis(random >> 54));
        let most = Some(random >> 40 & 0xff);
        let request = Request { max_generated_tokens: most, ..request("acme", (random >> 33) % 300 + 1) };
        let (enforced, shadowed) = (reserve(&on, at, &request), reserve(&shadow, at, &request));
        assert_eq!(enforced.answer.outcome.is_err(), shadowed.shadow);
        assert!(!enforced.shadow && shadowed.reservation_id.is_some());
        assert_eq!(enforced.answer.windows, shadowed.answer.windows);
        let counts = SettleCounts { generated_tokens: Some(random >> 57), ..SettleCounts::default() };
        let enforced_id = enforced.id_text(request.key);
        let id = shadowed.id_text(request.key).expect("an id");
        match (enforced.answer.outcome, shadowed.answer.outcome) {
            (Err(enforced), Err(shadowed)) => {
                assert_eq!(enforced, shadowed);
                assert_eq!(now(shadow.report_progress(at, &id, 900)), Err(EndError::NothingReserved));
                assert_eq!(now(shadow.settle(at, &id, counts)), Err(EndError::NothingReserved));
                assert_eq!(now(shadow.settle(at, &id, counts)), Err(EndError::NothingReserved));
                assert_eq!(now(shadow.release(at, &id)), Err(EndError::NothingReserved));
                denied += 1;
            }
            (Ok(_), Ok(_)) => {
                let enforced = enforced_id.expect("an id");
                let booked = now(on.settle(at, &enforced, counts)).expect("live");
                assert_eq!(now(shadow.settle(at, &id, counts)), Ok(booked));
            }
            (enforced, shadowed) => panic!("{enforced:?} but {shadowed:?}"),
        }
    }
    assert!((500..1_900).contains(&denied), "{denied} denied");
    assert_eq!(on.stats(), shadow.stats());
}

#[test]
fn the_switch_acts_on_the_next_decision_and_back() {
    let store = store(MemoryBounds::default(), 100);
    ask(&store, START, &request("acme", 100)).expect("it fits");
    let outcome = |prompt| {
        let reserved = reserve(&store, START, &request("acme", prompt));
        (reserved.shadow, reserved.answer.outcome.map(|_| ()).map_err(|denied| denied.denial))
    };
    assert_eq!(outcome(1), (false, Err(Denial::WindowFull)));
    switched(&store, Enforcement::Shadow);
    assert_eq!(outcome(1), (true, Err(Denial::WindowFull)));
    assert_eq!(outcome(101), (true, Err(Denial::NeverFits)));
    switched(&store, Enforcement::On);
    assert_eq!(outcome(1), (false, Err(Denial::WindowFull)));
    let rows = now(store.list_limits(START, &ListQuery { page_size: 1, ..ListQuery::default() })).rows;
    assert_eq!((rows[0].denied_requests, rows[0].enforcement), (4, Enforcement::On));
}

/// What is no limit stays as it is: blocked accounts, and bounds of the process.
#[test]
fn blocks_and_bounds_hold_in_shadow() {
    let store = store(MemoryBounds { reservations: 1, ..MemoryBounds::default() }, 100);
    switched(&store, Enforcement::Shadow);
    let account = Account { name: "spammer".into(), blocked: true, ..Account::default() };
    let write = PolicyWrite::Create(Written::Account(account));
    now(store.write(START, write, Author::default(), false)).expect("new");
    ask(&store, START, &request("acme", 1)).expect("it fits");
    for (account, denial) in [("spammer", Denial::AccountBlocked), ("acme", Denial::Capacity(Bound::Reservations))] {
        let reserved = reserve(&store, START, &request(account, 1));
        assert_eq!(reserved.answer.outcome.map_err(|denied| denied.denial), Err(denial));
        assert!(!reserved.shadow && reserved.reservation_id.is_none());
    }
    // A key that was never seen: it is let through, and leaves no trace.
    let reserved = reserve(&store, START, &request("giant", 101));
    assert!(reserved.shadow);
    assert_eq!((store.stats().keys, store.stats().reservations), (1, 1));
    let other = reserve(&store, START, &request("giant", 101));
    assert_ne!(reserved.reservation_id, other.reservation_id, "two requests have two ids");
}
