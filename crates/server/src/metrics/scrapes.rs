//! Scrapes of serving engines, counted by how they ended.

use super::Metrics;

/// How a scrape ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScrapeResult {
    /// What the page shows was reported.
    Ok,
    /// No connection, or no HTTP on it.
    Unreachable,
    /// No whole page in time.
    Timeout,
    /// A status that is not 200; a redirect too.
    Status,
    /// The page is too long.
    TooLarge,
    /// A gauge that was asked for is not on the page.
    NoGauge,
    /// The store has no room for one more deployment or reporter.
    Refused,
}

impl ScrapeResult {
    pub(crate) const ALL: [Self; 7] =
        [Self::Ok, Self::Unreachable, Self::Timeout, Self::Status, Self::TooLarge, Self::NoGauge, Self::Refused];

    /// Its name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::NoGauge => "no_gauge",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// A scrape ended so.
    pub(crate) fn on_scraped(&self, result: ScrapeResult) {
        for (counter, known) in self.scrapes.iter().zip(ScrapeResult::ALL) {
            if known == result {
                counter.increment(1);
            }
        }
    }
}
