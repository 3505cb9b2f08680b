//! Reports sent straight to servers: how many one takes, and how they spread over masters.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use tidegate_core::key::LimitKey;
use tidegate_store::redis::{SLOTS, life_key, slot};
use tidegate_tests::redis::{Cluster, Kind, Server as Redis};

use crate::fleet::reports::{Reporter, Shape, key};
use crate::fleet::{Done, Failure, micros, server, spread_of};
use crate::stopwatch::Stopwatch;

const KEYS: usize = 10_000;
const SPAN: Duration = Duration::from_secs(4);
/// As a key that is used once in a while.
const SHAPE: Shape = Shape { seconds: 3, ttl_ms: 400, least: 0 };
/// Hash slots of a Cluster.
const HASH_SLOTS: u64 = 16_384;

/// Reports on many keys, two sidecars each, from several connections.
pub(super) fn reports() -> Result<String, Failure> {
    let mut out = String::from(
        "reports on 10,000 keys, two sidecars each\n\n| store | connections | at once on each | server | keys | reports/s | us of its processor, \
         each | share of a core | reports/s when a core is full |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for kind in [Kind::Redis7, Kind::Valkey9] {
        let one = [server(kind)?.start()];
        let homes = vec![0; KEYS];
        for (connections, at_once) in [(8, 1), (2, 16)] {
            drive(&mut out, &format!("one {}", kind.name()), &one, &homes, connections, at_once)?;
        }
        let cluster = Cluster::start(&server(kind)?);
        let of_slots: Vec<usize> = (0..SLOTS).map(|slot| cluster.home_of(&life_key(slot))).collect();
        let home = |number| Ok::<_, Failure>(of_slots[usize::try_from(slot(key(number)?.as_ref()))?]);
        let homes = (0..KEYS).map(home).collect::<Result<Vec<_>, _>>()?;
        let name = format!("Cluster of three {}", kind.name());
        drive(&mut out, &name, cluster.masters(), &homes, 8, 1)?;
    }
    Ok(out)
}

fn drive(
    out: &mut String,
    name: &str,
    stores: &[Redis],
    homes: &[usize],
    connections: usize,
    at_once: usize,
) -> Result<(), Failure> {
    let mut keys: Vec<Vec<LimitKey>> = vec![Vec::new(); stores.len()];
    for (number, home) in homes.iter().enumerate() {
        keys[*home].push(key(number)?);
    }
    for (store, keys) in stores.iter().zip(&keys) {
        let mut reporter = Reporter::new(store)?;
        let mut slots: Vec<u64> = keys.iter().map(|key| slot(key.as_ref())).collect();
        slots.sort_unstable();
        slots.dedup();
        reporter.give_life(slots)?;
        for key in keys {
            reporter.give_law(key)?;
        }
    }
    let done = || stores.iter().map(Done::by).collect::<Result<Vec<_>, _>>();
    let before = done()?;
    let watch = Stopwatch::start();
    thread::scope(|scope| -> Result<(), Failure> {
        let keys = &keys;
        let client = move |number: usize| -> Result<(), String> {
            let reporters = stores.iter().map(Reporter::new).collect::<Result<Vec<_>, _>>();
            let mut reporters = reporters.map_err(|error| error.to_string())?;
            let mut turn = number * KEYS / connections;
            while watch.elapsed() < SPAN {
                // By turns as keys are spread, so that each master gets its share.
                let home = homes[turn % KEYS];
                let of = (0..at_once).map(|next| (&keys[home][(turn + next) % keys[home].len()], number as u64 % 2));
                reporters[home].report(SHAPE, of).map_err(|error| error.to_string())?;
                turn += at_once;
            }
            Ok(())
        };
        let clients: Vec<_> = (0..connections).map(|number| scope.spawn(move || client(number))).collect();
        for client in clients {
            client.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    let (after, took) = (done()?, watch.elapsed().as_secs_f64());
    for (which, (before, after)) in before.iter().zip(&after).enumerate() {
        let (reports, used) = (after.since(before, "evalsha").0, after.processor_time_since(before));
        writeln!(
            out,
            "| {name} | {connections} | {at_once} | {} | {} | {:.0} | {:.1} | {:.2} | {:.0} |",
            which + 1,
            keys[which].len(),
            reports / took,
            micros(used) / reports,
            used.as_secs_f64() / took,
            reports / used.as_secs_f64(),
        )?;
    }
    Ok(())
}

/// Asks for the lives of all slots: one after the other, all of them in one command, and as a Cluster's connection does.
pub(super) fn roll_calls() -> Result<String, Failure> {
    const ROLL_CALLS: u32 = 5_000;
    let mut out = String::from(
        "5,000 roll calls, as 1,000 sidecars make in five seconds\n\n| how | us of the server's processor, each |\n|---|---|\n",
    );
    let store = server(Kind::Redis7)?.start();
    let mut reporter = Reporter::new(&store)?;
    reporter.give_life(0..SLOTS)?;
    let places: Vec<String> = (0..SLOTS).map(life_key).collect();
    for how in ["64 GET, one after the other", "one MGET", "64 MGET of one key, at once"] {
        let before = Done::by(&store)?;
        for _ in 0..ROLL_CALLS {
            match how {
                "one MGET" => redis::cmd("MGET").arg(&places).exec(&mut reporter.connection)?,
                "64 MGET of one key, at once" => {
                    let mut all = redis::Pipeline::new();
                    for place in &places {
                        all.cmd("MGET").arg(place).ignore();
                    }
                    all.exec(&mut reporter.connection)?;
                }
                _ => {
                    for place in &places {
                        redis::cmd("GET").arg(place).exec(&mut reporter.connection)?;
                    }
                }
            }
        }
        let used = Done::by(&store)?.processor_time_since(&before);
        writeln!(out, "| {how} | {:.1} |", micros(used) / f64::from(ROLL_CALLS))?;
    }
    Ok(out)
}

/// How the slots of keys fall on masters that have equal ranges of the Cluster's hash slots.
pub(super) fn slots() -> Result<String, Failure> {
    let cluster = Cluster::start(&server(Kind::Redis7)?);
    let of = |slot: u64| -> Result<u64, Failure> {
        Ok(cluster.masters()[0].try_ask(&["CLUSTER", "KEYSLOT", &life_key(slot)])?)
    };
    let hash_slots = (0..SLOTS).map(of).collect::<Result<Vec<_>, _>>()?;
    let mut of_keys = vec![0_u32; usize::try_from(SLOTS)?];
    for number in 0..100_000 {
        of_keys[usize::try_from(slot(key(number)?.as_ref()))?] += 1;
    }
    let of_keys: Vec<f64> = of_keys.into_iter().map(f64::from).collect();
    let (fewest, most) = spread_of(&of_keys);
    let mut out = format!(
        "100,000 keys over the 64 slots: {fewest:.0} to {most:.0} in each; these are in {} of the Cluster's hash slots\n\n| masters, equal ranges | slots of keys on each: fewest | most | most, \
         against an equal share | masters that have none |\n|---|---|---|---|---|\n",
        hash_slots.iter().collect::<BTreeSet<_>>().len(),
    );
    for masters in [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64] {
        let mut counts = vec![0_u32; usize::try_from(masters)?];
        for hash_slot in &hash_slots {
            counts[usize::try_from(hash_slot * masters / HASH_SLOTS)?] += 1;
        }
        let (fewest, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        let none = counts.iter().filter(|count| **count == 0).count();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let against = f64::from(most) * masters as f64 / SLOTS as f64;
        writeln!(out, "| {masters} | {fewest} | {most} | {against:.2} | {none} |")?;
    }
    Ok(out)
}
