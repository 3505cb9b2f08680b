//! Snapshots: nothing is decided otherwise after one, and no file but a whole one is taken.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::super::snapshot::{self, ExportError, ImportError, InspectError, OwnedRow};
use super::*;

/// Every file of a folder, and what is in it.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable"));
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| (name(&entry), fs::read(entry.path()).expect("a file"))).collect()
}

async fn log(served: &Served) -> ChangePage {
    served.store.changes(&ChangeQuery { page_size: 100, ..ChangeQuery::default() }).await
}

/// A directory with some of everything, whose process was stopped or killed, the ids of two live reservations, and when.
async fn lived_in(path: &Path, stop: bool) -> (Vec<String>, Timestamp) {
    let served = Served::open(path, START);
    served.write(PolicyWrite::Create(Written::Account(Account { name: "acme".into(), ..Account::default() }))).await;
    served.write(PolicyWrite::Create(Written::Model(Model { name: "m/n".into(), ..Model::default() }))).await;
    let mut ids = Vec::new();
    for (account, prompt) in [("acme", 100), ("acme", 500), ("other", 300)] {
        ids.push(served.admit(account, prompt).await);
        served.wait(Duration::from_secs(2));
        served.flush().await;
    }
    let settled = ids.remove(0);
    assert_eq!(served.settle(&settled, 5).await, Ok(SettleOutcome::Applied));
    let released = served.admit("acme", 50).await;
    served.store.release(served.now(), &released).await.expect("it is live");
    served.flush().await;
    if stop {
        served.store.stop(Duration::from_secs(10)).expect("the disk answers");
    }
    (ids, served.crash())
}

#[tokio::test]
async fn nothing_is_decided_otherwise_after_a_move() {
    for stop in [true, false] {
        let folder = folder();
        let (here, file, there) = ["here", "file", "there"].map(|name| folder.path().join(name)).into();
        let (ids, stopped) = lived_in(&here, stop).await;
        let before = files(&here);
        let exported = snapshot::export(&here, &file, false).expect("nobody has it");
        assert_eq!(files(&here), before, "a directory is as it was, after a kill too");
        assert_eq!(exported.bytes, fs::metadata(&file).expect("it is there").len());
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        let imported = snapshot::import(&file, &there).expect("a whole file");
        assert_eq!(imported.counts, exported.contents.counts);

        let wall = stopped.after(Duration::from_secs(3));
        let (old, new) = (Served::open(&here, wall), Served::open(&there, wall));
        assert_eq!(new.store.policy(), old.store.policy());
        assert_eq!(log(&new).await, log(&old).await);
        assert_eq!(log(&new).await.rows.len(), 2);
        for served in [&old, &new] {
            assert_eq!(served.used("acme").await, Tokens::new(600, 600, 5));
            assert!(served.ask(&request("acme", 401)).await.reservation_id.is_none());
            assert!(served.ask(&request("acme", 400)).await.reservation_id.is_some());
            for id in &ids {
                assert_eq!(served.settle(id, 7).await, Ok(SettleOutcome::Applied), "the id is good here too");
                assert_eq!(served.settle(id, 7).await, Ok(SettleOutcome::Duplicate));
            }
            let again = Account { name: "acme".into(), ..Account::default() };
            let again = PolicyWrite::Update { entry: Written::Account(again), expected_revision: Some(1) };
            assert!(served.write(again).await.persisted, "and revisions go on");
        }
        assert_eq!(new.used("acme").await, old.used("acme").await);
    }
}

#[tokio::test]
async fn a_snapshot_of_a_snapshot_is_the_same() {
    let folder = folder();
    let (here, file, there, again) = ["a", "b", "c", "d"].map(|name| folder.path().join(name)).into();
    lived_in(&here, true).await;
    snapshot::export(&here, &file, false).expect("nobody has it");
    snapshot::import(&file, &there).expect("a whole file");
    snapshot::export(&there, &again, false).expect("nobody has it");
    assert!(fs::read(&file).expect("readable") == fs::read(&again).expect("readable"));
    let mut streamed = Vec::new();
    snapshot::export_to(&here, Path::new("-"), &mut streamed).expect("memory");
    assert!(fs::read(&file).expect("readable") == streamed);
}

