//! What the page says of the disk, where the store has one.

use metrics::{Counter, Gauge, Label, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use tidegate_store::DiskStats;

use super::catalogue::{self, Described};
use super::{METADATA, float, key};

/// Sets the rows of the disk. Looks each up: a page is drawn a few times a minute.
pub(super) fn set(recorder: &PrometheusRecorder, disk: &DiskStats) {
    let gauge = |described: &Described| -> Gauge { recorder.register_gauge(&key(described, Vec::new()), &METADATA) };
    let counter =
        |described: &Described| -> Counter { recorder.register_counter(&key(described, Vec::new()), &METADATA) };
    let part = vec![Label::from_static_parts("part", "disk")];
    let degraded = recorder.register_gauge(&key(&catalogue::DEGRADED, part), &METADATA);
    degraded.set(if disk.degraded { 1.0 } else { 0.0 });
    gauge(&catalogue::DURABLE_AT).set(float(disk.durable_at.as_micros()) / 1e6);
    gauge(&catalogue::DISK_LATE).set(disk.late.as_secs_f64());
    gauge(&catalogue::DISK_BATCH).set(disk.last_batch.as_secs_f64());
    gauge(&catalogue::DISK_BYTES).set(float(disk.disk_bytes));
    counter(&catalogue::DISK_BATCHES).absolute(disk.batches);
    counter(&catalogue::DISK_KEYS).absolute(disk.keys_written);
    counter(&catalogue::DISK_WRITTEN).absolute(disk.bytes_written);
    counter(&catalogue::DISK_FAILURES).absolute(disk.failures);
}
