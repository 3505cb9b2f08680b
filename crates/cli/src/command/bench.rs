//! `tidegate bench`: how many decisions a running limiter makes, and how long a caller waits for one.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{ValueEnum, value_parser};
use tokio::task::LocalSet;

use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::target::LimiterTarget;
use keys::Draw;
use meter::Meter;
use report::Report;
use tidegate_proto::v1::ResponseView;
use tidegate_server::config::amount::{parse_duration, parse_tokens};

mod batch;
mod closed;
mod exchange;
mod fields;
mod keys;
mod link;
mod load;
mod meter;
mod open;
mod pipeline;
mod redis;
mod report;
mod reserve;
mod throttlecrab;

const EXAMPLES: &str = "\
Examples:
  tidegate bench
  tidegate bench --connections 64 --streams 1 --view decision --settle
  tidegate bench --call pipeline --in-flight 1024 --keys 1M
  tidegate bench --rate 5000 --json | jq .latency_us

Every request reserves tokens for real, for accounts `account-...` that need not be configured: do
not load a limiter that others rely on. Denials are counted; an error, or an answer that decides
nothing, makes the command fail.
For the server's own cost, name its process with --pid, and give server and load a core each.";

/// Measure how many decisions a running limiter makes, and how long a caller waits
///
/// Each stream makes its next call when the one before is answered, unless --rate is given.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// What is called
    #[arg(long, value_enum, default_value_t = CallKind::Unary)]
    call: CallKind,

    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u16).range(1..=1_024))]
    connections: u16,

    /// Streams on each connection [default: 32; of pipelines 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    streams: Option<u16>,

    /// Calls in flight on each pipeline [default: 256]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1_024))]
    in_flight: Option<u16>,

    /// Reservations in each batch [default: 64]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    batch: Option<u16>,

    /// Make so many unary calls a second, at random instants, each timed from when it was due
    #[arg(long, value_name = "CALLS/S", value_parser = value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// What answers contain
    #[arg(long, value_enum, default_value_t = View::Full)]
    view: View,

    /// Limit keys that are asked about, such as 1M
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_keys)]
    keys: u32,

    /// How often each key comes up
    #[arg(long, value_enum, default_value_t = Draw::Uniform)]
    draw: Draw,

    /// Settle each reservation at once; settlements count as calls, in a batch as one
    #[arg(long)]
    settle: bool,

    /// How long reservations live that are not settled: 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_ttl)]
    ttl: Duration,

    /// Time before measuring starts
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_length)]
    warm_up: Duration,

    /// Time that is measured
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_length)]
    duration: Duration,

    /// The server's process, on this machine: its processor time is reported too
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// What the target is: a peer gets the same load, for comparison
    ///
    /// throttlecrab: its gRPC call Throttle. redis, redis-lean: a script with three counters, one call at a time on each
    /// connection, or --in-flight of them with --call pipeline.
    #[arg(long, value_enum, default_value_t = Speak::Tidegate)]
    speak: Speak,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    limiter: LimiterTarget,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CallKind {
    /// CheckAndReserve
    Unary,
    /// The same on streams, many calls in flight on each
    Pipeline,
    /// BatchCheckAndReserve
    Batch,
}

/// What the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speak {
    /// tidegate
    Tidegate,
    /// throttlecrab
    Throttlecrab,
    /// Redis or Valkey, a script as it is mostly written
    Redis,
    /// The same, a script with as few commands as there may be
    RedisLean,
}

/// What answers contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum View {
    /// Window statuses and headers
    Full,
    /// Headers, no window statuses
    Headers,
    /// Window statuses, no headers
    Windows,
    /// Neither
    Decision,
}

impl From<View> for ResponseView {
    fn from(view: View) -> Self {
        match view {
            View::Full => Self::Full,
            View::Headers => Self::Headers,
            View::Windows => Self::Windows,
            View::Decision => Self::Decision,
        }
    }
}

/// Loads, measures, shows.
pub(crate) async fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    let meter = Rc::new(Meter::new()?);
    let measured = LocalSet::new().run_until(load::run(&args, &meter)).await?;
    let (calls, report) = (measured.counts.calls, Report { measured, whole: meter.so_far() });
    if args.json {
        print_json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    match meter.errors() {
        Some((errors, first)) => Err(Failure::Failed(format!("{errors} calls failed; the first: {first}"))),
        None if calls == 0 => Err(Failure::Failed("no call was answered while it was measured".to_owned())),
        None => Ok(ExitCode::SUCCESS),
    }
}

impl BenchArgs {
    /// Whether the flags go together: one that would do nothing is a mistake.
    fn check(&self) -> Result<(), Failure> {
        let is_grpc = matches!(self.speak, Speak::Tidegate | Speak::Throttlecrab);
        let wrong = [
            (self.in_flight.is_some() && self.call != CallKind::Pipeline, "--in-flight is for --call pipeline"),
            (self.batch.is_some() && self.call != CallKind::Batch, "--batch is for --call batch"),
            (
                self.rate.is_some() && (self.call != CallKind::Unary || !is_grpc),
                "--rate is for --call unary, of tidegate or throttlecrab",
            ),
            (self.rate.is_some() && self.streams.is_some(), "--streams says nothing with --rate"),
            (self.streams.is_some() && !is_grpc, "--streams is for gRPC: Redis has connections alone"),
            (self.settle && self.speak != Speak::Tidegate, "--settle is for tidegate: nobody else has settlements"),
            (
                self.speak == Speak::Throttlecrab && self.call != CallKind::Unary,
                "throttlecrab has no call but --call unary",
            ),
            (!is_grpc && self.call == CallKind::Batch, "Redis has no --call batch"),
        ];
        wrong.iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, why)| Err(Failure::Usage((*why).to_owned())))
    }
}

fn parse_keys(text: &str) -> Result<u32, String> {
    let keys = parse_tokens(text).map_err(|error| error.to_string())?;
    let keys = u32::try_from(keys).ok().filter(|keys| (1..=1_000_000_000).contains(keys));
    keys.ok_or_else(|| "must be from 1 to 1G".to_owned())
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1), Duration::from_secs(3_600), "1s to 1h")
}

fn parse_length(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(1), Duration::from_secs(86_400), "1ms to 1d")
}

fn within(text: &str, least: Duration, most: Duration, range: &str) -> Result<Duration, String> {
    let length = parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&length) { Ok(length) } else { Err(format!("must be from {range}")) }
}
