//! `tidegate admin enforcement`: the switch for everybody, and what tiers and accounts take of it.

use clap::ValueEnum;
use serde_json::json;
use tidegate_proto::v1::{Enforcement, EnforcementSwitch, GetEnforcementRequest, UpdateEnforcementRequest};
use tonic::Response;

use super::Session;
use super::listing::Listing;
use super::write::{WriteFlags, Written};
use crate::confirm::ConfirmFlags;
use crate::failure::Failure;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  tidegate admin enforcement get
  tidegate admin enforcement set shadow --reason \"denies paying customers\" --yes
  tidegate admin enforcement set on --reason \"limits corrected\"
  tidegate admin tiers update tier-1 --enforcement shadow
  tidegate admin accounts update acme --enforcement inherit";

/// Enforce limits, or let everybody through and only count: the switch for emergencies
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EnforcementArgs {
    #[command(subcommand)]
    command: EnforcementCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum EnforcementCommand {
    /// Show where the switch stands
    #[command(after_help = EXAMPLES)]
    Get,
    /// Turn the switch: the next decision goes by it
    #[command(after_help = EXAMPLES)]
    Set {
        /// on: limits are enforced, but where a tier or an account is in shadow; shadow: nobody is denied by a limit
        to: Position,
        #[command(flatten)]
        confirm: ConfirmFlags,
        #[command(flatten)]
        write: WriteFlags,
    },
}

/// Where the global switch may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Position {
    On,
    Shadow,
}

/// What a tier or an account says for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OwnEnforcement {
    /// Limits are enforced
    On,
    /// Denials are counted and told, and not enforced
    Shadow,
    /// As the tier says, or the global switch
    Inherit,
}

impl OwnEnforcement {
    pub(super) const fn to_wire(self) -> Enforcement {
        match self {
            Self::On => Enforcement::On,
            Self::Shadow => Enforcement::Shadow,
            Self::Inherit => Enforcement::Unspecified,
        }
    }
}

const LISTING: Listing<EnforcementSwitch> = Listing {
    columns: &["ENFORCEMENT", "#REVISION"],
    cells: |switch| vec![words::enforcement(switch.enforcement), switch.revision.to_string()],
    json: |switch| json!({ "enforcement": words::enforcement(switch.enforcement), "revision": switch.revision }),
};

/// Shows or turns the switch.
pub(super) async fn run(mut session: Session, args: EnforcementArgs) -> Result<(), Failure> {
    match args.command {
        EnforcementCommand::Get => {
            let answer = session.client.get_enforcement(GetEnforcementRequest {}).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("GetEnforcement"))?;
            LISTING.print_one(&session, &answer.enforcement.unwrap_or_default())
        }
        EnforcementCommand::Set { to, confirm, write } => {
            let to = match to {
                Position::On => Enforcement::On,
                Position::Shadow => Enforcement::Shadow,
            };
            if to == Enforcement::Shadow && !write.dry_run {
                // What is let through meanwhile cannot be taken back.
                confirm.confirm("In shadow nobody is denied by a limit, on any account, from the next request on.")?;
            }
            let request = UpdateEnforcementRequest { enforcement: to.into(), options: write.to_wire() };
            let answer = session.client.update_enforcement(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateEnforcement"))?;
            let written = Written {
                changes: Vec::new(),
                effect: None,
                persisted: answer.persisted,
                warnings: Vec::new(),
                dry_run: write.dry_run,
            };
            written.print(&session, &LISTING, answer.enforcement.as_ref())
        }
    }
}
