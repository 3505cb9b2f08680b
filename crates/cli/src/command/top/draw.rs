//! The state on a screen of any size. From 80 columns up each width shows what fits: live reservations, variant, tier, names
//! in full, floor..ceiling, course and longer bars come in that order; from 16 lines up there is the selected key's name, from
//! 30 up a pane with its windows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};
use tidegate_proto::v1::{Enforcement, KeyLimits, Window, WindowStatus};

use super::app::{App, Sort, View};
use super::tracked::{self, Tracked};
use crate::output::{grouped, printable};
use crate::words::WINDOWS;

mod names;
mod pane;

/// Lines that leave room for the pane, and for its first line alone.
const PANE_FROM: u16 = 30;
const PANE_LINES: u16 = 6;
const PANE_TITLE_FROM: u16 = 16;
/// `used/limit`, such as `999k/3.6M`.
const AMOUNTS: u16 = 9;
/// What 80 columns leave for account and model.
const NAMES: u16 = 19;
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
    let pane = match area.height {
        PANE_FROM.. => PANE_LINES,
        PANE_TITLE_FROM.. => 1,
        _ => 0,
    };
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
        if pane == 1 {
            frame.render_widget(Line::from(pane::short_title(key)).dim(), detail);
        } else {
            pane::draw(frame, key, detail);
        }
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
    account: usize,
    model: usize,
    live: bool,
    variant: bool,
    tier: bool,
    position: bool,
    course: bool,
    bar: u16,
}

impl Columns {
    fn of(width: u16, needed: (usize, usize)) -> Self {
        // What the columns that are always there take with the shortest bars: names, three windows, denials, pressure.
        let mut left = width.saturating_sub(80);
        let (live, variant, tier) = (room(&mut left, 6), room(&mut left, 9), room(&mut left, 12));
        let missing = u16::try_from((needed.0 + needed.1).saturating_sub(NAMES.into())).unwrap_or(u16::MAX).min(left);
        left -= missing;
        let (position, course) = (room(&mut left, POSITION + 1), room(&mut left, COURSE + 1));
        // Half of the rest is for names.
        let bar = (SHORTEST_BAR + left / 6).min(LONGEST_BAR);
        let spare = left - 3 * (bar - SHORTEST_BAR);
        let (account, model) =
            names::share((NAMES + missing + spare).saturating_sub(80_u16.saturating_sub(width)).into(), needed);
        Self { account, model, live, variant, tier, position, course, bar }
    }
}

/// Takes `columns` out of what is `left`; where they do not fit, nothing comes after them either.
fn room(left: &mut u16, columns: u16) -> bool {
    let rest = left.checked_sub(columns);
    *left = rest.unwrap_or_default();
    rest.is_some()
}

fn draw_table(frame: &mut Frame<'_>, view: &View<'_>, area: Rect) {
    let columns = Columns::of(area.width, names::needed(view));
    let amount = Constraint::Length(columns.bar + 1 + AMOUNTS);
    let mut header = vec![head(view, "ACCOUNT", Sort::Account), head(view, "MODEL", Sort::Model)];
    let mut widths =
        [columns.account, columns.model].map(|width| Constraint::Length(width.try_into().unwrap_or(u16::MAX))).to_vec();
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
    let mut cells = vec![Cell::from(names::fit(&account, columns.account)), names::fit(&model, columns.model).into()];
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
