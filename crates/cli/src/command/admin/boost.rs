//! `tidegate admin boost`.

use std::time::Duration;

use clap::ArgGroup;
use prost_types::Timestamp;
use serde_json::{Value, json};
use tidegate_proto::v1::{BoostRequest, BoostedScope, Tokens};
use tidegate_server::config::amount::{parse_duration, parse_tokens};
use tonic::Response;

use super::Session;
use super::listing::Listing;
use super::overrides::{ScopeFlags, parse_time};
use super::write::{WriteAnswer, WriteFlags};
use crate::failure::Failure;
use crate::output::grouped;
use crate::stopwatch::wall_clock;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  tidegate admin boost --account acme --generated 400k --for 2h --reason launch --dry-run
  tidegate admin boost --account acme --model large --prompt 20M --until 2027-01-01T00:00:00Z
  tidegate admin boost --account acme --generated 1 --for 1s    (takes it back)";

/// Raise limits now, for a planned launch; afterwards they sink gently
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    group(ArgGroup::new("windows").args(["prompt", "uncached_prompt", "generated"]).required(true).multiple(true)),
    group(ArgGroup::new("end").args(["span", "until"]).required(true))
)]
#[group(skip)]
pub(super) struct BoostArgs {
    #[command(flatten)]
    scope: ScopeFlags,
    /// All prompt tokens, TPM; at least one window
    #[arg(long, value_name = "TPM", value_parser = parse_tokens)]
    prompt: Option<u64>,
    /// Prompt tokens that the prefix cache did not serve, TPM
    #[arg(long, value_name = "TPM", value_parser = parse_tokens)]
    uncached_prompt: Option<u64>,
    /// Output tokens, TPM
    #[arg(long, value_name = "TPM", value_parser = parse_tokens)]
    generated: Option<u64>,
    /// For how long, from now on; this or --until
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    span: Option<Duration>,
    /// Until when, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    #[command(flatten)]
    write: WriteFlags,
}

const LISTING: Listing<BoostedScope> = Listing {
    columns: &["ACCOUNT", "MODEL", "VARIANT", "BOOSTED TO, TPM"],
    cells: |boosted| {
        let scope = boosted.scope.clone().unwrap_or_default();
        let windows = boosted.windows.iter().map(|window| {
            let until = window.expire_time.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} {} until {until}", words::window(window.window), grouped(window.limit_tpm))
        });
        let all = |part: Option<String>| part.unwrap_or_else(|| "(all)".to_owned());
        let windows = windows.collect::<Vec<_>>().join(", ");
        vec![scope.account, all(scope.model), all(scope.variant), windows]
    },
    json: boosted_json,
};

/// The boosts of a scope, with the names of the wire.
pub(super) fn boosted_json(boosted: &BoostedScope) -> Value {
    let scope = boosted.scope.clone().unwrap_or_default();
    json!({
        "scope": { "account": scope.account, "model": scope.model, "variant": scope.variant },
        "windows": boosted.windows.iter().map(|window| json!({
            "window": words::window(window.window),
            "limit_tpm": window.limit_tpm,
            "expire_time": window.expire_time.as_ref().map(ToString::to_string),
        })).collect::<Vec<_>>(),
        "revision": boosted.revision,
    })
}

/// Boosts.
pub(super) async fn run(mut session: Session, args: BoostArgs) -> Result<(), Failure> {
    let at = |span| {
        let end = wall_clock().saturating_add(span);
        let nanos = i32::try_from(end.subsec_nanos()).unwrap_or(0);
        Timestamp { seconds: i64::try_from(end.as_secs()).unwrap_or(i64::MAX), nanos }
    };
    let limit = |limit: Option<u64>| limit.unwrap_or(0);
    let request = BoostRequest {
        scope: Some(args.scope.to_wire()),
        limit_tpm: Some(Tokens {
            prompt: limit(args.prompt),
            uncached_prompt: limit(args.uncached_prompt),
            generated: limit(args.generated),
        }),
        expire_time: args.until.or(args.span.map(at)),
        options: args.write.to_wire(),
    };
    let answer = session.client.boost(request).await;
    let answer = answer.map(Response::into_inner).map_err(session.explain("Boost"))?;
    answer.written(args.write.dry_run).print(&session, &LISTING, answer.boosted.as_ref())
}
