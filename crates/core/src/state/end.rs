//! What comes after an ALLOW: progress, settlement, release, expiry.

use alloc::boxed::Box;

use super::touched::Item;
use super::{Forget, KeyState, Rules};
use crate::decision::SettleOutcome;
use crate::forecast::{self, Sample, pace_shown};
use crate::holds::Hold;
use crate::reservation::{Ended, MEMORY, Number, Reservation, Ticket};
use crate::time::Timestamp;
use crate::window::{Tokens, WINDOW};

/// What a settlement states: totals for the whole request, each at most 2^40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettleCounts {
    /// Prompt tokens; `None`: as admitted.
    pub prompt_tokens: Option<u64>,
    /// Cached prompt tokens; `None`: as admitted. More than the prompt count as all of it.
    pub cached_prompt_tokens: Option<u64>,
    /// Generated tokens; `None`: as last reported, else 0. Fewer than reported before change nothing.
    pub generated_tokens: Option<u64>,
}

/// What a progress report or a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Whether it took effect.
    pub outcome: SettleOutcome,
    /// Whether a stated cached > prompt was counted as cached = prompt.
    pub clamped: bool,
    /// Tokens that this call stated for the first time.
    pub tokens: Tokens,
    /// What the key's model can learn from it.
    pub sample: Option<Sample>,
}

impl Booked {
    const DUPLICATE: Self =
        Self { outcome: SettleOutcome::Duplicate, clamped: false, tokens: Tokens::new(0, 0, 0), sample: None };
}

/// Why a reservation could not be reported on, settled or released; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndError {
    /// Progress on a reservation that has ended, or that is not known here: settle it.
    Ended,
    /// It is no longer remembered; its tokens are not booked.
    TooLate,
}

/// What is known of a reservation.
enum Known {
    Live,
    Settled,
    /// Released or expired: its tokens may still come.
    Unsettled,
    /// Issued by a process of which this store has no record.
    Unknown,
    Forgotten,
}

impl KeyState {
    /// Books `generated_tokens`, the total since admission, and renews the TTL (C3, C7). A total that is not larger than
    /// what is known changes nothing.
    ///
    /// # Errors
    /// [`EndError`], and nothing changed.
    pub fn report_progress(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        ticket: &Ticket,
        generated_tokens: u64,
    ) -> Result<Booked, EndError> {
        self.advance(now, rules);
        if let Known::Forgotten = self.known(ticket, rules) {
            return Err(EndError::TooLate);
        }
        let mut live = self.live.take(&ticket.number).ok_or(EndError::Ended)?;
        let booked = if generated_tokens > live.generated {
            let prompt = live.charged;
            let elapsed = self.now.since(live.reported_at);
            let pace = self.pace(generated_tokens, live.generated, elapsed, rules);
            let limit = self.generated_limit(rules);
            self.lengths.on_progress(live.generated, generated_tokens, limit);
            self.on_lesson();
            if let Some(shown) = pace_shown(elapsed, generated_tokens - live.generated, live.generated == 0) {
                self.figures.on_pace(shown);
            }
            let tokens = self.book(&mut live, prompt, generated_tokens, rules);
            live.expires_at = self.now.after(live.ttl);
            self.watch.on_output(self.now, self.generated.sum(), limit);
            self.revise(ticket.number, &mut live, pace, rules);
            Booked { outcome: SettleOutcome::Applied, clamped: false, tokens, sample: None }
        } else {
            Booked::DUPLICATE
        };
        self.live.insert(ticket.number, live);
        self.touched.add(Item::Reservation(ticket.number));
        Ok(booked)
    }

