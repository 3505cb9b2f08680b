//! `tidegate admin overrides`.

use std::time::Duration;

use prost_types::Timestamp;
use serde_json::{Value, json};
use tidegate_proto::v1::{
    CreateOverrideRequest, DeleteOverrideRequest, GetOverrideRequest, ListOverridesRequest, Override, Scope,
    UpdateOverrideRequest,
};
use tonic::Response;

use super::Session;
use super::bounds::{self, BoundFlags};
use super::listing::{Listing, PAGE_SIZE};
use super::write::{FinalWriteFlags, WriteAnswer, WriteFlags, mask};
use crate::failure::Failure;
use crate::output::printable;
use crate::stopwatch::wall_clock;
use tidegate_server::config::amount::parse_duration;

const EXAMPLES: &str = "\
Examples:
  tidegate admin overrides list --account acme
  tidegate admin overrides create --account acme --prompt-floor 9M --expires-in 7d --reason launch
  tidegate admin overrides update 0d9f2c --generated-floor 400k --expires-at 2027-01-01T00:00:00Z
  tidegate admin overrides update 0d9f2c --no-expiry
  tidegate admin overrides delete 0d9f2c";

/// Overrides: bounds of one account or one of its keys that win over tier and model
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct OverridesArgs {
    #[command(subcommand)]
    pub(super) command: OverridesCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum OverridesCommand {
    /// List the overrides
    #[command(after_help = EXAMPLES)]
    List {
        /// Only those of this account
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        account: String,
    },
    /// Show one override
    #[command(after_help = EXAMPLES)]
    Show {
        /// The override's id
        id: String,
    },
    /// Create an override
    #[command(after_help = EXAMPLES)]
    Create {
        /// Its id; without it, the server makes one
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        id: String,
        #[command(flatten)]
        scope: ScopeFlags,
        #[command(flatten)]
        fields: OverrideFields,
    },
    /// Change what the flags name, and nothing else; --reason also replaces the override's own
    #[command(after_help = EXAMPLES)]
    Update {
        /// The override's id
        id: String,
        #[command(flatten)]
        fields: OverrideFields,
        /// Let it never end by itself
        #[arg(long, conflicts_with_all = ["expires_in", "expires_at"])]
        no_expiry: bool,
    },
    /// Delete an override; limits fall back to the bounds of tier and model
    #[command(after_help = EXAMPLES)]
    Delete {
        /// The override's id
        id: String,
        #[command(flatten)]
        write: FinalWriteFlags,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ScopeFlags {
    /// Whose limits
    #[arg(long, value_name = "NAME")]
    account: String,
    /// On this model alone
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// On this variant of it alone; "" is the regular one
    #[arg(long, value_name = "NAME", requires = "model")]
    variant: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OverrideFields {
    /// Let it end by itself after so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// Let it end by itself at this time, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_at: Option<Timestamp>,
    #[command(flatten)]
    bounds: BoundFlags,
    #[command(flatten)]
    write: WriteFlags,
}

const LISTING: Listing<Override> = Listing {
    columns: &[
        "OVERRIDE",
        "ACCOUNT",
        "MODEL",
        "VARIANT",
        bounds::COLUMNS[0],
        bounds::COLUMNS[1],
        bounds::COLUMNS[2],
        "EXPIRES",
        "#REVISION",
        "REASON",
    ],
    cells: |over| {
        let scope = over.scope.clone().unwrap_or_default();
        let part = |part: Option<String>| match part {
            None => "(all)".to_owned(),
            Some(name) if name.is_empty() => "(regular)".to_owned(),
            Some(name) => name,
        };
        let [prompt, uncached, generated] = bounds::cells(over.bounds.as_ref());
        let expires = over.expire_time.as_ref().map_or_else(|| "never".to_owned(), ToString::to_string);
        vec![
            over.override_id.clone(),
            scope.account,
            part(scope.model),
            part(scope.variant),
            prompt,
            uncached,
            generated,
            expires,
            over.revision.to_string(),
            over.reason.clone(),
        ]
    },
    json: to_json,
};

/// Runs one command.
pub(super) async fn run(mut session: Session, command: OverridesCommand) -> Result<(), Failure> {
    match command {
        OverridesCommand::List { account } => {
            let pages =
                LISTING.print_pages(&mut session, "ListOverrides", async |session: &mut Session, page_token| {
                    let request = ListOverridesRequest { page_size: PAGE_SIZE, page_token, account: account.clone() };
                    let page = session.client.list_overrides(request).await?.into_inner();
                    Ok((page.overrides, page.next_page_token))
                });
            pages.await
        }
        OverridesCommand::Show { id } => {
            let answer = session.client.get_override(GetOverrideRequest { override_id: id }).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("GetOverride"))?;
            LISTING.print_one(&session, &answer.r#override.unwrap_or_default())
        }
        OverridesCommand::Create { id, scope, fields } => {
            let over = Override { scope: Some(scope.to_wire()), ..fields.to_wire(id) };
            let request = CreateOverrideRequest { r#override: Some(over), options: fields.write.to_wire() };
            let answer = session.client.create_override(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("CreateOverride"))?;
            answer.written(fields.write.dry_run).print(&session, &LISTING, answer.r#override.as_ref())
        }
        OverridesCommand::Update { id, fields, no_expiry } => {
            let mut paths = fields.bounds.mask_paths();
            let over = fields.to_wire(id);
            paths.extend((no_expiry || over.expire_time.is_some()).then(|| "expire_time".to_owned()));
            paths.extend((!over.reason.is_empty()).then(|| "reason".to_owned()));
            let (options, update_mask) = (fields.write.to_wire(), mask(paths)?);
            let request = UpdateOverrideRequest { r#override: Some(over), update_mask, options };
            let answer = session.client.update_override(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateOverride"))?;
            answer.written(fields.write.dry_run).print(&session, &LISTING, answer.r#override.as_ref())
        }
        OverridesCommand::Delete { id, write } => {
            write.confirm(&format!(
                "Override {} would be deleted: limits would fall back to the bounds of tier and model.",
                printable(&id)
            ))?;
            let request = DeleteOverrideRequest { override_id: id, options: write.write.to_wire() };
            let answer = session.client.delete_override(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("DeleteOverride"))?;
            answer.written(write.write.dry_run).print(&session, &LISTING, None)
        }
    }
}

impl ScopeFlags {
    pub(super) fn to_wire(&self) -> Scope {
        Scope { account: self.account.clone(), model: self.model.clone(), variant: self.variant.clone() }
    }
}

impl OverrideFields {
    fn to_wire(&self, override_id: String) -> Override {
        let from_now = |span: Duration| {
            let at = wall_clock().saturating_add(span);
            // Durations are read in milliseconds, at most 2^64 of them: far below 2^63 s.
            Timestamp { seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
        };
        Override {
            override_id,
            scope: None,
            bounds: Some(self.bounds.to_wire()),
            reason: self.write.reason.clone(),
            expire_time: self.expires_in.map(from_now).or(self.expires_at),
            revision: 0,
        }
    }
}

pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write a time such as 2027-01-01T00:00:00Z".to_owned())
}

fn to_json(over: &Override) -> Value {
    let scope = over.scope.clone().unwrap_or_default();
    json!({
        "override_id": over.override_id,
        "scope": { "account": scope.account, "model": scope.model, "variant": scope.variant },
        "bounds": bounds::json(over.bounds.as_ref()),
        "reason": over.reason,
        "expire_time": over.expire_time.as_ref().map(ToString::to_string),
        "revision": over.revision,
    })
}
