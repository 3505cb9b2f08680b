//! Plays a trace: makes each call when it is due, and plans what follows from its answer.
//!
//! In real time, a bounded number of calls is in flight; while there are more due, the replay falls behind, and says so. On
//! the server's test clock time does not pass by itself: the calls are made one after the other in the order of the trace,
//! so that a replay is a pure function of trace and server.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tidegate_proto::v1::Decision;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::agenda::{Agenda, Call, Step};
use super::caller::{Answered, Caller, Reply};
use super::decision_log::DecisionLog;
use super::tally::Tally;
use crate::failure::Failure;
use tidegate_sim::trace::{TraceError, TraceRow};

/// After so many failed calls in a row the server counts as gone.
const MAX_ERRORS_IN_A_ROW: u64 = 100;

/// How long an interrupted replay takes at most to settle what is under way.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How fast the trace's time passes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many seconds of the trace in each second.
    Real {
        /// Finite and above 0.
        speed: f64,
    },
    /// As fast as one call after the other can be answered.
    TestClock,
}

/// A replay under way.
pub(super) struct Player<Rows> {
    pub(super) agenda: Agenda<Rows>,
    pub(super) caller: Arc<Caller>,
    pub(super) pace: Pace,
    pub(super) max_in_flight: usize,
    pub(super) log: Option<DecisionLog>,
    pub(super) bar: ProgressBar,
}

/// What a replay came to.
#[derive(Default)]
pub(super) struct Played {
    /// What the answers said.
    pub(super) tally: Tally,
    /// Time of the trace when it ended, milliseconds.
    pub(super) trace_ms: u64,
    /// Real time it took.
    pub(super) elapsed: Duration,
    /// By how much a call was made later than it was due, at most.
    pub(super) behind: Duration,
    /// Why it ended early.
    pub(super) ended_early: Option<&'static str>,
}

impl<Rows: Iterator<Item = Result<TraceRow, TraceError>>> Player<Rows> {
    /// Plays to the end of the trace, to Ctrl-C, or until the server is gone.
    pub(super) async fn play(mut self) -> Result<Played, Failure> {
        let no_signals = |error| Failure::Failed(format!("cannot listen for Ctrl-C: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let mut played = Played::default();
        let mut calls = JoinSet::new();

        while played.ended_early.is_none() {
            self.start_due(&mut calls, &mut played)?;
            let wait = self.wait(calls.len());
            if wait.is_none() && calls.is_empty() {
                break;
            }
            tokio::select! {
                Some(answered) = calls.join_next() => self.on_answer(answered, &mut played)?,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                _ = interrupt.recv() => played.ended_early = Some("interrupted"),
            }
            if played.tally.errors_in_a_row >= MAX_ERRORS_IN_A_ROW {
                played.ended_early = Some("the server is gone");
            }
        }

        if played.ended_early == Some("interrupted") {
            self.bar.set_message("settling what is under way");
            let settling = self.settle_all(&mut calls, &mut played, &mut interrupt);
            tokio::time::timeout(END_WITHIN, settling).await.unwrap_or(Ok(()))?;
        }
        played.elapsed = self.caller.elapsed();
        self.bar.finish_and_clear();
        self.log.map_or(Ok(()), DecisionLog::finish)?;
        Ok(played)
    }

    /// Starts every call that is due, as far as calls may be in flight.
    fn start_due(&mut self, calls: &mut JoinSet<Answered>, played: &mut Played) -> Result<(), Failure> {
        while self.wait(calls.len()) == Some(Duration::ZERO) {
            let read = self.agenda.pop().map_err(|error| Failure::Failed(error.to_string()))?;
            let Some(call) = read else { return Ok(()) };
            played.trace_ms = played.trace_ms.max(call.due_ms);
            if let Pace::Real { speed } = self.pace {
                played.behind = played.behind.max(self.caller.elapsed().saturating_sub(real_time(call.due_ms, speed)));
            }
            self.start(calls, call);
        }
        Ok(())
    }

    fn start(&self, calls: &mut JoinSet<Answered>, call: Call) {
        let caller = Arc::clone(&self.caller);
        calls.spawn(async move { caller.make(call).await });
    }

    /// How long until the next call may be made; `None`: not before another one is answered.
    fn wait(&self, in_flight: usize) -> Option<Duration> {
        let due_ms = self.agenda.next_due_ms().filter(|_| in_flight < self.max_in_flight)?;
        match self.pace {
            Pace::Real { speed } => Some(real_time(due_ms, speed).saturating_sub(self.caller.elapsed())),
            Pace::TestClock => Some(Duration::ZERO),
        }
    }

    fn on_answer(
        &mut self,
        answered: Result<Answered, tokio::task::JoinError>,
        played: &mut Played,
    ) -> Result<(), Failure> {
        let mut answered = answered.map_err(|error| Failure::Failed(format!("a call broke: {error}")))?;
        if let Ok(Reply::Reserved(answer)) = &answered.reply {
            answered.call.stream.reservation = played.tally.decided(Decision::Allow);
            answered.call.stream.reservation_id.clone_from(&answer.reservation_id);
        }
        played.tally.on_answer(&answered);
        if let Some(log) = &mut self.log {
            log.on_answer(&self.caller, &answered)?;
        }
        if answered.call.step == Step::Reserve {
            self.bar.inc(1);
        }

        let under_way = !answered.call.stream.reservation_id.is_empty();
        if under_way && !matches!(answered.call.step, Step::Settle { .. }) {
            match played.ended_early {
                None => self.agenda.plan_after(answered.call),
                Some(_) => self.agenda.plan_end(played.trace_ms, answered.call.stream),
            }
        }
        Ok(())
    }

    /// After an interruption: settles everything under way with what it has generated so far. A second Ctrl-C gives up.
    async fn settle_all(
        &mut self,
        calls: &mut JoinSet<Answered>,
        played: &mut Played,
        interrupt: &mut Signal,
    ) -> Result<(), Failure> {
        if let Pace::Real { speed } = self.pace {
            played.trace_ms = played.trace_ms.max(trace_time_ms(self.caller.elapsed(), speed));
        }
        self.agenda.end(played.trace_ms);
        loop {
            while calls.len() < self.max_in_flight
                && let Some(call) = self.agenda.pop().map_err(|error| Failure::Failed(error.to_string()))?
            {
                self.start(calls, call);
            }
            tokio::select! {
                answered = calls.join_next() => match answered {
                    Some(answered) => self.on_answer(answered, played)?,
                    None => return Ok(()),
                },
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }
}

/// When a time of the trace is due, in real time since the start.
fn real_time(trace_ms: u64, speed: f64) -> Duration {
    // 2^53 ms are 285,000 years: nothing is lost. A quotient beyond all bounds is never due.
    Duration::try_from_secs_f64(trace_ms as f64 / 1_000.0 / speed).unwrap_or(Duration::MAX)
}

/// Which time of the trace it is, so long after the start.
fn trace_time_ms(elapsed: Duration, speed: f64) -> u64 {
    let ms = Duration::try_from_secs_f64(elapsed.as_secs_f64() * speed).unwrap_or(Duration::MAX).as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}
