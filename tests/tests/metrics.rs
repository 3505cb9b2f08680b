//! The metrics page, as those who read it see it: `promtool` accepts it while a trace is replayed, and its sums are the
//! client's.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::Page;
use tidegate_tests::server::{Build, Setup, root};
use tidegate_tests::skip;

fn promtool_accepts(page: &Page) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(page.text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{}", page.text);
}

#[test]
fn promtool_accepts_the_page_during_a_replay_and_the_sums_are_the_clients() {
    let has_promtool = skip::has_program("promtool");
    let server = Setup::release().start();
    let trace = root().join("crates/sim/data/synthetic.csv");
    let trace = trace.to_str().expect("UTF-8").to_owned();
    let (result, mut pages) = std::thread::scope(|scope| {
        let replay = scope.spawn(|| {
            // Fast enough that the limits bind.
            let arguments = ["replay", &trace, "--speed", "300", "--json"];
            let (code, output, error) = server.run(Build::Release, &arguments);
            assert_eq!(code, Some(0), "{error}\n{output}");
            serde_json::from_str::<Value>(&output).expect("--json prints one object")
        });
        let mut pages = Vec::new();
        while !replay.is_finished() {
            pages.push(Page::scrape(server.http()));
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        (replay.join().expect("the replay succeeds"), pages)
    });
    pages.push(Page::scrape(server.http()));
    assert!(pages.len() >= 3, "the replay was over too soon to be watched");
    if has_promtool {
        for page in &pages {
            promtool_accepts(page);
        }
    }

    let page = pages.last().expect("it was just pushed");
    let count = |name: &str| result[name].as_u64().unwrap_or_else(|| panic!("no {name} in {result}"));
    for (decision, name) in [
        ("allow", "admitted"),
        ("rate_limited", "rate_limited"),
        ("overloaded", "overloaded"),
        ("forbidden", "forbidden"),
    ] {
        assert_sum(page, "tidegate_decisions_total", &[("decision", decision)], count(name));
    }
    assert_sum(page, "tidegate_decisions_total", &[], count("requests"));
    assert_sum(page, "tidegate_decision_seconds_count", &[], count("requests"));
    assert_sum(page, "tidegate_reservations_ended_total", &[("how", "settled")], count("admitted"));
    for window in ["prompt", "uncached_prompt", "generated"] {
        let settled = result["tokens"][window].as_u64().unwrap_or_else(|| panic!("no tokens.{window} in {result}"));
        assert_sum(page, "tidegate_tokens_total", &[("kind", "settled"), ("window", window)], settled);
    }
    assert_sum(page, "tidegate_reservations", &[], 0);
    assert_sum(page, "tidegate_held_tokens", &[], 0);
    assert!(count("rate_limited") > 0, "the limits bound: {result}");
    for (labels, _) in page.names().into_iter().flat_map(|name| page.samples(name)) {
        assert!(labels.values().all(|value| !value.contains("synth")), "an account or model in a label: {labels:?}");
    }
}

#[tokio::test]
async fn counters_follow_every_kind_of_answer() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100, 100, 100]).await;
    let ask = |tokens| Ask::of("acme").tokens(tokens, tokens, 0);
    let first = gateway.allow(&ask(60)).await;
    let second = gateway.allow(&ask(30).priority()).await;
    let denied = gateway.deny(&ask(50)).await;
    assert!(!denied.allowed());
    gateway.deny(&ask(101)).await;
    gateway.settle_as_admitted(&first.reservation_id, 5).await;
    gateway.release(&second.reservation_id).await.expect("it is live");
    gateway.settle(&second.reservation_id, None, None, Some(1)).await.expect("late, but charged");
    gateway.refuse(&Ask::of("")).await;

    let page = Page::scrape(server.http());
    let decisions = "tidegate_decisions_total";
    assert_sum(&page, decisions, &[], 4);
    assert_sum(&page, decisions, &[("decision", "allow"), ("service_tier", "priority")], 1);
    assert_sum(&page, decisions, &[("reason", "window_full"), ("window", "prompt")], 1);
    assert_sum(&page, decisions, &[("reason", "never_fits")], 1);
    let ended = "tidegate_reservations_ended_total";
    assert_sum(&page, ended, &[("how", "settled")], 1);
    assert_sum(&page, ended, &[("how", "released")], 1);
    assert_sum(&page, ended, &[("how", "late")], 1);
    assert_sum(&page, "tidegate_tokens_total", &[("kind", "denied"), ("window", "prompt")], 151);
    assert_sum(&page, "tidegate_rpc_errors_total", &[("code", "invalid_argument")], 1);
    assert_sum(&page, "tidegate_keys", &[], 1);
    assert!(page.sum("tidegate_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) > 0.0);
    gateway.verdict().assert_clean();
}

#[track_caller]
fn assert_sum(page: &Page, name: &str, labels: &[(&str, &str)], expected: u64) {
    let sum = page.sum(name, labels);
    let shown = format!("{sum}");
    assert_eq!(shown, expected.to_string(), "{name} {labels:?}");
}
