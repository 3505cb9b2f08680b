use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn settlement(id: &str, generated_tokens: Option<u64>) -> End {
    End::Settle(SettleRequest { reservation_id: id.into(), generated_tokens, ..SettleRequest::default() })
}

/// All that goes out when each report arrives at once.
fn delivered(outbox: &mut Outbox, now: Instant) -> Vec<Call> {
    let mut calls = Vec::new();
    while let Some((id, call)) = outbox.take(now) {
        outbox.on_sent(id, Sent::Delivered);
        calls.push(call);
    }
    calls
}

fn progress(total: u64) -> Call {
    Call::ReportProgress(ReportProgressRequest { reservation_id: "r".into(), generated_tokens: total })
}

fn settle(generated: Option<u64>) -> Call {
    let End::Settle(settle) = settlement("r", generated) else { unreachable!("it settles") };
    Call::Settle(settle)
}

fn release() -> Call {
    Call::Release(ReleaseRequest { reservation_id: "r".into() })
}

#[tokio::test(start_paused = true)]
async fn several_reports_of_one_reservation_become_the_fewest_that_say_the_same() {
    let queued: [(&[Call], &[Call]); 9] = [
        (&[progress(5), progress(9), progress(7)], &[progress(9)]),
        (&[progress(5), settle(Some(3))], &[settle(Some(3))]),
        (&[progress(5), settle(None)], &[settle(Some(5))]),
        (&[progress(5), release()], &[progress(5), release()]),
        (&[release(), settle(Some(3))], &[settle(Some(3))]),
        (&[progress(5), release(), settle(None)], &[settle(Some(5))]),
        (&[settle(Some(3)), settle(Some(4)), release(), progress(9)], &[settle(Some(3))]),
        (&[release(), release(), progress(9)], &[release()]),
        (&[settle(None)], &[settle(None)]),
    ];
    for (reports, sent) in queued {
        let mut outbox = Outbox::new(1);
        for report in reports {
            match report {
                Call::ReportProgress(report) => outbox.progress("r", report.generated_tokens),
                Call::Settle(settle) => outbox.end("r", End::Settle(settle.clone())),
                _ => outbox.end("r", End::Release),
            }
            .expect("there is room");
        }
        assert_eq!(delivered(&mut outbox, Instant::now()), sent, "{reports:?}");
        let counts = outbox.counts();
        assert_eq!(counts.delivered + counts.superseded, reports.len() as u64, "none is lost without a number");
        assert!(outbox.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn one_report_of_a_reservation_is_in_flight_at_a_time() {
    let now = Instant::now();
    let mut outbox = Outbox::new(1);
    outbox.end("r", End::Release).expect("there is room");
    let (id, call) = outbox.take(now).expect("one");
    assert_eq!(call, release());
    outbox.end("r", settlement("r", Some(3))).expect("there is room");
    outbox.end("r", settlement("r", Some(4))).expect("there is room");
    assert!(outbox.take(now).is_none());
    // The settlement is still to come where the release has arrived, and takes its place where that is not known.
    for is_known in [true, false] {
        let mut outbox = Outbox::new(1);
        outbox.end("r", End::Release).expect("there is room");
        outbox.take(now).expect("one");
        outbox.end("r", settlement("r", Some(3))).expect("there is room");
        if is_known {
            outbox.on_sent(Arc::clone(&id), Sent::Delivered)
        } else {
            outbox.on_broken(Arc::clone(&id))
        }
        assert_eq!(delivered(&mut outbox, now), [settle(Some(3))]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_rests_as_long_as_it_is_told_and_holds_nobody_up() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3);
    let mut outbox = Outbox::new(2);
    outbox.end("r", settlement("r", Some(3))).expect("there is room");
    let (id, _) = outbox.take(now).expect("one");
    outbox.on_sent(id, Sent::Again(later));
    outbox.end("other", End::Release).expect("there is room");
    assert_eq!(delivered(&mut outbox, now).len(), 1, "the other");
    assert_eq!(outbox.rested_at(), Some(later));
    assert!(outbox.take(later - Duration::from_nanos(1)).is_none());
    assert_eq!(delivered(&mut outbox, later), [settle(Some(3))]);
}

#[derive(Clone, Debug)]
enum Step {
    Progress(u8),
    Settle(u8, bool),
    Release(u8),
    Take,
    Arrives(u8),
    Again(u8),
    Breaks,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..3_u8;
    prop_oneof![
        id.clone().prop_map(Step::Progress),
        (id.clone(), any::<bool>()).prop_map(|(id, states)| Step::Settle(id, states)),
        id.prop_map(Step::Release),
        Just(Step::Take),
        any::<u8>().prop_map(Step::Arrives),
        any::<u8>().prop_map(Step::Again),
        Just(Step::Breaks),
    ]
}

proptest! {
    /// Whatever comes between: each reservation that was given a settlement is settled with the first one's number, or with the newest
    /// total where that leaves it out; each other one that was released is released; nothing stays behind; every report is in a count.
    #[test]
    fn nothing_is_lost_and_the_first_settlement_counts(steps in proptest::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let _inside = runtime.enter();
        let mut now = Instant::now();
        let mut outbox = Outbox::new(3);
        let mut in_flight: Vec<(Id, Call)> = Vec::new();
        let (mut totals, mut first, mut released) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut reports, mut arrived) = (0, Vec::new());
        // Once all of a reservation has arrived, it is forgotten, and its id would begin anew.
        let mut finished = std::collections::BTreeSet::new();
        for (number, step) in (1..).zip(steps) {
            now += Duration::from_millis(1);
            let name = |id: u8| id.to_string();
            match step {
                Step::Progress(id) | Step::Settle(id, _) | Step::Release(id) if finished.contains(&name(id)) => {}
                Step::Progress(id) => {
                    outbox.progress(&name(id), number).expect("three have room");
                    if !first.contains_key(&name(id)) && !released.contains_key(&name(id)) {
                        totals.insert(name(id), number);
                    }
                    reports += 1;
                }
                Step::Settle(id, states) => {
                    let stated = states.then_some(number);
                    outbox.end(&name(id), settlement(&name(id), stated)).expect("three have room");
                    first.entry(name(id)).or_insert(stated);
                    reports += 1;
                }
                Step::Release(id) => {
                    outbox.end(&name(id), End::Release).expect("three have room");
                    released.insert(name(id), ());
                    reports += 1;
                }
                Step::Take => in_flight.extend(outbox.take(now)),
                Step::Arrives(which) if !in_flight.is_empty() => {
                    let (id, call) = in_flight.remove(usize::from(which) % in_flight.len());
                    arrived.push((id.to_string(), call));
                    outbox.on_sent(Arc::clone(&id), Sent::Delivered);
                    if !outbox.entries.contains_key(&id) {
                        finished.insert(id.to_string());
                    }
                }
                Step::Again(which) if !in_flight.is_empty() => {
                    let (id, _) = in_flight.remove(usize::from(which) % in_flight.len());
                    outbox.on_sent(id, Sent::Again(now + Duration::from_millis(5)));
                }
                Step::Arrives(_) | Step::Again(_) => {}
                Step::Breaks => in_flight.drain(..).for_each(|(id, _)| outbox.on_broken(id)),
            }
        }
        in_flight.drain(..).for_each(|(id, _)| outbox.on_broken(id));
        now += Duration::from_secs(1);
        while let Some((id, call)) = outbox.take(now) {
            arrived.push((id.to_string(), call));
            outbox.on_sent(id, Sent::Delivered);
        }
        prop_assert!(outbox.is_empty() && outbox.due.is_empty() && outbox.resting.is_empty());
        prop_assert_eq!(outbox.undelivered(), Undelivered::default());
        let counts = outbox.counts();
        prop_assert_eq!(counts.delivered + counts.superseded, reports);
        for (id, stated) in first {
            let of_it = arrived.iter().filter(|(name, _)| *name == id);
            let settled: Vec<_> = of_it.clone().filter_map(|(_, call)| match call {
                Call::Settle(settle) => Some(settle.generated_tokens),
                _ => None,
            }).collect();
            prop_assert_eq!(settled.len(), 1);
            // Left out, the server takes what was reported last.
            let reported = of_it.filter_map(|(_, call)| match call {
                Call::ReportProgress(report) => Some(report.generated_tokens),
                _ => None,
            }).max();
            let counted = settled[0].or(reported);
            prop_assert_eq!(counted, stated.or_else(|| totals.get(&id).copied()));
            released.remove(&id);
        }
        for id in released.into_keys() {
            prop_assert!(arrived.iter().any(|(name, call)| *name == id && matches!(call, Call::Release(_))));
        }
    }
}
