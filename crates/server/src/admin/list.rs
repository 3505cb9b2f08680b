//! Pages of policy objects and of limits.

use std::cmp::Reverse;
use std::time::Duration;

use prost::Message;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::Policy;
use tidegate_core::time::Timestamp;
use tidegate_proto::convert::admin::{self, Entry, Id, Paging};
use tidegate_proto::{convert, v1};
use tidegate_store::{KeyLimits, ListQuery, Place, Store};
use tonic::Status;

use super::Admin;

/// A page ends after the row that fills it so far: with the largest row, still within the 4 MiB that clients take.
pub(super) const FULL_PAGE_BYTES: usize = 1 << 20;
/// Most objects that are looked at for one page: the thread serves decisions as well.
const MOST_LOOKED_AT: usize = 10_000;

/// How long a list by demand can be continued. Stores count each minute for 15 minutes past its hour.
const LONGEST_LIST: Duration = Duration::from_secs(600);

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
        // A list by demand names more in its tokens: the instant of its first page, and what was denied to the last row.
        let names = if wire.at_ceiling { 5 } else { 3 };
        let paging = Paging::parse("limits", &filters.encode_to_vec(), names, page_size, &page_token)?;
        let now = self.clock.now();
        let after = paging.after.as_deref().map(|names| after(names, now)).transpose()?;
        let denied_as_of = after.as_ref().map_or(now, |(as_of, _)| *as_of);
        let query = ListQuery {
            account: wire.account,
            model: wire.model,
            variant: wire.variant,
            at_ceiling: wire.at_ceiling,
            denied_as_of,
            after: after.map(|(_, place)| place),
            page_size: paging.rows,
        };
        let page = self.store.list_limits(now, &query).await;
        let token = |row: &KeyLimits| {
            let key = row.key.as_ref();
            let (as_of, denied) = (denied_as_of.as_micros().to_string(), row.denied().to_string());
            let names = [key.account(), key.model(), key.variant(), &as_of, &denied];
            paging.next_page_token(if wire.at_ceiling { &names } else { &names[..3] })
        };
        let next_page_token = page.rows.last().filter(|_| page.more).map(token).unwrap_or_default();
        let policy = self.store.policy();
        let limits = page.rows.iter().map(|row| v1::KeyLimits {
            boosts: admin::wire_boosts_on(&policy, row.key.as_ref(), now),
            ..key_limits(&policy, row)
        });
        let limits = limits.collect();
        Ok(v1::ListLimitsResponse { limits, next_page_token })
    }
}

/// The row that a token names, and the instant up to which denials are counted.
fn after(names: &[String], now: Timestamp) -> Result<(Timestamp, Place), Status> {
    let malformed = || convert::InvalidField::new("page_token", "must be the next_page_token of the page before");
    let key = KeyRef::new(Paging::name(names, 0), Paging::name(names, 1), Paging::name(names, 2));
    let key = key.map_err(|_| malformed())?.to_owned();
    let [_, _, _, as_of, denied] = names else {
        return Ok((now, Place { denied: Reverse(0), key }));
    };
    let as_of = as_of.parse().map(Timestamp::from_micros).map_err(|_| malformed())?;
    let denied = denied.parse().map(Reverse).map_err(|_| malformed())?;
    if as_of > now || now.since(as_of) > LONGEST_LIST {
        let old = "is older than 10 min, for which a list by demand can be continued; begin it again";
        return Err(convert::InvalidField::new("page_token", old).into());
    }
    Ok((as_of, Place { denied, key }))
}

/// What the wire says about a key.
pub(super) fn key_limits(policy: &Policy, row: &KeyLimits) -> v1::KeyLimits {
    let key = row.key.as_ref();
    v1::KeyLimits {
        key: Some(admin::wire_limit_key(key)),
        windows: convert::window_statuses(&row.windows),
        tier: tier_of(policy, key).to_owned(),
        live_reservations: row.reservations as u64,
        denied_at_ceiling: Some(convert::tokens(row.denied_at_ceiling)),
        enforcement: admin::wire_enforcement(Some(row.enforcement)).into(),
        denied_requests: row.denied_requests,
        pressure_permille: row.pressure_permille,
        boosts: Vec::new(),
    }
}

/// The tier that applies to a key: its account's, or the one of unknown accounts.
pub(super) fn tier_of<'a>(policy: &'a Policy, key: KeyRef<'_>) -> &'a str {
    let tier = policy.accounts().get(key.account()).map(|account| account.tier.as_str());
    tier.filter(|tier| !tier.is_empty()).unwrap_or(policy.default_tier())
}
