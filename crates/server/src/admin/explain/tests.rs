use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{PartialBounds, Policy, PolicyWrite, Tier, Written};
use tidegate_core::pressure::{DeploymentReport, Report};
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;
use tidegate_store::memory::{MemoryBounds, MemoryStore};

use super::*;

const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// Every key has a floor of 1,000 and a ceiling of 9,000.
fn store() -> MemoryStore {
    let bounds = PerWindow::from_fn(|_| PartialBounds { floor_tpm: Some(1_000), ceiling_tpm: Some(9_000) });
    let entry = Written::Tier(Tier { name: "tier-1".into(), bounds, ..Tier::default() });
    let policy = Policy::built_in().apply(PolicyWrite::Update { entry, expected_revision: None }, START);
    let policy = policy.expect("a good tier").0;
    MemoryStore::new(MemoryBounds::default(), ForecastDefaults::default(), policy).expect("randomness")
}

async fn report(store: &MemoryStore, now: Timestamp, permille: u32, ttl: Duration) {
    let deployments =
        vec![DeploymentReport { model: "m", variant: "", permille: PerWindow::from_fn(|_| Some(permille)) }];
    store.report_pressure(now, &Report { reporter: "r", ttl, deployments }).await.expect("there is room");
}

fn key() -> KeyRef<'static> {
    KeyRef::new("acme", "m", "").expect("well formed")
}

/// The sentences about the prompt window.
async fn said(store: &MemoryStore, now: Timestamp) -> String {
    sentences::of_window(Window::Prompt, &store.explain_limit(now, key()).await, None).join(" ")
}

/// The sentences about a key at its floor, after ten minutes at each of these pressures.
async fn said_at(pressures: &[u32]) -> Vec<String> {
    let store = store();
    let (mut now, mut sentences) = (START, Vec::new());
    for permille in pressures {
        report(&store, now, *permille, Duration::from_secs(600)).await;
        sentences.push(said(&store, now.after(Duration::from_secs(595))).await);
        now = now.after(Duration::from_secs(599));
    }
    sentences
}

#[tokio::test]
async fn where_the_pressure_sheds_it_is_said_who_is_refused() {
    let said = said_at(&[100, 1_300, 1_800, 2_250, 2_600]).await;
    let [calm, busy, standard, both, all] = &said[..] else { panic!("{said:?}") };
    assert!(!calm.contains("503"), "{calm}");
    assert!(busy.contains("with 503 are Standard requests with which it would carry more than 1,00"), "{busy}");
    assert!(standard.contains("with 503 are all Standard requests.") && !standard.contains("Priority"), "{standard}");
    assert!(both.contains("all Standard requests, and Priority requests with which it would carry more"), "{both}");
    assert!(all.contains("with 503 are all requests, Priority ones too."), "{all}");
}

/// Tokens settle while no report counts; then reports return, in the same minute of the law.
#[tokio::test]
async fn a_freeze_is_told_as_a_freeze_when_reports_are_back() {
    let store = store();
    // The law's minute of the key begins here.
    let phase = key().phase_seconds();
    let at = |seconds| Timestamp::from_seconds((START.as_seconds() / 60 + 2) * 60 - phase + seconds);
    report(&store, at(0), 100, Duration::from_secs(1)).await;
    let request = Request {
        key: key(),
        prompt_tokens: 900,
        cached_prompt_tokens: Some(0),
        max_generated_tokens: Some(0),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(60),
    };
    let id = store.check_and_reserve(at(5), &request).await.expect("no request id").id_text(key()).expect("it fits");
    store.settle(at(6), &id, SettleCounts::default()).await.expect("live");
    let silent = said(&store, at(7)).await;
    assert!(silent.contains("reports of pressure have stopped: limits are frozen"), "{silent}");
    report(&store, at(8), 100, Duration::from_secs(60)).await;
    let back = said(&store, at(9)).await;
    assert!(back.contains("no report of pressure counted when tokens were settled"), "{back}");
    assert!(!back.contains("65535"), "{back}");
}
