//! Where tidegate keeps key state, reservations and policy.
//!
//! [`Store`] is what the shell sees. Its calls are futures because a shared store asks another machine; the memory store
//! answers without ever waiting. `docs/decisions/0003-store-seam.md` sketches how the durable and the leased store fit.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::{Answer, Bound, SettleOutcome, WindowStatus};
use tidegate_core::effect::Effect;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::policy::{Enforcement, Origins, Policy, PolicyWrite, Resolved, WriteError, WriteResult};
use tidegate_core::pressure::{Reading, Report};
use tidegate_core::state::{Explained, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

mod changes;
pub mod durable;
pub mod fleet;
pub mod memory;
mod policy_difference;
pub mod redis;
pub mod reservation_id;
mod timers;

pub use changes::{Author, Change, ChangeLog, ChangePage, ChangeQuery};
pub use durable::DiskStats;
pub use fleet::FleetStats;
pub use reservation_id::ReservationId;

/// The state of every limit key, and the policy that bounds them.
///
/// `now` never needs to be ordered between calls: a key's own time never goes back.
pub trait Store: Send + Sync + 'static {
    /// Decides one request and, if it is allowed, reserves, in one atomic step (contract C1, C2).
    fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> impl Future<Output = Result<Reserved, ReserveError>> + Send;

    /// The same where nothing has to be waited for; `None`: nothing was done, and [`Store::check_and_reserve`] is to be called. A store
    /// says `None` always or never. Callers of many need no future for each.
    fn check_and_reserve_now(&self, now: Timestamp, request: &Request<'_>) -> Option<Result<Reserved, ReserveError>> {
        let _ = (now, request);
        None
    }

    /// [`Store::settle`] where nothing has to be waited for; `None`: nothing was done, and that is to be called.
    fn settle_now(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> Option<Result<Booked, EndError>> {
        let _ = (now, reservation_id, counts);
        None
    }

    /// Books `generated_tokens`, the total since admission, and renews the reservation's TTL (C3, C7).
    fn report_progress(
        &self,
        now: Timestamp,
        reservation_id: &str,
        generated_tokens: u64,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send;

    /// Ends the reservation with what was really used (C6).
    fn settle(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send;

    /// Ends the reservation with nothing used (C6).
    fn release(
        &self,
        now: Timestamp,
        reservation_id: &str,
    ) -> impl Future<Output = Result<SettleOutcome, EndError>> + Send;

    /// The key's windows now. Reserves nothing, creates no key.
    fn limits(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = PerWindow<WindowStatus>> + Send;

    /// Why the key's limits are what they are. Reserves nothing, creates no key: one that the store does not hold is explained
    /// as its first request would find it.
    fn explain_limit(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = KeyExplained> + Send;

    /// Known keys in the order of their names, or of what was denied to them, after `query.after`. Locks a bounded part of the table at a time.
    fn list_limits(&self, now: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send;

    /// Takes what a reporter says of its deployments, whole or not at all; the next decision uses it.
    fn report_pressure(
        &self,
        now: Timestamp,
        report: &Report<'_>,
    ) -> impl Future<Output = Result<(), ReportError>> + Send;

    /// What the deployments that somebody reported on say now: those with the greatest pressure, at most so many, in the order
    /// of their names. Locks one at a time.
    fn deployments(&self, now: Timestamp, most: usize) -> Vec<DeploymentPressure>;

    /// The policy in force, whole.
    fn policy(&self) -> Arc<Policy>;

    /// Writes policy; when this returns, the next decision uses it, and it is as durable as the store is. The write and
    /// its record in the audit log are one step: neither is ever there without the other. The
    /// effect is that on the keys known just before. A dry run answers the same, and changes nothing.
    fn write_policy(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<PolicyWritten, PolicyError>> + Send;

    /// Sets a key's limits back to their floors; its record in the audit log is made in the same step. `None` where the store
    /// does not hold the key: then nothing is recorded. A dry run answers the same, and changes nothing.
    fn reset_limit(
        &self,
        now: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<Option<ResetDone>, NotDurable>> + Send;

    /// Writes made so far, the newest first.
    fn changes(&self, query: &ChangeQuery) -> impl Future<Output = ChangePage> + Send;

    /// Does what is due at `now`: expires reservations, forgets what need not be remembered, evicts idle keys. Called a few
    /// times a second by one background thread; each lock is held for one key.
    fn on_tick(&self, now: Timestamp);

    /// Counters and gauges for the metrics page.
    fn stats(&self) -> Stats;
}

/// The answer to a request, and the id of what it reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Decision and windows.
    pub answer: Answer,
    /// Names the reservation in later calls; `None` on a denial that is enforced.
    pub reservation_id: Option<ReservationId>,
    /// Whether the answer is a denial that is not enforced: the caller is told ALLOW, nothing was reserved, and later calls
    /// with this id are [`EndError::NothingReserved`].
    pub shadow: bool,
}

impl Reserved {
    /// The reservation's id written out, where `key` is that of the request; `None` on a denial that is enforced.
    #[must_use]
    pub fn id_text(&self, key: KeyRef<'_>) -> Option<String> {
        self.reservation_id.map(|id| id.text(key))
    }
}

/// Why a request was not decided; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The caller's: another ask used this request id, or its reservation ended or is older than 60 s. Use a new id.
    #[error("request_id was used before for another ask, or for a reservation that has ended or is older than 60 s")]
    RequestIdTaken,
    /// Nobody's: another call with this request id is being decided, or the sidecar that admitted it does not say whether it is
    /// live. The same call again is safe.
    #[error("an earlier call with this request_id is not known to be decided yet; repeat the call")]
    Undecided,
}

/// What a progress report or a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Whether it took effect.
    pub outcome: SettleOutcome,
    /// Whether cached > prompt was counted as cached = prompt.
    pub clamped: bool,
    /// Tokens that this call stated for the first time.
    pub tokens: Tokens,
}

/// Why a reservation could not be reported on, settled or released; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// The caller's: not an id that this store made.
    #[error("is not a reservation id of this service")]
    Forged,
    /// The caller's: progress on a reservation that has ended. Settle it instead.
    #[error("the reservation has ended; settle it to book its tokens")]
    Ended,
    /// Nobody's: a request that shadow let through reserved nothing, so there is nothing to book, however often it is said.
    #[error("the request was let through in shadow; nothing is booked for it")]
    NothingReserved,
    /// The caller's: the reservation is no longer remembered; its tokens are not booked.
    #[error("the reservation ended more than 15 minutes past its TTL and is no longer remembered")]
    TooLate,
}

/// Why a pressure report was not taken; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A bound: as many deployments are reported on as may be. One that nobody reports on for a day makes room.
    #[error("as many deployments are reported on as may be; one that nobody reports on for a day makes room")]
    Deployments,
    /// A bound: as many reporters as may report on one of these deployments.
    #[error("as many reporters report on one of these deployments as may; one whose TTL is over makes room")]
    Reporters,
}

/// What one deployment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentPressure {
    /// The model.
    pub model: String,
    /// Its variant; empty for the regular one.
    pub variant: String,
    /// Of each window.
    pub windows: PerWindow<Reading>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only this account's.
    pub account: Option<String>,
    /// Only this model's.
    pub model: Option<String>,
    /// Only this variant's.
    pub variant: Option<String>,
    /// Only keys with a window whose limit is at its ceiling, and that ceiling above its floor; those to which most was
    /// denied there come first.
    pub at_ceiling: bool,
    /// The end of the hour whose denials are counted, to the minute: now, or the instant of a list's first page.
    pub denied_as_of: Timestamp,
    /// Only keys after this row.
    pub after: Option<Place>,
    /// At most this many.
    pub page_size: usize,
}

/// A key's place in a list: the more was denied, the earlier, then by name. Lists by name leave `denied` 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Tokens denied at the ceiling, all windows together.
    pub denied: Reverse<u64>,
    /// The key.
    pub key: LimitKey,
}

/// The limits of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Whose.
    pub key: LimitKey,
    /// Its windows now.
    pub windows: PerWindow<WindowStatus>,
    /// Its live reservations.
    pub reservations: usize,
    /// Tokens denied in the hour up to `denied_as_of` by windows at their ceiling.
    pub denied_at_ceiling: Tokens,
    /// Requests denied by a limit or by pressure in the trailing minute, in shadow too.
    pub denied_requests: u64,
    /// What a denial does here.
    pub enforcement: Enforcement,
    /// The greatest pressure of the key's deployment, permille; `None` where nobody reports, or reports have ended.
    pub pressure_permille: Option<u32>,
}

