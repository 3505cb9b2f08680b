//! What a sidecar knows of its share of one key: what it was granted, what it has asked for, how much comes in.
//!
//! No clock and no IO: whoever has it tells it the time, and carries its reports.
//!
//! A report leaves the sidecar before it knows the answer, and the answer may never come. From the moment a report is made
//! until a later one is answered, no more is counted on than it said ([`Lease::cap`]): that is allotted whether it arrives or
//! not.

use std::time::Duration;

use tidegate_core::fleet::{Granted, KnownLaw, Seen};
use tidegate_core::key::LimitKey;
use tidegate_core::state::Short;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, Window};
use tokio::sync::oneshot;

use crate::memory::part::Account;
use demand::{Calls, Demand};
use grant::{Grant, certain};
use said::sum;

pub(super) use said::Said;

mod demand;
mod grant;
mod said;

/// How long a lease is asked for.
const LEASE: Duration = Duration::from_millis(400);
/// The same where the limit is far. A policy is looked for every 0.3 s, and a bound that it changes acts within a second.
const LEASE_AT_EASE: Duration = Duration::from_millis(700);
/// The same where others wait: what is not used goes back sooner.
const LEASE_IN_NEED: Duration = Duration::from_millis(200);
/// A limit is far where what is asked for is no more than this part of what is left of it: nobody misses that for a while.
const FAR_SHARE: u64 = 64;
/// There, so many times what is expected is asked for: the few requests of a quiet key do not come evenly.
const AMPLE: u64 = 4;
/// There, what has changed and what was not used is told so late, if no request has asked for more by then. The law counts it in the
/// epoch, a minute, in which it is told.
const TOLD_AT_EASE: Duration = Duration::from_secs(2);
/// What live streams need is told again at least so often: a report looks ahead for a minute.
const STREAMS_AGAIN: Duration = Duration::from_secs(20);
/// What was acknowledged so long ago may have been forgotten by the ledger.
const SURELY_KNOWN: Duration = Duration::from_secs(30);
/// A lease of which nobody has heard for so long is forgotten, if its key is.
const FORGOTTEN: Duration = Duration::from_secs(150);
/// An answer so old still says whether there was more to have.
const NEWS: Duration = Duration::from_millis(250);
/// Requests that wait for one answer; one more is answered without.
const MOST_WAITERS: usize = 4_096;
/// Of what is asked for, this part is kept for those who come while a report is on its way.
const KEPT_SHARE: u64 = 4;
/// For requests that have not come yet, no more than this part of what is left of a limit is asked for: what is left last is for those
/// who want it now, on whichever sidecar.
const ROOM_SHARE: u64 = 8;
/// Whoever was answered has looked again after so long.
const SOON: Duration = Duration::from_millis(50);
/// How soon it is tried again what could not be asked because the ledger was asked too often.
const AGAIN: Duration = Duration::from_millis(60);

/// A sidecar's share of one key.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) key: LimitKey,
    granted: Option<Grant>,
    /// No more than this is counted on, while it is not known whether a report has arrived.
    cap: Option<Tokens>,
    elsewhere: Tokens,
    /// Whether others want more than they have.
    others_wait: bool,
    /// Windows of which the last answer had less than was wanted.
    exhausted: PerWindow<bool>,
    /// When the least of what was asked for is free of each, as the last answer had it.
    frees_at: PerWindow<Timestamp>,
    answered_at: Timestamp,
    /// Whether the limit was far then.
    is_at_ease: bool,
    pub(super) law: Option<KnownLaw>,
    sequence: u64,
    acknowledged: u64,
    acknowledged_at: Timestamp,
    /// For the law, since the key was first seen here.
    seen: PerWindow<Seen>,
    demand: Demand,
    /// What requests wait for: the sum of their asks, and how much all of them want to be allotted at least.
    asked: Tokens,
    target: Tokens,
    /// The least of their asks, in the windows that keep them waiting; 0: none does.
    least: Tokens,
    /// What those asked for who were answered and have not looked again yet: not to be given back before; and when that was.
    woken: Tokens,
    woken_at: Timestamp,
    calls: Calls,
    /// Whether a report is to be made, or on its way; and whether it is.
    pub(super) is_asked: bool,
    is_said: bool,
    waiters: Vec<oneshot::Sender<()>>,
    /// When the lease is to be looked at, without a call.
    pub(super) due_at: Timestamp,
    has_news: bool,
    /// Whether streams were live when the ledger heard of the key last.
    has_streams: bool,
}

