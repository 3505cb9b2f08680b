//! The enforcement switch, end to end: what shadow tells is what enforcement does, and the switch acts at once.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::time::Duration;

use serde_json::Value;
use tidegate_proto::v1::{
    Account, CheckAndReserveResponse, Decision, DenyReason, Enforcement, ListChangesRequest, Pressure,
    ReportPressureRequest, SettleOutcome, Tier, Tokens, UpdateAccountRequest, UpdateEnforcementRequest,
    UpdateTierRequest, Window, WriteOptions,
};
use tidegate_tests::gateway::{Answer, Ask, Gateway};
use tidegate_tests::page::{Page, get};
use tidegate_tests::server::{Build, Server, Setup};

const MINUTE: Duration = Duration::from_secs(60);

/// What a denial tells a gateway, whether it is enforced or stands beside an ALLOW.
#[derive(Debug, PartialEq)]
struct Told {
    decision: Decision,
    reason: DenyReason,
    http_status: u32,
    retry_after: Option<prost_types::Duration>,
    binding: Vec<Window>,
    /// Headers, without those that tell a client to wait or to come again.
    headers: Vec<(String, String)>,
    limits: Vec<(u64, u64, u64)>,
}

fn told(answer: &CheckAndReserveResponse) -> Option<Told> {
    let waits = ["retry-after", "retry-after-ms", "x-should-retry"];
    let headers = answer.headers.iter().filter(|header| !waits.contains(&header.name.as_str()));
    let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
    let status =
        |status: &tidegate_proto::v1::WindowStatus| (status.limit_tpm, status.used_tokens, status.remaining_tokens);
    let limits = answer.windows.iter().map(status).collect();
    if let Some(shadow) = &answer.shadow_decision {
        assert!(answer.allowed() && answer.http_status == 200 && !answer.reservation_id.is_empty(), "{answer:?}");
        assert_eq!(
            (answer.reason(), answer.retry_after, answer.reserved),
            (DenyReason::Unspecified, None, Some(Tokens::default()))
        );
        assert!(waits.iter().all(|name| answer.header(name).is_none()), "nobody is told to wait: {answer:?}");
        assert_eq!(answer.binding(), []);
        return Some(Told {
            decision: shadow.decision(),
            reason: shadow.reason(),
            http_status: shadow.http_status,
            retry_after: shadow.retry_after,
            binding: shadow.binding().collect(),
            headers,
            limits,
        });
    }
    (!answer.allowed()).then(|| Told {
        decision: answer.decision(),
        reason: answer.reason(),
        http_status: answer.http_status,
        retry_after: answer.retry_after,
        binding: answer.binding(),
        headers,
        limits,
    })
}

/// 64 bits, the same in every run.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

async fn press(gateway: &Gateway, to: Enforcement) {
    let options = Some(WriteOptions { reason: "a drill".into(), ..WriteOptions::default() });
    let request = UpdateEnforcementRequest { enforcement: to.into(), options };
    gateway.admin().update_enforcement(gateway.call(request)).await.expect("written");
}

async fn report(gateway: &Gateway, pressure_permille: u32) {
    let pressure = Pressure { model: "m".into(), pressure_permille, ..Pressure::default() };
    let request =
        ReportPressureRequest { reporter: "test".into(), reports: vec![pressure], ..ReportPressureRequest::default() };
    gateway.raw().report_pressure(gateway.call(request)).await.expect("taken");
}

