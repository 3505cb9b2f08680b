//! The decision ledger: were all the answers within the limits that they state themselves?
//!
//! It stands outside the server and knows nothing but the answers: it books what each ALLOW says was reserved, replaces
//! that by what the applied reports and settlements say, and checks every ALLOW against the effective limit in that very
//! answer (contract C1). None of the server's counters is read.
//!
//! - `prompt` and `uncached_prompt`: what is charged in the trailing 60 s plus the ask is at most the limit.
//! - `generated`: what was reported, each report spread evenly from the one before it (the admission, if none) to its
//!   arrival (C3), plus the ask is at most the limit. What the holds are expected to produce cannot be seen from outside;
//!   that is checked in-process, with the core as the model.
//!
//! Someone outside knows a call only to have taken effect between its send and its receipt, so an excess counts only when
//! no placement inside these intervals explains it. Checking each decision alone, with every overlapping call placed
//! after it, would be sound too, but blind: of N concurrent calls each could have been first. Instead, of the ALLOWs
//! answered by an instant, whichever was *last* has seen all the others; their sum must fit the limit of one that can have
//! been last. Charges are placed at their send (they leave the window soonest), the window's end at a receipt, corrections
//! that may or may not have been seen at the smaller value. On a test clock the instants are exact, and so is the check.
//!
//! It also finds answers that contradict each other: two settlements of one reservation that both took effect, a release
//! that took effect after a settlement, an ALLOW that reserved less than was stated, a limit outside its bounds.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A window's length in microseconds.
const WINDOW: u64 = 60_000_000;

/// The names of the windows, in the order of [`Tokens`].
pub const WINDOWS: [&str; 3] = ["prompt", "uncached_prompt", "generated"];

/// One number per window: prompt, uncached prompt, generated.
pub type Tokens = [u64; 3];

/// A point in time; `order` tells calls at the same microsecond apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    micros: u64,
    order: u64,
}

/// When a call took effect, as far as somebody outside can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    earliest: Moment,
    latest: Moment,
}

impl When {
    /// Somewhere between sending the call and having its answer, in microseconds of one steady clock.
    #[must_use]
    pub fn between(sent: u64, received: u64) -> Self {
        Self {
            earliest: Moment { micros: sent, order: 0 },
            latest: Moment { micros: received.max(sent), order: u64::MAX },
        }
    }

    /// At exactly this microsecond, as the `order`-th call of its ledger: for calls made one after the other on a test clock.
    #[must_use]
    pub fn exactly(micros: u64, order: u64) -> Self {
        let moment = Moment { micros, order };
        Self { earliest: moment, latest: moment }
    }

    fn certainly_before(self, other: Moment) -> bool {
        self.latest <= other
    }
}

/// Whose tokens: account, model, variant.
pub type Key = (String, String, String);

/// An ALLOW, as the answer states it.
#[derive(Clone, Debug)]
pub struct Allow {
    /// Account, model, variant.
    pub key: Key,
    /// The answer's reservation id.
    pub reservation: String,
    /// When it was decided.
    pub when: When,
    /// `prompt_tokens` of the request.
    pub prompt: u64,
    /// `cached_prompt_tokens` of the request.
    pub cached: Option<u64>,
    /// `max_generated_tokens` of the request.
    pub max_generated: Option<u64>,
    /// The answer's `reserved`.
    pub reserved: Tokens,
    /// The answer's `replayed`.
    pub replayed: bool,
    /// The answer's windows.
    pub limits: [Limits; 3],
}

/// One window's limits in an answer, TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `floor_tpm`
    pub floor: u64,
    /// `effective_limit_tpm`
    pub effective: u64,
    /// `limit_tpm`
    pub limit: u64,
    /// `ceiling_tpm`
    pub ceiling: u64,
}

