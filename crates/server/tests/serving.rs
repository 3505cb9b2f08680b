//! The server in this process, over real sockets: what its callers see when things go wrong, and how it stops.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use running::{Broken, Running, ask, ask_of, reason};
use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::{
    CheckAndReserveRequest, Decision, Pressure, ReportPressureRequest, SettleRequest, WatchLimitsRequest,
};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

mod running;

#[tokio::test]
async fn a_request_is_decided_settled_and_counted() {
    let server = Running::memory(|_| {});
    let mut limiter = server.limiter().await;
    let answer = limiter.check_and_reserve(ask()).await.expect("decided").into_inner();
    assert_eq!((answer.decision(), answer.http_status, answer.windows.len()), (Decision::Allow, 200, 3));
    assert!(answer.headers.iter().any(|header| header.name == "x-ratelimit-limit-tokens-prompt"));
    let settle =
        SettleRequest { reservation_id: answer.reservation_id, generated_tokens: Some(7), ..Default::default() };
    limiter.settle(settle).await.expect("settled");

    let page = server.get("/metrics");
    for row in [
        "tidegate_decisions_total{decision=\"allow\",reason=\"none\",window=\"none\",service_tier=\"standard\"} 1",
        "tidegate_reservations_ended_total{how=\"settled\"} 1",
        "tidegate_tokens_total{window=\"generated\",kind=\"settled\"} 7",
        "tidegate_keys 1",
        "tidegate_connections 1",
        "tidegate_ready 1",
    ] {
        assert!(page.lines().any(|line| line == row), "{row}\n{page}");
    }
    server.join().await;
}

#[tokio::test]
async fn tonics_own_errors_have_our_details() {
    let server = Running::memory(|settings| settings.bounds.limiter_message_bytes = 1_024);
    let mut limiter = server.limiter().await;
    let long = CheckAndReserveRequest { request_id: "x".repeat(2_000), ..ask() };
    let status = limiter.check_and_reserve(long).await.expect_err("too long");
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(status.message().contains("1024 bytes of bounds.limiter_message"), "{status}");
    let page = server.get("/metrics");
    assert!(page.contains("tidegate_bound_reached_total{bound=\"limiter_message\"} 1"), "{page}");
    server.join().await;
}

#[tokio::test]
async fn a_connection_above_the_bound_is_closed_and_counted() {
    let server = Running::memory(|settings| settings.bounds.connections = 1);
    let mut first = server.limiter().await;
    first.check_and_reserve(ask()).await.expect("the one place there is");
    let mut second = TcpStream::connect(server.limiter_address()).expect("the kernel accepts");
    second.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let closed = second.read(&mut [0; 1]);
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert!(server.get("/metrics").contains("tidegate_bound_reached_total{bound=\"connections\"} 1"));
    first.check_and_reserve(ask()).await.expect("undisturbed");
    server.join().await;
}

#[tokio::test]
async fn a_watch_of_limits_follows_decisions_and_does_not_hold_up_the_stop() {
    let mut server = Running::memory(|_| {});
    let admin = format!("http://{}", Running::tcp(server.served.admin.as_ref()));
    let admin = Endpoint::from_shared(admin).expect("a URL").connect().await.expect("connects");
    let mut admin = AdminServiceClient::new(admin);
    let request = WatchLimitsRequest {
        interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        ..Default::default()
    };
    let mut watched = admin.watch_limits(request).await.expect("watches").into_inner();
    assert_eq!(watched.message().await.expect("no error").expect("a message").limits, []);
    server.limiter().await.check_and_reserve(ask()).await.expect("decided");
    let limits = watched.message().await.expect("no error").expect("a message").limits;
    assert_eq!((limits.len(), limits[0].live_reservations), (1, 1));

    server.tell_to_stop();
    // What changed meanwhile may still come.
    while watched.message().await.expect("ends well").is_some() {}
    server.join().await;
}

#[tokio::test]
async fn health_follows_the_process_and_watchers_do_not_hold_it_up() {
    let mut server = Running::memory(|settings| settings.drain = Duration::from_secs(60));
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(server.get("/nothing").starts_with("HTTP/1.1 404"));
    let mut health = HealthClient::new(server.channel().await);
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "tidegate.v1.RateLimiterService"] {
        let answer = health.check(request(service)).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let status = health.check(request("tidegate.v1.AdminService")).await.expect_err("not on this listener");
    assert_eq!(status.code(), Code::NotFound);

    let mut watched = health.watch(request("")).await.expect("watches").into_inner();
    assert_eq!(watched.message().await.expect("a status").expect("one").status(), ServingStatus::Serving);
    server.tell_to_stop();
    assert_eq!(watched.message().await.expect("a status").expect("one").status(), ServingStatus::NotServing);
    assert_eq!(watched.message().await.expect("ends well"), None);
    tokio::time::timeout(Duration::from_secs(30), server.join()).await.expect("stops long before its drain is over");
}

/// A `CheckAndReserveRequest` whose key may hold anything.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let server = Running::memory(|_| {});
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.expect("connected");
    // An account that is no UTF-8.
    let raw = Raw { key: vec![0x0a, 0x01, 0xff] };
    let path = http::uri::PathAndQuery::from_static("/tidegate.v1.RateLimiterService/CheckAndReserve");
    let codec = tonic_prost::ProstCodec::<Raw, Raw>::default();
    let status = client.unary(tonic::Request::new(raw), path, codec).await.expect_err("no message");
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(status.message().contains("LimitKey.account"), "{status}");

    let path = http::uri::PathAndQuery::from_static("/tidegate.v1.RateLimiterService/Nonsense");
    client.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<Raw, Raw>::default();
    let status = client.unary(tonic::Request::new(Raw::default()), path, codec).await.expect_err("no method");
    assert_eq!(reason(&status), (Code::Unimplemented, "NOT_IMPLEMENTED".to_owned()));
    assert!(server.get("/metrics").contains("{method=\"unknown\",code=\"unimplemented\"} 1"));
    server.join().await;
}

