use std::path::Path;
use std::time::Duration;
use tidegate_core::forecast::{ForecastDefaults, Lengths, Prior};
use tidegate_core::holds::{Hold, Holds};
use tidegate_core::time::Timestamp;
use tidegate_sim::workload::{Shape, Workload, Arrival};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let scale: u64 = var("X", "1000").parse().unwrap();
    let path = format!("/work/shared/traces/{}.csv.gz", args[1]);
    let w = Workload::read(Path::new(&path), &Shape { fold: Some(1), scale_permille: scale, seed: 0 }).unwrap();
    let prior = Prior::from_defaults(&ForecastDefaults::default());
    let mut lengths = Lengths::default();
    let mut holds = Holds::default();
    struct L { r: Arrival, hold: Hold, got: u64 }
    let mut live: Vec<L> = vec![];
    let mut i = 0;
    let horizons = [1u64, 2, 5, 10, 20, 40, 60];
    let mut stats = vec![(0.0f64, 0.0f64, 0.0f64, 0.0f64, 0u64); horizons.len()];
    let mut t = 1000u64; // ms, steps of 100ms
    while i < w.requests.len() {
        t += 100;
        let now = Timestamp::from_millis(1_000_000_000 + t);
        holds.advance(now);
        while i < w.requests.len() && w.requests[i].at_ms <= t {
            let r = w.requests[i]; i += 1;
            let course = lengths.course(&prior.hazards, 0, 36_000, 27_000);
            let hold = Hold::new(&course, now, now, Duration::from_secs(10));
            holds.insert(&hold);
            live.push(L { r, hold, got: 0 });
        }
        live.retain_mut(|l| {
            if l.r.end_ms() <= t {
                holds.remove(&l.hold);
                lengths.on_end(l.got, l.r.generated_tokens, 36_000);
                return false;
            }
            if (t / 100) % 10 == (l.r.at_ms / 100) % 10 {
                let g = l.r.generated_by(t);
                if g > l.got {
                    let pace = 1_000_000 / (g - l.got).max(1); let pace = if l.got == 0 { pace.min(25_500) } else { pace };
                    lengths.on_progress(l.got, g);
                    l.got = g;
                    holds.remove(&l.hold);
                    let course = lengths.course(&prior.hazards, g, 36_000, pace.max(1));
                    l.hold = Hold::new(&course, Timestamp::from_millis(1_000_000_000 + l.r.at_ms), now, Duration::from_secs(20));
                    holds.insert(&l.hold);
                }
            }
            true
        });
        if t % 2000 == 0 && t > 300_000 && !live.is_empty() {
            let mut ahead = holds.ahead();
            for (k, h) in horizons.iter().enumerate() {
                let e = ahead.by(now.after(Duration::from_secs(*h)));
                let actual: u64 = live.iter().map(|l| l.r.generated_by(t + h * 1000) - l.got).sum();
                let err = actual as f64 - e.tokens as f64;
                let s = &mut stats[k];
                s.0 += e.tokens as f64; s.1 += actual as f64; s.2 += (e.variance as f64).sqrt(); s.3 += err * err / (e.variance as f64 + 1.0); s.4 += 1;
            }
        }
    }
    for (k, h) in horizons.iter().enumerate() {
        let s = stats[k]; let n = s.4 as f64;
        println!("{h:3}s expected {:8.1} actual {:8.1} ratio {:.3} sigma {:7.1}  rms z {:.2}", s.0 / n, s.1 / n, s.1 / s.0, s.2 / n, (s.3 / n).sqrt());
    }
}
