//! `tidegate snapshot`: all of a data directory in one file, and what is in either.

use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidegate_store::durable::OpenError;
use tidegate_store::durable::snapshot::{self, Counts, ExportError, Exported, ImportError};

use crate::failure::Failure;
use crate::output::{grouped, print, remark};

mod contents;
mod inspect;
mod key;

const EXAMPLES: &str = "\
Examples:
  tidegate snapshot export --data-dir /var/lib/tidegate backup.snapshot
  tidegate snapshot export --data-dir /var/lib/tidegate - | age -r KEY > backup.age
  tidegate snapshot import --data-dir /var/lib/tidegate backup.snapshot
  tidegate snapshot inspect /var/lib/tidegate
  tidegate snapshot inspect backup.snapshot --account acme --model large

Stop the server first: a directory is one process's at a time.
A snapshot holds the secrets of the directory. Keep it as you would keep a key.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Put a data directory into one file, make one of it again, and see what is in either
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum SnapshotCommand {
    Export(ExportArgs),
    Import(ImportArgs),
    Inspect(inspect::InspectArgs),
}

/// Put all that is in a data directory into one file
///
/// The file is there when it is whole and on the disk; only its owner can read it. The directory does not change.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct ExportArgs {
    #[command(flatten)]
    from: DataDir,

    /// The file to make; - is standard output
    file: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Make a data directory of a snapshot
///
/// The directory is made if it does not exist, and has no state yet. The snapshot is read to its end before anything is written.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct ImportArgs {
    #[command(flatten)]
    to: DataDir,

    /// The snapshot
    file: PathBuf,
}

#[derive(Clone, Debug, clap::Args)]
struct DataDir {
    /// The data directory, that of `serve --data-dir`
    #[arg(long, value_name = "DIR", env = "TIDEGATE_DATA_DIR")]
    data_dir: PathBuf,
}

/// Runs one command.
pub(crate) fn run(args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        SnapshotCommand::Export(args) => export(args)?,
        SnapshotCommand::Import(args) => import(args)?,
        SnapshotCommand::Inspect(args) => inspect::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let (directory, file) = (&args.from.data_dir, &args.file);
    let failed = |error: ExportError| match error {
        ExportError::Directory(error) => directory_failure(error),
        error @ ExportError::Exists { .. } => Failure::Usage(format!("{error}; --force replaces it")),
        error @ ExportError::NoFile { .. } => Failure::Usage(error.to_string()),
        error @ ExportError::Io { .. } => Failure::Failed(error.to_string()),
    };
    if file.as_os_str() == "-" {
        if stdout().is_terminal() {
            let text = "a snapshot is not for a terminal; name a file, or lead standard output somewhere";
            return Err(Failure::Usage(text.to_owned()));
        }
        let exported = snapshot::export_to(directory, Path::new("standard output"), stdout().lock()).map_err(failed)?;
        remark(&exported_text(&exported));
        remark_missing(exported.contents.missing_batches);
        return Ok(());
    }
    let exported = snapshot::export(directory, file, args.force).map_err(failed)?;
    remark_missing(exported.contents.missing_batches);
    print(&format!("{}: {}", file.display(), exported_text(&exported)))
}

fn exported_text(exported: &Exported) -> String {
    format!("{}; {} bytes", counts_text(&exported.contents.counts), grouped(exported.bytes))
}

fn counts_text(counts: &Counts) -> String {
    let [keys, reservations, changes] = [counts.keys, counts.reservations, counts.changes].map(grouped);
    format!("{keys} keys, {reservations} live reservations, {changes} records of the audit log")
}

fn import(args: &ImportArgs) -> Result<(), Failure> {
    let directory = &args.to.data_dir;
    let contents = snapshot::import(&args.file, directory).map_err(|error| match error {
        ImportError::Directory(error) => directory_failure(error),
        error @ (ImportError::Snapshot(_) | ImportError::Unfinished(_)) => Failure::Failed(error.to_string()),
    })?;
    print(&format!("{}: {}", directory.display(), counts_text(&contents.counts)))
}

/// What a directory that is not used means for whoever named it.
fn directory_failure(error: OpenError) -> Failure {
    match error {
        OpenError::InUse { .. } => Failure::Failed(format!("{error}: stop the server first")),
        OpenError::Nothing { .. } | OpenError::HasState { .. } | OpenError::Foreign { .. } => {
            Failure::Usage(error.to_string())
        }
        error => Failure::Failed(error.to_string()),
    }
}

fn remark_missing(batches: u64) {
    if batches > 0 {
        remark(&format!(
            "warning: {} batches that were in the directory are missing: what is there is as it was before them",
            grouped(batches)
        ));
    }
}
