//! Bad input: each gets a clear error that names the field, flag, path or bound, and changes nothing.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::net::TcpListener;

use prost_types::Duration as WireDuration;
use tidegate_proto::v1::{
    Account, CreateAccountRequest, CreateTierRequest, GetLimitsRequest, LimitKey, ListLimitsRequest, ReleaseRequest,
    ReportProgressRequest, SettleOutcome, SettleRequest, Tier,
};
use tidegate_tests::gateway::{Ask, Failure, Gateway, bounds};
use tidegate_tests::server::Setup;
use tonic::Code;

const TOO_MANY: u64 = (1 << 40) + 1;

/// An ask with one thing wrong, and the field that the error must name.
fn bad_asks() -> Vec<(&'static str, Ask)> {
    let good = || Ask::of("acme").tokens(10, 10, 10);
    let with_key = |account: &str, model: &str, variant: &str| {
        let mut ask = good();
        ask.request.key = Some(LimitKey { account: account.into(), model: model.into(), variant: variant.into() });
        ask
    };
    let with = |change: &dyn Fn(&mut tidegate_proto::v1::CheckAndReserveRequest)| {
        let mut ask = good();
        change(&mut ask.request);
        ask
    };
    let long = "x".repeat(257);
    let ttl = |seconds, nanos| WireDuration { seconds, nanos };
    vec![
        ("key", with(&|request| request.key = None)),
        ("key.account", with_key("", "m", "")),
        ("key.account", with_key(&long, "m", "")),
        ("key.account", with_key("a\nb", "m", "")),
        ("key.account", with_key("a\0", "m", "")),
        ("key.account", with_key("\u{7f}", "m", "")),
        ("key.account", with_key("a\u{85}b", "m", "")),
        ("key.model", with_key("acme", "", "")),
        ("key.model", with_key("acme", &long, "")),
        ("key.model", with_key("acme", "m\t", "")),
        ("key.variant", with_key("acme", "m", &long)),
        ("key.variant", with_key("acme", "m", "\u{1b}[31m")),
        ("prompt_tokens", with(&|request| (request.prompt_tokens, request.cached_prompt_tokens) = (0, None))),
        ("prompt_tokens", with(&|request| request.prompt_tokens = TOO_MANY)),
        ("prompt_tokens", with(&|request| request.prompt_tokens = u64::MAX)),
        ("cached_prompt_tokens", with(&|request| request.cached_prompt_tokens = Some(11))),
        ("cached_prompt_tokens", with(&|request| request.cached_prompt_tokens = Some(u64::MAX))),
        ("max_generated_tokens", with(&|request| request.max_generated_tokens = Some(TOO_MANY))),
        ("service_tier", with(&|request| request.service_tier = 99)),
        ("service_tier", with(&|request| request.service_tier = -1)),
        ("view", with(&|request| request.view = 99)),
        ("request_id", good().id(&"r".repeat(65))),
        ("request_id", good().id("with space")),
        ("request_id", good().id("é")),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(-1, 0)))),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(0, 999_999_999)))),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(3_600, 1)))),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(i64::MAX, i32::MAX)))),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(i64::MIN, i32::MIN)))),
        ("reservation_ttl", with(&|request| request.reservation_ttl = Some(ttl(60, -1)))),
    ]
}

#[tokio::test]
async fn a_bad_ask_names_its_field_and_changes_nothing() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let good = Ask::of("acme").tokens(10, 10, 10);
    gateway.allow(&good).await;
    let before = gateway.windows(&good).await;
    for (field, ask) in bad_asks() {
        let failure = gateway.refuse(&ask).await;
        let expected = (Code::InvalidArgument, "INVALID_FIELD", field);
        assert_eq!((failure.code, failure.reason.as_str(), failure.field.as_str()), expected, "{failure:?} to {ask:?}");
        assert!(failure.message.contains(field), "{failure:?}");
    }
    assert_eq!(gateway.windows(&good).await, before);
    let listed = gateway.admin().list_limits(gateway.call(ListLimitsRequest::default())).await.expect("listed");
    assert_eq!(listed.into_inner().limits.len(), 1, "a bad ask makes no key");

    // The bounds themselves are good.
    let name = "ä".repeat(128);
    gateway.allow(&Ask::of(&name).on(&name, &name).id(&"r".repeat(64))).await;
    let denied = gateway.deny(&Ask::of("acme").tokens(1 << 40, 1 << 40, 1 << 40)).await;
    assert_eq!(denied.http_status, 429);
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn bad_calls_about_limits_name_their_field() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    for (field, key) in [
        ("key", None),
        ("key.account", Some(LimitKey::default())),
        ("key.model", Some(LimitKey { account: "a".into(), ..LimitKey::default() })),
    ] {
        let status = gateway.raw().get_limits(GetLimitsRequest { key }).await.expect_err("it is refused");
        let failure = Failure::of(&status);
        assert_eq!((failure.code, failure.field.as_str()), (Code::InvalidArgument, field), "{failure:?}");
    }
}

