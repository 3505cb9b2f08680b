//! Plots of a report, as SVG and PNG: what each of the busiest keys held, and how the policies compare.
//!
//! PNG text is drawn with a font of this crate, so plots look the same on a machine without fonts. The other way,
//! rasterising the SVG, would bring a second and larger renderer for the same picture.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tidegate_core::window::Window;

use crate::policy::KeyRules;
use crate::report::{Limits, Report};
use crate::workload::Workload;

mod canvas;
mod course;
mod policies;
#[cfg(test)]
mod tests;
mod words;

use canvas::Figure;
pub use canvas::font_family;

/// Keys of a trace that are plotted, under each policy: those that ask for most, measured by their floors.
pub const KEYS_PLOTTED: usize = 12;

/// Longest stem of a file name.
const MAX_STEM: usize = 100;

/// Why a plot could not be written. What was written before stays.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// A folder or file cannot be made.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A picture cannot be drawn.
    #[error("{}: cannot be drawn: {why}", path.display())]
    Drawing {
        /// Its file.
        path: PathBuf,
        /// What the renderer said.
        why: String,
    },
}

/// A folder that plots are written to. Files of the same name are replaced; each appears whole or not at all.
#[derive(Debug)]
pub struct Plots {
    folder: PathBuf,
    /// Two traces of the same name in different folders do not share files.
    stems: HashSet<String>,
}

/// What was written of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Files.
    pub files: usize,
    /// Keys that were not plotted.
    pub keys_left_out: usize,
}

impl Plots {
    /// Makes the folder, and those above it, where there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(folder: &Path) -> Result<Self, PlotError> {
        fs::create_dir_all(folder).map_err(|error| PlotError::Io { path: folder.to_owned(), error })?;
        Ok(Self { folder: folder.to_owned(), stems: HashSet::new() })
    }

    /// Writes `TRACE.POLICY.key-01.svg` and so on, the busiest key first, and under static limits `TRACE.policies.svg`, each
    /// as `.png` too. `rules` are those of the report's study, which must have recorded. `on_file` is called after each.
    ///
    /// # Errors
    /// The first plot that cannot be drawn or written.
    pub fn write(
        &mut self,
        report: &Report,
        workload: &Workload,
        rules: &[KeyRules],
        mut on_file: impl FnMut(&str),
    ) -> Result<Written, PlotError> {
        let stem = self.free_stem(&report.trace);
        let busiest = busiest_keys(report, rules);
        let mut files = 0;
        if report.limits == Limits::Static {
            files += self.write_figure(&format!("{stem}.policies"), &policies::Policies { report }, &mut on_file)?;
        }
        for policy in &report.policies {
            for (rank, &key) in busiest.iter().take(KEYS_PLOTTED).enumerate() {
                let outcome = policy.outcome.keys.get(key);
                let (Some(outcome), Some(record)) = (outcome, outcome.and_then(|outcome| outcome.record.as_ref()))
                else {
                    continue;
                };
                let name = format!("{stem}.{}.key-{:02}", policy.policy, rank + 1);
                let course = course::Course {
                    report,
                    policy: policy.policy,
                    name: &workload.keys[key],
                    rules: &rules[key],
                    limit: &outcome.limit,
                    record,
                    last_second: workload.requests.last().map_or(0, |request| request.at_ms / 1_000),
                };
                files += self.write_figure(&name, &course, &mut on_file)?;
            }
        }
        Ok(Written { files, keys_left_out: busiest.len().saturating_sub(KEYS_PLOTTED) })
    }

    /// The trace's name without its endings, as a file name may be: a name from elsewhere must not choose the folder.
    fn free_stem(&mut self, trace: &str) -> String {
        let stem = trace.strip_suffix(".gz").unwrap_or(trace);
        let stem = stem.strip_suffix(".csv").unwrap_or(stem);
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let stem: String = stem.trim_start_matches('.').chars().take(MAX_STEM).map(plain).collect();
        let stem = if stem.is_empty() { "trace".to_owned() } else { stem };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let mut free = std::iter::once(stem.clone()).chain(numbered);
        let free = free.find(|name| !self.stems.contains(name)).unwrap_or(stem);
        self.stems.insert(free.clone());
        free
    }

    fn write_figure(
        &self,
        name: &str,
        figure: &impl Figure,
        on_file: &mut impl FnMut(&str),
    ) -> Result<usize, PlotError> {
        let drawing = |path: &Path| {
            let path = path.to_owned();
            move |why| PlotError::Drawing { path, why }
        };
        let svg = self.folder.join(format!("{name}.svg"));
        write_whole(&svg, canvas::svg(figure).map_err(drawing(&svg))?.as_bytes())?;
        let png = self.folder.join(format!("{name}.png"));
        write_whole(&png, &canvas::png(figure).map_err(drawing(&png))?)?;
        on_file(name);
        Ok(2)
    }
}

/// All keys with requests, the busiest first: by what they asked for in the window where that is most, measured by its floor.
fn busiest_keys(report: &Report, rules: &[KeyRules]) -> Vec<usize> {
    let Some(policy) = report.policies.first() else { return Vec::new() };
    let asked = policy.outcome.keys.iter().zip(rules).enumerate().filter_map(|(index, (key, rules))| {
        let floors = rules.floors();
        let shares = Window::ALL.map(|window| key.asked[window] as f64 / floors[window] as f64);
        key.record.is_some().then(|| (shares.into_iter().fold(0.0, f64::max), index))
    });
    let mut asked: Vec<_> = asked.collect();
    asked.sort_by(|(left, left_index), (right, right_index)| {
        right.total_cmp(left).then_with(|| left_index.cmp(right_index))
    });
    asked.into_iter().map(|(_, index)| index).collect()
}

/// Writes beside the file and renames, so that nobody sees half of it and an old one stays if this fails.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PlotError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|error| {
        // What cannot be removed cannot be helped; the error that matters is the first.
        let _ = fs::remove_file(&partial);
        PlotError::Io { path: path.to_owned(), error }
    })
}
