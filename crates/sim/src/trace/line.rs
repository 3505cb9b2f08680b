//! One line of a trace: which field is which column, and what a row may hold.

use super::{LineFault, MAX_COUNT, MAX_NAME_BYTES, TraceRow};

/// The columns that every trace has.
pub(super) const REQUIRED: [&str; 5] = ["t_ms", "account", "model", "prompt_tokens", "generated_tokens"];

/// Where the header puts each column, from 0.
#[derive(Debug, Default)]
pub(super) struct Columns {
    count: usize,
    at_ms: usize,
    account: usize,
    model: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    cached_prompt_tokens: Option<usize>,
    duration_ms: Option<usize>,
    max_generated_tokens: Option<usize>,
}

impl Columns {
    /// Reads the header row.
    pub(super) fn parse(header: &str) -> Result<Self, LineFault> {
        let names = split_fields(header)?;
        let find = |wanted: &'static str| {
            let mut found = names.iter().enumerate().filter(|(_, name)| name.trim() == wanted).map(|(index, _)| index);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(LineFault::RepeatedColumn(wanted)),
                (index, None) => Ok(index),
            }
        };
        let require = |wanted| find(wanted)?.ok_or(LineFault::MissingColumn(wanted));
        Ok(Self {
            count: names.len(),
            at_ms: require("t_ms")?,
            account: require("account")?,
            model: require("model")?,
            prompt_tokens: require("prompt_tokens")?,
            generated_tokens: require("generated_tokens")?,
            cached_prompt_tokens: find("cached_prompt_tokens")?,
            duration_ms: find("duration_ms")?,
            max_generated_tokens: find("max_generated_tokens")?,
        })
    }

    /// Reads one row. Its order among the others is the caller's to check.
    pub(super) fn parse_row(&self, line: &str) -> Result<TraceRow, LineFault> {
        let fields = split_fields(line)?;
        if fields.len() != self.count {
            return Err(LineFault::FieldCount { found: fields.len(), expected: self.count });
        }
        let optional = |column, index: Option<usize>| match index.map(|index| fields[index].as_str()) {
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
        Ok(TraceRow {
            at_ms: required("t_ms", self.at_ms)?,
            account: parse_name("account", &fields[self.account])?,
            model: parse_name("model", &fields[self.model])?,
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
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LineFault::NotANumber { column, text: shown() });
    }
    let count = text.parse().ok().filter(|count| *count <= MAX_COUNT);
    count.ok_or_else(|| LineFault::TooLarge { column, text: shown() })
}

fn parse_name(column: &'static str, text: &str) -> Result<String, LineFault> {
    if text.is_empty() {
        return Err(LineFault::Empty(column));
    }
    if text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return Err(LineFault::BadName(column));
    }
    Ok(text.to_owned())
}

/// Splits at commas outside quotes; `""` in a quoted field is one quote (RFC 4180, within one line).
fn split_fields(line: &str) -> Result<Vec<String>, LineFault> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            split_quoted(quoted).ok_or(LineFault::Quoting(fields.len() + 1))?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// What follows an opening quote: the field, and the line from the comma after it. `None`: not closed, or not followed by
/// a comma or the end.
fn split_quoted(quoted: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return (after.is_empty() || after.starts_with(',')).then_some((field, after)),
        }
    }
}
