//! The state on a screen of any size. From 80 columns up each width shows what fits: live reservations, variant, tier,
//! floor..ceiling, course and longer bars come in that order; from 30 lines up there is a pane with the windows of the selected key.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Row, Table};
use tidegate_proto::v1::{Enforcement, KeyLimits, Window, WindowStatus};

use super::app::{App, Sort, View};
use super::tracked::{self, COURSE_POINTS, Tracked};
use crate::output::{grouped, printable};
use crate::words::{self, WINDOWS};

/// Lines that leave room for the pane.
const PANE_FROM: u16 = 30;
const PANE_LINES: u16 = 6;
/// `used/limit`, such as `999k/3.6M`.
const AMOUNTS: u16 = 9;
const SHORTEST_BAR: u16 = 4;
const LONGEST_BAR: u16 = 16;
const POSITION: u16 = 12;
const COURSE: u16 = 20;
const DENIED: u16 = 7;
const PRESSURE: u16 = 6;
const LIVE: u16 = 5;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let pane = if area.height >= PANE_FROM { PANE_LINES } else { 0 };
    let [title, status, table, detail, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(pane),
        Constraint::Length(1),
    ])
    .areas(area);
    // One line is the header's.
    let view = app.view(table.height.saturating_sub(1).into());
    frame.render_widget(title_line(&view), title);
    frame.render_widget(status_line(&view), status);
    draw_table(frame, &view, table);
    if let Some(key) = view.selected.and_then(|at| view.rows.get(at)).filter(|_| pane > 0) {
        draw_pane(frame, key, detail);
    }
    frame.render_widget(help_line(&view), help);
}

fn title_line<'a>(view: &View<'a>) -> Line<'a> {
    let mut line = Line::from(vec![" tidegate top ".reversed(), " ".into(), view.target.into(), "  ".into()]);
    line.push_span(match view.lost {
        None => "connected".green(),
        Some(why) => Span::from(format!("NOT CONNECTED: {}; trying again", printable(why))).red().bold(),
    });
    if view.shadow {
        line.push_span("  ");
        line.push_span(" ENFORCEMENT SHADOW ".red().bold().reversed());
    }
    if view.paused {
        line.push_span("  PAUSED".yellow().bold());
    }
    line
}

fn status_line<'a>(view: &View<'a>) -> Line<'a> {
    let noun = if view.keys == 1 { "key" } else { "keys" };
    let shown = if view.matching == view.keys {
        format!(" {} {noun}", grouped(view.keys as u64))
    } else {
        format!(" {} of {} {noun}", grouped(view.matching as u64), grouped(view.keys as u64))
    };
    let order = if view.descending { "▾" } else { "▴" };
    let text = format!(
        "{shown}, {} at ceiling, {} live, {} denied/min; by {} {order}",
        grouped(view.at_ceiling as u64),
        grouped(view.live),
        grouped(view.denied),
        view.sort.name()
    );
    let mut line = Line::from(text);
    if view.matching > view.rows.len() {
        line.push_span(format!("; rows {}-{}", view.first + 1, view.first + view.rows.len()));
    }
    if view.typing || !view.filter.is_empty() {
        let cursor = if view.typing { "_" } else { "" };
        line.push_span(Span::from(format!("  /{}{cursor}", printable(view.filter))).yellow());
    }
    line
}

fn help_line<'a>(view: &View<'_>) -> Line<'a> {
    let text = match view.typing {
        true => " type part of an account or model   Enter keep   Esc clear",
        false => " q quit  p pause  / filter  ←→ sort by  r reverse  ↑↓ select  Esc clear filter",
    };
    Line::from(text).style(Style::new().dim())
}

/// Which columns a width has room for, and how long bars are.
struct Columns {
    live: bool,
    variant: bool,
    tier: bool,
    position: bool,
    course: bool,
    bar: u16,
}

impl Columns {
    fn of(width: u16) -> Self {
        // What the columns that are always there take with the shortest bars: two names, three windows, denials, pressure.
        let mut left = width.saturating_sub(80);
        let mut room = |columns: u16| {
            let fits = left >= columns;
            left = if fits { left - columns } else { 0 };
            fits
        };
        let (live, variant, tier) = (room(6), room(9), room(12));
        let (position, course) = (room(POSITION + 1), room(COURSE + 1));
        // Half of the rest is for names.
        Self { live, variant, tier, position, course, bar: (SHORTEST_BAR + left / 6).min(LONGEST_BAR) }
    }
}

