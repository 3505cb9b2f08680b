//! What a decision costs by itself: `cargo run --release --package tidegate-benches --bin decision`.

use clap::Parser;
use tidegate_benches::decision::Ends;
use tidegate_benches::decision::study::{self, Drawn};

/// As `tidegate` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints Markdown: nanoseconds of a decision by the number of keys.
#[derive(Parser)]
#[command(name = "decision")]
struct Arguments {
    /// Numbers of keys that are all asked for equally
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    even: Vec<usize>,
    /// Numbers of keys by Zipf's law
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000])]
    zipf: Vec<usize>,
    /// Numbers of keys whose windows are full
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000])]
    full: Vec<usize>,
    /// Decisions of a row that are timed
    #[arg(long, default_value_t = 1 << 20)]
    calls: usize,
    /// Settled reservations alone
    #[arg(long)]
    settled: bool,
    /// Expiring reservations alone
    #[arg(long, conflicts_with = "settled")]
    expired: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let even = arguments.even.iter().map(|keys| (*keys, Drawn::Evenly));
    let zipf = arguments.zipf.iter().map(|keys| (*keys, Drawn::Zipf));
    let rows: Vec<_> = even.chain(zipf).filter(|(keys, _)| *keys > 0).collect();
    let ends: &[Ends] = match (arguments.settled, arguments.expired) {
        (true, _) => &[Ends::Settled],
        (_, true) => &[Ends::Expired],
        _ => &[Ends::Settled, Ends::Expired],
    };
    println!("{}\n{}", study::ids(), study::table(&rows, ends, arguments.calls));
    let full: Vec<_> = arguments.full.into_iter().filter(|keys| *keys > 0).collect();
    if !full.is_empty() {
        println!("{}", study::denied(&full, arguments.calls));
    }
}
