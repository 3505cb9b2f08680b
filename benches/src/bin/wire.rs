//! What a decision costs on the wire, against an empty server and peers: `cargo run --release --package tidegate-benches --bin wire`.
//!
//! tidegate is the binary that `TIDEGATE_BIN` names: `cargo build --release --workspace --bins`, then
//! `TIDEGATE_BIN=target/release/tidegate target/release/wire`. The load is `tidegate bench` of the same binary, or of that which
//! `TIDEGATE_BENCH_BIN` names.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tidegate_benches::wire::{Plan, chosen, study};

/// Longer than reservations live, so that as many expire as are made in the time that counts.
const WARM_UP: Duration = Duration::from_millis(1_200);

#[derive(Parser)]
struct Arguments {
    /// Rounds, each with all sides of a block
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds for each side in each round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these blocks, and the rows that contain these words
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Two rounds of half a second: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// The folder that benches/peers.sh installed the peers into; they are looked for in PATH too
    #[arg(long, env = "TIDEGATE_PEERS")]
    peers: Option<PathBuf>,
    /// Let T1 write as tonic's own listener does: each frame of 256 bytes or more by itself
    #[arg(long)]
    vectored: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let blocks = chosen(&arguments.only)?;
    let (rounds, seconds, warm_up) =
        if arguments.quick { (2, 0.5, WARM_UP / 4) } else { (arguments.rounds, arguments.seconds, WARM_UP) };
    let length = Duration::try_from_secs_f64(seconds)?;
    let plan = Plan { rounds, length, warm_up, peers: arguments.peers, vectored: arguments.vectored };
    study(&blocks, &plan, |text| println!("{text}"))
}
