//! What the page says of the shared store, where there is one.

use metrics::{Counter, Gauge, Label, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use tidegate_core::window::Window;
use tidegate_store::FleetStats;

use super::catalogue::{self, Described};
use super::{METADATA, float, key};

/// Sets the rows of the store. Looks each up: a page is drawn a few times a minute.
pub(super) fn set(recorder: &PrometheusRecorder, fleet: &FleetStats, degraded_seconds: u64) {
    let gauge = |described: &Described| -> Gauge { recorder.register_gauge(&key(described, Vec::new()), &METADATA) };
    let counter = |described: &Described, labels: Vec<Label>| -> Counter {
        recorder.register_counter(&key(described, labels), &METADATA)
    };
    let part = vec![Label::from_static_parts("part", "store")];
    let degraded = recorder.register_gauge(&key(&catalogue::DEGRADED, part), &METADATA);
    degraded.set(if fleet.answers { 0.0 } else { 1.0 });
    gauge(&catalogue::SIDECARS).set(float(fleet.sidecars));
    gauge(&catalogue::LEASES).set(float(fleet.leases));
    gauge(&catalogue::STORE_OVER).set(float(fleet.most_over_tokens));
    counter(&catalogue::STORE_CALLS, Vec::new()).absolute(fleet.reports);
    gauge(&catalogue::STORE_SECONDS).set(fleet.report_takes.as_secs_f64());
    counter(&catalogue::STORE_FAILURES, Vec::new()).absolute(fleet.failures);
    counter(&catalogue::STORE_TIMEOUTS, Vec::new()).absolute(fleet.timeouts);
    counter(&catalogue::STORE_QUEUE_FULL, Vec::new()).absolute(fleet.queue_full);
    counter(&catalogue::STORE_LOST, Vec::new()).absolute(fleet.lost);
    counter(&catalogue::STORE_DEGRADED_SECONDS, Vec::new()).absolute(degraded_seconds);
    let by = |by: &'static str| vec![Label::from_static_parts("by", by)];
    let leased = fleet.decisions.saturating_sub(fleet.degraded_decisions);
    counter(&catalogue::STORE_DECISIONS, by("lease")).absolute(leased);
    counter(&catalogue::STORE_DECISIONS, by("degraded")).absolute(fleet.degraded_decisions);
    counter(&catalogue::STORE_RESERVATIONS, by("carried")).absolute(fleet.carried);
    counter(&catalogue::STORE_RESERVATIONS, by("taken_over")).absolute(fleet.taken_over);
    for (kind, tokens) in
        [("granted", &fleet.granted_tokens), ("admitted", &fleet.admitted_tokens), ("degraded", &fleet.degraded_tokens)]
    {
        for window in Window::ALL {
            let labels =
                vec![Label::from_static_parts("window", window.name()), Label::from_static_parts("kind", kind)];
            counter(&catalogue::STORE_TOKENS, labels).absolute(tokens[window]);
        }
    }
}