#[tokio::test]
async fn a_reservation_id_that_was_not_issued_here_is_refused() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let good = Ask::of("acme").tokens(10, 10, 10);
    let id = gateway.allow(&good).await.reservation_id;
    assert!(id.len() <= 1_200 && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
    let stranger = Setup::test_clock().start();
    let strangers = Gateway::of(&stranger).await.allow(&good).await.reservation_id;
    let before = gateway.windows(&good).await;

    let mut forged = vec![
        (String::new(), "empty"),
        ("nonsense".to_owned(), "nonsense"),
        ("ü\0".to_owned(), "not ASCII"),
        ("A".repeat(1_200), "as long as may be"),
        ("A".repeat(1_201), "too long"),
        (id[..id.len() - 1].to_owned(), "cut short"),
        (format!("{id}A"), "made longer"),
        (strangers, "of another server, with a key of its own"),
    ];
    for position in [0, id.len() / 3, id.len() / 2, id.len() - 2] {
        let mut bytes = id.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        forged.push((String::from_utf8(bytes).expect("ASCII"), "changed"));
    }
    for (reservation_id, how) in forged {
        let progress = ReportProgressRequest { reservation_id: reservation_id.clone(), generated_tokens: 5 };
        let settle = SettleRequest { reservation_id: reservation_id.clone(), ..SettleRequest::default() };
        let release = ReleaseRequest { reservation_id };
        let mut limiter = gateway.raw();
        for status in [
            limiter.report_progress(gateway.call(progress)).await.expect_err(how),
            limiter.settle(gateway.call(settle)).await.expect_err(how),
            limiter.release(gateway.call(release)).await.expect_err(how),
        ] {
            let failure = Failure::of(&status);
            assert_eq!((failure.code, failure.field.as_str()), (Code::InvalidArgument, "reservation_id"), "{how}");
            assert!(["INVALID_FIELD", "INVALID_RESERVATION_ID"].contains(&failure.reason.as_str()), "{failure:?}");
        }
    }
    assert_eq!(gateway.windows(&good).await, before);
    gateway.settle_as_admitted(&id, 1).await;
}

#[tokio::test]
async fn bad_counts_after_admission_name_their_field_and_the_reservation_lives_on() {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let good = Ask::of("acme").tokens(100, 60, 10);
    let id = gateway.allow(&good).await.reservation_id;
    let before = gateway.windows(&good).await;
    let many = Some(TOO_MANY);
    for (field, status) in [
        ("generated_tokens", gateway.progress(&id, TOO_MANY).await.map(drop)),
        ("generated_tokens", gateway.settle(&id, None, None, many).await.map(drop)),
        ("cached_prompt_tokens", gateway.settle(&id, None, many, None).await.map(drop)),
        ("prompt_tokens", gateway.settle(&id, many, None, None).await.map(drop)),
    ] {
        let failure = Failure::of(&status.expect_err("it is refused"));
        assert_eq!((failure.code, failure.field.as_str()), (Code::InvalidArgument, field), "{failure:?}");
    }
    assert_eq!(gateway.windows(&good).await, before);

    // At settlement more cached than prompt tokens are counted, not refused: refusing would lose tokens that were used.
    let settled = gateway.settle(&id, Some(80), Some(81), Some(0)).await.expect("it is settled");
    assert_eq!((settled.outcome(), settled.clamped), (SettleOutcome::Applied, true));
    assert_eq!(gateway.windows(&good).await.used(), [80, 0, 0]);

    // A second settlement with other numbers changes nothing, and neither does a release.
    let before = gateway.windows(&good).await;
    let again = gateway.settle(&id, Some(5), Some(0), Some(7)).await.expect("it is answered");
    assert_eq!((again.outcome(), again.clamped), (SettleOutcome::Duplicate, false));
    assert_eq!(gateway.release(&id).await.expect("it is answered").outcome(), SettleOutcome::Duplicate);
    assert_eq!(gateway.windows(&good).await, before);
    let failure = Failure::of(&gateway.progress(&id, 9).await.expect_err("it has ended"));
    assert_eq!((failure.code, failure.reason.as_str()), (Code::FailedPrecondition, "RESERVATION_ENDED"));
    gateway.verdict().assert_clean();
}

#[tokio::test]
async fn a_message_above_the_bound_is_refused_and_the_bound_is_named() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let mut ask = Ask::of("acme");
    ask.request.request_id = "r".repeat(64 * 1024);
    let failure = gateway.refuse(&ask).await;
    assert!([Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument].contains(&failure.code), "{failure:?}");
    assert!(failure.message.contains("65536"), "{failure:?}");
    gateway.allow(&Ask::of("acme")).await;
}

