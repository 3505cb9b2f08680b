//! Many calls in one message, each for itself.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;

use futures_util::future::join_all;
use tidegate_proto::error;
use tidegate_proto::v1::{
    BatchCheckAndReserveResponse, BatchSettleResponse, CallError, CheckAndReserveRequest, CheckAndReserveResult,
    SettleRequest, SettleResult, check_and_reserve_result, settle_result,
};
use tidegate_store::Store;
use tonic::Status;

use super::Limiter;

/// Most calls in one.
const MOST_CALLS: usize = 256;

impl<S: Store> Limiter<S> {
    pub(super) async fn check_all(
        &self,
        calls: &[CheckAndReserveRequest],
    ) -> Result<BatchCheckAndReserveResponse, Status> {
        use check_and_reserve_result::Result::{Error, Response};
        bounded(calls.len())?;
        let results = in_order(calls, |call| call.key.as_ref(), |call| self.check(call)).await;
        let result = |result: Result<_, Status>| CheckAndReserveResult {
            result: Some(result.map_or_else(|status| Error(self.failed("CheckAndReserve", &status)), Response)),
        };
        Ok(BatchCheckAndReserveResponse { results: results.into_iter().map(result).collect() })
    }

    pub(super) async fn settle_all(&self, calls: &[SettleRequest]) -> Result<BatchSettleResponse, Status> {
        use settle_result::Result::{Error, Response};
        bounded(calls.len())?;
        let results = in_order(calls, |call| call.reservation_id.as_str(), |call| self.settled(call)).await;
        let result = |result: Result<_, Status>| SettleResult {
            result: Some(result.map_or_else(|status| Error(self.failed("Settle", &status)), Response)),
        };
        Ok(BatchSettleResponse { results: results.into_iter().map(result).collect() })
    }

    /// The error of one call among others, counted as that of a call by itself.
    pub(super) fn failed(&self, method: &str, status: &Status) -> CallError {
        self.metrics.on_rpc_error(&format!("/tidegate.v1.RateLimiterService/{method}"), status.code());
        error::call_error(status)
    }
}

pub(super) fn bounded(calls: usize) -> Result<(), Status> {
    if calls > MOST_CALLS {
        return Err(error::invalid_field(
            "requests",
            &format!("has {calls} calls; at most {MOST_CALLS} fit one message"),
        ));
    }
    Ok(())
}

/// Makes each call after those before it that name the same, and all others beside them: one that waits for the store holds up
/// nobody else. The results are in the order of the calls.
async fn in_order<'a, C, N: Eq + Hash, R, F: Future<Output = R>>(
    calls: &'a [C],
    name: impl Fn(&'a C) -> N,
    make: impl Fn(&'a C) -> F,
) -> Vec<R> {
    let mut chains: HashMap<N, Vec<usize>> = HashMap::new();
    for (at, call) in calls.iter().enumerate() {
        chains.entry(name(call)).or_default().push(at);
    }
    let make = &make;
    let made = chains.into_values().map(async |chain| {
        let mut results = Vec::with_capacity(chain.len());
        for at in chain {
            results.push((at, make(&calls[at]).await));
        }
        results
    });
    let mut results: Vec<(usize, R)> = join_all(made).await.into_iter().flatten().collect();
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
