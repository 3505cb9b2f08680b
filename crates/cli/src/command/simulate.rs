//! `tidegate simulate`: plays traces in virtual time against the core that serves, and against what others do.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_core::forecast::ForecastDefaults;
use tidegate_server::config::amount::parse_duration;
use tidegate_sim::plot::{KEYS_PLOTTED, Plots};
use tidegate_sim::policy::Policy;
use tidegate_sim::report::{Limits, Report, Study};
use tidegate_sim::workload::{Shape, Workload};

use crate::failure::Failure;
use crate::output::{print, printable, remark};
use rules::Rulebook;

mod rules;
mod table;

const EXAMPLES: &str = "\
Examples:
  tidegate simulate crates/sim/data/synthetic.csv
  tidegate simulate day.csv.gz --policy forecast,max-tokens --scale 1.5 --out plots
  tidegate simulate day.csv.gz --limits adaptive --config tidegate.toml --json | jq .policies

A trace is gzip or plain CSV, as for `replay`, with the column max_generated_tokens where clients
set one. Traces are read whole, 72 bytes of memory for each request, and all of them are checked
before anything is played or written. The same arguments give the same bytes on every machine.

Policies:
  oracle        knows every request to its last token
  max-tokens    holds the declared maximum, 4,096 where there is none
  fixed-1024    holds 1,024 tokens for every request
  charge-after  holds nothing, charges at the end
  plain-sum     holds tidegate's forecast; used + holds + ask may not exceed the limit
  forecast      tidegate

Columns:
  GOODPUT        tokens in the trailing minute up to the limit, as a share of the oracle's
  OVERSHOOT P99  the share of the limit by which 99 % of the seconds do not exceed it; the worst
                 key and window. MAX: the most. Both without each key's first 180 s: FIRST
  FALSE DENIALS  refusals where limits are so high that the fullest minute takes 90 % of them";

/// Simulate traces in virtual time, and compare policies
///
/// No server is involved: the same core decides, as fast as it can. Denied requests are not retried.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimulateArgs {
    /// The traces, each simulated on its own
    #[arg(value_name = "TRACE", required = true)]
    traces: Vec<PathBuf>,

    /// Take tiers, accounts, models, overrides and [forecast] from this configuration of `serve`; flags and environment
    /// of `serve` are not looked at [default: the built-in default tier for everybody]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Which policies, separated by commas [default: all; with --limits adaptive: forecast, the only one that may be named]
    #[arg(long, value_name = "P,...", value_delimiter = ',')]
    policy: Vec<Policy>,

    /// Whether limits stay at their floors or are moved by the law
    #[arg(long, value_enum, default_value = "static")]
    limits: LimitsArg,

    /// Demand: repeat or leave out requests, above 0 to 100 in steps of 0.001
    ///
    /// A copy comes up to 10 s after its original and has the counts of one of the 100 rows before or after it.
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_scale)]
    scale: u64,

    /// Fold all accounts into this many, named fold-0, fold-1, ..., by a hash of their names; --config then applies to
    /// the new names
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    fold: Option<u32>,

    /// Seed of the copies that --scale makes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// How often gateways report progress on live streams, 10ms to 30s; `off`: only at their end
    #[arg(long, value_name = "DURATION|off", default_value = "1s", value_parser = parse_progress)]
    progress: Progress,

    /// Requests do not say how much of their prompt is cached; only their settlement does
    #[arg(long)]
    late_cache: bool,

    /// Write plots to this folder, as SVG and PNG: the busiest keys under each policy, and goodput against overshoot
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Policies to play at once; the result does not depend on it [default: one for each CPU]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// Print one JSON object a line for each trace instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LimitsArg {
    /// The limit is the floor
    Static,
    /// The law moves it between floor and ceiling
    Adaptive,
}

/// A progress interval; its own type because an `Option` would read as an argument that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress(Option<Duration>);

/// A trace, ready to be played.
struct Loaded<'a> {
    path: &'a Path,
    workload: Workload,
}

