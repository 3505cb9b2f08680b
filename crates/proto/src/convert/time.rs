//! Durations and instants. The wire's are signed and may be malformed; the core's are neither.

use std::time::Duration;

use tidegate_core::time::{MICROS_PER_SECOND, Timestamp};

use super::InvalidField;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// The latest instant that `google.protobuf.Timestamp` allows, seconds since the Unix epoch: the end of year 9999.
const MAX_TIMESTAMP_SECONDS: u64 = 253_402_300_799;

/// The longest time that `google.protobuf.Duration` allows, seconds: 10,000 years.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;

/// A duration of at least 0.
///
/// # Errors
/// Names `field` where it is negative, longer than 10,000 years, or has nanos outside 0 to 999,999,999.
pub fn duration(wire: &prost_types::Duration, field: &'static str) -> Result<Duration, InvalidField> {
    let malformed = || InvalidField::new(field, "must be a well-formed duration of at least 0");
    let (seconds, nanos) = parts(wire.seconds, wire.nanos).ok_or_else(malformed)?;
    if seconds > MAX_DURATION_SECONDS {
        return Err(malformed());
    }
    Ok(Duration::new(seconds, nanos))
}

/// An instant from 1970 on, cut down to microseconds.
///
/// # Errors
/// Names `field` where it is before 1970, after 9999, or has nanos outside 0 to 999,999,999.
pub fn timestamp(wire: &prost_types::Timestamp, field: &'static str) -> Result<Timestamp, InvalidField> {
    let malformed = || InvalidField::new(field, "must be a well-formed instant of the years 1970 to 9999");
    let (seconds, nanos) = parts(wire.seconds, wire.nanos).ok_or_else(malformed)?;
    if seconds > MAX_TIMESTAMP_SECONDS {
        return Err(malformed());
    }
    // Cannot overflow: 2.5e11 s are 2.5e17 us.
    Ok(Timestamp::from_micros(seconds * MICROS_PER_SECOND + u64::from(nanos) / 1_000))
}

/// The duration on the wire; saturates at 10,000 years.
#[must_use]
pub fn wire_duration(duration: Duration) -> prost_types::Duration {
    if duration.as_secs() >= MAX_DURATION_SECONDS {
        return prost_types::Duration { seconds: MAX_DURATION_SECONDS.cast_signed(), nanos: 0 };
    }
    prost_types::Duration { seconds: duration.as_secs().cast_signed(), nanos: duration.subsec_nanos().cast_signed() }
}

/// The instant on the wire; saturates at the end of year 9999.
#[must_use]
pub fn wire_timestamp(instant: Timestamp) -> prost_types::Timestamp {
    if instant.as_seconds() > MAX_TIMESTAMP_SECONDS {
        return prost_types::Timestamp { seconds: MAX_TIMESTAMP_SECONDS.cast_signed(), nanos: 0 };
    }
    let micros = u32::try_from(instant.as_micros() % MICROS_PER_SECOND).expect("less than a million");
    prost_types::Timestamp { seconds: instant.as_seconds().cast_signed(), nanos: (micros * 1_000).cast_signed() }
}

/// Seconds and nanos, where both are in range for an amount of at least 0.
fn parts(seconds: i64, nanos: i32) -> Option<(u64, u32)> {
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < NANOS_PER_SECOND)?;
    Some((u64::try_from(seconds).ok()?, nanos))
}