macro_rules! reflected {
    ($channel:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

        let list = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: String::new(), message_request: list };
        let answers = ServerReflectionClient::new($channel).server_reflection_info(tokio_stream::once(request)).await;
        let answer = answers.expect("served").into_inner().message().await.expect("an answer").expect("one");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("no list") };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    }};
}

#[tokio::test]
async fn each_listener_reflects_its_own_services_in_both_versions() {
    let server = Running::memory(|_| {});
    let admin = format!("http://{}", Running::tcp(server.served.admin.as_ref()));
    let admin = Endpoint::from_shared(admin).expect("a URL").connect().await.expect("connects");
    for (channel, service) in
        [(server.channel().await, "tidegate.v1.RateLimiterService"), (admin, "tidegate.v1.AdminService")]
    {
        for names in [reflected!(channel.clone(), v1), reflected!(channel.clone(), v1alpha)] {
            assert_eq!(names, [service, "grpc.health.v1.Health"]);
        }
    }
    server.join().await;
}

#[tokio::test]
async fn a_pressure_report_is_taken_whole_or_not_at_all_and_shows_on_the_page() {
    let server = Running::memory(|_| {});
    let mut limiter = server.limiter().await;
    let window = tidegate_proto::v1::Window::Generated.into();
    let pressure = |pressure_permille| Pressure { model: "m".into(), window, pressure_permille, ..Pressure::default() };
    let report =
        |reporter: String, reports| ReportPressureRequest { reporter, reports, ..ReportPressureRequest::default() };
    let bad = report("gateway".into(), vec![pressure(900), pressure(1_000_001)]);
    let status = limiter.report_pressure(bad).await.expect_err("out of range");
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    let field = &status.get_details_bad_request().expect("a bad request").field_violations[0].field;
    assert_eq!(field, "reports[1].pressure_permille");
    assert!(!server.get("/metrics").contains("tidegate_pressure_permille{"), "nothing was taken");

    for reporter in 0..64 {
        limiter.report_pressure(report(reporter.to_string(), vec![pressure(1_200)])).await.expect("in range");
    }
    let status = limiter.report_pressure(report("one more".into(), vec![pressure(5_000)])).await.expect_err("full");
    assert_eq!(reason(&status), (Code::FailedPrecondition, "PRESSURE_FULL".to_owned()));
    let page = server.get("/metrics");
    for row in [
        "tidegate_pressure_permille{model=\"m\",variant=\"\",window=\"generated\"} 1200",
        "tidegate_pressure_stale{model=\"m\",variant=\"\",window=\"generated\"} 0",
        "tidegate_deployments 1",
        "tidegate_bound_reached_total{bound=\"reporters\"} 1",
    ] {
        assert!(page.lines().any(|line| line == row), "{row}\n{page}");
    }
    server.join().await;
}

#[tokio::test]
async fn a_panic_ends_its_call_and_nothing_else() {
    for broken in [Broken::new(), Broken::at_once()] {
        let server = Running::start(broken, |settings| settings.threads = std::num::NonZeroUsize::MIN);
        let mut limiter = server.limiter().await;
        for _ in 0..3 {
            let status = limiter.check_and_reserve(ask_of("panics")).await.expect_err("a bug");
            assert_eq!(reason(&status), (Code::Internal, "INTERNAL".to_owned()));
            assert!(!status.message().contains("bug"), "the inside stays inside: {status}");
            let next = limiter.check_and_reserve(ask()).await.expect("the next call is answered whole").into_inner();
            assert_eq!((next.http_status, next.windows.len()), (200, 3));
        }
        let key = ask().key;
        limiter.get_limits(tidegate_proto::v1::GetLimitsRequest { key }).await.expect("the thread lives on");
        let row = "tidegate_rpc_errors_total{method=\"RateLimiterService/CheckAndReserve\",code=\"internal\"} 3";
        let page = server.get("/metrics");
        assert!(page.lines().any(|line| line == row), "{page}");
        server.join().await;
    }
}

#[tokio::test]
async fn calls_above_the_bound_are_unavailable_and_a_drain_ends() {
    let server = Running::start(Broken::new(), |settings| {
        settings.bounds.calls_in_flight = 1;
        settings.drain = Duration::from_millis(200);
    });
    let mut limiter = server.limiter().await;
    let mut hanging = limiter.clone();
    let hanging = tokio::spawn(async move { hanging.check_and_reserve(ask_of("hangs")).await });
    while !server.get("/metrics").contains("tidegate_calls_in_flight 1") {
        tokio::task::yield_now().await;
    }
    let status = limiter.check_and_reserve(ask()).await.expect_err("no place");
    assert_eq!(reason(&status), (Code::Unavailable, "TOO_BUSY".to_owned()));
    assert!(status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("a probe is answered however busy we are");
    assert!(server.get("/metrics").contains("tidegate_bound_reached_total{bound=\"calls_in_flight\"} 1"));

    server.join().await;
    hanging.await.expect("no panic").expect_err("it was never answered");
}
