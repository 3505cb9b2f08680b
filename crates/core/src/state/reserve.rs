//! The decision: the account's limits, what the deployment leaves of them, and only then charge and hold.

use alloc::boxed::Box;
use core::time::Duration;

use super::allotment::{Allotment, Short};
use super::expectation::{GeneratedAsk, most_of};
use super::touched::Item;
use super::{Forget, KeyState, KnownRequest, Rules};
use crate::ask::Request;
use crate::decision::{Allowed, Answer, Bound, Denial, Denied};
use crate::forecast::{self, Figures};
use crate::law::EPOCH_SECONDS;
use crate::pressure::{LOWER_ABOVE, Signal};
use crate::reservation::{Held, MEMORY, Number, REPLAY, Reservation, Stated};
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, WINDOW, Window};

/// A request, and what the store adds to it.
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a, 'r> {
    /// The request.
    pub request: &'a Request<'r>,
    /// A keyed hash of its request id, 128 bits: ids of any length cost the same, and nobody can make two collide.
    pub request_id: Option<u128>,
    /// Most live reservations of the key.
    pub most_reservations: usize,
}

/// The request id was used for another ask, or for a reservation that ended or is older than 60 s. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIdTaken;

/// The middle of a wait at a pressure that squeezes hardly or no longer.
const SHORT_WAIT_MILLIS: u64 = 2_000;
/// The middle of a wait at a pressure of [`LOWER_ABOVE`] and [`WAIT_RANGE`], or more.
const LONG_WAIT_MILLIS: u64 = 20_000;
/// Pressure over which waits grow, permille.
const WAIT_RANGE: u64 = 550;

/// A request refused; how long to wait is not worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub denial: Denial,
    wish: Wish,
}

impl Refused {
    /// What the request asked for.
    #[must_use]
    pub const fn ask(&self) -> Tokens {
        self.wish.ask
    }
}

/// A decision, and which windows are in the way.
struct Judgement {
    outcome: Result<Allowed, Refused>,
    binding: PerWindow<bool>,
    /// Whether it is none yet.
    short: Option<Short>,
}

impl Judgement {
    fn refused(denial: Denial, wish: Wish, binding: PerWindow<bool>) -> Self {
        Self { outcome: Err(Refused { denial, wish }), binding, short: None }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) ask: Tokens,
    /// Generated tokens that it could produce within a minute.
    reach: u64,
}

impl Wish {
    pub(super) const fn generated(&self) -> GeneratedAsk {
        GeneratedAsk { tokens: self.ask.generated, reach: self.reach }
    }
}

impl KeyState {
    /// Decides the request at `now` and, if it is allowed, charges and holds: all or nothing (contract C1, C2). A denial
    /// sets the law's denial mark at most.
    ///
    /// `number` draws the reservation's number, or says which bound of the process is reached. It is called last, so that a
    /// bound never hides a limit (C10).
    ///
    /// An allotment is the last word here, also where it says that somebody is to be asked.
    ///
    /// # Errors
    /// [`RequestIdTaken`], and nothing changed.
    pub fn reserve(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        reserve: &Reserve<'_, '_>,
        number: impl FnOnce() -> Result<Number, Bound>,
    ) -> Result<Answer, RequestIdTaken> {
        let rules = &rules.last_word();
        let judgement = self.judge(now, rules, reserve, number)?;
        Ok(self.answer(judgement, reserve.request, rules))
    }

    /// As [`KeyState::reserve`]; where the allotment is too small and somebody is to be asked first, [`Short`], and the law hears
    /// of nothing.
    ///
    /// # Errors
    /// As [`KeyState::reserve`].
    pub fn try_reserve(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        reserve: &Reserve<'_, '_>,
        number: impl FnOnce() -> Result<Number, Bound>,
    ) -> Result<Result<Answer, Short>, RequestIdTaken> {
        let judgement = self.judge(now, rules, reserve, number)?;
        Ok(match judgement.short {
            Some(short) => Err(short),
            None => Ok(self.answer(judgement, reserve.request, rules)),
        })
    }

    /// As [`KeyState::reserve`], for callers that publish neither windows nor waits: looking at them costs as much as deciding.
    ///
    /// # Errors
    /// As [`KeyState::reserve`].
    pub fn decide(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        reserve: &Reserve<'_, '_>,
        number: impl FnOnce() -> Result<Number, Bound>,
    ) -> Result<Result<Allowed, Refused>, RequestIdTaken> {
        self.judge(now, &rules.last_word(), reserve, number).map(|judgement| judgement.outcome)
    }

