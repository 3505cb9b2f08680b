//! Clients that nobody here wrote: Python's grpcio with stubs generated from the protos, and grpcurl over reflection.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::process::Command;

use tidegate_tests::server::{Setup, root};
use tidegate_tests::skip;

#[test]
fn a_python_client_calls_every_rpc() {
    let Some(python) = skip::python() else { return };
    let server = Setup::release().start();
    let output = Command::new(python)
        .arg(root().join("tests/python/every_rpc.py"))
        .args(["--proto", root().join("proto").to_str().expect("UTF-8")])
        .args(["--limiter", server.limiter(), "--admin", server.admin()])
        .output()
        .expect("python starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", server.output());
}

#[test]
fn grpcurl_finds_its_way_by_reflection() {
    let Some(python) = skip::python() else { return };
    let grpcurl = python.with_file_name("grpcurl");
    if !grpcurl.exists() {
        return skip::skip("grpcurl is not installed");
    }
    let server = Setup::release().start();
    let run = |arguments: &[&str]| {
        let output = Command::new(&grpcurl).arg("-plaintext").args(arguments).output().expect("grpcurl starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let services = run(&[server.limiter(), "list"]);
    assert!(services.contains("tidegate.v1.RateLimiterService"), "{services}");
    assert!(!services.contains("AdminService"), "the admin service is on its own listener alone: {services}");
    assert!(run(&[server.admin(), "list"]).contains("tidegate.v1.AdminService"));
    let described = run(&[server.limiter(), "describe", "tidegate.v1.RateLimiterService.CheckAndReserve"]);
    assert!(described.contains("CheckAndReserveRequest"), "{described}");
    let ask = r#"{"key": {"account": "acme", "model": "m"}, "prompt_tokens": 12}"#;
    let answer = run(&["-d", ask, server.limiter(), "tidegate.v1.RateLimiterService/CheckAndReserve"]);
    assert!(answer.contains("DECISION_ALLOW"), "{answer}");
    let health = run(&[server.limiter(), "grpc.health.v1.Health/Check"]);
    assert!(health.contains("SERVING"), "{health}");
}
