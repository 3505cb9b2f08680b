use super::*;
use crate::report::{Limits, Study};
use crate::workload::{Arrival, KeyName};
use std::num::NonZeroUsize;

/// One key that asks for 300 tokens, over 8 s, three times a second: one and a half times the limit.
fn busy(seconds: u64) -> Workload {
    let key = KeyName { account: "acme".to_owned(), model: "large".to_owned() };
    let request = |index: u64| Arrival {
        at_ms: index * 333,
        key: 0,
        prompt_tokens: 100,
        uncached_prompt_tokens: 100,
        generated_tokens: 300,
        duration_ms: 8_000,
        max_generated_tokens: Some(4_096),
    };
    Workload { keys: vec![key], requests: (0..seconds * 3).map(request).collect() }
}

fn study<'a>(rules: &'a [KeyRules], policies: &'a [Policy], forecast: &'a ForecastDefaults) -> Study<'a> {
    Study {
        limits: Limits::Static,
        rules,
        policies,
        forecast,
        progress_every: Some(Duration::from_secs(1)),
        cache_known: true,
        record: false,
    }
}

/// What each policy is known for, on the simplest busy key.
#[test]
fn policies_do_what_they_are_known_for() {
    let (rules, forecast) = ([KeyRules::fixed(&Tokens::new(1 << 40, 1 << 40, 36_000))], ForecastDefaults::default());
    let threads = NonZeroUsize::MIN;
    let report = study(&rules, &Policy::ALL, &forecast).report("busy", 1_000, &busy(1_800), threads, &|_| {});
    let [oracle, maximum, fixed, after, plain, forecast] = report.policies.try_into().expect("six policies");
    assert_eq!((oracle.goodput, oracle.overshoot_max, oracle.false_denials), (Some(1.0), Some(0.0), Some(0.0)));
    assert!(maximum.goodput < Some(0.5) && maximum.false_denials > Some(0.1), "holding maxima denies at low use");
    assert!(fixed.goodput < Some(0.9), "{:?}", fixed.goodput);
    assert!(after.overshoot_max > Some(0.05), "charging afterwards overruns");
    assert!(plain.goodput < forecast.goodput, "the plain sum counts an answer twice: {:?}", plain.goodput);
    assert!(forecast.goodput > Some(0.95) && forecast.overshoot_p99 < Some(0.01), "{:?}", forecast.goodput);
    assert_eq!(forecast.false_denials, Some(0.0));
}

#[test]
fn a_run_is_the_same_every_time_and_every_request_is_answered() {
    let (rules, forecast) = ([KeyRules::fixed(&Tokens::new(1 << 40, 1 << 40, 36_000))], ForecastDefaults::default());
    let (workload, policies) = (busy(300), [Policy::Forecast, Policy::PlainSum]);
    let played = |threads| {
        let threads = NonZeroUsize::new(threads).expect("not 0");
        let report = study(&rules, &policies, &forecast).report("busy", 1_000, &workload, threads, &|_| {});
        serde_json::to_string(&report).expect("serialises")
    };
    assert_eq!(played(1), played(3));
    let setup = Setup {
        rules: &rules,
        forecast: &forecast,
        progress_every: None,
        cache_known: true,
        capacity: None,
        keep: Keep::Course,
        threads: NonZeroUsize::MIN,
    };
    let outcome = run(&workload, Policy::Forecast, &setup, &|_| {});
    let record = outcome.keys[0].record.as_ref().expect("recorded");
    assert_eq!(outcome.requests, 900);
    assert_eq!(outcome.requests - outcome.admitted, record.rate_limited.len() as u64);
    assert_eq!(outcome.tokens.generated, 300 * outcome.admitted);
    assert_eq!(outcome.tokens_denied.generated, 300 * (900 - outcome.admitted));
    // What is kept of it changes nothing.
    for keep in [Keep::Decisions, Keep::Truth] {
        let less = run(&workload, Policy::Forecast, &Setup { keep, ..setup }, &|_| {});
        assert_eq!((less.admitted, less.tokens), (outcome.admitted, outcome.tokens));
        assert_eq!(less.keys[0].truth.generated.peak > 0, keep == Keep::Truth);
    }
}
