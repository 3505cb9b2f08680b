//! What a million keys take, and the longest that a call occupies its thread while they come and go.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_store::Store as _;
use tidegate_store::memory::MemoryStore;

use crate::decision::{Names, START, store};
use crate::durable::at_once;
use crate::markdown::{Table, count};

/// Prompt tokens of an answer, and the floor: one in a minute moves a limit.
const PROMPT_TOKENS: u64 = 1_800;
const FLOOR_TPM: u64 = 2_000;
/// Answers of each key, a minute apart.
const ANSWERS: u64 = 4;

/// The longest calls of a kind, in thread CPU time: a thread that waits for a processor is not at fault.
#[derive(Default)]
struct Longest {
    what: &'static str,
    most: Duration,
    which: u64,
    calls: u64,
    over: u64,
}

/// Calls that take longer than this are counted.
const LONG: Duration = Duration::from_millis(1);

impl Longest {
    fn of(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }

    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let before = cpu_time();
        let done = call();
        let took = cpu_time().saturating_sub(before);
        self.calls += 1;
        self.over += u64::from(took > LONG);
        if took > self.most {
            (self.most, self.which) = (took, self.calls);
        }
        done
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process, in bytes; what the system says.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// A store that keys come into and leave.
struct Crowd {
    store: MemoryStore,
    now: Timestamp,
    names: Names,
    reserve: Longest,
    settle: Longest,
    tick: Longest,
}

impl Crowd {
    /// One answer of each of these keys, all of them within 50 s.
    fn answer(&mut self, keys: std::ops::Range<usize>) -> u64 {
        let (step, end) = (Duration::from_secs(50) / u32::try_from(keys.len()).unwrap_or(u32::MAX), keys.end);
        let mut denied = 0;
        for key in keys {
            self.now = self.now.after(step);
            self.names.write(key);
            let mut request = self.names.request(Duration::from_secs(600));
            request.prompt_tokens = PROMPT_TOKENS;
            let reserved = self.reserve.time(|| at_once(self.store.check_and_reserve(self.now, &request)));
            let reserved = reserved.expect("it never waits").expect("no request has an id");
            match reserved.id_text(request.key) {
                Some(id) => {
                    let counts =
                        SettleCounts { generated_tokens: Some(100 + key as u64 % 200), ..SettleCounts::default() };
                    let settled = self.settle.time(|| at_once(self.store.settle(self.now, &id, counts)));
                    settled.expect("it never waits").expect("it is live");
                }
                None => denied += 1,
            }
            if key % 20_000 == 0 || key + 1 == end {
                self.tick.time(|| self.store.on_tick(self.now));
            }
        }
        denied
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.tick.time(|| self.store.on_tick(self.now));
        }
    }
}

/// The tables of `keys` keys.
#[must_use]
pub fn study(keys: usize) -> String {
    let before = resident();
    let mut crowd = Crowd {
        store: store(keys, FLOOR_TPM),
        now: START,
        names: Names::default(),
        reserve: Longest::of("a decision"),
        settle: Longest::of("a settlement"),
        tick: Longest::of("a round of the timers"),
    };
    let mut memory = Table::new(&["keys", "each has", "resident bytes a key"]);
    let mut row = |what: &str, keys: usize| {
        let each = resident().saturating_sub(before) / keys.max(1) as u64;
        memory.row([count(keys as u64), what.to_owned(), count(each)]);
    };
    crowd.answer(0..keys);
    row("answered once within the last minute", keys);
    for _ in 1..ANSWERS {
        crowd.wait(65);
        crowd.answer(0..keys);
    }
    row("answered four times, once within the last minute", keys);
    crowd.wait(150);
    row("been idle for two minutes; limits are above their floors", keys);
    // As many again: the table is full, and keys that have not proven anything leave.
    crowd.wait(24 * 3_600 / 60);
    crowd.answer(keys..keys + keys / 10);
    let mut calls = Table::new(&["call", "calls", "longest ms, of its thread's time", "which", "above 1 ms"]);
    for Longest { what, most, which, calls: of, over } in [&crowd.reserve, &crowd.settle, &crowd.tick] {
        calls.row([
            (*what).to_owned(),
            count(*of),
            format!("{:.3}", most.as_secs_f64() * 1e3),
            count(*which),
            count(*over),
        ]);
    }
    format!("{memory}\n{calls}")
}
