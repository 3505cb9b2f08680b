//! `tidegate config`: looks at configuration files.

use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_server::config;

use crate::failure::Failure;
use crate::output::print;

const EXAMPLES: &str = "\
Examples:
  tidegate config check tidegate.toml";

/// Check configuration files
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong with a file; flags and environment are not looked at
    #[command(after_help = EXAMPLES)]
    Check {
        /// The file, TOML
        file: PathBuf,
    },
}

/// Exit code 0: `serve --config FILE` would take it; 2: it would not.
pub(crate) fn run(args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let ConfigCommand::Check { file } = &args.command;
    config::check(file).map_err(|problems| Failure::Usage(problems.to_string()))?;
    print(&format!("{}: ok", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
