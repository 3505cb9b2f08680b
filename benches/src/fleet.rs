//! What it costs to share limits: processor time of a decision, calls to the shared store, and what those cost there.
//!
//! Servers are real ones on loopback, sidecars the binary that `TIDEGATE_BIN` names. What a process used is what the system says,
//! and what a store was asked is what the store says: the figures of the subject itself are only printed beside.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use tidegate_tests::page::Page;
use tidegate_tests::redis::{Kind, Server as Redis, Setup as RedisSetup};
use tidegate_tests::server::{Server, Setup};

pub mod calls;
pub mod cost;
pub mod reports;
pub mod script;
pub mod spread;

/// Why a study ended without its table.
pub type Failure = Box<dyn std::error::Error>;

/// A limit that nobody reaches, tokens a minute.
const WIDE: u64 = 1 << 40;

/// How to start a sidecar whose limits are `limit`; on the store at `url`, or with memory alone.
fn sidecar(url: Option<&str>, limit: u64, rest: &str) -> Result<Setup, Failure> {
    // What `./test` builds is compiled otherwise, and may be of another day.
    std::env::var("TIDEGATE_BIN").map_err(|_| "name the released binary in TIDEGATE_BIN")?;
    let bounds = format!("{{ floor = {limit}, ceiling = {limit} }}");
    let config =
        format!("[tiers.tier-1.bounds]\nprompt = {bounds}\nuncached_prompt = {bounds}\ngenerated = {bounds}\n{rest}");
    let setup = Setup::release().config(&config).arguments(["--max-reservations", "8M", "--log-filter", "warn"]);
    Ok(match url {
        Some(url) => setup.environment("TIDEGATE_STORE", url),
        None => setup,
    })
}

/// How to start a server of this kind.
fn server(kind: Kind) -> Result<RedisSetup, Failure> {
    Ok(RedisSetup::of(kind)
        .ok_or("there is no such server here: see ./test, and TIDEGATE_PYTHON for those in wheels")?)
}

/// Processor time that a process has used, of all its threads.
fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += line.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory of a process that is in use, bytes.
fn resident(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = kilobytes.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024.0).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// What a store has done since its start.
#[derive(Clone, Debug)]
struct Done {
    /// Of each command: how often, and microseconds.
    commands: BTreeMap<String, (f64, f64)>,
    /// Bytes that came and went.
    bytes: (f64, f64),
    processor_time: Duration,
}

impl Done {
    fn by(store: &Redis) -> Result<Self, Failure> {
        let info: String = store.try_ask(&["INFO", "everything"])?;
        let field = |name: &str| -> f64 {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        let commands = info.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let part = |wanted: &str| rest.split(',').find_map(|part| part.strip_prefix(wanted)?.parse().ok());
            Some((name.to_owned(), (part("calls=")?, part("usec=")?)))
        });
        Ok(Self {
            commands: commands.collect(),
            bytes: (field("total_net_input_bytes"), field("total_net_output_bytes")),
            processor_time: processor_time(store.pid())?,
        })
    }

    /// How often a command was called, and for how many microseconds, since `before`.
    fn since(&self, before: &Self, command: &str) -> (f64, f64) {
        let of = |done: &Self| done.commands.get(command).copied().unwrap_or_default();
        let ((calls, micros), (calls_before, micros_before)) = (of(self), of(before));
        (calls - calls_before, micros - micros_before)
    }

    fn processor_time_since(&self, before: &Self) -> Duration {
        self.processor_time.saturating_sub(before.processor_time)
    }
}

/// Microseconds.
fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Least and most of some figures.
fn spread_of(figures: &[f64]) -> (f64, f64) {
    figures
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), figure| (least.min(*figure), most.max(*figure)))
}

/// Decisions that a sidecar has made, by its metrics page; and those that allowed.
fn decisions(sidecar: &Server) -> (f64, f64) {
    let page = Page::scrape(sidecar.http());
    let sum = |labels: &[(&str, &str)]| page.sum("tidegate_decisions_total", labels);
    (sum(&[]), sum(&[("decision", "allow")]))
}

/// What kept a sidecar from deciding by a lease: denials by reason, and decisions without the store. Empty where nothing did.
fn otherwise(sidecar: &Server) -> String {
    let page = Page::scrape(sidecar.http());
    let mut found = BTreeMap::new();
    for (labels, value) in page.samples("tidegate_decisions_total").filter(|(_, value)| *value > 0.0) {
        if labels.get("decision").is_some_and(|decision| decision != "allow") {
            *found.entry(labels.get("reason").cloned().unwrap_or_default()).or_insert(0.0) += value;
        }
    }
    let degraded = page.sum("tidegate_store_decisions_total", &[("by", "degraded")]);
    if degraded > 0.0 {
        found.insert("decided without the store".to_owned(), degraded);
    }
    found.into_iter().map(|(what, times)| format!("; {what}: {times:.0}")).collect()
}
