//! `cargo run --release -p tidegate-benches --bin forecast`: the study, as Markdown on standard output.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use tidegate_benches::StudyError;
use tidegate_benches::section::{Scope, Section};
use tidegate_benches::traces::Trace;

/// The folder with the traces.
const TRACES: &str = "TIDEGATE_TRACES";

/// Judges the forecast on every trace in `TIDEGATE_TRACES`, and prints Markdown.
#[derive(Debug, Parser)]
#[command(name = "forecast")]
struct Arguments {
    /// This section alone
    #[arg(long, value_enum, conflicts_with = "all")]
    section: Option<Section>,
    /// Every section; the default
    #[arg(long)]
    all: bool,
    /// Seeds of each run [default: 3; 20 in the section `adaptive`]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: Option<u64>,
    /// Writes SVG plots into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Threads to run on [default: one for each core]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(folder) = std::env::var_os(TRACES) else {
        eprintln!("forecast: {TRACES} is not set: it names the folder with the traces (*.csv.gz)");
        return ExitCode::from(2);
    };
    match study(arguments, &PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forecast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn study(arguments: Arguments, folder: &std::path::Path) -> Result<(), StudyError> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let scope = Scope {
        traces: Trace::read_all(folder)?,
        seeds: arguments.seeds,
        threads: arguments.threads.unwrap_or_else(cores),
        plots: arguments.plots,
    };
    let sections = arguments.section.map_or_else(|| Section::value_variants().to_vec(), |section| vec![section]);
    for section in sections {
        let markdown = section.markdown(&scope)?;
        // A reader that went away wants no more.
        if writeln!(std::io::stdout(), "{markdown}").is_err() {
            break;
        }
    }
    Ok(())
}
