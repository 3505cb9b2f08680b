//! Contract C13: a process that is killed takes its last second with it and nothing else, and one that is stopped takes nothing.
//!
//! The long proofs are ignored here: `cargo test --profile ci --package tidegate-tests --test crash -- --ignored --nocapture`.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::{
    Account, CreateAccountRequest, GetAccountRequest, SettleOutcome, UpdateAccountRequest, WriteOptions,
};
use tidegate_tests::crowd::{Behaviour, Crowd, LAST_SECOND, Told, balance, settle};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::page::Page;
use tidegate_tests::server::{Server, Setup};
use tonic::transport::Channel;

#[expect(clippy::disallowed_methods, reason = "what really happened is measured in real time")]
fn now() -> Instant {
    Instant::now()
}

fn start(data: &Path) -> Server {
    Setup::release().arguments(["--data-dir", data.to_str().expect("UTF-8")]).start()
}

async fn channel(address: &str) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    endpoint.connect().await.expect("the server listens")
}

/// An operator who writes all the time, and knows what was acknowledged.
struct Operator {
    created: Vec<String>,
    /// The tier of the account `turning`, as acknowledged last, and as it may be if a write was not answered.
    turned: u64,
}

impl Operator {
    async fn write(&mut self, admin: &mut AdminServiceClient<Channel>) -> bool {
        let options = Some(WriteOptions { reason: "all the time".into(), ..WriteOptions::default() });
        let name = format!("written {}", self.created.len());
        let account = Account { name: name.clone(), ..Account::default() };
        match admin.create_account(CreateAccountRequest { account: Some(account), options: options.clone() }).await {
            Ok(answer) => assert!(answer.into_inner().persisted, "{name}"),
            // Written, and its answer lost with a process.
            Err(status) if status.code() == tonic::Code::AlreadyExists => {}
            Err(_) => return false,
        }
        self.created.push(name);
        let tier = format!("tier-{}", self.turned % 4 + 1);
        let account = Account { name: "turning".into(), tier, ..Account::default() };
        let update = UpdateAccountRequest { account: Some(account), update_mask: None, options };
        let written = admin.update_account(update).await.is_ok();
        self.turned += u64::from(written);
        written
    }

    /// All that was acknowledged is there.
    async fn check(&self, admin: &mut AdminServiceClient<Channel>) {
        for name in self.created.iter().rev().take(50) {
            let request = GetAccountRequest { name: name.clone() };
            admin.get_account(request).await.unwrap_or_else(|status| panic!("{name}: {status}"));
        }
        if self.turned > 0 {
            let answer = admin.get_account(GetAccountRequest { name: "turning".into() }).await.expect("it is there");
            let tier = answer.into_inner().account.expect("an account").tier;
            // The next write may have taken effect without an answer.
            let known = [self.turned - 1, self.turned].map(|turned| format!("tier-{}", turned % 4 + 1));
            assert!(known.contains(&tier), "{tier} is neither the last acknowledged nor the one after: {known:?}");
        }
    }
}

struct Plan {
    behaviour: Behaviour,
    ends: usize,
    /// Milliseconds from a start to the next end: at least, and how many more at most.
    after: (u64, u64),
    kill: bool,
}

struct Outcome {
    told: Told,
    kills: Vec<Instant>,
    /// How long the load ran.
    took: Duration,
    /// How late the disk was at worst, as seen just before each end.
    latest: f64,
    restarts: Vec<Duration>,
}

/// Ends and starts the server over and over under load.
async fn run(plan: &Plan) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(&data);
    let gateway = Gateway::of(&server).await;
    let limit = plan.behaviour.limit;
    for account in &plan.behaviour.accounts {
        gateway.fix(account, [limit; 3]).await;
    }
    gateway.account("turning", "tier-1").await;
    let crowd = Crowd::start(&plan.behaviour, server.limiter());
    let began = now();
    let mut operator = Operator { created: Vec::new(), turned: 0 };
    let (mut kills, mut latest, mut restarts, mut draws) = (Vec::new(), 0.0_f64, Vec::new(), 0x2545_f491_4f6c_dd1d_u64);
    for _ in 0..plan.ends {
        draws ^= draws << 13;
        draws ^= draws >> 7;
        draws ^= draws << 17;
        let end_at = now() + Duration::from_millis(plan.after.0 + draws % (plan.after.1 + 1));
        let mut admin = AdminServiceClient::new(channel(server.admin()).await);
        while now() < end_at {
            assert!(operator.write(&mut admin).await, "the server runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let page = Page::scrape(server.http());
        latest = latest.max(page.sum("tidegate_disk_late_seconds", &[]));
        let degraded = page.sum("tidegate_degraded", &[("part", "disk")]);
        assert!(degraded == 0.0, "degraded, {latest} s late: {}", server.output());
        if plan.kill {
            // While a write is on its way.
            let mut writer = admin.clone();
            let writes = async {
                while operator.write(&mut writer).await {}
                operator
            };
            let pid = server.pid();
            let killed = async {
                tokio::time::sleep(Duration::from_millis(draws % 17)).await;
                let at = now();
                kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), Signal::KILL).expect("it runs");
                at
            };
            let (written, at) = tokio::join!(writes, killed);
            (operator, latest) = (written, latest);
            kills.push(at);
            assert!(server.wait().is_some(), "a killed process is gone");
        } else {
            server.terminate();
            let status = server.wait().expect("it ends");
            assert!(status.success(), "{status}: {}", server.output());
        }
        let ended = now();
        server = start(&data);
        restarts.push(now() - ended);
        crowd.moved(server.limiter());
        let mut admin = AdminServiceClient::new(channel(server.admin()).await);
        operator.check(&mut admin).await;
    }
    // Until the limits are used up once more.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let took = now() - began;
    let told = crowd.stop().await;
    settle_what_is_left(&server, &told, &kills).await;
    assert!(!server.output().contains("panicked"), "{}", server.output());
    Outcome { told, kills, took, latest, restarts }
}

