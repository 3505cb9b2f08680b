//! Calls on reservations that another sidecar admitted.
//!
//! The sidecar that admitted knows the hold and what was reported, so the call is carried to it: through a list in the store, its
//! mailbox, from which it takes letters as they come. One that is gone cannot be asked: its reservation is settled here, once in
//! the fleet, by a mark in the store that outlives the reservation's memory.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use redis::RedisResult;
use tidegate_core::decision::SettleOutcome;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::reservation::Ticket;
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Desk;
use super::link::Connection;
use super::reset::LawWrite;
use crate::durable::layout::encoded;
use crate::redis::{SIDECARS_KEY, letter_key, mailbox_key, named, settled_key, slot};
use crate::{Booked, EndError, Store};

/// How long a sidecar may take to take a letter, and then to answer it.
const ANSWER: Duration = Duration::from_millis(250);
/// How long a caller waits for all of it.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// A sidecar that has left a letter where it was is not written to for so long.
const SILENT: Duration = Duration::from_secs(1);
/// Most sidecars of which that is known.
const MOST_SILENT: usize = 1_000;
/// Calls that wait to be carried; one more is decided here.
pub(super) const MOST_ERRANDS: usize = 4_096;
/// Calls that are being carried.
pub(super) const MOST_CARRIED: usize = 1_024;
/// Letters in a mailbox; and how long one is kept that nobody takes.
const MOST_LETTERS: u64 = 10_000;
const LETTERS_KEPT_MS: i64 = 10_000;
/// How long one call for letters waits for the next one.
const AT_THE_MAILBOX_SECONDS: f64 = 0.5;

/// What is to be done with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Verb {
    /// The total that was generated.
    #[n(0)]
    Progress(#[n(0)] u64),
    /// Prompt, cached prompt and generated tokens.
    #[n(1)]
    Settle(#[n(0)] Option<u64>, #[n(1)] Option<u64>, #[n(2)] Option<u64>),
    #[n(2)]
    Release,
    /// Whether it is live; else it has ended. Changes nothing.
    #[n(3)]
    Look,
}

/// What came of it.
type Done = Result<Booked, EndError>;

/// What the clerk is sent for.
pub(super) enum Errand {
    /// A call that is to be carried.
    Call(Box<Call>),
    /// A law that is to be written.
    Law(Box<LawWrite>),
    /// A key of which all other sidecars are to drop the holds.
    DropHolds(LimitKey),
}

/// A call that is to be carried.
pub(super) struct Call {
    key: LimitKey,
    ticket: Ticket,
    id: String,
    verb: Verb,
    tell: oneshot::Sender<Where>,
}

/// Who books it.
pub(super) enum Where {
    /// Somebody has, or it needs none.
    There(Done),
    Here,
}

/// What sidecars write to each other.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Letter {
    #[n(0)]
    Call {
        #[n(0)]
        from: u64,
        #[n(1)]
        number: u64,
        #[n(2)]
        id: String,
        #[n(3)]
        verb: Verb,
    },
    #[n(1)]
    Answer {
        #[n(0)]
        number: u64,
        #[n(1)]
        told: Told,
    },
    #[n(2)]
    DropHolds {
        #[n(0)]
        account: String,
        #[n(1)]
        model: String,
        #[n(2)]
        variant: String,
    },
}

/// [`Done`], in a letter.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Told {
    #[n(0)]
    code: u8,
    #[n(1)]
    clamped: bool,
    #[n(2)]
    tokens: Tokens,
}

/// By their code.
const OUTCOMES: [SettleOutcome; 3] = [SettleOutcome::Applied, SettleOutcome::Late, SettleOutcome::Duplicate];
/// After those.
const FAILURES: [EndError; 4] = [EndError::Forged, EndError::Ended, EndError::NothingReserved, EndError::TooLate];

impl From<Done> for Told {
    fn from(done: Done) -> Self {
        let code = match &done {
            Ok(booked) => OUTCOMES.iter().position(|outcome| *outcome == booked.outcome),
            Err(error) => FAILURES.iter().position(|failure| failure == error).map(|at| OUTCOMES.len() + at),
        };
        let booked = done.unwrap_or(NOTHING);
        Self {
            code: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX),
            clamped: booked.clamped,
            tokens: booked.tokens,
        }
    }
}

impl Told {
    /// `None` where a later program says something that this one does not know.
    fn done(self) -> Option<Done> {
        let code = usize::from(self.code);
        match OUTCOMES.get(code) {
            Some(outcome) => Some(Ok(Booked { outcome: *outcome, clamped: self.clamped, tokens: self.tokens })),
            None => FAILURES.get(code - OUTCOMES.len()).map(|failure| Err(*failure)),
        }
    }
}

/// It had ended; nothing changed.
const NOTHING: Booked = Booked { outcome: SettleOutcome::Duplicate, clamped: false, tokens: Tokens::new(0, 0, 0) };
/// It was taken by the sidecar that admitted it, which has not answered since.
const TAKEN: Booked = Booked { outcome: SettleOutcome::Late, ..NOTHING };