    fn judge(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        reserve: &Reserve<'_, '_>,
        number: impl FnOnce() -> Result<Number, Bound>,
    ) -> Result<Judgement, RequestIdTaken> {
        self.advance(now, rules);
        let request = reserve.request;
        if let Some(known) = reserve.request_id.and_then(|id| self.requests.get(&id)) {
            return self.replay(known, request);
        }
        let limits = self.limits(rules);
        if self.needs_fallback() {
            *self.prior = *rules.fallback;
        }
        let figures = self.expected_figures(rules);
        if let Some((denial, windows)) = hopeless(request, rules, &limits) {
            self.on_denied(&forecast::stated(request), &windows, &limits, rules);
            return Ok(Judgement::refused(denial, self.wish(request, &figures, &limits, rules), windows));
        }
        // The account's own limits first: above them it is a 429, whatever the deployment says (C10).
        let own = self.wish(request, &figures, &limits, rules);
        let effective = super::effective(&limits, request.service_tier, rules);
        let allotment = rules.allotment.as_ref();
        let here = Allotment::of(allotment, &limits);
        if !self.has_room_for_all(own.generated(), effective.generated.min(here.generated)) {
            self.look(rules);
        }
        let full = self.full(&own, &here, rules);
        if full != PerWindow::default() {
            // Where the limits themselves are in the way nobody else can help, and they are what binds.
            let by_limits = if allotment.is_some() { self.full(&own, &limits, rules) } else { full };
            let beyond = allotment.filter(|_| by_limits == PerWindow::default());
            let full = if by_limits == PerWindow::default() { full } else { by_limits };
            match beyond.map_or(Some(Denial::WindowFull), |allotment| allotment.beyond.denial()) {
                Some(Denial::WindowFull) => {}
                Some(denial) => return Ok(Judgement::refused(denial, own, full)),
                None => {
                    let short = Some(self.short(&own, &full, &here, rules));
                    return Ok(Judgement { short, ..Judgement::refused(Denial::WindowFull, own, full) });
                }
            }
            for (window, _) in full.iter().filter(|(_, full)| **full) {
                self.law.on_denied(window, own.ask[window], &rules.bounds[window]);
            }
            self.on_denied(&own.ask, &full, &limits, rules);
            return Ok(Judgement::refused(Denial::WindowFull, own, full));
        }
        let wish = if effective == limits { own } else { self.wish(request, &figures, &effective, rules) };
        if let Some((denial, windows)) = self.overloaded(&wish, &limits, &effective, request, rules) {
            return Ok(Judgement::refused(denial, wish, windows));
        }
        let number =
            if self.live.len() < reserve.most_reservations { number() } else { Err(Bound::ReservationsPerKey) };
        match number {
            Ok(number) => {
                let (limit, pace) = (effective.generated, figures.micros_per_token());
                // The answer says that a typical answer is held. What is expected to come, and when, is the course's to say:
                // rare long answers make it more.
                let most = most_of(0, request.max_generated_tokens, limit);
                let held = self.hold(wish.ask.generated, most, pace, limit, rules);
                self.admit(number, reserve, wish.ask, held, pace);
                let allowed =
                    Allowed { number, reserved: wish.ask, admitted_at: self.now, ttl: request.ttl, replayed: false };
                Ok(Judgement { outcome: Ok(allowed), binding: PerWindow::default(), short: None })
            }
            Err(bound) => Ok(self.refusal(rules, request, bound)),
        }
    }

    /// Refuses the request because a bound of the process is reached; the windows are as of the last
    /// [`KeyState::advance`].
    #[must_use]
    pub fn refuse(&mut self, rules: &Rules<'_>, request: &Request<'_>, bound: Bound) -> Answer {
        self.answer(self.refusal(rules, request, bound), request, rules)
    }

    fn refusal(&self, rules: &Rules<'_>, request: &Request<'_>, bound: Bound) -> Judgement {
        let wish = self.wish(request, &self.expected_figures(rules), &self.limits(rules), rules);
        Judgement::refused(Denial::Capacity(bound), wish, PerWindow::default())
    }

    /// Refuses the request because nobody may spend on this account; as [`KeyState::refuse`].
    #[must_use]
    pub fn forbid(&mut self, rules: &Rules<'_>, request: &Request<'_>, denial: Denial) -> Answer {
        let wish = self.wish(request, &self.expected_figures(rules), &self.limits(rules), rules);
        self.answer(Judgement::refused(denial, wish, PerWindow::default()), request, rules)
    }

