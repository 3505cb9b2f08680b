//! SIGTERM: readiness goes first, calls in flight are answered, the exit code is 0. And the Unix socket, whose file must
//! survive neither too long nor too short.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tidegate_proto::v1::CheckAndReserveResponse;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::{Page, get, try_get};
use tidegate_tests::server::{Build, Setup};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;
use tonic::transport::Endpoint;
use tower::service_fn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_answers_every_call_and_exits_0() {
    let mut server = Setup::release().start();
    assert_eq!(get(server.http(), "/readyz").0, 200);
    assert_eq!(get(server.http(), "/healthz").0, 200);
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("before")).await;

    // Calls keep coming while it stops: each is answered or refused, and none hangs.
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                let (mut answered, mut refused) = (0, Vec::new());
                for _ in 0..100_000 {
                    match gateway.ask(&Ask::of(&format!("caller {caller}"))).await {
                        Ok(answer) => answered += u64::from(answer.allowed()),
                        Err(status) => {
                            refused.push(status);
                            break;
                        }
                    }
                }
                (answered, refused)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.terminate();
    for caller in callers {
        let (answered, refused) = caller.await.expect("it does not panic");
        assert!(answered > 0);
        // How its client says that the connection went is not ours; that nobody is left waiting is.
        let [refused] = &refused[..] else { panic!("{answered} answered, none refused") };
        assert!(!matches!(refused.code(), Code::DeadlineExceeded | Code::InvalidArgument), "{refused:?}");
    }
    let status = server.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.output());
    assert!(try_get(server.http(), "/readyz").is_err(), "nobody listens any more");
}

/// A call whose message is still on its way when the signal comes is in flight: it is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_at_the_signal_is_answered() {
    let mut server = Setup::release().start();
    let stream = TcpStream::connect(server.limiter()).await.expect("it listens");
    let (client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://tidegate/tidegate.v1.RateLimiterService/CheckAndReserve")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let mut client = client.ready().await.expect("it takes calls");
    let (answer, mut message) = client.send_request(request, false).expect("it takes this one");
    let bytes = Ask::of("in flight").request.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(bytes.len()).expect("it is short").to_be_bytes());
    frame.extend(bytes);
    let rest = frame.split_off(3);
    message.send_data(frame.into(), false).expect("it is read");

    while Page::scrape(server.http()).sum("tidegate_calls_in_flight", &[]) < 1.0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    server.terminate();
    while try_get(server.http(), "/readyz").is_ok_and(|(status, _)| status == 200) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    message.send_data(rest.into(), true).expect("it is still read");
    let answer = answer.await.expect("it is answered");
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut received = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("the whole answer comes");
        body.flow_control().release_capacity(data.len()).expect("it was received");
        received.extend(data);
    }
    let trailers = body.trailers().await.expect("the answer ends as it should").expect("with its status");
    assert_eq!(trailers.get("grpc-status").and_then(|status| status.to_str().ok()), Some("0"), "{trailers:?}");
    let answer = CheckAndReserveResponse::decode(&received[5..]).expect("it is an answer");
    assert!(answer.allowed(), "{answer:?}");
    drop(client);
    connection.await.expect("it does not panic").expect("the connection ends in good order");
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0), "{}", server.output());
}

#[tokio::test]
async fn readiness_is_off_from_the_signal_on() {
    let mut server = Setup::release().arguments(["--drain", "5s"]).start();
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("a")).await;
    let (code, _, error) = server.run(Build::Release, &["health"]);
    assert_eq!(code, Some(0), "{error}");
    server.terminate();
    // From now on it says that it is not ready, or does not answer at all; it never says that it is.
    while let Ok((status, body)) = try_get(server.http(), "/readyz") {
        assert!(status == 503 || status == 0 || status == 200, "{status} {body}");
        if status == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0), "{}", server.output());
    let (code, _, _) = server.run(Build::Release, &["health"]);
    assert_eq!(code, Some(1), "nobody is there");
}

#[tokio::test]
async fn the_unix_socket_serves_the_same_limits_and_takes_over_a_dead_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tidegate.sock");
    // A socket file that nobody listens on: its server was killed.
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let text = path.to_str().expect("UTF-8").to_owned();
    let mut server = Setup::release().arguments(["--unix-socket", &text]).start();
    let metadata = path.metadata().expect("it exists");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);

    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100; 3]).await;
    let ask = Ask::of("acme").tokens(60, 60, 0);
    gateway.allow(&ask).await;
    let at = path.clone();
    let connector = service_fn(move |_| {
        let at = at.clone();
        async move { UnixStream::connect(at).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://tidegate.invalid");
    let channel = endpoint.connect_with_connector(connector).await.expect("the socket serves");
    let answer = RateLimiterServiceClient::new(channel).check_and_reserve(ask.request.clone()).await.expect("decided");
    assert!(!answer.into_inner().allowed(), "60 of 100 were used over TCP");

    let (exit, output) = Setup::release().arguments(["--unix-socket", &text]).refused();
    assert_eq!(exit, Some(1), "somebody listens there: {output}");
    assert!(output.contains(&text), "{output}");
    let target = format!("unix:{text}");
    let check = ["check", "--target", &target, "--account", "acme", "--model", "m", "--prompt", "40", "--json"];
    let (exit, output, error) = server.run(Build::Release, &check);
    assert_eq!(exit, Some(0), "{output}{error}");

    server.terminate();
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0), "{}", server.output());
    assert!(!path.exists(), "the file goes with its server");
}
