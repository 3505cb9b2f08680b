//! One row of a trace: which field is which column, and what a row may hold.

use super::fields::Fields;
use super::plain::Role;
use super::{LineFault, MAX_COUNT, MAX_NAME_BYTES, RowRef};

/// The columns that every trace has.
pub(super) const REQUIRED: [&str; 5] = ["t_ms", "account", "model", "prompt_tokens", "generated_tokens"];

/// Where the header puts each column, from 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    at_ms: usize,
    account: usize,
    model: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    cached_prompt_tokens: Option<usize>,
    duration_ms: Option<usize>,
    max_generated_tokens: Option<usize>,
    /// Of every column.
    pub(super) roles: Vec<Role>,
}

impl Columns {
    /// Reads the header row.
    pub(super) fn parse(names: &Fields<'_>) -> Result<Self, LineFault> {
        let find = |wanted: &'static str| {
            let mut found = (0..names.len()).filter(|index| names.text(*index).trim() == wanted);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(LineFault::RepeatedColumn(wanted)),
                (index, None) => Ok(index),
            }
        };
        let require = |wanted| find(wanted)?.ok_or(LineFault::MissingColumn(wanted));
        let mut columns = Self {
            at_ms: require("t_ms")?,
            account: require("account")?,
            model: require("model")?,
            prompt_tokens: require("prompt_tokens")?,
            generated_tokens: require("generated_tokens")?,
            cached_prompt_tokens: find("cached_prompt_tokens")?,
            duration_ms: find("duration_ms")?,
            max_generated_tokens: find("max_generated_tokens")?,
            roles: vec![Role::Unknown; names.len()],
        };
        let found = [
            (Some(columns.at_ms), Role::AtMs),
            (Some(columns.account), Role::Account),
            (Some(columns.model), Role::Model),
            (Some(columns.prompt_tokens), Role::PromptTokens),
            (columns.cached_prompt_tokens, Role::CachedPromptTokens),
            (Some(columns.generated_tokens), Role::GeneratedTokens),
            (columns.duration_ms, Role::DurationMs),
            (columns.max_generated_tokens, Role::MaxGeneratedTokens),
        ];
        for (index, role) in found {
            if let Some(index) = index {
                columns.roles[index] = role;
            }
        }
        Ok(columns)
    }

    /// Reads one row. Its order among the others is the caller's to check.
    pub(super) fn parse_row<'f>(&self, fields: Fields<'f>) -> Result<RowRef<'f>, LineFault> {
        if fields.len() != self.roles.len() {
            return Err(LineFault::FieldCount { found: fields.len(), expected: self.roles.len() });
        }
        let optional = |column, index: Option<usize>| match index.map(|index| fields.text(index)) {
            None | Some("") => Ok(None),
            Some(text) => parse_count(column, text).map(Some),
        };
        let required = |column, index| optional(column, Some(index))?.ok_or(LineFault::Empty(column));

        let prompt_tokens = required("prompt_tokens", self.prompt_tokens)?;
        let cached_prompt_tokens = optional("cached_prompt_tokens", self.cached_prompt_tokens)?;
        if prompt_tokens == 0 {
            return Err(LineFault::NoPrompt);
        }
        if let Some(cached) = cached_prompt_tokens.filter(|cached| *cached > prompt_tokens) {
            return Err(LineFault::CachedAbovePrompt { cached, prompt: prompt_tokens });
        }
        Ok(RowRef {
            at_ms: required("t_ms", self.at_ms)?,
            account: parse_name("account", fields.text(self.account))?,
            model: parse_name("model", fields.text(self.model))?,
            prompt_tokens,
            cached_prompt_tokens,
            generated_tokens: required("generated_tokens", self.generated_tokens)?,
            stated_duration_ms: optional("duration_ms", self.duration_ms)?,
            max_generated_tokens: optional("max_generated_tokens", self.max_generated_tokens)?,
        })
    }
}

fn parse_count(column: &'static str, text: &str) -> Result<u64, LineFault> {
    let shown = || text.chars().take(40).collect::<String>();
    let mut count = 0_u64;
    for byte in text.bytes() {
        if !byte.is_ascii_digit() {
            return Err(LineFault::NotANumber { column, text: shown() });
        }
        count = count.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
    }
    if count > MAX_COUNT { Err(LineFault::TooLarge { column, text: shown() }) } else { Ok(count) }
}

fn parse_name<'f>(column: &'static str, text: &'f str) -> Result<&'f str, LineFault> {
    if text.is_empty() {
        return Err(LineFault::Empty(column));
    }
    // Printable ASCII, as nearly every name is, needs no look at its characters.
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if text.len() > MAX_NAME_BYTES || (!plain && text.chars().any(char::is_control)) {
        return Err(LineFault::BadName(column));
    }
    Ok(text)
}
