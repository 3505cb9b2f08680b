//! `tidegate top --once`: one snapshot, for scripts.

use std::cmp::Reverse;
use std::process::ExitCode;

use serde_json::json;
use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::{Enforcement, GetEnforcementRequest, KeyLimits, ListLimitsRequest};

use super::{TopArgs, tracked};
use crate::failure::Failure;
use crate::output::{Rows, grouped, print, print_json, remark};
use crate::status::explain;
use crate::target::connect;
use crate::words::{self, WINDOWS};

const PAGE_SIZE: u32 = 1_000;
const COLUMNS: [&str; 12] = [
    "ACCOUNT",
    "MODEL",
    "VARIANT",
    "TIER",
    "ENFORCEMENT",
    "#PROMPT",
    "#UNCACHED PROMPT",
    "#GENERATED",
    "#USE",
    "#DENIED",
    "#PRESSURE",
    "#LIVE",
];

/// Reads every page, sorts by use, prints.
pub(super) async fn run(args: &TopArgs) -> Result<ExitCode, Failure> {
    let target = &args.admin.target;
    let mut client = AdminServiceClient::new(connect(target, args.admin.timeout).await?);
    let watch = args.watch();
    let mut query = ListLimitsRequest {
        page_size: PAGE_SIZE,
        account: watch.account,
        model: watch.model,
        variant: watch.variant,
        ..ListLimitsRequest::default()
    };
    let switch = client.get_enforcement(GetEnforcementRequest {}).await;
    let switch = switch.map_err(|status| explain("GetEnforcement", target, &status))?.into_inner();
    let switch = switch.enforcement.unwrap_or_default();
    let mut keys = Vec::new();
    loop {
        let page = client.list_limits(query.clone()).await;
        let page = page.map_err(|status| explain("ListLimits", target, &status))?.into_inner();
        keys.extend(page.limits);
        if page.next_page_token.is_empty() {
            break;
        }
        query.page_token = page.next_page_token;
    }
    keys.sort_by_key(|limits| Reverse(fullest(limits)));
    if args.json {
        let keys = keys.iter().map(to_json).collect::<Vec<_>>();
        print_json(&json!({ "enforcement": words::enforcement(switch.enforcement), "keys": keys }))?;
    } else {
        let mut rows = Rows::new(&COLUMNS);
        keys.iter().for_each(|limits| rows.push(cells(limits)));
        print(&rows.to_string())?;
        if switch.enforcement() == Enforcement::Shadow {
            remark("ENFORCEMENT SHADOW: nobody is denied by a limit");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fullest(limits: &KeyLimits) -> u64 {
    tracked::fullest(limits).map(tracked::use_permille).unwrap_or_default()
}

fn cells(limits: &KeyLimits) -> Vec<String> {
    let (account, model, variant) = tracked::name(limits);
    let mut cells = vec![account, model, variant, limits.tier.clone(), words::enforcement(limits.enforcement)];
    cells.extend(WINDOWS.map(|window| {
        let status = tracked::status(limits, window);
        let used = |used, limit| format!("{} / {}", grouped(used), grouped(limit));
        status.map(|status| used(status.used_tokens, status.effective_limit_tpm)).unwrap_or_default()
    }));
    cells.push(format!("{} %", fullest(limits) / 10));
    cells.push(grouped(limits.denied_requests));
    cells.push(limits.pressure_permille.map(|permille| format!("{} %", permille / 10)).unwrap_or_default());
    cells.push(grouped(limits.live_reservations));
    cells
}

/// As `admin limits list --json`, with the share used of the fullest window.
fn to_json(limits: &KeyLimits) -> serde_json::Value {
    let (account, model, variant) = tracked::name(limits);
    json!({
        "key": { "account": account, "model": model, "variant": variant },
        "tier": limits.tier,
        "use_permille": fullest(limits),
        "headroom_permille": tracked::headroom(limits),
        "at_ceiling": tracked::at_ceiling(limits),
        "enforcement": words::enforcement(limits.enforcement),
        "denied_requests": limits.denied_requests,
        "pressure_permille": limits.pressure_permille,
        "live_reservations": limits.live_reservations,
        "windows": limits.windows.iter().map(words::window_json).collect::<Vec<_>>(),
    })
}
