//! One run: a workload against a policy, in virtual time, with the truth booked beside it.
//!
//! Keys know nothing of each other but what their model's prior says, and that only until they have settled some requests of
//! their own; or how busy their deployment is, where it reports. So keys that stand alone are played on all threads, a stretch
//! of the trace at a time; what their models learn from it is sorted by time, and the other keys follow one by one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use tidegate_core::forecast::{ForecastDefaults, Sample};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use crate::busy::Capacity;
use crate::policy::{KeyRules, Policy, Surroundings};
use crate::workload::Workload;

mod models;
mod outcome;
mod player;

use models::Models;
pub use outcome::{KeyOutcome, LimitCourse, Outcome, Record};
use player::{Moment, Player, Step, What};

/// When simulated time begins: not at the epoch, so that a minute before the first request exists.
const START: Timestamp = Timestamp::from_seconds(1_000_000);

/// Requests of a stretch: few enough that their rows stay in the processor's cache for one key after the other.
const STRETCH: usize = 32_768;

/// What a run keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What was decided.
    Decisions,
    /// And what the windows truly held: what overshoot and goodput are read from.
    Truth,
    /// And that second by second, for plots.
    Course,
}

/// How the gateway and the limiter of a run are set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// One for each key of the workload.
    pub rules: &'a [KeyRules],
    /// The forecast's settings.
    pub forecast: &'a ForecastDefaults,
    /// How often the gateway reports the output of a live stream; `None`: only at its end.
    pub progress_every: Option<Duration>,
    /// Whether a request states how much of its prompt is cached; else only its settlement does.
    pub cache_known: bool,
    /// What the deployment of each model can do, and that it reports how busy it is each second; `None`: nobody reports.
    pub capacity: Option<&'a Capacity>,
    /// What to keep beside the answer.
    pub keep: Keep,
    /// On how many threads; what comes of the run does not depend on it.
    pub threads: NonZeroUsize,
}

/// Plays the whole workload, of less than 2^32 requests. `on_requests` is called with the number of requests that came since
/// its last call, for progress bars.
#[must_use]
pub fn run(workload: &Workload, policy: Policy, setup: &Setup<'_>, on_requests: &(dyn Fn(u64) + Sync)) -> Outcome {
    let (own, spans) = std::thread::scope(|scope| {
        let spans = scope.spawn(|| workload.spans());
        (workload.by_key(), spans.join().expect("spans are looked up without a panic"))
    });
    let players = own.iter().zip(&spans).enumerate().map(|(key, (own, span))| {
        // A key of which every request was thinned out.
        (!own.is_empty()).then(|| Player::new(workload, key, own, span, policy, setup))
    });
    let mut stage = Stage { players: players.collect(), models: Models::new(workload, setup), setup };
    for stretch in workload.requests.chunks(STRETCH).scan(0, |end, stretch| {
        *end += stretch.len();
        Some(*end)
    }) {
        let last = stretch - 1;
        // Just after the last request: what is due later belongs to the next stretch, or to nobody.
        let request = u32::try_from(last).expect("fewer than 2^32 requests") + 1;
        let until = Moment { at_ms: workload.requests[last].at_ms, what: What::Request, request };
        let lessons = stage.play_alone(until, on_requests);
        stage.play_together(until, lessons, on_requests);
    }
    stage.finish()
}

/// Everybody in a run.
struct Stage<'a> {
    players: Vec<Option<Player<'a>>>,
    models: Models<'a>,
    setup: &'a Setup<'a>,
}

impl Stage<'_> {
    /// Plays the keys that stand alone. Answers what their models learn, in the order of time, and the key that taught it.
    fn play_alone(&mut self, until: Moment, on_requests: &(dyn Fn(u64) + Sync)) -> Vec<(Moment, usize, Sample)> {
        let around = Surroundings { prior: self.models.defaults(), pressure: PerWindow::default() };
        // Once every key stands alone, nobody asks the models anything.
        let mut others = self.players.iter().flatten().filter(|player| !player.stands_alone());
        let asked = others.any(|player| player.next().is_some());
        let alone = self.players.iter_mut().enumerate();
        let alone =
            alone.filter_map(|(key, player)| Some((key, player.as_mut().filter(|player| player.stands_alone())?)));
        let next = Mutex::new(alone);
        let lessons = Mutex::new(Vec::new());
        let work = || {
            let mut learned = Vec::new();
            loop {
                let Some((key, player)) = next.lock().expect("nobody panics with the lock").next() else { break };
                let come = player.come();
                player.play(until, &around, |moment, sample| {
                    if asked {
                        learned.push((moment, key, sample));
                    }
                });
                on_requests(player.come() - come);
            }
            lessons.lock().expect("nobody panics with the lock").extend(learned);
        };
        std::thread::scope(|scope| {
            for _ in 1..self.setup.threads.get() {
                scope.spawn(work);
            }
            work();
        });
        let mut lessons = lessons.into_inner().expect("nobody panics with the lock");
        lessons.sort_unstable_by_key(|(moment, ..)| *moment);
        lessons
    }

    /// Plays the keys that need their model, whose other keys teach it these lessons meanwhile.
    fn play_together(
        &mut self,
        until: Moment,
        lessons: Vec<(Moment, usize, Sample)>,
        on_requests: &(dyn Fn(u64) + Sync),
    ) {
        let mut lessons = lessons.into_iter().peekable();
        let due = |(key, player): (usize, &Option<Player<'_>>)| {
            let moment = player.as_ref()?.next().filter(|moment| *moment < until)?;
            Some(Reverse((moment, key)))
        };
        let mut agenda: BinaryHeap<_> = self.players.iter().enumerate().filter_map(due).collect();
        let mut come = 0;
        while let Some(Reverse((moment, key))) = agenda.pop() {
            while let Some((_, key, sample)) = lessons.next_if(|(earlier, ..)| *earlier < moment) {
                self.models.learn(key, &sample);
            }
            self.models.end_seconds(moment);
            let Some(player) = &mut self.players[key] else { continue };
            match player.step(moment, &self.models.around(key, moment.at_ms)) {
                Step::Ended(Some(sample)) => self.models.learn(key, &sample),
                Step::Admitted(request) => self.models.on_decision(key, moment.at_ms, player.used(), Some(&request)),
                Step::Refused => self.models.on_decision(key, moment.at_ms, player.used(), None),
                Step::Ended(None) | Step::Reported => {}
            }
            come += u64::from(moment.what == What::Request);
            agenda.extend(due((key, &self.players[key])));
        }
        on_requests(come);
        for (_, key, sample) in lessons {
            self.models.learn(key, &sample);
        }
    }

    fn finish(self) -> Outcome {
        let keys = self.players.into_iter().map(|player| player.map(Player::finish).unwrap_or_default());
        let mut outcome = Outcome { keys: keys.collect(), served: self.models.finish(), ..Outcome::default() };
        for key in &outcome.keys {
            outcome.requests += key.requests;
            outcome.admitted += key.admitted;
            add(&mut outcome.tokens, key.tokens);
            add(&mut outcome.tokens_denied, key.tokens_denied);
        }
        outcome
    }
}

fn at(ms: u64) -> Timestamp {
    START.after(Duration::from_millis(ms))
}

fn add(sum: &mut Tokens, tokens: Tokens) {
    *sum = PerWindow::from_fn(|window| sum[window].saturating_add(tokens[window]));
}

#[cfg(test)]
mod tests;
