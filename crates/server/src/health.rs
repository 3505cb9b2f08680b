//! `grpc.health.v1.Health`: SERVING while decisions are being answered.
//!
//! Rejected: the service of `tonic-health`. Its `Watch` streams end only when their status is cleared, and a status that
//! is cleared answers NOT_FOUND: a single watching client would either hold up every shutdown for the whole drain or be
//! told something wrong. Here a watcher hears NOT_SERVING, then its stream ends.

use std::pin::Pin;

use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::readiness::{Phase, Readiness};

/// The health service of one listener.
#[derive(Clone, Debug)]
pub(crate) struct HealthService {
    readiness: Readiness,
    service: &'static str,
}

impl HealthService {
    /// Answers for the whole process (the empty name) and for `service`; NOT_FOUND for any other.
    pub(crate) fn server(readiness: Readiness, service: &'static str) -> HealthServer<Self> {
        HealthServer::new(Self { readiness, service })
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || service == self.service
    }
}

fn status(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if self.knows(&request.get_ref().service) {
            return Ok(Response::new(status(self.readiness.is_ready())));
        }
        Err(Status::not_found(format!("service: this listener serves {} only", self.service)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let mut readiness = self.readiness.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let phase = readiness.see();
                let answer = match known {
                    true => status(phase == Phase::Serving),
                    false => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
                };
                if sender.send(Ok(answer)).await.is_err() || phase == Phase::Stopping {
                    return;
                }
                tokio::select! {
                    changed = readiness.changed() => if !changed { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
