//! An open loop: calls fall due at random instants, as those of many independent callers do; each is made when it is due, whatever
//! became of those before it, and is timed from then.
//!
//! Rejected: the runtime's own timers, which tick once a millisecond, so that many calls at a time queue behind each other, and what
//! is measured is that queue.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::closed::Turns;
use super::exchange::Exchange;
use super::keys::Keys;
use super::meter::Meter;

/// More calls in flight than this: the server does not keep up, and there is nothing to measure.
const MOST_IN_FLIGHT: usize = 16_384;

/// Makes `rate` calls a second on these connections by turns, until the meter is off; waits for their answers.
pub(super) async fn run(
    connections: Vec<SendRequest<Bytes>>,
    exchange: Rc<impl Exchange>,
    mut keys: Keys,
    rate: u32,
    meter: Rc<Meter>,
) {
    let turns = Rc::new(Turns::new(exchange, Rc::clone(&meter)));
    let timer = match Timer::new() {
        Ok(timer) => timer,
        Err(error) => return meter.on_error(format!("no timer: {error}")),
    };
    let mean_ns = 1e9 / f64::from(rate);
    let mut calls = JoinSet::new();
    let mut due = meter.now();
    for requests in connections.iter().cycle() {
        loop {
            while calls.try_join_next().is_some() {}
            let now = meter.now();
            if due <= now || !meter.is_open() {
                break;
            }
            if let Err(error) = timer.sleep(Duration::from_nanos(due - now)).await {
                return meter.on_error(format!("the timer: {error}"));
            }
        }
        if !meter.is_open() {
            break;
        }
        if calls.len() >= MOST_IN_FLIGHT {
            meter.on_error(format!("{MOST_IN_FLIGHT} calls are in flight: the server does not keep up with --rate"));
            break;
        }
        let (turns, requests, ask) = (Rc::clone(&turns), requests.clone(), turns.exchange.ask(&mut keys));
        calls.spawn_local(async move { turns.turn(requests, ask, due).await.is_some() });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time between two calls")]
        let next = (-mean_ns * (1.0 - keys.unit()).ln()) as u64;
        due += next;
    }
    while calls.join_next().await.is_some() {}
}

/// A timer of the system, exact to some microseconds.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; this descriptor stays open for as long as it is watched"
        )]
        let watched = AsyncFd::new(timer)?;
        Ok(Self(watched))
    }

    async fn sleep(&self, length: Duration) -> io::Result<()> {
        // Zero would turn it off.
        let it_value = Timespec::try_from(length.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}
