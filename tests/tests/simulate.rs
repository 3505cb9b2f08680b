//! `tidegate simulate`: the same bytes for the same arguments, the promised JSON, plots that show something, and bad traces
//! refused before anything is written.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;
use tidegate_tests::server::{Build, root};

const HEADER: &str =
    "t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens,duration_ms,max_generated_tokens";

/// Two accounts: `busy` asks for ten times the built-in limit of generated tokens for four minutes, `calm` for little.
fn trace(folder: &TempDir) -> PathBuf {
    let mut text = format!("{HEADER}\n");
    for tick in 0..1_200_u64 {
        let at_ms = tick * 200;
        text += &format!("{at_ms},busy,large,900,100,{},9000,4000\n", 1_000 + tick % 7 * 100);
        if tick.is_multiple_of(50) {
            text += &format!("{at_ms},calm,small,30,,20,,\n");
        }
    }
    let path = folder.path().join("two.csv");
    fs::write(&path, text).expect("writes");
    path
}

/// Exit code, standard output, standard error.
fn simulate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(Build::Release.path());
    let output = command.arg("simulate").args(arguments).stdin(Stdio::null()).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn done(arguments: &[&str]) -> String {
    let (code, output, error) = simulate(arguments);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}\n{output}");
    output
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = done(&[arguments, &["--json"]].concat());
    assert_eq!(output.lines().count(), 1, "one line for one trace: {output}");
    serde_json::from_str(&output).expect("--json prints JSON")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Every file of a folder; none where there is no folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .map(|path| {
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), fs::read(&path).expect("readable"))
        })
        .collect()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn policy<'r>(report: &'r Value, name: &str) -> &'r Value {
    let policies = report["policies"].as_array().expect("a list");
    policies.iter().find(|policy| policy["policy"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let run = |threads: &str, out: &str, json: bool| {
        let out = folder.path().join(out);
        let mut arguments =
            vec![text(&trace), "--scale", "1.3", "--seed", "5", "--threads", threads, "--out", text(&out)];
        arguments.extend(json.then_some("--json"));
        (done(&arguments), files(&out))
    };
    let first = run("1", "a", true);
    assert_eq!(first, run("1", "b", true), "twice");
    assert_eq!(first, run("2", "c", true), "on two threads");
    assert_eq!(run("1", "d", false), run("2", "a", false), "as a table, over older files");
    let other = json(&[text(&trace), "--scale", "1.3", "--seed", "6"]);
    assert_ne!(serde_json::from_str::<Value>(&first.0).expect("JSON"), other, "another seed makes other copies");
}

#[test]
fn the_object_has_the_promised_fields() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let report = json(&[text(&trace)]);
    assert_eq!(names(&report), BTreeSet::from(["trace", "limits", "scale", "policies"]));
    assert_eq!((&report["trace"], &report["limits"]), (&"two.csv".into(), &"static".into()));
    assert_eq!(report["scale"], 1.0);
    let policies = report["policies"].as_array().expect("a list");
    let order: Vec<_> = policies.iter().map(|policy| policy["policy"].as_str().expect("a name")).collect();
    assert_eq!(order, ["oracle", "max-tokens", "fixed-1024", "charge-after", "plain-sum", "forecast"]);
    for policy in policies {
        assert_eq!(
            names(policy),
            BTreeSet::from([
                "policy",
                "requests",
                "admitted",
                "denied",
                "goodput",
                "overshoot_p99",
                "overshoot_max",
                "overshoot_first",
                "false_denials",
                "windows",
            ])
        );
        let count = |name: &str| policy[name].as_u64().expect("a count");
        assert_eq!(count("requests"), 1_224);
        assert_eq!(count("admitted") + count("denied"), 1_224);
        let windows = policy["windows"].as_array().expect("a list");
        let order: Vec<_> = windows.iter().map(|window| window["window"].as_str().expect("a name")).collect();
        assert_eq!(order, ["prompt", "uncached_prompt", "generated"]);
        for window in windows {
            let promised = ["window", "tokens_admitted", "limit_first", "limit_last", "limit_peak"];
            let more = ["tokens_denied", "overshoot_p99", "overshoot_max"];
            assert_eq!(names(window), promised.into_iter().chain(more).collect());
        }
        assert_eq!(windows[2]["limit_peak"], 36_000, "the limit is the floor");
    }
    let oracle = policy(&report, "oracle");
    assert_eq!((&oracle["goodput"], &oracle["overshoot_max"]), (&1.0.into(), &0.0.into()));
    assert!(oracle["denied"].as_u64() > Some(500), "the trace asks for more than the limit: {oracle}");
}

