//! Numbers, times and names as plots show them.

/// Tokens: `0`, `900`, `1.5k`, `3.6M`, at most three digits after the point.
pub(super) fn amount(tokens: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (value, unit) = units
        .into_iter()
        .find(|(size, _)| tokens.abs() >= *size)
        .map_or((tokens, ""), |(size, unit)| (tokens / size, unit));
    format!("{}{unit}", trimmed(&format!("{value:.3}")))
}

/// Tokens in a sentence, three digits of them: `3.61M`.
pub(super) fn rough_amount(tokens: u64) -> String {
    let tokens = tokens as f64;
    let digits = if tokens < 1.0 { 0.0 } else { tokens.log10().floor() };
    let unit = 10_f64.powf((digits - 2.0).max(0.0));
    amount((tokens / unit).round() * unit)
}

/// A share as a percentage: `0 %`, `0.5 %`, `120 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", trimmed(&format!("{:.2}", share * 100.0)))
}

/// A plain number of an axis: `0`, `2.5`.
pub(super) fn plain(value: f64) -> String {
    trimmed(&format!("{value:.3}"))
}

/// A count with commas: `31,692`.
pub(super) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name in at most `room` characters, its end left out where it is longer.
pub(super) fn shortened(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.to_owned();
    }
    name.chars().take(room.saturating_sub(1)).chain(['\u{2026}']).collect()
}

fn trimmed(decimal: &str) -> String {
    let text = decimal.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// The unit of a time axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TimeUnit {
    /// Its name, plural.
    pub(super) name: &'static str,
    /// Its length.
    pub(super) seconds: f64,
}

impl TimeUnit {
    /// The unit for so many seconds: seconds to 3 min, minutes to 3 h, then hours.
    pub(super) fn of(span_seconds: u64) -> Self {
        match span_seconds {
            0..=180 => Self { name: "seconds", seconds: 1.0 },
            181..=10_800 => Self { name: "minutes", seconds: 60.0 },
            _ => Self { name: "hours", seconds: 3_600.0 },
        }
    }
}
