//! The decision: ask, check, and only then charge and hold.

use core::time::Duration;

use super::expectation::GeneratedAsk;
use super::{Forget, KeyState, KnownRequest, Rules};
use crate::ask::Request;
use crate::decision::{Allowed, Answer, Bound, Denial, Denied};
use crate::forecast;
use crate::holds::Hold;
use crate::law::EPOCH_SECONDS;
use crate::reservation::{MEMORY, Number, REPLAY, Reservation, Stated};
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

impl KeyState {
    /// Decides the request at `now` and, if it is allowed, charges and holds: all or nothing (contract C1, C2). A denial
    /// sets the law's denial mark at most.
    ///
    /// `number` draws the reservation's number, or says which bound of the process is reached. It is called last, so that a
    /// bound never hides a limit (C10).
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
        self.advance(now, rules);
        let request = reserve.request;
        if let Some(known) = reserve.request_id.and_then(|id| self.requests.get(&id)) {
            return self.replay(known, request, rules);
        }
        let limits = self.limits(rules);
        if self.needs_fallback() {
            self.prior = *rules.fallback;
        }
        let figures = self.expected_figures(rules);
        let ask = figures.ask(request, &limits);
        if let Some((denial, windows)) = hopeless(request, rules, &limits) {
            let wait = (denial == Denial::ExceedsCurrentLimit).then(|| self.next_epoch());
            return Ok(self.deny(denial, wait, ask, windows, rules));
        }
        let mut course = self.course(0, request.max_generated_tokens, figures.micros_per_token(), rules);
        let duration = forecast::duration(course.total, figures.micros_per_token());
        // The answer says that a typical answer is held. What is expected to come, and when, is the course's to say: rare long
        // answers make it more.
        course.total = ask.generated;
        let full = self.full(&ask, course.reach, &limits, rules);
        if full != PerWindow::default() {
            for (window, _) in full.iter().filter(|(_, full)| **full) {
                self.law.on_denied(window, ask[window], &rules.bounds[window]);
            }
            let wait = self.wait(&ask, course.reach, &limits, rules);
            return Ok(self.deny(Denial::WindowFull, Some(wait), ask, full, rules));
        }
        let number =
            if self.live.len() < reserve.most_reservations { number() } else { Err(Bound::ReservationsPerKey) };
        match number {
            Ok(number) => {
                let hold = Hold::new(&course, self.now, self.now, duration);
                self.admit(number, reserve, ask, hold, figures.micros_per_token());
                let allowed =
                    Allowed { number, reserved: ask, admitted_at: self.now, ttl: request.ttl, replayed: false };
                Ok(Answer { outcome: Ok(allowed), windows: self.windows(rules) })
            }
            Err(bound) => Ok(self.refuse(rules, request, bound)),
        }
    }

    /// Refuses the request because a bound of the process is reached; the windows are as of the last
    /// [`KeyState::advance`].
    #[must_use]
    pub fn refuse(&self, rules: &Rules<'_>, request: &Request<'_>, bound: Bound) -> Answer {
        let ask = self.expected_figures(rules).ask(request, &self.limits(rules));
        let wait = self.spread(request);
        self.deny(Denial::Capacity(bound), Some(wait), ask, PerWindow::default(), rules)
    }

    /// Refuses the request because nobody may spend on this account; as [`KeyState::refuse`].
    #[must_use]
    pub fn forbid(&self, rules: &Rules<'_>, request: &Request<'_>, denial: Denial) -> Answer {
        let ask = self.expected_figures(rules).ask(request, &self.limits(rules));
        self.deny(denial, None, ask, PerWindow::default(), rules)
    }

    fn admit(&mut self, number: Number, reserve: &Reserve<'_, '_>, ask: Tokens, hold: Hold, pace: u64) {
        let request = reserve.request;
        let expires_at = self.now.after(request.ttl);
        let mut reservation = Reservation {
            admitted_at: self.now,
            ttl: request.ttl,
            expires_at,
            reserved: ask,
            stated: Some(Stated::of(request)),
            charged: [ask.prompt, ask.uncached_prompt],
            counted: [0, 0],
            generated: 0,
            reported_at: self.now,
            hold,
            timer_at: expires_at,
            micros_per_token: pace,
            look_at: self.now,
        };
        self.look_after(number, &mut reservation);
        self.prompt.charge(self.now, reservation.charged);
        self.holds.insert(&reservation.hold);
        self.expiries.insert((expires_at, number));
        self.live.insert(number, reservation);
        self.issued.push(number);
        self.ids_good_until = self.ids_good_until.max(expires_at.after(MEMORY));
        if let Some(id) = reserve.request_id {
            self.requests.insert(id, KnownRequest { number, stated: Stated::of(request), admitted_at: self.now });
            self.forgets.insert((expires_at.after(MEMORY), Forget::Request(id)));
        }
    }

    /// Repeats the answer to an earlier call with this request id.
    fn replay(&self, known: &KnownRequest, request: &Request<'_>, rules: &Rules<'_>) -> Result<Answer, RequestIdTaken> {
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
        Ok(Answer { outcome: Ok(allowed), windows: self.windows(rules) })
    }

    fn deny(
        &self,
        denial: Denial,
        retry_after: Option<Duration>,
        ask: Tokens,
        binding: PerWindow<bool>,
        rules: &Rules<'_>,
    ) -> Answer {
        let mut windows = self.windows(rules);
        for (window, binding) in binding.iter() {
            windows[window].binding = *binding;
        }
        Answer { outcome: Err(Denied { denial, retry_after, ask }), windows }
    }

    /// Time until the law's minute closes.
    fn next_epoch(&self) -> Duration {
        let seconds = self.now.as_seconds().saturating_add(self.phase_seconds);
        let close = (seconds / EPOCH_SECONDS + 1).saturating_mul(EPOCH_SECONDS).saturating_sub(self.phase_seconds);
        Timestamp::from_seconds(close).since(self.now)
    }

    /// 1 to 5 s, spread by a hash of key and instant, so that refused clients do not return together.
    fn spread(&self, request: &Request<'_>) -> Duration {
        let mixed = (request.key.hash() ^ self.now.as_micros()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Duration::from_millis(1_000 + (mixed >> 32) % 4_001)
    }

    /// The windows in which the ask does not fit now.
    fn full(&self, ask: &Tokens, reach: u64, limits: &Tokens, rules: &Rules<'_>) -> PerWindow<bool> {
        PerWindow::from_fn(|window| match window {
            Window::Generated => {
                let ask = GeneratedAsk { tokens: ask.generated, reach };
                !self.generated_fits(ask, limits.generated, rules.forecast)
            }
            _ => self.room(window, limits[window], rules).is_none_or(|room| ask[window] > room),
        })
    }

    /// How long until the ask fits (contract C12): holds run as forecast, the limits stay, nothing else is admitted. At most
    /// 60 s.
    fn wait(&self, ask: &Tokens, reach: u64, limits: &Tokens, rules: &Rules<'_>) -> Duration {
        let room = |window: Window| limits[window].saturating_sub(ask[window]);
        let prompt = self.prompt.wait_until_at_most(0, room(Window::Prompt), self.now);
        let uncached = self.prompt.wait_until_at_most(1, room(Window::UncachedPrompt), self.now);
        // The prompt windows only empty. The generated one may fill meanwhile with what the holds produce.
        let from = self.now.after(prompt.max(uncached));
        let ask = GeneratedAsk { tokens: ask.generated, reach };
        self.generated_fits_from(from, ask, limits.generated, rules.forecast).since(self.now).min(WINDOW)
    }
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
