//! `tidegate check`: asks for one decision, as a gateway would, and shows it.

use std::process::ExitCode;

use serde_json::Value;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{
    CheckAndReserveRequest, CheckAndReserveResponse, Decision, DenyReason, LimitKey, ReleaseRequest, ServiceTier,
};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::output::{grouped, print, print_json, printable, remark};
use crate::status::explain;
use crate::target::{LimiterTarget, connect};
use crate::words;
use tidegate_server::config::amount::parse_tokens;

const EXAMPLES: &str = "\
Examples:
  tidegate check --account acme --model large --prompt 12k --cached 8k
  tidegate check --account acme --model large --max-generated 4k --priority --verbose
  tidegate check --account acme --model large --prompt 900k --json | jq .retry_after_ms

Exit codes: 0 allow, 3 rate limited, 4 overloaded, 5 forbidden; 1 no decision, 2 wrong usage.";

/// Ask for one decision, as a gateway would, and show it
///
/// Reserves the tokens for real. The reservation is released before the command ends, unless --keep is given.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// The account that is charged
    #[arg(long, value_name = "NAME")]
    account: String,

    /// The model
    #[arg(long, value_name = "NAME")]
    model: String,

    /// The model's variant; without it, the regular one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    variant: String,

    /// Prompt tokens, such as 12k
    #[arg(long, value_name = "TOKENS", default_value = "1", value_parser = parse_tokens)]
    prompt: u64,

    /// Of these, tokens that the prefix cache serves; without it, the server's forecast
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    cached: Option<u64>,

    /// The most that may be generated; caps the server's forecast
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    max_generated: Option<u64>,

    /// Ask with service tier priority
    #[arg(long)]
    priority: bool,

    /// Keep the reservation and print its id; it expires unless it is settled
    #[arg(long)]
    keep: bool,

    /// Show the HTTP headers too
    #[arg(long, short)]
    verbose: bool,

    /// Print one JSON object instead
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    limiter: LimiterTarget,
}

/// Asks, shows, releases.
pub(crate) async fn run(args: CheckArgs) -> Result<ExitCode, Failure> {
    let target = &args.limiter.target;
    let mut client = RateLimiterServiceClient::new(connect(target, args.limiter.timeout).await?);
    let answer = client.check_and_reserve(args.request()).await;
    let answer = answer.map_err(|status| explain("CheckAndReserve", target, &status))?.into_inner();

    let unreleased = match answer.reservation_id.as_str() {
        "" => None,
        _ if args.keep => None,
        id => release(&mut client, id).await.err(),
    };
    if args.json {
        let mut value = words::answer_json(&answer);
        value["reservation_id"] = if args.keep { Value::from(answer.reservation_id.as_str()) } else { Value::Null };
        print_json(&value)?;
    } else {
        print(&args.report(&answer))?;
    }
    match unreleased {
        None => Ok(ExitCode::from(exit_code(&answer))),
        Some(status) => {
            remark("The reservation was not released; it holds its tokens until it expires.");
            Err(explain("Release", target, &status))
        }
    }
}

async fn release(client: &mut RateLimiterServiceClient<Channel>, id: &str) -> Result<(), tonic::Status> {
    client.release(ReleaseRequest { reservation_id: id.to_owned() }).await.map(|_| ())
}

/// 0 allow, 3 rate limited, 4 overloaded, 5 forbidden; 1 for a decision that this version does not know.
fn exit_code(answer: &CheckAndReserveResponse) -> u8 {
    match answer.decision() {
        Decision::Allow => 0,
        Decision::RateLimited => 3,
        Decision::Overloaded => 4,
        Decision::Forbidden => 5,
        Decision::Unspecified => 1,
    }
}

impl CheckArgs {
    fn request(&self) -> CheckAndReserveRequest {
        let tier = if self.priority { ServiceTier::Priority } else { ServiceTier::Standard };
        CheckAndReserveRequest {
            key: Some(LimitKey {
                account: self.account.clone(),
                model: self.model.clone(),
                variant: self.variant.clone(),
            }),
            prompt_tokens: self.prompt,
            cached_prompt_tokens: self.cached,
            max_generated_tokens: self.max_generated,
            service_tier: tier.into(),
            ..CheckAndReserveRequest::default()
        }
    }

    fn report(&self, answer: &CheckAndReserveResponse) -> String {
        let mut text = words::decision(answer.decision);
        if let Some(reason) = words::reason(answer.reason) {
            text.push_str(&format!(": {reason} (HTTP {})", answer.http_status));
        }
        let wait = answer.retry_after.as_ref().map(|wait| words::seconds(words::duration(wait)));
        match (answer.reason(), wait) {
            (DenyReason::ExceedsCurrentLimit, wait) => {
                text.push_str(
                    "\nwaiting does not help: send smaller requests, which grow the limit, or have it raised",
                );
                text.push_str(&wait.map(|wait| format!(" (it next moves in {wait})")).unwrap_or_default());
            }
            (_, Some(wait)) => text.push_str(&format!(", retry after {wait}")),
            (DenyReason::Unspecified, None) => {}
            (_, None) => text.push_str(", waiting does not help"),
        }
        if let Some(shadow) = &answer.shadow_decision {
            let binding: Vec<_> = shadow.binding.iter().map(|window| words::window(*window)).collect();
            text.push_str(&format!(
                " in shadow, and nothing is reserved; enforced, it would be {}: {} (HTTP {})",
                words::decision(shadow.decision),
                words::reason(shadow.reason).unwrap_or_default(),
                shadow.http_status
            ));
            if !binding.is_empty() {
                text.push_str(&format!(", by {}", binding.join(", ")));
            }
            if let Some(wait) = &shadow.retry_after {
                text.push_str(&format!(", retry after {}", words::seconds(words::duration(wait))));
            }
        } else if let Some(reserved) = &answer.reserved {
            let [prompt, uncached, generated] =
                [reserved.prompt, reserved.uncached_prompt, reserved.generated].map(grouped);
            text.push_str(&format!(
                "\nreserved: {prompt} prompt, {uncached} of them uncached, {generated} held for output"
            ));
        }
        text.push_str(&format!("\n\n{}", words::window_table(&answer.windows)));
        if self.verbose {
            text.push('\n');
            for header in &answer.headers {
                text.push_str(&format!("{}: {}\n", printable(&header.name), printable(&header.value)));
            }
        }
        if self.keep && !answer.reservation_id.is_empty() {
            text.push_str(&format!("\nreservation: {}\n", printable(&answer.reservation_id)));
        }
        text
    }
}
