//! A table of the configuration file, read key by key.
//!
//! Rejected: serde's derive. It stops at the first unknown key or wrong type, and an operator who fixes one error per
//! start has every reason to hate us. Here each reader takes its key, problems pile up, and what nobody took is unknown.

use std::collections::BTreeSet;

use tidegate_core::time::Timestamp;
use toml::value::{Datetime, Offset};
use toml::{Table, Value};

use super::problem::Problems;

/// A table of the file, where it stands, and which of its keys were taken.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a Table>,
    taken: BTreeSet<&'static str>,
}

/// A value as somebody wrote it, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) path: String,
}

impl<'a> Section<'a> {
    /// The whole file; `None`: there is none.
    pub(super) const fn root(table: Option<&'a Table>) -> Self {
        Self { path: String::new(), table, taken: BTreeSet::new() }
    }

    /// The table `key` of `parent`, an empty one where it is absent.
    pub(super) fn of(parent: &mut Self, key: &'static str, problems: &mut Problems) -> Self {
        let path = parent.path_of(key);
        let table = match parent.take(key) {
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                problems.add(&path, format_args!("must be a table, not {}", kind(other)));
                None
            }
            None => None,
        };
        Self { path, table, taken: BTreeSet::new() }
    }

    /// The path of `key` in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { quoted(key) } else { format!("{}.{}", self.path, quoted(key)) }
    }

    /// Where this table stands.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether `key` is a table.
    pub(super) fn has_table(&self, key: &str) -> bool {
        self.table.and_then(|table| table.get(key)).is_some_and(Value::is_table)
    }

    /// Whether there is no `key`.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.table.is_none_or(|table| !table.contains_key(key))
    }

    /// The number, text or boolean `key`, as text: what a flag would say.
    pub(super) fn scalar(&mut self, key: &'static str, problems: &mut Problems) -> Option<Given> {
        let path = self.path_of(key);
        let text = match self.take(key)? {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            other => {
                problems.add(path, format_args!("must be a single value, not {}", kind(other)));
                return None;
            }
        };
        Some(Given { text, path })
    }

    /// `key` parsed, or `None` where it is absent or wrong; what is wrong is in `problems`.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let given = self.scalar(key, problems)?;
        parse(&given.text).map_err(|error| problems.add(given.path, error)).ok()
    }

    /// The text `key`. A number is not a name.
    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let path = self.path_of(key);
        match self.take(key)? {
            Value::String(text) => Some(text.clone()),
            other => {
                problems.add(path, format_args!("must be text in quotes, not {}", kind(other)));
                None
            }
        }
    }

    /// The instant `key`, written as a TOML date-time with its offset.
    pub(super) fn instant(&mut self, key: &'static str, problems: &mut Problems) -> Option<Timestamp> {
        let path = self.path_of(key);
        let instant = match self.take(key)? {
            Value::Datetime(datetime) => instant(datetime),
            _ => None,
        };
        if instant.is_none() {
            problems.add(path, "must be a date, a time and an offset from 1970 on, such as 2027-01-31T12:00:00Z");
        }
        instant
    }

    /// The named tables under `key` (`[tiers.NAME]`), in the order of their names.
    pub(super) fn named(&mut self, key: &'static str, problems: &mut Problems) -> Vec<(&'a str, Section<'a>)> {
        let section = Self::of(self, key, problems);
        let Some(table) = section.table else { return Vec::new() };
        let mut named = Vec::new();
        for (name, value) in table {
            let path = section.path_of(name);
            match value {
                Value::Table(table) => {
                    named.push((name.as_str(), Section { path, table: Some(table), taken: BTreeSet::new() }));
                }
                other => problems.add(path, format_args!("must be a table, not {}", kind(other))),
            }
        }
        named
    }

    /// The tables of the array `key` (`[[models]]`), in order.
    pub(super) fn list(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Section<'a>> {
        let path = self.path_of(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                problems.add(&path, format_args!("must be an array of tables, [[{path}]], not {}", kind(other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match value {
                Value::Table(table) => sections.push(Section { path, table: Some(table), taken: BTreeSet::new() }),
                other => problems.add(path, format_args!("must be a table, not {}", kind(other))),
            }
        }
        sections
    }

    /// Reports every key that nobody took. The last call on every section.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.table.into_iter().flat_map(Table::keys) {
            if self.taken.contains(key.as_str()) {
                continue;
            }
            let known = self.taken.iter().copied().collect::<Vec<_>>().join(", ");
            problems.add(self.path_of(key), format_args!("is not a setting; this table knows {known}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.taken.insert(key);
        self.table?.get(key)
    }
}

/// `key` as it would be written in the file: in quotes where it is not a bare key.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

/// The instant that `datetime` names; `None` where date, time or offset are missing, or before 1970.
fn instant(datetime: &Datetime) -> Option<Timestamp> {
    let (date, time) = (datetime.date?, datetime.time?);
    let offset_minutes = match datetime.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days since 1970 in the Gregorian calendar, counted in years that begin in March.
    let (year, month) = (i64::from(date.year), i64::from(date.month));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + i64::from(date.day) - 719_469;
    let minutes = days * 1_440 + i64::from(time.hour) * 60 + i64::from(time.minute) - offset_minutes;
    let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
    u64::try_from(seconds).ok().map(Timestamp::from_seconds)
}