/// What to do when a lease is looked at without a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ask,
    Later,
    /// It may be forgotten, if its key is.
    Forget,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    /// What it asks for.
    pub(super) ask: Tokens,
    /// The report that says so; `None`: it came while one was on its way.
    report: Option<u64>,
}

/// What a request that is short is to do.
#[derive(Debug)]
pub(super) enum Next {
    /// Wait for an answer; and the ledger is to be asked first, if it `asks`.
    Wait { told: oneshot::Receiver<()>, asks: bool, waited: Waited },
    /// The fleet had no more a moment ago.
    Deny,
    /// It was asked as often as it may be, and had more than was asked for.
    TooSoon,
    /// As many wait as may.
    Full,
}

impl Lease {
    pub(super) fn new(key: LimitKey, now: Timestamp) -> Self {
        Self {
            key,
            granted: None,
            cap: None,
            elsewhere: Tokens::default(),
            others_wait: false,
            exhausted: PerWindow::default(),
            frees_at: PerWindow::default(),
            answered_at: Timestamp::ZERO,
            is_at_ease: false,
            law: None,
            sequence: 0,
            acknowledged: 0,
            acknowledged_at: now,
            seen: PerWindow::default(),
            demand: Demand::default(),
            asked: Tokens::default(),
            target: Tokens::default(),
            least: Tokens::default(),
            woken: Tokens::default(),
            woken_at: Timestamp::ZERO,
            calls: Calls::default(),
            is_asked: false,
            is_said: false,
            waiters: Vec::new(),
            due_at: Timestamp::MAX,
            has_news: false,
            has_streams: false,
        }
    }

    /// What may be counted at `now`; `None` where there is no lease.
    pub(super) fn allotted(&self, now: Timestamp) -> Option<Tokens> {
        let grant = self.granted.filter(|grant| now < grant.until)?;
        let cap = self.cap.unwrap_or(grant.allotted);
        Some(Tokens::from_fn(|window| grant.allotted[window].min(cap[window])))
    }

    /// What counts elsewhere, as of the last answer.
    pub(super) const fn elsewhere(&self) -> Tokens {
        self.elsewhere
    }

    /// A request was decided here. Where the lease comes to its end, it is to be looked at now; nobody waits for it, so that it may
    /// be asked for together with others.
    pub(super) fn on_decided(&mut self, now: Timestamp, ask: &Tokens) -> Option<Timestamp> {
        self.demand.add(now, ask);
        let is_ending = !self.is_asked && self.granted.is_some_and(|grant| grant.is_ending(now));
        is_ending.then(|| self.due_by(now)).flatten()
    }

    /// Whether the ledger is to be asked: nobody does yet, and it was not asked too often.
    pub(super) fn try_ask(&mut self, now: Timestamp) -> bool {
        let asks = !self.is_asked && self.calls.try_take(now);
        self.is_asked |= asks;
        asks
    }

    /// A request that waited looks again.
    pub(super) fn on_looked(&mut self, ask: &Tokens) {
        self.woken = self.woken.map_with(ask, |woken, ask| woken.saturating_sub(*ask));
    }

    /// Whether the answer has come to the report that spoke for a request that waits. One that is made anew speaks for it as well.
    pub(super) fn has_heard(&self, waited: &Waited) -> bool {
        waited.report.is_some_and(|report| report <= self.acknowledged)
    }

