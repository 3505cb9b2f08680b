//! SIGTERM: readiness goes first, calls in flight are answered, the exit code is 0. And the Unix socket, whose file must
//! survive neither too long nor too short.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::{get, try_get};
use tidegate_tests::server::{Build, Setup};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;
use tower::service_fn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_answers_every_call_and_exits_0() {
    let mut server = Setup::release().start();
    assert_eq!(get(server.http(), "/readyz").0, 200);
    assert_eq!(get(server.http(), "/healthz").0, 200);
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("before")).await;

    // Calls keep coming while it stops: each is answered or refused as a whole, none hangs, none is cut off half way.
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
        // Refused by the server, or never sent: the client gives up what it had queued on a connection that closes.
        let [status] = refused.as_slice() else { panic!("it stopped asking without a refusal") };
        let never_sent = status.code() == tonic::Code::Cancelled && format!("{status:?}").contains("connection closed");
        assert!(status.code() == tonic::Code::Unavailable || never_sent, "{status:?}");
    }
    let status = server.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.output());
    assert!(try_get(server.http(), "/readyz").is_err(), "nobody listens any more");
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
