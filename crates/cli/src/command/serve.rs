//! `tidegate serve`: runs the server.

use std::process::ExitCode;

use tidegate_server::config::{self, ServeArgs};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  tidegate serve
  tidegate serve --config tidegate.toml --listen 0.0.0.0:7437
  tidegate serve --listen off --unix-socket /run/tidegate.sock --admin-listen unix:/run/admin.sock

A flag wins over its TIDEGATE_* environment variable, the variable over the file.
SIGTERM and Ctrl-C stop it: calls in flight are answered first.";

/// Decide for gateways: serve the limiter, the admin API and metrics
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    args: ServeArgs,
}

/// Loads the configuration, all of its mistakes at once, and serves until told to stop.
pub(crate) fn run(command: &ServeCommand) -> Result<ExitCode, Failure> {
    let config = config::load(&command.args).map_err(|problems| Failure::Usage(problems.to_string()))?;
    Ok(tidegate_server::serve(config))
}
