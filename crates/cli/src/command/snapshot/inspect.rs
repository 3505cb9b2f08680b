//! `tidegate snapshot inspect`.

use std::path::PathBuf;

use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_store::durable::snapshot::{self, InspectError};

use super::{contents, directory_failure, key, remark_missing};
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Show what is in a data directory or a snapshot: versions, times, counts, sizes; never a secret
///
/// With --account and --model, one limit key as it was written down. Everything is read, and nothing changes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = super::EXAMPLES)]
pub(super) struct InspectArgs {
    /// The data directory, or the snapshot
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,

    /// Show the limit key of this account, on --model
    #[arg(long, value_name = "NAME", requires = "model")]
    account: Option<String>,

    /// Its model
    #[arg(long, value_name = "NAME", requires = "account")]
    model: Option<String>,

    /// The model's variant; without it, the regular one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, requires = "model")]
    variant: String,

    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// The key that is asked for.
    fn key(&self) -> Result<Option<LimitKey>, Failure> {
        let Some((account, model)) = self.account.as_deref().zip(self.model.as_deref()) else { return Ok(None) };
        let key = KeyRef::new(account, model, &self.variant);
        let key = key.map_err(|error| Failure::Usage(format!("--{}: {}", error.field, error.error)))?;
        Ok(Some(key.to_owned()))
    }
}

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let wanted = args.key()?;
    let found = snapshot::inspect(&args.path, wanted.as_ref()).map_err(|error| match error {
        InspectError::Directory(error) => directory_failure(error),
        error => Failure::Failed(error.to_string()),
    })?;
    remark_missing(found.missing_batches);
    let Some(wanted) = wanted else {
        return if args.json {
            print_json(&contents::json(&args.path, &found))
        } else {
            print(&contents::text(&args.path, &found))
        };
    };
    let Some(state) = found.key else {
        return Err(Failure::Failed(format!("{} is not in {}", wanted.as_ref(), args.path.display())));
    };
    if args.json { print_json(&key::json(&wanted, &state)) } else { print(&key::text(&wanted, &state)) }
}
