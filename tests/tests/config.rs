//! `tidegate config diff` and `apply` against a running server, as operators and pipelines use them.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidegate_proto::v1::{
    Account, CreateAccountRequest, GetAccountRequest, ListAccountsRequest, ListChangesRequest, UpdateAccountRequest,
};
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::server::{Build, Server, Setup};

const FILE: &str = r#"
[tiers.gold]
bounds.prompt = { floor = "2k", ceiling = "4k" }
[[tiers.gold.models]]
model = "large"
variant = "turbo"
bounds.generated = { ceiling = "432k" }
[[models]]
name = "large"
bounds.prompt = { ceiling = "5k" }
[accounts.acme]
tier = "gold"
[[overrides]]
id = "launch"
account = "acme"
model = "m"
bounds.prompt = { floor = "9k", ceiling = "9k" }
reason = "launch"
expires = 2100-01-31T00:00:00Z
"#;

/// A file beside the server's own: its path.
fn file(server: &Server, name: &str, text: &str) -> String {
    let path = server.folder().join(name);
    std::fs::write(&path, text).expect("writable");
    path.to_str().expect("UTF-8").to_owned()
}

/// Runs `tidegate config ...`, which must end with `code`: standard output and standard error.
#[track_caller]
fn config(server: &Server, code: i32, arguments: &[&str]) -> (String, String) {
    let (exit, output, error) = server.run(Build::Release, &[&["config"], arguments].concat());
    assert_eq!(exit, Some(code), "{arguments:?}\n{output}{error}");
    (output, error)
}

#[track_caller]
fn json(server: &Server, code: i32, arguments: &[&str]) -> Value {
    let (output, _) = config(server, code, &[arguments, &["--json"]].concat());
    serde_json::from_str(&output).expect("--json prints one object")
}

/// Actions and names, such as `create gold`.
fn steps(steps: &Value) -> Vec<String> {
    let word = |step: &Value, key: &str| step[key].as_str().expect("text").to_owned();
    let steps = steps.as_array().expect("a list");
    steps.iter().map(|step| format!("{} {}", word(step, "action"), word(step, "name"))).collect()
}

async fn writes(gateway: &Gateway) -> usize {
    let request = ListChangesRequest { page_size: 1_000, ..ListChangesRequest::default() };
    gateway.admin().list_changes(request).await.expect("answered").into_inner().changes.len()
}

async fn account(gateway: &Gateway, name: &str) -> Option<Account> {
    let request = GetAccountRequest { name: name.to_owned() };
    gateway.admin().get_account(request).await.ok().and_then(|answer| answer.into_inner().account)
}

#[tokio::test]
async fn apply_makes_the_file_true_and_a_second_time_does_nothing() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let ask = Ask::of("acme").tokens(1, 1, 0);
    gateway.allow(&ask).await;
    let path = file(&server, "policy.toml", FILE);

    let differs = json(&server, 1, &["diff", &path]);
    assert_eq!(differs["same"], false);
    assert_eq!(steps(&differs["differences"]), ["create gold", "create large", "create acme", "create launch"]);
    let (_, error) = config(&server, 2, &["apply", &path]);
    assert!(error.contains("--yes"), "nobody is there to agree: {error}");
    let (plan, remark) = config(&server, 0, &["apply", &path, "--dry-run"]);
    assert!(plan.contains("+ tier \"gold\"") && plan.contains("bounds.prompt.ceiling: 4,000"), "{plan}");
    assert!(plan.contains("not known before earlier steps"), "an account of a tier to come: {plan}");
    assert!(plan.contains("1 lowered by 3,591,000 TPM"), "effects are counted: {plan}");
    assert!(remark.contains("nothing was changed"), "{remark}");
    assert_eq!(writes(&gateway).await, 0, "not yet");

    let (done, remark) = config(&server, 0, &["apply", &path, "--yes", "--reason", "policy of May", "--actor", "kim"]);
    assert!(done.contains("applied 4") && remark.contains("lost at the next restart"), "{done}{remark}");
    assert_eq!(gateway.windows(&ask).await.limits()[0], 9_000, "in force at once");
    let changes = gateway.admin().list_changes(ListChangesRequest::default()).await.expect("answered").into_inner();
    assert_eq!(changes.changes.len(), 4);
    for change in changes.changes {
        assert_eq!((change.reason.as_str(), change.unverified_actor.as_str()), ("policy of May", "kim"), "audited");
    }

    let (done, _) = config(&server, 0, &["apply", &path]);
    assert!(done.contains("nothing to do"), "{done}");
    assert_eq!(writes(&gateway).await, 4);
    let (same, _) = config(&server, 0, &["diff", &path]);
    assert_eq!(same.trim(), "no differences");
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_server_started_with_a_file_does_not_differ_from_it() {
    let server = Setup::release().config(FILE).start();
    let path = file(&server, "policy.toml", FILE);
    assert_eq!(json(&server, 0, &["diff", &path])["same"], true);
    let stated = format!("unknown_accounts = \"forbidden\"\n{FILE}");
    let stated = file(&server, "stated.toml", &stated);
    let (_, remark) = config(&server, 0, &["diff", &stated]);
    assert!(remark.contains("Not compared: unknown_accounts"), "{remark}");
}

