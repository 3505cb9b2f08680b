use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_core::decision::{Allowed, Denial, Denied, WindowStatus};
use tidegate_core::law::Bounds;
use tidegate_core::pressure::Deployment;
use tidegate_core::reservation::Number;
use tidegate_core::time::Timestamp;
use tidegate_store::{DiskStats, FleetStats};

use super::*;

fn metrics() -> Metrics {
    Metrics::new(false, ["/tidegate.v1.RateLimiterService/Settle".to_owned()])
}

fn drawn(metrics: &Metrics) -> String {
    let disk = DiskStats { durable_at: Timestamp::from_seconds(1_700_000_000), degraded: true, ..DiskStats::default() };
    let stats = Stats { disk: Some(disk), fleet: Some(FleetStats::default()), ..Stats::default() };
    metrics.draw(&stats, &[], Now::default())
}

fn denied(denial: Denial, binding: &[Window]) -> Answer {
    let ask = Tokens::new(10, 5, 2);
    let mut windows: PerWindow<WindowStatus> = PerWindow::default();
    for window in binding {
        windows[*window].binding = true;
    }
    Answer { outcome: Err(Denied { denial, retry_after: Some(Duration::from_secs(1)), ask }), windows }
}

fn allowed(replayed: bool) -> Answer {
    let allowed = Allowed {
        number: Number { incarnation: 1, sequence: 1 },
        reserved: Tokens::new(100, 50, 20),
        admitted_at: Timestamp::ZERO,
        ttl: std::time::Duration::from_secs(600),
        replayed,
    };
    Answer { outcome: Ok(allowed), windows: PerWindow::default() }
}

/// The page's rows, without suffixes of histograms: metric name to kind.
fn kinds(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[test]
fn the_documentation_lists_exactly_what_the_page_shows() {
    let metrics = metrics();
    metrics.on_rpc_error("/tidegate.v1.RateLimiterService/Settle", Code::InvalidArgument);
    metrics.on_decision(ServiceTier::Standard, &allowed(false), false, 1e-5);
    let page = drawn(&metrics);
    let shown = kinds(&page);

    let document = include_str!("../../../../docs/metrics.md");
    let documented: Vec<&str> = document.lines().filter(|line| line.starts_with("| `tidegate_")).collect();
    let described: Vec<String> = catalogue::ALL
        .iter()
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            let labels = if labels.is_empty() { "-".to_owned() } else { labels };
            format!("| `{}` | {} | {} | {labels} | {} |", metric.name, metric.kind.name(), metric.unit, metric.meaning)
        })
        .collect();
    assert_eq!(documented, described, "docs/metrics.md against metrics/catalogue.rs");

    let described: BTreeMap<&str, &str> =
        catalogue::ALL.iter().map(|metric| (metric.name, metric.kind.name())).collect();
    assert_eq!(shown, described, "the page against metrics/catalogue.rs");
    for metric in catalogue::ALL {
        assert!(page.contains(&format!("# HELP {} ", metric.name)), "{} has no help", metric.name);
    }
}

#[test]
fn every_label_and_bound_on_the_page_is_documented() {
    let document = include_str!("../../../../docs/metrics.md");
    let metrics = metrics();
    metrics.on_rpc_error("/nobody/Knows", Code::Unimplemented);
    for row in drawn(&metrics).lines().filter(|line| line.starts_with("tidegate_")) {
        let Some((_, labels)) = row.split_once('{') else { continue };
        for label in labels.split_once('}').expect("closed").0.split(',') {
            let (name, value) = label.split_once('=').expect("a label");
            let free = matches!(name, "version" | "code" | "le");
            let value = value.trim_matches('"');
            assert!(name == "le" || document.contains(&format!("`{name}`")), "{name} of {row}");
            assert!(free || document.contains(&format!("`{value}`")), "{value} of {row}");
        }
    }
}

#[test]
fn each_decision_counts_once() {
    let metrics = metrics();
    let all = [Window::UncachedPrompt, Window::Generated];
    metrics.on_decision(ServiceTier::Standard, &allowed(false), false, 1e-5);
    metrics.on_decision(ServiceTier::Standard, &allowed(true), false, 1e-5);
    metrics.on_decision(ServiceTier::Priority, &denied(Denial::WindowFull, &all), false, 1e-5);
    metrics.on_decision(ServiceTier::Standard, &denied(Denial::NeverFits, &[]), false, 1e-5);
    metrics.on_decision(ServiceTier::Standard, &denied(Denial::Capacity(Bound::Reservations), &[]), false, 1e-5);
    let page = drawn(&metrics);
    let count = |row: &str| row.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok()).expect("a count");
    let rows = page.lines().filter(|line| line.starts_with("tidegate_decisions_total{"));
    assert_eq!(rows.map(count).sum::<u64>(), 5);
    for row in [
        "tidegate_decisions_total{decision=\"allow\",reason=\"none\",window=\"none\",service_tier=\"standard\"} 2",
        "tidegate_decisions_total{decision=\"rate_limited\",reason=\"window_full\",window=\"uncached_prompt\",\
         service_tier=\"priority\"} 1",
        "tidegate_decisions_total{decision=\"rate_limited\",reason=\"never_fits\",window=\"none\",\
         service_tier=\"standard\"} 1",
        "tidegate_decisions_total{decision=\"overloaded\",reason=\"capacity\",window=\"none\",service_tier=\"standard\"} 1",
        "tidegate_tokens_total{window=\"prompt\",kind=\"admitted\"} 100",
        "tidegate_tokens_total{window=\"generated\",kind=\"denied\"} 6",
        "tidegate_decision_seconds_count 5",
        "tidegate_decision_seconds_bucket{le=\"0.00001\"} 5",
    ] {
        assert!(page.lines().any(|line| line == row), "{row}\n{page}");
    }
}

