//! Amounts as people write them: tokens (`900k`, `3.6M`, `2G`) and durations (`250ms`, `90s`, `10m`, `1h`).
//!
//! Exact integer arithmetic: a fraction that does not come out whole (`1.005k` is 1,005, `1.0005k` is not whole) is refused rather
//! than rounded, because a rounded bound is a bound that nobody asked for.

use std::time::Duration;

/// Why an amount was refused. Says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Neither digits nor one decimal point before the unit.
    #[error("`{0}` is not an amount; write a number such as {1}")]
    NotANumber(String, &'static str),
    /// There is no unit, where one is needed.
    #[error("`{0}` has no unit; write {1} after the number")]
    NoUnit(String, &'static str),
    /// The letters after the number name no unit.
    #[error("`{0}` ends in `{1}`, which is no unit; write {2}")]
    UnknownUnit(String, String, &'static str),
    /// The fraction does not come out whole.
    #[error("`{0}` is not a whole number of {1}")]
    NotWhole(String, &'static str),
    /// More than 64 bits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// What may follow the number, and what to say when something else does.
struct Units {
    names: &'static [(&'static str, u64)],
    hint: &'static str,
    example: &'static str,
    smallest: &'static str,
}

const TOKENS: Units = Units {
    names: &[("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)],
    hint: "k (thousand), M (million), G (billion) or nothing",
    example: "900k, 3.6M or 2G",
    smallest: "tokens",
};

const SPANS: Units = Units {
    names: &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)],
    hint: "ms, s, m, h or d",
    example: "250ms, 90s, 10m or 1h",
    smallest: "milliseconds",
};

/// Reads an amount of tokens: digits, at most one decimal point, `_` between digits, then `k`, `M`, `G` or nothing.
///
/// Any `u64` is accepted; whether tidegate takes so many is the server's to say.
pub fn parse_tokens(text: &str) -> Result<u64, AmountError> {
    parse(text, &TOKENS)
}

/// Reads a duration: digits, at most one decimal point, then `ms`, `s`, `m`, `h` or `d`. The unit is not optional.
pub fn parse_duration(text: &str) -> Result<Duration, AmountError> {
    parse(text, &SPANS).map(Duration::from_millis)
}

fn parse(text: &str, units: &Units) -> Result<u64, AmountError> {
    let number_end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let not_a_number = || AmountError::NotANumber(text.to_owned(), units.example);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(not_a_number());
    }
    let Some(&(_, scale)) = units.names.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => AmountError::NoUnit(text.to_owned(), units.hint),
            _ => AmountError::UnknownUnit(text.to_owned(), unit.to_owned(), units.hint),
        });
    };

    let too_large = || AmountError::TooLarge(text.to_owned());
    let digits = |part: &str| {
        part.bytes()
            .filter(u8::is_ascii_digit)
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
    };
    let whole = digits(whole).and_then(|whole| whole.checked_mul(scale)).ok_or_else(too_large)?;
    let fraction = fraction.trim_end_matches(['0', '_']);
    // 10^11 is above every scale, so a longer fraction cannot come out whole.
    let places = fraction.bytes().filter(u8::is_ascii_digit).count();
    let not_whole = || AmountError::NotWhole(text.to_owned(), units.smallest);
    let divisor = u32::try_from(places).ok().filter(|places| *places <= 11).map(|places| 10_u128.pow(places));
    let divisor = divisor.ok_or_else(not_whole)?;
    let scaled = u128::from(digits(fraction).ok_or_else(too_large)?) * u128::from(scale);
    if scaled % divisor != 0 {
        return Err(not_whole());
    }
    u64::try_from(scaled / divisor).ok().and_then(|part| whole.checked_add(part)).ok_or_else(too_large)
}

/// Digits with single or repeated `_` between them, starting and ending with a digit.
fn is_digits(part: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let bytes = part.as_bytes();
    digit(bytes.first()) && digit(bytes.last()) && !part.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_exact() {
        for (text, tokens) in [
            ("0", 0),
            ("42", 42),
            ("3_600_000", 3_600_000),
            ("900k", 900_000),
            ("900K", 900_000),
            ("3.6M", 3_600_000),
            ("0.000001M", 1),
            ("2G", 2_000_000_000),
            ("1.0005k", 0),
            ("1.50", 0),
            ("1.5000k", 1_500),
            ("18446744073709551615", u64::MAX),
            ("18446744073.709551615G", u64::MAX),
        ] {
            match parse_tokens(text) {
                Ok(parsed) => assert_eq!(parsed, tokens, "{text}"),
                Err(error) => assert_eq!((tokens, matches!(error, AmountError::NotWhole(..))), (0, true), "{text}"),
            }
        }
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, says) in [
            ("", "is not an amount"),
            ("k", "is not an amount"),
            ("-5", "is not an amount"),
            (".5M", "is not an amount"),
            ("5.M", "is not an amount"),
            ("1.2.3M", "is not an amount"),
            ("_5", "is not an amount"),
            ("5m", "which is no unit"),
            ("5 M", "which is no unit"),
            ("5T", "which is no unit"),
            ("0.1", "is not a whole number of tokens"),
            ("1.00005k", "is not a whole number of tokens"),
            ("0.0000000000001G", "is not a whole number of tokens"),
            ("18446744073709551616", "is too large"),
            ("18446744073.709551616G", "is too large"),
        ] {
            let error = parse_tokens(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("250ms", 250), ("90s", 90_000), ("1.5s", 1_500), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, says) in [
            ("90", "has no unit; write ms, s, m, h or d after the number"),
            ("90S", "which is no unit"),
            ("-1s", "is not an amount"),
            ("0.5ms", "is not a whole number of milliseconds"),
            ("999999999999999999d", "is too large"),
        ] {
            let error = parse_duration(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