/// Two servers are asked the same for half an hour: limits grow, a deployment gets busy, giants come. One enforces, the other is
/// in shadow, where even what it lets through is settled with numbers of its own.
#[tokio::test]
async fn shadow_tells_exactly_the_denials_that_enforcement_makes() {
    let servers = [Setup::test_clock().start(), Setup::test_clock().arguments(["--enforcement", "shadow"]).start()];
    let [on, shadow] = [Gateway::of(&servers[0]).await, Gateway::of(&servers[1]).await];
    for gateway in [&on, &shadow] {
        gateway.bound("steady", [4_000; 3], [20_000; 3]).await;
        gateway.bound("greedy", [2_000; 3], [6_000; 3]).await;
    }
    let mut random = 0x5eed_u64;
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for second in 0..30 * 60_u64 {
        for gateway in [&on, &shadow] {
            gateway.advance(Duration::from_secs(1));
            if second.is_multiple_of(10) {
                let pressure = match second {
                    900..1_100 => 1_200,
                    1_100..1_300 => 1_700,
                    _ => 300,
                };
                report(gateway, pressure).await;
            }
        }
        let draw = next(&mut random);
        let account = if draw.is_multiple_of(3) { "greedy" } else { "steady" };
        let prompt = if draw.is_multiple_of(61) { 7_000 + draw % 20_000 } else { 20 + (draw >> 8) % 400 };
        let mut ask = Ask::of(account).tokens(prompt, prompt / 2, (draw >> 20) % 500);
        if draw.is_multiple_of(5) {
            ask = ask.priority();
        }
        let enforced = on.ask(&ask).await.expect("decided");
        let shadowed = shadow.ask(&ask).await.expect("decided");
        assert_eq!(told(&enforced), told(&shadowed), "second {second}: {ask:?}");
        let generated = (draw >> 30) % 500;
        match told(&enforced) {
            Some(told) => {
                *seen.entry(told.reason.as_str_name()).or_default() += 1;
                nothing_comes_of(&shadow, &ask, &shadowed.reservation_id, generated).await;
            }
            None => {
                assert_eq!(enforced.reserved, shadowed.reserved);
                *seen.entry("allowed").or_default() += 1;
                for (gateway, answer) in [(&on, &enforced), (&shadow, &shadowed)] {
                    gateway.progress(&answer.reservation_id, generated / 2 + 1).await.expect("live");
                    gateway.settle_as_admitted(&answer.reservation_id, generated / 2 + 1 + generated).await;
                }
            }
        }
    }
    for reason in ["allowed", "WINDOW_FULL", "EXCEEDS_CURRENT_LIMIT", "NEVER_FITS", "SQUEEZED", "SHED"] {
        let count = seen.iter().filter(|(name, _)| name.ends_with(reason)).map(|(_, count)| count).sum::<u64>();
        assert!(count > 3, "too few {reason} to compare: {seen:?}");
    }
    let [on_page, shadow_page] = [Page::scrape(servers[0].http()), Page::scrape(servers[1].http())];
    let denied = ["rate_limited", "overloaded"]
        .map(|decision| on_page.sum("tidegate_decisions_total", &[("decision", decision)]));
    let would_be = ["rate_limited", "overloaded"]
        .map(|decision| shadow_page.sum("tidegate_shadow_decisions_total", &[("decision", decision)]));
    assert_eq!(format!("{denied:?}"), format!("{would_be:?}"));
    assert_eq!(format!("{}", shadow_page.sum("tidegate_decisions_total", &[("decision", "allow")])), "1800");
    on.verdict().assert_clean();
    shadow.verdict().assert_clean();
}

/// Progress, settlement and release of a request that reserved nothing answer as usual, however often, and change nothing.
async fn nothing_comes_of(gateway: &Gateway, ask: &Ask, id: &str, generated: u64) {
    use tidegate_proto::v1::{ReleaseRequest, ReportProgressRequest, SettleRequest};
    let before = gateway.windows(ask).await;
    let mut raw = gateway.raw();
    for _ in 0..2 {
        let reservation_id = id.to_owned();
        let progress = ReportProgressRequest { reservation_id: reservation_id.clone(), generated_tokens: generated };
        let answer = raw.report_progress(gateway.call(progress)).await.expect("answered").into_inner();
        assert_eq!(answer.outcome(), SettleOutcome::Applied);
        let settle =
            SettleRequest { reservation_id: reservation_id.clone(), generated_tokens: Some(900), ..Default::default() };
        let answer = raw.settle(gateway.call(settle)).await.expect("answered").into_inner();
        assert_eq!((answer.outcome(), answer.clamped), (SettleOutcome::Applied, false));
        let answer = raw.release(gateway.call(ReleaseRequest { reservation_id })).await.expect("answered").into_inner();
        assert_eq!(answer.outcome(), SettleOutcome::Applied);
    }
    assert_eq!(gateway.windows(ask).await, before);
}

