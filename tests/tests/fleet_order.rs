//! What leased sidecars are granted is what the core's ledger grants to their reports, in the order in which the server received them.
//!
//! The server is a real one, and says itself what it received (MONITOR). Its answers are not there, but what each sidecar counts of
//! them is, and what the next one is told.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Script;
use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::fleet::{KnownLaw, Ledger, Report, Seen};
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::law::{Law, WindowLaw};
use tidegate_core::policy::{PartialBounds, Policy, PolicyWrite, Tier, Written};
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, Window};
use tidegate_store::Store;
use tidegate_store::fleet::{FleetSettings, FleetStore};
use tidegate_store::memory::MemoryBounds;
use tidegate_store::redis::{LAW, REPORT, arguments, granted, ledger_key, life_key, named, slot};
use tidegate_tests::redis::{Cluster, Kind, Server, Setup};
use tokio::task::JoinSet;
use tokio::time::sleep;

const SIDECARS: usize = 3;
const LIMIT: u64 = 60_000;

#[expect(clippy::disallowed_methods, reason = "the server's time is real, so that of its sidecars is")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    Timestamp::from_micros(u64::try_from(since.as_micros()).expect("for a while"))
}

fn key() -> KeyRef<'static> {
    KeyRef::new("acme", "opus", "").expect("well formed")
}

fn policy() -> Policy {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(LIMIT), ceiling_tpm: Some(LIMIT) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
    let write = PolicyWrite::Update { entry, expected_revision: None };
    Policy::built_in().apply(write, now()).expect("a good tier").0
}

/// Everything that a server receives from now on, scripts' own commands included.
fn monitor(server: &Server) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.write_all(b"MONITOR\r\n").expect("it reads");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    BufReader::new(stream)
}

/// The words of a line such as `+1700000000.123456 [0 127.0.0.1:5] "EVALSHA" "..." "2"`. None of ours holds a quote.
fn words(line: &str) -> Vec<String> {
    let Some((_, words)) = line.split_once("] \"") else { return Vec::new() };
    words.trim_end().trim_end_matches('"').split("\" \"").map(str::to_owned).collect()
}

fn numbers(words: &[String]) -> Vec<u64> {
    words.iter().map(|word| word.parse().unwrap_or_else(|_| panic!("no number: {word}"))).collect()
}

/// What a sidecar said, read back from what it sent.
struct Said {
    life: u64,
    incarnation: u64,
    head: [u64; 4],
    waits: bool,
    wants: Tokens,
    least: Tokens,
    seen: PerWindow<Seen>,
    needs: PerWindow<Vec<(u32, u64)>>,
}

impl Said {
    fn read(words: &[String]) -> Self {
        let named = |word: &String| u64::from_str_radix(word, 16).expect("a name");
        let (life, incarnation) = (named(&words[0]), named(&words[1]));
        let mut numbers = numbers(&words[2..]).into_iter();
        let mut next = || numbers.next().expect("there are more");
        let head = [next(), next(), next(), next()];
        let waits = next() == 1;
        let (wants, least) = (Tokens::from_fn(|_| next()), Tokens::from_fn(|_| next()));
        let seen = PerWindow::from_fn(|_| {
            let (settled, arrived, denied) = (next(), next(), next() == 1);
            Seen { settled, arrived, denied, pressure: u16::try_from(next()).expect("permille") }
        });
        let needs = PerWindow::from_fn(|_| {
            let pairs = next();
            (0..pairs).map(|_| (u32::try_from(next()).expect("seconds"), next())).collect()
        });
        Self { life, incarnation, head, waits, wants, least, seen, needs }
    }

    fn report(&self) -> Report<'_> {
        let [sequence, acknowledged, phase_seconds, ttl_ms] = self.head;
        Report {
            life: self.life,
            incarnation: self.incarnation,
            sequence,
            acknowledged,
            phase_seconds,
            ttl_ms,
            needs: PerWindow::from_fn(|window| self.needs[window].as_slice()),
            wants: self.wants,
            least: self.least,
            waits: self.waits,
            seen: self.seen,
        }
    }
}

