//! The machine, and what else ran on it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::stopwatch::Stopwatch;

/// The system's unit of processor time, in the files read here.
const TICK: Duration = Duration::from_millis(10);

/// Processor time that a process has used, of all its threads.
pub(super) fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += line.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// All processors together, from some instant on.
pub(super) struct Watched {
    watch: Stopwatch,
    busy: Duration,
    stolen: Duration,
}

/// What they did since then.
pub(super) struct Busy {
    /// Time in which a processor ran something.
    pub(super) busy: Duration,
    /// Time in which the host ran something else.
    pub(super) stolen: Duration,
    /// Time that there was.
    pub(super) time: Duration,
}

impl Watched {
    pub(super) fn start() -> io::Result<Self> {
        let (busy, stolen) = busy_and_stolen()?;
        Ok(Self { watch: Stopwatch::start(), busy, stolen })
    }

    pub(super) fn stop(self) -> io::Result<Busy> {
        let (busy, stolen) = busy_and_stolen()?;
        let time = self.watch.elapsed() * u32::try_from(cores()).unwrap_or(1);
        Ok(Busy { busy: busy.saturating_sub(self.busy), stolen: stolen.saturating_sub(self.stolen), time })
    }
}

/// Counted where a tick finds them, so within some percent for a second; what is idle is not counted in every tick.
fn busy_and_stolen() -> io::Result<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u32> = line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    let of = |field: usize| TICK * ticks.get(field).copied().unwrap_or(0);
    // For users, nicely, the system, interrupts, soft ones; stolen.
    Ok(([0, 1, 2, 5, 6].map(of).iter().sum(), of(7)))
}

/// A program that runs on this core alone, or anywhere; anywhere too where there is one core. It ends with this process.
pub(super) fn on_core(program: &Path, core: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(core) = core.filter(|_| cores() > 1) {
        command.args(["taskset", "--cpu-list", core]);
    }
    command.arg(program);
    command
}

/// How many processors this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The machine in one line.
pub(super) fn line() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next());
    let kilobytes: u64 = kilobytes.and_then(|number| number.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} cores of {}, {} GiB, Linux {}",
        cores(),
        model.map_or("unknown model", |(_, model)| model.trim()),
        kilobytes >> 20,
        kernel.trim()
    )
}