/// What is on its way.
pub(super) struct Elsewhere {
    pub(super) errands: mpsc::Sender<Errand>,
    awaited: Mutex<HashMap<u64, oneshot::Sender<Done>>>,
    silent: Mutex<HashMap<u64, Timestamp>>,
}

impl Elsewhere {
    pub(super) fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (errands, waiting) = mpsc::channel(MOST_ERRANDS);
        (Self { errands, awaited: Mutex::default(), silent: Mutex::default() }, waiting)
    }

    fn is_silent(&self, now: Timestamp, sidecar: u64) -> bool {
        self.silent.lock().get(&sidecar).is_some_and(|until| now < *until)
    }

    fn on_silent(&self, now: Timestamp, sidecar: u64) {
        let mut silent = self.silent.lock();
        if silent.len() >= MOST_SILENT {
            silent.retain(|_, until| now < *until);
        }
        if silent.len() < MOST_SILENT {
            silent.insert(sidecar, now.after(SILENT));
        }
    }
}

/// An answer that somebody waits for.
struct Awaited<'a> {
    elsewhere: &'a Elsewhere,
    number: u64,
    told: oneshot::Receiver<Done>,
}

impl<'a> Awaited<'a> {
    fn new(elsewhere: &'a Elsewhere, number: u64) -> Self {
        let (tell, told) = oneshot::channel();
        elsewhere.awaited.lock().insert(number, tell);
        Self { elsewhere, number, told }
    }

    async fn wait(&mut self) -> Option<Done> {
        timeout(ANSWER, &mut self.told).await.ok()?.ok()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.elsewhere.awaited.lock().remove(&self.number);
    }
}

impl Desk {
    /// Has a call carried to the sidecar that admitted the reservation. `None`: it is to be booked here, because it was admitted
    /// here, or nobody else can be asked.
    pub(super) async fn elsewhere(&self, now: Timestamp, id: &str, verb: Verb) -> Option<Done> {
        let (key, ticket) = self.table.of_another(id)?;
        if now > ticket.good_until() {
            return None;
        }
        match self.carried((key, ticket), id, verb).await {
            Some(Where::There(done)) => Some(done),
            Some(Where::Here) | None => None,
        }
    }

    /// `None`: nobody knows who books it, as the store does not answer, or too many calls wait.
    pub(super) async fn carried(&self, (key, ticket): (LimitKey, Ticket), id: &str, verb: Verb) -> Option<Where> {
        if !self.status.answers() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let call = Call { key, ticket, id: id.to_owned(), verb, tell };
        self.elsewhere.errands.try_send(Errand::Call(Box::new(call))).ok()?;
        timeout(PATIENCE, told).await.ok()?.ok()
    }

    async fn book(&self, now: Timestamp, id: &str, verb: Verb) -> Done {
        match verb {
            Verb::Progress(generated) => self.table.report_progress(now, id, generated).await,
            Verb::Settle(prompt_tokens, cached_prompt_tokens, generated_tokens) => {
                let counts = SettleCounts { prompt_tokens, cached_prompt_tokens, generated_tokens };
                self.table.settle(now, id, counts).await
            }
            Verb::Release => self.table.release(now, id).await.map(|outcome| Booked { outcome, ..NOTHING }),
            Verb::Look => {
                if self.table.is_live(now, id) {
                    Ok(NOTHING)
                } else {
                    Err(EndError::Ended)
                }
            }
        }
    }

    /// Does what the clerk is sent for.
    pub(super) async fn run(&self, connection: Connection, errand: Errand) -> RedisResult<()> {
        match errand {
            Errand::Call(call) => self.carry(connection, *call).await,
            Errand::Law(write) => write.make(connection).await,
            Errand::DropHolds(key) => self.tell_all_to_drop(connection, key).await,
        }
    }

    /// Carries one call: to the sidecar that admitted, if it is there, else nowhere.
    async fn carry(&self, mut connection: Connection, call: Call) -> RedisResult<()> {
        let found = self.find(&mut connection, &call).await?;
        let counter = match &found {
            Where::There(_) => &self.counters.carried,
            Where::Here => &self.counters.taken_over,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // Whoever asked may have gone on.
        let _ = call.tell.send(found);
        Ok(())
    }

    async fn find(&self, connection: &mut Connection, call: &Call) -> RedisResult<Where> {
        let admitted_by = call.ticket.number.incarnation;
        let mark = settled_key(slot(call.key.as_ref()), call.ticket.number);
        let ended = match call.verb {
            Verb::Progress(_) | Verb::Look => Err(EndError::Ended),
            Verb::Settle(..) | Verb::Release => Ok(NOTHING),
        };
        if redis::cmd("EXISTS").arg(&mark).query_async(connection).await? {
            return Ok(Where::There(ended));
        }
        if !self.elsewhere.is_silent((self.now)(), admitted_by) {
            let seen: Option<f64> =
                redis::cmd("ZSCORE").arg(SIDECARS_KEY).arg(named(admitted_by)).query_async(connection).await?;
            if seen.is_some()
                && let Some(done) = self.ask(connection, admitted_by, call).await?
            {
                return Ok(Where::There(done));
            }
        }
        if let Verb::Settle(..) = call.verb {
            let lasts = call.ticket.good_until().since((self.now)());
            let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1);
            let mut take = redis::cmd("SET");
            take.arg(&mark).arg(named(self.table.incarnation)).arg("NX").arg("PX").arg(lasts_ms);
            let taken: Option<String> = take.query_async(connection).await?;
            if taken.is_none() {
                return Ok(Where::There(ended));
            }
        }
        Ok(Where::Here)
    }