fn law(words: &[String]) -> (u64, KnownLaw) {
    let signed: Vec<i64> = words.iter().map(|word| word.parse().expect("a number")).collect();
    let (level, number) =
        (|at: usize| i32::try_from(signed[at]).expect("a level"), |at: usize| signed[at].unsigned_abs());
    let first = |window: Window| 5 + 7 * Window::ALL.iter().position(|other| *other == window).unwrap_or(0);
    let windows = PerWindow::from_fn(|window| {
        let at = first(window);
        let br = u16::try_from(number(at + 5)).expect("permille");
        WindowLaw { p: level(at), v: level(at + 1), q: level(at + 2), u: number(at + 3), den: number(at + 4) > 0, br }
    });
    let limits = Tokens::from_fn(|window| number(first(window) + 6));
    (number(0), KnownLaw { version: number(1), policy: number(4), law: Law { epoch: number(2), windows }, limits })
}

/// Clients of one sidecar, until `until`: what they were admitted.
async fn clients(store: Arc<FleetStore>, pause: Duration, tokens: u64, until: Timestamp) -> u64 {
    let mut admitted = 0;
    while now() < until {
        let request = Request {
            key: key(),
            prompt_tokens: tokens,
            cached_prompt_tokens: Some(tokens / 2),
            max_generated_tokens: Some(0),
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: Duration::from_secs(60),
        };
        let reserved = store.check_and_reserve(now(), &request).await.expect("no request id");
        if let Some(id) = reserved.id_text(request.key) {
            admitted += tokens;
            let counts = SettleCounts { generated_tokens: Some(0), ..SettleCounts::default() };
            store.settle(now(), &id, counts).await.expect("it is live");
        }
        sleep(pause).await;
    }
    admitted
}