    fn admit(&mut self, number: Number, reserve: &Reserve<'_, '_>, ask: Tokens, held: Held, pace: u64) {
        let request = reserve.request;
        let expires_at = self.now.after(request.ttl);
        let reservation = Reservation {
            admitted_at: self.now,
            ttl: request.ttl,
            expires_at,
            reserved: ask,
            stated: Some(Stated::of(request)),
            charged: [ask.prompt, ask.uncached_prompt],
            counted: [0, 0],
            generated: 0,
            reported_at: self.now,
            held,
            micros_per_token: pace,
            look_at: self.now,
        };
        self.prompt.charge(self.now, reservation.charged);
        self.expiries.set(expires_at, number, &self.live);
        self.live.insert(number, Box::new(reservation));
        self.touched.add(Item::Reservation(number));
        self.issued.push(number);
        self.ids_good_until = self.ids_good_until.max(expires_at.after(MEMORY));
        if let Some(id) = reserve.request_id {
            let (stated, until) = (Stated::of(request), expires_at.after(MEMORY));
            self.requests.insert(id, KnownRequest { number, stated, admitted_at: self.now, until });
            self.push_forget(until, Forget::Request(id));
            self.touched.add(Item::Request(id));
        }
    }

    /// Repeats the answer to an earlier call with this request id.
    fn replay(&self, known: &KnownRequest, request: &Request<'_>) -> Result<Judgement, RequestIdTaken> {
        let same = known.stated == Stated::of(request) && self.now <= known.admitted_at.after(REPLAY);
        let live = self.live.get(&known.number).filter(|live| same && live.expires_at > self.now);
        let live = live.ok_or(RequestIdTaken)?;
        let allowed = Allowed {
            number: known.number,
            reserved: live.reserved,
            admitted_at: live.admitted_at,
            ttl: live.ttl,
            replayed: true,
        };
        Ok(Judgement { outcome: Ok(allowed), binding: PerWindow::default(), short: None })
    }

    fn answer(&mut self, judgement: Judgement, request: &Request<'_>, rules: &Rules<'_>) -> Answer {
        let mut windows = self.windows_at(request.service_tier, rules);
        for (window, binding) in judgement.binding.iter() {
            windows[window].binding = *binding;
        }
        let outcome = judgement.outcome.map_err(|Refused { denial, wish }| {
            let retry_after = self.retry_after(denial, &wish, &judgement.binding, request, rules);
            Denied { denial, retry_after, ask: wish.ask }
        });
        Answer { outcome, windows }
    }

    /// How long to wait after this denial; `None` where waiting does not help.
    fn retry_after(
        &self,
        denial: Denial,
        wish: &Wish,
        windows: &PerWindow<bool>,
        request: &Request<'_>,
        rules: &Rules<'_>,
    ) -> Option<Duration> {
        match denial {
            Denial::WindowFull if rules.allotment.is_some() => {
                let limits = self.limits(rules);
                let alone = self.full(wish, &limits, rules) != PerWindow::default();
                let wait = if alone { self.wait(wish, &limits, rules) } else { Duration::ZERO };
                Some(wait.max(self.wait_for_allotment(wish, windows, &limits, rules)))
            }
            Denial::WindowFull => Some(self.wait(wish, &self.limits(rules), rules)),
            Denial::ExceedsCurrentLimit => Some(self.next_epoch()),
            Denial::Squeezed | Denial::Shed => Some(self.overloaded_wait(request, windows, rules)),
            Denial::Capacity(_) | Denial::StoreUnavailable => Some(self.spread(request)),
            Denial::NeverFits | Denial::UnknownAccount | Denial::AccountBlocked => None,
        }
    }

    /// Time until the law's minute closes.
    fn next_epoch(&self) -> Duration {
        let seconds = self.now.as_seconds().saturating_add(self.phase_seconds);
        let close = (seconds / EPOCH_SECONDS + 1).saturating_mul(EPOCH_SECONDS).saturating_sub(self.phase_seconds);
        Timestamp::from_seconds(close).since(self.now)
    }

    /// What a request asks for where these limits are enforced.
    fn wish(&self, request: &Request<'_>, figures: &Figures, limits: &Tokens, rules: &Rules<'_>) -> Wish {
        let most = most_of(0, request.max_generated_tokens, limits.generated);
        let reach = self.stream_reach(most, figures.micros_per_token(), limits.generated, rules);
        Wish { ask: figures.ask(request, limits), reach }
    }