/// What is live across restarts settles once.
async fn settle_what_is_left(server: &Server, told: &Told, kills: &[Instant]) {
    let channel = channel(server.limiter()).await;
    let left = told.allowed.iter().rev().filter(|allowed| allowed.settled.is_none()).take(500);
    let mut counted = 0;
    for allowed in left {
        let may_be_lost = kills
            .iter()
            .any(|kill| allowed.received + LAST_SECOND >= *kill && allowed.sent <= *kill + Duration::from_millis(500));
        let first = settle(channel.clone(), &allowed.id, allowed.tokens).await.expect("answered");
        // A settlement that was sent and never answered may have taken effect.
        let fine = match first {
            SettleOutcome::Applied | SettleOutcome::Duplicate => true,
            _ => may_be_lost,
        };
        assert!(fine, "{first:?} of a reservation that was on disk");
        counted += usize::from(first == SettleOutcome::Applied);
        let second = settle(channel.clone(), &allowed.id, allowed.tokens).await.expect("answered");
        assert_eq!(second, SettleOutcome::Duplicate, "it settles once");
    }
    assert!(counted > 0, "some were live");
}

fn behaviour(accounts: usize, limit: u64, tokens: u64, clients: usize, pause: Duration) -> Behaviour {
    let accounts = (0..accounts).map(|number| format!("crowd {number}")).collect();
    Behaviour { accounts, limit, tokens, connections: 4, clients, pause, one_open_in: 8 }
}

fn judge(plan: &Plan, outcome: &Outcome) {
    let found = balance(&outcome.told, plan.behaviour.limit, &outcome.kills);
    let Told { decisions, settled, late, lost_calls, slowest, .. } = &outcome.told;
    let mut restarts = outcome.restarts.clone();
    restarts.sort();
    println!(
        "{} ends in {:.0} s, {:.0} decisions/s ({decisions}), {} ALLOWs, {settled} settled, {late} late or twice, \
         {lost_calls} calls without an answer; slowest answer {slowest:?}; restart median {:?}, longest {:?}; disk at most \
         {:.2} s late; fullest {} permille, with what crashes may have taken ({} ALLOWs) {} permille",
        plan.ends,
        outcome.took.as_secs_f64(),
        *decisions as f64 / outcome.took.as_secs_f64(),
        found.allows,
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
        outcome.latest,
        found.fullest_permille,
        found.lost,
        found.fullest_with_lost_permille,
    );
    assert!(found.fullest_permille <= 1_000, "more than the limit, without what a crash may have taken: {found:?}");
    // What a crash may have taken is half of all where processes live for two seconds.
    assert!(found.fullest_with_lost_permille >= 1_000, "the limits were not used up: {found:?}");
    if !plan.kill {
        assert!(found.fullest_permille >= 950, "it was not full: {found:?}");
        assert_eq!((found.lost, *late), (0, 0), "nothing is lost by a stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_take_their_last_second_and_no_more() {
    let behaviour = behaviour(12, 50_000, 50, 32, Duration::from_millis(30));
    let plan = Plan { behaviour, ends: 6, after: (1_200, 1_500), kill: true };
    judge(&plan, &run(&plan).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_processes_take_nothing() {
    let behaviour = behaviour(12, 50_000, 50, 32, Duration::from_millis(30));
    let plan = Plan { behaviour, ends: 4, after: (2_000, 1_000), kill: false };
    judge(&plan, &run(&plan).await);
}

/// At least 5,000 decisions a second, settlements and admin writes beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes"]
async fn sixty_kills_under_five_thousand_decisions_a_second() {
    let behaviour = behaviour(300, 10_000, 50, 120, Duration::from_millis(20));
    let plan = Plan { behaviour, ends: 60, after: (300, 2_500), kill: true };
    let outcome = run(&plan).await;
    judge(&plan, &outcome);
    let rate = outcome.told.decisions as f64 / outcome.took.as_secs_f64();
    assert!(rate >= 5_000.0, "{rate:.0} decisions/s are too few for this proof");
}

/// A rolling restart each 20 s, and clients that ask for more than there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four minutes"]
async fn rolling_restarts_every_twenty_seconds_admit_no_excess() {
    let behaviour = behaviour(300, 10_000, 50, 120, Duration::from_millis(20));
    let plan = Plan { behaviour, ends: 12, after: (20_000, 0), kill: false };
    judge(&plan, &run(&plan).await);
}
