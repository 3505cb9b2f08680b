//! A busy deployment in real time: 36 accounts below their floors and four that launch, against the real binary.
//!
//! Twenty minutes, so not part of a plain run. `TIDEGATE_BUSY_MINUTES` makes it shorter or longer:
//!
//! ```console
//! $ ./test -E 'binary(busy)' --run-ignored all
//! ```

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]
#![allow(clippy::print_stdout, reason = "what happened minute by minute is the result")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_proto::v1::{Decision, Pressure, ReportPressureRequest, Tier, Window};
use tidegate_tests::gateway::{Ask, Gateway, bounds};
use tidegate_tests::server::Setup;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

const SMALL: usize = 36;
const BIG: usize = 4;

/// What an account asks for, in floors; a big one from its launch on.
const USUAL: f64 = 0.8;
const LAUNCHED: f64 = 10.0;

/// Prompt, uncached prompt and generated tokens a minute.
const FLOORS: [u64; 3] = [300_000, 60_000, 30_000];
const CEILING: u64 = 50;

/// What the deployment can do, in floors: usually, and while it is degraded.
const ABLE: u64 = 60;
const DEGRADED: u64 = 36;

/// Of the whole time: when the big accounts launch, and when the deployment is degraded.
const LAUNCH: f64 = 0.1;
const DEGRADE: (f64, f64) = (0.5, 0.7);

/// Requests a minute with which an account asks for its floor.
const PER_FLOOR: f64 = 100.0;

const TOKENS_PER_SECOND: u64 = 40;
const FIRST_TOKEN: Duration = Duration::from_millis(500);
const REPORTS: Duration = Duration::from_secs(30);

/// The bars: minutes over capacity, and the share of the small accounts' requests that is refused with a 503.
const MOST_MINUTES: usize = 10;
const MOST_REFUSED: f64 = 0.005;

/// What the deployment did, and who was refused; one entry a second.
#[derive(Default)]
struct Book {
    tokens: Vec<[u64; 3]>,
    requests: [u64; 2],
    overloaded: [u64; 2],
    limited: [u64; 2],
    /// 503 of small and of big accounts, minute by minute.
    overloaded_at: Vec<[u64; 2]>,
}

impl Book {
    fn charge(&mut self, second: usize, window: usize, tokens: u64) {
        if self.tokens.len() <= second {
            self.tokens.resize(second + 1, [0; 3]);
        }
        self.tokens[second][window] += tokens;
    }

    /// Use of the capacity, a share, in the fullest window of some seconds that have ended.
    fn used(&self, from: usize, seconds: usize, capacity: u64) -> f64 {
        let done =
            |window: usize| self.tokens.iter().skip(from).take(seconds).map(|tokens| tokens[window]).sum::<u64>();
        let able = |window: usize| FLOORS[window] * capacity * seconds as u64 / 60;
        (0..3).map(|window| done(window) as f64 / able(window) as f64).fold(0.0, f64::max)
    }
}

/// Seeded numbers: the same demand in every run.
struct Random(u64);

impl Random {
    /// Exponential with mean 1, at most about 22.
    fn exponential(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        -(((self.0 >> 32) as f64 + 0.5) / (1_u64 << 32) as f64).ln()
    }

    /// Tokens of a request: what a minute's worth of the floor comes to per request, and at most six times that.
    fn tokens(&mut self, window: usize) -> u64 {
        let mean = FLOORS[window] as f64 / PER_FLOOR;
        whole((mean * self.exponential()).min(mean * 6.0))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "amounts of a test are small and positive")]
fn whole(number: f64) -> u64 {
    number as u64
}

struct Scene {
    gateway: Gateway,
    start: Instant,
    length: Duration,
    book: Mutex<Book>,
}

impl Scene {
    fn share(&self, at: Instant) -> f64 {
        at.duration_since(self.start).as_secs_f64() / self.length.as_secs_f64()
    }

    fn capacity(&self, second: usize) -> u64 {
        let share = second as f64 / self.length.as_secs_f64();
        if (DEGRADE.0..DEGRADE.1).contains(&share) { DEGRADED } else { ABLE }
    }

    fn book<T>(&self, book: impl FnOnce(&mut Book) -> T) -> T {
        book(&mut self.book.lock().expect("nobody panics with the book"))
    }

    /// An account that asks until the end.
    async fn account(self: Arc<Self>, account: usize) {
        let mut random = Random(account as u64 + 1);
        let mut streams = JoinSet::new();
        let mut at = self.start;
        loop {
            let launched = account >= SMALL && self.share(at) >= LAUNCH;
            let rate = if launched { LAUNCHED } else { USUAL } * PER_FLOOR / 60.0;
            at += Duration::from_secs_f64(random.exponential() / rate);
            if self.share(at) >= 1.0 {
                break;
            }
            let prompt = random.tokens(0).max(1);
            let tokens = [prompt, random.tokens(1).min(prompt), random.tokens(2)];
            sleep_until(at).await;
            streams.spawn(self.clone().request(account, tokens));
            while streams.try_join_next().is_some_and(|ended| ended.map(|()| true).expect("no stream panics")) {}
        }
        streams.join_all().await;
    }

