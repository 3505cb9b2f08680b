//! The steps to many sidecars and keys, each at a small scale.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate_proto::v1::{Tier, UpdateTierRequest};
use tidegate_tests::gateway::{Gateway, bounds};
use tidegate_tests::page::Page;
use tidegate_tests::redis::{Cluster, Kind, Server as Redis};
use tokio::runtime::Builder;

use super::{Done, Failure, WIDE, decisions, micros, otherwise, processor_time, resident, server, sidecar};
use crate::open_loop::{self, Load};
use crate::zipf::Zipf;

mod plan;
mod servers;

/// Which step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Keys that are asked for about once: memory in the store and in a sidecar, calls
    Keys,
    /// Reports that one server takes, and three masters
    Servers,
    /// How the slots of keys spread over masters
    Slots,
    /// What a sidecar without traffic asks for
    Idle,
    /// Asking for the lives of all slots, as often as many sidecars do
    Roll,
    /// What a write of policy moves
    Policy,
    /// Calls for ten million keys, added up from what `calls` measured
    Plan,
}

/// Measures it.
///
/// # Errors
/// No binary is named, or a server does not answer.
pub fn study(part: Part) -> Result<String, Failure> {
    match part {
        Part::Keys => keys(),
        Part::Servers => servers::reports(),
        Part::Slots => servers::slots(),
        Part::Idle => idle(),
        Part::Roll => servers::roll_calls(),
        Part::Policy => policy(),
        Part::Plan => plan::plan(),
    }
}

