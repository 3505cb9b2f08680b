//! Pressure scraped from serving engines: real HTTP, real pages, virtual time.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_proto::v1::{BoostRequest, DenyReason, Scope, Tokens};
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::server::{Server, Setup, root};
use tidegate_tests::skip;

const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(10);

/// What an engine answers at one path.
#[derive(Clone, Debug)]
enum Answered {
    Page(String),
    /// Status and `location`.
    Redirect(&'static str),
    Status(u16),
    /// A page of so many bytes.
    Long(usize),
    /// Nothing, as long as the client waits.
    Silence,
}

type Paths = Arc<Mutex<BTreeMap<&'static str, Answered>>>;

/// A serving engine's metrics listener, in this process. Gone when it is dropped.
struct Engine {
    port: u16,
    paths: Paths,
    asked: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    fn start(port: u16, paths: impl IntoIterator<Item = (&'static str, Answered)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let paths: Paths = Arc::new(Mutex::new(paths.into_iter().collect()));
        let (asked, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shown, log, stop) = (Arc::clone(&paths), Arc::clone(&asked), Arc::clone(&stopping));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (shown, log) = (Arc::clone(&shown), Arc::clone(&log));
                // The client may leave in the middle of an answer.
                thread::spawn(move || drop(answer(&stream, &shown, &log)));
            }
        });
        Self { port, paths, asked, stopping, thread: Some(thread) }
    }

    fn show(&self, path: &'static str, page: &str) {
        let page = Answered::Page(page.to_owned());
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).insert(path, page);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(mut stream: &TcpStream, paths: &Paths, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line.to_ascii_lowercase().starts_with("host: localhost:")), "{head:?}");
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = paths.lock().unwrap_or_else(PoisonError::into_inner).get(path.as_str()).cloned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    let (status, header, body) = match answer {
        Some(Answered::Page(page)) => (200, String::new(), page),
        Some(Answered::Redirect(to)) => (302, format!("location: {to}\r\n"), String::new()),
        Some(Answered::Status(status)) => (status, String::new(), "kv 0.5\n".to_owned()),
        Some(Answered::Long(bytes)) => (200, String::new(), format!("kv 0.5\n#{}\n", "x".repeat(bytes))),
        Some(Answered::Silence) => return stream.read(&mut [0]).map(drop),
        None => (404, String::new(), String::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Text\r\ncontent-length: {length}\r\nconnection: close\r\n{header}\r\n{body}")
}

/// A page as vLLM's documentation shows it: the gauges among counters and histograms.
fn vllm(waiting: u32, running: u32, kv_cache: f64) -> String {
    let labels = "engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"";
    format!(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
         # TYPE vllm:num_requests_running gauge\n\
         vllm:num_requests_running{{{labels}}} {running}.0\n\
         # HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n\
         # TYPE vllm:num_requests_waiting gauge\n\
         vllm:num_requests_waiting{{{labels}}} {waiting}.0\n\
         # TYPE vllm:kv_cache_usage_perc gauge\n\
         vllm:kv_cache_usage_perc{{{labels}}} {kv_cache}\n\
         # TYPE vllm:time_to_first_token_seconds histogram\n\
         vllm:time_to_first_token_seconds_bucket{{{labels},le=\"+Inf\"}} 140.0\n"
    )
}

fn target(port: u16, path: &str, rest: &str) -> String {
    format!("[[pressure.scrape]]\nurl = \"http://localhost:{port}{path}\"\nevery = \"250ms\"\nttl = \"10m\"\n{rest}\n")
}

/// Polls until `seen` of the metrics page.
async fn until(server: &Server, what: &str, seen: impl Fn(&Page) -> bool) -> Page {
    for _ in 0..1_500 {
        let page = Page::scrape(server.http());
        if seen(&page) {
            return page;
        }
        // Sockets and processes take real time.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 30 s: {what}\n{}\n{}", Page::scrape(server.http()).text, server.output());
}

async fn until_logged(server: &Server, text: &str) {
    until(server, text, |_| server.output().contains(text)).await;
}

fn scrapes(page: &Page, result: &str) -> f64 {
    page.sum("tidegate_scrapes_total", &[("result", result)])
}

/// Waits until what an engine shows now has been scraped: a scrape that began after this call has ended so.
async fn scraped(server: &Server, result: &str) {
    let before = scrapes(&Page::scrape(server.http()), result);
    until(server, "another two scrapes", |page| scrapes(page, result) >= before + 2.0).await;
}

fn pressure(page: &Page, model: &str) -> Option<f64> {
    let of_model = |(labels, _): &(&tidegate_tests::page::Labels, f64)| labels["model"] == model;
    page.samples("tidegate_pressure_permille").find(of_model).map(|(_, value)| value)
}

fn stale(page: &Page) -> bool {
    page.sum("tidegate_pressure_stale", &[("model", "m"), ("window", "prompt")]) > 0.5
}

/// An account at ten floors of all prompt tokens, by boost: limits that no traffic had to earn.
async fn boosted(gateway: &Gateway, account: &str) -> Ask {
    gateway.account(account, "enterprise").await;
    let scope = Some(Scope { account: account.to_owned(), model: None, variant: None });
    let micros = gateway.now_micros() + 86_400_000_000;
    let expire_time =
        Some(prost_types::Timestamp { seconds: i64::try_from(micros / 1_000_000).expect("a date"), nanos: 0 });
    let limit_tpm = Some(Tokens { prompt: 36_000_000, ..Tokens::default() });
    let request = BoostRequest { scope, limit_tpm, expire_time, options: None };
    gateway.admin().boost(gateway.call(request)).await.expect("it is taken");
    Ask::of(account)
}

/// Uses a sixth of the limit every 10 s, as far as it goes, for so many minutes.
async fn use_it(gateway: &Gateway, ask: &Ask, minutes: u32) {
    for _ in 0..6 * minutes {
        let windows = gateway.windows(ask).await;
        let part = (windows.prompt().limit_tpm / 6).min(windows.prompt().remaining_tokens);
        if part > 0
            && let Ok(answer) = gateway.ask(&ask.clone().tokens(part, 0, 0)).await
            && answer.allowed()
        {
            gateway.settle_as_admitted(&answer.reservation_id, 0).await;
        }
        gateway.advance(TICK);
    }
}

#[tokio::test]
async fn a_full_kv_cache_squeezes_an_account_above_its_floor_until_the_engine_is_gone_and_again_when_it_is_back() {
    let engine = Engine::start(0, [("/metrics", Answered::Page(vllm(0, 40, 0.3)))]);
    let config = target(engine.port, "/metrics", "model = \"m\"\nengine = \"vllm\"");
    let server = Setup::test_clock().config(&config).start();
    let gateway = Gateway::of(&server).await;
    let ask = boosted(&gateway, "acme").await;
    scraped(&server, "ok").await;
    let page = Page::scrape(server.http());
    assert_eq!(pressure(&page, "m"), Some(316.0), "0.3 of the objective of 0.95");
    use_it(&gateway, &ask, 2).await;
    let calm = gateway.windows(&ask).await;
    assert_eq!(calm.prompt().effective_limit_tpm, calm.prompt().limit_tpm);

    engine.show("/metrics", &vllm(0, 200, 1.0));
    scraped(&server, "ok").await;
    use_it(&gateway, &ask, 4).await;
    let squeezed = gateway.windows(&ask).await;
    let status = squeezed.prompt();
    assert!(
        status.floor_tpm <= status.effective_limit_tpm && status.effective_limit_tpm < status.limit_tpm,
        "{status:?}"
    );
    let own = status.limit_tpm - status.used_tokens;
    let denied = gateway.deny(&ask.clone().tokens(own, 0, 0)).await;
    assert_eq!((denied.http_status, denied.reason()), (503, DenyReason::Squeezed), "within its own limit");
    gateway.allow(&Ask::of("new").tokens(3_600_000, 0, 0)).await;
    until_logged(&server, "limits are squeezed").await;

    // The engine dies: what it said last counts for its TTL, then limits are as they were, and frozen.
    let port = engine.port;
    drop(engine);
    scraped(&server, "unreachable").await;
    gateway.advance(5 * MINUTE);
    gateway.windows(&ask).await;
    assert!(!stale(&Page::scrape(server.http())), "not yet");
    gateway.advance(6 * MINUTE);
    let frozen = gateway.windows(&ask).await;
    assert!(stale(&Page::scrape(server.http())));
    assert_eq!(frozen.prompt().effective_limit_tpm, frozen.prompt().limit_tpm);
    until_logged(&server, "no report of the deployment's pressure counts any more").await;

    let engine = Engine::start(port, [("/metrics", Answered::Page(vllm(50, 100, 0.5)))]);
    let page = until(&server, "it is reported again", |page| !stale(page)).await;
    assert_eq!(pressure(&page, "m"), Some(2_000.0), "half as many wait as run, at an objective of a quarter");
    until_logged(&server, "pressure is reported again").await;
    let log = server.output();
    assert_eq!(log.matches("pressure is scraped").count(), 2, "when it began and when it was back:\n{log}");
    assert_eq!(log.matches("pressure cannot be scraped").count(), 1, "not each time:\n{log}");
    drop(engine);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn of_two_engines_of_a_deployment_the_busier_counts() {
    let engine =
        Engine::start(0, [("/a", Answered::Page(vllm(0, 10, 0.19))), ("/b", Answered::Page(vllm(20, 100, 0.1)))]);
    let rest = "model = \"m\"\nvariant = \"turbo\"\nengine = \"vllm\"";
    let config = [target(engine.port, "/a", rest), target(engine.port, "/b", rest)].concat();
    let server = Setup::test_clock().config(&config).start();
    let page = until(&server, "both are scraped", |page| {
        scrapes(page, "ok") >= 4.0 && pressure(page, "m").is_some_and(|permille| permille > 200.0)
    });
    page.await;
    // Smoothed pressures meet the raw one within minutes.
    let gateway = Gateway::of(&server).await;
    gateway.advance(5 * MINUTE);
    gateway.windows(&Ask::of("acme")).await;
    scraped(&server, "ok").await;
    let page = Page::scrape(server.http());
    assert_eq!(pressure(&page, "m"), Some(800.0), "20 wait, 100 run");
    engine.show("/b", &vllm(0, 100, 0.1));
    scraped(&server, "ok").await;
    gateway.advance(5 * MINUTE);
    gateway.windows(&Ask::of("acme")).await;
    assert_eq!(pressure(&Page::scrape(server.http()), "m"), Some(200.0), "the other one");
}

#[tokio::test]
async fn what_is_no_good_page_is_counted_and_never_taken_for_pressure() {
    let engine = Engine::start(
        0,
        [
            ("/status", Answered::Status(500)),
            ("/redirect", Answered::Redirect("/good")),
            ("/good", Answered::Page("kv 0.9\n".to_owned())),
            ("/long", Answered::Long(5 << 20)),
            ("/other", Answered::Page("other 1\n<html>kv 0.9</html>\nkv NaN\nkv{ 0.9\n".to_owned())),
            ("/silent", Answered::Silence),
        ],
    );
    let rest = "model = \"m\"\ntimeout = \"100ms\"\ngauges = [{ name = \"kv\", objective = 1 }]";
    let paths = ["/status", "/redirect", "/long", "/other", "/silent"];
    let config: String = paths.iter().map(|path| target(engine.port, path, rest)).collect();
    let nobody = target(1, "/metrics", rest);
    let server = Setup::release().config(&(config + &nobody)).start();
    for (result, least) in [("status", 4.0), ("no_gauge", 2.0), ("timeout", 2.0), ("unreachable", 2.0)] {
        until(&server, result, |page| scrapes(page, result) >= least).await;
    }
    // A slow machine may not read so much within 100 ms.
    let page = until(&server, "too_large", |page| scrapes(page, "too_large") + scrapes(page, "timeout") >= 6.0).await;
    assert!(scrapes(&page, "ok").abs() < 0.5, "{}", page.text);
    assert!(page.sum("tidegate_deployments", &[]).abs() < 0.5, "nobody said anything of it");
    assert!(!engine.asked().iter().any(|path| path == "/good"), "a redirect is not followed");
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("acme").tokens(10, 10, 0)).await;
    let log = server.output();
    assert_eq!(log.matches("pressure cannot be scraped").count(), 6, "each target once:\n{log}");
    assert!(log.contains("answered 302") && log.contains("the page has no gauge kv"), "{log}");
}

/// An engine whose page is drawn by Prometheus' own client library for Python. Ended with this.
struct Exporter {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Exporter {
    fn start(python: &std::path::Path) -> Self {
        let mut command = Command::new(python);
        command.arg(root().join("tests/python/exporter.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let orders = child.stdin.take().expect("it is piped");
        let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("it prints its port");
        let port = line.trim().parse().expect("a port; is prometheus_client installed?");
        Self { child, orders, answers, port }
    }

    fn set(&mut self, gauge: &str, value: f64) {
        writeln!(self.orders, "{gauge} {value}").expect("it reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        assert_eq!(line.trim(), "set");
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_queue_on_a_page_of_the_real_client_library_sheds_standard_and_not_priority() {
    let Some(python) = skip::python() else { return };
    let mut exporter = Exporter::start(&python);
    exporter.set("sglang:token_usage", 0.2);
    let gauges = "gauges = [{ name = \"temperature\", objective = 400 }]";
    let rest = format!("model = \"m\"\nengine = \"sglang\"\n{gauges}");
    let server = Setup::test_clock().config(&target(exporter.port, "/metrics", &rest)).start();
    let gateway = Gateway::of(&server).await;
    // An engine that has done nothing yet shows no queue: nothing is known of its pressure.
    scraped(&server, "no_gauge").await;
    assert_eq!(pressure(&Page::scrape(server.http()), "m"), None);

    for (gauge, value) in [("sglang:num_queue_reqs", 40.0), ("sglang:num_running_reqs", 100.0), ("temperature", 30.0)] {
        exporter.set(gauge, value);
    }
    scraped(&server, "ok").await;
    let ask = Ask::of("acme").tokens(1_000, 1_000, 0);
    let mut shed = 0;
    for _ in 0..50 {
        let answer = gateway.ask(&ask).await.expect("decided");
        if !answer.allowed() {
            assert_eq!((answer.http_status, answer.reason()), (503, DenyReason::Shed));
            shed += 1;
        }
        gateway.allow(&ask.clone().priority()).await;
        gateway.advance(TICK);
    }
    assert!(shed > 25, "{shed}");
    assert_eq!(pressure(&Page::scrape(server.http()), "m"), Some(1_600.0), "40 wait, 100 run, at a quarter");

    exporter.set("sglang:num_queue_reqs", 0.0);
    scraped(&server, "ok").await;
    for _ in 0..48 {
        gateway.advance(TICK);
        gateway.windows(&ask).await;
    }
    gateway.allow(&ask).await;
    assert_eq!(pressure(&Page::scrape(server.http()), "m"), Some(211.0), "the cache is what is left");
    gateway.verdict().assert_clean();
}
