//! Every metric: its name, kind, unit, labels and meaning. `docs/metrics.md` says the same; a test compares them.

/// What a metric counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, from 0 at start.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    /// Its name on the page.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) meaning: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal in $unit:literal by [$($label:literal),*]: $meaning:literal;)*) => {
        $(pub(crate) const $constant: Described = Described {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            meaning: $meaning,
        };)*

        /// Every metric, in the order of `docs/metrics.md`.
        pub(crate) const ALL: &[Described] = &[$($constant),*];
    };
}

metrics! {
    DECISIONS = Counter "tidegate_decisions_total" in "decisions" by ["decision", "reason", "window", "service_tier"]:
        "Answers to CheckAndReserve, repeated ones included. Their sum is the number of decisions";
    SHADOW_DECISIONS = Counter "tidegate_shadow_decisions_total" in "decisions" by ["decision", "reason", "window", "service_tier"]:
        "Denials that shadow answered with ALLOW, by what enforcement would have answered. Above, they count as allow";
    ENFORCEMENT_SHADOW = Gauge "tidegate_enforcement_shadow" in "0 or 1, tiers, accounts" by ["scope"]:
        "Limits in shadow: 1 where the global switch says so for all, and how many tiers and accounts say so for themselves";
    DECISION_SECONDS = Histogram "tidegate_decision_seconds" in "seconds" by []:
        "Time from a parsed CheckAndReserve to its answer, without the network";
    TOKENS = Counter "tidegate_tokens_total" in "tokens" by ["window", "kind"]:
        "Tokens admitted (charged and held by an ALLOW), settled (first stated by progress or settlement), denied (asked for), and those that shadow let through (asked for)";
    RESERVATIONS = Gauge "tidegate_reservations" in "reservations" by []:
        "Live reservations";
    RESERVATIONS_ENDED = Counter "tidegate_reservations_ended_total" in "reservations" by ["how"]:
        "Reservations settled, released or expired, and settlements that came late (after one of these, or unknown here)";
    REMEMBERED = Gauge "tidegate_reservations_remembered" in "reservations" by []:
        "Ended reservations and request ids that are remembered one by one";
    HELD_TOKENS = Gauge "tidegate_held_tokens" in "tokens" by ["window"]:
        "Tokens held for output that is expected but not reported yet";
    KEYS = Gauge "tidegate_keys" in "limit keys" by []:
        "Limit keys in the table";
    UNKNOWN_ACCOUNT_KEYS = Gauge "tidegate_unknown_account_keys" in "limit keys" by []:
        "Of these, keys of accounts that nobody configured";
    KEYS_EVICTED = Counter "tidegate_keys_evicted_total" in "limit keys" by []:
        "Limit keys forgotten while they were idle";
    BOUND_REACHED = Counter "tidegate_bound_reached_total" in "refusals" by ["bound"]:
        "Times that a bound was reached: something was refused, or (remembered) forgotten early";
    FLOOR_ABOVE_CEILING = Counter "tidegate_floor_above_ceiling_total" in "limit keys" by []:
        "Limit keys seen whose merged floor is above their merged ceiling; the floor won";
    DEPLOYMENTS = Gauge "tidegate_deployments" in "deployments" by []:
        "Deployments (model and variant) whose pressure somebody reported within a day";
    PRESSURE = Gauge "tidegate_pressure_permille" in "permille" by ["model", "variant", "window"]:
        "Smoothed pressure of a deployment, 1000 is at its objective. The 100 deployments with the greatest; none while stale";
    PRESSURE_STALE = Gauge "tidegate_pressure_stale" in "0 or 1" by ["model", "variant", "window"]:
        "1 where reports of a deployment's pressure have ended: its limits neither grow nor are squeezed. Of the same deployments";
    WATER_LEVEL = Gauge "tidegate_water_level_tpm" in "tokens a minute" by ["model", "variant", "window"]:
        "What a busy deployment caps effective limits to, but for floors. Of the same deployments; none while it does not";
    SCRAPES = Counter "tidegate_scrapes_total" in "scrapes" by ["result"]:
        "Looks at the metrics pages of serving engines, by how they ended. Only ok is reported as pressure";
    RPC_ERRORS = Counter "tidegate_rpc_errors_total" in "calls" by ["method", "code"]:
        "Calls answered with a gRPC error. A denial is no error";
    CONNECTIONS = Gauge "tidegate_connections" in "connections" by []:
        "Open connections to the limiter";
    CALLS_IN_FLIGHT = Gauge "tidegate_calls_in_flight" in "calls" by []:
        "Limiter calls being answered";
    READY = Gauge "tidegate_ready" in "0 or 1" by []:
        "1 while decisions are being answered; 0 before, and from SIGTERM on";
    DEGRADED = Gauge "tidegate_degraded" in "0 or 1" by ["part"]:
        "1 while a part that decisions do not wait for is not as it should be. disk: what is on disk is more than 2 s old, or the last attempt to write failed. store: the shared store does not answer";
    DURABLE_AT = Gauge "tidegate_durable_at_seconds" in "seconds since 1970" by []:
        "Everything up to this instant survives a kill -9. Only with --data-dir, as all rows of the disk";
    DISK_LATE = Gauge "tidegate_disk_late_seconds" in "seconds" by []:
        "How long ago that is";
    DISK_BATCH = Gauge "tidegate_disk_batch_seconds" in "seconds" by []:
        "How long the last batch took, from the first key that it copied to the answer of the disk";
    DISK_BATCHES = Counter "tidegate_disk_batches_total" in "batches" by []:
        "Batches on disk";
    DISK_KEYS = Counter "tidegate_disk_keys_total" in "limit keys" by []:
        "Keys in these batches; a key that changes all the time counts in each";
    DISK_WRITTEN = Counter "tidegate_disk_written_bytes_total" in "bytes" by []:
        "Bytes of these batches, before the storage engine writes them";
    DISK_BYTES = Gauge "tidegate_disk_bytes" in "bytes" by []:
        "Bytes that the data directory takes";
    DISK_FAILURES = Counter "tidegate_disk_failures_total" in "attempts" by []:
        "Attempts to write that came to nothing; what was in them is written with a later one";
    SIDECARS = Gauge "tidegate_store_sidecars" in "sidecars" by []:
        "Sidecars that the shared store saw within 10 s, as of its last answer. Only with a shared store, as all rows of the store";
    LEASES = Gauge "tidegate_store_leases" in "limit keys" by []:
        "Keys of which this sidecar has a lease, or had one in the last minutes";
    STORE_CALLS = Counter "tidegate_store_calls_total" in "calls" by []:
        "Reports to the shared store that were answered; each asks for a lease or gives one back";
    STORE_SECONDS = Gauge "tidegate_store_call_seconds" in "seconds" by []:
        "How long a report takes, there and back: a mean that forgets, of the last 16 or so";
    STORE_FAILURES = Counter "tidegate_store_failures_total" in "failures" by []:
        "Connections to the shared store refused or broken, answers that did not come within a second, and errors";
    STORE_TIMEOUTS = Counter "tidegate_store_timeouts_total" in "decisions" by []:
        "Decisions that waited for the shared store in vain; the degrade mode made them";
    STORE_QUEUE_FULL = Counter "tidegate_store_queue_full_total" in "decisions" by []:
        "Decisions that found too many waiting for the shared store; the degrade mode made them";
    STORE_DECISIONS = Counter "tidegate_store_decisions_total" in "decisions" by ["by"]:
        "Decisions by what decided: a lease, or the degrade mode (with what is left of a lease)";
    STORE_DEGRADED_SECONDS = Counter "tidegate_store_degraded_seconds_total" in "seconds" by []:
        "Time for which the shared store did not answer, as seen once a second";
    STORE_TOKENS = Counter "tidegate_store_tokens_total" in "tokens" by ["window", "kind"]:
        "Tokens granted by the shared store, admitted, and those of the latter that were admitted while it was away. Leases are efficient where granted is little more than admitted";
    STORE_OVER = Gauge "tidegate_store_most_over_tokens" in "tokens" by []:
        "The most by which the fleet was seen to count more than a limit, since the start: debts, limits that fell, and what was admitted while the store was away";
    STORE_LOST = Counter "tidegate_store_data_lost_total" in "losses" by []:
        "Times that data of the shared store were found lost, one for each of its 64 slots; nothing is granted for 5 s then";
    STORE_RESERVATIONS = Counter "tidegate_store_reservation_calls_total" in "calls" by ["by"]:
        "Progress, settlements and releases of reservations that another sidecar admitted: carried to it (by=\"carried\"), or booked here because it is gone (by=\"taken_over\")";
    INSECURE_ADMIN = Gauge "tidegate_insecure_admin" in "0 or 1" by []:
        "1 where the admin API was opened to the network with --insecure-admin";
    BUILD_INFO = Gauge "tidegate_build_info" in "1" by ["version"]:
        "Always 1; says which version runs";
}

/// Upper bounds of the buckets of [`DECISION_SECONDS`]: a decision takes microseconds, a stall up to seconds.
pub(crate) const DECISION_BUCKETS: [f64; 16] =
    [1e-6, 2e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 100e-3, 1.0, 10.0];
