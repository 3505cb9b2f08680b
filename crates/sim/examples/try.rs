use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::window::{Tokens};
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::report::{Limits, Study};
use tidegate_sim::workload::{Shape, Workload};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let policies: Vec<Policy> = var("P", "forecast").split(',').map(|p| p.parse().unwrap()).collect();
    let scales: Vec<u64> = var("X", "1000,4000").split(',').map(|p| p.parse().unwrap()).collect();
    let seeds: u64 = var("SEEDS", "1").parse().unwrap();
    let progress: u64 = var("PROGRESS", "1000").parse().unwrap();
    let mut forecast = ForecastDefaults::default();
    forecast.margin_sigmas_permille = var("Z", "2326").parse().unwrap();
    for which in args.iter().skip(1) {
        let (name, gen_only) = which.strip_suffix("+gen").map_or((which.as_str(), false), |n| (n, true));
        let path = format!("/work/shared/traces/{name}.csv.gz");
        for &scale in &scales {
            for seed in 0..seeds {
                let shape = Shape { fold: name.starts_with("agentic").then_some(1), scale_permille: scale, seed };
                let workload = Workload::read(Path::new(&path), &shape).unwrap();
                let limits = if gen_only { Tokens::new(1 << 40, 1 << 40, 36_000) } else { Tokens::new(3_600_000, 900_000, 36_000) };
                let rules = vec![KeyRules::fixed(&limits); workload.keys.len()];
                let study = Study { limits: Limits::Static, rules: &rules, policies: &policies, forecast: &forecast,
                    progress_every: (progress > 0).then(|| Duration::from_millis(progress)), cache_known: std::env::var("LATE").is_err(), record: false };
                let start = Instant::now();
                let report = study.report(which, scale, &workload, NonZeroUsize::new(2).unwrap(), &|_| {});
                for p in report.policies {
                    println!("{which:28} x{} s{seed} {:12} adm {:6}/{:6} good {:6.2}% p99 {:6.2}% max {:6.2}% first {:6.2}% false {:6.3}%  [p99 {}] {:?}", scale / 1000, p.policy, p.admitted, p.requests,
                        100.0 * p.goodput.unwrap(), 100.0 * p.overshoot_p99.unwrap(), 100.0 * p.overshoot_max.unwrap(), 100.0 * p.overshoot_first.unwrap(), 100.0 * p.false_denials.unwrap(),
                        p.windows.iter().map(|w| format!("{:.2}", 100.0*w.overshoot_p99.unwrap())).collect::<Vec<_>>().join(" "), start.elapsed());
                }
            }
        }
    }
}
