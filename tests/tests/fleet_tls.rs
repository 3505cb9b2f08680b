//! A store behind TLS: `serve` processes on real servers of Redis that take encrypted connections alone.
//!
//! One server is reached by its name. A Cluster and Sentinels say themselves where their servers are, by address, so theirs have
//! certificates of that.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::fs;
use std::path::Path;
use std::thread;

use tidegate_proto::v1::DenyReason;
use tidegate_tests::fleet::{Fleet, LIMIT, account_on};
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Authority, Cluster, Kind, Sentinels, Setup};
use tidegate_tests::server;

/// How to start a sidecar on the store of this URL, which trusts the authority of this file.
fn sidecar(url: &str, roots: &Path) -> server::Setup {
    let bounds = format!("{{ floor = {LIMIT}, ceiling = {LIMIT} }}");
    let config = format!(
        "[store]\nurl = \"redis://127.0.0.1:1\"\ntimeout = \"1s\"\ndegrade = \"closed\"\nca = \"{}\"\n\
         [tiers.tier-1.bounds]\nprompt = {bounds}\n",
        roots.display()
    );
    server::Setup::release().config(&config).environment("TIDEGATE_STORE", url)
}

/// Two sidecars that trust the authority, and one that trusts another; all at once, as each waits for its store.
fn start(url: &str, authority: &Authority) -> (Fleet, server::Server) {
    let stranger = Authority::new();
    thread::scope(|scope| {
        let friends = [(), ()].map(|()| scope.spawn(|| sidecar(url, &authority.roots()).start()));
        let wary = sidecar(url, &stranger.roots()).start();
        let sidecars = friends.map(|friend| friend.join().expect("it starts")).into();
        (Fleet { sidecars }, wary)
    })
}

/// It talks to nobody, and says that it is for the certificate; the password is `secret`.
async fn assert_wary(sidecar: &server::Server) {
    assert!((Page::scrape(sidecar.http()).sum("tidegate_degraded", &[("part", "store")]) - 1.0).abs() < 0.1);
    let denied = Gateway::of(sidecar).await.deny(&Ask::of("wary")).await;
    assert_eq!(denied.reason(), DenyReason::StoreUnavailable);
    until("it says why", || {
        let log = sidecar.output();
        if log.contains("certificate") && !log.contains("secret") { Ok(()) } else { Err(log) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_shares_its_limits_through_a_store_behind_tls_whose_certificate_it_checks() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let authority = Authority::new();
    let store = setup.password("secret").tls(&authority, "localhost").start();
    let (fleet, wary) = start(&store.url(), &authority);
    fleet.assert_one_limit("shared").await;
    assert_wary(&wary).await;
    let (log, named) = (fleet.sidecars[0].output(), store.url().replace(":secret@", ""));
    assert!(named.starts_with("rediss://localhost:") && log.contains(&named) && !log.contains("secret"), "{log}");

    // The right authority, for another host.
    let elsewhere = store.url().replace("localhost", "127.0.0.1");
    assert_wary(&sidecar(&elsewhere, &authority.roots()).start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_shares_its_limits_through_a_cluster_behind_tls_whose_certificates_it_checks() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let authority = Authority::new();
    let cluster = Cluster::start(&setup.password("secret").tls(&authority, "127.0.0.1"));
    let (fleet, wary) = start(&cluster.url(), &authority);
    for master in 0..cluster.masters().len() {
        fleet.assert_one_limit(&account_on(&cluster, master)).await;
    }
    assert_wary(&wary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_behind_sentinels_and_tls_shares_its_limits_after_a_fail_over_too() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let authority = Authority::new();
    let mut group = Sentinels::start(&setup.password("secret").tls(&authority, "127.0.0.1"), 1);
    let (fleet, wary) = start(&group.url(), &authority);
    fleet.assert_one_limit("before").await;
    assert_wary(&wary).await;

    let dead = group.master();
    group.servers_mut()[dead].kill();
    fleet.wait_until_degraded(true);
    group.wait_for_master(1 - dead);
    fleet.assert_one_limit("after").await;
    fleet.assert_full("before").await;
}

#[test]
fn roots_that_are_none_or_are_not_used_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ca.pem");
    let refused = |url: &str, roots: &Path| {
        let config = format!("[store]\nurl = \"{url}\"\nca = \"{}\"\n", roots.display());
        let (status, output) = server::Setup::release().config(&config).refused();
        assert_ne!(status, Some(0), "{output}");
        assert!(output.contains("store.ca"), "{output}");
        output
    };
    assert!(refused("rediss://localhost", &path).contains("cannot read"));
    fs::write(&path, "nothing").expect("a temporary folder can be written");
    assert!(refused("rediss://localhost", &path).contains("no certificate"));
    assert!(refused("redis://localhost", &Authority::new().roots()).contains("rediss://"));
}