    /// `None`: the letter was not taken, and never will be.
    async fn ask(&self, connection: &mut Connection, whom: u64, call: &Call) -> RedisResult<Option<Done>> {
        let number = getrandom::u64().map_err(|error| redis::RedisError::from(std::io::Error::other(error)))?;
        let mut answer = Awaited::new(&self.elsewhere, number);
        let (id, verb) = (call.id.clone(), call.verb);
        let letter = encoded(&Letter::Call { from: self.table.incarnation, number, id, verb });
        let waiting = post(connection, whom, &letter).await?;
        if waiting <= MOST_LETTERS
            && let Some(done) = answer.wait().await
        {
            return Ok(Some(done));
        }
        if claim(connection, number).await? {
            self.elsewhere.on_silent((self.now)(), whom);
            return Ok(None);
        }
        Ok(Some(answer.wait().await.unwrap_or(Ok(TAKEN))))
    }

    /// Takes letters out of the mailbox of this sidecar for as long as the connection lasts, which is for that alone: a call waits on it for the next letter.
    pub(super) async fn read_letters(&self, mut mail: Connection, mut connection: Connection) -> RedisResult<()> {
        loop {
            let read = self.read_letter(&mut mail, &mut connection).await;
            if read.is_err() && mail.is_cluster() {
                // Of a Cluster, the server that has the mailbox may be away alone.
                tokio::time::sleep(ANSWER).await;
                continue;
            }
            read?;
        }
    }

    async fn read_letter(&self, mail: &mut Connection, connection: &mut Connection) -> RedisResult<()> {
        let mut wait = redis::cmd("BLPOP");
        wait.arg(mailbox_key(self.table.incarnation)).arg(AT_THE_MAILBOX_SECONDS);
        let found: Option<(String, Vec<u8>)> = wait.query_async(mail).await?;
        // What cannot be read is a later program's.
        let letter = found.and_then(|(_, letter)| minicbor::decode(&letter).ok());
        match letter {
            None => {}
            Some(Letter::Answer { number, told }) => {
                let tell = self.elsewhere.awaited.lock().remove(&number);
                if let Some((tell, done)) = tell.zip(told.done()) {
                    // Whoever asked may have given up.
                    let _ = tell.send(done);
                }
            }
            Some(Letter::DropHolds { account, model, variant }) => {
                if let Ok(key) = KeyRef::new(&account, &model, &variant) {
                    self.drop_holds(key);
                }
            }
            Some(Letter::Call { from, number, id, verb }) => {
                if !claim(connection, number).await? {
                    // Who wrote it has given up.
                    return Ok(());
                }
                let done = self.book((self.now)(), &id, verb).await;
                if verb != Verb::Look {
                    let used = done.as_ref().map_or(NOTHING.tokens, |booked| booked.tokens);
                    self.on_booked(&id, &used).await;
                }
                let answer = encoded(&Letter::Answer { number, told: done.into() });
                post(connection, from, &answer).await?;
            }
        }
        Ok(())
    }
}

/// Puts a letter into a mailbox; how many are in it then.
pub(super) async fn post(connection: &mut Connection, whose: u64, letter: &[u8]) -> RedisResult<u64> {
    let mailbox = mailbox_key(whose);
    let mut both = redis::pipe();
    both.atomic().rpush(&mailbox, letter).pexpire(&mailbox, LETTERS_KEPT_MS).ignore();
    let (waiting,): (u64,) = both.query_async(connection).await?;
    Ok(waiting)
}

/// Whether this sidecar is the first to claim a letter: it acts on it, or it has written it and goes on without an answer. To be
/// given a letter is not to have read it: a process may stand still in between.
async fn claim(connection: &mut Connection, number: u64) -> RedisResult<bool> {
    let mut claim = redis::cmd("SET");
    claim.arg(letter_key(number)).arg("").arg("NX").arg("PX").arg(2 * LETTERS_KEPT_MS);
    let claimed: Option<String> = claim.query_async(connection).await?;
    Ok(claimed.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_as_it_is() {
        let booked = |outcome| Booked { outcome, clamped: true, tokens: Tokens::new(1, 2, 3) };
        let done = OUTCOMES.map(|outcome| Ok(booked(outcome))).into_iter().chain(FAILURES.map(Err));
        for done in done {
            let letter = Letter::Answer { number: 7, told: done.into() };
            let read: Letter = minicbor::decode(&encoded(&letter)).expect("a letter");
            assert_eq!(read, letter);
            let Letter::Answer { told, .. } = read else { unreachable!("it is an answer") };
            assert_eq!(told.done(), Some(done));
        }
        assert_eq!(Told { code: 99, clamped: false, tokens: Tokens::default() }.done(), None);
    }
}
