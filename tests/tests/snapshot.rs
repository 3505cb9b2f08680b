//! `tidegate snapshot` as people and scripts use it: a server is moved to another directory, and nothing is decided otherwise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidegate_proto::v1::SettleOutcome;
use tidegate_tests::gateway::{Ask, Gateway};
use tidegate_tests::server::{Build, Setup};

/// Runs `tidegate snapshot`, which must end with `code`: standard output, and standard error.
#[track_caller]
fn run(code: i32, directory: Option<&Path>, arguments: &[&str]) -> (Vec<u8>, String) {
    let mut command = Command::new(Build::Release.path());
    command.arg("snapshot").args(arguments).stdin(Stdio::null()).env_remove("TIDEGATE_DATA_DIR");
    if let Some(directory) = directory {
        command.env("TIDEGATE_DATA_DIR", directory);
    }
    let output = command.output().expect("the binary starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}{error}");
    assert!(!error.contains("panicked"), "{arguments:?}: {error}");
    if code != 0 {
        assert!(output.stdout.is_empty() && !error.is_empty(), "{arguments:?}: {text}{error}");
    }
    (output.stdout, error)
}

fn json(arguments: &[&str]) -> Value {
    let (output, _) = run(0, None, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output).expect("--json prints JSON")
}

#[tokio::test]
async fn a_server_moves_to_another_directory_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (here, there, file, nowhere) = (path("here"), path("there"), path("file"), path("nowhere"));
    let ask = Ask::of("acme").tokens(600, 600, 10);
    let mut server = Setup::release().arguments(["--data-dir", &here]).start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [1_000; 3]).await;
    let admitted = gateway.allow(&ask).await;

    let (_, error) = run(1, None, &["export", "--data-dir", &here, &file]);
    assert!(error.contains("in use") && error.contains("stop the server first"), "{error}");
    run(1, None, &["inspect", &here]);
    server.terminate();
    assert_eq!(server.wait().and_then(|status| status.code()), Some(0), "{}", server.output());

    let (said, _) = run(0, None, &["export", "--data-dir", &here, &file]);
    assert!(String::from_utf8_lossy(&said).contains("1 keys, 1 live reservations"), "{said:?}");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    let (_, error) = run(2, None, &["export", "--data-dir", &here, &file]);
    assert!(error.contains(&file) && error.contains("--force"), "{error}");
    run(0, Some(here.as_ref()), &["export", "--force", &file]);
    let (streamed, _) = run(0, Some(here.as_ref()), &["export", "-"]);
    assert!(streamed == fs::read(&file).expect("readable"));

    for (kind, path) in [("directory", &here), ("snapshot", &file)] {
        let contents = json(&["inspect", path]);
        assert_eq!((&contents["kind"], &contents["stopped"]), (&kind.into(), &true.into()), "{contents}");
        let counts = &contents["counts"];
        let counted = ["keys", "live_reservations", "accounts"].map(|name| counts[name].as_u64());
        assert_eq!(counted, [Some(1), Some(1), Some(1)], "{counts}");
        let newest = &contents["newest_changes"][0];
        assert_eq!(newest["sequence"], counts["changes"], "{contents}");
        let (text, _) = run(0, None, &["inspect", path]);
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("in good order") && text.contains("key acme"), "{text}");
        let key = json(&["inspect", path, "--account", "acme", "--model", "m"]);
        assert_eq!(key["windows"][0]["used_tokens"], 600, "{key}");
        assert_eq!(key["live_reservations"][0]["reserved"]["prompt"], 600, "{key}");
        let (text, _) = run(0, None, &["inspect", path, "--account", "acme", "--model", "m"]);
        assert!(String::from_utf8_lossy(&text).contains("live reservations: 1"));
        let (_, error) = run(1, None, &["inspect", path, "--account", "nobody", "--model", "m", "--variant", "v"]);
        assert!(error.contains("nobody"), "{error}");
    }

    let (_, error) = run(2, None, &["import", "--data-dir", &here, &file]);
    assert!(error.contains("has state"), "{error}");
    fs::write(path("cut"), &streamed[..streamed.len() - 1]).expect("writable");
    let (_, error) = run(1, None, &["import", "--data-dir", &there, &path("cut")]);
    assert!(error.contains("cut off or altered") && !Path::new(&there).exists(), "{error}");
    run(0, None, &["import", "--data-dir", &there, &file]);

    let server = Setup::release().arguments(["--data-dir", &there]).start();
    let moved = Gateway::of(&server).await;
    assert_eq!(moved.windows(&ask).await.used()[0], 600);
    moved.deny(&ask).await;
    for outcome in [SettleOutcome::Applied, SettleOutcome::Duplicate] {
        let settled = moved.settle(&admitted.reservation_id, None, None, Some(5)).await.expect("its id is good here");
        assert_eq!(settled.outcome(), outcome);
    }

    for (arguments, says) in [
        (&["export", &file][..], "--data-dir"),
        (&["export", "--data-dir", &nowhere, &path("new")], "no data directory"),
        (&["inspect", &here, "--account", "acme"], "--model"),
        (&["inspect", &here, "--account", "", "--model", "m"], "--account"),
    ] {
        let (_, error) = run(2, None, arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for (arguments, says) in
        [(["inspect", &nowhere], &nowhere[..]), (["inspect", env!("CARGO_MANIFEST_PATH")], "first line")]
    {
        let (_, error) = run(1, None, &arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    assert!(!Path::new(&nowhere).exists() && !Path::new(&path("new")).exists());
}