    async fn request(self: Arc<Self>, account: usize, [prompt, uncached, generated]: [u64; 3]) {
        let group = usize::from(account >= SMALL);
        let ask = Ask::of(&format!("account-{account}")).tokens(prompt, uncached, 4_096);
        let answer = self.gateway.ask(&ask).await.expect("it is answered");
        let now = self.start.elapsed();
        let second = usize::try_from(now.as_secs()).expect("short");
        let admitted = self.book(|book| {
            book.requests[group] += 1;
            match answer.decision() {
                Decision::Allow => {
                    book.charge(second, 0, prompt);
                    book.charge(second, 1, uncached);
                    return true;
                }
                Decision::Overloaded => {
                    book.overloaded[group] += 1;
                    book.overloaded_at.resize(book.overloaded_at.len().max(second / 60 + 1), [0; 2]);
                    book.overloaded_at[second / 60][group] += 1;
                }
                Decision::RateLimited => book.limited[group] += 1,
                other => panic!("{other:?}"),
            }
            false
        });
        if admitted {
            self.stream(&answer.reservation_id, generated).await;
        }
    }

    /// Generates at an even pace from the first token on, second by second, reports now and then, and settles.
    async fn stream(&self, reservation_id: &str, generated: u64) {
        sleep(FIRST_TOKEN).await;
        let (mut left, mut report_at) = (generated, Instant::now() + REPORTS);
        while left > 0 {
            let part = left.min(TOKENS_PER_SECOND);
            let second = usize::try_from(self.start.elapsed().as_secs()).expect("short");
            self.book(|book| book.charge(second, 2, part));
            sleep(Duration::from_millis(1_000 * part / TOKENS_PER_SECOND)).await;
            left -= part;
            if Instant::now() >= report_at && left > 0 {
                self.gateway.progress(reservation_id, generated - left).await.expect("the stream is live");
                report_at += REPORTS;
            }
        }
        self.gateway.settle_as_admitted(reservation_id, generated).await;
    }

    /// Says each second how busy the deployment was in it.
    async fn report(self: Arc<Self>) {
        let second = Duration::from_secs(1);
        let mut seconds = interval_at(self.start + second, second);
        for ended in 0..usize::try_from(self.length.as_secs()).expect("short") {
            seconds.tick().await;
            let used = |window: usize| {
                let done = self.book(|book| book.tokens.get(ended).map_or(0, |tokens| tokens[window]));
                done * 60 * 1_000 / (FLOORS[window] * self.capacity(ended))
            };
            let windows = [Window::Prompt, Window::UncachedPrompt, Window::Generated];
            let reports = windows.into_iter().enumerate().map(|(index, window)| Pressure {
                model: "m".into(),
                variant: String::new(),
                window: window.into(),
                pressure_permille: u32::try_from(used(index)).expect("not that busy"),
            });
            let report = ReportPressureRequest { reporter: "busy".into(), reports: reports.collect(), ttl: None };
            self.gateway.raw().report_pressure(self.gateway.call(report)).await.expect("it is taken");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "20 minutes of real time"]
async fn a_busy_deployment_keeps_to_its_capacity_and_small_accounts_are_hardly_ever_refused() {
    let minutes = std::env::var("TIDEGATE_BUSY_MINUTES").map_or(20, |minutes| minutes.parse().expect("minutes"));
    let server = Setup::release().start();
    let gateway = Gateway::of(&server).await.concurrent();
    let ceilings = FLOORS.map(|floor| floor * CEILING);
    let tier = Tier { name: "busy".into(), bounds: Some(bounds(FLOORS, ceilings)), ..Tier::default() };
    gateway.tier("account-0", tier).await;
    for account in 1..SMALL + BIG {
        gateway.account(&format!("account-{account}"), "busy").await;
    }
    let scene = Arc::new(Scene {
        gateway,
        start: Instant::now(),
        length: Duration::from_secs(60 * minutes),
        book: Mutex::default(),
    });
    let mut everybody = JoinSet::new();
    for account in 0..SMALL + BIG {
        everybody.spawn(scene.clone().account(account));
    }
    everybody.spawn(scene.clone().report());
    everybody.join_all().await;

    let (minutes_over, shares) = scene.book(|book| {
        println!("minute  capacity  used %  503 small  503 big");
        let mut over = 0;
        for minute in 0..usize::try_from(minutes).expect("short") {
            let capacity = scene.capacity(minute * 60);
            let used = book.used(minute * 60, 60, capacity);
            let [small, big] = book.overloaded_at.get(minute).copied().unwrap_or_default();
            println!("{minute:6}  {capacity:8}  {:6.1}  {small:9}  {big:7}", used * 100.0);
            over += usize::from(used > 1.0);
        }
        let share = |refused: [u64; 2]| [0, 1].map(|group| refused[group] as f64 / book.requests[group] as f64);
        println!("requests of small and big accounts: {:?}", book.requests);
        (over, [share(book.overloaded), share(book.limited)])
    });
    println!("minutes over capacity: {minutes_over}; 503 and 429 of small and big accounts: {shares:.4?}");
    assert!(minutes_over <= MOST_MINUTES, "{minutes_over} minutes over capacity");
    assert!(shares[0][0] <= MOST_REFUSED, "503 for {} of the small accounts' requests", shares[0][0]);
    assert!(shares[0][1] > 0.0, "nobody was in the way: the deployment was never busy");
    scene.gateway.verdict().assert_clean();
}
