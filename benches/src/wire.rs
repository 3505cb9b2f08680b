//! What a decision costs on the wire: tidegate against an empty server and its peers, in one interleaved run.
//!
//! Each server has a core of its own, the load another; all sides of a block take turns within each round, in an order that
//! rotates, so that whatever the machine does meanwhile happens to all of them. Figures are medians of ratios within rounds.

pub mod empty;
mod figure;
mod machine;
mod programs;
mod rows;
mod servers;
mod side;
pub mod socket;
mod study;
mod table;
mod turn;

pub use rows::{Block, chosen};
pub use study::{Plan, study};

/// Why there is no table.
pub type Failure = Box<dyn std::error::Error>;
