//! The binary's commands against a running server, as people and scripts use them: exit codes, tables, JSON.

use serde_json::Value;
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::server::{Build, Server, Setup, root};

/// Runs a command that must end with `code`: what it printed on standard output, and on standard error.
#[track_caller]
fn run(server: &Server, code: i32, arguments: &[&str]) -> (String, String) {
    let (exit, output, error) = server.run(Build::Release, arguments);
    assert_eq!(exit, Some(code), "{arguments:?}\n{output}{error}");
    (output, error)
}

#[track_caller]
fn json(server: &Server, code: i32, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let (output, _) = run(server, code, &arguments);
    serde_json::from_str(&output).expect("--json prints JSON")
}

#[tokio::test]
async fn check_asks_shows_and_leaves_nothing_behind() {
    let server = Setup::release().arguments(["--max-keys", "4"]).start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000; 3]).await;
    let check = ["check", "--account", "acme", "--model", "m", "--prompt"];
    let with = |tokens, more: &[&'static str]| [&check[..], &[tokens], more].concat();

    let (shown, _) = run(&server, 0, &with("600", &[]));
    assert!(shown.contains("allow") && shown.contains("600") && shown.contains("1,000"), "{shown}");
    let ask = Ask::of("acme");
    assert_eq!(gateway.windows(&ask).await.used(), [0, 0, 0], "its reservation was released");

    let kept = json(&server, 0, &with("0.6k", &["--keep"]));
    assert_eq!(kept["decision"], "allow", "{kept}");
    let used = gateway.windows(&ask).await.used();
    assert_eq!(used[..2], [600, 600], "kept");
    let id = kept["reservation_id"].as_str().expect("its id is printed");
    gateway.settle_as_admitted(id, 7).await;

    let denied = json(&server, 3, &with("401", &[]));
    assert_eq!((&denied["decision"], &denied["reason"]), (&"rate_limited".into(), &"window_full".into()), "{denied}");
    run(&server, 3, &with("1001", &[]));
    run(&server, 0, &["admin", "accounts", "create", "spammer", "--blocked", "true"]);
    run(&server, 5, &["check", "--account", "spammer", "--model", "m"]);
    // Two strangers fit in half of the table of four; the third is told that it is ours.
    for (code, stranger) in [(0, "a"), (0, "b"), (4, "c")] {
        run(&server, code, &["check", "--account", stranger, "--model", "m", "--keep"]);
    }
    let (_, error) = run(&server, 2, &["check", "--account", "acme"]);
    assert!(error.contains("--model"), "{error}");
    let (_, error) = run(&server, 2, &["check", "--account", "", "--model", "m"]);
    assert!(error.contains("key.account"), "{error}");
    let nowhere = ["--target", "http://127.0.0.1:1"];
    let (_, error) = run(&server, 1, &[&with("1", &[])[..], &nowhere].concat());
    assert!(error.contains("127.0.0.1:1"), "{error}");
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn operators_change_limits_and_see_them() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    run(&server, 0, &["admin", "tiers", "create", "gold", "--prompt-floor", "2k", "--prompt-ceiling", "4k"]);
    run(&server, 0, &["admin", "accounts", "create", "acme", "--tier", "gold"]);
    let ask = Ask::of("acme").tokens(1_500, 1, 0);
    gateway.allow(&ask).await;
    gateway.deny(&ask).await;
    run(&server, 0, &["admin", "tiers", "update", "gold", "--prompt-floor", "3.5k"]);
    gateway.allow(&ask).await;
    let launch = ["--account", "acme", "--model", "m", "--prompt-floor", "9k", "--prompt-ceiling", "9k"];
    run(&server, 0, &[&["admin", "overrides", "create"][..], &launch, &["--reason", "launch"]].concat());
    assert_eq!(gateway.windows(&ask).await.limits()[0], 9_000, "the override wins over the tier");

    let (table, _) = run(&server, 0, &["admin", "limits", "list", "--account", "acme"]);
    assert!(table.contains("acme") && table.contains("9,000"), "{table}");
    let (rows, _) = run(&server, 0, &["admin", "tiers", "list", "--json"]);
    let names: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).expect("one object a line")).collect();
    assert_eq!(names.len(), 6, "the five built-in tiers and gold: {rows}");

    let (_, error) = run(&server, 2, &["admin", "accounts", "update", "acme", "--tier", "no such tier"]);
    assert!(error.contains("account.tier") && error.contains("no such tier"), "{error}");
    let (_, error) = run(&server, 1, &["admin", "tiers", "delete", "gold", "--yes"]);
    assert!(error.contains("gold"), "{error}");
    let (_, error) = run(&server, 2, &["admin", "tiers", "update", "gold", "--prompt-floor", "many"]);
    assert!(error.contains("--prompt-floor"), "{error}");
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_launch_is_planned_dry_made_and_found_in_the_log() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("acme").tokens(10, 1, 0);
    gateway.allow(&ask).await;
    let boost = ["admin", "boost", "--account", "acme", "--prompt", "7.2M", "--for", "1h", "--reason", "launch"];
    let (plan, remark) = run(&server, 0, &[&boost[..], &["--dry-run"]].concat());
    assert!(plan.contains("3,600,000 -> 7,2") && plan.contains("acme"), "{plan}");
    assert!(remark.contains("1 limits raised") && remark.contains("nothing was changed"), "{remark}");
    assert_eq!(gateway.windows(&ask).await.limits()[0], 3_600_000);
    let (log, _) = run(&server, 0, &["admin", "changes", "--json"]);
    assert_eq!(log, "", "a dry run is not in the log");

    run(&server, 0, &boost);
    let limit = gateway.windows(&ask).await.limits()[0];
    assert!((7_200_000..7_222_000).contains(&limit), "{limit}");
    run(&server, 0, &["admin", "accounts", "create", "acme", "--actor", "kim"]);
    let (log, _) = run(&server, 0, &["admin", "changes", "--since", "1h", "--json"]);
    let rows: Vec<Value> = log.lines().map(|row| serde_json::from_str(row).expect("one object a line")).collect();
    let seen: Vec<_> = rows.iter().map(|row| (row["sequence"].as_u64(), row["object"].as_str())).collect();
    assert_eq!(seen, [(Some(2), Some("account/acme")), (Some(1), Some("boost/acme"))], "{log}");
    assert_eq!((&rows[0]["unverified_actor"], &rows[1]["reason"]), (&"kim".into(), &"launch".into()));
    assert!(rows[0]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{log}");
    assert_eq!((&rows[0]["before"], &rows[0]["after"]["name"]), (&Value::Null, &"acme".into()));
    let (table, _) = run(&server, 0, &["admin", "changes"]);
    assert!(table.contains("CreateAccount") && table.contains("kim"), "{table}");

    let past = ["admin", "boost", "--account", "acme", "--prompt", "9M", "--until", "2020-01-01T00:00:00Z"];
    let (_, error) = run(&server, 2, &past);
    assert!(error.contains("expire_time") && error.contains("future"), "{error}");
    gateway.verdict().assert_clean();
}

#[test]
fn the_example_configuration_is_right_and_serves() {
    let example = root().join("tidegate.example.toml");
    let text = std::fs::read_to_string(&example).expect("it is in the repository");
    let server = Setup::release().config(&text).start();
    let path = example.to_str().expect("UTF-8");
    run(&server, 0, &["config", "check", path]);
    run(&server, 0, &["health"]);
    run(&server, 0, &["check", "--account", "acme", "--model", "large", "--prompt", "12k", "--max-generated", "1k"]);
    let broken = server.folder().join("broken.toml");
    std::fs::write(&broken, text.replace("10m", "ten minutes")).expect("writable");
    let (output, error) = run(&server, 2, &["config", "check", broken.to_str().expect("UTF-8")]);
    assert!((output + &error).contains("bounds.reservation_ttl"));
}
