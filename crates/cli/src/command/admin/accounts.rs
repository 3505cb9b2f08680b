//! `tidegate admin accounts`.

use serde_json::{Value, json};
use tidegate_proto::v1::{
    Account, CreateAccountRequest, DeleteAccountRequest, GetAccountRequest, ListAccountsRequest, UpdateAccountRequest,
};
use tonic::Response;

use super::Session;
use super::listing::{Listing, PAGE_SIZE};
use super::write::{WriteFlags, Written, mask};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  tidegate admin accounts list --tier tier-2
  tidegate admin accounts show acme
  tidegate admin accounts create acme --tier tier-2
  tidegate admin accounts update acme --tier enterprise --reason \"signed\"
  tidegate admin accounts update acme --blocked true --reason abuse
  tidegate admin accounts delete acme";

/// Accounts: their tier, and whether they are refused
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AccountsArgs {
    #[command(subcommand)]
    pub(super) command: AccountsCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum AccountsCommand {
    /// List the configured accounts
    #[command(after_help = EXAMPLES)]
    List {
        /// Only accounts of this tier
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        tier: String,
    },
    /// Show one account
    #[command(after_help = EXAMPLES)]
    Show {
        /// The account
        name: String,
    },
    /// Create an account
    #[command(after_help = EXAMPLES)]
    Create {
        /// The account
        name: String,
        #[command(flatten)]
        fields: AccountFields,
    },
    /// Change what the flags name, and nothing else
    #[command(after_help = EXAMPLES)]
    Update {
        /// The account
        name: String,
        #[command(flatten)]
        fields: AccountFields,
    },
    /// Delete an account; afterwards it is an unknown one
    #[command(after_help = EXAMPLES)]
    Delete {
        /// The account
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct AccountFields {
    /// Its tier; "" is the tier of unknown accounts
    #[arg(long, value_name = "NAME")]
    tier: Option<String>,
    /// Refuse every request of it
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    blocked: Option<bool>,
    #[command(flatten)]
    write: WriteFlags,
}

const LISTING: Listing<Account> = Listing {
    columns: &["ACCOUNT", "TIER", "BLOCKED", "#REVISION"],
    cells: |account| {
        let blocked = if account.blocked { "yes" } else { "no" };
        vec![account.name.clone(), account.tier.clone(), blocked.to_owned(), account.revision.to_string()]
    },
    json: to_json,
};

/// Runs one command.
pub(super) async fn run(mut session: Session, command: AccountsCommand) -> Result<(), Failure> {
    match command {
        AccountsCommand::List { tier } => {
            let pages = LISTING.print_pages(&mut session, "ListAccounts", async |session: &mut Session, page_token| {
                let request = ListAccountsRequest { page_size: PAGE_SIZE, page_token, tier: tier.clone() };
                let page = session.client.list_accounts(request).await?.into_inner();
                Ok((page.accounts, page.next_page_token))
            });
            pages.await
        }
        AccountsCommand::Show { name } => {
            let answer = session.client.get_account(GetAccountRequest { name }).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("GetAccount"))?;
            LISTING.print_one(&session, &answer.account.unwrap_or_default())
        }
        AccountsCommand::Create { name, fields } => {
            let request = CreateAccountRequest { account: Some(fields.account(name)), options: fields.write.to_wire() };
            let answer = session.client.create_account(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("CreateAccount"))?;
            let written = Written {
                changes: answer.changes,
                effect: answer.effect,
                persisted: answer.persisted,
                warnings: answer.warnings,
                dry_run: fields.write.dry_run,
            };
            written.print(&session, &LISTING, answer.account.as_ref())
        }
        AccountsCommand::Update { name, fields } => {
            let mut paths = Vec::new();
            paths.extend(fields.tier.is_some().then(|| "tier".to_owned()));
            paths.extend(fields.blocked.is_some().then(|| "blocked".to_owned()));
            let (options, update_mask) = (fields.write.to_wire(), mask(paths)?);
            let request = UpdateAccountRequest { account: Some(fields.account(name)), update_mask, options };
            let answer = session.client.update_account(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateAccount"))?;
            let written = Written {
                changes: answer.changes,
                effect: answer.effect,
                persisted: answer.persisted,
                warnings: answer.warnings,
                dry_run: fields.write.dry_run,
            };
            written.print(&session, &LISTING, answer.account.as_ref())
        }
        AccountsCommand::Delete { name, write } => {
            let request = DeleteAccountRequest { name, options: write.to_wire() };
            let answer = session.client.delete_account(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("DeleteAccount"))?;
            let written = Written {
                changes: answer.changes,
                effect: answer.effect,
                persisted: answer.persisted,
                warnings: answer.warnings,
                dry_run: write.dry_run,
            };
            written.print(&session, &LISTING, None)
        }
    }
}

impl AccountFields {
    fn account(&self, name: String) -> Account {
        let (tier, blocked) = (self.tier.clone().unwrap_or_default(), self.blocked.unwrap_or_default());
        Account { name, tier, blocked, revision: 0 }
    }
}

fn to_json(account: &Account) -> Value {
    json!({
        "name": account.name,
        "tier": account.tier,
        "blocked": account.blocked,
        "revision": account.revision,
    })
}
