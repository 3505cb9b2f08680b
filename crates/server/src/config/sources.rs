//! Where a setting comes from: flag, else environment variable, else file, else default.

use std::fmt;

use super::problem::Problems;
use super::section::{Given, Section};

/// The environment as the settings see it. An empty variable counts as unset.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads settings from all three places.
pub(super) struct Sources<'a> {
    environment: Environment<'a>,
    pub(super) problems: Problems,
}

impl<'a> Sources<'a> {
    pub(super) fn new(environment: Environment<'a>) -> Self {
        Self { environment, problems: Problems::default() }
    }

    /// The environment variable of the flag `name`, unless it is unset or empty: `TIDEGATE_ADMIN_LISTEN` of `admin-listen`.
    pub(super) fn variable(&self, name: &str) -> Option<Given> {
        let path = format!("TIDEGATE_{}", name.replace('-', "_").to_uppercase());
        let text = (self.environment)(&path).filter(|text| !text.is_empty())?;
        Some(Given { text, path })
    }

    /// The setting `name` (`admin-listen`), which is `key` in `section` of the file, parsed; `default` where nobody gives it.
    /// What is wrong is noted, also where a flag wins over it: a wrong file stays wrong.
    pub(super) fn setting<T, E: fmt::Display>(
        &mut self,
        name: &str,
        flag: Option<&String>,
        (section, key): (&mut Section<'_>, &'static str),
        default: T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        let flag = flag.map(|text| Given { text: text.clone(), path: format!("--{name}") });
        let variable = self.variable(name);
        let file = section.scalar(key, &mut self.problems);

        let mut chosen = None;
        for given in [flag, variable, file].into_iter().flatten() {
            match parse(&given.text) {
                Ok(value) => chosen = chosen.or(Some(value)),
                Err(error) => self.problems.add(given.path, error),
            }
        }
        chosen.unwrap_or(default)
    }
}