    /// A request does not fit what is allotted. `every_time`: the ledger is asked for each.
    pub(super) fn on_short(&mut self, now: Timestamp, short: &Short, is_first: bool, every_time: bool) -> Next {
        if is_first {
            self.demand.add(now, &short.ask);
        }
        for window in Window::ALL {
            self.asked[window] = self.asked[window].saturating_add(short.ask[window]);
            self.target[window] = self.target[window].max(short.wanted[window]);
            if short.missing[window] > 0 {
                let least = &mut self.least[window];
                *least = if *least == 0 { short.ask[window] } else { short.ask[window].min(*least) };
            }
        }
        if self.waiters.len() >= MOST_WAITERS {
            return Next::Full;
        }
        let asks = if every_time && !self.is_asked {
            self.is_asked = true;
            true
        } else {
            self.try_ask(now)
        };
        if !asks && !self.is_asked {
            return if self.is_exhausted(now, &short.missing) { Next::Deny } else { Next::TooSoon };
        }
        let (tell, told) = oneshot::channel();
        self.waiters.push(tell);
        let report = (!self.is_said).then_some(self.sequence + 1);
        Next::Wait { told, asks, waited: Waited { ask: short.ask, report } }
    }

    /// Somebody wants the next answer; `true`: and the ledger is to be asked first.
    pub(super) fn on_question(&mut self) -> (oneshot::Receiver<()>, bool) {
        let (tell, told) = oneshot::channel();
        self.waiters.push(tell);
        let asks = !self.is_asked;
        self.is_asked = true;
        (told, asks)
    }

    /// Whether the fleet had less than was wanted of one of these windows, a moment ago.
    pub(super) fn is_exhausted(&self, now: Timestamp, missing: &Tokens) -> bool {
        self.answered_at.after(NEWS) > now
            && Window::ALL.into_iter().any(|window| missing[window] > 0 && self.exhausted[window])
    }

    /// In how long what was not there is free; zero where that is not known.
    pub(super) fn frees_in(&self, now: Timestamp) -> PerWindow<Duration> {
        self.frees_at.map(|frees_at| frees_at.since(now))
    }

    /// Something changed that the ledger should know, after this time at the latest, unless it is in no hurry ([`TOLD_AT_EASE`]); when
    /// the lease is to be looked at, if that is sooner than it is.
    pub(super) fn on_news(&mut self, now: Timestamp, wait: Duration) -> Option<Timestamp> {
        self.has_news = true;
        // As far as an answer says that is not older than what is put off may become.
        let is_at_ease = self.is_at_ease && now < self.answered_at.after(TOLD_AT_EASE);
        let wait = if is_at_ease && !wait.is_zero() { TOLD_AT_EASE } else { wait };
        self.due_by(now.after(wait))
    }

    /// Whether something has changed since the last report was made.
    pub(super) const fn has_news(&self) -> bool {
        self.has_news
    }

    /// Sets the next look to `at`, unless there is an earlier one.
    pub(super) fn due_by(&mut self, at: Timestamp) -> Option<Timestamp> {
        (at < self.due_at).then(|| {
            self.due_at = at;
            at
        })
    }

    /// The time of a look has come. Unless the lease may be forgotten, [`Lease::due_at`] is when the next one is.
    pub(super) fn on_due(&mut self, now: Timestamp) -> Due {
        self.due_at = Timestamp::MAX;
        if self.is_asked {
            return Due::Later;
        }
        if self.is_idle() {
            self.due_at = now.after(FORGOTTEN);
            return if self.acknowledged_at.after(FORGOTTEN) <= now { Due::Forget } else { Due::Later };
        }
        if self.try_ask(now) {
            return Due::Ask;
        }
        self.put_off(now);
        Due::Later
    }

    /// What was due could not be done.
    pub(super) fn put_off(&mut self, now: Timestamp) {
        self.due_at = now.after(AGAIN);
    }

