//! Whose metrics pages are scraped for pressure, and what their gauges mean: `[[pressure.scrape]]`.

use std::fmt;
use std::time::Duration;

use tidegate_core::key::{parse_name, parse_variant};
use tidegate_core::pressure::{DEFAULT_TTL, LONGEST_TTL, SHORTEST_TTL};

use super::amount::parse_tokens;
use super::parse::duration;
use super::problem::Problems;
use super::section::Section;

/// Most targets: each is a task, and a reporter of its deployment.
const MOST_TARGETS: usize = 64;
/// Most gauges of a target, its engine's included.
const MOST_GAUGES: usize = 16;
/// How often a page is scraped that does not say: ten looks within the 20 s in which the smoothed pressure goes half way.
const DEFAULT_EVERY: Duration = Duration::from_secs(2);
/// How long a scrape may take that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest URL, bytes: it names the reporter, whose name has at most 256.
const MAX_URL_BYTES: usize = 240;
/// Longest name of a gauge, bytes.
const MAX_GAUGE_BYTES: usize = 256;
/// Greatest objective, millionths: 10^12.
const MAX_OBJECTIVE: u64 = 1_000_000_000_000_000_000;

/// A metrics page, and the deployment whose pressure it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeTarget {
    /// Where the page is.
    pub url: ScrapeUrl,
    /// The model; 1 to 256 bytes.
    pub model: String,
    /// Its variant; empty for the regular one.
    pub variant: String,
    /// From the start of one scrape to the start of the next; 250 ms to 60 s, default 2 s. A slow scrape is not overtaken.
    pub every: Duration,
    /// Connecting, waiting and reading together; 50 ms to 60 s, default 1 s.
    pub timeout: Duration,
    /// How long what a scrape found counts; 1 s to 10 min, at least `every` and `timeout` together. Default 60 s.
    pub ttl: Duration,
    /// What is read there, 1 to 16; the pressure is the largest that any of them says.
    pub gauges: Vec<Gauge>,
}

/// `http://HOST[:PORT]/PATH`, as it was written and in its parts. What stands behind a question mark may be a secret: it is
/// sent, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ScrapeUrl {
    text: String,
    /// A name or an address, without brackets.
    pub host: String,
    /// 80 where none is given.
    pub port: u16,
    /// For the `Host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl ScrapeUrl {
    /// As it was written; not for logs.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ScrapeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.split_once('?') {
            Some((shown, _)) => write!(f, "{shown}?..."),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Debug for ScrapeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A gauge, and what its value means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// Its name; of several, the first that is on the page.
    pub names: Vec<String>,
    /// The value that is pressure 1000, in millionths; above 0.
    pub objective_millionths: u64,
    /// Another gauge by which it is divided first.
    pub relative_to: Option<String>,
}

impl Gauge {
    fn new(names: &[&str], objective_millionths: u64, relative_to: Option<&str>) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { names, objective_millionths, relative_to: relative_to.map(str::to_owned) }
    }
}

/// What is known of serving engines: a queue and a KV cache, under each engine's names.
///
/// The queue counts relative to what runs: waiting over running is the time that a request will wait over the time that it
/// then takes, whatever the size of the machine (Little's law). A quarter of it is the objective. The cache's objective is 95 %:
/// full, it is pressure 1053, which squeezes with full force and sheds nobody; only a queue sheds.
fn gauges_of(engine: &str) -> Option<Vec<Gauge>> {
    const QUEUE: u64 = 250_000;
    const CACHE: u64 = 950_000;
    match engine {
        "vllm" => Some(vec![
            Gauge::new(&["vllm:num_requests_waiting"], QUEUE, Some("vllm:num_requests_running")),
            // The second is the older name.
            Gauge::new(&["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"], CACHE, None),
        ]),
        "sglang" => Some(vec![
            Gauge::new(&["sglang:num_queue_reqs"], QUEUE, Some("sglang:num_running_reqs")),
            Gauge::new(&["sglang:token_usage"], CACHE, None),
        ]),
        _ => None,
    }
}

/// The targets of the file. What is wrong is noted, and is missing from them.
pub(super) fn read(root: &mut Section<'_>, problems: &mut Problems) -> Vec<ScrapeTarget> {
    let mut pressure = Section::of(root, "pressure", problems);
    let mut targets = Vec::<ScrapeTarget>::new();
    let path = pressure.path_of("scrape");
    let sections = pressure.list("scrape", problems);
    if sections.len() > MOST_TARGETS {
        problems.add(path, format_args!("must have at most {MOST_TARGETS} entries"));
    }
    for mut section in sections {
        if let Some(target) = target(&mut section, problems) {
            let same = |other: &ScrapeTarget| {
                (&other.url.text, &other.model, &other.variant) == (&target.url.text, &target.model, &target.variant)
            };
            if targets.iter().any(same) {
                problems.add(section.path_of("url"), "is scraped for this model and variant already");
            }
            targets.push(target);
        }
        section.finish(problems);
    }
    pressure.finish(problems);
    targets
}

