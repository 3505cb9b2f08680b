//! A limit key as `top` follows it: its last state, and the recent course of its limits.

use std::collections::VecDeque;

use tidegate_proto::v1::{KeyLimits, LimitKey, Window, WindowStatus};

use crate::words::WINDOWS;

/// Points of a course, one each 10 s: the ten minutes in which a busy limit doubles.
pub(super) const COURSE_POINTS: u16 = 60;

/// Orders keys as the server does.
pub(super) type Name = (String, String, String);

/// A key.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracked {
    /// What the server said last.
    pub(super) limits: KeyLimits,
    /// Which connection said it.
    pub(super) connection: u64,
    /// Where each limit stood between floor and ceiling, permille, the newest last.
    course: VecDeque<[u16; WINDOWS.len()]>,
}

/// Account, model and variant.
pub(super) fn name(limits: &KeyLimits) -> Name {
    let LimitKey { account, model, variant } = limits.key.clone().unwrap_or_default();
    (account, model, variant)
}

/// The status of a window, if the key has it.
pub(super) fn status(limits: &KeyLimits, window: Window) -> Option<&WindowStatus> {
    limits.windows.iter().find(|status| status.window() == window)
}

/// Used, permille of what is enforced; above 1000 in debt.
pub(super) fn use_permille(status: &WindowStatus) -> u64 {
    permille(status.used_tokens, status.effective_limit_tpm)
}

/// The window with the largest share used; of equal ones, the last.
pub(super) fn fullest(limits: &KeyLimits) -> Option<&WindowStatus> {
    limits.windows.iter().max_by_key(|status| use_permille(status))
}

/// Where the limit stands between floor and ceiling, permille; `None` where it cannot move.
pub(super) fn position(status: &WindowStatus) -> Option<u64> {
    let room = status.ceiling_tpm.checked_sub(status.floor_tpm).filter(|room| *room > 0)?;
    Some(permille(status.limit_tpm.saturating_sub(status.floor_tpm), room).min(1_000))
}

/// Whether a limit cannot grow any more.
pub(super) fn at_ceiling(limits: &KeyLimits) -> bool {
    limits.windows.iter().any(|status| position(status) == Some(1_000))
}

/// What is left in the window with the least left, permille of what is enforced there.
pub(super) fn headroom(limits: &KeyLimits) -> u64 {
    let left = |status: &WindowStatus| permille(status.remaining_tokens, status.effective_limit_tpm);
    limits.windows.iter().map(left).min().unwrap_or(1_000)
}

fn permille(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1_000 / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl Tracked {
    /// A point of the course, where the limits stand now.
    pub(super) fn sample(&mut self) {
        let point = WINDOWS.map(|window| {
            let position = status(&self.limits, window).and_then(position).unwrap_or_default();
            u16::try_from(position).unwrap_or(1_000)
        });
        if self.course.len() >= usize::from(COURSE_POINTS) {
            self.course.pop_front();
        }
        self.course.push_back(point);
    }

    /// Where the limit of `window` stood, permille, the newest last.
    pub(super) fn course(&self, window: Window) -> impl Iterator<Item = u16> {
        let index = WINDOWS.iter().position(|known| *known == window).unwrap_or_default();
        self.course.iter().map(move |point| point[index])
    }
}
