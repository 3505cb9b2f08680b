//! Two servers by turns, one of them durable: throughput and latency as a client sees them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{CheckAndReserveRequest, LimitKey, SettleRequest};
use tidegate_server::clock::Clock;
use tidegate_tests::page::Page;
use tidegate_tests::server::{Server, Setup};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::{Draws, median};

const KEYS: usize = 100_000;
const CONNECTIONS: u64 = 4;
/// Calls in flight on each connection, at most.
const CLIENTS: u64 = 24;
/// Between two turns: what one server has left to do does not fall into the turn of the other.
const PAUSE: Duration = Duration::from_secs(2);

/// Slower answers count as this slow.
const SLOWEST_MICROS: u64 = 60_000_000;

/// What a turn came to.
struct Turn {
    decisions_per_second: f64,
    p50: f64,
    p99: f64,
}

/// Of keys by their rank, so that the first is asked for most: Zipf's law, exponent 1.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let up_to = |rank: usize| {
            sum += 1.0 / (rank + 1) as f64;
            sum
        };
        Self((0..keys).map(up_to).collect())
    }

    fn draw(&self, draws: &mut Draws) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
        let unit = (draws.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let at = unit * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

/// Drives both by turns, and says how they compare.
///
/// # Errors
/// A server does not answer.
pub fn study(rounds: usize, seconds: u64, rate: u64, settle: u64) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    let bounds = ["--max-reservations", "8M", "--log-filter", "warn"];
    let memory = Setup::release().arguments(bounds).start();
    let durable = Setup::release().arguments(bounds).arguments(["--data-dir".to_owned(), data]).start();
    let zipf = Arc::new(Zipf::new(KEYS));
    let mut out = String::from(
        "| round | decisions/s memory | durable | p50 us memory | durable | p99 us memory | durable |\n|---|---|---|---|---|---|---|\n",
    );
    let (mut throughputs, mut p99s, mut seed) = (Vec::new(), Vec::new(), 1);
    for round in 0..=rounds {
        let mut turns = [None, None];
        // Each is first in every other round.
        for which in [round % 2, 1 - round % 2] {
            let server = [&memory, &durable][which];
            seed += 1;
            turns[which] = Some(runtime.block_on(turn(server, &zipf, seconds, rate, settle, seed))?);
            std::thread::sleep(PAUSE);
        }
        let [Some(memory), Some(durable)] = turns else { continue };
        // The first round makes the keys.
        if round == 0 {
            continue;
        }
        throughputs.push(durable.decisions_per_second / memory.decisions_per_second);
        p99s.push(durable.p99 / memory.p99);
        writeln!(
            out,
            "| {round} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            memory.decisions_per_second, durable.decisions_per_second, memory.p50, durable.p50, memory.p99, durable.p99
        )?;
    }
    let page = Page::scrape(durable.http());
    let metric = |name| page.sum(name, &[]);
    writeln!(
        out,
        "\nmedians: throughput {:.3} of memory alone, p99 {:.3} of it; {:.0} keys a batch, last batch {:.0} ms, {:.0} MB \
         written by {:.0} batches, {:.0} MB on disk, {} keys",
        median(throughputs),
        median(p99s),
        metric("tidegate_disk_keys_total") / metric("tidegate_disk_batches_total"),
        metric("tidegate_disk_batch_seconds") * 1e3,
        metric("tidegate_disk_written_bytes_total") / 1e6,
        metric("tidegate_disk_batches_total"),
        metric("tidegate_disk_bytes") / 1e6,
        metric("tidegate_keys"),
    )?;
    Ok(out)
}

async fn turn(
    server: &Server,
    zipf: &Arc<Zipf>,
    seconds: u64,
    rate: u64,
    settle: u64,
    seed: u64,
) -> Result<Turn, Box<dyn std::error::Error>> {
    let mut clients = JoinSet::new();
    let clock = Clock::start();
    let until = clock.now().after(Duration::from_secs(seconds));
    // Each asks at its own points of an even rhythm; one that is late asks at once, so that a stall is seen by all that it delays.
    let every = Duration::from_nanos(1_000_000_000 * CONNECTIONS * CLIENTS / rate);
    for connection in 0..CONNECTIONS {
        let channel = Endpoint::from_shared(format!("http://{}", server.limiter()))?.connect().await?;
        for client in 0..CLIENTS {
            let number = connection * CLIENTS + client;
            let client = Client {
                limiter: RateLimiterServiceClient::new(channel.clone()),
                zipf: Arc::clone(zipf),
                draws: Draws(seed << 32 | number),
                clock: clock.clone(),
                next: clock.now().after(every * u32::try_from(number)? / u32::try_from(CONNECTIONS * CLIENTS)?),
                every,
                settle,
            };
            clients.spawn(client.run(until));
        }
    }
    let mut all = Histogram::<u64>::new_with_max(SLOWEST_MICROS, 3)?;
    while let Some(one) = clients.join_next().await {
        all.add(one??)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let [decisions, p50, p99] = [all.len(), all.value_at_quantile(0.5), all.value_at_quantile(0.99)].map(|n| n as f64);
    let took = clock.now().since(until).as_secs_f64() + Duration::from_secs(seconds).as_secs_f64();
    Ok(Turn { decisions_per_second: decisions / took, p50, p99 })
}

struct Client {
    limiter: RateLimiterServiceClient<Channel>,
    zipf: Arc<Zipf>,
    draws: Draws,
    clock: Clock,
    next: tidegate_core::time::Timestamp,
    every: Duration,
    settle: u64,
}

impl Client {
    /// Latencies in microseconds, from when a call is sent.
    async fn run(mut self, until: tidegate_core::time::Timestamp) -> Result<Histogram<u64>, tonic::Status> {
        let latencies = Histogram::<u64>::new_with_max(SLOWEST_MICROS, 3);
        let mut latencies = latencies.map_err(|error| tonic::Status::internal(error.to_string()))?;
        while self.next < until {
            let now = self.clock.now();
            if self.next > now {
                tokio::time::sleep(self.next.since(now)).await;
            }
            let sent = self.clock.now();
            let rank = self.zipf.draw(&mut self.draws);
            let key = LimitKey { account: format!("account {rank}"), model: "model".into(), variant: String::new() };
            let request = CheckAndReserveRequest {
                key: Some(key),
                prompt_tokens: 200,
                max_generated_tokens: Some(100),
                ..CheckAndReserveRequest::default()
            };
            let answer = self.limiter.check_and_reserve(request).await?.into_inner();
            let took = self.clock.now().since(sent);
            latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            self.next = self.next.after(self.every);
            if !answer.reservation_id.is_empty() && self.draws.next() % 100 < self.settle {
                let request = SettleRequest {
                    reservation_id: answer.reservation_id,
                    generated_tokens: Some(60),
                    ..SettleRequest::default()
                };
                self.limiter.settle(request).await?;
            }
        }
        Ok(latencies)
    }
}
