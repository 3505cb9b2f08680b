//! All that is known of one limit key: law, charges, holds, live reservations, forecast.
//!
//! Each method is one atomic step: the store calls it under the key's lock. Nothing here waits or looks at a clock; `now` of
//! a key never goes back. What happens by itself (expiry, forgetting) happens at the next call or at [`KeyState::next_timer`],
//! whichever is earlier, and reads the same either way.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

use minicbor::{Decode, Encode};

use crate::charges::{Charges, Output};
use crate::decision::{ServiceTier, WindowStatus};
use crate::forecast::{Figures, ForecastDefaults, Lengths, Prior};
use crate::holds::Holds;
use crate::law::history::{Applied, History};
use crate::law::{self, Boosts, Bounds, EPOCH_SECONDS, Law, LawParams};
use crate::pressure::Reading;
use crate::record::record;
use crate::reservation::{Ended, Issued, Number, REPLAY, Reservation, Stated};
use crate::room::push_room;
use crate::small_map::SmallMap;
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, Window};
use cohort::{Beginning, Cohorts};
use denied::Denied;
use expiry::Expiries;
use silence::Looks;
use touched::Touched;
use watch::Watch;

mod allotment;
mod cohort;
mod denied;
mod end;
mod expectation;
mod expiry;
mod explain;
mod inspect;
mod needs;
mod outlook;
mod record;
mod reserve;
mod reset;
mod silence;
#[cfg(test)]
mod tests;
mod touched;
mod watch;

pub use allotment::{Allotment, Beyond, Short, Sighted};
pub use end::{Booked, EndError, SettleCounts};
pub use explain::{Explained, WindowExplained};
pub use outlook::Outlook;
pub use record::Restored;
pub use reserve::{Refused, RequestIdTaken, Reserve};
pub use touched::Item;

/// What applies to a key at the moment of a call: inputs of every decision, not state.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Floor and ceiling of each window.
    pub bounds: &'a PerWindow<Bounds>,
    /// How the limits move.
    pub law: &'a LawParams,
    /// Limits that an operator raised for a time.
    pub boosts: &'a Boosts,
    /// What requests of the key's model do; used until the key has figures of its own.
    pub fallback: &'a Prior,
    /// Safety margin and defaults of the forecast.
    pub forecast: &'a ForecastDefaults,
    /// What the deployment behind the key says at the instant of the call; the default where nobody reports.
    pub pressure: PerWindow<Reading>,
    /// The process that decides.
    pub incarnation: u64,
    /// What this process may count of the limits, where others count too; `None` where all of them is its own.
    pub allotment: Option<Allotment>,
    /// Whether the law's epochs are closed elsewhere ([`KeyState::follow_law`]): then only bounds and boosts move a limit here.
    pub law_is_shared: bool,
}

impl Rules<'_> {
    /// The same, where nobody is asked any more.
    fn last_word(&self) -> Self {
        let allotment = self.allotment.map(|allotment| match allotment.beyond {
            Beyond::Ask => Allotment { beyond: Beyond::Deny, ..allotment },
            Beyond::Deny | Beyond::Unavailable => allotment,
        });
        Self { allotment, ..*self }
    }
}

/// Whether a key may be forgotten (contract C14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Never: it has live reservations, charges in the trailing minute, or a limit above its floor.
    Needed,
    /// If the table is full: it would lose what its limit has proven, or what it remembers of ended reservations.
    Idle,
    /// Always: nothing that anyone could observe is lost.
    Default,
}

/// What is forgotten at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Forget {
    Reservation(Number),
    Request(u128),
}

/// A request id in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct KnownRequest {
    #[n(0)]
    number: Number,
    #[n(1)]
    stated: Stated,
    #[n(2)]
    admitted_at: Timestamp,
    /// When it is forgotten, unless its reservation is remembered for longer.
    #[n(3)]
    until: Timestamp,
}

record!(KnownRequest { number, stated, admitted_at, until });

/// How long an idle key is left alone at most, in epochs.
const LONGEST_NAP_EPOCHS: u64 = 10;

/// Timers run by one call at most, so that a call's time under the lock is bounded; the rest wait for the next.
const TIMERS_AT_ONCE: usize = 64;