#[tokio::test]
async fn policy_that_contradicts_itself_is_refused() {
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await;
    let tier = |name: &str, floor, ceiling| Tier {
        name: name.into(),
        bounds: Some(bounds([floor; 3], [ceiling; 3])),
        ..Tier::default()
    };
    for (field, tier) in [
        ("tier.bounds.prompt", tier("upside down", 10, 9)),
        ("tier.bounds.prompt.floor_tpm", tier("nothing", 0, 9)),
        ("tier.bounds.prompt", tier("too much", 1, TOO_MANY)),
        ("tier.name", tier("", 1, 9)),
        ("tier.name", tier("a\0", 1, 9)),
        ("tier.law_profile", Tier { law_profile: "wishful".into(), ..tier("wishful", 1, 9) }),
    ] {
        let request = CreateTierRequest { tier: Some(tier), ..CreateTierRequest::default() };
        let failure = Failure::of(&gateway.admin().create_tier(request).await.expect_err("it is refused"));
        assert_eq!(failure.code, Code::InvalidArgument, "{failure:?}");
        assert!(failure.field.starts_with(field), "{failure:?} instead of {field}");
    }
    let account = Account { name: "acme".into(), tier: "no such tier".into(), ..Account::default() };
    let request = CreateAccountRequest { account: Some(account), ..CreateAccountRequest::default() };
    let failure = Failure::of(&gateway.admin().create_account(request).await.expect_err("it is refused"));
    assert_eq!((failure.code, failure.field.as_str()), (Code::InvalidArgument, "account.tier"), "{failure:?}");
    assert!(failure.message.contains("no such tier"), "{failure:?}");
}

/// Starts where it must not: exits with code 2 for what is written wrong, 1 for what the machine refuses, and says each of
/// `named`.
fn assert_refused(setup: Setup, code: i32, named: &[&str]) {
    let shown = format!("{setup:?}");
    let (exit, output) = setup.refused();
    assert_eq!(exit, Some(code), "{shown}\n{output}");
    for name in named {
        assert!(output.contains(name), "`{name}` is not named by\n{output}\n{shown}");
    }
}

#[test]
fn every_mistake_in_the_configuration_is_reported_at_once_with_its_path() {
    assert_refused(Setup::release().config("listen = [\n"), 2, &["tidegate.toml"]);
    let config = r#"
        listen = "nowhere"
        colour = "blue"
        [bounds]
        keys = -1
        reservation_ttl = "2h"
        [tiers.tier-1.bounds]
        prompt = { floor = "10", ceiling = "9" }
        [accounts.acme]
        tier = "no such tier"
    "#;
    let named = [
        "listen",
        "colour",
        "bounds.keys",
        "bounds.reservation_ttl",
        "tiers.tier-1.bounds.prompt",
        "acme",
        "no such tier",
    ];
    assert_refused(Setup::release().config(config), 2, &named);
    let missing = Setup::release().arguments(["--config", "/nowhere/tidegate.toml"]);
    assert_refused(missing, 2, &["/nowhere/tidegate.toml"]);
}

#[test]
fn a_flag_or_variable_with_a_bad_value_is_named() {
    assert_refused(Setup::release().arguments(["--listen", "7437"]), 2, &["--listen", "7437"]);
    assert_refused(Setup::release().arguments(["--max-keys", "many"]), 2, &["--max-keys", "many"]);
    assert_refused(Setup::release().arguments(["--drain", "soon"]), 2, &["--drain", "soon"]);
    assert_refused(Setup::release().arguments(["--no-such-flag"]), 2, &["--no-such-flag"]);
    assert_refused(Setup::release().environment("TIDEGATE_THREADS", "0"), 2, &["TIDEGATE_THREADS"]);
    for address in
        ["redis+tls://user:hunter2@127.0.0.1", "redis://user:hunter2@", "redis://user:hunter2@127.0.0.1:port"]
    {
        let (exit, output) = Setup::release().arguments(["--store", address]).refused();
        assert_eq!(exit, Some(2), "{output}");
        assert!(output.contains("--store") && !output.contains("hunter2"), "{output}");
    }
}

#[test]
fn an_admin_address_that_others_reach_is_refused() {
    assert_refused(Setup::release().arguments(["--admin-listen", "0.0.0.0:0"]), 2, &["--admin-listen"]);
    let server = Setup::release().arguments(["--admin-listen", "0.0.0.0:0", "--insecure-admin"]).start();
    assert!(server.output().contains("WARN"), "{}", server.output());
}

#[test]
fn what_cannot_be_listened_on_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for flag in ["--listen", "--admin-listen", "--http-listen"] {
        assert_refused(Setup::release().arguments([flag, &address]), 1, &[&address]);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("no/such/folder/tidegate.sock");
    let socket = socket.to_str().expect("UTF-8");
    assert_refused(Setup::release().arguments(["--unix-socket", socket]), 1, &[socket]);
    let long = format!("/tmp/{}", "s".repeat(120));
    assert_refused(Setup::release().arguments(["--unix-socket", &long]), 2, &["--unix-socket"]);
    let file = folder.path().join("a file");
    std::fs::write(&file, "not a socket").expect("writable");
    let file = file.to_str().expect("UTF-8");
    assert_refused(Setup::release().arguments(["--unix-socket", file]), 1, &[file]);
    assert_eq!(std::fs::read_to_string(file).ok().as_deref(), Some("not a socket"), "what is no socket is left alone");
}