    /// Makes a report of what the key has. It is the one that is on its way until [`Lease::on_answer`] or [`Lease::on_lost`].
    /// `exact`: no more is asked for than the requests that wait want, for as long as one call takes.
    pub(super) fn say(
        &mut self,
        now: Timestamp,
        mut account: Account,
        (life, incarnation): (u64, u64),
        exact: bool,
    ) -> Said {
        self.sequence += 1;
        self.is_said = true;
        // All that was to be told is in it.
        (self.has_news, self.due_at) = (false, Timestamp::MAX);
        self.has_streams = account.reservations > 0;
        for window in Window::ALL {
            let (seen, sighted) = (&mut self.seen[window], &account.sighted[window]);
            seen.settled = seen.settled.saturating_add(sighted.settled);
            seen.denied |= sighted.denied;
            seen.pressure = seen.pressure.max(sighted.pressure);
        }
        let need = Tokens::from_fn(|window| sum(&account.needs[window]));
        let expected = if exact { Tokens::default() } else { self.demand.expected(now) };
        let room = self.room(&need);
        let ample = expected.map(|expected| expected.saturating_mul(AMPLE));
        let is_at_ease = !exact && [&ample, &self.asked].into_iter().all(|wants| self.is_far(&room, wants));
        let comes_in = if is_at_ease {
            ample
        } else {
            expected.map_with(&room, |expected, room| *expected.min(&(room / ROOM_SHARE)))
        };
        if self.woken_at.after(SOON) <= now {
            // Whoever has not looked by now has given up.
            self.woken = Tokens::default();
        }
        let is_wanted = [&expected, &self.asked, &self.woken].into_iter().any(|tokens| *tokens != Tokens::default());
        let ttl = match (is_wanted, self.others_wait) {
            (false, _) => Duration::ZERO,
            (true, true) => LEASE_IN_NEED,
            (true, false) if is_at_ease => LEASE_AT_EASE,
            (true, false) => LEASE,
        };
        // What is kept is used within the lease, if at all, and stays for a minute after that.
        let second = u32::try_from(ttl.as_secs() + 61).unwrap_or(u32::MAX);
        let allotted = self.allotted(now).filter(|_| is_wanted).unwrap_or_default();
        let kept = Tokens::from_fn(|window| {
            let spare = allotted[window].saturating_sub(need[window]);
            spare.min((comes_in[window] / KEPT_SHARE).saturating_add(self.woken[window]))
        });
        let wants = Tokens::from_fn(|window| {
            let target = self.target[window].saturating_sub(need[window].saturating_add(kept[window]));
            self.asked[window].max(comes_in[window]).max(target)
        });
        let said = need.map_with(&kept, |need, kept| need.saturating_add(*kept));
        self.cap = Some(self.cap.map_or(said, |cap| cap.map_with(&said, |cap, said| *cap.min(said))));
        // Nor longer than it asks for: the ledger may have heard that.
        self.granted = self
            .granted
            .filter(|_| !ttl.is_zero())
            .map(|grant| Grant { until: grant.until.min(now.after(certain(ttl))), ..grant });
        for window in Window::ALL {
            if kept[window] > 0 {
                account.needs[window].push((second, kept[window]));
            }
        }
        let is_surely_known = self.acknowledged_at.after(SURELY_KNOWN) > now;
        Said {
            life,
            incarnation,
            sequence: self.sequence,
            acknowledged: if is_surely_known { self.acknowledged } else { 0 },
            phase_seconds: self.key.as_ref().phase_seconds(),
            ttl,
            needs: account.needs,
            wants,
            least: self.least,
            waits: !exact,
            seen: self.seen,
            at: now,
        }
    }

    /// What is left of the limits beside `need`, as far as is known.
    fn room(&self, need: &Tokens) -> Tokens {
        let limits = self.law.map_or(Tokens::default(), |known| known.limits);
        Tokens::from_fn(|window| limits[window].saturating_sub(self.elsewhere[window]).saturating_sub(need[window]))
    }