#[tokio::test]
async fn every_cut_and_every_altered_byte_is_refused_and_nothing_is_written() {
    let folder = folder();
    let (here, file, there) = ["here", "file", "there"].map(|name| folder.path().join(name)).into();
    let served = Served::open(&here, START);
    served.admit("acme", 1).await;
    served.store.stop(Duration::from_secs(10)).expect("the disk answers");
    drop(served);
    snapshot::export(&here, &file, false).expect("nobody has it");
    let whole = fs::read(&file).expect("readable");
    assert!(whole.len() < 20_000, "each byte of it is altered: {}", whole.len());
    let refused = |bytes: &[u8], what: &str, at: usize| {
        fs::write(&file, bytes).expect("writable");
        let error = snapshot::import(&file, &there).expect_err(what);
        assert!(matches!(error, ImportError::Snapshot(InspectError::File { .. })), "{what} {at}: {error}");
        assert!(!there.exists(), "{what} {at}");
    };
    for at in 0..whole.len() {
        refused(&whole[..at], "cut off at", at);
        let mut altered = whole.clone();
        altered[at] = altered[at].wrapping_add(1 + u8::try_from(at % 255).expect("a byte"));
        refused(&altered, "altered at", at);
    }
    fs::write(&file, &whole).expect("writable");
    snapshot::import(&file, &there).expect("the whole file is taken");
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let folder = folder();
    let (here, file, there) = ["here", "file", "there"].map(|name| folder.path().join(name)).into();
    lived_in(&here, true).await;
    snapshot::export(&here, &file, false).expect("nobody has it");
    let error = snapshot::export(&here, &file, false).expect_err("the file exists");
    assert!(matches!(error, ExportError::Exists { .. }), "{error}");
    snapshot::export(&here, &file, true).expect("it is to be replaced");
    let error = snapshot::export(&here, folder.path(), true).expect_err("a folder");
    assert!(matches!(error, ExportError::NoFile { .. }), "{error}");

    let before = files(&here);
    let error = snapshot::import(&file, &here).expect_err("it has state");
    assert!(matches!(error, ImportError::Directory(OpenError::HasState { .. })), "{error}");
    assert_eq!(files(&here), before);
    fs::create_dir(&there).expect("writable");
    fs::write(there.join("letter.txt"), "dear").expect("writable");
    let error = snapshot::import(&file, &there).expect_err("it has a file that is not ours");
    assert!(matches!(error, ImportError::Directory(OpenError::Foreign { .. })), "{error}");
    assert_eq!(files(&there).len(), 1);
    fs::remove_file(there.join("letter.txt")).expect("writable");
    snapshot::import(&file, &there).expect("an empty folder");
    let left = fs::read_dir(folder.path()).expect("readable").count();
    assert_eq!(left, 3, "nothing unfinished is left");
}

#[tokio::test]
async fn a_directory_in_use_is_left_alone() {
    let folder = folder();
    let (here, file) = ["here", "file"].map(|name| folder.path().join(name)).into();
    let served = Served::open(&here, START);
    served.admit("acme", 1).await;
    let error = snapshot::export(&here, &file, false).expect_err("it is served");
    assert!(matches!(error, ExportError::Directory(OpenError::InUse { .. })), "{error}");
    let error = snapshot::inspect(&here, None).expect_err("it is served");
    assert!(matches!(error, InspectError::Directory(OpenError::InUse { .. })), "{error}");
    let entries: Vec<_> = fs::read_dir(folder.path()).expect("readable").collect();
    assert_eq!(entries.len(), 1, "no part of a snapshot: {entries:?}");
    let nowhere = folder.path().join("nowhere");
    let error = snapshot::export(&nowhere, &file, false).expect_err("nothing is there");
    assert!(matches!(error, ExportError::Directory(OpenError::Nothing { .. })), "{error}");
    assert!(!nowhere.exists());
}

#[tokio::test]
async fn an_interrupted_import_is_no_state_and_can_be_repeated() {
    let folder = folder();
    let (here, file, there) = ["here", "file", "there"].map(|name| folder.path().join(name)).into();
    let (ids, stopped) = lived_in(&here, true).await;
    snapshot::export(&here, &file, false).expect("nobody has it");
    snapshot::import(&file, &there).expect("a whole file");
    // As it is before the last step but one, and half of it.
    fs::remove_file(there.join("FORMAT")).expect("it is there");
    fs::rename(there.join("state.redb"), there.join("unfinished-import.redb")).expect("it is there");
    let path = there.join("unfinished-import.redb");
    let half = fs::metadata(&path).expect("it is there").len() / 2;
    OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(half)).expect("writable");
    let error = opened(&there, &policy(1_000), stopped).err().expect("it is not served");
    assert!(matches!(&error, OpenError::Foreign { file, .. } if file.contains("import")), "{error}");
    let error = snapshot::inspect(&there, None).expect_err("nothing is known of it");
    assert!(matches!(error, InspectError::Directory(OpenError::Nothing { .. })), "{error}");
    snapshot::import(&file, &there).expect("once more");
    // Before the very last step: all is there.
    fs::remove_file(there.join("FORMAT")).expect("it is there");
    let error = snapshot::import(&file, &there).expect_err("it may be somebody's state");
    assert!(matches!(error, ImportError::Directory(OpenError::HasState { .. })), "{error}");
    let served = Served::open(&there, stopped);
    assert_eq!(served.settle(&ids[0], 7).await, Ok(SettleOutcome::Applied));
}