#[test]
fn limits_move_where_they_may() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let report = json(&[text(&trace), "--limits", "adaptive"]);
    assert_eq!(report["limits"], "adaptive");
    assert_eq!(report["policies"].as_array().map(Vec::len), Some(1));
    let forecast = policy(&report, "forecast");
    assert!(forecast["goodput"].is_null() && forecast["overshoot_p99"].is_null(), "{forecast}");
    let generated = &forecast["windows"][2];
    assert_eq!(generated["limit_first"], 36_000);
    assert!(generated["limit_last"].as_u64() > Some(36_000), "{generated}");

    let config = folder.path().join("tidegate.toml");
    fs::write(
        &config,
        "[accounts.busy]\ntier = \"narrow\"\n[tiers.narrow.bounds]\ngenerated = { floor = \"50k\", ceiling = \"50k\" }\n",
    )
    .expect("writes");
    let (code, output, error) = simulate(&[text(&trace), "--config", text(&config), "--limits", "adaptive", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let report: Value = serde_json::from_str(&output).expect("JSON");
    let generated = &policy(&report, "forecast")["windows"][2];
    assert_eq!((&generated["limit_first"], &generated["limit_peak"]), (&50_000.into(), &50_000.into()), "{error}");
    let table = done(&[text(&trace), "--limits", "adaptive"]);
    assert!(table.contains("two.csv: 1,224 requests, 2 keys") && table.contains("adaptive limits"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("generated") && line.contains("36,000")), "{table}");
}

#[test]
fn traces_are_scaled_folded_and_told_less() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let requests = |more: &[&str]| {
        let report = json(&[&[text(&trace), "--policy", "forecast"], more].concat());
        policy(&report, "forecast")["requests"].as_u64().expect("a count")
    };
    assert!((500..=720).contains(&requests(&["--scale", "0.5"])), "{}", requests(&["--scale", "0.5"]));
    assert_eq!(requests(&["--scale", "3"]), 3 * 1_224);
    let folded = done(&[text(&trace), "--policy", "forecast", "--fold", "1"]);
    assert!(folded.contains("1,224 requests, 2 keys"), "one account on two models: {folded}");
    let one_model = folder.path().join("one.csv");
    let same = fs::read_to_string(&trace).expect("readable").replace(",small,", ",large,");
    fs::write(&one_model, same).expect("writes");
    assert!(done(&[text(&one_model), "--policy", "forecast"]).contains(" 2 keys"));
    assert!(done(&[text(&one_model), "--policy", "forecast", "--fold", "1"]).contains(" 1 key,"));

    let once = json(&[text(&trace), "--policy", "forecast,forecast"]);
    assert_eq!(once["policies"].as_array().map(Vec::len), Some(1));
    let off = json(&[text(&trace), "--policy", "forecast", "--progress", "off"]);
    assert_ne!(off, once, "reports of progress change what is known");
    json(&[text(&trace), "--policy", "forecast", "--late-cache"]);
}

#[test]
fn traces_have_a_line_each() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let committed = root().join("crates/sim/data/synthetic.csv");
    let lines = done(&[text(&committed), text(&trace), "--policy", "oracle", "--json"]);
    let traces: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(traces.iter().map(|report| &report["trace"]).collect::<Vec<_>>(), ["synthetic.csv", "two.csv"]);
}

#[test]
fn plots_are_there_and_show_something() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let trace = trace(&folder);
    let out = folder.path().join("plots/deep");
    done(&[text(&trace), "--policy", "forecast,max-tokens", "--out", text(&out)]);
    let files = files(&out);
    let stems = [
        "two.forecast.key-01",
        "two.forecast.key-02",
        "two.max-tokens.key-01",
        "two.max-tokens.key-02",
        "two.policies",
    ];
    let expected = stems.iter().flat_map(|stem| [format!("{stem}.png"), format!("{stem}.svg")]);
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for (name, bytes) in &files {
        if name.ends_with(".svg") {
            let svg = std::str::from_utf8(bytes).expect("an SVG is text");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
            let says = if name.contains("policies") { "max-tokens" } else { "tokens in the trailing minute" };
            assert!(svg.contains(says), "{name} says {says}");
            continue;
        }
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().expect("it is a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("it fits in memory")];
        reader.next_frame(&mut pixels).expect("it is whole");
        let colors: BTreeSet<&[u8]> = pixels.chunks_exact(3).collect();
        let inked = pixels.chunks_exact(3).filter(|pixel| *pixel != [255; 3]).count();
        assert!(
            colors.len() > 20 && inked > 10_000,
            "{name}: {} colours, {inked} pixels that are not white",
            colors.len()
        );
    }
    let busiest = String::from_utf8_lossy(&files["two.forecast.key-01.svg"]).into_owned();
    assert!(busiest.contains("busy, large"), "the key that asks for most of its limits comes first");
    assert!(!busiest.contains("429 (0)"), "and was refused");
}

