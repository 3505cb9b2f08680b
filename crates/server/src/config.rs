//! Configuration: flags, environment and file, parsed together into a [`Config`] that cannot be wrong.
//!
//! Process settings (listeners, bounds, logging) come from flag > environment > file > default. Policy (tiers, accounts,
//! models, overrides) comes from the file, else it is built in. All mistakes are reported at once, each with its path.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tidegate_core::policy::{Enforcement, Policy};
use toml::Table;

pub mod amount;
mod args;
mod parse;
mod policy;
mod problem;
mod process;
mod scrape;
mod section;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

pub use args::ServeArgs;
pub use problem::{Problem, Problems};
pub use scrape::{Gauge, ScrapeTarget, ScrapeUrl};
pub use settings::{Address, Bounds, ListenerSettings, LogFormat, Logging, ProcessSettings};

use section::Section;
use sources::{Environment, Sources};

/// Everything that `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listeners, threads, bounds, logging.
    pub process: ProcessSettings,
    /// Tiers, accounts, models, overrides.
    pub policy: Policy,
    /// Whether the policy is that of a file, or built in.
    pub has_file: bool,
    /// What an operator should know, though it is no mistake: where a floor wins over a ceiling.
    pub warnings: Vec<Problem>,
}

/// The configuration that flags, environment and file give together.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(args: &ServeArgs) -> Result<Config, Problems> {
    load_with(args, &|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
}

/// The configuration that the file at `path` gives alone: no flag, no environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(path: &Path) -> Result<Config, Problems> {
    let args = ServeArgs { config: Some(path.to_owned()), ..ServeArgs::default() };
    load_with(&args, &|_| None)
}

fn load_with(args: &ServeArgs, environment: Environment<'_>) -> Result<Config, Problems> {
    let mut from = Sources::new(environment);
    let file = args.config.clone().or_else(|| from.variable("config").map(|given| given.text.into()));
    let has_file = file.is_some();
    let table = file.and_then(|path| read(&path, &mut from.problems));
    let mut root = Section::root(table.as_ref());
    let process = process::read(args, &mut root, &mut from);
    let switch = (&mut root, "enforcement");
    let enforcement =
        from.setting("enforcement", args.enforcement.as_ref(), switch, Enforcement::On, parse::enforcement);
    let policy::Described { policy, warnings } = policy::read(&mut root, &mut from.problems);
    let policy = policy.with_enforcement(enforcement);
    root.finish(&mut from.problems);
    from.problems.into_result(Config { process, policy, has_file, warnings })
}

/// What the file says; a wrong path may lead to a device or a dump without end.
fn read_text(path: &Path) -> io::Result<String> {
    /// A million accounts fit.
    const MOST_BYTES: u64 = 256 << 20;
    let mut text = String::new();
    let read = File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 256 MiB"));
    }
    Ok(text)
}

/// The file's table; `None` where it cannot be read or is no TOML, which is noted.
fn read(path: &Path, problems: &mut Problems) -> Option<Table> {
    let name = path.display().to_string();
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            problems.add(name, format_args!("cannot be read: {error}"));
            return None;
        }
    };
    match text.parse::<Table>() {
        Ok(table) => Some(table),
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
            problems.add(format!("{name}:{line}"), error.message().replace('\n', ", "));
            None
        }
    }
}
