//! `tidegate admin`: what operators read and change, over the admin listener.

use std::process::ExitCode;

use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::status::explain;
use crate::target::{AdminTarget, Target, connect};

mod accounts;
mod boost;
mod bounds;
mod changes;
mod enforcement;
mod explain;
mod limits;
mod listing;
mod models;
mod overrides;
mod tiers;
pub(super) mod write;

const EXAMPLES: &str = "\
Examples:
  tidegate admin tiers list
  tidegate admin accounts create acme --tier tier-2
  tidegate admin overrides create --account acme --prompt-floor 9M --expires-in 7d --reason launch
  tidegate admin limits list --at-ceiling --json
  tidegate admin limits explain --account acme --model large --to 200k
  tidegate admin boost --account acme --generated 400k --for 2h --reason launch --dry-run
  tidegate admin enforcement set shadow --reason \"wrong limits\" --yes
  tidegate admin changes --since 1h

Amounts are tokens per minute, such as 900k or 3.6M. With --json, lists print one object a line.";

/// Read and change tiers, accounts, models and overrides; see limits and who changed what; turn enforcement off and on
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,

    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    admin: AdminTarget,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum AdminCommand {
    Tiers(tiers::TiersArgs),
    Accounts(accounts::AccountsArgs),
    Models(models::ModelsArgs),
    Overrides(overrides::OverridesArgs),
    Limits(limits::LimitsArgs),
    Boost(boost::BoostArgs),
    Enforcement(enforcement::EnforcementArgs),
    Changes(changes::ChangesArgs),
}

/// Connects and runs one command.
pub(crate) async fn run(args: AdminArgs) -> Result<ExitCode, Failure> {
    let channel = connect(&args.admin.target, args.admin.timeout).await?;
    // An answer may be as large as a page of 1,000 tiers; the default of 4 MiB is for strangers.
    let client = AdminServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let session = Session { client, target: args.admin.target, json: args.json };
    match args.command {
        AdminCommand::Tiers(args) => tiers::run(session, args.command).await,
        AdminCommand::Accounts(args) => accounts::run(session, args.command).await,
        AdminCommand::Models(args) => models::run(session, args.command).await,
        AdminCommand::Overrides(args) => overrides::run(session, args.command).await,
        AdminCommand::Limits(args) => limits::run(session, args.command).await,
        AdminCommand::Boost(args) => boost::run(session, args).await,
        AdminCommand::Enforcement(args) => enforcement::run(session, args).await,
        AdminCommand::Changes(args) => changes::run(session, args).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A connection to the admin service, and how its answers are shown.
struct Session {
    client: AdminServiceClient<Channel>,
    target: Target,
    json: bool,
}

impl Session {
    /// What a failed call means, for people.
    fn explain(&self, call: &'static str) -> impl FnOnce(Status) -> Failure {
        let target = self.target.clone();
        move |status| explain(call, &target, &status)
    }
}