/// The state of one limit key. 736 bytes: with what a store has beside it no more than 1,024, which allocators have a class
/// for. What few keys have is behind a pointer.
#[derive(Clone, Debug)]
pub struct KeyState {
    now: Timestamp,
    phase_seconds: u64,
    law: Law,
    /// How the limits came to be what they are; for people.
    history: History,
    /// Prompt and uncached prompt: charged at the same instants.
    prompt: Charges<2>,
    generated: Output,
    holds: Holds,
    figures: Figures,
    lengths: Lengths,
    /// What was believed of the key while it had settled few requests.
    prior: Box<Prior>,
    watch: Watch,
    /// At their ceiling.
    denied: Denied,
    /// Boxed: what they take would be moved about within the map.
    live: SmallMap<Number, Box<Reservation>>,
    ended: SmallMap<Number, Ended>,
    requests: SmallMap<u128, KnownRequest>,
    issued: Issued,
    expiries: Expiries,
    /// A heap: most keys remember a few, for which a node of a tree is far too large.
    forgets: BinaryHeap<Reverse<(Timestamp, Forget)>>,
    cohorts: Cohorts,
    beginning: Option<Box<Beginning>>,
    looks: Looks,
    /// The last reservation whose tokens may still come and that was forgotten before its time.
    forgotten: Option<Box<Number>>,
    /// Until when ids of this key's reservations are good.
    ids_good_until: Timestamp,
    expired: u64,
    /// Of what a store has written down.
    touched: Touched,
}

impl KeyState {
    /// A key never seen before: every limit at its floor. `phase_seconds` is [`crate::key::KeyRef::phase_seconds`], `prior`
    /// what requests of its model do.
    #[must_use]
    pub fn new(now: Timestamp, phase_seconds: u64, bounds: &PerWindow<Bounds>, prior: &Prior) -> Self {
        Self {
            now,
            phase_seconds,
            law: Law::new(law::epoch_at(now, phase_seconds), bounds),
            history: History::default(),
            prompt: Charges::default(),
            generated: Output::default(),
            holds: Holds::default(),
            figures: Figures::default(),
            lengths: Lengths::default(),
            prior: Box::new(*prior),
            watch: Watch::default(),
            denied: Denied::default(),
            live: SmallMap::default(),
            ended: SmallMap::default(),
            requests: SmallMap::default(),
            issued: Issued::default(),
            expiries: Expiries::default(),
            forgets: BinaryHeap::new(),
            cohorts: Cohorts::default(),
            beginning: None,
            looks: Looks::default(),
            forgotten: None,
            ids_good_until: Timestamp::ZERO,
            expired: 0,
            touched: Touched::default(),
        }
    }

    /// Moves to `now` under `rules`: the law, the windows, and what was due. An earlier instant moves nothing, and when this is
    /// called changes no later decision.
    pub fn advance(&mut self, now: Timestamp, rules: &Rules<'_>) {
        self.now = self.now.max(now);
        self.move_law(rules);
        self.prompt.expire(self.now);
        self.generated.expire(self.now);
        self.holds.advance(self.now);
        self.beginning.take_if(|known| known.is_over(self.now));
        for _ in 0..TIMERS_AT_ONCE {
            let Some(number) = self.expiries.pop_due(self.now) else { break };
            self.on_expiry(number);
        }
        for _ in 0..TIMERS_AT_ONCE {
            let due = self.forgets.peek().filter(|Reverse((at, _))| *at <= self.now);
            let Some(&Reverse((_, what))) = due else { break };
            self.pop_forget();
            self.on_forget(what);
        }
    }

    /// The windows as of the last [`KeyState::advance`], as a Standard request meets them.
    #[must_use]
    pub fn windows(&mut self, rules: &Rules<'_>) -> PerWindow<WindowStatus> {
        self.windows_at(ServiceTier::Standard, rules)
    }

    /// The windows as of the last [`KeyState::advance`], as a request of this service tier meets them. They say what fits, so silent
    /// streams are looked at.
    #[must_use]
    pub fn windows_at(&mut self, tier: ServiceTier, rules: &Rules<'_>) -> PerWindow<WindowStatus> {
        self.look(rules);
        self.statuses(&self.limits(rules), tier, rules)
    }

