//! Directories that are not as they should be: a clear error, or the last good state; never a state without what was there.

use super::*;

async fn with_state(path: &Path) -> Timestamp {
    let served = Served::open(path, START);
    for number in 0..40 {
        served.admit(&format!("account {number}"), 100).await;
    }
    served.flush().await;
    let account = Account { name: "acme".into(), blocked: true, ..Account::default() };
    served.write(PolicyWrite::Create(Written::Account(account))).await;
    served.crash()
}

fn refusal(path: &Path) -> OpenError {
    opened(path, &policy(1_000), START).err().expect("it is refused")
}

/// All files of a directory, byte for byte.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .expect("readable")
        .map(|entry| {
            let path = entry.expect("readable").path();
            (path.display().to_string(), fs::read(&path).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = folder();
    let served = Served::open(folder.path(), START);
    assert!(matches!(refusal(folder.path()), OpenError::InUse { .. }));
    served.admit("acme", 1).await;
    served.crash();
    assert!(opened(folder.path(), &policy(1_000), START).is_ok());
}

#[tokio::test]
async fn a_newer_format_is_refused_and_untouched() {
    let folder = folder();
    with_state(folder.path()).await;
    let format = folder.path().join("FORMAT");
    fs::write(&format, "tidegate data directory, format 2\n").expect("writable");
    let before = contents(folder.path());
    let refused = refusal(folder.path());
    assert!(matches!(refused, OpenError::Version { found: 2 }), "{refused}");
    assert!(refused.to_string().contains("format 2") && refused.to_string().contains("up to 1"), "{refused}");
    assert_eq!(contents(folder.path()), before);
    fs::write(&format, "something else\n").expect("writable");
    assert!(matches!(refusal(folder.path()), OpenError::Damaged { .. }));
}

#[test]
fn a_directory_with_other_files_is_refused_and_untouched() {
    let folder = folder();
    fs::write(folder.path().join("thesis.tex"), "years of work").expect("writable");
    let before = contents(folder.path());
    assert!(matches!(refusal(folder.path()), OpenError::Foreign { file, .. } if file == "thesis.tex"));
    assert_eq!(contents(folder.path()), before);
    let file = folder.path().join("thesis.tex");
    assert!(matches!(refusal(&file), OpenError::Io { .. }), "a file is no directory");
}

#[tokio::test]
async fn a_directory_that_lost_its_contents_is_refused() {
    let folder = folder();
    with_state(folder.path()).await;
    let state = folder.path().join("state.redb");
    let whole = fs::read(&state).expect("readable");
    fs::remove_file(&state).expect("it is there");
    assert!(matches!(refusal(folder.path()), OpenError::Lost { .. }));
    fs::write(&state, "").expect("writable");
    assert!(matches!(refusal(folder.path()), OpenError::Lost { .. }), "an empty file is as good as none");
    fs::write(&state, whole).expect("writable");
    assert_eq!(opened(folder.path(), &policy(1_000), START).expect("it opens").counts().0, 40);
}

/// Cut off at any length, or with a byte changed anywhere: refused with an error, or read with all that was there.
#[tokio::test]
async fn a_file_that_was_cut_off_or_altered_is_refused_or_whole() {
    let folder = folder();
    let killed = with_state(folder.path()).await;
    let state = folder.path().join("state.redb");
    let whole = fs::read(&state).expect("readable");
    let length = whole.len();
    let cuts = [1, 100, 5_000, length / 2, length - 1].map(|cut| whole[..length - cut].to_vec());
    let flips = (0..150).map(|flip| {
        let mut bytes = whole.clone();
        // Everywhere, and more often at the beginning, where what matters most is.
        let at = if flip % 3 == 0 { flip * 7 } else { (flip * 2_654_435_761) % length };
        bytes[at] ^= 1 << (flip % 8);
        bytes
    });
    let (mut refused, mut read) = (0, 0);
    for (number, bytes) in cuts.into_iter().chain(flips).enumerate() {
        fs::write(&state, bytes).expect("writable");
        match opened(folder.path(), &policy(1_000), killed) {
            Ok(opened) => {
                read += 1;
                assert_eq!(opened.counts(), (40, 40), "damage {number} lost keys silently");
                assert!(opened.policy().accounts().contains_key("acme"), "damage {number} lost policy silently");
            }
            Err(
                OpenError::Engine(_) | OpenError::Damaged { .. } | OpenError::Version { .. } | OpenError::Lost { .. },
            ) => {
                refused += 1;
            }
            Err(other) => panic!("damage {number}: {other}"),
        }
    }
    assert!(refused > 20 && read > 20, "{refused} refused, {read} read");
}

/// An older copy of the file in the place of a newer one: what is there is used, and that something is missing is known.
#[tokio::test]
async fn an_older_state_is_known_to_be_older() {
    let folder = folder();
    let killed = with_state(folder.path()).await;
    let state = folder.path().join("state.redb");
    let older = fs::read(&state).expect("readable");
    assert_eq!(opened(folder.path(), &policy(1_000), killed).expect("it opens").missing_batches(), 0);
    let served = Served::open(folder.path(), killed);
    served.admit("later", 1).await;
    served.flush().await;
    served.crash();
    fs::write(&state, older).expect("writable");
    let opened = opened(folder.path(), &policy(1_000), killed).expect("it opens");
    assert_eq!(opened.missing_batches(), 1);
}

#[tokio::test]
async fn a_first_start_that_was_interrupted_is_begun_again() {
    let folder = folder();
    fs::write(folder.path().join("state.redb"), "half a file").expect("writable");
    let served = Served::open(folder.path(), START);
    served.admit("acme", 1).await;
}

#[tokio::test]
async fn a_file_system_that_takes_no_writes_is_named() {
    let folder = folder();
    with_state(folder.path()).await;
    let lock = OpenOptions::new().write(true).open(folder.path().join("LOCK")).expect("it is there");
    lock.lock().expect("nobody has it");
    assert!(matches!(refusal(folder.path()), OpenError::InUse { .. }));
}