async fn leased_on(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let server = setup.start();
    leased_equals_the_core(&server, &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_equals_the_core_in_the_order_of_redis_7() {
    leased_on(Kind::Redis7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_equals_the_core_in_the_order_of_redis_8() {
    leased_on(Kind::Redis8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_equals_the_core_in_the_order_of_valkey_8() {
    leased_on(Kind::Valkey8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_equals_the_core_in_the_order_of_valkey_9() {
    leased_on(Kind::Valkey9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_equals_the_core_in_the_order_of_the_keys_master_in_a_cluster() {
    let Some(setup) = Setup::of(Kind::Redis8) else { return };
    let cluster = Cluster::start(&setup);
    leased_equals_the_core(&cluster.masters()[cluster.home_of(&ledger_key(key()))], &cluster.url()).await;
}

/// Sidecars of the store at `url`, in which `server` has the key.
async fn leased_equals_the_core(server: &Server, url: &str) {
    let mut lines = monitor(server);
    let start = || {
        // On machines as slow as they may be.
        let timeout = Duration::from_secs(1);
        let settings = FleetSettings { timeout, ..FleetSettings::at(url.parse().expect("an address")) };
        let (bounds, forecast, patience) =
            (MemoryBounds::default(), ForecastDefaults::default(), Duration::from_secs(10));
        FleetStore::start(bounds, forecast, policy(), settings, Arc::new(now), patience).expect("it starts")
    };
    let stores: Vec<Arc<FleetStore>> = (0..SIDECARS).map(|_| Arc::new(start())).collect();
    let until = now().after(Duration::from_secs(3));
    let mut running = JoinSet::new();
    for (which, store) in stores.iter().enumerate() {
        // Unequal, and all together twice what the limit gives.
        for client in 0..4 {
            let (pause, tokens) = (Duration::from_millis(6 << which), 60 + 30 * client);
            running.spawn(clients(Arc::clone(store), pause, tokens, until));
        }
    }
    let admitted: u64 = running.join_all().await.into_iter().sum();
    assert!((LIMIT * 9 / 10..=LIMIT).contains(&admitted), "{admitted} of {LIMIT}");
    let stats: Vec<_> = stores.iter().map(|store| store.stats().fleet.expect("it has one")).collect();
    for store in &stores {
        store.stop(Duration::from_secs(5));
    }

    // The end of what was received.
    server.tell(&["ECHO", "the end"]);
    let (report_sha, law_sha) = (Script::new(REPORT).get_hash().to_owned(), Script::new(LAW).get_hash().to_owned());
    let ledger = ledger_key(key());
    let life: String = server.ask(&["GET", &life_key(slot(key()))]);
    let (life, born) = life.split_once(' ').expect("a life and its birth");
    let life = u64::from_str_radix(life, 16).expect("a life");
    let mut model = Ledger::default();
    model.begin(life, born.split(' ').next().and_then(|born| born.parse().ok()).expect("when it began"));
    let (mut waiting, mut written, mut laws) = (None::<Said>, None, 0);
    // Of each sidecar, what it was granted on top of its need by then, report by report.
    let mut on_top: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        lines.read_line(&mut line).expect("it goes on until the end");
        let words = words(&line);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ECHO", "the end"] => break,
            ["EVALSHA" | "EVAL", sha, "2", of, ..] if (sha == report_sha || sha == REPORT) && of == ledger => {
                // One that is not taken, as the script is not there yet, has no time, and comes again.
                waiting = Some(Said::read(&words[5..]));
            }
            ["EVALSHA" | "EVAL", sha, "1", of, ..] if (sha == law_sha || sha == LAW) && of == ledger => {
                written = Some(law(&words[4..]));
            }
            // The first thing that its script does. A call that finds no script does nothing, and is made again.
            ["HGET", of, "law"] if of == ledger => {
                let (expected, known) = written.take().expect("a law");
                laws += u64::from(model.set_law(expected, known));
            }
            // Of the script: at which time it took the report.
            ["HSET", of, "now", now_ms] if of == ledger => {
                let said = waiting.take().expect("a report");
                let answer = model.report(now_ms.parse().expect("a time"), &said.report()).expect("nothing was lost");
                let need: u64 = said.needs.prompt.iter().map(|(_, tokens)| tokens).sum();
                let sums = on_top.entry(said.incarnation).or_default();
                let before = sums.last().copied().unwrap_or(0);
                sums.push(before + if answer.is_current() { answer.allotted.prompt - need } else { 0 });
            }
            _ => {}
        }
    }
    assert!(laws > 0 && on_top.len() == SIDECARS);
    // Each sidecar was answered what the model says. When it was asked, a last report may have been counted and its answer not yet;
    // more were made after that.
    for stats in &stats {
        let (reports, tokens) = (usize::try_from(stats.reports).expect("few"), stats.granted_tokens.prompt);
        println!("{admitted} admitted; {reports} reports of one sidecar, granted {tokens} on top");
        let is_told = |sums: &&Vec<u64>| {
            [reports - 1, reports.saturating_sub(2)].into_iter().any(|last| sums.get(last) == Some(&tokens))
        };
        assert!(on_top.values().any(|sums| is_told(&sums)), "{tokens} after {reports} of {on_top:?}");
    }
    // And one more is told the same by both.
    let newcomer = Said {
        life,
        incarnation: 1,
        head: [1, 0, key().phase_seconds(), 1_000],
        waits: true,
        wants: Tokens::new(LIMIT, LIMIT, LIMIT),
        least: Tokens::new(1, 1, LIMIT / 2),
        seen: PerWindow::default(),
        needs: PerWindow::default(),
    };
    let mut command = vec!["EVAL".to_owned(), REPORT.to_owned(), "2".to_owned(), ledger.clone(), life_key(slot(key()))];
    command.extend(arguments(&newcomer.report()));
    let answer: Vec<i64> = server.ask(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let now_ms: String = server.ask(&["HGET", &ledger, "now"]);
    let modelled = model.report(now_ms.parse().expect("a time"), &newcomer.report());
    assert_eq!(granted(&answer), Some(modelled), "{}", named(life));
}
