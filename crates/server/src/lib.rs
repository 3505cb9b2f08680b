//! The gRPC shell of tidegate: sockets, threads, configuration, metrics and the services, around a [`tidegate_store::Store`].
//!
//! The path of a call: [`listen`] and `accept` take the connection, `threads` deals it to a serving thread, `calls` bounds
//! it and counts its errors, [`limiter`] parses it, asks the store and answers. [`serve()`] ties them together.
//!
//! A panic unwinds. One in a call ends that call with INTERNAL; one in background work ends that round. Neither ends a
//! thread, and each is logged.
#![forbid(unsafe_code)]

mod accept;
pub mod admin;
mod background;
pub mod banner;
mod calls;
pub mod clock;
pub mod config;
mod connection;
mod front;
mod health;
mod http;
mod http2;
pub mod limiter;
pub mod listen;
mod logging;
pub mod metrics;
mod pressure;
mod readiness;
mod reply;
pub mod serve;
mod services;
mod signals;
#[cfg(feature = "test-clock")]
pub mod test_time;
mod threads;

pub use serve::{run, serve};
