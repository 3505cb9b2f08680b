//! Reports as sidecars make them, sent straight to a server: what the scripts cost, without the sidecars.

use std::time::Duration;

use redis::{Cmd, Connection, Pipeline};
use tidegate_core::fleet::{KnownLaw, Report, Seen};
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::law::{Law, WindowLaw};
use tidegate_core::window::{PerWindow, Tokens};
use tidegate_store::redis::{LAW, REPORT, SLOTS, arguments, law_arguments, ledger_key, life_key, named, slot};
use tidegate_tests::redis::Server as Redis;

use super::{Failure, WIDE};

/// The life of all data, which began long ago.
const LIFE: u64 = 7;

/// What a report says.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// In how many seconds something leaves, in each window.
    pub seconds: u32,
    /// Length of the lease, milliseconds.
    pub ttl_ms: u64,
    /// The least that requests ask for which wait, in each window: the script says when that is free. 0: none waits.
    pub least: u64,
}

/// A connection to a server that knows the scripts.
pub(super) struct Reporter {
    pub(super) connection: Connection,
    sha: String,
    sequence: u64,
}

impl Reporter {
    /// Connects.
    pub(super) fn new(server: &Redis) -> Result<Self, Failure> {
        let mut connection = redis::Client::open(server.url())?.get_connection()?;
        let sha = redis::cmd("SCRIPT").arg("LOAD").arg(REPORT).query(&mut connection)?;
        Ok(Self { connection, sha, sequence: 0 })
    }

    /// Gives these slots a life.
    pub(super) fn give_life(&mut self, slots: impl IntoIterator<Item = u64>) -> Result<(), Failure> {
        for slot in slots.into_iter().filter(|slot| *slot < SLOTS) {
            redis::cmd("SET").arg(life_key(slot)).arg(format!("{} 1 ", named(LIFE))).exec(&mut self.connection)?;
        }
        Ok(())
    }

    /// Gives a key a law whose epoch is not over, and limits that are not reached.
    pub(super) fn give_law(&mut self, key: &LimitKey) -> Result<(), Failure> {
        let law = Law { epoch: 1 << 40, windows: PerWindow::from_fn(|_| WindowLaw::EMPTY) };
        let known = KnownLaw { version: 1, policy: 0, law, limits: Tokens::new(WIDE, WIDE, WIDE) };
        let mut call = redis::cmd("EVAL");
        call.arg(LAW).arg(1).arg(ledger_key(key.as_ref())).arg(law_arguments(0, &known, Duration::from_secs(600)));
        Ok(call.exec(&mut self.connection)?)
    }

    /// Sends these reports, all of them at once, and waits for the answers.
    pub(super) fn report<'a>(
        &mut self,
        shape: Shape,
        of: impl IntoIterator<Item = (&'a LimitKey, u64)>,
    ) -> Result<(), Failure> {
        let mut pipeline = Pipeline::new();
        for (key, incarnation) in of {
            self.sequence += 1;
            pipeline.add_command(self.call(shape, key, incarnation));
        }
        let answers: Vec<Vec<i64>> = pipeline.query(&mut self.connection)?;
        if answers.iter().any(|answer| answer.len() < 4) {
            return Err("a report was not taken".into());
        }
        Ok(())
    }

    fn call(&self, shape: Shape, key: &LimitKey, incarnation: u64) -> Cmd {
        let leaving: Vec<(u32, u64)> = (0..shape.seconds).map(|second| (second, 1_000 + u64::from(second))).collect();
        let report = Report {
            life: LIFE,
            incarnation,
            sequence: self.sequence,
            acknowledged: 0,
            phase_seconds: key.as_ref().phase_seconds(),
            ttl_ms: shape.ttl_ms,
            needs: PerWindow::from_fn(|_| leaving.as_slice()),
            wants: Tokens::new(600, 600, 300),
            least: Tokens::new(shape.least, shape.least, shape.least),
            waits: true,
            seen: PerWindow::from_fn(|_| Seen { settled: self.sequence, ..Seen::default() }),
        };
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.sha).arg(2).arg(ledger_key(key.as_ref())).arg(life_key(slot(key.as_ref())));
        call.arg(arguments(&report));
        call
    }

    /// What a server says that a key takes, bytes.
    pub(super) fn memory_of(&mut self, key: &LimitKey) -> Result<f64, Failure> {
        let mut call = redis::cmd("MEMORY");
        call.arg("USAGE").arg(ledger_key(key.as_ref())).arg("SAMPLES").arg(0);
        Ok(call.query(&mut self.connection)?)
    }
}

/// A key.
pub(super) fn key(number: usize) -> Result<LimitKey, Failure> {
    let account = format!("account {number}");
    Ok(KeyRef::new(&account, "model", "").map_err(|_| "a good name")?.to_owned())
}
