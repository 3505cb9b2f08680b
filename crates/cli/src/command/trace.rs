//! `tidegate trace`: makes traces.

use std::process::ExitCode;

use clap::value_parser;

use crate::failure::Failure;
use crate::output::print;
use tidegate_sim::synth::SynthTrace;

const EXAMPLES: &str = "\
Examples:
  tidegate trace synth > synthetic.csv
  tidegate trace synth --seed 1 --minutes 60 --accounts 20 --rate 600 | gzip > busy.csv.gz";

/// Make traces for replay
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum TraceCommand {
    Synth(SynthArgs),
}

/// Write a synthetic trace to standard output, as CSV
///
/// Chat sessions of made-up accounts. The same arguments give the same bytes on every machine.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct SynthArgs {
    /// Another seed is another trace
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,

    /// Length in minutes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u64).range(1..=1_440))]
    minutes: u64,

    /// Accounts; the n-th asks 1/n times as often as the first
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u64).range(1..=10_000))]
    accounts: u64,

    /// Requests per minute, all accounts together
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = value_parser!(u64).range(1..=100_000))]
    rate: u64,
}

/// Writes the trace.
pub(crate) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    let TraceCommand::Synth(SynthArgs { seed, minutes, accounts, rate }) = args.command;
    print(&SynthTrace { seed, minutes, accounts, rate }.to_csv())?;
    Ok(ExitCode::SUCCESS)
}
