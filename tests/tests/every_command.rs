//! Every command of `tidegate admin`, once, against a running server: none is in `--help` that does not work.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::server::{Build, Server, Setup};

/// What asks first, while tier gold, account acme, model large and override launch are there.
const FINAL: [(&str, &str); 6] = [
    ("tiers delete gold", "Tier gold would be deleted"),
    ("accounts delete acme", "Account acme would be deleted"),
    ("models delete large", "The policy of model large would be deleted"),
    ("overrides delete launch", "Override launch would be deleted"),
    ("limits reset --account acme --model large", "All limits of acme on large would go back to their floors"),
    ("enforcement set shadow", "nobody is denied by a limit"),
];

/// What only reads.
const READS: [&str; 5] = ["list", "show", "explain", "get", "changes"];

/// An operator's day: exit code, and what is typed after `tidegate admin`.
const DAY: &[(i32, &str)] = &[
    (0, "tiers list"),
    (0, "tiers create gold --generated-floor 50k --generated-ceiling 500k --reason new"),
    (1, "tiers create gold --generated-floor 50k"),
    (2, "tiers create bad --prompt-floor 9k --prompt-ceiling 8k"),
    (0, "tiers show gold"),
    (0, "tiers update gold --generated-floor 60k --expected-revision 1"),
    (1, "tiers update gold --generated-floor 70k --expected-revision 1"),
    (0, "tiers set-model gold --model large --generated-floor 80k"),
    (0, "tiers clear-model gold --model large"),
    (1, "tiers show silver"),
    (0, "models create large --generated-ceiling 400k"),
    (0, "models list"),
    (0, "models show large"),
    (0, "models update large --generated-ceiling 450k"),
    (1, "models update small --generated-ceiling 450k"),
    (0, "accounts create acme --tier gold"),
    (2, "accounts create other --tier silver"),
    (0, "accounts list"),
    (0, "accounts show acme"),
    (0, "accounts update acme --enforcement shadow"),
    (0, "accounts update acme --enforcement inherit"),
    (0, "accounts block spammer --reason abuse"),
    (0, "accounts unblock spammer"),
    (1, "accounts update nobody --tier gold"),
    (1, "tiers delete gold --yes"),
    (
        0,
        "overrides create --id launch --account acme --model large --generated-floor 90k --expires-in 1h --reason launch",
    ),
    (2, "overrides create --account acme --generated-floor 90k --expires-at 2020-01-01T00:00:00Z --reason late"),
    (0, "overrides list"),
    (0, "overrides show launch"),
    (0, "overrides update launch --generated-floor 95k"),
    (1, "overrides update landing --generated-floor 95k"),
    (0, "limits list"),
    (0, "limits list --at-ceiling"),
    (0, "limits show --account acme --model large"),
    (0, "limits explain --account acme --model large --to 200k"),
    (1, "limits explain --account nobody --model nothing"),
    (0, "boost --account acme --generated 200k --for 30m --reason launch --dry-run"),
    (0, "boost --account acme --generated 200k --for 30m --reason launch"),
    (2, "boost --account acme --generated 200k --until 2020-01-01T00:00:00Z --reason late"),
    (0, "limits reset --account acme --model large --drop-holds --reason again --yes"),
    (1, "limits reset --account nobody --model large --yes"),
    (0, "enforcement get"),
    (0, "enforcement set shadow --reason trial --yes"),
    (0, "enforcement set on --reason over"),
    (0, "overrides delete launch --yes"),
    (1, "overrides delete launch --yes"),
    (0, "accounts delete acme --yes"),
    (0, "accounts delete spammer --yes"),
    (0, "models delete large --yes"),
    (0, "tiers delete gold --yes"),
    (0, "changes"),
    (0, "changes --since 1h"),
];

/// Runs `tidegate admin` with what is typed on `line`: exit code, standard output, standard error.
fn admin(server: &Server, line: &str) -> (Option<i32>, String, String) {
    let words: Vec<_> = line.split_whitespace().collect();
    server.run(Build::Release, &[&["admin"], &words[..]].concat())
}

