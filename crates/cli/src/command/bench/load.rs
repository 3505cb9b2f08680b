//! A load: what is called how often, as the flags say.

use std::rc::Rc;

use tokio::task::JoinSet;

use super::batch::Batch;
use super::exchange::Exchange;
use super::keys::Keys;
use super::meter::{Measured, Meter};
use super::pipeline::{self, Calls};
use super::redis::{self, Link};
use super::reserve::{Reserve, Template};
use super::throttlecrab::Throttle;
use super::{BenchArgs, CallKind, Speak, closed, link, open};
use crate::failure::Failure;

/// Calls in flight on a pipeline, if the flags do not say it.
const IN_FLIGHT: u16 = 256;
/// Reservations of a batch.
const BATCH: u16 = 64;
/// Streams on a connection, where each has one call in flight.
const STREAMS: u16 = 32;

/// Loads the target as `args` says, for as long as it says.
pub(super) async fn run(args: &BenchArgs, meter: &Rc<Meter>) -> Result<Measured, Failure> {
    args.check()?;
    let mut load = Load { args, meter, tasks: JoinSet::new() };
    let template = Template::new(args.view.into(), args.ttl);
    match (args.speak, args.call) {
        (Speak::Tidegate, CallKind::Unary) => load.exchange(Reserve::new(template, args.settle)).await?,
        (Speak::Tidegate, CallKind::Batch) => {
            load.exchange(Batch::new(template, args.batch.unwrap_or(BATCH), args.settle)).await?;
        }
        (Speak::Tidegate, CallKind::Pipeline) => {
            load.pipelines(&Calls::new(template, args.in_flight.unwrap_or(IN_FLIGHT), args.settle)).await?;
        }
        (Speak::Throttlecrab, _) => load.exchange(Throttle::new()).await?,
        (Speak::Redis, _) => load.scripts(redis::SCRIPT).await?,
        (Speak::RedisLean, _) => load.scripts(redis::LEAN_SCRIPT).await?,
    }
    let measured = meter.run(args.warm_up, args.duration, args.pid).await?;
    let mut tasks = load.tasks;
    let ended = tokio::time::timeout(args.limiter.timeout, async { while tasks.join_next().await.is_some() {} });
    if ended.await.is_err() {
        meter.on_error(format!("on {} streams, no answer came for {:?}", tasks.len(), args.limiter.timeout));
    }
    Ok(measured)
}

struct Load<'a> {
    args: &'a BenchArgs,
    meter: &'a Rc<Meter>,
    tasks: JoinSet<()>,
}

impl Load<'_> {
    /// Calls one by one: on all streams in a closed loop, or at a rate.
    async fn exchange(&mut self, exchange: impl Exchange) -> Result<(), Failure> {
        let exchange = Rc::new(exchange);
        let mut connections = Vec::new();
        for _ in 0..self.args.connections {
            connections.push(link::connect(&self.args.limiter.target).await?);
        }
        if let Some(rate) = self.args.rate {
            let run = open::run(connections, exchange, self.keys(0), rate, Rc::clone(self.meter));
            self.tasks.spawn_local(run);
            return Ok(());
        }
        let streams = self.args.streams.unwrap_or(STREAMS);
        for (connection, requests) in (0_u64..).zip(connections) {
            for stream in 0..streams {
                let keys = self.keys(connection << 16 | u64::from(stream));
                let run = closed::run(requests.clone(), Rc::clone(&exchange), keys, Rc::clone(self.meter));
                self.tasks.spawn_local(run);
            }
        }
        Ok(())
    }

    /// Streams of many calls.
    async fn pipelines(&mut self, calls: &Calls) -> Result<(), Failure> {
        for connection in 0..u64::from(self.args.connections) {
            let requests = link::connect(&self.args.limiter.target).await?;
            for stream in 0..self.args.streams.unwrap_or(1) {
                let keys = self.keys(connection << 16 | u64::from(stream));
                let run = pipeline::run(requests.clone(), calls.clone(), keys, Rc::clone(self.meter));
                self.tasks.spawn_local(run);
            }
        }
        Ok(())
    }

    /// A script, on each connection once at a time, or as many times as are in flight.
    async fn scripts(&mut self, script: &str) -> Result<(), Failure> {
        let in_flight = match self.args.call {
            CallKind::Pipeline => self.args.in_flight.unwrap_or(IN_FLIGHT),
            CallKind::Unary | CallKind::Batch => 1,
        };
        for connection in 0..u64::from(self.args.connections) {
            let link = Link::open(&self.args.limiter.target, script).await?;
            self.tasks.spawn_local(link.run(in_flight, self.keys(connection), Rc::clone(self.meter)));
        }
        Ok(())
    }

    fn keys(&self, number: u64) -> Keys {
        Keys::new(self.args.keys, self.args.draw, number + 1)
    }
}
