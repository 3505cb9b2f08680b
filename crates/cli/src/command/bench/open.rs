//! An open loop: calls fall due at random instants, as those of many independent callers do; each is made when it is due, whatever
//! became of those before it, and is timed from then.
//!
//! Rejected: the runtime's own timers, which tick once a millisecond, so that many calls at a time queue behind each other, and what
//! is measured is that queue.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::JoinSet;

use super::closed::Turns;
use super::exchange::Exchange;
use super::keys::Keys;
use super::meter::Meter;
use crate::timer::Timer;

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
