//! What durability costs: `cargo run --release --package tidegate-benches --bin durable -- cost|recovery|rate|write`.
//!
//! `cost` drives two servers by turns, one with `--data-dir` and one without, of the binary that `TIDEGATE_BIN` names:
//! `cargo build --release`, then `TIDEGATE_BIN=target/release/tidegate cargo run ...`.

use clap::{Parser, Subcommand};
use tidegate_benches::durable::{cost, rate, recovery, write};

/// As `tidegate` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    study: Study,
}

#[derive(Subcommand)]
enum Study {
    /// Throughput and latency with a data directory, against memory alone
    Cost {
        /// Rounds, each with both
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Seconds that each is driven in a round
        #[arg(long, default_value_t = 6)]
        seconds: u64,
        /// Decisions a second that are asked for
        #[arg(long, default_value_t = 20_000)]
        rate: u64,
        /// Share of reservations that are settled, percent
        #[arg(long, default_value_t = 0)]
        settle: u64,
        /// Both without a directory: how far two equal servers seem to be apart
        #[arg(long)]
        itself: bool,
    },
    /// Time to read keys back
    Recovery {
        /// How many
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
        /// How often it is read after a kill
        #[arg(long, default_value_t = 6)]
        rounds: usize,
    },
    /// Reads one directory, and says how long it took
    #[command(hide = true)]
    Read { path: std::path::PathBuf },
    /// Distinct keys a second at which the writer falls behind
    Rate {
        /// Seconds for each rate
        #[arg(long, default_value_t = 12)]
        seconds: u64,
    },
    /// Time to write a key down, without the disk
    Write {
        /// How many, written one after the other
        #[arg(long, default_value_t = 20_000)]
        keys: u64,
        /// How often all of them are written
        #[arg(long, default_value_t = 21)]
        rounds: usize,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = match Arguments::parse().study {
        Study::Cost { rounds, seconds, rate, settle, itself } => cost::study(rounds, seconds, rate, settle, itself)?,
        Study::Recovery { keys, rounds } => recovery::study(keys, rounds)?,
        Study::Read { path } => recovery::read(&path)?,
        Study::Rate { seconds } => rate::study(seconds)?,
        Study::Write { keys, rounds } => write::study(keys, rounds),
    };
    println!("{table}");
    Ok(())
}
