//! The test clock's hand: a request whose metadata say what time it is advances the clock before it is decided.

use std::sync::Arc;

use tidegate_core::time::Timestamp;
use tidegate_proto::error;
use tidegate_store::Store;
use tonic::{Request, Status};

use crate::clock::Clock;

/// Metadata of a request: microseconds since 1970, in digits. A time that has passed changes nothing.
pub const METADATA: &str = "tidegate-test-now-us";

/// Advances `clock` to what a request says, doing the store's background work of the time between. Does nothing on the real
/// clock.
pub(crate) fn advance<S: Store>(
    store: Arc<S>,
    clock: Clock,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + Send + Sync + 'static {
    move |request| {
        advance_by(request.metadata().as_ref(), store.as_ref(), &clock)?;
        Ok(request)
    }
}

/// The same, by the headers of a call.
pub(crate) fn advance_by<S: Store>(headers: &http::HeaderMap, store: &S, clock: &Clock) -> Result<(), Status> {
    let Some(micros) = headers.get(METADATA) else { return Ok(()) };
    let micros = micros.to_str().ok().and_then(|digits| digits.parse().ok());
    let micros = micros.ok_or_else(|| error::invalid_field(METADATA, "must be microseconds since 1970"))?;
    clock.advance_to(Timestamp::from_micros(micros), |at| store.on_tick(at));
    Ok(())
}
