//! `tidegate admin accounts`.

use serde_json::{Value, json};
use tidegate_proto::v1::{
    Account, CreateAccountRequest, DeleteAccountRequest, GetAccountRequest, ListAccountsRequest, UpdateAccountRequest,
};
use tonic::{Code, Response};

use super::Session;
use super::enforcement::OwnEnforcement;
use super::listing::{Listing, PAGE_SIZE};
use super::write::{FinalWriteFlags, WriteAnswer, WriteFlags, mask};
use crate::failure::Failure;
use crate::output::printable;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  tidegate admin accounts list --tier tier-2
  tidegate admin accounts show acme
  tidegate admin accounts create acme --tier tier-2
  tidegate admin accounts update acme --tier enterprise --reason \"signed\"
  tidegate admin accounts update acme --enforcement shadow --reason \"new limits, on trial\"
  tidegate admin accounts block acme --reason abuse
  tidegate admin accounts unblock acme
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
    /// Refuse every request of an account, in shadow too; creates it where it is not configured
    #[command(after_help = EXAMPLES)]
    Block {
        /// The account
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Let a blocked account ask again
    #[command(after_help = EXAMPLES)]
    Unblock {
        /// The account
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Delete an account; afterwards it is an unknown one
    #[command(after_help = EXAMPLES)]
    Delete {
        /// The account
        name: String,
        #[command(flatten)]
        write: FinalWriteFlags,
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
    /// Enforce its limits, or decide and count alone
    #[arg(long, value_name = "on|shadow|inherit", hide_possible_values = true)]
    enforcement: Option<OwnEnforcement>,
    #[command(flatten)]
    write: WriteFlags,
}

const LISTING: Listing<Account> = Listing {
    columns: &["ACCOUNT", "TIER", "BLOCKED", "ENFORCEMENT", "#REVISION"],
    cells: |account| {
        let blocked = if account.blocked { "yes" } else { "no" };
        let (enforcement, revision) = (words::enforcement(account.enforcement), account.revision.to_string());
        vec![account.name.clone(), account.tier.clone(), blocked.to_owned(), enforcement, revision]
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
        AccountsCommand::Create { name, fields } => create(session, fields.account(name), &fields.write).await,
        AccountsCommand::Update { name, fields } => {
            let mut paths = Vec::new();
            paths.extend(fields.tier.is_some().then(|| "tier".to_owned()));
            paths.extend(fields.blocked.is_some().then(|| "blocked".to_owned()));
            paths.extend(fields.enforcement.is_some().then(|| "enforcement".to_owned()));
            update(session, fields.account(name), paths, &fields.write).await
        }
        AccountsCommand::Block { name, write } => {
            let account = Account { name, blocked: true, ..Account::default() };
            let known = session.client.get_account(GetAccountRequest { name: account.name.clone() }).await;
            match known {
                Err(status) if status.code() == Code::NotFound => create(session, account, &write).await,
                known => {
                    known.map_err(session.explain("GetAccount"))?;
                    update(session, account, vec!["blocked".to_owned()], &write).await
                }
            }
        }
        AccountsCommand::Unblock { name, write } => {
            let account = Account { name, ..Account::default() };
            update(session, account, vec!["blocked".to_owned()], &write).await
        }
        AccountsCommand::Delete { name, write } => {
            write.confirm(&format!(
                "Account {} would be deleted: it would have the limits of an unknown account.",
                printable(&name)
            ))?;
            let request = DeleteAccountRequest { name, options: write.write.to_wire() };
            let answer = session.client.delete_account(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("DeleteAccount"))?;
            answer.written(write.write.dry_run).print(&session, &LISTING, None)
        }
    }
}

async fn create(mut session: Session, account: Account, write: &WriteFlags) -> Result<(), Failure> {
    let request = CreateAccountRequest { account: Some(account), options: write.to_wire() };
    let answer = session.client.create_account(request).await;
    let answer = answer.map(Response::into_inner).map_err(session.explain("CreateAccount"))?;
    answer.written(write.dry_run).print(&session, &LISTING, answer.account.as_ref())
}

async fn update(mut session: Session, account: Account, paths: Vec<String>, write: &WriteFlags) -> Result<(), Failure> {
    let (options, update_mask) = (write.to_wire(), mask(paths)?);
    let request = UpdateAccountRequest { account: Some(account), update_mask, options };
    let answer = session.client.update_account(request).await;
    let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateAccount"))?;
    answer.written(write.dry_run).print(&session, &LISTING, answer.account.as_ref())
}

impl AccountFields {
    fn account(&self, name: String) -> Account {
        let (tier, blocked) = (self.tier.clone().unwrap_or_default(), self.blocked.unwrap_or_default());
        let enforcement = self.enforcement.map_or(0, |own| own.to_wire().into());
        Account { name, tier, blocked, enforcement, revision: 0 }
    }
}

fn to_json(account: &Account) -> Value {
    json!({
        "name": account.name,
        "tier": account.tier,
        "blocked": account.blocked,
        "enforcement": words::enforcement(account.enforcement),
        "revision": account.revision,
    })
}
