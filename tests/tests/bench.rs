//! `tidegate bench` against a running server: what it counts is what the server counts.

use serde_json::Value;
use tidegate_tests::page::Page;
use tidegate_tests::server::{Build, Server, Setup};

/// Limits that nobody reaches, whatever is asked for.
const WIDE: &str = "\
[tiers.tier-1.bounds]
prompt = { floor = 1000000000000, ceiling = 1000000000000 }
uncached_prompt = { floor = 1000000000000, ceiling = 1000000000000 }
generated = { floor = 1000000000000, ceiling = 1000000000000 }
";

/// Runs a short load that must end with `code`: standard output and error.
#[track_caller]
fn bench(server: &Server, code: i32, flags: &str) -> (String, String) {
    let short = ["bench", "--warm-up", "30ms", "--duration", "150ms"];
    let flags: Vec<&str> = short.into_iter().chain(flags.split_whitespace()).collect();
    let (exit, output, error) = server.run(Build::Release, &flags);
    assert_eq!(exit, Some(code), "{flags:?}\n{output}{error}");
    (output, error)
}

/// Decisions, allowed ones among them, and settlements, as the server counts them.
fn counted(server: &Server) -> [f64; 3] {
    let page = Page::scrape(server.http());
    let decisions = |labels: &[(&str, &str)]| page.sum("tidegate_decisions_total", labels);
    let settled = page.sum("tidegate_reservations_ended_total", &[("how", "settled")]);
    [decisions(&[]), decisions(&[("decision", "allow")]), settled]
}

#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).expect(path)
}

#[test]
fn every_kind_of_load_counts_what_the_server_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("limiter.sock").display().to_string();
    let server = Setup::release().config(WIDE).arguments(["--unix-socket", &socket]).start();
    let pid = server.pid();
    for flags in [
        "--view decision",
        "--settle",
        "--call batch --batch 7 --streams 2 --settle",
        "--call pipeline --in-flight 100 --view windows --keys 1k --draw zipf",
        "--call pipeline --streams 2 --settle",
        &format!("--rate 2000 --pid {pid}"),
        &format!("--connections 8 --streams 1 --target unix:{socket}"),
    ] {
        let before = counted(&server);
        let (report, _) = bench(&server, 0, &format!("{flags} --json"));
        let after = counted(&server);
        let report: Value = serde_json::from_str(&report).expect("--json prints JSON");
        let [decisions, allowed, settled] = [0, 1, 2].map(|which| after[which] - before[which]);
        let whole = |what: &str| number(&report, &format!("/whole_run/{what}"));
        assert_eq!((whole("allowed"), whole("denied")), (allowed, decisions - allowed), "{flags}: {report}");
        assert_eq!(whole("settled"), settled, "{flags}: {report}");
        assert_eq!(settled, if flags.contains("--settle") { allowed } else { 0.0 }, "{flags}");
        let measured = number(&report, "/decisions");
        assert!(0.0 < measured && measured <= decisions, "{flags}: {report}");
        assert_eq!(number(&report, "/errors"), 0.0);
        let [p50, p99] = ["p50", "p99"].map(|quantile| number(&report, &format!("/latency_us/{quantile}")));
        assert!(0.0 < p50 && p50 <= p99, "{flags}: {report}");
        assert_eq!(report["server"].is_null(), !flags.contains("--pid"), "{flags}: {report}");
    }
    let (text, _) = bench(&server, 0, "");
    assert!(text.contains(" decisions/s\nallowed "), "{text}");
}

#[test]
fn denials_are_counted_and_are_no_failure() {
    let server = Setup::release().start();
    let (report, _) = bench(&server, 0, "--keys 1 --json");
    let report: Value = serde_json::from_str(&report).expect("--json prints JSON");
    assert!(number(&report, "/whole_run/denied") > 0.0, "{report}");
    let [decisions, allowed, _] = counted(&server);
    let whole = |what: &str| number(&report, &format!("/whole_run/{what}"));
    assert_eq!((whole("allowed"), whole("denied")), (allowed, decisions - allowed), "{report}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let server = Setup::release().config("[bounds]\nlimiter_message = 1024\nbatch_message = 1024\n").start();
    for (flags, why) in [
        ("--in-flight 3", "--in-flight is for --call pipeline"),
        ("--batch 3", "--batch is for --call batch"),
        ("--call batch --batch 257", "1..=256"),
        ("--call pipeline --rate 5", "--rate is for --call unary"),
        ("--rate 5 --streams 2", "--streams says nothing with --rate"),
        ("--keys 0", "from 1 to 1G"),
        ("--ttl 100ms", "1s to 1h"),
        ("--speak throttlecrab --settle", "--settle is for tidegate"),
        ("--speak redis --call batch", "no --call batch"),
        ("--speak redis --streams 2", "--streams is for gRPC"),
        ("--target https://127.0.0.1:1", "plain HTTP/2"),
        ("--pid 0", "--pid"),
    ] {
        let (_, error) = bench(&server, 2, flags);
        assert!(error.contains(why), "{flags}: {error}");
    }
    let admin = server.admin();
    for (flags, why) in [
        ("--target http://127.0.0.1:1", "Is `tidegate serve` running there?"),
        ("--target unix:/no/such.sock", "cannot connect to unix:/no/such.sock"),
        // Every call fails: not one decision.
        (&format!("--streams 1 --target http://{admin}"), "gRPC status 12"),
        ("--call batch --streams 1", "calls failed; the first: "),
        ("--speak throttlecrab --streams 1", "gRPC status 12"),
    ] {
        let (_, error) = bench(&server, 1, flags);
        assert!(error.contains(why), "{flags}: {error}");
    }
}
