//! Reports: each policy on one trace, measured against the oracle.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::window::{Tokens, Window};

use crate::policy::{KeyRules, Policy};
use crate::run::{Keep, LimitCourse, Outcome, Setup, run};
use crate::truth::Truth;
use crate::workload::Workload;

/// Where false denials are counted, the fullest minute of each window is this share of its limit.
const FULLEST_PERMILLE: u64 = 900;

/// Whether limits stay at their floors or move by the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limits {
    /// The limit is the floor.
    Static,
    /// The law moves it.
    Adaptive,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Study<'a> {
    /// Whether limits move.
    pub limits: Limits,
    /// Floors, ceilings and laws, one for each key of the workload.
    pub rules: &'a [KeyRules],
    /// Which policies, in the order of the report. Only [`Policy::Forecast`] has limits that move.
    pub policies: &'a [Policy],
    /// The forecast's settings.
    pub forecast: &'a ForecastDefaults,
    /// How often gateways report progress; `None`: never.
    pub progress_every: Option<Duration>,
    /// Whether a request states its cached count; else only its settlement does.
    pub cache_known: bool,
    /// Whether to keep what plots need.
    pub record: bool,
}

/// All policies on one trace.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The trace's file name.
    pub trace: String,
    /// Whether limits moved.
    pub limits: Limits,
    /// Demand: how often each request was repeated.
    pub scale: f64,
    /// In the order asked for.
    pub policies: Vec<PolicyReport>,
}

/// One policy on one trace. What cannot be said is null: goodput and overshoot are of limits that stay.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyReport {
    /// Its name.
    pub policy: &'static str,
    /// Requests of the trace.
    pub requests: u64,
    /// Of these, admitted.
    pub admitted: u64,
    /// And refused.
    pub denied: u64,
    /// Tokens in the window, up to the limit, summed over seconds, in the window that the oracle fills most; share of the
    /// oracle's.
    pub goodput: Option<f64>,
    /// The share of the limit by which 99 % of a key's seconds do not exceed it; the worst key and window.
    pub overshoot_p99: Option<f64>,
    /// The most by which the limit was exceeded at any second; share of the limit.
    pub overshoot_max: Option<f64>,
    /// The same in a key's first 180 s, which the other two leave out.
    pub overshoot_first: Option<f64>,
    /// Share of requests refused where the limits are so high that the fullest minute is 90 % of them.
    pub false_denials: Option<f64>,
    /// In the order of [`Window::ALL`].
    pub windows: Vec<WindowReport>,
    /// What plots show, one for each key; not part of the JSON.
    #[serde(skip)]
    pub outcome: Outcome,
}

/// One window under one policy, all keys together.
#[derive(Clone, Debug, Serialize)]
pub struct WindowReport {
    /// `prompt`, `uncached_prompt` or `generated`.
    pub window: &'static str,
    /// Tokens of the admitted requests.
    pub tokens_admitted: u64,
    /// Tokens of the refused requests.
    pub tokens_denied: u64,
    /// TPM at the first decision of the key that asked for most; so the next two.
    pub limit_first: u64,
    /// TPM at its last decision.
    pub limit_last: u64,
    /// Its highest TPM.
    pub limit_peak: u64,
    /// As above, of this window alone.
    pub overshoot_p99: Option<f64>,
    /// As above, of this window alone.
    pub overshoot_max: Option<f64>,
}

/// One run of a study.
#[derive(Clone, Copy)]
struct Job {
    policy: Policy,
    /// Under limits that the demand fills to 90 %.
    roomy: bool,
}