#[tokio::test]
async fn diff_says_what_an_operator_changed_since_and_apply_takes_it_back() {
    let server = Setup::release().config(FILE).start();
    let gateway = Gateway::of(&server).await;
    let path = file(&server, "policy.toml", FILE);
    let admin = |arguments: &[&str]| {
        let (exit, output, error) = server.run(Build::Release, &[&["admin"], arguments].concat());
        assert_eq!(exit, Some(0), "{output}{error}");
    };
    admin(&["tiers", "update", "gold", "--prompt-ceiling", "7k"]);
    admin(&["accounts", "create", "by-hand"]);
    let (differs, _) = config(&server, 1, &["diff", &path]);
    assert!(differs.contains("~ tier \"gold\"\n    bounds.prompt.ceiling: 7,000 -> 4,000"), "{differs}");
    assert!(differs.contains("account \"by-hand\": only on the server"), "{differs}");
    assert!(!differs.contains("acme") && !differs.contains("launch"), "what agrees is not mentioned: {differs}");

    let applied = json(&server, 0, &["apply", &path, "--yes"]);
    assert_eq!(
        (steps(&applied["plan"]), &applied["applied"]),
        (vec!["update gold".into(), "keep by-hand".into()], &1.into())
    );
    assert_eq!(steps(&json(&server, 1, &["diff", &path])["differences"]), ["keep by-hand"], "kept, and still said");
    assert!(account(&gateway, "by-hand").await.is_some());

    let applied = json(&server, 0, &["apply", &path, "--yes", "--prune"]);
    assert_eq!(steps(&applied["writes"]), ["delete by-hand"]);
    assert!(account(&gateway, "by-hand").await.is_none());
    config(&server, 0, &["diff", &path]);
}

#[tokio::test]
async fn prune_deletes_in_an_order_that_works() {
    let server = Setup::release().config(FILE).start();
    // Not even the tier is left of it; the override's scope is taken by another id.
    let path = file(
        &server,
        "policy.toml",
        "[[overrides]]\nid = \"relaunch\"\naccount = \"acme\"\nmodel = \"m\"\nbounds.prompt = { ceiling = \"8M\" }\n",
    );
    let (_, error) = config(&server, 1, &["apply", &path, "--yes"]);
    assert!(error.contains("\"launch\"") && error.contains("\"relaunch\"") && error.contains("--prune"), "{error}");
    assert_eq!(
        json(&server, 1, &["diff", &path])["differences"].as_array().expect("a list").len(),
        5,
        "nothing changed"
    );

    let applied = json(&server, 0, &["apply", &path, "--yes", "--prune"]);
    let expected = ["delete launch", "create relaunch", "delete acme", "delete large", "delete gold"];
    assert_eq!(steps(&applied["writes"]), expected);
    config(&server, 0, &["diff", &path]);
}

#[tokio::test]
async fn what_cannot_be_done_half_way_is_not_begun() {
    // The server begins with a default tier that no file can take away; the blocked account would be deleted before it.
    let text = "default_tier = \"gold\"\n[tiers.gold]\n[accounts.evil]\nblocked = true\n";
    let server = Setup::release().config(text).start();
    let gateway = Gateway::of(&server).await;
    let path = file(
        &server,
        "policy.toml",
        "[[overrides]]\nid = \"o\"\naccount = \"a\"\nbounds.prompt = { floor = \"150M\" }\n",
    );
    let (plan, remark) = config(&server, 0, &["apply", &path, "--prune", "--dry-run"]);
    assert!(plan.contains("- account \"evil\"\n    blocked: true -> -"), "what a deletion takes: {plan}");
    assert!(
        plan.contains("now: ") && plan.contains("used by accounts that name no tier"),
        "why the tier would stay: {plan}"
    );
    assert!(
        remark.contains("override \"o\"") && remark.contains("the floor wins"),
        "known before the question: {remark}"
    );
    assert!(config(&server, 0, &["check", &path]).1.contains("the floor wins"));
    assert_eq!(writes(&gateway).await, 0);
}

#[tokio::test]
async fn overrides_move_from_scope_to_scope() {
    let over = |id: &str, account: &str| {
        format!("[[overrides]]\nid = \"{id}\"\naccount = \"{account}\"\nbounds.prompt = {{ ceiling = \"9M\" }}\n")
    };
    let server = Setup::release().config(&(over("o1", "x") + &over("o2", "y"))).start();
    // o2 leaves y, to which a new one comes whose name is before it.
    let path = file(&server, "moved.toml", &(over("a-new", "y") + &over("o1", "x") + &over("o2", "z")));
    let applied = json(&server, 0, &["apply", &path, "--yes"]);
    assert_eq!(steps(&applied["writes"]), ["update o2", "create a-new"]);
    config(&server, 0, &["diff", &path]);
    let path = file(&server, "exchanged.toml", &(over("a-new", "x") + &over("o1", "y") + &over("o2", "z")));
    let (_, error) = config(&server, 1, &["apply", &path, "--yes"]);
    assert!(
        error.contains("\"a-new\"") && error.contains("\"o1\"") && error.contains("Nothing was changed"),
        "{error}"
    );
}

