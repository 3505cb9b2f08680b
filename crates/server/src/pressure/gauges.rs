//! What a page says of a deployment's pressure.

use super::exposition::samples;
use crate::config::Gauge;

/// The most that a page can say, permille. All traffic is shed from 2500 on ([`tidegate_core::pressure::PRIORITY_ALL`]), so more
/// would only make one odd look last longer in the smoothed pressure: at 3000 a single one of 2 s moves it by about 200.
pub(super) const MOST_PERMILLE: u32 = 3_000;

/// The least that a gauge is divided by: with few requests running, one that waits is no queue.
const LEAST_DIVISOR: f64 = 8.0;

/// A gauge that was asked for is not on the page, or none of its values is a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page has no gauge {0}")]
pub(super) struct NoGauge(String);

/// The pressure that a page shows: the largest that any of the gauges says, permille, 0 to [`MOST_PERMILLE`].
///
/// A gauge says `value / objective`. Of several series under one name (engines behind one page), the largest counts; of a gauge
/// that is relative to another, the sum of all over the sum of all of the other.
///
/// # Errors
/// [`NoGauge`]: half a page would look like less pressure.
pub(super) fn pressure(gauges: &[Gauge], page: &[u8]) -> Result<u32, NoGauge> {
    let wanted: Vec<&str> =
        gauges.iter().flat_map(|gauge| gauge.names.iter().chain(&gauge.relative_to)).map(String::as_str).collect();
    let mut found = vec![None::<Series>; wanted.len()];
    for sample in samples(page).filter(|sample| !sample.value.is_nan()) {
        for (series, _) in found.iter_mut().zip(&wanted).filter(|(_, name)| **name == sample.name) {
            series.get_or_insert_default().add(sample.value);
        }
    }
    let series = |name: &String| wanted.iter().position(|wanted| wanted == name).and_then(|index| found[index]);
    let mut most = 0.0_f64;
    for gauge in gauges {
        let missing = || NoGauge(gauge.names.join(" or "));
        let values = gauge.names.iter().find_map(series).ok_or_else(missing)?;
        let value = match &gauge.relative_to {
            None => values.largest,
            Some(other) => values.sum / series(other).ok_or_else(|| NoGauge(other.clone()))?.sum.max(LEAST_DIVISOR),
        };
        #[expect(clippy::cast_precision_loss, reason = "an objective is far from exact")]
        let objective = gauge.objective_millionths as f64 / 1e6;
        // Infinite over infinite is no number; `max` leaves it out.
        most = most.max(value / objective * 1e3);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 3000")]
    let permille = most.min(MOST_PERMILLE.into()).round() as u32;
    Ok(permille)
}

/// All samples of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    sum: f64,
    largest: f64,
}

impl Series {
    fn add(&mut self, value: f64) {
        // A gauge below 0 says no less than nothing.
        let value = value.max(0.0);
        self.sum += value;
        self.largest = self.largest.max(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(name: &str, objective_millionths: u64, relative_to: Option<&str>) -> Gauge {
        Gauge { names: vec![name.to_owned()], objective_millionths, relative_to: relative_to.map(str::to_owned) }
    }

    #[test]
    fn the_largest_of_all_gauges_counts() {
        let gauges = [gauge("kv", 950_000, None), gauge("waiting", 250_000, Some("running"))];
        let said = |page: &str| pressure(&gauges, page.as_bytes());
        assert_eq!(said("kv 0.475\nwaiting 0\nrunning 0\n"), Ok(500));
        assert_eq!(said("kv 1\nwaiting 0\nrunning 0\n"), Ok(1_053), "a full cache squeezes and sheds nobody");
        assert_eq!(said("kv 0\nwaiting 25\nrunning 100\n"), Ok(1_000));
        assert_eq!(said("kv 0.1\nwaiting 2\nrunning 1\n"), Ok(1_000), "as if 8 were running");
        assert_eq!(said("kv{e=\"0\"} 0.19\nkv{e=\"1\"} 0.38\nwaiting 0\nrunning 0"), Ok(400), "the fullest engine");
        let two = "kv 0\nwaiting{e=\"0\"} 20\nwaiting{e=\"1\"} 5\nrunning{e=\"0\"} 40\nrunning{e=\"1\"} 60\n";
        assert_eq!(said(two), Ok(1_000), "queues add, and so does what runs");
    }

    #[test]
    fn odd_values_are_bounded() {
        let gauges = [gauge("g", 1_000_000, None)];
        for (value, permille) in [("-5", 0), ("+Inf", 3_000), ("-Inf", 0), ("1e300", 3_000), ("0.0004", 0)] {
            assert_eq!(pressure(&gauges, format!("g {value}").as_bytes()), Ok(permille), "{value}");
        }
        let relative = [gauge("g", 1, Some("h"))];
        assert_eq!(pressure(&relative, b"g +Inf\nh +Inf"), Ok(0));
    }

    #[test]
    fn a_missing_gauge_is_not_a_calm_one() {
        let either = Gauge {
            names: vec!["new".to_owned(), "old".to_owned()],
            objective_millionths: 1_000_000,
            relative_to: None,
        };
        assert_eq!(pressure(std::slice::from_ref(&either), b"old 0.5"), Ok(500));
        assert_eq!(pressure(std::slice::from_ref(&either), b"old 0.5\nnew 0.7"), Ok(700), "the first that is there");
        for page in ["", "other 1", "new NaN", "<html>new 1</html>"] {
            let missing = pressure(std::slice::from_ref(&either), page.as_bytes()).expect_err(page);
            assert_eq!(missing.to_string(), "the page has no gauge new or old");
        }
        let relative = [gauge("waiting", 1_000_000, Some("running"))];
        assert_eq!(pressure(&relative, b"waiting 0"), Err(NoGauge("running".to_owned())));
    }
}