fn seconds(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn number(store: &Redis, field: &str) -> f64 {
    store.info(field).parse().unwrap_or(f64::NAN)
}

/// 100,000 keys, 5,000 decisions a second for 20 s.
fn keys() -> Result<String, Failure> {
    const KEYS: usize = 100_000;
    let store = server(Kind::Redis7)?.start();
    let sidecar = sidecar(Some(&store.url()), WIDE, "")?.start();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let load = Load { rate: 5_000, length: Duration::from_secs(20), connections: 4, settled: 100, seed: 1 };
    let (memory, own_memory) = (number(&store, "used_memory"), resident(sidecar.pid())?);
    let (before, own_before) = (Done::by(&store)?, processor_time(sidecar.pid())?);
    let seen = runtime.block_on(open_loop::run(&[sidecar.limiter()], load, &Zipf::even(KEYS)))?;
    // Leases that nobody uses go back.
    seconds(2);
    let after = Done::by(&store)?;
    let used = processor_time(sidecar.pid())?.saturating_sub(own_before);
    let made = decisions(&sidecar).0;
    let page = Page::scrape(sidecar.http());
    let known: f64 = store.try_ask(&["DBSIZE"])?;
    let (calls, took) = after.since(&before, "evalsha");
    let mut out = String::new();
    writeln!(
        out,
        "keys that are asked for about once: {made:.0} decisions on {known:.0} keys, {:.0} allowed, p50 {:.2} ms, p99 {:.2} ms{}\n\
         calls a decision {:.2} ({:.1} us of the script each), us of processor a decision: sidecar {:.0}, store {:.0}\n\
         bytes a decision to the store {:.0}, from it {:.0}\n\
         bytes a key: store {:.0}, sidecar {:.0} ({:.0} keys, {:.0} leases)",
        decisions(&sidecar).1,
        ms(seen.latencies.value_at_quantile(0.5)),
        ms(seen.latencies.value_at_quantile(0.99)),
        otherwise(&sidecar),
        calls / made,
        took / calls,
        micros(used) / made,
        micros(after.processor_time_since(&before)) / made,
        (after.bytes.0 - before.bytes.0) / made,
        (after.bytes.1 - before.bytes.1) / made,
        (number(&store, "used_memory") - memory) / known,
        (resident(sidecar.pid())? - own_memory) / page.sum("tidegate_keys", &[]),
        page.sum("tidegate_keys", &[]),
        page.sum("tidegate_store_leases", &[]),
    )?;
    Ok(out)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Commands that the script calls which notes sidecars, and the one that asks for these figures.
const NOT_CALLS: &[&str] = &["time", "zadd", "zremrangebyscore", "pexpire", "zcard", "info"];

/// A sidecar without traffic for 15 s, on one server and on three masters.
fn idle() -> Result<String, Failure> {
    const SPAN: u64 = 15;
    let mut out = String::from(
        "a sidecar without traffic\n\n| store | server | commands/s | bytes/s to it | from it | us of its processor/s | us of the sidecar's \
         processor/s |\n|---|---|---|---|---|---|---|\n",
    );
    let mut measure = |name: &str, stores: &[Redis], url: &str| -> Result<(), Failure> {
        let sidecar = sidecar(Some(url), WIDE, "")?.start();
        seconds(3);
        let done = || stores.iter().map(Done::by).collect::<Result<Vec<_>, _>>();
        let (before, own) = (done()?, processor_time(sidecar.pid())?);
        seconds(SPAN);
        let (after, own) = (done()?, processor_time(sidecar.pid())?.saturating_sub(own));
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let span = SPAN as f64;
        for (which, (before, after)) in before.iter().zip(&after).enumerate() {
            let names = after.commands.keys().filter(|name| !NOT_CALLS.contains(&name.as_str()));
            let commands: f64 = names.map(|name| after.since(before, name).0).sum();
            writeln!(
                out,
                "| {name} | {} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} |",
                which + 1,
                commands / span,
                (after.bytes.0 - before.bytes.0) / span,
                (after.bytes.1 - before.bytes.1) / span,
                micros(after.processor_time_since(before)) / span,
                micros(own) / span,
            )?;
        }
        Ok(())
    };
    let one = [server(Kind::Redis7)?.start()];
    measure("one server", &one, &one[0].url())?;
    let cluster = Cluster::start(&server(Kind::Redis7)?);
    measure("Cluster of three", cluster.masters(), &cluster.url())?;
    // What a server does by itself.
    let alone = server(Kind::Redis7)?.start();
    seconds(1);
    let before = Done::by(&alone)?;
    seconds(5);
    let used = Done::by(&alone)?.processor_time_since(&before);
    writeln!(out, "\na server that nobody asks: {:.0} us of processor/s", micros(used) / 5.0)?;
    Ok(out)
}

/// One write, and what the other sidecar reads of it.
fn policy() -> Result<String, Failure> {
    let mut out = String::from(
        "a write of policy, two sidecars\n\n| accounts | bytes that the other one reads | us of the store's processor | us of the other \
         sidecar's |\n|---|---|---|---|\n",
    );
    let runtime = Builder::new_current_thread().enable_all().build()?;
    for accounts in [1_000, 10_000, 100_000] {
        let mut rest = String::new();
        for account in 0..accounts {
            write!(rest, "[accounts.customer-{account:08}]\ntier = \"tier-1\"\n")?;
        }
        let store = server(Kind::Redis7)?.start();
        let start = || Ok::<_, Failure>(sidecar(Some(&store.url()), WIDE, &rest)?.start());
        let (writes, reads) = (start()?, start()?);
        seconds(3);
        let over = |span: u64| -> Result<(f64, f64, f64), Failure> {
            let (before, own) = (Done::by(&store)?, processor_time(reads.pid())?);
            seconds(span);
            let (after, own) = (Done::by(&store)?, processor_time(reads.pid())?.saturating_sub(own));
            Ok((after.bytes.1 - before.bytes.1, micros(after.processor_time_since(&before)), micros(own)))
        };
        let quiet = over(3)?;
        let gateway = runtime.block_on(Gateway::of(&writes));
        let tier =
            Tier { name: "tier-1".into(), bounds: Some(bounds([WIDE - 1; 3], [WIDE - 1; 3])), ..Tier::default() };
        let request = UpdateTierRequest { tier: Some(tier), ..UpdateTierRequest::default() };
        let written = std::thread::scope(|scope| {
            let later = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                runtime.block_on(gateway.admin().update_tier(gateway.call(request)))
            });
            let busy = over(3).map_err(|error| error.to_string());
            (later.join(), busy)
        });
        let (Ok(Ok(_)), Ok(busy)) = written else { return Err("the write failed".into()) };
        writeln!(out, "| {accounts} | {:.0} | {:.0} | {:.0} |", busy.0 - quiet.0, busy.1 - quiet.1, busy.2 - quiet.2)?;
    }
    Ok(out)
}