impl KeyLimits {
    /// All windows together; saturates.
    #[must_use]
    pub fn denied(&self) -> u64 {
        sum(&self.denied_at_ceiling)
    }
}

pub(crate) fn sum(tokens: &Tokens) -> u64 {
    tokens.iter().fold(0, |sum, (_, tokens)| sum.saturating_add(*tokens))
}

/// Why a key's limits are what they are.
#[derive(Clone, Debug)]
pub struct KeyExplained {
    /// Whether the store holds the key.
    pub known: bool,
    /// What the law and the windows say.
    pub state: Explained,
    /// What applies to the key.
    pub resolved: Resolved,
    /// Where its bounds come from.
    pub origins: PerWindow<Origins>,
    /// The name of the law profile that moves its limits.
    pub law_profile: String,
    /// What its deployment says.
    pub pressure: PerWindow<Reading>,
    /// Its live reservations.
    pub reservations: usize,
}

/// A page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// In order.
    pub rows: Vec<KeyLimits>,
    /// Whether more follow the last row.
    pub more: bool,
}

/// A policy write that took effect, or would.
#[derive(Clone, Debug)]
pub struct PolicyWritten {
    /// What was written, with its new revision and warnings.
    pub result: WriteResult,
    /// Whether it survives a restart.
    pub persisted: bool,
    /// What it does to the limits of known keys.
    pub effect: Effect,
}