    fn statuses(&self, limits: &Tokens, tier: ServiceTier, rules: &Rules<'_>) -> PerWindow<WindowStatus> {
        let effective = effective(limits, tier, rules);
        let (used, elsewhere) = (self.used(), Allotment::elsewhere(rules.allotment.as_ref()));
        let here = Allotment::at_most(rules.allotment.as_ref(), &effective);
        PerWindow::from_fn(|window| WindowStatus {
            limit_tpm: limits[window],
            effective_limit_tpm: effective[window],
            floor_tpm: rules.bounds[window].floor_tpm(),
            ceiling_tpm: rules.bounds[window].ceiling_tpm(),
            used_tokens: used[window].saturating_add(elsewhere[window]),
            held_tokens: if window == Window::Generated { self.holds.held() } else { 0 },
            remaining_tokens: self.room(window, here[window], rules).unwrap_or(0),
            reset_after: match window {
                Window::Prompt => self.prompt.reset_after(0, self.now),
                Window::UncachedPrompt => self.prompt.reset_after(1, self.now),
                Window::Generated => self.generated.empty_after(self.now),
            },
            binding: false,
        })
    }

    /// Tokens charged in the windows as of the last [`KeyState::advance`].
    #[must_use]
    pub const fn used(&self) -> Tokens {
        let [prompt, uncached] = self.prompt.sum();
        let generated = self.generated.sum();
        Tokens::new(prompt, uncached, generated)
    }

    /// Tokens of the requests that were denied (429) by windows at their ceiling in the 60 minutes of the clock that end with
    /// that of `as_of`; exact as far as `as_of` is not more than 15 minutes before the last denial. A request counts as often
    /// as it was tried.
    #[must_use]
    pub fn denied_at_ceiling(&self, as_of: Timestamp) -> Tokens {
        self.denied.hour(as_of)
    }

    /// Counts the denial of `ask` by those `windows` that are at their ceiling.
    fn on_denied(&mut self, ask: &Tokens, windows: &PerWindow<bool>, limits: &Tokens, rules: &Rules<'_>) {
        let pinned = |window: Window| windows[window] && limits[window] >= rules.bounds[window].ceiling_tpm();
        let tokens = Tokens::from_fn(|window| if pinned(window) { ask[window] } else { 0 });
        self.denied.add(self.now, tokens);
    }

    /// The published limits.
    #[must_use]
    pub fn limits(&self, rules: &Rules<'_>) -> PerWindow<u64> {
        PerWindow::from_fn(|window| self.law.limit_tpm(window, &rules.bounds[window]))
    }

    fn generated_limit(&self, rules: &Rules<'_>) -> u64 {
        self.law.limit_tpm(Window::Generated, &rules.bounds.generated)
    }

    /// The largest ask of `window` that fits now (contract C1); `None` where not even nothing fits.
    fn room(&self, window: Window, limit_tpm: u64, rules: &Rules<'_>) -> Option<u64> {
        let [prompt, uncached] = self.prompt.sum();
        match window {
            Window::Prompt => limit_tpm.checked_sub(prompt),
            Window::UncachedPrompt => limit_tpm.checked_sub(uncached),
            Window::Generated => self.generated_room(limit_tpm, rules.forecast),
        }
    }