fn draw_table(frame: &mut Frame<'_>, view: &View<'_>, area: Rect) {
    let columns = Columns::of(area.width);
    let amount = Constraint::Length(columns.bar + 1 + AMOUNTS);
    let mut header = vec![head(view, "ACCOUNT", Sort::Account), head(view, "MODEL", Sort::Model)];
    let mut widths = vec![Constraint::Fill(1), Constraint::Fill(1)];
    let mut column = |wanted: bool, cell: Cell<'static>, width: Constraint| {
        if wanted {
            header.push(cell);
            widths.push(width);
        }
    };
    column(columns.variant, Cell::from("VARIANT"), Constraint::Length(8));
    column(columns.tier, head(view, "TIER", Sort::Tier), Constraint::Length(11));
    for (window, name) in WINDOWS.into_iter().zip(["PROMPT", "UNCACHED", "GENERATED"]) {
        column(true, head(view, name, Sort::Window(window)), amount);
    }
    column(columns.position, head(view, "FLOOR..CEIL", Sort::Position), Constraint::Length(POSITION));
    column(columns.course, Cell::from("LIMIT, 10 MIN"), Constraint::Length(COURSE));
    let mut numbers = |wanted: bool, sort: Sort, name: &'static str, width: u16| {
        // The arrow takes the place of the space before the name.
        let name = if view.sort == sort { name } else { &format!(" {name}") };
        column(wanted, head(view, name, sort), Constraint::Length(width));
    };
    numbers(true, Sort::Denied, "DENIED", DENIED);
    numbers(true, Sort::Pressure, "PRESS", PRESSURE);
    numbers(columns.live, Sort::Live, "LIVE", LIVE);
    let rows = view.rows.iter().enumerate().map(|(index, key)| {
        let row = Row::new(cells(key, &columns));
        if view.selected == Some(index) { row.style(Style::new().reversed()) } else { row }
    });
    let table = Table::new(rows, widths).header(Row::new(header).style(Style::new().bold())).column_spacing(1);
    frame.render_widget(table, area);
    if view.rows.is_empty() && area.height > 2 {
        let text = if view.keys == 0 { " No keys yet: nobody has asked." } else { " No account or model matches." };
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Line::from(text).style(Style::new().dim()), below);
    }
}

/// The header's cell, with an arrow where it is what the rows are sorted by.
fn head(view: &View<'_>, name: &str, sort: Sort) -> Cell<'static> {
    let arrow = match (view.sort == sort, view.descending) {
        (false, _) => "",
        (true, true) => "▾",
        (true, false) => "▴",
    };
    Cell::from(format!("{name}{arrow}"))
}

fn cells(key: &Tracked, columns: &Columns) -> Vec<Cell<'static>> {
    let (account, model, variant) = tracked::name(&key.limits);
    let mut cells = vec![Cell::from(printable(&account)), Cell::from(printable(&model))];
    if columns.variant {
        cells.push(printable(&variant).into());
    }
    if columns.tier {
        cells.push(printable(&key.limits.tier).into());
    }
    cells.extend(WINDOWS.map(|window| {
        tracked::status(&key.limits, window).map(|status| used(status, columns.bar).into()).unwrap_or_default()
    }));
    // Position and course are of the window that is fullest: the one that may grow next.
    let fullest = tracked::fullest(&key.limits);
    if columns.position {
        let place = fullest.map(|status| track(status, POSITION)).unwrap_or_default();
        cells.push(place.into());
    }
    if columns.course {
        let window = fullest.map_or(Window::Generated, WindowStatus::window);
        cells.push(course(key, window, COURSE.into()).into());
    }
    cells.push(denied(&key.limits).into());
    let pressure = key.limits.pressure_permille.map(|permille| format!("{}%", permille / 10)).unwrap_or_default();
    cells.push(format!("{pressure:>width$}", width = usize::from(PRESSURE)).into());
    if columns.live {
        let live = short(key.limits.live_reservations);
        cells.push(format!("{live:>width$}", width = usize::from(LIVE)).into());
    }
    cells
}

/// Requests denied in the trailing minute; `~` where they were let through in shadow.
fn denied(limits: &KeyLimits) -> Span<'static> {
    let shadow = limits.enforcement() == Enforcement::Shadow;
    let text = format!("{}{}", if shadow { "~" } else { "" }, short(limits.denied_requests));
    let span = Span::from(format!("{text:>width$}", width = usize::from(DENIED)));
    match (shadow, limits.denied_requests) {
        (true, _) => span.yellow(),
        (false, 0) => span,
        (false, _) => span.red(),
    }
}

