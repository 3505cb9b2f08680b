//! The traces of a folder, whatever their names, and the limits under which each is judged.

use std::path::{Path, PathBuf};

use tidegate_core::MAX_TOKENS;
use tidegate_core::policy::BUILT_IN_FLOORS;
use tidegate_core::window::Tokens;
use tidegate_sim::policy::KeyRules;
use tidegate_sim::workload::{Shape, Workload};

use crate::StudyError;

/// What is read: this and everything before it in the file's name.
const SUFFIX: &str = ".csv.gz";

/// Traces whose names begin so are agentic.
const AGENTIC_PREFIX: &str = "agentic";

/// The bars by which a trace is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers that are short against the limit.
    Chat,
    /// Coding agents: outputs up to half of the limit. Folded to one account.
    Agentic,
}

/// A trace, read and folded.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The file's name without its suffix.
    pub name: String,
    /// How it is judged.
    pub kind: Kind,
    /// Its requests.
    pub workload: Workload,
}

impl Trace {
    /// Reads a trace; its name decides what it is.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn read(path: &Path) -> Result<Self, StudyError> {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = file.strip_suffix(SUFFIX).unwrap_or(&file).to_owned();
        let kind = if name.starts_with(AGENTIC_PREFIX) { Kind::Agentic } else { Kind::Chat };
        let fold = (kind == Kind::Agentic).then_some(1);
        Ok(Self { name, kind, workload: Workload::read(path, &Shape { fold, ..Shape::default() })? })
    }

    /// Reads every trace of a folder, in the order of their names.
    ///
    /// # Errors
    /// A folder that cannot be listed or holds no trace, and the first trace that cannot be read.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>, StudyError> {
        let failed = |error| StudyError::Folder { folder: folder.to_path_buf(), error };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(StudyError::NoTraces(folder.to_path_buf()));
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

/// A trace under limits: what a row of a table is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// Static limits of every key, TPM.
    pub limits: Tokens,
    /// What the row says of the limits; empty for the built-in floors.
    pub note: &'static str,
}

impl Subject<'_> {
    /// The row's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.trace.name, self.note)
    }

    /// One rule for each key.
    #[must_use]
    pub fn rules(&self) -> Vec<KeyRules> {
        vec![KeyRules::fixed(&self.limits); self.trace.workload.keys.len()]
    }

    /// The trace at `demand` times its traffic.
    #[must_use]
    pub fn workload(&self, demand: u64, seed: u64) -> Workload {
        self.trace.workload.clone().scaled(&Shape { fold: None, scale_permille: demand * 1_000, seed })
    }
}

/// The rows that the traces make: each under the built-in floors, the agentic ones once more with `generated` alone binding.
#[must_use]
pub fn subjects(traces: &[Trace]) -> Vec<Subject<'_>> {
    let mut subjects = Vec::new();
    for trace in traces {
        subjects.push(Subject { trace, limits: BUILT_IN_FLOORS, note: "" });
        if trace.kind == Kind::Agentic {
            let limits = Tokens::new(MAX_TOKENS, MAX_TOKENS, BUILT_IN_FLOORS.generated);
            subjects.push(Subject { trace, limits, note: ", generated alone" });
        }
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_of_traces_becomes_rows_by_the_names_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let csv = "t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens\n0,a,m,10,,5\n9,b,m,10,3,5\n";
        for name in ["unseen.csv.gz", "agentic_other.csv.gz", "notes.md"] {
            std::fs::write(folder.path().join(name), csv).expect("written");
        }
        let traces = Trace::read_all(folder.path()).expect("plain text under a gzip name is read as well");
        let keys: Vec<usize> = traces.iter().map(|trace| trace.workload.keys.len()).collect();
        assert_eq!(keys, [1, 2], "the agentic one is folded, the other is not");
        let subjects = subjects(&traces);
        let names: Vec<String> = subjects.iter().map(Subject::name).collect();
        assert_eq!(names, ["agentic_other", "agentic_other, generated alone", "unseen"]);
        assert_eq!(subjects[2].rules().len(), 2);
        assert_eq!(subjects[2].workload(4, 1).requests.len(), 8);
    }

    #[test]
    fn a_folder_without_traces_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(Trace::read_all(folder.path()), Err(StudyError::NoTraces(_))));
    }
}