#[tokio::test]
async fn inspect_says_the_same_of_both_and_changes_neither() {
    let folder = folder();
    let (here, file) = ["here", "file"].map(|name| folder.path().join(name)).into();
    let (_, killed) = lived_in(&here, false).await;
    let before = files(&here);
    let wanted = request("acme", 1).key.to_owned();
    let of_directory = snapshot::inspect(&here, Some(&wanted)).expect("nobody has it");
    assert_eq!(files(&here), before);
    snapshot::export(&here, &file, false).expect("nobody has it");
    let of_file = snapshot::inspect(&file, Some(&wanted)).expect("whole");
    for contents in [&of_directory, &of_file] {
        let counts = contents.counts;
        assert_eq!((counts.keys, counts.reservations, counts.ended), (2, 2, 1), "{counts:?}");
        assert_eq!((counts.accounts, counts.models, counts.changes), (1, 1, 2), "{counts:?}");
        assert_eq!((contents.format, contents.missing_batches), (1, 0));
        assert_eq!(contents.last.map(|(_, stopped)| stopped), Some(false));
        assert!(contents.newest > START && contents.newest <= killed);
        assert_eq!(contents.newest_changes[0].sequence, 2);
        assert!(contents.largest.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
        assert!(contents.largest.iter().any(|record| record.name.contains("acme")), "{:?}", contents.largest);
        let key = contents.key.as_ref().expect("it is here");
        assert_eq!((key.reservations(), key.used()), (1, Tokens::new(600, 600, 5)));
    }
    assert_eq!((of_directory.snapshot_format, of_file.snapshot_format), (None, Some(1)));
    assert_eq!(of_directory.counts, of_file.counts);
    assert_eq!(of_directory.largest, of_file.largest);
    let nobody = request("nobody", 1).key.to_owned();
    assert!(snapshot::inspect(&file, Some(&nobody)).expect("whole").key.is_none());

    // A newer one is left as it is.
    fs::write(here.join("FORMAT"), "tidegate data directory, format 2\n").expect("writable");
    let before = files(&here);
    let error = snapshot::inspect(&here, None).expect_err("newer");
    assert!(matches!(error, InspectError::Directory(OpenError::Version { found: 2 })), "{error}");
    assert_eq!(files(&here), before);
}

/// The rows of a snapshot, and when it was made.
fn a_snapshot() -> (Vec<OwnedRow>, Timestamp) {
    let folder = folder();
    let (here, file) = ["here", "file"].map(|name| folder.path().join(name)).into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_, stopped) = runtime.block_on(lived_in(&here, true));
    snapshot::export(&here, &file, false).expect("nobody has it");
    (snapshot::rows_of(&fs::read(&file).expect("readable")), stopped)
}

/// Files that are as whole as can be and have nonsense in them: refused, or taken and then opened without a panic.
#[test]
fn what_is_in_a_record_never_panics() {
    let (rows, stopped) = a_snapshot();
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(changes in prop::collection::vec(change, 1..4))| {
        let folder = folder();
        let (file, there) = ["file", "there"].map(|name| folder.path().join(name)).into();
        let mut rows = rows.clone();
        for (row, byte, value) in changes {
            let row = row.index(rows.len());
            let bytes = &mut rows[row].2;
            if !bytes.is_empty() {
                let byte = byte.index(bytes.len());
                bytes[byte] = value;
            }
        }
        fs::write(&file, snapshot::file_of(&rows)).expect("writable");
        match snapshot::import(&file, &there) {
            Ok(_) => drop(opened(&there, &policy(1_000), stopped)),
            Err(error) => prop_assert!(matches!(error, ImportError::Snapshot(InspectError::Record { .. })), "{error}"),
        }
    });
}