    /// When [`KeyState::advance`] may have something to do without a call; `None`: never.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        let forget = self.forgets.peek().map(|Reverse((at, _))| *at);
        self.expiries.next().into_iter().chain(forget).min()
    }

    /// Whether the key may be forgotten, as of the last [`KeyState::advance`].
    #[must_use]
    pub fn retention(&self, rules: &Rules<'_>) -> Retention {
        let limits = self.limits(rules);
        let raised = Window::ALL.into_iter().any(|window| limits[window] > rules.bounds[window].floor_tpm());
        // A shared law is kept elsewhere: it may be asked for again.
        let keeps_limit = raised && !rules.law_is_shared;
        if keeps_limit || !self.live.is_empty() || !self.prompt.is_empty() || !self.generated.is_empty() {
            Retention::Needed
        } else if self.now <= self.ids_good_until
            || self.remembered() > 0
            || !self.law.is_default(rules.bounds)
            || self.watch.is_on(self.now)
        {
            Retention::Idle
        } else {
            Retention::Default
        }
    }

    /// Whether nothing is in its windows, and nothing is to come; then timers of what has ended go. What is written down of an
    /// idle key is all of it, whenever it is read back: one that would take what is believed of its model with its next
    /// request, and could learn of answers before that, is not idle.
    #[must_use]
    pub fn rests(&mut self) -> bool {
        let lives = !self.live.is_empty() || self.beginning.is_some() || self.expired > 0;
        let charged = !self.prompt.is_empty() || !self.generated.is_empty();
        let rests = !lives && !charged && (self.remembered() == 0 || !self.needs_fallback());
        if rests {
            (self.expiries, self.looks) = (Expiries::default(), Looks::default());
        }
        rests
    }

    /// When to look at the retention again, if nobody calls: within a minute of its next change while the key is needed,
    /// within ten otherwise (a key that may go needs only to become a default one).
    #[must_use]
    pub fn idle_after(&self, rules: &Rules<'_>) -> Timestamp {
        let charges = self.prompt.empty_after(self.now).max(self.generated.empty_after(self.now));
        if !charges.is_zero() {
            return self.now.after(charges);
        }
        let longest = if self.retention(rules) == Retention::Needed { 1 } else { LONGEST_NAP_EPOCHS };
        // Bounded, because a change of bounds can bring a limit to its floor at any time.
        let epochs = self.law.epochs_to_default(rules.bounds, rules.law).clamp(1, longest);
        self.now.after(Duration::from_secs(EPOCH_SECONDS * epochs))
    }

    /// Whether decisions still look at [`Rules::fallback`].
    #[must_use]
    pub const fn needs_fallback(&self) -> bool {
        !self.figures.is_trusted()
    }

    /// Live reservations.
    #[must_use]
    pub fn reservations(&self) -> usize {
        self.live.len()
    }

    /// Tokens held for output, as of the last call.
    #[must_use]
    pub fn held_tokens(&self) -> u64 {
        self.holds.held()
    }

    /// Ended reservations and request ids that are remembered one by one.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.ended.len() + self.requests.len()
    }

    /// Forgets what would be forgotten next, before its time; `false` if nothing is remembered, or nothing but request ids
    /// that may still repeat their answer.
    pub fn forget_one(&mut self) -> bool {
        let Some(&Reverse((_, what))) = self.forgets.peek() else { return false };
        match what {
            Forget::Reservation(number) => {
                let ended = self.ended.remove(&number);
                if ended.is_some_and(|ended| ended.unsettled.is_some()) {
                    let last = self.forgotten.as_deref().copied().max(Some(number));
                    self.forgotten = last.map(Box::new);
                }
            }
            Forget::Request(id) => {
                let repeats = |known: &KnownRequest| {
                    self.live.contains_key(&known.number) && self.now <= known.admitted_at.after(REPLAY)
                };
                if self.requests.get(&id).is_some_and(repeats) {
                    return false;
                }
                self.requests.remove(&id);
            }
        }
        self.pop_forget();
        true
    }

    fn push_forget(&mut self, until: Timestamp, what: Forget) {
        push_room(&mut self.forgets);
        self.forgets.push(Reverse((until, what)));
    }

    /// Drops the timer that is due first.
    fn pop_forget(&mut self) {
        self.forgets.pop();
        if self.forgets.is_empty() {
            // An idle key keeps no room for those that it may have one day.
            self.forgets = BinaryHeap::new();
        }
    }

    /// Reservations that expired since the last call of this method.
    pub fn take_expired(&mut self) -> u64 {
        core::mem::take(&mut self.expired)
    }
}

/// What is enforced of the published limits for a request of this service tier.
fn effective(limits: &PerWindow<u64>, tier: ServiceTier, rules: &Rules<'_>) -> PerWindow<u64> {
    PerWindow::from_fn(|window| rules.pressure[window].effective_limit_tpm(limits[window], &rules.bounds[window], tier))
}
