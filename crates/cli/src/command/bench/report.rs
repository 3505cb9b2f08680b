//! What a load prints.

use std::time::Duration;

use serde_json::{Value, json};

use super::exchange::Verdicts;
use super::meter::Measured;
use crate::output::grouped;

/// The figures of a run.
pub(super) struct Report {
    /// While it was measured.
    pub(super) measured: Measured,
    /// Decisions and settlements of the whole run.
    pub(super) whole: (Verdicts, u64),
}

impl Report {
    fn per_second(&self, times: u64) -> f64 {
        times as f64 / self.measured.took.as_secs_f64()
    }

    /// Microseconds of processor time for each call.
    fn of_each_call(&self, spent: Duration) -> Option<f64> {
        let calls = self.measured.counts.calls;
        (calls > 0).then(|| spent.as_secs_f64() * 1e6 / calls as f64)
    }

    fn latency_us(&self, quantile: f64) -> f64 {
        self.measured.counts.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    fn answer_bytes(&self, answers: u64) -> f64 {
        self.measured.counts.answer_bytes as f64 / answers.max(1) as f64
    }

    /// Everything, for programs.
    pub(super) fn json(&self) -> Value {
        let Measured { counts, took, load, load_so_far, server } = &self.measured;
        let decisions = counts.verdicts.count();
        let (verdicts, settled) = self.whole;
        let share = |spent: &Duration| spent.as_secs_f64() / took.as_secs_f64();
        json!({
            "seconds": took.as_secs_f64(),
            "calls": counts.calls,
            "calls_per_s": self.per_second(counts.calls),
            "decisions": decisions,
            "decisions_per_s": self.per_second(decisions),
            "allowed": counts.verdicts.allowed,
            "denied": counts.verdicts.denied,
            "settled": counts.settled,
            "errors": counts.errors,
            "bytes_per_decision": self.answer_bytes(decisions),
            "whole_run": { "allowed": verdicts.allowed, "denied": verdicts.denied, "settled": settled },
            "latency_us": { "p50": self.latency_us(0.5), "p99": self.latency_us(0.99), "p999": self.latency_us(0.999) },
            "load": {
                "cpu_us_per_call": self.of_each_call(*load),
                "utilisation": share(load),
                "total_cpu_s": load_so_far.as_secs_f64(),
            },
            "server": server.map(|server| {
                let each = self.of_each_call(server);
                json!({ "cpu_us_per_call": each, "cpu_s": server.as_secs_f64(), "utilisation": share(&server) })
            }),
        })
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let Measured { counts, took, load, server, .. } = &self.measured;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, rounded for people")]
        let rate = |times| grouped(self.per_second(times).round() as u64);
        let verdicts = counts.verdicts;
        let mut text = format!(
            "{} calls in {:.1} s: {} calls/s, {} decisions/s\n\
             allowed {}, denied {}, settled {}, errors {}\n\
             latency p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us\n",
            grouped(counts.calls),
            took.as_secs_f64(),
            rate(counts.calls),
            rate(verdicts.count()),
            grouped(verdicts.allowed),
            grouped(verdicts.denied),
            grouped(counts.settled),
            grouped(counts.errors),
            self.latency_us(0.5),
            self.latency_us(0.99),
            self.latency_us(0.999),
        );
        for (who, spent) in [("load", Some(load)), ("server", server.as_ref())] {
            if let Some((spent, each)) = spent.and_then(|spent| Some((spent, self.of_each_call(*spent)?))) {
                let share = spent.as_secs_f64() / took.as_secs_f64();
                text.push_str(&format!("{who}: {each:.2} us of processor time a call, {share:.2} of a core\n"));
            }
        }
        text
    }
}