    /// Ends the reservation with what was used; the first settlement wins (C6).
    ///
    /// # Errors
    /// [`EndError::TooLate`], and nothing changed.
    pub fn settle(
        &mut self,
        now: Timestamp,
        rules: &Rules<'_>,
        ticket: &Ticket,
        counts: &SettleCounts,
    ) -> Result<Booked, EndError> {
        self.advance(now, rules);
        let number = ticket.number;
        let (outcome, reservation) = match self.known(ticket, rules) {
            Known::Forgotten => return Err(EndError::TooLate),
            Known::Settled => return Ok(Booked::DUPLICATE),
            Known::Live => (SettleOutcome::Applied, self.take_live(number)),
            Known::Unsettled => {
                self.touched.add(Item::Reservation(number));
                let unsettled = self.ended.get_mut(&number).and_then(|ended| ended.unsettled.take());
                (SettleOutcome::Late, unsettled)
            }
            Known::Unknown => (SettleOutcome::Late, Some(Box::new(Reservation::unknown(ticket)))),
        };
        let Some(mut reservation) = reservation else { return Ok(Booked::DUPLICATE) };
        let (prompt, clamped) = final_prompt(counts, ticket);
        let generated = counts.generated_tokens.unwrap_or(reservation.generated);
        let known = reservation.generated;
        let elapsed = self.now.since(reservation.reported_at);
        let tokens = self.book(&mut reservation, prompt, generated, rules);
        let limit = self.generated_limit(rules);
        if outcome == SettleOutcome::Applied {
            self.watch.on_output(self.now, self.generated.sum(), limit);
        }
        // A record is needed only where neither the issued numbers nor the time in the id will tell.
        let outlived = self.now > ticket.admitted_at.after(ticket.ttl);
        if !self.ended.contains_key(&number) && (outlived || !self.issued.contains(number)) {
            self.remember(number, reservation.expires_at.max(self.now), None);
        }
        // Clamped as every ask is: one absurd count must not move the forecast of a whole model.
        let generated = reservation.generated.min(limit);
        let used = Tokens::new(prompt[0], prompt[1], generated);
        let pace = pace_shown(elapsed, generated.saturating_sub(known), known == 0);
        let sample = Sample { used, micros_per_token: pace.filter(|_| outcome == SettleOutcome::Applied) };
        self.figures.on_settled(&sample);
        self.lengths.on_end(known.min(generated), generated, limit);
        self.on_lesson();
        Ok(Booked { outcome, clamped, tokens, sample: Some(sample) })
    }

    /// Ends the reservation with nothing used (C6): the prompt charge and the hold return. Where progress has shown that the
    /// prompt was used after all, the prompt and what was reported stay.
    ///
    /// # Errors
    /// [`EndError::TooLate`], and nothing changed.
    pub fn release(&mut self, now: Timestamp, rules: &Rules<'_>, ticket: &Ticket) -> Result<SettleOutcome, EndError> {
        self.advance(now, rules);
        if let Known::Forgotten = self.known(ticket, rules) {
            return Err(EndError::TooLate);
        }
        let Some(mut live) = self.take_live(ticket.number) else { return Ok(SettleOutcome::Duplicate) };
        if live.counted == [0, 0] {
            self.prompt.correct(live.admitted_at, live.charged, [0, 0]);
            live.charged = [0, 0];
        }
        self.remember(ticket.number, live.expires_at, Some(live));
        Ok(SettleOutcome::Applied)
    }

    pub(super) fn on_forget(&mut self, what: Forget) {
        let id = match what {
            Forget::Reservation(number) => return drop(self.ended.remove(&number)),
            Forget::Request(id) => id,
        };
        let Some(known) = self.requests.get_mut(&id) else { return };
        let until = match (self.live.get(&known.number), self.ended.get(&known.number)) {
            (Some(live), _) => live.expires_at.after(MEMORY),
            (None, Some(ended)) => ended.until,
            (None, None) => self.now,
        };
        if until > self.now {
            known.until = until;
            self.push_forget(until, what);
            self.touched.add(Item::Request(id));
        } else {
            self.requests.remove(&id);
        }
    }

    /// The timer of a reservation, which may have been renewed since it was set.
    pub(super) fn on_expiry(&mut self, number: Number) {
        let Some(live) = self.live.get(&number) else { return };
        if live.expires_at > self.now {
            self.expiries.set(live.expires_at, number, &self.live);
        } else if let Some(live) = self.take_live(number) {
            self.expired += 1;
            self.remember(number, live.expires_at, Some(live));
        }
    }

    fn known(&mut self, ticket: &Ticket, rules: &Rules<'_>) -> Known {
        let number = ticket.number;
        match self.live.get(&number) {
            Some(live) if live.expires_at > self.now => return Known::Live,
            Some(_) => self.on_expiry(number),
            None => {}
        }
        match self.ended.get(&number) {
            Some(ended) if ended.until <= self.now => Known::Forgotten,
            Some(ended) if ended.unsettled.is_some() => Known::Unsettled,
            Some(_) => Known::Settled,
            None if self.now > ticket.good_until() => Known::Forgotten,
            None if self.issued.contains(number) && !self.was_forgotten(number) => Known::Settled,
            None if self.issued.contains(number) => Known::Forgotten,
            None if number.incarnation == rules.incarnation => Known::Forgotten,
            None => Known::Unknown,
        }
    }