fn used(status: &WindowStatus, bar_cells: u16) -> Line<'static> {
    let amounts = format!("{}/{}", short(status.used_tokens), short(status.effective_limit_tpm));
    let amounts = format!(" {amounts:>width$}", width = usize::from(AMOUNTS));
    let squeezed = status.effective_limit_tpm < status.limit_tpm;
    let amounts = match (squeezed, tracked::position(status)) {
        (true, _) => Span::from(amounts).yellow(),
        (false, Some(1_000)) => Span::from(amounts).magenta(),
        (false, _) => amounts.into(),
    };
    let mut spans = bar(status, bar_cells);
    spans.push(amounts);
    Line::from(spans)
}

/// Used, then held, of what is enforced.
fn bar(status: &WindowStatus, cells: u16) -> Vec<Span<'static>> {
    let share = tracked::use_permille(status);
    let color = match share {
        0..700 => Color::Green,
        700..900 => Color::Yellow,
        _ => Color::Red,
    };
    let cells = u64::from(cells);
    let of = |tokens: u64| {
        let eighths = u128::from(tokens) * u128::from(cells) * 8 / u128::from(status.effective_limit_tpm.max(1));
        u64::try_from(eighths).unwrap_or(u64::MAX).min(cells * 8)
    };
    // A little use is seen as a little.
    let eighths = if status.used_tokens > 0 { of(status.used_tokens).max(1) } else { 0 };
    let full = eighths / 8;
    let mut solid = "█".repeat(usize::try_from(full).unwrap_or_default());
    if let Some(part) = [None, Some('▏'), Some('▎'), Some('▍'), Some('▌'), Some('▋'), Some('▊'), Some('▉')]
        [usize::try_from(eighths % 8).unwrap_or_default()]
    {
        solid.push(part);
    }
    let taken = eighths.div_ceil(8);
    let held = of(status.used_tokens.saturating_add(status.held_tokens)).div_ceil(8).saturating_sub(taken);
    let count = |cells: u64| usize::try_from(cells).unwrap_or_default();
    vec![
        Span::from(solid).fg(color),
        Span::from("▒".repeat(count(held))).fg(color),
        Span::from("·".repeat(count(cells - taken - held))).dim(),
    ]
}

/// Where the limit stands between floor and ceiling.
fn track(status: &WindowStatus, cells: u16) -> Line<'static> {
    let Some(place) = tracked::position(status) else { return Line::from("fixed").style(Style::new().dim()) };
    let last = usize::from(cells.saturating_sub(1));
    let at = usize::try_from(place).unwrap_or_default() * last / 1_000;
    let mark = if place == 1_000 { "●".magenta().bold() } else { "●".cyan() };
    Line::from(vec!["─".repeat(at).dim(), mark, "─".repeat(last - at).dim()])
}

/// The last points of the course, from floor to ceiling, the newest on the right.
fn course(key: &Tracked, window: Window, points: usize) -> Line<'static> {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let skip = key.course(window).count().saturating_sub(points);
    let level = |place: u16| LEVELS[usize::from(place.min(1_000)) * (LEVELS.len() - 1) / 1_000];
    let text: String = key.course(window).skip(skip).map(level).collect();
    Line::from(format!("{text:>points$}")).style(Style::new().fg(Color::Cyan))
}

/// The selected key: each window with its numbers, its place and its course.
fn draw_pane(frame: &mut Frame<'_>, key: &Tracked, area: Rect) {
    let (account, model, variant) = tracked::name(&key.limits);
    let names = [account, model, variant].map(|name| printable(&name));
    let title = format!(
        " {}  tier {}, enforcement {}, {} denied a minute, {} live ",
        names.join(" ").trim_end(),
        printable(&key.limits.tier),
        words::enforcement(key.limits.enforcement),
        grouped(key.limits.denied_requests),
        grouped(key.limits.live_reservations)
    );
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
    let block = Block::new().borders(Borders::TOP).title(title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(table.column_spacing(1), inside);
}

/// `999`, `1.2k`, `36k`, `3.6M`: at most four characters up to 2^40, cut down.
fn short(number: u64) -> String {
    for (unit, suffix) in [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        let tenths = number / (unit / 10);
        match tenths {
            0..10 => {}
            10..100 if !tenths.is_multiple_of(10) => return format!("{}.{}{suffix}", tenths / 10, tenths % 10),
            _ => return format!("{}{suffix}", tenths / 10),
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests;