/// Reads all traces, then plays, plots and shows one after the other.
pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let policies = args.policies()?;
    let rulebook = args.config.as_deref().map_or_else(|| Ok(Rulebook::built_in()), Rulebook::read)?;
    let traces = args.load()?;
    // Made before hours of work, not after.
    let plots = args.out.as_deref().map(Plots::create).transpose();
    let mut plots = plots.map_err(|error| Failure::Failed(error.to_string()))?;
    rulebook.remark_on(traces.iter().flat_map(|trace| &trace.workload.keys));

    for (index, trace) in traces.iter().enumerate() {
        let limits = args.limits.into();
        let rules = rulebook.rules(&trace.workload.keys, limits);
        let study = args.study(limits, &rules, &policies, rulebook.forecast());
        let name = trace.path.file_name().unwrap_or(trace.path.as_os_str()).to_string_lossy();
        let report = args.play(&study, &name, &trace.workload);
        if let Some(plots) = &mut plots {
            let bar = ProgressBar::new_spinner();
            let on_file = |file: &str| {
                bar.set_message(format!("drawing {file}"));
                bar.tick();
            };
            let written = plots.write(&report, &trace.workload, &rules, on_file);
            let written = written.map_err(|error| Failure::Failed(error.to_string()))?;
            bar.finish_and_clear();
            if written.keys_left_out > 0 {
                remark(&format!(
                    "{}: {KEYS_PLOTTED} keys are plotted, the busiest; {} are left out",
                    printable(&name),
                    written.keys_left_out
                ));
            }
        }
        args.show(index, trace, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl SimulateArgs {
    /// As named, each once; all where none is named.
    fn policies(&self) -> Result<Vec<Policy>, Failure> {
        let mut policies: Vec<Policy> = Vec::new();
        for policy in &self.policy {
            if !policies.contains(policy) {
                policies.push(*policy);
            }
        }
        match self.limits {
            LimitsArg::Static if policies.is_empty() => Ok(Policy::ALL.to_vec()),
            LimitsArg::Static => Ok(policies),
            LimitsArg::Adaptive => match policies.iter().find(|policy| **policy != Policy::Forecast) {
                None => Ok(vec![Policy::Forecast]),
                Some(other) => Err(Failure::Usage(format!(
                    "--policy {other}: its limits do not move; with --limits adaptive only `forecast` can be played"
                ))),
            },
        }
    }

    fn shape(&self) -> Shape {
        Shape { fold: self.fold, scale_permille: self.scale, seed: self.seed }
    }

    fn study<'a>(
        &self,
        limits: Limits,
        rules: &'a [tidegate_sim::policy::KeyRules],
        policies: &'a [Policy],
        forecast: &'a ForecastDefaults,
    ) -> Study<'a> {
        Study {
            limits,
            rules,
            policies,
            forecast,
            progress_every: self.progress.0,
            cache_known: !self.late_cache,
            record: self.out.is_some(),
        }
    }

    fn load(&self) -> Result<Vec<Loaded<'_>>, Failure> {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        let traces = self.traces.iter().map(|path| {
            bar.set_message(format!("reading {}", path.display()));
            let workload = Workload::read(path, &self.shape()).map_err(|error| Failure::Usage(error.to_string()))?;
            if workload.requests.is_empty() {
                let why = if self.scale < 1_000 { ", or --scale left none of them" } else { "" };
                return Err(Failure::Usage(format!("{}: has no requests{why}", path.display())));
            }
            Ok(Loaded { path, workload })
        });
        let traces = traces.collect();
        bar.finish_and_clear();
        traces
    }

    fn play(&self, study: &Study<'_>, name: &str, workload: &Workload) -> Report {
        let cpus = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let bar = progress_bar(study.requests(workload), name);
        let report =
            study.report(name, self.scale, workload, self.threads.unwrap_or_else(cpus), &|played| bar.inc(played));
        bar.finish_and_clear();
        report
    }

    fn show(&self, index: usize, trace: &Loaded<'_>, report: &Report) -> Result<(), Failure> {
        if self.json {
            let line = serde_json::to_string(report);
            return print(&line.map_err(|error| Failure::Failed(format!("the report: {error}")))?);
        }
        let gap = if index > 0 { "\n" } else { "" };
        print(&format!("{gap}{}", table::of(trace.path, &trace.workload, report)))
    }
}

impl From<LimitsArg> for Limits {
    fn from(limits: LimitsArg) -> Self {
        match limits {
            LimitsArg::Static => Self::Static,
            LimitsArg::Adaptive => Self::Adaptive,
        }
    }
}

/// On standard error; draws nothing where that is not a terminal.
fn progress_bar(requests: u64, name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} requests, {elapsed}, {eta} left  {msg}");
    ProgressBar::new(requests)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(printable(name))
}

/// Thousandths, exactly: a scale that was rounded is another experiment.
fn parse_scale(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = !whole.is_empty() && whole.len() <= 3 && fraction.len() <= 3 && digits(whole) && digits(fraction);
    let permille = if fits { format!("{whole}{fraction:0<3}").parse::<u64>().ok() } else { None };
    permille
        .filter(|permille| (1..=100_000).contains(permille))
        .ok_or_else(|| "write a number above 0 to 100 with at most three decimals".to_owned())
}

fn parse_progress(text: &str) -> Result<Progress, String> {
    if text == "off" {
        return Ok(Progress(None));
    }
    let every = parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(30);
    if allowed.contains(&every) {
        Ok(Progress(Some(every)))
    } else {
        Err("must be from 10ms to 30s, or off".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_exact_thousandths() {
        for (text, permille) in
            [("1", 1_000), ("0.5", 500), ("0.001", 1), ("2.75", 2_750), ("100", 100_000), ("1.", 1_000)]
        {
            assert_eq!(parse_scale(text), Ok(permille), "{text}");
        }
        for text in ["0", "0.000", "0.0005", "100.001", "-1", "+1", "1e3", "", ".5", "1.2.3", "one", "1000000000000"] {
            assert!(parse_scale(text).is_err(), "{text}");
        }
    }

    #[test]
    fn progress_is_a_span_or_off() {
        assert_eq!(parse_progress("off"), Ok(Progress(None)));
        assert_eq!(parse_progress("250ms"), Ok(Progress(Some(Duration::from_millis(250)))));
        assert!(parse_progress("31s").is_err() && parse_progress("1").is_err());
    }
}