fn target(section: &mut Section<'_>, problems: &mut Problems) -> Option<ScrapeTarget> {
    for key in ["url", "model"].into_iter().filter(|key| section.lacks(key)).collect::<Vec<_>>() {
        problems.add(section.path_of(key), "is required");
    }
    let url = section.parsed("url", problems, url);
    let name = |text: &str| parse_name(text).map(|_| text.to_owned()).map_err(|fault| fault.to_string());
    let variant_name = |text: &str| parse_variant(text).map(|_| text.to_owned()).map_err(|fault| fault.to_string());
    let model = section.parsed("model", problems, name);
    let variant = section.parsed("variant", problems, variant_name).unwrap_or_default();
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let every = section.parsed("every", problems, duration(ms(250)..=s(60))).unwrap_or(DEFAULT_EVERY);
    let timeout = section.parsed("timeout", problems, duration(ms(50)..=s(60))).unwrap_or(DEFAULT_TIMEOUT);
    let ttl_stated = !section.lacks("ttl");
    let ttl = section.parsed("ttl", problems, duration(SHORTEST_TTL..=LONGEST_TTL));
    // The longest of both are above the default: it grows with them.
    let ttl = ttl.unwrap_or(DEFAULT_TTL.max(every + timeout));
    if ttl_stated && ttl < every + timeout {
        problems.add(section.path_of("ttl"), format_args!("must be at least every + timeout, {:?}", every + timeout));
    }
    let gauges = gauges(section, problems)?;
    Some(ScrapeTarget { url: url?, model: model?, variant, every, timeout, ttl, gauges })
}

/// The engine's gauges, then those of the file; one of the file's takes the place of the engine's of its name.
fn gauges(section: &mut Section<'_>, problems: &mut Problems) -> Option<Vec<Gauge>> {
    let path = section.path_of("gauges");
    let engine = section.parsed("engine", problems, |text| {
        gauges_of(text).ok_or_else(|| {
            format!("`{text}` is no engine that is known; write vllm or sglang, or leave it out and name gauges")
        })
    });
    let none_known = section.lacks("engine");
    let mut gauges = engine.unwrap_or_default();
    for mut section in section.list("gauges", problems) {
        if let Some(gauge) = gauge(&mut section, problems) {
            gauges.retain(|known| !known.names.contains(&gauge.names[0]));
            gauges.push(gauge);
        }
        section.finish(problems);
    }
    if gauges.is_empty() {
        if none_known {
            problems.add(path, "must name at least one gauge where there is no engine");
        }
        return None;
    }
    if gauges.len() > MOST_GAUGES {
        problems.add(path, format_args!("must be at most {MOST_GAUGES} with the engine's"));
    }
    Some(gauges)
}

fn gauge(section: &mut Section<'_>, problems: &mut Problems) -> Option<Gauge> {
    for key in ["name", "objective"].into_iter().filter(|key| section.lacks(key)).collect::<Vec<_>>() {
        problems.add(section.path_of(key), "is required");
    }
    let name = section.parsed("name", problems, metric_name);
    let objective = section.parsed("objective", problems, objective);
    let relative_to = section.parsed("relative_to", problems, metric_name);
    Some(Gauge { names: vec![name?], objective_millionths: objective?, relative_to })
}

fn metric_name(text: &str) -> Result<String, String> {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':');
    let rest = |c: char| first(c) || c.is_ascii_digit();
    if text.len() <= MAX_GAUGE_BYTES && text.starts_with(first) && text.chars().all(rest) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no name of a gauge; write letters, digits, _ and :, without labels"))
}

fn objective(text: &str) -> Result<u64, String> {
    let millionths =
        parse_tokens(&format!("{text}M")).ok().filter(|millionths| (1..=MAX_OBJECTIVE).contains(millionths));
    millionths.ok_or_else(|| format!("`{text}` is no objective; write a number above 0 with at most six decimals"))
}

fn url(text: &str) -> Result<ScrapeUrl, String> {
    let refused = |why: &str| Err(format!("{why}; write http://HOST:PORT/metrics"));
    if text.starts_with("https://") {
        return refused("https is not spoken here: put a proxy of this machine before the page");
    }
    if text.len() > MAX_URL_BYTES {
        return refused(&format!("must have at most {MAX_URL_BYTES} bytes"));
    }
    let Ok(uri) = text.parse::<http::Uri>() else { return refused("is no URL") };
    let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
        return refused("must begin with http://");
    };
    if authority.as_str().contains('@') {
        return refused("must have no user and no password");
    }
    let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
        "" => Some(80),
        port => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0),
    };
    let Some(port) = port else { return refused("has no port from 1 to 65535") };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return refused("has no host");
    }
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    Ok(ScrapeUrl { text: text.to_owned(), host, port, authority: authority.to_string(), path })
}

#[cfg(test)]
mod tests;