impl Study<'_> {
    /// Runs every policy, and whatever they are measured against, on up to `threads` threads; the result does not depend on
    /// their number. `on_requests` is called with the number of requests that were played since its last call.
    #[must_use]
    pub fn report(
        &self,
        trace: &str,
        scale_permille: u64,
        workload: &Workload,
        threads: NonZeroUsize,
        on_requests: &(dyn Fn(u64) + Sync),
    ) -> Report {
        let jobs = self.jobs();
        let roomy = if jobs.iter().any(|job| job.roomy) { roomy_rules(workload) } else { Vec::new() };
        let mut outcomes = self.run_all(workload, &jobs, &roomy, threads, on_requests);
        let place = |policy, roomy| jobs.iter().position(|job| job.policy == policy && job.roomy == roomy);
        let oracle = place(Policy::Oracle, false).and_then(|index| outcomes[index].as_ref());
        // The window that goodput is measured in, and how full the oracle keeps it.
        let measure = oracle.map(|oracle| {
            let window = fullest_window(oracle, self.rules);
            (window, filled(oracle, window))
        });
        let false_denials = |outcomes: &[Option<Outcome>], policy| {
            let roomy = outcomes[place(policy, true)?].as_ref()?;
            Some(share(u128::from(roomy.requests - roomy.admitted), u128::from(roomy.requests)))
        };
        let mut policies = Vec::new();
        for &policy in self.policies {
            let false_denials = false_denials(&outcomes, policy);
            let Some(outcome) = place(policy, false).and_then(|index| outcomes[index].take()) else { continue };
            let goodput = measure.map(|(window, oracle)| share(filled(&outcome, window), oracle));
            policies.push(self.policy_report(policy, outcome, goodput, false_denials));
        }
        let scale = scale_permille as f64 / 1_000.0;
        Report { trace: trace.to_owned(), limits: self.limits, scale, policies }
    }

    fn policy_report(
        &self,
        policy: Policy,
        outcome: Outcome,
        goodput: Option<f64>,
        false_denials: Option<f64>,
    ) -> PolicyReport {
        let fixed = self.limits == Limits::Static;
        let worst = |measure: &dyn Fn(Window) -> f64| Window::ALL.into_iter().map(measure).fold(0.0, f64::max);
        let p99 = |window| worst_key(&outcome, |key| key.truth[window].p99());
        let max = |window| worst_key(&outcome, |key| key.truth[window].max());
        let first = |window| worst_key(&outcome, |key| key.truth[window].first);
        let window_report = |window: Window| {
            let course = busiest_course(&outcome, window);
            WindowReport {
                window: window.name(),
                tokens_admitted: outcome.tokens[window],
                tokens_denied: outcome.tokens_denied[window],
                limit_first: course.first,
                limit_last: course.last,
                limit_peak: course.peak,
                overshoot_p99: fixed.then(|| p99(window)),
                overshoot_max: fixed.then(|| max(window)),
            }
        };
        PolicyReport {
            policy: policy.name(),
            requests: outcome.requests,
            admitted: outcome.admitted,
            denied: outcome.requests - outcome.admitted,
            goodput,
            overshoot_p99: fixed.then(|| worst(&p99)),
            overshoot_max: fixed.then(|| worst(&max)),
            overshoot_first: fixed.then(|| worst(&first)),
            false_denials,
            windows: Window::ALL.into_iter().map(window_report).collect(),
            outcome,
        }
    }

    /// How many requests a report plays.
    #[must_use]
    pub fn requests(&self, workload: &Workload) -> u64 {
        (self.jobs().len() * workload.requests.len()) as u64
    }

    fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.policies.iter().map(|&policy| Job { policy, roomy: false }).collect();
        if self.limits == Limits::Static {
            jobs.extend(self.policies.iter().map(|&policy| Job { policy, roomy: true }));
            if !self.policies.contains(&Policy::Oracle) {
                jobs.push(Job { policy: Policy::Oracle, roomy: false });
            }
        }
        jobs
    }

    /// Adaptive limits have no overshoot and no goodput.
    fn keep(&self, job: &Job) -> Keep {
        match self.limits {
            _ if self.record && !job.roomy => Keep::Course,
            Limits::Static => Keep::Truth,
            Limits::Adaptive => Keep::Decisions,
        }
    }

    fn run_all(
        &self,
        workload: &Workload,
        jobs: &[Job],
        roomy: &[KeyRules],
        threads: NonZeroUsize,
        on_requests: &(dyn Fn(u64) + Sync),
    ) -> Vec<Option<Outcome>> {
        let next = AtomicUsize::new(0);
        let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; jobs.len()]);
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let setup = Setup {
                    rules: if job.roomy { roomy } else { self.rules },
                    forecast: self.forecast,
                    progress_every: self.progress_every,
                    cache_known: self.cache_known,
                    capacity: None,
                    keep: self.keep(job),
                    threads: NonZeroUsize::new(threads.get() / jobs.len()).unwrap_or(NonZeroUsize::MIN),
                };
                let outcome = run(workload, job.policy, &setup, on_requests);
                let index = jobs.iter().position(|other| std::ptr::eq(other, job)).expect("the job is one of the jobs");
                outcomes.lock().expect("no thread panics with the lock")[index] = Some(outcome);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.get().min(jobs.len()) {
                scope.spawn(work);
            }
            work();
        });
        outcomes.into_inner().expect("no thread panics with the lock")
    }
}

/// Limits of which the fullest minute of the whole demand takes 90 %.
fn roomy_rules(workload: &Workload) -> Vec<KeyRules> {
    let mut truths: Vec<Option<Truth>> = vec![None; workload.keys.len()];
    let spans = workload.spans();
    let unlimited = Tokens::new(u64::MAX, u64::MAX, u64::MAX);
    for request in &workload.requests {
        truths[request.key as usize]
            .get_or_insert_with(|| Truth::new(&spans[request.key as usize], unlimited, false))
            .admit(request);
    }
    let rules = truths.into_iter().map(|truth| {
        let peaks = truth.map(|truth| truth.finish().0.map(|window| window.peak)).unwrap_or_default();
        KeyRules::fixed(&peaks.map(|peak| peak.saturating_mul(1_000).div_ceil(FULLEST_PERMILLE)))
    });
    rules.collect()
}

/// The window that holds the largest share of its limits over time, in the outcome of the oracle.
fn fullest_window(oracle: &Outcome, rules: &[KeyRules]) -> Window {
    let fill = |window: Window| {
        let keys = oracle.keys.iter().zip(rules);
        let room = keys.map(|(key, rules)| u128::from(rules.floors()[window]) * u128::from(key.truth[window].seconds));
        share(filled(oracle, window), room.sum())
    };
    let fullest = Window::ALL.into_iter().max_by(|left, right| fill(*left).total_cmp(&fill(*right)));
    fullest.unwrap_or(Window::Generated)
}

fn filled(outcome: &Outcome, window: Window) -> u128 {
    outcome.keys.iter().map(|key| key.truth[window].filled).sum()
}

fn worst_key(outcome: &Outcome, measure: impl Fn(&crate::run::KeyOutcome) -> f64) -> f64 {
    outcome.keys.iter().map(measure).fold(0.0, f64::max)
}

fn busiest_course(outcome: &Outcome, window: Window) -> LimitCourse {
    let busiest = outcome.keys.iter().max_by_key(|key| key.asked[window]);
    busiest.map(|key| key.limit[window]).unwrap_or_default()
}

/// `part / whole`; 1 where both are nothing.
fn share(part: u128, whole: u128) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}