#[test]
fn a_denial_in_shadow_counts_as_what_was_told_and_apart_as_what_was_decided() {
    let metrics = metrics();
    metrics.on_decision(ServiceTier::Standard, &denied(Denial::WindowFull, &[Window::Prompt]), true, 1e-5);
    let page = metrics.draw(&Stats::default(), &[], Now { in_shadow: (true, 2, 3), ..Now::default() });
    for row in [
        "tidegate_decisions_total{decision=\"allow\",reason=\"none\",window=\"none\",service_tier=\"standard\"} 1",
        "tidegate_shadow_decisions_total{decision=\"rate_limited\",reason=\"window_full\",window=\"prompt\",\
         service_tier=\"standard\"} 1",
        "tidegate_tokens_total{window=\"prompt\",kind=\"shadow\"} 10",
        "tidegate_tokens_total{window=\"prompt\",kind=\"denied\"} 0",
        "tidegate_tokens_total{window=\"prompt\",kind=\"admitted\"} 0",
        "tidegate_decision_seconds_count 1",
        "tidegate_enforcement_shadow{scope=\"global\"} 1",
        "tidegate_enforcement_shadow{scope=\"tiers\"} 2",
        "tidegate_enforcement_shadow{scope=\"accounts\"} 3",
    ] {
        assert!(page.lines().any(|line| line == row), "{row}\n{page}");
    }
}

#[test]
fn callers_make_up_no_labels() {
    let metrics = metrics();
    metrics.on_rpc_error("/tidegate.v1.RateLimiterService/Settle", Code::NotFound);
    metrics.on_rpc_error("/tidegate.v1.RateLimiterService/Nonsense", Code::Unimplemented);
    let page = drawn(&metrics);
    assert!(
        page.contains("tidegate_rpc_errors_total{method=\"RateLimiterService/Settle\",code=\"not_found\"} 1"),
        "{page}"
    );
    assert!(page.contains("tidegate_rpc_errors_total{method=\"unknown\",code=\"unimplemented\"} 1"), "{page}");
}

#[test]
fn what_the_store_counts_is_copied() {
    let metrics = metrics();
    let stats = Stats { keys: 7, expired: 3, bound_reached: [1, 2, 3, 4], reporters_full: 9, ..Stats::default() };
    for _ in 0..2 {
        let page = metrics.draw(&stats, &[], Now { connections: 5, calls_in_flight: 0, ready: true, ..Now::default() });
        for row in [
            "tidegate_keys 7",
            "tidegate_reservations_ended_total{how=\"expired\"} 3",
            "tidegate_bound_reached_total{bound=\"reservations\"} 3",
            "tidegate_bound_reached_total{bound=\"reporters\"} 9",
            "tidegate_connections 5",
            "tidegate_ready 1",
        ] {
            assert!(page.lines().any(|line| line == row), "{row}\n{page}");
        }
    }
}

#[test]
fn each_deployment_shows_its_pressure_and_its_water_level_and_whether_reports_ended() {
    let (bounds, mut busy) = (PerWindow::from_fn(|_| Bounds::new(10, 1_000).expect("in range")), Deployment::default());
    let at = Timestamp::from_seconds;
    for second in 0..12 {
        let said = PerWindow::new(Some(980), None, None);
        busy.report(at(1_000 + second), 1, said, std::time::Duration::from_secs(60)).expect("one reporter");
        let ended = PerWindow::new(None, None, Some(500));
        busy.report(at(1_000 + second), 2, ended, std::time::Duration::from_secs(1)).expect("two reporters");
        busy.on_decision(at(1_000 + second), Tokens::new(512, 0, 0), &bounds);
    }
    let model = "a \"large\" \\ model".to_owned();
    let row = DeploymentPressure { model, variant: String::new(), windows: busy.readings(at(1_015)) };
    let page = metrics().draw(&Stats { deployments: 1, ..Stats::default() }, &[row], Now::default());
    let labels = r#"model="a \"large\" \\ model",variant="","#;
    let rows = page.lines().filter(|row| row.contains("model=")).collect::<Vec<_>>();
    let expected = [
        format!("tidegate_pressure_permille{{{labels}window=\"prompt\"}} 980"),
        format!("tidegate_pressure_stale{{{labels}window=\"prompt\"}} 0"),
        format!("tidegate_pressure_stale{{{labels}window=\"generated\"}} 1"),
        format!("tidegate_water_level_tpm{{{labels}window=\"prompt\"}} 512"),
    ];
    assert_eq!(rows, expected, "{page}");
}
