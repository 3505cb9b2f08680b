//! Plain rows, as nearly every one is: read in one go, at a third of the cost. What is wrong with a row that is not, if anything,
//! is for [`super::line`] to say.

use std::ops::Range;

use super::{MAX_COUNT, MAX_LINE_BYTES, MAX_NAME_BYTES, RowRef};

/// What stands in a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    AtMs,
    Account,
    Model,
    PromptTokens,
    CachedPromptTokens,
    GeneratedTokens,
    DurationMs,
    MaxGeneratedTokens,
    #[default]
    Unknown,
}

/// A row, and where in the text it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    numbers: [Option<u64>; Role::Unknown as usize],
    account: Range<usize>,
    model: Range<usize>,
    /// With the end of its line.
    pub(super) length: usize,
}

impl Plain {
    /// The row, where `text` is that which it was read from.
    pub(super) fn row<'t>(&self, text: &'t [u8]) -> Option<RowRef<'t>> {
        let number = |role: Role| self.numbers[role as usize];
        let name = |range: &Range<usize>| std::str::from_utf8(&text[range.clone()]).ok();
        Some(RowRef {
            at_ms: number(Role::AtMs)?,
            account: name(&self.account)?,
            model: name(&self.model)?,
            prompt_tokens: number(Role::PromptTokens)?,
            cached_prompt_tokens: number(Role::CachedPromptTokens),
            generated_tokens: number(Role::GeneratedTokens)?,
            stated_duration_ms: number(Role::DurationMs),
            max_generated_tokens: number(Role::MaxGeneratedTokens),
        })
    }
}

/// Reads the row of these columns at the beginning of `text`: one without quotes and with nothing but printable ASCII, that
/// holds what a row should and of which the end is seen.
pub(super) fn parse(roles: &[Role], text: &[u8]) -> Option<Plain> {
    let mut row = Plain { numbers: [None; Role::Unknown as usize], account: 0..0, model: 0..0, length: 0 };
    let mut at = 0;
    for (column, role) in roles.iter().enumerate() {
        if column > 0 {
            text.get(at).filter(|byte| **byte == b',')?;
            at += 1;
        }
        let rest = &text[at..];
        at += match role {
            Role::Account => field(rest).inspect(|length| row.account = at..at + length)?,
            Role::Model => field(rest).inspect(|length| row.model = at..at + length)?,
            Role::Unknown => field(rest)?,
            _ => {
                let (number, length) = number(rest)?;
                row.numbers[*role as usize] = number;
                length
            }
        };
    }
    at += usize::from(*text.get(at)? == b'\r');
    row.length = at + 1;
    let number = |role: Role| row.numbers[role as usize];
    let prompt_tokens = number(Role::PromptTokens).filter(|tokens| *tokens > 0)?;
    let cached = number(Role::CachedPromptTokens).is_none_or(|cached| cached <= prompt_tokens);
    let there = number(Role::AtMs).and(number(Role::GeneratedTokens)).is_some();
    let named = !row.account.is_empty() && !row.model.is_empty();
    (*text.get(at)? == b'\n' && cached && there && named && row.length <= MAX_LINE_BYTES).then_some(row)
}

/// The number at the beginning, where there is one, and how long it is.
fn number(text: &[u8]) -> Option<(Option<u64>, usize)> {
    /// So many digits fit.
    const MOST_DIGITS: usize = 19;
    let (mut number, mut digits) = (0, 0);
    for byte in text.iter().take_while(|byte| byte.is_ascii_digit()).take(MOST_DIGITS) {
        number = number * 10 + u64::from(byte - b'0');
        digits += 1;
    }
    (number <= MAX_COUNT).then_some(((digits > 0).then_some(number), digits))
}

/// How long the text up to the next comma is.
fn field(text: &[u8]) -> Option<usize> {
    let plain = text.iter().take_while(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'"')).count();
    (plain <= MAX_NAME_BYTES).then_some(plain)
}
