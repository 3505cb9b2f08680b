//! The `tidegate` binary as a library: [`main`], and what studies of it share with it.
//!
//! `main` dispatches; each command is one file below `command`, and ends with an exit code or a `Failure`.
#![forbid(unsafe_code)]

use std::future::Future;
use std::process::ExitCode;

use clap::Parser as _;

mod command;
mod confirm;
mod failure;
mod output;
mod status;
mod stopwatch;
mod target;
pub mod timer;
mod words;

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  tidegate serve
  tidegate check --account acme --model large --prompt 12k
  tidegate replay trace.csv.gz --speed 60
  tidegate simulate trace.csv.gz --out plots
  tidegate top

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
`check` and `config diff` have their own.";

/// Rate limiting for LLM serving: may this account spend these tokens now?
#[derive(Debug, clap::Parser)]
#[command(name = "tidegate", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(command::serve::ServeCommand),
    Admin(command::admin::AdminArgs),
    Check(command::check::CheckArgs),
    Health(command::health::HealthArgs),
    Replay(command::replay::ReplayArgs),
    Simulate(command::simulate::SimulateArgs),
    Config(command::config::ConfigArgs),
    Snapshot(command::snapshot::SnapshotArgs),
    Trace(command::trace::TraceArgs),
    Top(command::top::TopArgs),
    Bench(command::bench::BenchArgs),
}

/// Runs the command that the process's arguments name. Reads arguments and environment; never panics on them.
#[must_use]
pub fn main() -> ExitCode {
    // Prints help, version or what is wrong with the arguments, and exits with 0 or 2.
    let cli = Cli::parse();
    let end = match cli.command {
        Command::Serve(command) => command::serve::run(&command),
        Command::Admin(args) => block_on(command::admin::run(args)),
        Command::Check(args) => block_on(command::check::run(args)),
        Command::Health(args) => block_on(command::health::run(args)),
        Command::Replay(args) => block_on(command::replay::run(args)),
        Command::Simulate(args) => command::simulate::run(&args),
        Command::Config(args) => block_on(command::config::run(args)),
        Command::Snapshot(args) => command::snapshot::run(&args),
        Command::Trace(args) => command::trace::run(&args),
        Command::Top(args) => block_on(command::top::run(args)),
        Command::Bench(args) => block_on(command::bench::run(args)),
    };
    end.unwrap_or_else(|failure| {
        output::remark(&format!("tidegate: {failure}"));
        failure.exit_code()
    })
}

/// Runs a client command; one thread is enough for it.
fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_well_formed_and_shows_examples() {
        fn visit(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  tidegate "), "`{path}` has no examples in its --help");
            let wraps = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(
                wraps, None,
                "`{path}`: help is at most 100 columns wide: what is longer is wrapped, and an example cannot be copied"
            );
            assert!(command.get_about().is_some(), "`{path}` does not say what it does");
            for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
                visit(subcommand, &path);
            }
        }
        let command = Cli::command();
        command.clone().debug_assert();
        visit(&command, "");
    }
}
