//! What durability costs, how fast a directory is read back, and when the writer falls behind.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::Policy;
use tidegate_server::clock::Clock;
use tidegate_store::durable::{DurableStore, Now, OpenDirectory};
use tidegate_store::memory::MemoryBounds;

pub mod cost;
pub mod rate;
pub mod recovery;
pub mod write;

/// A store in a directory, and its clock.
pub(crate) struct Opened {
    pub(crate) store: DurableStore,
    pub(crate) clock: Clock,
}

impl Opened {
    /// Opens the directory; `bounds` of its table.
    pub(crate) fn open(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let bounds = MemoryBounds { keys: 2_000_000, reservations: 10_000_000, ..MemoryBounds::default() };
        let wall = Clock::start().now();
        let opened = OpenDirectory::open(path, bounds, ForecastDefaults::default(), &Policy::built_in(), wall)?;
        let clock = Clock::start_not_before(opened.newest());
        let time = clock.clone();
        let now: Now = Arc::new(move || time.now());
        Ok(Self { store: opened.start(now)?, clock })
    }
}

/// A request of one of many accounts.
pub(crate) fn request<'a>(account: &'a str) -> Result<Request<'a>, io::Error> {
    let key = KeyRef::new(account, "model", "").map_err(|_| io::Error::other("a good name"))?;
    Ok(Request {
        key,
        prompt_tokens: 800,
        cached_prompt_tokens: None,
        max_generated_tokens: Some(400),
        service_tier: ServiceTier::Standard,
        request_id: None,
        ttl: Duration::from_secs(600),
    })
}

/// Runs a future of a store that never waits.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Result<T, io::Error> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Ok(value),
        std::task::Poll::Pending => Err(io::Error::other("a decision waited")),
    }
}

/// Pseudo-random numbers, the same in every run (SplitMix64).
#[derive(Debug)]
pub struct Draws(pub u64);

impl Draws {
    /// From zero on, below one.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Any of these; there is at least one.
    pub(crate) fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        let drawn = self.next() % u64::try_from(these.len()).unwrap_or(1);
        &these[usize::try_from(drawn).unwrap_or(0)]
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
