//! `tidegate bench`: how many decisions a running limiter makes, and how long a caller waits for one.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{ValueEnum, value_parser};
use tokio::task::{JoinSet, LocalSet};

use crate::failure::Failure;
use crate::output::{print, print_json, remark};
use crate::target::LimiterTarget;
use exchange::Exchange;
use keys::{Draw, Keys};
use meter::{Measured, Meter};
use report::Report;
use reserve::{Reserve, Template};
use tidegate_proto::v1::ResponseView;
use tidegate_server::config::amount::parse_duration;

mod closed;
mod exchange;
mod fields;
mod keys;
mod link;
mod meter;
mod report;
mod reserve;

const EXAMPLES: &str = "\
Examples:
  tidegate bench
  tidegate bench --connections 64 --streams 1 --view decision --settle
  tidegate bench --keys 1000000 --draw zipf --json | jq .decisions_per_s

Every request reserves tokens for real, for accounts `account-...` that are not configured: a load
of a limiter that others use is not what this is for. Limits that are reached make it count
denials, which is no failure; an answer that decides nothing is one.
To see what the server itself costs, name its process with --pid and give it a core of its own.";

/// Measure how many decisions a running limiter makes, and how long a caller waits
///
/// Each stream makes its next call when the one before is answered.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u16).range(1..=1_024))]
    connections: u16,

    /// Streams on each connection
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u16).range(1..=256))]
    streams: u16,

    /// What answers contain
    #[arg(long, value_enum, default_value_t = View::Full)]
    view: View,

    /// Limit keys that are asked about
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000_000_000))]
    keys: u32,

    /// How often each key comes up
    #[arg(long, value_enum, default_value_t = Draw::Uniform)]
    draw: Draw,

    /// Settle each reservation at once
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

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    limiter: LimiterTarget,
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
    let measured = LocalSet::new().run_until(args.load(&meter)).await?;
    let calls = measured.counts.calls;
    let report = Report(measured);
    if args.json {
        print_json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    if let Some((errors, first)) = meter.errors() {
        return Err(Failure::Failed(format!("{errors} calls failed; the first: {first}")));
    }
    if calls == 0 {
        return Err(Failure::Failed("no call was answered".to_owned()));
    }
    Ok(ExitCode::SUCCESS)
}

impl BenchArgs {
    async fn load(&self, meter: &Rc<Meter>) -> Result<Measured, Failure> {
        let reserve = Reserve::new(Template::new(self.view.into(), self.ttl), self.keys(0), self.settle);
        let mut load = JoinSet::new();
        self.exchange(&mut load, reserve, meter).await?;
        let measured = meter.run(self.warm_up, self.duration, self.pid).await?;
        let ended = tokio::time::timeout(self.limiter.timeout, async { while load.join_next().await.is_some() {} });
        if ended.await.is_err() {
            remark(&format!("{} streams had a call without an answer when the time was over.", load.len()));
            return Err(Failure::Failed(format!("calls were not answered within {:?}", self.limiter.timeout)));
        }
        Ok(measured)
    }

    /// Begins to exchange calls on all streams.
    async fn exchange(
        &self,
        load: &mut JoinSet<()>,
        exchange: impl Exchange,
        meter: &Rc<Meter>,
    ) -> Result<(), Failure> {
        for connection in 0..self.connections {
            let requests = link::connect(&self.limiter.target).await?;
            for stream in 0..self.streams {
                let seed = u64::from(connection) << 16 | u64::from(stream);
                let exchange = exchange.clone().with_keys(self.keys(seed));
                load.spawn_local(closed::run(requests.clone(), exchange, Rc::clone(meter)));
            }
        }
        Ok(())
    }

    fn keys(&self, seed: u64) -> Keys {
        Keys::new(self.keys, self.draw, seed + 1)
    }
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
