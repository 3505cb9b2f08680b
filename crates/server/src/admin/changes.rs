//! Pages of the audit log.

use prost::Message;
use tidegate_core::effect::Turn;
use tidegate_core::policy::Written;
use tidegate_proto::convert::admin::{self, Paging};
use tidegate_proto::convert::{InvalidField, time, tokens};
use tidegate_proto::v1;
use tidegate_store::{Change, ChangeQuery, Store};
use tonic::Status;

use super::Admin;
use super::list::FULL_PAGE_BYTES;

impl<S: Store> Admin<S> {
    /// A page of writes.
    pub(super) async fn changes(&self, wire: &v1::ListChangesRequest) -> Result<v1::ListChangesResponse, Status> {
        let admin::ChangeFilters { start, end } = admin::change_filters(wire)?;
        let filters = v1::ListChangesRequest { page_size: 0, page_token: String::new(), ..wire.clone() };
        let paging = Paging::parse("changes", &filters.encode_to_vec(), 1, wire.page_size, &wire.page_token)?;
        let before_sequence = paging.after.as_deref().map(sequence).transpose()?;
        let query = ChangeQuery { start, end, before_sequence, page_size: paging.rows };
        let page = self.store.changes(&query).await;
        let mut answer = v1::ListChangesResponse { forgotten: page.forgotten, ..Default::default() };
        let rows = page.rows.len();
        let mut bytes = 0;
        for (change, number) in page.rows.iter().zip(1..) {
            let row = wire_change(change);
            bytes += row.encoded_len();
            answer.changes.push(row);
            if bytes >= FULL_PAGE_BYTES || number == rows {
                if page.more || number < rows {
                    answer.next_page_token = paging.next_page_token(&[&change.sequence.to_string()]);
                }
                break;
            }
        }
        Ok(answer)
    }
}

fn sequence(names: &[String]) -> Result<u64, InvalidField> {
    let malformed = |_| InvalidField::new("page_token", "must be the next_page_token of the page before");
    Paging::name(names, 0).parse().map_err(malformed)
}

fn wire_change(change: &Change) -> v1::Change {
    let json = |entry: &Option<Written>, side: fn(&Turn) -> u64| match (entry, &change.limits) {
        (Some(entry), _) => admin::written_json(entry),
        (None, Some(limits)) => admin::object_json("Tokens", &tokens(limits.map(|turn| side(&turn)))),
        (None, None) => String::new(),
    };
    v1::Change {
        sequence: change.sequence,
        time: Some(time::wire_timestamp(change.time)),
        rpc: change.author.rpc.clone(),
        object: change.object.clone(),
        reason: change.author.reason.clone(),
        peer: change.author.peer.clone(),
        unverified_actor: change.author.unverified_actor.clone(),
        before_json: json(&change.before, |turn| turn.before),
        after_json: json(&change.after, |turn| turn.after),
    }
}