/// How a settlement, release or report was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// It took effect although the reservation had ended.
    Late,
    /// It changed nothing.
    Duplicate,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An ALLOW above the limit that it states.
    OverLimit {
        /// Which window.
        window: &'static str,
        /// The last of the reservations that cannot all fit.
        reservation: String,
        /// The instant at which all of them had been answered, microseconds.
        micros: u64,
        /// What was charged, the ask included; the least that the answers permit.
        charged: u64,
        /// The effective limit; the largest of those that can have been in force.
        limit: u64,
    },
    /// Answers that contradict each other or the request.
    Contradiction {
        /// Which reservation.
        reservation: String,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverLimit { window, reservation, micros, charged, limit } => write!(
                f,
                "{window} at {micros} us: {charged} tokens charged with the ask of {}, limit {limit}",
                &reservation[..reservation.len().min(24)]
            ),
            Self::Contradiction { reservation, what } => {
                write!(f, "{}: {what}", &reservation[..reservation.len().min(24)])
            }
        }
    }
}

/// What is charged in the prompt windows from a moment on.
#[derive(Clone, Copy, Debug)]
struct Correction {
    when: When,
    charged: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Settled,
    Released,
}

#[derive(Debug)]
struct Booking {
    allow: Allow,
    corrections: Vec<Correction>,
    /// Totals reported, by progress and settlement.
    reports: Vec<(When, u64)>,
    /// The settlement's final total, where it states one.
    settled_generated: Option<(When, u64)>,
    ended: Option<Ended>,
}

impl Booking {
    /// The least that can be charged in a prompt window for this booking at a moment of `[from, until]`.
    fn least_charged(&self, window: usize, from: Moment, until: Moment) -> u64 {
        let certain = self.corrections.iter().rposition(|correction| correction.when.certainly_before(from));
        let start = certain.map_or(self.allow.reserved[window], |index| self.corrections[index].charged[window]);
        self.corrections
            .iter()
            .skip(certain.map_or(0, |index| index + 1))
            .filter(|correction| correction.when.earliest <= until)
            .map(|correction| correction.charged[window])
            .fold(start, u64::min)
    }

    /// The generated tokens of this booking as pieces of time, in the order in which they were counted.
    fn pieces(&self) -> Vec<Piece> {
        let mut reports = self.reports.clone();
        reports.sort_by_key(|(when, total)| (*total, when.earliest));
        let (mut from, mut known) = (self.allow.when, 0);
        let mut pieces = Vec::new();
        for (to, total) in reports {
            if total > known {
                let kept = self.settled_generated.map_or(total, |(_, settled)| settled.clamp(known, total));
                let settled_from = self.settled_generated.map(|(when, _)| when.earliest);
                pieces.push(Piece { from, to, tokens: total - known, kept: kept - known, settled_from });
                (from, known) = (to, total);
            }
        }
        pieces
    }
}

/// Generated tokens of one report: produced evenly from `from` to `to`.
#[derive(Debug)]
struct Piece {
    from: When,
    to: When,
    tokens: u64,
    /// What the settlement left of them, from its send on.
    kept: u64,
    settled_from: Option<Moment>,
}

impl Piece {
    /// The least of this piece that lies in the window that ends with a decision at `when`.
    fn least_in_window(&self, when: When) -> u64 {
        if !self.to.certainly_before(when.earliest) {
            return 0;
        }
        let tokens =
            if self.settled_from.is_some_and(|settled| settled <= when.latest) { self.kept } else { self.tokens };
        let (from, to) = (self.from.earliest.micros, self.to.earliest.micros);
        let Some(edge) = when.latest.micros.checked_sub(WINDOW) else { return tokens };
        if to <= edge {
            return 0;
        }
        if from >= edge || from >= to {
            return tokens;
        }
        let share = u128::from(tokens) * u128::from(to - edge) / u128::from(to - from);
        u64::try_from(share).expect("a share of the tokens is at most the tokens")
    }
}

/// Books decisions and judges them; see the module's text.
#[derive(Debug, Default)]
pub struct DecisionLedger {
    bookings: BTreeMap<Key, Vec<Booking>>,
    by_reservation: HashMap<String, (Key, usize)>,
    contradictions: Vec<Violation>,
}

