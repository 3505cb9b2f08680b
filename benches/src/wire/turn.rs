//! One turn: a side is loaded for a while, and what came of it.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::Failure;
use super::machine::{self, Watched, processor_time};
use super::programs::Programs;
use super::servers::Server;
use super::side::{Cores, Side};

/// The core of the load.
const LOAD_CORE: &str = "1";

/// Share of the machine that others may use in a turn.
const OTHERS: f64 = 0.05;
/// Share of the machine that the host may take.
const STOLEN: f64 = 0.01;
/// A server that uses less of its core than this did not set the pace.
const BUSY: f64 = 0.9;
/// After a load that is not measured: longer than its reservations live.
const PAUSE: Duration = Duration::from_millis(1_500);

/// What came of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) calls_per_s: f64,
    pub(super) decisions_per_s: f64,
    pub(super) denied: f64,
    pub(super) bytes_per_decision: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// Processor time of the server.
    pub(super) server_us_per_call: f64,
    pub(super) server_us_per_decision: f64,
    pub(super) server_utilisation: f64,
    pub(super) load_utilisation: f64,
    /// Somebody else used the machine.
    pub(super) is_disturbed: bool,
}

impl Turn {
    /// Whether the server set the pace.
    pub(super) fn server_was_busy(&self) -> bool {
        self.server_utilisation >= BUSY
    }

    /// One with so many calls a second, each of which decides and takes so long of the server, which was so busy.
    #[cfg(test)]
    pub(super) const fn at(per_second: f64, server_us: f64, server_utilisation: f64) -> Self {
        Self {
            calls_per_s: per_second,
            decisions_per_s: per_second,
            denied: 0.0,
            bytes_per_decision: 0.0,
            p50_us: 1e6 / per_second,
            p99_us: 2e6 / per_second,
            p999_us: 3e6 / per_second,
            server_us_per_call: server_us,
            server_us_per_decision: server_us,
            server_utilisation,
            load_utilisation: 0.0,
            is_disturbed: false,
        }
    }
}

/// Warms `side` up, then measures it, for these times, while all other servers stand still.
pub(super) fn turn(programs: &Programs, server: &Server, side: &Side, times: [Duration; 2]) -> Result<Turn, Failure> {
    server.signal(Signal::CONT)?;
    let turn = measured(programs, server, side, times)?;
    server.signal(Signal::STOP)?;
    Ok(turn)
}

fn measured(programs: &Programs, server: &Server, side: &Side, times: [Duration; 2]) -> Result<Turn, Failure> {
    if !side.before.is_empty() {
        bench(programs, server, side, &side.before, &[])?;
        // What it reserved expires meanwhile.
        std::thread::sleep(PAUSE);
    }
    let (watched, server_before) = (Watched::start()?, processor_time(server.pid())?);
    let [warm_up, length] = times.map(|time| format!("{}ms", time.as_millis()));
    let (report, load) = bench(programs, server, side, &side.load, &["--warm-up", &warm_up, "--duration", &length])?;
    let machine = watched.stop()?;
    let ours = processor_time(server.pid())?.saturating_sub(server_before) + load;
    let share = |part: Duration| part.as_secs_f64() / machine.time.as_secs_f64();
    let figure = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_f64);
        value.ok_or_else(|| format!("the load's report has no {path}: {report}"))
    };
    let (decisions, seconds) = (figure("/decisions")?, figure("/seconds")?);
    let server_s = figure("/server/cpu_s")?;
    let (others, stolen) = (share(machine.busy.saturating_sub(ours)), share(machine.stolen));
    let is_disturbed = others > OTHERS || stolen > STOLEN;
    if is_disturbed {
        eprintln!("others used {:.1} % of the machine, the host {:.1} %", others * 100.0, stolen * 100.0);
    }
    Ok(Turn {
        calls_per_s: figure("/calls_per_s")?,
        decisions_per_s: decisions / seconds,
        denied: figure("/denied")?,
        bytes_per_decision: figure("/bytes_per_decision")?,
        p50_us: figure("/latency_us/p50")?,
        p99_us: figure("/latency_us/p99")?,
        p999_us: figure("/latency_us/p999")?,
        server_us_per_call: figure("/server/cpu_us_per_call")?,
        server_us_per_decision: server_s * 1e6 / decisions,
        server_utilisation: figure("/server/utilisation")?,
        load_utilisation: figure("/load/utilisation")?,
        is_disturbed,
    })
}

/// Runs `tidegate bench`: its report, and the processor time that it used.
fn bench(
    programs: &Programs,
    server: &Server,
    side: &Side,
    load: &[String],
    rest: &[&str],
) -> Result<(Value, Duration), Failure> {
    let mut command = machine::on_core(&programs.load, (side.cores == Cores::Apart).then_some(LOAD_CORE));
    command.args(["bench", "--json", "--target", &server.target(side), "--pid", &server.pid().to_string()]);
    let output = command.args(load).args(rest).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let (load, errors) = (load.join(" "), String::from_utf8_lossy(&output.stderr));
        return Err(format!("tidegate bench {load} against {}: {errors}", side.subject.name()).into());
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let used = report.pointer("/load/total_cpu_s").and_then(Value::as_f64).unwrap_or(0.0);
    Ok((report, Duration::from_secs_f64(used)))
}
