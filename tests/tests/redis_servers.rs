//! The servers and the proxy with which the shared store is tested do what they say.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use tidegate_tests::fault_proxy::{Direction, Fault, FaultProxy};
use tidegate_tests::patience::until;
use tidegate_tests::redis::{Cluster, Keys, Kind, Sentinels, Server, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// A server of the kind that needs no wheel.
fn setup() -> Option<Setup> {
    Setup::of(Kind::Redis7)
}

fn word(server: &Server, words: &[&str]) -> Option<String> {
    server.ask(words)
}

/// What the error to these words begins with, such as `NOSCRIPT`.
fn error(server: &Server, words: &[&str]) -> String {
    let answer = server.try_ask::<String>(words);
    answer.expect_err("it refuses").code().unwrap_or_default().to_owned()
}

/// What the shared store needs of a single server, and the harness of its restart.
fn serves(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let mut server = setup.start();
    let version = server.version();
    println!("{}: {version}", kind.name());
    assert!(version.starts_with(kind.major()), "{version}");
    let (first_life, first_pid) = (server.run_id(), server.pid());

    let script = server.ask::<String>(&["SCRIPT", "LOAD", "return redis.call('INCRBY', KEYS[1], ARGV[1])"]);
    let call = ["EVALSHA", &script, "1", "key", "40"];
    assert_eq!(server.ask::<i64>(&call), 40);
    assert_eq!(server.ask::<i64>(&call), 80);

    server.restart(Keys::Kept);
    assert_eq!(error(&server, &call), "NOSCRIPT");
    assert_eq!(word(&server, &["GET", "key"]), None, "it writes nothing to disk");
    assert!(server.run_id() != first_life && server.pid() != first_pid);
}

#[test]
fn redis_7_serves() {
    serves(Kind::Redis7);
}

#[test]
fn redis_8_serves() {
    serves(Kind::Redis8);
}

#[test]
fn valkey_8_serves() {
    serves(Kind::Valkey8);
}

#[test]
fn valkey_9_serves() {
    serves(Kind::Valkey9);
}

#[test]
fn a_file_of_appended_writes_survives_a_kill_and_a_password_is_asked_for() {
    let Some(setup) = setup() else { return };
    let mut server = setup.password("secret").appendonly().start();
    server.tell(&["SET", "key", "kept"]);
    server.kill();
    let refused = server.try_ask::<String>(&["PING"]).expect_err("it is dead");
    assert!(refused.is_connection_refusal(), "{refused}");
    server.restart(Keys::Kept);
    assert_eq!(word(&server, &["GET", "key"]).as_deref(), Some("kept"));
    server.restart(Keys::Lost);
    assert_eq!(word(&server, &["GET", "key"]), None);

    server.tell(&["SET", "key", "again"]);
    server.flush();
    assert_eq!(word(&server, &["GET", "key"]), None);

    let stranger = redis::Client::open(format!("redis://{}", server.address())).expect("a URL");
    let refused = stranger.get_connection().and_then(|mut connection| redis::cmd("PING").exec(&mut connection));
    assert_eq!(refused.expect_err("it has no password").code(), Some("NOAUTH"));
    let friend = redis::Client::open(server.url()).expect("a URL");
    let answer = friend.get_connection().and_then(|mut connection| redis::cmd("PING").exec(&mut connection));
    answer.expect("it has the password");
}

#[tokio::test]
async fn a_paused_server_takes_connections_and_answers_when_it_goes_on() {
    let Some(setup) = setup() else { return };
    let mut server = setup.start();
    server.pause();
    let mut client = connect(&server.address()).await;
    client.write_all(PING).await.expect("the kernel takes it");
    assert_silent(&mut client).await;
    server.resume();
    assert_eq!(read(&mut client, PONG.len()).await, PONG);
}

#[test]
fn a_replica_has_a_copy_and_can_be_made_the_master() {
    let Some(setup) = setup() else { return };
    let master = setup.clone().start();
    master.tell(&["SET", "key", "1"]);
    let replica = setup.replica_of(&master).start();
    replica.wait_for_copy();
    assert_eq!(word(&replica, &["GET", "key"]).as_deref(), Some("1"));
    assert_eq!(error(&replica, &["SET", "key", "2"]), "READONLY");

    replica.promote();
    replica.tell(&["SET", "key", "2"]);
    master.follow(&replica);
    master.wait_for_copy();
    assert_eq!(word(&master, &["GET", "key"]).as_deref(), Some("2"));
}

#[test]
fn a_cluster_of_redis_answers_for_the_keys_of_all_three_masters() {
    answers_as_a_cluster(Kind::Redis7);
}

#[test]
fn a_cluster_of_valkey_answers_for_the_keys_of_all_three_masters() {
    answers_as_a_cluster(Kind::Valkey9);
}

fn answers_as_a_cluster(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let mut cluster = Cluster::start(&setup.appendonly());
    let keys: Vec<String> = (0..3).map(|master| cluster.key_on(master, "key")).collect();
    for (home, key) in keys.iter().enumerate() {
        for (number, master) in cluster.masters().iter().enumerate() {
            if number == home {
                master.tell(&["SET", key, "1"]);
            } else {
                assert_eq!(error(master, &["SET", key, "1"]), "MOVED");
            }
        }
    }
    cluster.masters_mut()[1].restart(Keys::Kept);
    cluster.wait_until_whole();
    assert_eq!(word(&cluster.masters()[1], &["GET", &keys[1]]).as_deref(), Some("1"));
}

#[test]
fn sentinels_of_redis_fail_over_from_a_killed_master_and_on_request() {
    fails_over(Kind::Redis7);
}

#[test]
fn sentinels_of_valkey_fail_over_from_a_killed_master_and_on_request() {
    fails_over(Kind::Valkey9);
}

fn fails_over(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let mut group = Sentinels::start(&setup.password("secret"), 3);
    let old = group.master();
    group.servers()[old].tell(&["SET", "key", "1"]);
    assert_eq!(group.servers()[old].ask::<i64>(&["WAIT", "1", "5000"]), 1, "the replica has it");
    group.servers_mut()[old].kill();
    let new = 1 - old;
    println!("failed over in {:?}", group.wait_for_master(new));
    assert_eq!(word(&group.servers()[new], &["GET", "key"]).as_deref(), Some("1"));
    group.servers()[new].tell(&["SET", "key", "2"]);

    group.servers_mut()[old].restart(Keys::Kept);
    group.wait_until_watched();
    assert_eq!(
        word(&group.servers()[old], &["GET", "key"]).as_deref(),
        Some("2"),
        "the old master follows the new one:\n{}",
        group.output()
    );
    println!("failed over on request in {:?}", group.fail_over());
    assert_eq!(group.master(), old);
}

const PING: &[u8] = b"PING\r\n";
const PONG: &[u8] = b"+PONG\r\n";

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

async fn read(client: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    let read = timeout(Duration::from_secs(30), client.read_exact(&mut buffer)).await.expect("it answers");
    read.expect("it is connected");
    buffer
}

/// How long an answer takes.
async fn ping(client: &mut TcpStream) -> Duration {
    let began = Instant::now();
    client.write_all(PING).await.expect("it is connected");
    assert_eq!(read(client, PONG.len()).await, PONG);
    began.elapsed()
}

/// Nothing comes for a while.
async fn assert_silent(client: &mut TcpStream) {
    let silence = timeout(Duration::from_millis(200), client.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
}

/// All that comes until the connection ends, and whether it was reset.
async fn rest(client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(30), client.read_to_end(&mut rest)).await.expect("it ends");
    (rest, end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}

/// A server, a proxy before it, and a client through that.
async fn proxied() -> Option<(Server, FaultProxy, TcpStream)> {
    let server = setup()?.start();
    let proxy = FaultProxy::before(&server.address());
    let mut client = connect(&proxy.address()).await;
    ping(&mut client).await;
    Some((server, proxy, client))
}

#[tokio::test]
async fn the_proxy_passes_on_what_is_larger_than_its_pieces() {
    let Some((mut server, _proxy, mut client)) = proxied().await else { return };
    let value = "x".repeat(10_000_000);
    let command = format!("*2\r\n$4\r\nECHO\r\n${}\r\n{value}\r\n", value.len());
    let answer = format!("${}\r\n{value}\r\n", value.len());
    client.write_all(command.as_bytes()).await.expect("it is connected");
    assert!(read(&mut client, answer.len()).await == answer.as_bytes());
    server.kill();
    assert_eq!(rest(&mut client).await.0, b"", "the end goes through too");
}

#[tokio::test(start_paused = true)]
async fn the_proxy_delays_each_direction_on_the_clock_of_the_test() {
    let Some(setup) = setup() else { return };
    let server = setup.start();
    let proxy = FaultProxy::before(&server.address());
    let mut client = connect(&proxy.address()).await;
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    for (to_server, to_client) in [(hour, Duration::ZERO), (Duration::ZERO, minute), (minute, hour)] {
        proxy.switch(Fault::Delay { to_server, to_client }).await;
        let began = Instant::now();
        // No time-out: while the server thinks, the delays must be the only timers to which the clock can go on.
        client.write_all(PING).await.expect("it is connected");
        let mut answer = vec![0; PONG.len()];
        client.read_exact(&mut answer).await.expect("it is connected");
        let took = began.elapsed();
        let expected = to_server + to_client;
        assert!(took >= expected && took < expected + Duration::from_millis(10), "{took:?} of {expected:?}");
    }
}

#[tokio::test]
async fn the_proxy_delays_in_real_time_until_it_is_told_not_to() {
    let Some((_server, proxy, mut client)) = proxied().await else { return };
    let delay = Duration::from_millis(150);
    proxy.switch(Fault::Delay { to_server: delay, to_client: delay }).await;
    let took = ping(&mut client).await;
    assert!(took >= 2 * delay, "{took:?}");
    let began = Instant::now();
    for _ in 0..20 {
        client.write_all(PING).await.expect("it is connected");
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&mut client, 20 * PONG.len()).await, PONG.repeat(20));
    let took = began.elapsed();
    assert!(took >= 2 * delay && took < 20 * delay, "none waits for those before it to arrive: {took:?}");

    proxy.switch(Fault::Delay { to_server: Duration::from_secs(3600), to_client: delay }).await;
    client.write_all(PING).await.expect("it is connected");
    assert_silent(&mut client).await;
    proxy.switch(Fault::None).await;
    assert_eq!(read(&mut client, PONG.len()).await, PONG);
}

#[tokio::test]
async fn the_proxy_stalls_old_and_new_connections_and_lets_go() {
    let Some((_server, proxy, mut old)) = proxied().await else { return };
    proxy.switch(Fault::Stall).await;
    let mut new = connect(&proxy.address()).await;
    for client in [&mut old, &mut new] {
        client.write_all(PING).await.expect("the proxy takes it");
        assert_silent(client).await;
    }
    proxy.switch(Fault::None).await;
    for client in [&mut old, &mut new] {
        assert_eq!(read(client, PONG.len()).await, PONG);
    }
}

#[tokio::test]
async fn the_proxy_cuts_what_is_connected_and_takes_new_connections() {
    let Some((_server, proxy, mut client)) = proxied().await else { return };
    let mut just_opened = connect(&proxy.address()).await;
    proxy.cut().await;
    for client in [&mut client, &mut just_opened] {
        assert_eq!(rest(client).await, (vec![], true));
    }
    let mut stalled = connect(&proxy.address()).await;
    ping(&mut stalled).await;
    proxy.switch(Fault::Stall).await;
    stalled.write_all(PING).await.expect("the proxy takes it");
    proxy.cut().await;
    assert_eq!(rest(&mut stalled).await, (vec![], true));
    proxy.switch(Fault::None).await;
    ping(&mut connect(&proxy.address()).await).await;
}

#[tokio::test]
async fn the_proxy_refuses_new_connections_and_keeps_the_old_ones() {
    let Some((_server, proxy, mut client)) = proxied().await else { return };
    for _ in 0..3 {
        proxy.switch(Fault::Refuse).await;
        let refused = TcpStream::connect(proxy.address()).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        ping(&mut client).await;
        proxy.switch(Fault::None).await;
        ping(&mut connect(&proxy.address()).await).await;
    }
}

#[tokio::test]
async fn the_proxy_cuts_an_answer_after_its_first_bytes() {
    let Some((_server, proxy, mut client)) = proxied().await else { return };
    proxy.switch(Fault::CutAfter { direction: Direction::ToClient, bytes: PONG.len() + 3 }).await;
    let mut second = connect(&proxy.address()).await;
    for client in [&mut client, &mut second] {
        ping(client).await;
        client.write_all(PING).await.expect("it is connected");
        assert_eq!(rest(client).await.0, b"+PO");
    }
    proxy.switch(Fault::CutAfter { direction: Direction::ToClient, bytes: 0 }).await;
    let mut third = connect(&proxy.address()).await;
    third.write_all(PING).await.expect("it is connected");
    assert_eq!(rest(&mut third).await.0, b"");
}

#[tokio::test]
async fn the_proxy_cuts_a_request_after_its_first_bytes() {
    let Some((server, proxy, mut client)) = proxied().await else { return };
    let (first, second) = ("SET first 1\r\n", "SET second 1\r\n");
    proxy.switch(Fault::CutAfter { direction: Direction::ToServer, bytes: first.len() + 5 }).await;
    client.write_all(format!("{first}{second}").as_bytes()).await.expect("it is connected");
    rest(&mut client).await;
    until("the server does what arrived", || match word(&server, &["GET", "first"]).as_deref() {
        Some("1") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(word(&server, &["GET", "second"]), None);
}

#[tokio::test]
async fn behind_the_proxy_a_dead_server_is_a_cut_and_a_restarted_one_is_found() {
    let Some((mut server, proxy, mut client)) = proxied().await else { return };
    server.kill();
    rest(&mut client).await;
    assert_eq!(rest(&mut connect(&proxy.address()).await).await, (vec![], true));
    server.restart(Keys::Lost);
    ping(&mut connect(&proxy.address()).await).await;
}