    /// Whether anything is known here of the reservation of this number: it is live, or how it ended is remembered.
    #[must_use]
    pub fn remembers(&self, number: Number) -> bool {
        self.live.contains_key(&number) || self.ended.contains_key(&number) || self.issued.contains(number)
    }

    /// Whether the reservation of this number is live at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp, number: Number) -> bool {
        self.live.get(&number).is_some_and(|live| live.expires_at > now)
    }

    /// Whether what is known of this number may have been forgotten early: it may have been settled, or not.
    fn was_forgotten(&self, number: Number) -> bool {
        self.forgotten.as_ref().is_some_and(|forgotten| {
            number.incarnation == forgotten.incarnation && number.sequence <= forgotten.sequence
        })
    }

    /// Takes a reservation out of the live ones, with its hold.
    fn take_live(&mut self, number: Number) -> Option<Box<Reservation>> {
        let mut live = self.live.remove(&number)?;
        self.touched.add(Item::Reservation(number));
        self.cohorts.let_go(&mut self.holds, &mut live, self.now);
        Some(live)
    }

    fn remember(&mut self, number: Number, ended_at: Timestamp, unsettled: Option<Box<Reservation>>) {
        let until = ended_at.after(MEMORY);
        self.ended.insert(number, Ended { until, unsettled });
        self.touched.add(Item::Reservation(number));
        self.push_forget(until, Forget::Reservation(number));
    }

    /// Charges what is new, each token when it happened (C3), and tells the law what is stated for the first time.
    fn book(&mut self, reservation: &mut Reservation, prompt: [u64; 2], generated: u64, rules: &Rules<'_>) -> Tokens {
        if reservation.charged != prompt {
            let admitted_at = reservation.admitted_at.min(self.now);
            let in_window = admitted_at.after(WINDOW) > self.now;
            if !self.prompt.correct(admitted_at, reservation.charged, prompt) && in_window && prompt != [0, 0] {
                self.prompt.charge(admitted_at, prompt);
            }
            reservation.charged = prompt;
        }
        let produced = generated.saturating_sub(reservation.generated);
        self.generated.spread(reservation.reported_at.min(self.now), self.now, produced);
        reservation.generated += produced;
        reservation.reported_at = self.now;

        let [counted_prompt, counted_uncached] = reservation.counted;
        let tokens =
            Tokens::new(prompt[0].saturating_sub(counted_prompt), prompt[1].saturating_sub(counted_uncached), produced);
        reservation.counted = [prompt[0].max(counted_prompt), prompt[1].max(counted_uncached)];
        self.law.on_settled(tokens, rules.pressure.map(|reading| reading.brake()));
        tokens
    }

    /// Replaces the hold by what the stream is expected to produce from here on.
    fn revise(&mut self, number: Number, live: &mut Reservation, pace: u64, rules: &Rules<'_>) {
        let declared = live.stated.and_then(|stated| stated.max_generated_tokens);
        // By the published limit: a stream that was admitted produces what it produces, squeezed or not.
        let limit = self.generated_limit(rules);
        let course = self.course(live.generated, declared, pace, limit, rules);
        let duration = forecast::duration(course.total, pace);
        let hold = Hold::new(&course, live.admitted_at, self.now, duration);
        self.hold_alone(number, live, hold);
        live.micros_per_token = pace;
    }
}

/// The prompt that a settlement states or implies, total and uncached, and whether a stated cached count was cut to it.
fn final_prompt(counts: &SettleCounts, ticket: &Ticket) -> ([u64; 2], bool) {
    let admitted = ticket.reserved;
    let prompt = counts.prompt_tokens.unwrap_or(admitted.prompt);
    let cached = counts.cached_prompt_tokens.unwrap_or(admitted.prompt.saturating_sub(admitted.uncached_prompt));
    ([prompt, prompt.saturating_sub(cached)], counts.cached_prompt_tokens.is_some_and(|cached| cached > prompt))
}