/// The subcommands that `--help` of a command lists.
fn listed(server: &Server, command: &str) -> Vec<String> {
    let (exit, help, error) = admin(server, &format!("{command} --help"));
    assert_eq!(exit, Some(0), "{command}: {error}");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The commands of `--help`, such as `tiers list` and `boost`.
fn commands(server: &Server) -> BTreeSet<String> {
    let groups = listed(server, "");
    assert!(groups.len() > 5, "--help is not understood: {groups:?}");
    let leaves = groups.into_iter().flat_map(|group| {
        let names = listed(server, &group);
        if names.is_empty() { vec![group] } else { names.iter().map(|name| format!("{group} {name}")).collect() }
    });
    leaves.collect()
}

/// Runs the lines one after another; one that fails says why on standard error, and prints nothing else.
fn live(server: &Server, day: &[(i32, &str)]) {
    for (code, line) in day {
        let (exit, output, error) = admin(server, line);
        assert_eq!(exit, Some(*code), "admin {line}\n{output}{error}");
        if *code == 0 {
            continue;
        }
        assert!(output.is_empty() && !error.is_empty(), "admin {line}: {output}{error}");
        assert!(!error.contains("panicked"), "admin {line}: {error}");
    }
}

/// What the audit log has, the newest write first.
fn log(server: &Server) -> Vec<Value> {
    let (_, log, _) = admin(server, "changes --json");
    log.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

/// The lines that are writes, and were taken.
fn taken() -> impl Iterator<Item = &'static str> {
    let writes = DAY.iter().filter(|(code, line)| {
        *code == 0 && !line.contains("--dry-run") && !line.split_whitespace().any(|word| READS.contains(&word))
    });
    writes.map(|(_, line)| *line)
}

#[tokio::test]
async fn every_admin_command_works_and_says_what_is_wrong() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("acme").on("large", "").tokens(100, 100, 10)).await;
    live(&server, DAY);

    let worked = || DAY.iter().filter(|(code, _)| *code == 0).map(|(_, line)| *line);
    for command in commands(&server) {
        assert!(worked().any(|line| line.starts_with(&command)), "`admin {command}` is in --help, and was not tried");
    }
    let changes = log(&server);
    let reasons = changes.iter().rev().map(|change| change["reason"].as_str().expect("a string"));
    let stated =
        taken().map(|line| line.split_once("--reason ").map_or("", |(_, text)| text.split(' ').next().unwrap_or("")));
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        stated.collect::<Vec<_>>(),
        "every write taken, none refused or dry: {changes:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_undone_needs_a_yes_and_changes_nothing_without() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    gateway.allow(&Ask::of("acme").on("large", "").tokens(100, 100, 10)).await;
    live(
        &server,
        &[
            (0, "tiers create gold"),
            (0, "accounts create acme"),
            (0, "models create large"),
            (0, "overrides create --id launch --account acme --generated-floor 90k --reason launch"),
        ],
    );
    for (line, says) in FINAL {
        // The server's test harness gives the command no terminal, as a script would.
        let (exit, output, error) = admin(&server, line);
        assert_eq!((exit, output.as_str()), (Some(2), ""), "admin {line}: {error}");
        assert!(error.contains(says) && error.contains("--yes"), "admin {line}: {error}");
        let (exit, _, error) = admin(&server, &format!("{line} --dry-run"));
        assert_eq!(exit, Some(0), "a dry run changes nothing, so nobody is asked: {line}: {error}");
    }
    assert_eq!(log(&server).len(), 4, "the four that were created");
    for (line, _) in FINAL.iter().rev() {
        let (exit, _, error) = admin(&server, &format!("{line} -y"));
        assert_eq!(exit, Some(0), "admin {line} -y: {error}");
    }
    assert_eq!(log(&server).len(), 4 + FINAL.len());
}
