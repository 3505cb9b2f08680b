//! Accounts and models in the room that the other columns leave them.

use super::super::app::View;
use crate::output::printable;

/// The headings, with the arrow of the sorting.
const ACCOUNT: usize = 8;
const MODEL: usize = 6;

/// Columns that the longest account and the longest model take.
pub(super) fn needed(view: &View<'_>) -> (usize, usize) {
    (view.widest.0.max(ACCOUNT), view.widest.1.max(MODEL))
}

/// Shares `room` columns between accounts and models. What one does not need the other has; where both need more than half,
/// each has half.
pub(super) fn share(room: usize, (account, model): (usize, usize)) -> (usize, usize) {
    let half = room / 2;
    let account = match room.checked_sub(account + model) {
        Some(spare) => account + spare / 2,
        None if account <= half => account,
        None => room - model.min(half),
    };
    (account, room - account)
}

/// `name` in at most `columns`: of a longer one its start and its end, as models often differ in their last characters alone.
pub(super) fn fit(name: &str, columns: usize) -> String {
    let name = printable(name);
    let length = name.chars().count();
    if length <= columns {
        return name;
    }
    let kept = columns.saturating_sub(1);
    let start = name.chars().take(kept / 2);
    start.chain(['…']).chain(name.chars().skip(length - kept.div_ceil(2))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_name_does_not_need_the_other_has() {
        for (room, needed, shared) in [
            (19, (8, 6), (10, 9)),
            (19, (8, 24), (8, 11)),
            (19, (24, 6), (13, 6)),
            (19, (24, 24), (10, 9)),
            (40, (8, 24), (12, 28)),
        ] {
            assert_eq!(share(room, needed), shared, "{room} for {needed:?}");
        }
    }

    #[test]
    fn of_a_long_name_start_and_end_are_seen() {
        assert_eq!(fit("large", 5), "large");
        assert_eq!(fit("assistant-large-20251101", 11), "assis…51101");
        assert_eq!(fit("größer-als-das", 6), "gr…das");
        assert_eq!((fit("large", 1), fit("large", 2)), ("…".to_owned(), "…e".to_owned()));
    }
}
