//! The Rust client for gateways against the real server: every answer reaches the one who asked, and every token counts once,
//! whatever becomes of the connection or the process.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_client::{CallFailed, Checked, Client, OnUnavailable, Options, Target};
use tidegate_proto::v1::{CheckAndReserveRequest, Decision, SettleOutcome, SettleRequest};
use tidegate_tests::fault_proxy::{Direction, Fault, FaultProxy};
use tidegate_tests::gateway::{Ask, Gateway, Windows};
use tidegate_tests::server::{Server, Setup};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longest that anything here may take. The windows hold a minute, so that a test must be over before.
const PATIENCE: Duration = Duration::from_secs(40);

/// Requests of an account, one after the other, and accounts at the same time.
const REQUESTS: u64 = 200;
const ACCOUNTS: u64 = 25;

fn client_of(target: &str) -> Client {
    let options = Options::default().decision_timeout(PATIENCE).call_timeout(PATIENCE).close_timeout(PATIENCE);
    Client::with_options(&target.parse::<Target>().expect("a target"), options).expect("a client")
}

fn account(number: u64) -> String {
    format!("account {number}")
}

/// Prompt and generated tokens of a request: no two accounts ask for the same prompt.
fn tokens(account: u64, request: u64) -> (u64, u64) {
    (100 + account + ACCOUNTS * (request % 10), 1 + (account + request) % 7)
}

/// What all requests of an account use.
fn used(account: u64) -> [u64; 3] {
    let of = |request| tokens(account, request);
    let prompt = (0..REQUESTS).map(|request| of(request).0).sum();
    [prompt, prompt, (0..REQUESTS).map(|request| of(request).1).sum()]
}

/// Asks for it: the reservation id, and whether an earlier attempt had reserved it.
async fn ask(client: &Client, account: u64, request: u64) -> (String, bool) {
    let (prompt, generated) = tokens(account, request);
    let asked = Ask::of(&self::account(account)).tokens(prompt, prompt, generated).request;
    let Checked::Decided(answer) = client.check_and_reserve(asked).await.expect("decided") else {
        panic!("it is decided, or fails")
    };
    assert_eq!(answer.decision(), Decision::Allow, "{answer:?}");
    let reserved = answer.reserved.expect("an ALLOW says what it reserved");
    assert_eq!(reserved.prompt, prompt, "the answer is another one's");
    (answer.reservation_id, answer.replayed)
}

/// One request from begin to end, every other one with a settlement that is not waited for: whether its decision was repeated.
async fn request(client: &Client, account: u64, request: u64) -> bool {
    let (reservation_id, replayed) = ask(client, account, request).await;
    let (_, generated) = tokens(account, request);
    client.report_progress_later(&reservation_id, 1).expect("there is room");
    let settle = SettleRequest { reservation_id, generated_tokens: Some(generated), ..SettleRequest::default() };
    if request.is_multiple_of(2) {
        client.settle_later(settle).expect("there is room");
    } else {
        let answer = client.settle(settle).await.expect("settled");
        assert_ne!(answer.outcome(), SettleOutcome::Unspecified);
    }
    replayed
}

/// All requests of all accounts, and how many are through.
struct Traffic {
    running: JoinSet<u64>,
    through: Arc<AtomicUsize>,
    moved: Arc<Notify>,
}

impl Traffic {
    fn start(client: &Client) -> Self {
        let (through, moved) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let mut running = JoinSet::new();
        for account in 0..ACCOUNTS {
            let (client, through, moved) = (client.clone(), Arc::clone(&through), Arc::clone(&moved));
            running.spawn(async move {
                let mut replayed = 0;
                for number in 0..REQUESTS {
                    replayed += u64::from(request(&client, account, number).await);
                    through.fetch_add(1, Ordering::SeqCst);
                    moved.notify_one();
                }
                replayed
            });
        }
        Self { running, through, moved }
    }

