//! The messages that come with each decision, read and written in place.
//!
//! The generated types own every string, and an answer with its headers has twenty. Here names are borrowed from the bytes that came in, and the answer is written
//! once, where it is sent from. Nothing else differs: [`mod@write`] makes the bytes that the generated types make, and what [`mod@read`]
//! does not take is theirs to read, or to refuse.

pub mod read;
pub mod write;

pub use read::{CheckAndReserve, PipelineCall, Settle};

#[cfg(test)]
mod tests;