/// Why a write is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    /// Ours: the disk, or the shared store, takes no writes. Nothing changed; try again.
    #[error("the store takes no writes, and nothing was changed: {0}")]
    Nothing(String),
    /// Ours: the store has begun to write it, and has not answered for so long. It may still take effect: read before trying again.
    #[error("the store has not answered within {0:?}; the write may still take effect")]
    Perhaps(Duration),
}

/// Why policy was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It was refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] WriteError),
    /// It was not, but is not known to be durable.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
}

/// What to set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Whose limits.
    pub key: LimitKey,
    /// Which of them.
    pub windows: PerWindow<bool>,
    /// Whether the key's holds go as well; their reservations stay.
    pub drop_holds: bool,
}

/// A key that was set back, or would be.
#[derive(Clone, Debug)]
pub struct ResetDone {
    /// What it does to the key's limits.
    pub effect: Effect,
    /// Whether it survives a restart.
    pub persisted: bool,
    /// Tokens that were held and no longer are.
    pub dropped_hold_tokens: u64,
    /// Windows that a boost keeps above their floor.
    pub boosted: PerWindow<bool>,
}

/// Counters since the start, and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys in the table.
    pub keys: u64,
    /// Of these, keys of accounts that nobody configured.
    pub unknown_account_keys: u64,
    /// Live reservations.
    pub reservations: u64,
    /// Ended reservations and request ids that are remembered one by one.
    pub remembered: u64,
    /// Tokens held now. Holds that fade are counted as of the key's last call or timer.
    pub held: Tokens,
    /// Reservations that ran into their TTL, since the start.
    pub expired: u64,
    /// Keys evicted, since the start.
    pub keys_evicted: u64,
    /// How often each bound was reached, since the start, in the order of [`Bound::ALL`].
    pub bound_reached: [u64; Bound::ALL.len()],
    /// How often an ended reservation was forgotten early because too many were remembered.
    pub forgotten_early: u64,
    /// Deployments that somebody reported on and that are not forgotten.
    pub deployments: u64,
    /// Reports refused because there were too many deployments, since the start.
    pub deployments_full: u64,
    /// Reports refused because there were too many reporters, since the start.
    pub reporters_full: u64,
    /// Limit keys whose merged floor is above their merged ceiling, seen since the start.
    pub floor_above_ceiling: u64,
    /// What is known of the disk; `None` where there is none.
    pub disk: Option<DiskStats>,
    /// What is known of the shared store; `None` where there is none.
    pub fleet: Option<FleetStats>,
}