    /// Whether the busy deployment is why a request within its limits is refused, and in which windows: squeezed, or shed.
    fn overloaded(
        &self,
        wish: &Wish,
        limits: &Tokens,
        effective: &Tokens,
        request: &Request<'_>,
        rules: &Rules<'_>,
    ) -> Option<(Denial, PerWindow<bool>)> {
        if rules.pressure == PerWindow::default() {
            return None;
        }
        let elsewhere = Allotment::elsewhere(rules.allotment.as_ref());
        if effective != limits {
            // What the others have counts as well; as far as it is known here, they are squeezed alike.
            let here = Tokens::from_fn(|window| effective[window].saturating_sub(elsewhere[window]));
            let squeezed = self.full(wish, &here, rules);
            if squeezed != PerWindow::default() {
                return Some((Denial::Squeezed, squeezed));
            }
        }
        let [prompt, uncached] = self.prompt.sum();
        let carried = Tokens::new(prompt, uncached, self.generated.sum().saturating_add(self.holds.held()));
        let shed = PerWindow::from_fn(|window| {
            let tokens = carried[window].saturating_add(elsewhere[window]).saturating_add(wish.ask[window]);
            rules.pressure[window].sheds(tokens, &rules.bounds[window], request.service_tier)
        });
        (shed != PerWindow::default()).then_some((Denial::Shed, shed))
    }

    /// 1 to 30 s: around 2 s at a pressure of up to 950 in the windows that are in the way, around 20 s from 1500 on, spread by
    /// half of it both ways.
    fn overloaded_wait(&self, request: &Request<'_>, windows: &PerWindow<bool>, rules: &Rules<'_>) -> Duration {
        let pressure =
            windows.iter().filter(|(_, binding)| **binding).map(|(window, _)| rules.pressure[window].signal());
        let permille = pressure.filter_map(|signal| match signal {
            Signal::Live(permille) => Some(permille),
            Signal::Off | Signal::Stale => None,
        });
        let above = u64::from(permille.max().unwrap_or(0).saturating_sub(LOWER_ABOVE)).min(WAIT_RANGE);
        let middle = SHORT_WAIT_MILLIS + (LONG_WAIT_MILLIS - SHORT_WAIT_MILLIS) * above / WAIT_RANGE;
        Duration::from_millis(middle / 2 + self.drawn(request) % (middle + 1))
    }

    /// 1 to 5 s, spread, so that refused clients do not return together.
    fn spread(&self, request: &Request<'_>) -> Duration {
        Duration::from_millis(1_000 + self.drawn(request) % 4_001)
    }

    /// 32 bits of a hash of key and call: its instant, and its request id where it has one.
    fn drawn(&self, request: &Request<'_>) -> u64 {
        let id = request.request_id.unwrap_or_default().bytes();
        let call = id.fold(self.now.as_micros(), |hash, byte| mixed(hash ^ u64::from(byte)));
        mixed(request.key.hash() ^ call) >> 32
    }

    /// The windows in which the ask does not fit now.
    fn full(&self, wish: &Wish, limits: &Tokens, rules: &Rules<'_>) -> PerWindow<bool> {
        PerWindow::from_fn(|window| match window {
            Window::Generated => !self.generated_fits(wish.generated(), limits.generated, rules.forecast),
            _ => self.room(window, limits[window], rules).is_none_or(|room| wish.ask[window] > room),
        })
    }

    /// How long until the ask fits (contract C12): holds run as forecast, the limits stay, nothing else is admitted. At most
    /// 60 s.
    pub(super) fn wait(&self, wish: &Wish, limits: &Tokens, rules: &Rules<'_>) -> Duration {
        let room = |window: Window| limits[window].saturating_sub(wish.ask[window]);
        let prompt = self.prompt.wait_until_at_most(0, room(Window::Prompt), self.now);
        let uncached = self.prompt.wait_until_at_most(1, room(Window::UncachedPrompt), self.now);
        // The prompt windows only empty. The generated one may fill meanwhile with what the holds produce.
        let from = self.now.after(prompt.max(uncached));
        let fits = self.generated_fits_from(from, wish.generated(), limits.generated, rules.forecast);
        fits.since(self.now).min(WINDOW)
    }
}

const fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether a stated number is above the ceiling or today's limit, and of which windows (contract C11).
fn hopeless(request: &Request<'_>, rules: &Rules<'_>, limits: &PerWindow<u64>) -> Option<(Denial, PerWindow<bool>)> {
    let stated = forecast::stated(request);
    let above = |bound: &PerWindow<u64>| PerWindow::from_fn(|window| stated[window] > bound[window]);
    let never = above(&rules.bounds.map(|bounds| bounds.ceiling_tpm()));
    let exceeds = above(limits);
    if never != PerWindow::default() {
        Some((Denial::NeverFits, never))
    } else if exceeds != PerWindow::default() {
        Some((Denial::ExceedsCurrentLimit, exceeds))
    } else {
        None
    }
}