#[test]
fn keys_beyond_the_busiest_are_counted() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let rows = (0..15).map(|index| format!("{index},../a{index},m,{},,5,,\n", 100 - index));
    let trace = folder.path().join("many.csv");
    fs::write(&trace, format!("{HEADER}\n{}", rows.collect::<String>())).expect("writes");
    let out = folder.path().join("out");
    let (code, _, error) = simulate(&[text(&trace), "--policy", "forecast", "--out", text(&out)]);
    assert_eq!((code, error.trim()), (Some(0), "many.csv: 12 keys are plotted, the busiest; 3 are left out"));
    assert_eq!(files(&out).len(), 26);
}

#[test]
fn bad_traces_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let good = trace(&folder);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&fs::read(&good).expect("readable")).expect("compresses");
    let gzip = gzip.finish().expect("compresses");
    let rows = |rows: &str| format!("{HEADER}\n{rows}\n").into_bytes();
    for (what, bytes, says) in [
        ("truncated gzip", gzip[..gzip.len() / 2].to_vec(), "bad.csv: incomplete deflate stream"),
        ("gzip without its end", gzip[..gzip.len() - 4].to_vec(), "bad.csv: unexpected end of file"),
        (
            "no generated_tokens",
            b"t_ms,account,model,prompt_tokens\n0,a,m,1\n".to_vec(),
            "bad.csv:1: the header has no column `generated_tokens`",
        ),
        (
            "negative",
            rows("0,a,m,1,,1,,\n5,a,m,1,,-1,,"),
            "bad.csv:3: column `generated_tokens`: `-1` is not a whole number",
        ),
        ("a word", rows("0,a,m,many,,1,,"), "bad.csv:2: column `prompt_tokens`: `many` is not a whole number"),
        (
            "a fraction",
            rows("0,a,m,1,,1,,2.5"),
            "bad.csv:2: column `max_generated_tokens`: `2.5` is not a whole number",
        ),
        (
            "unsorted",
            rows("7,a,m,1,,1,,\n6,a,m,1,,1,,"),
            "bad.csv:3: column `t_ms`: 6 is before the 7 of the row before; sort the trace",
        ),
        ("empty", Vec::new(), "bad.csv:1: expected a header row with the columns t_ms, account, model"),
        ("header only", rows(""), "bad.csv: has no requests"),
        (
            "cached above prompt",
            rows("0,a,m,5,6,1,,"),
            "bad.csv:2: column `cached_prompt_tokens`: 6 is more than the 5 of `prompt_tokens`",
        ),
        (
            "not text",
            rows("0,a,m,1,,1,,").into_iter().chain([0xff, 0xfe, b'\n']).collect(),
            "bad.csv:3: the line is not UTF-8 text",
        ),
    ] {
        let bad = folder.path().join("bad.csv");
        fs::write(&bad, bytes).expect("writes");
        let out = folder.path().join("out");
        let (code, output, error) = simulate(&[text(&good), text(&bad), "--out", text(&out), "--json"]);
        assert_eq!(code, Some(2), "{what}: {error}");
        assert!(error.contains(says) && error.contains(text(&bad)), "{what}: {error}");
        assert_eq!((output.as_str(), error.lines().count()), ("", 1), "{what}: nothing of the good trace: {error}");
        assert!(!out.exists(), "{what}: nothing is written");
    }
    let (code, _, error) = simulate(&[text(&folder.path().join("nowhere.csv"))]);
    assert!(code == Some(2) && error.contains("nowhere.csv"), "{code:?} {error}");
}

#[test]
fn wrong_usage_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let good = trace(&folder);
    let out = folder.path().join("out");
    for (arguments, says) in [
        (&["--policy", "best"][..], "`best` is none of oracle, max-tokens"),
        (&["--policy", "forecast,"], "is none of"),
        (&["--policy", "oracle", "--limits", "adaptive"], "with --limits adaptive only `forecast` can be played"),
        (&["--policy", "forecast,oracle", "--limits", "adaptive"], "--policy oracle: its limits do not move"),
        (&["--limits", "some"], "static, adaptive"),
        (&["--scale", "0"], "above 0 to 100 with at most three decimals"),
        (&["--scale", "100.001"], "above 0 to 100"),
        (&["--fold", "0"], "--fold"),
        (&["--progress", "1"], "has no unit"),
        (&["--progress", "1h"], "must be from 10ms to 30s, or off"),
        (&["--config", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
    ] {
        let (code, output, error) = simulate(&[&[text(&good), "--out", text(&out)], arguments].concat());
        assert_eq!((code, output.as_str()), (Some(2), ""), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
        assert!(!out.exists(), "{arguments:?}");
    }
    let (code, _, error) = simulate(&[]);
    assert!(code == Some(2) && error.contains("TRACE"), "{error}");
    let (code, output, error) = simulate(&[text(&good), "--out", text(&good)]);
    assert_eq!((code, output.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("two.csv"), "a file is no folder: {error}");
}