/// What the ledger found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Every violation; a correct server has none.
    pub violations: Vec<Violation>,
    /// How many ALLOWs were checked.
    pub allows: usize,
    /// The fullest that each window was at an ALLOW, permille of its limit: a check that saw nothing full proves nothing.
    pub fullest_permille: [u64; 3],
}

impl Verdict {
    /// Panics with every violation unless there is none.
    #[track_caller]
    pub fn assert_clean(&self) {
        let shown: Vec<String> = self.violations.iter().take(20).map(ToString::to_string).collect();
        assert!(
            self.violations.is_empty(),
            "{} violations in {} ALLOWs:\n{}",
            self.violations.len(),
            self.allows,
            shown.join("\n")
        );
    }
}

impl DecisionLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn contradiction(&mut self, reservation: &str, what: impl Into<String>) {
        self.contradictions.push(Violation::Contradiction { reservation: reservation.into(), what: what.into() });
    }

    fn booking(&mut self, reservation: &str) -> Option<&mut Booking> {
        let (key, index) = self.by_reservation.get(reservation)?;
        self.bookings.get_mut(key)?.get_mut(*index)
    }

    /// Books an ALLOW. A replayed one is booked only if the first answer never arrived.
    pub fn allow(&mut self, allow: Allow) {
        let id = allow.reservation.clone();
        if let Some(known) = self.booking(&id) {
            let same = known.allow.key == allow.key && known.allow.reserved == allow.reserved;
            if !allow.replayed {
                self.contradiction(&id, "one reservation id was given to two ALLOWs");
            } else if !same {
                self.contradiction(&id, "a replayed ALLOW differs from the first");
            }
            return;
        }
        if allow.reserved[0] != allow.prompt {
            let what = format!("{} prompt tokens asked, {} reserved", allow.prompt, allow.reserved[0]);
            self.contradiction(&id, what);
        }
        if let Some(cached) = allow.cached
            && allow.reserved[1] != allow.prompt - cached
        {
            let what =
                format!("{} uncached prompt tokens asked, {} reserved", allow.prompt - cached, allow.reserved[1]);
            self.contradiction(&id, what);
        }
        if allow.max_generated.is_some_and(|most| allow.reserved[2] > most) {
            self.contradiction(&id, format!("held {} of {:?} generated", allow.reserved[2], allow.max_generated));
        }
        for (window, limits) in WINDOWS.iter().zip(allow.limits) {
            let Limits { floor, effective, limit, ceiling } = limits;
            if !(floor <= effective && effective <= limit && limit <= ceiling) {
                self.contradiction(&id, format!("{window}: not floor <= effective <= limit <= ceiling: {limits:?}"));
            }
        }
        let bookings = self.bookings.entry(allow.key.clone()).or_default();
        self.by_reservation.insert(id, (allow.key.clone(), bookings.len()));
        bookings.push(Booking {
            allow,
            corrections: Vec::new(),
            reports: Vec::new(),
            settled_generated: None,
            ended: None,
        });
    }

    /// Books a progress report and its answer. Reservations whose ALLOW was never seen are passed over.
    pub fn progress(&mut self, reservation: &str, when: When, generated: u64, outcome: Outcome) {
        if outcome == Outcome::Duplicate {
            return;
        }
        if let Some(booking) = self.booking(reservation) {
            booking.reports.push((when, generated));
        }
    }

    /// Books a settlement and its answer; `None` is as admitted (prompt), as last reported (generated).
    pub fn settle(
        &mut self,
        reservation: &str,
        when: When,
        prompt: Option<u64>,
        cached: Option<u64>,
        generated: Option<u64>,
        outcome: Outcome,
    ) {
        if outcome == Outcome::Duplicate {
            return;
        }
        let Some(booking) = self.booking(reservation) else { return };
        let before = booking.ended.replace(Ended::Settled);
        let [reserved_prompt, reserved_uncached, _] = booking.allow.reserved;
        let prompt = prompt.unwrap_or(reserved_prompt);
        let cached = cached.unwrap_or(reserved_prompt.saturating_sub(reserved_uncached));
        booking.corrections.push(Correction { when, charged: [prompt, prompt.saturating_sub(cached)] });
        if let Some(generated) = generated {
            booking.reports.push((when, generated));
        }
        booking.settled_generated = generated.map(|generated| (when, generated));
        match (before, outcome) {
            (Some(Ended::Settled), _) => self.contradiction(reservation, "settled twice, and both took effect"),
            (Some(Ended::Released), Outcome::Applied) => {
                self.contradiction(reservation, "released, then settled as if it had not been");
            }
            _ => {}
        }
    }

    /// Books a release and its answer.
    pub fn release(&mut self, reservation: &str, when: When, outcome: Outcome) {
        if outcome == Outcome::Duplicate {
            return;
        }
        let Some(booking) = self.booking(reservation) else { return };
        if let Some(before) = booking.ended {
            let what = if before == Ended::Settled { "released after it was settled" } else { "released twice" };
            self.contradiction(reservation, format!("{what}, and it took effect"));
            return;
        }
        booking.ended = Some(Ended::Released);
        booking.corrections.push(Correction { when, charged: [0, 0] });
        // Whether tokens reported before a release count is the server's to say; the ledger takes the smaller value.
        booking.settled_generated = Some((when, 0));
    }

    /// Judges everything booked so far.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { violations: self.contradictions.clone(), ..Verdict::default() };
        for bookings in self.bookings.values() {
            verdict.allows += bookings.len();
            judge_prompt(bookings, &mut verdict);
            judge_generated(bookings, &mut verdict);
        }
        verdict
    }
}

