//! A store behind TLS: `serve` processes on a real Redis that takes encrypted connections.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tidegate_proto::v1::DenyReason;
use tidegate_tests::fleet::{self, LIMIT};
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::port::Port;
use tidegate_tests::redis::{Kind, Setup};
use tidegate_tests::server;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(folder: &Path, name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    fs::write(folder.join(name), authority.pem()).expect("a temporary folder can be written");
    authority
}

/// How to start a sidecar on the TLS port, which trusts the authority of this file.
fn sidecar(port: &Port, roots: &Path) -> server::Setup {
    let url = format!("rediss://:secret@localhost:{}", port.number());
    let bounds = format!("{{ floor = {LIMIT}, ceiling = {LIMIT} }}");
    let config = format!(
        "[store]\nurl = \"redis://127.0.0.1:1\"\ndegrade = \"closed\"\nca = \"{}\"\n[tiers.tier-1.bounds]\nprompt = {bounds}\n",
        roots.display()
    );
    server::Setup::release().config(&config).environment("TIDEGATE_STORE", &url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_shares_its_limits_through_a_store_behind_tls_whose_certificate_it_checks() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [path, other] = ["ca.pem", "other.pem"].map(|name| folder.path().join(name));
    let authority = authority(folder.path(), "ca.pem");
    let _stranger = self::authority(folder.path(), "other.pem");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let [certificate_file, key_file] = ["server.pem", "server.key"].map(|name| folder.path().join(name));
    fs::write(&certificate_file, certificate.pem()).expect("a temporary folder can be written");
    fs::write(&key_file, key.serialize_pem()).expect("a temporary folder can be written");
    let port = Port::free();
    let store = setup
        .password("secret")
        .directive("tls-port", &port.number().to_string())
        .directive("tls-cert-file", &certificate_file.display().to_string())
        .directive("tls-key-file", &key_file.display().to_string())
        .directive("tls-ca-cert-file", &path.display().to_string())
        .directive("tls-auth-clients", "no")
        .start();
    let fleet = fleet::Fleet { sidecars: vec![sidecar(&port, &path).start(), sidecar(&port, &path).start()] };
    let half = Ask::of("shared").tokens(LIMIT / 2, 0, 0);
    let [one, two] = [Gateway::of(&fleet.sidecars[0]).await, Gateway::of(&fleet.sidecars[1]).await];
    one.allow(&half).await;
    two.allow(&half).await;
    assert_eq!(one.deny(&half).await.reason(), DenyReason::WindowFull, "one limit");
    assert!(fleet.sum("tidegate_degraded", &[("part", "store")]) < 0.5);
    let log = fleet.sidecars[0].output();
    assert!(log.contains(&format!("rediss://localhost:{}", port.number())) && !log.contains("secret"), "{log}");

    // Who trusts somebody else talks to nobody, and says why.
    let wary = sidecar(&port, &other).start();
    assert!((Page::scrape(wary.http()).sum("tidegate_degraded", &[("part", "store")]) - 1.0).abs() < 0.1);
    let denied = Gateway::of(&wary).await.deny(&half).await;
    assert_eq!(denied.reason(), DenyReason::StoreUnavailable);
    tidegate_tests::patience::until("it says why", || {
        let log = wary.output();
        if log.contains("certificate") && !log.contains("secret") { Ok(()) } else { Err(log) }
    });
    drop(store);
}

#[test]
fn roots_that_are_none_or_are_not_used_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ca.pem");
    let refused = |config: String| {
        let (status, output) = server::Setup::release().config(&config).refused();
        assert_ne!(status, Some(0), "{output}");
        assert!(output.contains("store.ca"), "{output}");
        output
    };
    let with = |url: &str| format!("[store]\nurl = \"{url}\"\nca = \"{}\"\n", path.display());
    assert!(refused(with("rediss://localhost")).contains("cannot read"));
    fs::write(&path, "nothing").expect("a temporary folder can be written");
    assert!(refused(with("rediss://localhost")).contains("no certificate"));
    authority(folder.path(), "ca.pem");
    assert!(refused(with("redis://localhost")).contains("rediss://"));
}
