use std::time::Duration;

use tidegate_core::law::{LawParams, MaxStep};
use tidegate_core::policy::{Degrade, PartialBounds, UnknownAccounts};
use tidegate_core::time::Timestamp;

use super::*;

const EXAMPLE: &str = include_str!("../../../../tidegate.example.toml");

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("writes");
    file
}

fn loaded(text: &str) -> Config {
    check(file(text).path()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn refused(text: &str) -> Vec<String> {
    check(file(text).path()).expect_err("wrong").iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_says_every_default() {
    let built_in = loaded("");
    let example = loaded(EXAMPLE);
    assert_eq!(example.process, built_in.process);
    assert_eq!(built_in.process, ProcessSettings::default());
    assert_eq!(built_in.policy, Policy::built_in());
    let (example, built_in) = (example.policy, built_in.policy);
    for (name, tier) in built_in.tiers() {
        assert_eq!(example.tiers()[name].bounds, tier.bounds, "{name}");
    }
    assert_eq!(example.tiers().len(), built_in.tiers().len());
    assert_eq!(example.profiles(), built_in.profiles());
    assert_eq!(example.default_tier(), built_in.default_tier());
    assert_eq!(example.unknown_accounts(), built_in.unknown_accounts());
    assert_eq!(example.enforcement(), built_in.enforcement());
    assert!(example.accounts().is_empty() && example.models().is_empty() && example.overrides().is_empty());
}

/// What the example shows as a comment beside the defaults is right too.
#[test]
fn the_examples_that_are_commented_out_load() {
    let live: String =
        EXAMPLE.lines().map(|line| line.strip_prefix("#! ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let config = loaded(&live);
    assert!(!config.policy.accounts().is_empty() && !config.policy.overrides().is_empty());
    assert!(!config.policy.models().is_empty() && config.policy.profiles().len() == 4);
}

#[test]
fn everything_wrong_is_said_at_once_with_its_path() {
    let problems = refused(
        r#"
        listen = "nowhere"
        drain = 10
        colour = "blue"
        threads = [1]
        default_tier = "gold"
        unknown_accounts = "maybe"
        enforcement = "off"
        [bounds]
        keys = 0
        limiter_message = "1TB"
        reservation_ttl = "2h"
        [logging]
        filter = "a=b=c"
        [tiers.tier-1.bounds.prompt]
        floor = "20M"
        [tiers.tier-2.bounds.generated]
        floor = "many"
        [tiers."a b"]
        law_profile = "wild"
        enforcement = "inherit"
        [law_profiles.wild2]
        ramp_doubling = "20m"
        return_doubling = "30m"
        [[models]]
        variant = "turbo"
        [accounts.acme]
        tier = "platinum"
        blocked = "perhaps"
        enforcement = true
        [[overrides]]
        id = "o1"
        account = "acme"
        variant = "turbo"
        expires = "tomorrow"
        "#,
    );
    let expected = [
        "threads: must be a single value, not an array",
        "drain: `10` has no unit; write ms, s, m, h or d after the number",
        "listen: `nowhere` is not an address; write IP:PORT such as 127.0.0.1:7437, or off",
        "bounds.keys: 0 is out of range; write 1 to 4294967295",
        "bounds.limiter_message: `1TB` is not a size; write bytes, 64KiB or 4MiB, from 1KiB to 64MiB",
        "bounds.reservation_ttl: 2h is out of range; write 1s to 3600s",
        "law_profiles.wild2.return_doubling: must be at most ramp_doubling",
        "tiers.\"a b\".law_profile: names no law profile: \"wild\"",
        "tiers.tier-1.bounds.prompt.floor: 20000000 is above the ceiling, 10800000",
        "tiers.tier-2.bounds.generated.floor: `many` is not an amount; write a number such as 900k, 3.6M or 2G",
        "default_tier: names no tier: \"gold\"",
        "unknown_accounts: `maybe` is no treatment of unknown accounts; write default-tier or forbidden",
        "enforcement: `off` is neither on nor shadow",
        "tiers.\"a b\".enforcement: `inherit` is neither on nor shadow",
        "accounts.acme.enforcement: `true` is neither on nor shadow",
        "models[0].name: is required",
        "accounts.acme.blocked: `perhaps` is neither true nor false",
        "accounts.acme.tier: names no tier: \"platinum\"",
        "overrides[0].expires: must be a date, a time and an offset from 1970 on, such as 2027-01-31T12:00:00Z",
        "overrides[0].variant: needs a model",
    ];
    for line in expected {
        assert!(problems.iter().any(|problem| problem == line), "{line}\nnot in\n{}", problems.join("\n"));
    }
    for start in ["colour: is not a setting; this table knows ", "logging.filter: `a=b=c` is no log filter: "] {
        assert!(problems.iter().any(|problem| problem.starts_with(start)), "{start}");
    }
    assert_eq!(problems.len(), expected.len() + 2, "{}", problems.join("\n"));
}

#[test]
fn a_file_that_is_no_toml_names_its_line() {
    let broken = file("listen = \"off\"\n[bounds\nkeys = 1\n");
    let problems = check(broken.path()).expect_err("broken").to_string();
    assert!(problems.starts_with(&format!("{}:2: ", broken.path().display())), "{problems}");
    let missing = check(Path::new("/no/such/file.toml")).expect_err("missing").to_string();
    assert!(missing.starts_with("/no/such/file.toml: cannot be read: No such file"), "{missing}");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = file(
        "listen = \"127.0.0.1:1\"\nhttp_listen = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:1\"\n[bounds]\nkeys = \"2k\"\n",
    );
    let args = ServeArgs {
        config: Some(file.path().to_owned()),
        listen: Some("localhost:3".to_owned()),
        max_reservations: Some("5k".to_owned()),
        ..ServeArgs::default()
    };
    let environment = |name: &str| match name {
        "TIDEGATE_LISTEN" | "TIDEGATE_HTTP_LISTEN" => Some("127.0.0.1:2".to_owned()),
        "TIDEGATE_MAX_KEYS" => Some("3k".to_owned()),
        "TIDEGATE_ADMIN_LISTEN" => Some(String::new()),
        _ => None,
    };
    let process = load_with(&args, &environment).expect("right").process;
    let tcp = |address: &str| address.parse().expect("an address");
    assert_eq!(process.listeners.limiter, Some(tcp("127.0.0.1:3")));
    assert_eq!(process.listeners.http, Some(tcp("127.0.0.1:2")));
    assert_eq!(process.listeners.admin, Some(Address::Tcp(tcp("127.0.0.1:1"))), "an empty variable is unset");
    assert_eq!((process.bounds.store.keys, process.bounds.store.reservations), (3_000, 5_000));
}

#[test]
fn mistakes_name_the_flag_or_variable_they_stand_in() {
    let args = ServeArgs { drain: Some("soon".to_owned()), ..ServeArgs::default() };
    let environment = |name: &str| match name {
        "TIDEGATE_HTTP_LISTEN" => Some("7439".to_owned()),
        "TIDEGATE_STORE" => Some("redis://user:secret@host:port".to_owned()),
        _ => None,
    };
    let problems = load_with(&args, &environment).expect_err("wrong").to_string();
    assert!(problems.contains("--drain: `soon` is not an amount"), "{problems}");
    assert!(problems.contains("TIDEGATE_HTTP_LISTEN: `7439` is not an address"), "{problems}");
    assert!(problems.contains("TIDEGATE_STORE: names no server"), "{problems}");
    assert!(!problems.contains("secret"), "{problems}");
}

#[test]
fn strangers_do_not_reach_the_admin_api_by_accident() {
    for open in ["0.0.0.0:7438", "[::]:7438", "192.0.2.1:7438"] {
        let args = ServeArgs { admin_listen: Some(open.to_owned()), ..ServeArgs::default() };
        let problems = load_with(&args, &|_| None).expect_err(open).to_string();
        assert!(problems.starts_with("--admin-listen: ") && problems.contains("--insecure-admin"), "{problems}");
        let insecure = ServeArgs { insecure_admin: true, ..args };
        assert!(load_with(&insecure, &|_| None).expect("accepted").process.insecure_admin);
    }
    for local in ["127.0.0.1:0", "[::1]:7438", "unix:/run/tidegate/admin.sock", "off"] {
        let args = ServeArgs { admin_listen: Some(local.to_owned()), ..ServeArgs::default() };
        load_with(&args, &|_| None).expect(local);
    }
}

#[test]
fn policy_of_the_file_is_policy() {
    let config = loaded(
        r#"
        default_tier = "gold"
        unknown_accounts = "forbidden"
        [law_profiles.slow]
        base = "default"
        headroom = 1.75
        ramp_doubling = "20m"
        max_step_tokens = "10k"
        [tiers.gold]
        law_profile = "slow"
        degrade = "open"
        bounds.prompt = { floor = "7.2M", ceiling = "100M" }
        [[tiers.gold.models]]
        model = "m"
        variant = "turbo"
        bounds.generated.floor = 72_000
        [tiers.enterprise.bounds.prompt]
        ceiling = "1G"
        [[models]]
        name = "big"
        law_profile = "static"
        [accounts."acme corp"]
        tier = "enterprise"
        [[overrides]]
        id = "launch"
        account = "acme corp"
        model = "big"
        bounds.prompt.floor = "50M"
        reason = "launch"
        expires = 2024-02-29T12:30:00+02:00
        "#,
    );
    let policy = config.policy;
    assert_eq!((policy.default_tier(), policy.unknown_accounts()), ("gold", UnknownAccounts::Forbidden));
    let steps = policy.profiles()["slow"].steps();
    assert_eq!((steps.headroom_permille, steps.growth, steps.max_step), (1_750, 12, MaxStep::Tokens(10_000)));
    assert_eq!(steps.return_growth, LawParams::DEFAULT.steps().return_growth);
    let gold = &policy.tiers()["gold"];
    assert_eq!(gold.bounds.prompt, PartialBounds { floor_tpm: Some(7_200_000), ceiling_tpm: Some(100_000_000) });
    assert_eq!(gold.bounds.generated, PartialBounds::default());
    assert_eq!((gold.degrade, policy.tiers()["enterprise"].degrade), (Some(Degrade::Open), None));
    assert_eq!(gold.models[0].bounds.generated.floor_tpm, Some(72_000));
    let enterprise = &policy.tiers()["enterprise"].bounds;
    assert_eq!(enterprise.prompt, PartialBounds { floor_tpm: Some(3_600_000), ceiling_tpm: Some(1_000_000_000) });
    assert_eq!(enterprise.generated.ceiling_tpm, Some(1_800_000), "what the file does not state stays built in");
    assert_eq!(policy.accounts()["acme corp"].tier, "enterprise");
    let launch = &policy.overrides()["launch"];
    assert_eq!(
        launch.expires_at,
        Some(Timestamp::from_seconds(1_709_202_600)),
        "an expired override is kept, and harmless"
    );
}

#[test]
fn a_floor_that_wins_over_a_ceiling_is_said() {
    let config = loaded("[[models]]\nname = \"big\"\nbounds.prompt.ceiling = \"1M\"\n");
    assert_eq!(config.warnings.len(), config.policy.tiers().len(), "{:?}", config.warnings);
    let warning = config.warnings[0].to_string();
    assert!(
        warning.starts_with("models[0]: prompt: merged with tier ") && warning.contains("the floor wins"),
        "{warning}"
    );
    assert_eq!(loaded(EXAMPLE).warnings, []);
}

#[test]
fn sizes_durations_and_modes() {
    let text = "unix_socket = \"unix:/tmp/t.sock\"\nunix_socket_mode = \"0600\"\ndrain = \"1.5s\"\nlisten = \"off\"\n\
                [bounds]\nadmin_message = \"1MiB\"\nlimiter_message = 2048\n[headers]\nunit = \"tpm\"\n[forecast]\nmargin_sigmas = 1.5\n";
    let process = loaded(text).process;
    assert_eq!(process.listeners.unix_socket.as_deref(), Some(Path::new("/tmp/t.sock")));
    assert_eq!((process.listeners.unix_socket_mode, process.listeners.limiter), (0o600, None));
    assert_eq!(process.drain, Duration::from_millis(1_500));
    assert_eq!((process.bounds.admin_message_bytes, process.bounds.limiter_message_bytes), (1 << 20, 2_048));
    assert_eq!(process.forecast.margin_sigmas_permille, 1_500);
    let long = format!("unix_socket = \"/{}\"", "x".repeat(107));
    assert!(refused(&long)[0].contains("has at most 107"));
}
