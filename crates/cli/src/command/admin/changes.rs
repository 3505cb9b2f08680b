//! `tidegate admin changes`: the audit log.

use std::time::Duration;

use prost_types::Timestamp;
use serde_json::{Value, json};
use tidegate_proto::v1::{Change, ListChangesRequest};
use tidegate_server::config::amount::parse_duration;

use super::Session;
use super::listing::{Listing, PAGE_SIZE};
use crate::failure::Failure;
use crate::output::remark;
use crate::stopwatch::wall_clock;

const EXAMPLES: &str = "\
Examples:
  tidegate admin changes
  tidegate admin changes --since 1h
  tidegate admin changes --since 7d --json

The newest write comes first. ACTOR is what the caller claimed, PEER what the server saw.
With --json each row has the object before and after.";

/// Who changed what: every write, the newest first
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ChangesArgs {
    /// Only writes of the last DURATION
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
}

const LISTING: Listing<Change> = Listing {
    columns: &["#SEQUENCE", "TIME", "RPC", "OBJECT", "ACTOR", "PEER", "REASON"],
    cells: |change| {
        vec![
            change.sequence.to_string(),
            time(change),
            change.rpc.clone(),
            change.object.clone(),
            change.unverified_actor.clone(),
            change.peer.clone(),
            change.reason.clone(),
        ]
    },
    json: |change| {
        json!({
            "sequence": change.sequence,
            "time": time(change),
            "rpc": change.rpc,
            "object": change.object,
            "reason": change.reason,
            "peer": change.peer,
            "unverified_actor": change.unverified_actor,
            "before": object(&change.before_json),
            "after": object(&change.after_json),
        })
    },
};

/// Lists the writes.
pub(super) async fn run(mut session: Session, args: ChangesArgs) -> Result<(), Failure> {
    let start_time = args.since.map(|since| {
        let start = wall_clock().saturating_sub(since);
        Timestamp { seconds: i64::try_from(start.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
    });
    let query = ListChangesRequest { page_size: PAGE_SIZE, start_time, ..ListChangesRequest::default() };
    let mut forgotten = 0;
    let pages = LISTING.print_pages(&mut session, "ListChanges", async |session: &mut Session, page_token| {
        let page = session.client.list_changes(ListChangesRequest { page_token, ..query.clone() }).await?.into_inner();
        forgotten = page.forgotten;
        Ok((page.changes, page.next_page_token))
    });
    pages.await?;
    if forgotten > 0 {
        remark(&format!("The log no longer keeps the writes 1 to {forgotten}."));
    }
    Ok(())
}

fn time(change: &Change) -> String {
    change.time.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// An object of the log; null where there was none, and text where it is not JSON.
fn object(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    }
}
