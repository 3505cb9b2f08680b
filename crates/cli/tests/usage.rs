//! The binary as a shell sees it: exit codes, and what goes where. No server is needed.

use std::process::{Command, Output, Stdio};

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("TIDEGATE_TARGET").env_remove("TIDEGATE_ADMIN_TARGET").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = tidegate(arguments).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_to_write() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let bad_trace = folder.path().join("bad.csv");
    let header = "t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens,duration_ms";
    std::fs::write(&bad_trace, format!("{header}\n0,a,m,1,,1,\n5,a,m,zero,,1,\n")).expect("writes");
    let bad_trace = bad_trace.to_str().expect("UTF-8");
    let check = ["check", "--account", "a", "--model", "m"];
    let update = ["admin", "--target", "http://127.0.0.1:1"];
    for (arguments, says) in [
        (&["check", "--model", "m"] as &[&str], "--account <NAME>"),
        (&[&check[..], &["--prompt", "12m"]].concat(), "write k (thousand), M (million)"),
        (
            &[&check[..], &["--target", "localhost:7437"]].concat(),
            "write http://host:port, https://host:port or unix:/path",
        ),
        (&[&check[..], &["--timeout", "10"]].concat(), "write ms, s, m, h or d"),
        (&["replay", "/no/such/trace.csv"], "/no/such/trace.csv: No such file"),
        (&["replay", bad_trace], "bad.csv:3: column `prompt_tokens`: `zero` is not a whole number"),
        (&["replay", bad_trace, "--speed", "0"], "from 0.001 to 1000000"),
        (&["replay", bad_trace, "--progress-every", "31s"], "must be from 10ms to 30s"),
        (&["trace", "synth", "--minutes", "0"], "0 is not in 1..=1440"),
        (&["config", "check", "/no/such/file.toml"], "/no/such/file.toml"),
        (&[&update[..], &["tiers", "create", "t", "--prompt-floor", "much"]].concat(), "`much` is not an amount"),
        (&["top"], "top needs a terminal; use `tidegate top --once`"),
        (&["top", "--json"], "--once"),
        (&["top", "--once", "--interval", "99ms"], "must be from 100ms to 1m"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn nobody_there_exits_with_1_and_names_the_target() {
    for arguments in [
        &["health", "--target", "unix:/no/such/socket"] as &[&str],
        &["check", "--account", "a", "--model", "m", "--target", "unix:/no/such/socket"],
        &["admin", "tiers", "list", "--target", "unix:/no/such/socket"],
        &["top", "--once", "--target", "unix:/no/such/socket"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("cannot connect to unix:/no/such/socket"), "{stderr}");
        assert!(stderr.contains("Is `tidegate serve` running there?"), "{stderr}");
    }
}

#[test]
fn help_and_version_are_results() {
    for arguments in [&["--help"] as &[&str], &["replay", "--help"], &["admin", "overrides", "create", "--help"]] {
        let (code, stdout, _) = run(arguments);
        assert_eq!(code, Some(0));
        assert!(stdout.contains("Examples:\n  tidegate "), "{stdout}");
    }
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!((code, stdout), (Some(0), format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    // The trace is far longer than a pipe holds, and its reader leaves at once.
    let mut child = tidegate(&["trace", "synth", "--minutes", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