    /// Whether what is left, less this, is nearly as much: nobody waits, and nobody would have to.
    fn is_far(&self, room: &Tokens, wants: &Tokens) -> bool {
        !self.others_wait && Window::ALL.into_iter().all(|window| wants[window] <= room[window] / FAR_SHARE)
    }

    /// What the ledger answered to `said`, the last report made.
    /// When the lease is to be looked at, if that is sooner than it was.
    pub(super) fn on_answer(&mut self, now: Timestamp, said: &Said, granted: &Granted) -> Option<Timestamp> {
        (self.acknowledged, self.acknowledged_at) = (said.sequence, now);
        self.answered_at = now;
        self.cap = None;
        self.elsewhere = granted.elsewhere;
        let allotted = |window: Window| granted.allotted[window];
        let need = said.need();
        self.exhausted =
            PerWindow::from_fn(|window| allotted(window).saturating_sub(need[window]) < said.wants[window]);
        self.frees_at =
            granted.frees_ms.map(|ms| if ms > 0 { now.after(Duration::from_millis(ms)) } else { Timestamp::ZERO });
        self.others_wait = granted.waiting != Tokens::default();
        self.is_at_ease = said.waits && self.is_far(&self.room(&need), &said.wants);
        // Counted from before it was asked for.
        let lasts = certain(Duration::from_millis(granted.left_ms).min(said.ttl));
        self.granted = (!lasts.is_zero()).then(|| Grant {
            allotted: granted.allotted,
            from: said.at,
            until: said.at.after(lasts),
        });
        if granted.is_current() {
            for window in Window::ALL {
                let (seen, said) = (&mut self.seen[window], &said.seen[window]);
                seen.arrived = said.settled;
                (seen.denied, seen.pressure) = (false, 0);
            }
        }
        let next = match self.granted {
            Some(_) if self.is_at_ease => said.at.after(TOLD_AT_EASE),
            Some(grant) => grant.looked_at(),
            None if self.has_streams => now.after(STREAMS_AGAIN),
            None => now.after(FORGOTTEN),
        };
        self.due_by(next)
    }

    /// Whether what the ledger knows of the law is behind what is known here, or its epoch is over: the version that is there,
    /// and from which one to go on.
    pub(super) fn law_to_move(&self, granted: &Granted) -> Option<(u64, Option<KnownLaw>)> {
        let there = granted.law.map_or(0, |known| known.version);
        match (granted.law, self.law) {
            (_, Some(ours)) if ours.version > there => Some((there, Some(ours))),
            (theirs, _) => (!granted.is_current()).then_some((there, theirs)),
        }
    }

    /// Nobody knows whether the last report has arrived. Whoever waits is answered without.
    pub(super) fn on_lost(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.has_news = true;
        self.due_by(now.after(super::SETTLED_LATER))
    }

    /// The data of the ledger were lost: what it granted was not kept, and it has to hear all again.
    pub(super) fn on_data_lost(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.granted = None;
        self.acknowledged = 0;
        self.has_news = true;
        self.due_by(now)
    }

    /// Nothing is asked for any more; whether the ledger is to hear a last report.
    pub(super) fn close(&mut self) -> bool {
        (self.asked, self.target, self.least) = (Tokens::default(), Tokens::default(), Tokens::default());
        self.demand = Demand::default();
        self.granted.is_some() || self.has_news || self.has_streams || self.is_asked
    }

    /// Whether nobody would miss it.
    pub(super) fn is_idle(&self) -> bool {
        self.granted.is_none() && !self.has_news && !self.has_streams && !self.is_asked
    }

    /// Ends the asking; all who wait look again.
    pub(super) fn finish(&mut self, now: Timestamp) -> Vec<oneshot::Sender<()>> {
        (self.is_asked, self.is_said) = (false, false);
        self.woken = self.woken.map_with(&self.asked, |woken, asked| woken.saturating_add(*asked));
        self.woken_at = now;
        (self.asked, self.target, self.least) = (Tokens::default(), Tokens::default(), Tokens::default());
        std::mem::take(&mut self.waiters)
    }
}
