//! What keys take, and how long a call takes at most: `cargo run --release --package tidegate-benches --bin memory`.

use clap::Parser;

/// As `tidegate` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints Markdown: resident bytes of a key, and the longest calls.
#[derive(Parser)]
#[command(name = "memory")]
struct Arguments {
    /// How many
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
}

fn main() {
    println!("{}", tidegate_benches::memory::study(Arguments::parse().keys));
}
