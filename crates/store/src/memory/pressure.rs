//! Deployments: what reporters say of each (model, variant), beside the models' figures. A decision reads one under a lock that
//! is held for a few reads and writes.
//!
//! The table is published as a whole new value when a deployment is added or forgotten, so a decision finds its deployment
//! without a lock; without any report ever, that is one load of a flag.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tidegate_core::law::Bounds;
use tidegate_core::pressure::{Deployment, Reading, Report, Signal};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use super::{Fingerprinted, MemoryStore};
use crate::timers::Fingerprint;
use crate::{DeploymentPressure, ReportError};

/// Most deployments that anyone may report on; a report on one more is refused. One that nobody reports on for a day makes
/// room.
pub(super) const MOST_DEPLOYMENTS: usize = 10_000;

/// Seconds between two looks for deployments that may be forgotten.
const SWEEP_SECONDS: u64 = 60;

type Table = HashMap<Fingerprint, Arc<Known>, BuildHasherDefault<Fingerprinted>>;

struct Known {
    model: Box<str>,
    variant: Box<str>,
    state: Mutex<Deployment>,
}

/// Every deployment that somebody reported on.
#[derive(Default)]
pub(super) struct Deployments {
    table: ArcSwap<Table>,
    /// Whether there is any: much cheaper to ask than to load the table.
    any: AtomicBool,
    /// Held while a report is taken, so that it is taken whole or not at all.
    reporting: Mutex<()>,
    swept_at: AtomicU64,
    full: AtomicU64,
    reporters_full: AtomicU64,
}

impl Deployments {
    /// How many there are, how often one more was refused, and how often one reporter more.
    pub(super) fn counts(&self) -> [u64; 3] {
        let refused = [&self.full, &self.reporters_full].map(|counter| counter.load(Ordering::Relaxed));
        [self.table.load().len() as u64, refused[0], refused[1]]
    }

    fn at<T>(&self, model: Fingerprint, step: impl FnOnce(&mut Deployment) -> T) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.table.load().get(&model).map(|known| step(&mut known.state.lock()))
    }

    /// Forgets the deployments that nobody has reported on for a day. Under the lock of reports.
    fn forget_silent(&self, now: Timestamp) {
        let table = self.table.load();
        let stays = |known: &Known| !known.state.lock().is_forgotten(now);
        let left: Table =
            table.iter().filter(|(_, known)| stays(known)).map(|(key, known)| (*key, Arc::clone(known))).collect();
        if left.len() < table.len() {
            self.publish(left);
        }
    }

    /// Under the lock of reports.
    fn publish(&self, table: Table) {
        let any = !table.is_empty();
        self.table.store(Arc::new(table));
        self.any.store(any, Ordering::Release);
    }
}

impl MemoryStore {
    /// What the deployment of a (model, variant) says.
    pub(super) fn pressure(&self, now: Timestamp, model: Fingerprint) -> PerWindow<Reading> {
        self.deployments.at(model, |deployment| deployment.readings(now)).unwrap_or_default()
    }

    /// Tells the deployment what the windows of an account carry whose Standard request was decided.
    pub(super) fn on_standard_decision(
        &self,
        now: Timestamp,
        model: Fingerprint,
        used: Tokens,
        bounds: &PerWindow<Bounds>,
    ) {
        self.deployments.at(model, |deployment| deployment.on_decision(now, used, bounds));
    }

    pub(super) fn report(&self, now: Timestamp, report: &Report<'_>) -> Result<(), ReportError> {
        let deployments = &self.deployments;
        let _reporting = deployments.reporting.lock();
        let reporter = self.fingerprint([report.reporter, "", ""]);
        let table = deployments.table.load_full();
        let mut unknown = 0;
        for said in &report.deployments {
            match table.get(&self.fingerprint([said.model, said.variant, ""])) {
                Some(known) if !known.state.lock().has_room(now, reporter) => {
                    deployments.reporters_full.fetch_add(1, Ordering::Relaxed);
                    return Err(ReportError::Reporters);
                }
                Some(_) => {}
                None => unknown += 1,
            }
        }
        let mut table = table;
        if unknown > 0 && table.len() + unknown > MOST_DEPLOYMENTS {
            deployments.forget_silent(now);
            table = deployments.table.load_full();
            let unknown = report.deployments.iter().filter(|said| {
                let model = self.fingerprint([said.model, said.variant, ""]);
                !table.contains_key(&model)
            });
            if table.len() + unknown.count() > MOST_DEPLOYMENTS {
                deployments.full.fetch_add(1, Ordering::Relaxed);
                return Err(ReportError::Deployments);
            }
        }
        let mut added = Table::default();
        for said in &report.deployments {
            let model = self.fingerprint([said.model, said.variant, ""]);
            let known = table.get(&model).or_else(|| added.get(&model)).map_or_else(
                || {
                    let (model, variant) = (said.model.into(), said.variant.into());
                    Arc::new(Known { model, variant, state: Mutex::default() })
                },
                Arc::clone,
            );
            let taken = known.state.lock().report(now, reporter, said.permille, report.ttl);
            taken.expect("there was room, and only reports take any, one at a time");
            if !table.contains_key(&model) {
                added.insert(model, known);
            }
        }
        if !added.is_empty() {
            added.extend(table.iter().map(|(model, known)| (*model, Arc::clone(known))));
            deployments.publish(added);
        }
        Ok(())
    }

    /// Forgets silent deployments once a minute, where no report is being taken.
    pub(super) fn sweep_deployments(&self, now: Timestamp) {
        let deployments = &self.deployments;
        let due = deployments.swept_at.load(Ordering::Relaxed).saturating_add(SWEEP_SECONDS);
        if now.as_seconds() < due || deployments.table.load().is_empty() {
            return;
        }
        if let Some(_reporting) = deployments.reporting.try_lock() {
            deployments.swept_at.store(now.as_seconds(), Ordering::Relaxed);
            deployments.forget_silent(now);
        }
    }

    /// The busiest deployments, at most so many, in the order of their names.
    pub(super) fn busiest(&self, now: Timestamp, most: usize) -> Vec<DeploymentPressure> {
        let table = self.deployments.table.load_full();
        let mut all: Vec<(u32, &Known, PerWindow<Reading>)> = table
            .values()
            .map(|known| {
                let windows = known.state.lock().readings(now);
                let permille = windows.iter().map(|(_, reading)| match reading.signal() {
                    Signal::Live(permille) => permille,
                    Signal::Off | Signal::Stale => 0,
                });
                (permille.max().unwrap_or(0), &**known, windows)
            })
            .collect();
        let name = |known: &Known| (known.model.clone(), known.variant.clone());
        all.sort_by_cached_key(|(permille, known, _)| (u32::MAX - permille, name(known)));
        all.truncate(most);
        all.sort_by_cached_key(|(_, known, _)| name(known));
        let row = |(_, known, windows): (u32, &Known, _)| DeploymentPressure {
            model: known.model.to_string(),
            variant: known.variant.to_string(),
            windows,
        };
        all.into_iter().map(row).collect()
    }
}
