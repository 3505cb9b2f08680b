//! What is in a directory or a snapshot, in words and as JSON.

use std::path::Path;

use serde_json::{Value, json};
use tidegate_core::time::{MICROS_PER_SECOND, Timestamp};
use tidegate_store::durable::snapshot::{Contents, Counts};

use crate::output::{Rows, grouped};

/// For people.
pub(super) fn text(path: &Path, contents: &Contents) -> String {
    let mut facts = Rows::without_header(&["", ""]);
    let mut fact = |name: &str, text: String| facts.push([name.to_owned(), text]);
    match contents.snapshot_format {
        Some(format) => fact("snapshot", format!("{}, format {format}", path.display())),
        None => fact("data directory", path.display().to_string()),
    }
    fact("layout", format!("format {}", contents.format));
    fact("size", format!("{} bytes", grouped(contents.bytes)));
    fact("newest", contents.last.map_or_else(|| "nothing".to_owned(), |_| instant(contents.newest)));
    fact("stopped", stopped(contents).to_owned());
    if let Some(policy) = &contents.policy {
        fact("enforcement", policy.enforcement.enforcement.name().to_owned());
        fact("default tier", policy.default_tier.clone());
    }
    for (name, count) in counted(&contents.counts) {
        fact(&name.replace('_', " "), grouped(count));
    }
    let mut text = facts.to_string();
    if !contents.largest.is_empty() {
        let mut rows = Rows::new(&["#BYTES", "LARGEST RECORDS"]);
        contents.largest.iter().for_each(|record| rows.push([grouped(record.bytes), record.name.clone()]));
        text.push_str(&format!("\n{rows}"));
    }
    if !contents.newest_changes.is_empty() {
        let mut rows = Rows::new(&["#SEQUENCE", "TIME", "RPC", "OBJECT", "ACTOR", "PEER", "REASON"]);
        for change in &contents.newest_changes {
            let author = &change.author;
            rows.push([
                change.sequence.to_string(),
                instant(change.time),
                author.rpc.clone(),
                change.object.clone(),
                author.unverified_actor.clone(),
                author.peer.clone(),
                author.reason.clone(),
            ]);
        }
        text.push_str(&format!("\nThe newest writes:\n{rows}"));
    }
    text
}

fn stopped(contents: &Contents) -> &'static str {
    match contents.last {
        None => "no process has written state here",
        Some((_, true)) => "in good order: nothing is missing",
        Some((_, false)) => "killed: what it did in its last second may be missing",
    }
}

/// For programs. Times are RFC 3339.
pub(super) fn json(path: &Path, contents: &Contents) -> Value {
    let counts = counted(&contents.counts).map(|(name, count)| (name.to_owned(), Value::from(count)));
    let largest = contents.largest.iter().map(|record| json!({ "name": record.name, "bytes": record.bytes }));
    let changes = contents.newest_changes.iter().map(|change| {
        json!({
            "sequence": change.sequence,
            "time": instant(change.time),
            "rpc": change.author.rpc,
            "object": change.object,
            "reason": change.author.reason,
            "peer": change.author.peer,
            "unverified_actor": change.author.unverified_actor,
        })
    });
    json!({
        "kind": if contents.snapshot_format.is_some() { "snapshot" } else { "directory" },
        "path": path.to_string_lossy(),
        "snapshot_format": contents.snapshot_format,
        "format": contents.format,
        "bytes": contents.bytes,
        "newest": contents.last.map(|_| instant(contents.newest)),
        "durable_at": contents.last.map(|(at, _)| instant(at)),
        "stopped": contents.last.map(|(_, stopped)| stopped),
        "missing_batches": contents.missing_batches,
        "enforcement": contents.policy.as_ref().map(|policy| policy.enforcement.enforcement.name()),
        "default_tier": contents.policy.as_ref().map(|policy| policy.default_tier.as_str()),
        "counts": counts.into_iter().collect::<serde_json::Map<_, _>>(),
        "largest": largest.collect::<Vec<_>>(),
        "newest_changes": changes.collect::<Vec<_>>(),
    })
}

fn counted(counts: &Counts) -> [(&'static str, u64); 11] {
    [
        ("keys", counts.keys),
        ("live_reservations", counts.reservations),
        ("ended_reservations", counts.ended),
        ("request_ids", counts.request_ids),
        ("tiers", counts.tiers),
        ("accounts", counts.accounts),
        ("models", counts.models),
        ("overrides", counts.overrides),
        ("boosts", counts.boosts),
        ("changes", counts.changes),
        ("known_models", counts.known_models),
    ]
}

/// An instant as RFC 3339.
pub(super) fn instant(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_seconds()).unwrap_or(i64::MAX);
    let micros = at.as_micros() % MICROS_PER_SECOND;
    let nanos = i32::try_from(micros * 1_000).expect("less than a second");
    prost_types::Timestamp { seconds, nanos }.to_string()
}