    /// Until this share of it is through, percent.
    async fn reaches(&self, percent: u64) {
        let wanted = usize::try_from(ACCOUNTS * REQUESTS * percent / 100).expect("few");
        let reached = async {
            while self.through.load(Ordering::SeqCst) < wanted {
                self.moved.notified().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{percent} % are not through"));
    }

    /// Whether some of it is still to come.
    fn goes_on(&self) -> bool {
        self.through.load(Ordering::SeqCst) < usize::try_from(ACCOUNTS * REQUESTS).expect("few")
    }

    /// Until all of it is through: decisions that were repeated after they had taken effect.
    async fn ends(mut self) -> u64 {
        let ended = async {
            let mut replayed = 0;
            while let Some(ended) = self.running.join_next().await {
                replayed += ended.expect("no panic");
            }
            replayed
        };
        timeout(PATIENCE, ended).await.expect("it comes to an end")
    }
}

async fn windows(gateway: &Gateway, number: u64) -> Windows {
    gateway.windows(&Ask::of(&account(number))).await
}

/// The count of the server itself, read by another client.
async fn every_token_counts_once(server: &Server) {
    let gateway = Gateway::of(server).await;
    for account in 0..ACCOUNTS {
        assert_eq!(windows(&gateway, account).await.used(), used(account), "account {account}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_a_stream_and_each_gets_its_own_answer() {
    let server = Setup::release().start();
    let client = client_of(&format!("http://{}", server.limiter()));
    let replayed = Traffic::start(&client).ends().await;
    client.close().await.expect("all is delivered");
    every_token_counts_once(&server).await;
    let counts = client.outbox();
    assert_eq!((client.streams(), replayed, counts.waiting, counts.turned_away), (1, 0, 0, 0), "{counts:?}");
    assert!(counts.delivered >= ACCOUNTS * REQUESTS / 2, "{counts:?}");
}

/// Connections are cut after so many bytes, in either direction, while traffic goes on: between a call and its effect, and between the
/// effect and its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_again_and_again_costs_no_token_and_counts_none_twice() {
    let server = Setup::release().start();
    let proxy = FaultProxy::before(server.limiter());
    let client = client_of(&format!("http://{}", proxy.address()));
    let traffic = Traffic::start(&client);
    traffic.reaches(1).await;
    for step in 1..=12 {
        let direction = if step % 2 == 0 { Direction::ToClient } else { Direction::ToServer };
        let before = client.streams();
        proxy.switch(Fault::CutAfter { direction, bytes: 900 * step }).await;
        let broken = async {
            while client.streams() == before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, broken).await.expect("it is cut while calls go on");
        assert!(traffic.goes_on());
        proxy.switch(Fault::None).await;
        traffic.reaches(u64::try_from(step).expect("few") * 7).await;
    }
    let replayed = traffic.ends().await;
    client.close().await.expect("all is delivered");
    every_token_counts_once(&server).await;
    assert!(client.streams() > 12 && replayed > 0, "{} streams, {replayed} decisions replayed", client.streams());
    assert_eq!(client.outbox().turned_away, 0);
}

/// A process that is replaced in place, as a sidecar is: what it had decided is still known to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_and_started_again_counts_every_token_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (socket, data) = (path("limiter.sock"), path("data"));
    let start = || Setup::release().arguments(["--unix-socket", &socket, "--data-dir", &data]).start();
    let mut server = start();
    let client = client_of(&format!("unix:{socket}"));
    let traffic = Traffic::start(&client);
    for percent in [20, 40, 60] {
        traffic.reaches(percent).await;
        server.terminate();
        assert_eq!(server.wait().and_then(|status| status.code()), Some(0), "{}", server.output());
        assert!(traffic.goes_on());
        server = start();
    }
    traffic.ends().await;
    assert!(client.streams() > 3);
    client.close().await.expect("all is delivered");
    every_token_counts_once(&server).await;
}

/// A killed process takes its last second along, with the memory of it: nothing counts twice, and what comes afterwards counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_counts_no_token_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (socket, data) = (path("limiter.sock"), path("data"));
    let start = || Setup::release().arguments(["--unix-socket", &socket, "--data-dir", &data]).start();
    let server = start();
    let client = client_of(&format!("unix:{socket}"));
    // Admitted before, settled after: the reservations are on disk.
    let (early, _) = ask(&client, 1_000, 0).await;
    sleep(Duration::from_millis(1_500)).await;
    let traffic = Traffic::start(&client);
    traffic.reaches(50).await;
    drop(server);
    assert!(traffic.goes_on());
    client
        .settle_later(SettleRequest { reservation_id: early, generated_tokens: Some(77), ..SettleRequest::default() })
        .expect("there is room");
    let server = start();
    traffic.ends().await;
    client.close().await.expect("all is delivered");
    assert_eq!(client.outbox().failed, 0, "{:?}", client.outbox());
    let gateway = Gateway::of(&server).await;
    assert_eq!(windows(&gateway, 1_000).await.used()[2], 77);
    for account in 0..ACCOUNTS {
        let (found, most) = (windows(&gateway, account).await.used(), used(account));
        assert!(found.iter().zip(most).all(|(found, most)| *found <= most), "account {account}: {found:?} of {most:?}");
        assert!(found[0] > 0, "account {account}: what came afterwards counts");
    }
}

/// The answer comes too late for the caller: it goes on without, and what was reserved for it returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_comes_too_late_is_not_waited_for_and_reserves_nothing() {
    let server = Setup::release().start();
    let proxy = FaultProxy::before(server.limiter());
    let target = format!("http://{}", proxy.address()).parse::<Target>().expect("a target");
    let options = Options::default().decision_timeout(Duration::from_millis(300)).on_unavailable(OnUnavailable::Open);
    let client = Client::with_options(&target, options).expect("a client");
    let asked = CheckAndReserveRequest { prompt_tokens: 500, ..Ask::of("late").request };
    let first = client.check_and_reserve(asked.clone()).await.expect("decided");
    assert!(matches!(&first, Checked::Decided(_)), "{first:?}");
    let gateway = Gateway::of(&server).await;
    proxy.switch(Fault::Stall).await;
    let checked = client.check_and_reserve(asked).await.expect("the policy decides");
    assert!(matches!(&checked, Checked::Open(CallFailed::NoAnswer { .. })) && checked.may_pass(), "{checked:?}");
    proxy.switch(Fault::None).await;
    let released = async {
        while client.outbox().delivered < 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, released).await.expect("what came too late is released");
    assert_eq!(gateway.windows(&Ask::of("late")).await.used()[0], 500, "the first one's");
}