#[tokio::test]
async fn a_bad_file_names_what_is_wrong_and_changes_nothing() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let broken = file(&server, "broken.toml", "[accounts.a]\ntier = \"tier-2\"\n\nthis is no TOML\n");
    let wrong = file(&server, "wrong.toml", "[accounts.a]\ntier = \"gold\"\n[accounts.b]\nblocked = \"perhaps\"\n");
    for command in ["diff", "apply"] {
        let (_, error) = config(&server, 2, &[command, &broken]);
        assert!(error.contains("broken.toml:4"), "its line: {error}");
        let (_, error) = config(&server, 2, &[command, &wrong]);
        assert!(error.contains("accounts.a.tier") && error.contains("accounts.b.blocked"), "each field: {error}");
        config(&server, 2, &[command, "no-such-file.toml"]);
    }
    let path = file(
        &server,
        "policy.toml",
        "[law_profiles.mine]\nramp_doubling = \"20m\"\n[accounts.a]\n[tiers.t]\nlaw_profile = \"mine\"\n",
    );
    let (_, error) = config(&server, 2, &["apply", &path, "--yes"]);
    assert!(error.contains("tier.law_profile") && error.contains("Nothing was changed"), "{error}");
    let huge = "x".repeat(1_025);
    let (_, error) =
        config(&server, 2, &["apply", &file(&server, "one.toml", "[accounts.a]\n"), "--yes", "--reason", &huge]);
    assert!(error.contains("options.reason") && error.contains("Nothing was changed"), "{error}");
    assert_eq!(writes(&gateway).await, 0);
    let endless = std::fs::File::create(server.folder().join("endless.toml")).expect("writable");
    endless.set_len(1 << 30).expect("a hole takes no room");
    let (_, error) = config(&server, 2, &["diff", server.folder().join("endless.toml").to_str().expect("UTF-8")]);
    assert!(error.contains("endless.toml: cannot be read: it is larger than 256 MiB"), "{error}");
    let nobody = ["diff", &wrong, "--target", "http://127.0.0.1:1"];
    config(&server, 2, &nobody);
    let right = file(&server, "right.toml", "");
    let (_, error) = config(&server, 2, &["diff", &right, "--target", "http://127.0.0.1:1"]);
    assert!(error.contains("cannot connect"), "trouble is not a difference: {error}");
    config(&server, 1, &["apply", &right, "--yes", "--target", "http://127.0.0.1:1"]);
}

/// A file with so many accounts, `a00000` to the last.
fn accounts(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        writeln!(text, "[accounts.a{number:05}]\ntier = \"tier-2\"").expect("a string takes all");
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_meanwhile_stops_it_and_it_says_how_far_it_came() {
    let server = Setup::release().config("[accounts.a01999]\ntier = \"tier-3\"\n").start();
    let gateway = Gateway::of(&server).await;
    let path = file(&server, "many.toml", &accounts(2_000));
    let mut apply = Command::new(Build::Release.path());
    apply.args(["config", "apply", &path, "--yes", "--target", &format!("http://{}", server.admin())]);
    let apply = apply.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    // From the first write on, its plan is made.
    while account(&gateway, "a00000").await.is_none() {
        tokio::task::yield_now().await;
    }
    let update = UpdateAccountRequest {
        account: Some(Account { name: "a01999".into(), blocked: true, ..Account::default() }),
        update_mask: None,
        options: None,
    };
    gateway.admin().update_account(update).await.expect("an operator is faster");
    let ended = apply.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("stopped at account \"a01999\"") && error.contains("STALE_REVISION"), "{error}");
    assert!(error.contains("Somebody else") && error.contains("Applied: 1999: account \"a00000\""), "{error}");
    assert!(error.contains("Not applied: 1: account \"a01999\""), "{error}");
    assert!(account(&gateway, "a01999").await.expect("it is there").blocked, "the other write stands");

    let again = json(&server, 0, &["apply", &path, "--yes"]);
    assert_eq!(steps(&again["writes"]), ["update a01999"], "the same command goes on from there");
}

#[tokio::test]
async fn a_hundred_thousand_accounts_are_compared_page_by_page() {
    let server = Setup::release().config(&accounts(100_000)).start();
    let gateway = Gateway::of(&server).await;
    let new = Account { name: "a05000-b".into(), ..Account::default() };
    let request = CreateAccountRequest { account: Some(new), options: None };
    gateway.admin().create_account(request).await.expect("it is new");
    let listed = gateway.admin().list_accounts(ListAccountsRequest { page_size: 1, ..Default::default() }).await;
    assert!(!listed.expect("answered").into_inner().next_page_token.is_empty());
    let path = file(&server, "many.toml", &accounts(100_000));
    assert_eq!(steps(&json(&server, 1, &["diff", &path])["differences"]), ["keep a05000-b"]);
}