#[tokio::test]
async fn the_red_button_acts_on_the_next_decision_is_seen_everywhere_and_goes_back() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    gateway.fix("acme", [100; 3]).await;
    let ask = Ask::of("acme").tokens(100, 1, 0);
    gateway.allow(&ask).await;
    gateway.deny(&ask).await;
    assert_eq!(seen(&server), (false, "0".to_owned()));

    let tidegate = |arguments: &[&str]| server.run(Build::Release, arguments);
    let set = ["admin", "enforcement", "set", "shadow", "--reason", "denies customers", "--actor", "kim"];
    let (code, _, error) = tidegate(&set);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("add --yes") && error.contains("nobody is denied"), "{error}");
    gateway.deny(&ask).await;
    let (code, output, error) = tidegate(&[&set[..], &["--yes"]].concat());
    assert_eq!(code, Some(0), "{error}");
    assert!(output.contains("shadow"), "{output}");

    let answer = gateway.allow(&ask.clone().id("retried")).await;
    assert_eq!(answer.shadow_decision.as_ref().map(|shadow| shadow.reason()), Some(DenyReason::WindowFull));
    assert_eq!(answer.header("x-ratelimit-over-limit"), Some("yes"));
    let again = gateway.allow(&ask.clone().id("retried")).await;
    assert!(again.shadow_decision.is_some() && !again.replayed, "it is decided again: {again:?}");
    assert_eq!(gateway.windows(&ask).await.used(), [100, 1, 0], "nothing was charged");
    assert_eq!(seen(&server), (true, "1".to_owned()));
    let (_, output, _) = tidegate(&["admin", "enforcement", "get", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON")["enforcement"], "shadow");
    let (code, output, _) = tidegate(&["check", "--account", "acme", "--model", "m", "--prompt", "100"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.starts_with("allow in shadow") && output.contains("rate_limited: window_full"), "{output}");
    let (_, output, remark) = tidegate(&["top", "--once"]);
    assert!(remark.contains("ENFORCEMENT SHADOW") && output.contains("shadow"), "{output}{remark}");
    let (_, output, _) = tidegate(&["top", "--once", "--json"]);
    let top: Value = serde_json::from_str(&output).expect("JSON");
    let row = &top["keys"][0];
    assert_eq!(
        (&top["enforcement"], &row["enforcement"], &row["denied_requests"]),
        (&"shadow".into(), &"shadow".into(), &5.into())
    );

    let (code, _, error) = tidegate(&["admin", "enforcement", "set", "on", "--reason", "limits corrected"]);
    assert_eq!(code, Some(0), "no question asked: {error}");
    gateway.deny(&ask).await;
    assert_eq!(seen(&server), (false, "0".to_owned()));
    let request = ListChangesRequest { page_size: 2, ..ListChangesRequest::default() };
    let log = gateway.admin().list_changes(gateway.call(request)).await.expect("listed").into_inner().changes;
    let rows: Vec<_> = log.iter().map(|row| (row.rpc.as_str(), row.object.as_str(), row.reason.as_str())).collect();
    let rpc = "UpdateEnforcement";
    assert_eq!(rows, [(rpc, "enforcement", "limits corrected"), (rpc, "enforcement", "denies customers")]);
    assert_eq!(log[1].unverified_actor, "kim");
    gateway.verdict().assert_clean();
}

/// Whether `/readyz` says shadow, and what the metric says.
fn seen(server: &Server) -> (bool, String) {
    let (status, body) = get(server.http(), "/readyz");
    assert_eq!(status, 200, "shadow is no outage: {body}");
    let gauge = Page::scrape(server.http()).sum("tidegate_enforcement_shadow", &[("scope", "global")]);
    (body.contains("shadow"), gauge.to_string())
}

#[tokio::test]
async fn a_tier_in_shadow_spares_its_accounts_but_one_that_says_on() {
    let config = "[tiers.trial]\nenforcement = \"shadow\"\n[accounts.strict]\ntier = \"trial\"\nenforcement = \"on\"\n";
    let server = Setup::test_clock().config(config).start();
    let gateway = Gateway::of(&server).await;
    gateway.account("spared", "trial").await;
    let giant = |account| Ask::of(account).tokens(1 << 39, 1, 0);
    let shadowed = |answer: CheckAndReserveResponse| answer.shadow_decision.map(|shadow| shadow.reason());
    assert_eq!(shadowed(gateway.allow(&giant("spared")).await), Some(DenyReason::NeverFits));
    gateway.deny(&giant("strict")).await;
    gateway.deny(&giant("stranger")).await;
    let page = Page::scrape(server.http());
    let gauge = |scope| page.sum("tidegate_enforcement_shadow", &[("scope", scope)]).to_string();
    assert_eq!([gauge("global"), gauge("tiers"), gauge("accounts")], ["0", "1", "0"]);

    // Back on for the tier, into shadow for one account, over the wire and through the command line.
    let tier = Tier { name: "trial".into(), enforcement: Enforcement::On.into(), ..Tier::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["enforcement".into()] });
    let request = UpdateTierRequest { tier: Some(tier), update_mask: update_mask.clone(), options: None };
    gateway.admin().update_tier(gateway.call(request)).await.expect("written");
    gateway.deny(&giant("spared")).await;
    let account = Account { name: "spared".into(), enforcement: Enforcement::Shadow.into(), ..Account::default() };
    let request = UpdateAccountRequest { account: Some(account), update_mask, options: None };
    gateway.admin().update_account(gateway.call(request)).await.expect("written");
    assert_eq!(shadowed(gateway.allow(&giant("spared")).await), Some(DenyReason::NeverFits));
    for (arguments, spared) in [
        (["admin", "accounts", "update", "spared", "--enforcement", "inherit"], false),
        (["admin", "tiers", "update", "trial", "--enforcement", "shadow"], true),
        (["admin", "tiers", "update", "trial", "--enforcement", "inherit"], false),
    ] {
        let (code, output, error) = server.run(Build::Release, &arguments);
        assert_eq!(code, Some(0), "{output}{error}");
        assert_eq!(gateway.ask(&giant("spared")).await.expect("decided").allowed(), spared, "{arguments:?}");
    }
    let (code, _, error) =
        server.run(Build::Release, &["admin", "accounts", "update", "spared", "--enforcement", "off"]);
    assert!(code == Some(2) && error.contains("shadow"), "{error}");

    // The red button reaches the one that says on, and what it says is kept.
    press(&gateway, Enforcement::Shadow).await;
    assert_eq!(shadowed(gateway.allow(&giant("strict")).await), Some(DenyReason::NeverFits));
    press(&gateway, Enforcement::On).await;
    gateway.deny(&giant("strict")).await;
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_blocked_account_is_forbidden_in_shadow_too_until_it_is_unblocked() {
    let server = Setup::test_clock().arguments(["--enforcement", "shadow"]).start();
    assert!(server.output().contains("enforcement is in shadow"), "said at start: {}", server.output());
    let gateway = Gateway::of(&server).await;
    gateway.account("known", "tier-2").await;
    for account in ["known", "stranger"] {
        let ask = Ask::of(account);
        let run = |verb| server.run(Build::Release, &["admin", "accounts", verb, account, "--reason", "abuse"]);
        let first = gateway.allow(&ask).await;
        let (code, _, error) = run("block");
        assert_eq!(code, Some(0), "{error}");
        let denied = gateway.deny(&ask).await;
        assert_eq!((denied.reason(), denied.http_status), (DenyReason::AccountBlocked, 403));
        assert_eq!(denied.shadow_decision, None);
        gateway.settle_as_admitted(&first.reservation_id, 1).await;
        let (code, output, error) = run("unblock");
        assert_eq!(code, Some(0), "{error}");
        assert_eq!(output.contains("tier-2"), account == "known", "its tier was kept: {output}");
        gateway.allow(&ask).await;
    }
    let (code, _, error) = server.run(Build::Release, &["admin", "accounts", "unblock", "nobody"]);
    assert!(code == Some(1) && error.contains("ACCOUNT_NOT_FOUND"), "{error}");
    gateway.verdict().assert_clean();
}

/// Settled tokens of what shadow let through do not grow a limit; those of what fits do.
#[tokio::test]
async fn what_shadow_lets_through_earns_no_limit() {
    let server = Setup::test_clock().arguments(["--enforcement", "shadow"]).start();
    let gateway = Gateway::of(&server).await;
    gateway.bound("giant", [1_000; 3], [100_000; 3]).await;
    let ask = Ask::of("giant").tokens(5_000, 5_000, 0);
    for _ in 0..30 {
        let answer = gateway.allow(&ask).await;
        assert_eq!(
            answer.shadow_decision.as_ref().map(|shadow| shadow.reason()),
            Some(DenyReason::ExceedsCurrentLimit)
        );
        nothing_comes_of(&gateway, &ask, &answer.reservation_id, 10).await;
        gateway.advance(MINUTE);
    }
    assert_eq!(gateway.windows(&ask).await.limits(), [1_000; 3]);
    gateway.verdict().assert_clean();
}