fn note(verdict: &mut Verdict, window: usize, booking: &Booking, charged: u64, limit: u64) {
    let permille = u128::from(charged) * 1000 / u128::from(limit.max(1));
    let permille = u64::try_from(permille).unwrap_or(u64::MAX);
    verdict.fullest_permille[window] = verdict.fullest_permille[window].max(permille);
    if charged > limit {
        verdict.violations.push(Violation::OverLimit {
            window: WINDOWS[window],
            reservation: booking.allow.reservation.clone(),
            micros: booking.allow.when.latest.micros,
            charged,
            limit,
        });
    }
}

fn judge_prompt(bookings: &[Booking], verdict: &mut Verdict) {
    let mut by_receipt: Vec<&Booking> = bookings.iter().collect();
    by_receipt.sort_by_key(|booking| booking.allow.when.latest);
    for (index, booking) in by_receipt.iter().enumerate() {
        let until = booking.allow.when.latest;
        let in_window = |micros: u64| micros + WINDOW > until.micros;
        let together: Vec<&Booking> = by_receipt[..=index]
            .iter()
            .rev()
            .take_while(|other| in_window(other.allow.when.latest.micros))
            .filter(|other| in_window(other.allow.when.earliest.micros))
            .copied()
            .collect();
        // The last of them was decided at or after the latest send, by one whose answer came no earlier than that.
        let Some(from) = together.iter().map(|other| other.allow.when.earliest).max() else { continue };
        for window in 0..2 {
            let charged = together.iter().map(|other| other.least_charged(window, from, until)).sum();
            let limit = together
                .iter()
                .filter(|other| other.allow.when.latest >= from)
                .map(|other| other.allow.limits[window].effective)
                .max();
            note(verdict, window, booking, charged, limit.unwrap_or(u64::MAX));
        }
    }
}

fn judge_generated(bookings: &[Booking], verdict: &mut Verdict) {
    let mut pieces: Vec<Piece> = bookings.iter().flat_map(Booking::pieces).collect();
    pieces.sort_by_key(|piece| piece.to.earliest);
    for booking in bookings {
        let when = booking.allow.when;
        let left = pieces.partition_point(|piece| piece.to.earliest.micros + WINDOW <= when.latest.micros);
        let reported: u64 = pieces[left..]
            .iter()
            .take_while(|piece| piece.to.earliest <= when.latest)
            .map(|piece| piece.least_in_window(when))
            .sum();
        note(verdict, 2, booking, reported + booking.allow.reserved[2], booking.allow.limits[2].effective);
    }
}

#[cfg(test)]
mod tests;
