//! Which gRPC services stand on which listener: the limiter's and the admin's, each with health and reflection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use prost_types::FileDescriptorSet;
use tidegate_proto::v1::admin_service_server::{AdminServiceServer, SERVICE_NAME as ADMIN};
use tidegate_proto::v1::rate_limiter_service_server::{RateLimiterServiceServer, SERVICE_NAME as LIMITER};
use tidegate_store::Store;
use tonic::service::Routes;
#[cfg(feature = "test-clock")]
use tonic::service::interceptor::InterceptedService;
use tonic_reflection::server::Builder as Reflection;

use crate::admin::Admin;
use crate::admin::watch::Watches;
use crate::clock::Clock;
use crate::config::Bounds;
use crate::connection::Peer;
use crate::front::Front;
use crate::health::HealthService;
use crate::limiter::Limiter;
use crate::metrics::{Metrics, ServerBound};
use crate::readiness::Readiness;
use crate::reply::Reply;
#[cfg(feature = "test-clock")]
use crate::test_time;

const HEALTH: &str = "grpc.health.v1.Health";

/// Methods with many calls in a message.
const BATCHES: [&str; 2] =
    ["/tidegate.v1.RateLimiterService/BatchCheckAndReserve", "/tidegate.v1.RateLimiterService/BatchSettle"];

/// How many bytes a message to a method of the limiter's may have, and which bound that is.
pub(crate) fn limiter_message(bounds: &Bounds, path: &str) -> (ServerBound, usize) {
    if BATCHES.contains(&path) {
        (ServerBound::BatchMessage, bounds.batch_message_bytes)
    } else {
        (ServerBound::LimiterMessage, bounds.limiter_message_bytes)
    }
}

/// How many bytes a message to the admin's may have, and which bound that is.
pub(crate) const fn admin_message(bounds: &Bounds, _: &str) -> (ServerBound, usize) {
    (ServerBound::AdminMessage, bounds.admin_message_bytes)
}

/// What the limiter's listeners serve.
pub(crate) fn limiter<S: Store>(limiter: Limiter<S>, bounds: Bounds, readiness: &Readiness) -> Front<S> {
    let service = |bytes| RateLimiterServiceServer::new(limiter.clone()).max_decoding_message_size(bytes);
    let mut router = Routes::new(service(bounds.limiter_message_bytes)).into_axum_router();
    for path in BATCHES {
        router = router.route_service(path, service(bounds.batch_message_bytes));
    }
    let routes = with_health_and_reflection(Routes::from(router), LIMITER, readiness);
    Front::new(limiter, routes, bounds)
}

/// What the admin listener serves.
pub(crate) fn admin<S: Store>(
    store: Arc<S>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bounds: &Bounds,
    readiness: &Readiness,
) -> Routes {
    #[cfg(feature = "test-clock")]
    let advance = test_time::advance(Arc::clone(&store), clock.clone());
    let service =
        AdminServiceServer::new(Admin::new(store, clock).with_watches(Watches::new(metrics, readiness.clone())));
    let service = service.max_decoding_message_size(bounds.admin_message_bytes);
    #[cfg(feature = "test-clock")]
    let service = InterceptedService::new(service, advance);
    with_health_and_reflection(Routes::new(service), ADMIN, readiness)
}

/// Generated services as they are, which find in each call who made it.
#[derive(Clone, Debug)]
pub(crate) struct Generated {
    pub(crate) routes: Routes,
    pub(crate) peer: Peer,
}

impl Service<Request<Incoming>> for Generated {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(tonic::body::Body::new);
        request.extensions_mut().insert(self.peer.clone());
        let answer = tower::Service::call(&mut self.routes.clone(), request);
        Box::pin(async move { answer.await.map(|response| response.map(Reply::Generated)) })
    }
}

fn with_health_and_reflection(routes: Routes, service: &'static str, readiness: &Readiness) -> Routes {
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(tidegate_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name(HEALTH)
    };
    let built_in = "the descriptors were made by our own build";
    routes
        .add_service(HealthService::server(readiness.clone(), service))
        .add_service(reflection().build_v1().expect(built_in))
        .add_service(reflection().build_v1alpha().expect(built_in))
}

/// The path of every method that tidegate serves or will serve, for the labels of metrics.
pub(crate) fn method_paths() -> Vec<String> {
    let descriptors: FileDescriptorSet = prost::Message::decode(tidegate_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were made by our own build");
    let mut paths = vec![format!("/{HEALTH}/Check"), format!("/{HEALTH}/Watch")];
    for file in &descriptors.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    paths
}
