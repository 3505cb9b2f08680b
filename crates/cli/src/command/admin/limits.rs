//! `tidegate admin limits`.

use serde_json::{Value, json};
use tidegate_proto::v1::{KeyLimits, LimitKey, ListLimitsRequest, ResetLimitRequest};
use tonic::Response;

use super::Session;
use super::boost::boosted_json;
use super::explain::{self, ExplainArgs, boost_lines};
use super::listing::{Listing, PAGE_SIZE};
use super::write::{FinalWriteFlags, WriteAnswer};
use crate::failure::Failure;
use crate::output::{grouped, print, print_json, printable};
use crate::words::{self, WINDOWS};

const EXAMPLES: &str = "\
Examples:
  tidegate admin limits list --account acme
  tidegate admin limits list --at-ceiling
  tidegate admin limits list --model large --variant turbo --json
  tidegate admin limits show --account acme --model large --variant turbo
  tidegate admin limits explain --account acme --model large --to 200k --window generated
  tidegate admin limits reset --account acme --model large --drop-holds --dry-run";

/// Limits: what each key may use now, and what it uses
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LimitsArgs {
    #[command(subcommand)]
    pub(super) command: LimitsCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum LimitsCommand {
    /// List the keys that the server holds: used / limit of each window, tokens per minute
    #[command(after_help = EXAMPLES)]
    List {
        /// Only this account
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        /// Only this model
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// Only this variant; "" is the regular one
        #[arg(long, value_name = "NAME")]
        variant: Option<String>,
        /// Only keys with a limit that cannot grow any more, those to which most was denied there in the last hour first
        #[arg(long)]
        at_ceiling: bool,
    },
    /// Say why the limits of one key are what they are, what holds them, and what would change them
    #[command(after_help = EXAMPLES)]
    Explain(ExplainArgs),
    /// Set the limits of one key back to their floors
    #[command(after_help = EXAMPLES)]
    Reset {
        #[command(flatten)]
        key: KeyFlags,
        /// Drop what is held for its live streams as well
        #[arg(long)]
        drop_holds: bool,
        #[command(flatten)]
        write: FinalWriteFlags,
    },
    /// Show the windows of one key
    #[command(after_help = EXAMPLES)]
    Show(KeyFlags),
}

/// One key.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct KeyFlags {
    /// The account
    #[arg(long, value_name = "NAME")]
    account: String,
    /// The model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Its variant; without it, the regular one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    variant: String,
}

impl KeyFlags {
    pub(super) fn into_wire(self) -> LimitKey {
        LimitKey { account: self.account, model: self.model, variant: self.variant }
    }

    /// For people: `acme on large turbo`.
    fn title(&self) -> String {
        let Self { account, model, variant } = self;
        printable(format!("{account} on {model} {variant}").trim_end())
    }
}

const LISTING: Listing<KeyLimits> = Listing {
    columns: &[
        "ACCOUNT",
        "MODEL",
        "VARIANT",
        "TIER",
        "#PROMPT",
        "#UNCACHED PROMPT",
        "#GENERATED",
        "#LIVE",
        "#DENIED AT CEILING",
    ],
    cells: |limits| {
        let key = limits.key.clone().unwrap_or_default();
        let mut cells = vec![key.account, key.model, key.variant, limits.tier.clone()];
        cells.extend(WINDOWS.map(|window| {
            let status = limits.windows.iter().find(|status| status.window() == window);
            status
                .map(|status| format!("{} / {}", grouped(status.used_tokens), grouped(status.limit_tpm)))
                .unwrap_or_default()
        }));
        cells.push(grouped(limits.live_reservations));
        let denied = limits.denied_at_ceiling.unwrap_or_default();
        let sum = [denied.prompt, denied.uncached_prompt, denied.generated].into_iter().fold(0, u64::saturating_add);
        cells.push(grouped(sum));
        cells
    },
    json: to_json,
};

/// Runs one command.
pub(super) async fn run(mut session: Session, command: LimitsCommand) -> Result<(), Failure> {
    match command {
        LimitsCommand::List { account, model, variant, at_ceiling } => {
            let query = ListLimitsRequest {
                page_size: PAGE_SIZE,
                page_token: String::new(),
                account,
                model,
                variant,
                at_ceiling,
            };
            let pages = LISTING.print_pages(&mut session, "ListLimits", async |session: &mut Session, page_token| {
                let page =
                    session.client.list_limits(ListLimitsRequest { page_token, ..query.clone() }).await?.into_inner();
                Ok((page.limits, page.next_page_token))
            });
            pages.await
        }
        LimitsCommand::Explain(args) => explain::run(session, args).await,
        LimitsCommand::Reset { key, drop_holds, write } => {
            let holds = if drop_holds { ", and what is held for its live streams would be dropped" } else { "" };
            write.confirm(&format!("All limits of {} would go back to their floors{holds}.", key.title()))?;
            let key = Some(key.into_wire());
            let request = ResetLimitRequest { key, windows: Vec::new(), drop_holds, options: write.write.to_wire() };
            let answer = session.client.reset_limit(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("ResetLimit"))?;
            answer.written(write.write.dry_run).print_reset(&session, answer.dropped_hold_tokens)
        }
        LimitsCommand::Show(KeyFlags { account, model, variant }) => {
            let query = ListLimitsRequest {
                page_size: 1,
                account: Some(account),
                model: Some(model),
                variant: Some(variant),
                ..ListLimitsRequest::default()
            };
            let answer = session.client.list_limits(query).await.map_err(session.explain("ListLimits"))?;
            match answer.into_inner().limits.first() {
                Some(limits) => show(&session, limits),
                None => Err(Failure::Failed("the server holds no such key: its limits are at their floor".to_owned())),
            }
        }
    }
}

fn show(session: &Session, limits: &KeyLimits) -> Result<(), Failure> {
    if session.json {
        return print_json(&to_json(limits));
    }
    let bounds = limits.windows.iter().map(|status| {
        let (floor, ceiling) = (grouped(status.floor_tpm), grouped(status.ceiling_tpm));
        format!("{} moves between {floor} and {ceiling} TPM\n", words::window(status.window))
    });
    print(&format!(
        "tier {}, enforcement {}, {} live reservations\n\n{}\n{}{}",
        printable(&limits.tier),
        words::enforcement(limits.enforcement),
        grouped(limits.live_reservations),
        words::window_table(&limits.windows),
        bounds.collect::<String>(),
        limits.boosts.iter().flat_map(boost_lines).collect::<String>()
    ))
}

fn to_json(limits: &KeyLimits) -> Value {
    let key = limits.key.clone().unwrap_or_default();
    json!({
        "key": { "account": key.account, "model": key.model, "variant": key.variant },
        "tier": limits.tier,
        "windows": limits.windows.iter().map(words::window_json).collect::<Vec<_>>(),
        "live_reservations": limits.live_reservations,
        "denied_at_ceiling": limits.denied_at_ceiling.as_ref().map(words::tokens_json),
        "denied_requests": limits.denied_requests,
        "enforcement": words::enforcement(limits.enforcement),
        "pressure_permille": limits.pressure_permille,
        "boosts": limits.boosts.iter().map(boosted_json).collect::<Vec<_>>(),
    })
}
