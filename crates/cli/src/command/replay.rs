//! `tidegate replay`: plays a trace against a running server, as the gateway of those requests would have called it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::output::{grouped, print, print_json, remark};
use crate::target::LimiterTarget;
use agenda::Agenda;
use caller::Caller;
use decision_log::DecisionLog;
use player::{Pace, Played, Player};
use tidegate_server::config::amount::parse_duration;
use tidegate_sim::trace::{self, TraceReader};

mod agenda;
mod caller;
mod decision_log;
mod player;
mod report;
mod tally;

const EXAMPLES: &str = "\
Examples:
  tidegate replay crates/sim/data/synthetic.csv --speed 60
  tidegate replay trace.csv.gz --max-requests 1000 --json | jq .latency_us
  tidegate replay trace.csv.gz --decisions decisions.jsonl

At --speed N the server sees N times the trace's traffic in each of its minutes.
A trace is gzip or plain CSV, sorted by t_ms, with the columns t_ms, account, model, prompt_tokens,
generated_tokens and, where known, cached_prompt_tokens and duration_ms (else 0.5 s and 1/40 s for
each generated token).
Ctrl-C settles what is under way and shows the table so far.";

/// Play a trace against a running server
///
/// Each row is a request: reserved when it arrives, reported on while it generates, settled at its end. Denied requests are
/// not retried.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReplayArgs {
    /// The trace
    #[arg(value_name = "TRACE")]
    trace: PathBuf,

    /// Seconds of the trace in each second
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_speed)]
    speed: f64,

    /// Stop after so many requests
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    max_requests: u64,

    /// Report progress this often, in the trace's time, after the first token [default: 1s; on the test clock 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_progress_every)]
    progress_every: Option<Duration>,

    /// Most calls in flight
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u16).range(1..=4_096))]
    concurrency: u16,

    /// Connections that share the calls
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u8).range(1..=64))]
    connections: u8,

    /// Write every call and its answer to this file, one JSON object a line, for an audit
    ///
    /// The first line names the clock of the times. Then each line is a call, in the order of the answers: kind (reserve,
    /// progress or settle), row of the trace, sent_us and received_us, between which it was decided, and error if it
    /// failed. A reserve has the key, the ask, request_id, decision, reason, reserved, windows (limit, effective_limit,
    /// used, held, remaining, binding) and, if it was allowed, reservation: its number, by which progress and settle
    /// name it beside the counts they state and the outcome.
    #[arg(long, value_name = "FILE.jsonl")]
    decisions: Option<PathBuf>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// Move the clock of `serve --test-clock` along with the trace, as fast as calls are answered one by one;
    /// --speed, --concurrency and --connections do not matter then
    #[cfg(feature = "test-clock")]
    #[arg(long)]
    test_clock: bool,

    /// What the trace's time 0 is on the test clock, seconds since 1970
    #[cfg(feature = "test-clock")]
    #[arg(long, value_name = "SECONDS", default_value_t = 1_700_000_000, requires = "test_clock")]
    #[arg(value_parser = value_parser!(u64).range(..=253_402_300_799))]
    test_clock_base: u64,

    #[command(flatten)]
    limiter: LimiterTarget,
}

/// Reads, connects, plays, shows.
pub(crate) async fn run(args: ReplayArgs) -> Result<ExitCode, Failure> {
    let unreadable = |error: trace::TraceError| Failure::Usage(error.to_string());
    let survey = trace::survey(&args.trace).map_err(unreadable)?;
    let base_us = args.test_clock_base_us();
    let (pace, every, in_flight, connections) = match base_us {
        Some(_) => (Pace::TestClock, Duration::from_secs(5), 1, 1),
        None => {
            let pace = Pace::Real { speed: args.speed };
            (pace, Duration::from_secs(1), args.concurrency.into(), args.connections.into())
        }
    };
    let every_ms = u64::try_from(args.progress_every.unwrap_or(every).as_millis()).unwrap_or(u64::MAX);
    let rows = TraceReader::open(&args.trace).map_err(unreadable)?;
    let agenda = Agenda::new(rows, args.max_requests, every_ms).map_err(unreadable)?;
    let log = args.decisions.as_deref().map(|path| DecisionLog::create(path, base_us)).transpose()?;
    let caller = Caller::connect(&args.limiter.target, args.limiter.timeout, connections, base_us).await?;

    let bar = progress_bar(survey.rows.min(args.max_requests));
    let player = Player { agenda, caller: Arc::new(caller), pace, max_in_flight: in_flight, log, bar };
    let played = player.play().await?;
    args.show(&played)
}

impl ReplayArgs {
    #[cfg(feature = "test-clock")]
    fn test_clock_base_us(&self) -> Option<u64> {
        self.test_clock.then_some(self.test_clock_base * 1_000_000)
    }

    #[cfg(not(feature = "test-clock"))]
    fn test_clock_base_us(&self) -> Option<u64> {
        None
    }

    fn show(&self, played: &Played) -> Result<ExitCode, Failure> {
        if self.json {
            print_json(&played.json())?;
        } else {
            print(&format!(
                "{}: {} requests, {:.1} minutes of the trace in {:.1} s\n\n{}",
                self.trace.display(),
                grouped(played.tally.requests),
                played.trace_ms as f64 / 60_000.0,
                played.elapsed.as_secs_f64(),
                played.table()
            ))?;
        }
        if played.behind > Duration::from_secs(1) {
            let behind = played.behind.as_secs_f64();
            remark(&format!(
                "Calls were made up to {behind:.1} s later than due: lower --speed or raise --concurrency."
            ));
        }
        if let Some(why) = played.ended_early {
            remark(&format!("The replay ended early: {why}."));
        }
        match &played.tally.first_error {
            None => Ok(ExitCode::SUCCESS),
            Some(first) => Err(Failure::Failed(format!(
                "{} calls failed; the first: {first}",
                grouped(played.tally.error_count())
            ))),
        }
    }
}

/// On standard error; draws nothing where that is not a terminal.
fn progress_bar(requests: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} requests, {elapsed}, {eta} left  {msg}");
    ProgressBar::new(requests).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (0.001..=1_000_000.0).contains(speed));
    speed.ok_or_else(|| "write a number from 0.001 to 1000000".to_owned())
}

/// The contract wants a report at least every 30 s.
fn parse_progress_every(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(30);
    if allowed.contains(&every) { Ok(every) } else { Err("must be from 10ms to 30s".to_owned()) }
}
