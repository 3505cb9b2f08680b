//! The selected key, below the table.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::widgets::{Block, Borders, Cell, Row, Table};

use super::super::tracked::{self, COURSE_POINTS, Tracked};
use super::{course, track};
use crate::output::{grouped, printable};
use crate::words::{self, WINDOWS};

/// Its names in full and what has no column at 80 columns, in as few words as there.
pub(super) fn short_title(key: &Tracked) -> String {
    format!(
        " {}  tier {}, enforcement {}, {} live",
        names(key),
        printable(&key.limits.tier),
        words::enforcement(key.limits.enforcement),
        grouped(key.limits.live_reservations)
    )
}

fn names(key: &Tracked) -> String {
    let (account, model, variant) = tracked::name(&key.limits);
    let names = [account, model, variant].map(|name| printable(&name));
    names.join(" ").trim_end().to_owned()
}

/// Its names in full, with what is not of one window.
fn title(key: &Tracked) -> String {
    format!(
        " {}  tier {}, enforcement {}, {} denied a minute, {} live ",
        names(key),
        printable(&key.limits.tier),
        words::enforcement(key.limits.enforcement),
        grouped(key.limits.denied_requests),
        grouped(key.limits.live_reservations)
    )
}

/// The selected key: each window with its numbers, its place and its course.
pub(super) fn draw(frame: &mut Frame<'_>, key: &Tracked, area: Rect) {
    let mut columns = vec![("WINDOW", 15), ("LIMIT TPM", 13), ("USED", 13), ("HELD", 11), ("LEFT", 13)];
    let mut left = area.width.saturating_sub(columns.iter().map(|(_, width)| width + 1).sum());
    for extra in [("FLOOR", 13), ("CEILING", 13), ("FLOOR..CEIL", 12), ("LIMIT, 10 MIN", COURSE_POINTS)] {
        if left <= extra.1 {
            break;
        }
        left -= extra.1 + 1;
        columns.push(extra);
    }
    let header = columns.iter().map(|(name, width)| match *name {
        "WINDOW" | "FLOOR..CEIL" | "LIMIT, 10 MIN" => Cell::from(*name),
        _ => Cell::from(format!("{name:>width$}", width = usize::from(*width))),
    });
    let rows = WINDOWS.into_iter().filter_map(|window| tracked::status(&key.limits, window)).map(|status| {
        let cells = columns.iter().map(|(name, width)| {
            let number = |tokens| Cell::from(format!("{:>width$}", grouped(tokens), width = usize::from(*width)));
            match *name {
                "WINDOW" => Cell::from(words::window(status.window)),
                "LIMIT TPM" => number(status.effective_limit_tpm),
                "USED" => number(status.used_tokens),
                "HELD" => number(status.held_tokens),
                "LEFT" => number(status.remaining_tokens),
                "FLOOR" => number(status.floor_tpm),
                "CEILING" => number(status.ceiling_tpm),
                "FLOOR..CEIL" => track(status, *width).into(),
                _ => course(key, status.window(), usize::from(*width)).into(),
            }
        });
        Row::new(cells.collect::<Vec<_>>())
    });
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(rows.collect::<Vec<_>>(), widths).header(Row::new(header).style(Style::new().bold()));
    let block = Block::new().borders(Borders::TOP).title(title(key));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(table.column_spacing(1), inside);
}
