use std::path::Path;
use std::time::Duration;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::window::Tokens;
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::run::{Setup, run};
use tidegate_sim::workload::{Shape, Workload};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let scale: u64 = var("X", "4000").parse().unwrap();
    let policy: Policy = var("P", "forecast").parse().unwrap();
    let forecast = ForecastDefaults { margin_sigmas_permille: var("Z", "3000").parse().unwrap(), ..Default::default() };
    let path = format!("/work/shared/traces/{}.csv.gz", args[1]);
    let workload = Workload::read(Path::new(&path), &Shape { fold: Some(1), scale_permille: scale, seed: 0 }).unwrap();
    let limits = if std::env::var("GEN").is_ok() { Tokens::new(1 << 40, 1 << 40, 36_000) } else { Tokens::new(3_600_000, 900_000, 36_000) };
    let rules = vec![KeyRules::fixed(&limits); workload.keys.len()];
    let setup = Setup { rules: &rules, forecast: &forecast, progress_every: Some(Duration::from_secs(1)), cache_known: true, record: true };
    let out = run(&workload, policy, &setup, |_| {});
    let rec = out.keys[0].record.as_ref().unwrap();
    let (a, b): (usize, usize) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    for (i, t) in rec.held.iter().enumerate().take(b).skip(a) {
        print!("{:6.1}", 100.0 * t.generated as f64 / 36000.0);
        if i % 20 == 19 { println!("   | {i}"); }
    }
    println!();
}
