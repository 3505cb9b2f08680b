//! The ledger of a fleet's allotments on Redis or Valkey: its scripts, and what goes in and comes out of them.
//!
//! What they do is `tidegate_core::fleet::Ledger`, next to the data, so that a report and what it is granted are one step for the
//! whole fleet. They use commands of Redis 6.2 and Valkey 7.2 on.

use tidegate_core::fleet::{Granted, Report};
use tidegate_core::window::{PerWindow, Window};

/// Takes in a report, and grants what can be. One key: the ledger of the limit key. Arguments: [`arguments`]; answer: [`granted`].
pub const REPORT: &str = include_str!("redis/report.lua");

/// Sets the limits of a limit key. One key: its ledger. Arguments: a version, and the limit of each window; answers 1, or 0 where the
/// version is not newer.
pub const LIMITS: &str = include_str!("redis/limits.lua");

/// The arguments of [`REPORT`].
#[must_use]
pub fn arguments(report: &Report<'_>) -> Vec<String> {
    let Report { incarnation, sequence, ttl_ms, needs, wants } = report;
    let mut arguments = vec![format!("{incarnation:016x}"), sequence.to_string(), ttl_ms.to_string()];
    arguments.extend(wants.iter().map(|(_, tokens)| tokens.to_string()));
    for (_, leaving) in needs.iter() {
        arguments.push(leaving.len().to_string());
        arguments.extend(leaving.iter().flat_map(|(seconds, tokens)| [seconds.to_string(), tokens.to_string()]));
    }
    arguments
}

/// What [`REPORT`] answered; `None` where that is no answer of it.
#[must_use]
pub fn granted(answer: &[i64]) -> Option<Granted> {
    let mut numbers = answer.iter().map(|number| u64::try_from(*number).ok());
    let (version, left_ms) = (numbers.next()??, numbers.next()??);
    let mut granted = Granted { version, left_ms, ..Granted::default() };
    for window in Window::ALL {
        granted.allotted[window] = numbers.next()??;
        granted.elsewhere[window] = numbers.next()??;
        granted.waiting[window] = numbers.next()??;
    }
    numbers.next().is_none().then_some(granted)
}

/// The arguments of [`LIMITS`].
#[must_use]
pub fn limits(version: u64, limits: &PerWindow<u64>) -> Vec<String> {
    let limits = limits.iter().map(|(_, tokens)| tokens.to_string());
    std::iter::once(version.to_string()).chain(limits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let answer = [3, 200, 1, 2, 0, 4, 5, 0, 7, 8, 1];
        let granted = granted(&answer).expect("an answer");
        assert_eq!((granted.version, granted.left_ms), (3, 200));
        assert_eq!(granted.allotted, PerWindow::new(1, 4, 7));
        assert_eq!(granted.elsewhere, PerWindow::new(2, 5, 8));
        assert_eq!(granted.waiting, PerWindow::new(0, 0, 1));
        assert_eq!(super::granted(&answer[..10]), None);
        assert_eq!(super::granted(&[&answer[..], &[1]].concat()), None);
        assert_eq!(super::granted(&answer.map(|number| number - 1)), None, "nothing is below zero");
    }
}
