//! Pages of policy objects and of limits.

use prost::Message;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::policy::Policy;
use tidegate_proto::convert::admin::{self, Entry, Id, Paging};
use tidegate_proto::{convert, v1};
use tidegate_store::{KeyLimits, ListQuery, Store};
use tonic::Status;

use super::Admin;

/// A page ends after the row that fills it so far: with the largest row, still within the 4 MiB that clients take.
const FULL_PAGE_BYTES: usize = 1 << 20;
/// Most objects that are looked at for one page: the thread serves decisions as well.
const MOST_LOOKED_AT: usize = 10_000;

/// Rows, and what asks for those after them.
pub(super) struct Page<W> {
    pub(super) rows: Vec<W>,
    /// Empty on the last page.
    pub(super) next_page_token: String,
}

impl<S: Store> Admin<S> {
    /// A page of the objects that `wanted` lets through; `filters` differ where `wanted` does.
    pub(super) fn page<E: Entry>(
        &self,
        filters: &[u8],
        page_size: u32,
        page_token: &str,
        wanted: impl Fn(&E) -> bool,
    ) -> Result<Page<E::Wire>, Status> {
        let paging = Paging::parse(E::KIND.name(), filters, 2, page_size, page_token)?;
        let after = paging.after.as_deref();
        let after = after.map(|names| Id { name: Paging::name(names, 0), variant: Paging::name(names, 1) });
        let policy = self.store.policy();
        let mut page = Page { rows: Vec::new(), next_page_token: String::new() };
        let mut bytes = 0;
        let mut entries = E::list(&policy, after).zip(1..).peekable();
        while let Some((entry, looked_at)) = entries.next() {
            if wanted(entry) {
                let row = entry.to_wire();
                bytes += row.encoded_len();
                page.rows.push(row);
            }
            if page.rows.len() >= paging.rows || bytes >= FULL_PAGE_BYTES || looked_at >= MOST_LOOKED_AT {
                if entries.peek().is_some() {
                    page.next_page_token = paging.next_page_token(&[entry.id().name, entry.id().variant]);
                }
                break;
            }
        }
        Ok(page)
    }

    /// A page of limits.
    pub(super) async fn limits(&self, wire: v1::ListLimitsRequest) -> Result<v1::ListLimitsResponse, Status> {
        admin::list_filters(&wire)?;
        let v1::ListLimitsRequest { page_size, page_token, .. } = wire.clone();
        let filters = v1::ListLimitsRequest { page_size: 0, page_token: String::new(), ..wire.clone() };
        let paging = Paging::parse("limits", &filters.encode_to_vec(), 3, page_size, &page_token)?;
        let query = ListQuery {
            account: wire.account,
            model: wire.model,
            variant: wire.variant,
            at_ceiling: wire.at_ceiling,
            after: paging.after.as_deref().map(limit_key).transpose()?,
            page_size: paging.rows,
        };
        let page = self.store.list_limits(self.clock.now(), &query).await;
        let last = page.rows.last().filter(|_| page.more).map(|row| row.key.as_ref());
        let token = |key: KeyRef<'_>| paging.next_page_token(&[key.account(), key.model(), key.variant()]);
        let next_page_token = last.map(token).unwrap_or_default();
        let policy = self.store.policy();
        let limits = page.rows.iter().map(|row| key_limits(&policy, row)).collect();
        Ok(v1::ListLimitsResponse { limits, next_page_token })
    }
}

fn limit_key(names: &[String]) -> Result<LimitKey, Status> {
    let key = KeyRef::new(Paging::name(names, 0), Paging::name(names, 1), Paging::name(names, 2));
    let key =
        key.map_err(|_| convert::InvalidField::new("page_token", "must be the next_page_token of the page before"));
    Ok(key?.to_owned())
}

fn key_limits(policy: &Policy, row: &KeyLimits) -> v1::KeyLimits {
    let key = row.key.as_ref();
    let tier = policy.accounts().get(key.account()).map(|account| account.tier.as_str());
    v1::KeyLimits {
        key: Some(admin::wire_limit_key(key)),
        windows: convert::window_statuses(&row.windows),
        tier: tier.filter(|tier| !tier.is_empty()).unwrap_or(policy.default_tier()).to_owned(),
        live_reservations: row.reservations as u64,
        denied_at_ceiling: None,
    }
}
