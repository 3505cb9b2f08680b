//! Plain rows, as nearly every one is: read in one go, at a third of the cost. What is wrong with a row that is not, if anything,
//! is for [`super::line`] to say.

use super::{MAX_COUNT, MAX_NAME_BYTES, RowRef};

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

/// Reads a row of these columns without quotes and with nothing but printable ASCII, if it holds what a row should.
pub(super) fn parse<'l>(roles: &[Role], line: &'l str) -> Option<RowRef<'l>> {
    let mut numbers = [None; Role::Unknown as usize];
    let (mut account, mut model) = (None, None);
    let mut rest = line;
    for (column, role) in roles.iter().enumerate() {
        if column > 0 {
            rest = rest.strip_prefix(',')?;
        }
        match role {
            Role::Account => (account, rest) = text(rest)?,
            Role::Model => (model, rest) = text(rest)?,
            Role::Unknown => (_, rest) = text(rest)?,
            _ => (numbers[*role as usize], rest) = number(rest)?,
        }
    }
    let number = |role: Role| numbers[role as usize];
    let prompt_tokens = number(Role::PromptTokens).filter(|tokens| *tokens > 0)?;
    let cached_prompt_tokens = number(Role::CachedPromptTokens);
    let sound = rest.is_empty() && cached_prompt_tokens.is_none_or(|cached| cached <= prompt_tokens);
    let row = RowRef {
        at_ms: number(Role::AtMs)?,
        account: account?,
        model: model?,
        prompt_tokens,
        cached_prompt_tokens,
        generated_tokens: number(Role::GeneratedTokens)?,
        stated_duration_ms: number(Role::DurationMs),
        max_generated_tokens: number(Role::MaxGeneratedTokens),
    };
    sound.then_some(row)
}

/// The number at the beginning, where there is one, and what follows it.
fn number(text: &str) -> Option<(Option<u64>, &str)> {
    /// So many digits fit.
    const MOST_DIGITS: usize = 19;
    let (mut number, mut digits) = (0, 0);
    for byte in text.bytes().take_while(u8::is_ascii_digit).take(MOST_DIGITS) {
        number = number * 10 + u64::from(byte - b'0');
        digits += 1;
    }
    Some(((digits > 0).then_some(number), text.get(digits..)?)).filter(|_| number <= MAX_COUNT)
}

/// The text up to the next comma, where there is some, and what follows it.
fn text(text: &str) -> Option<(Option<&str>, &str)> {
    let plain = text.bytes().take_while(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'"')).count();
    let (field, rest) = text.split_at_checked(plain)?;
    Some(((plain > 0).then_some(field), rest)).filter(|_| plain <= MAX_NAME_BYTES)
}
