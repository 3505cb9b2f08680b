//! `tidegate config`: looks at configuration files, and makes a running server's policy what a file says.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidegate_core::policy::Policy;
use tidegate_core::time::Timestamp;
use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_server::config::{self, Problem, Problems};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::output::{print, remark};
use crate::stopwatch::wall_clock;
use crate::target::{AdminTarget, Target, connect};

mod apply;
mod fields;
mod object;
mod plan;
mod show;

use apply::ApplyArgs;
use plan::Plan;

const EXAMPLES: &str = "\
Examples:
  tidegate config check tidegate.toml
  tidegate config diff tidegate.toml
  tidegate config apply tidegate.toml --dry-run
  tidegate config apply tidegate.toml --prune --reason \"policy of May\"

The file is read as `serve --config FILE` reads it, the built-in tiers being part of it.
Tiers, accounts, models and overrides are compared and written. A server reads the rest
(default_tier, unknown_accounts, law_profiles, settings of the process) at its start alone.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
`diff` is as diff(1): 0 same, 1 different, 2 trouble.";

/// Check configuration files, compare them with a running server, and make its policy what they say
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
    /// Show where a running server's policy differs from a file
    #[command(after_help = EXAMPLES)]
    Diff(DiffArgs),
    /// Make a running server's policy what a file says; shows the plan and asks first
    #[command(after_help = EXAMPLES)]
    Apply(ApplyArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct DiffArgs {
    /// The file, TOML
    file: PathBuf,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminTarget,
}

/// Runs one command. Of `check`, exit code 0 says that `serve --config FILE` would take the file, 2 that it would not.
pub(crate) async fn run(args: ConfigArgs) -> Result<ExitCode, Failure> {
    match args.command {
        ConfigCommand::Check { file } => {
            read(&file)?;
            print(&format!("{}: ok", file.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        // Exit code 1 says that they differ, so a comparison that failed must be told apart from it.
        ConfigCommand::Diff(args) => diff(args).await.map_err(|failure| Failure::Usage(failure.to_string())),
        ConfigCommand::Apply(args) => apply::run(args).await,
    }
}

async fn diff(args: DiffArgs) -> Result<ExitCode, Failure> {
    let file = read(&args.file)?;
    let mut server = Server::connect(&args.admin).await?;
    let now = now();
    let plan = Plan::of(&mut server, &file, now, false).await?;
    if args.json {
        show::diff_json(&plan, &file)?
    } else {
        show::diff(&plan, &file, now)?
    }
    Ok(if plan.steps.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The policy of a file, or everything that is wrong with it. What is odd with it goes to standard error.
fn read(file: &Path) -> Result<Policy, Failure> {
    let wrong = |problems: Problems| {
        let name = file.display().to_string();
        // Where the file cannot be read at all, the place is the file.
        let line = |problem: &Problem| match problem.to_string() {
            line if line.starts_with(&name) => line,
            line => format!("{name}: {line}"),
        };
        Failure::Usage(problems.iter().map(line).collect::<Vec<_>>().join("\n"))
    };
    let config = config::check(file).map_err(wrong)?;
    for warning in &config.warnings {
        remark(&format!("warning: {}: {warning}", file.display()));
    }
    Ok(config.policy)
}

/// Which overrides have expired is judged by this machine's clock.
fn now() -> Timestamp {
    Timestamp::from_micros(u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX))
}

/// The admin service, and what it is called in messages.
struct Server {
    client: AdminServiceClient<Channel>,
    target: Target,
}

impl Server {
    async fn connect(admin: &AdminTarget) -> Result<Self, Failure> {
        let channel = connect(&admin.target, admin.timeout).await?;
        // A page of 1,000 tiers may be larger than the default of 4 MiB, which is for strangers.
        let client = AdminServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Ok(Self { client, target: admin.target.clone() })
    }
}
