//! The study that judges the forecast: every table of `docs/forecast.md`, from traces and from made-up traffic; and what
//! durability and a shared store cost.
//!
//! Rejected: one JSON of raw figures and a notebook that draws conclusions from it. A bar that is checked where the figure is
//! printed cannot drift from it. All is simulated by `tidegate-sim`; this crate chooses the traffic, and adds up.
#![forbid(unsafe_code)]

pub mod decision;
pub mod durable;
pub mod fleet;
pub mod made_up;
pub mod markdown;
pub mod measure;
pub mod memory;
pub mod open_loop;
pub mod plot;
pub mod section;
pub mod stopwatch;
pub mod threads;
pub mod traces;
pub mod wire;
pub mod zipf;

/// Why a study ended without its tables.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A trace cannot be read.
    #[error(transparent)]
    Trace(#[from] tidegate_sim::trace::TraceError),
    /// The folder of traces cannot be listed.
    #[error("{}: {error}", folder.display())]
    Folder {
        /// Where traces were looked for.
        folder: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is no trace in the folder.
    #[error("{}: no *.csv.gz in it", .0.display())]
    NoTraces(std::path::PathBuf),
    /// A plot cannot be written.
    #[error("{}: {reason}", path.display())]
    Plot {
        /// The file.
        path: std::path::PathBuf,
        /// What the system or the plotter said.
        reason: String,
    },
}
