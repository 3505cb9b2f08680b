//! The state behind the screen: news and keystrokes in, what to show out. Knows no terminal and no clock.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tidegate_proto::v1::{KeyLimits, LimitKey, Window};

use super::tracked::{self, Name, Tracked};

/// Seconds between two points of a key's course.
const SAMPLE_EVERY: u64 = 10;
/// Seconds after a reconnection in which the server has named all of its keys; those it has not are gone.
const SETTLED_AFTER: u64 = 10;
/// Characters that a filter may have.
const FILTER_CHARS: usize = 64;

/// What the server says, or that it no longer does.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// A watch has begun: all keys follow.
    Connected,
    /// Whether the global switch is in shadow.
    Shadow(bool),
    /// Keys that changed.
    Limits(Vec<KeyLimits>),
    /// The watch broke off, and why; it is tried again.
    Lost(String),
}

/// What the loop around the state has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Quit,
}

/// What the keys are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// The share used of the fullest window.
    Use,
    Account,
    Model,
    Tier,
    Window(Window),
    /// What is left in the window with the least left.
    Headroom,
    /// The highest place of a limit between floor and ceiling.
    Position,
    /// Requests denied in the trailing minute.
    Denied,
    /// How busy its deployment is.
    Pressure,
    Live,
}

impl Sort {
    const ALL: [Self; 12] = [
        Self::Use,
        Self::Headroom,
        Self::Denied,
        Self::Pressure,
        Self::Account,
        Self::Model,
        Self::Tier,
        Self::Window(Window::Prompt),
        Self::Window(Window::UncachedPrompt),
        Self::Window(Window::Generated),
        Self::Position,
        Self::Live,
    ];

    /// Its name on the screen.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Headroom => "headroom",
            Self::Account => "account",
            Self::Model => "model",
            Self::Tier => "tier",
            Self::Window(Window::Prompt) => "prompt",
            Self::Window(Window::UncachedPrompt) => "uncached",
            Self::Window(_) => "generated",
            Self::Position => "floor..ceiling",
            Self::Denied => "denied",
            Self::Pressure => "pressure",
            Self::Live => "live",
        }
    }

    /// Whether the largest, or the last, come first unless reversed: what needs a look is on top.
    const fn starts_descending(self) -> bool {
        !matches!(self, Self::Account | Self::Model | Self::Tier | Self::Headroom)
    }

    fn next(self, step: usize) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(at + step) % Self::ALL.len()]
    }

    fn compare(self, a: &KeyLimits, b: &KeyLimits) -> Ordering {
        let share = |limits: &KeyLimits, window| tracked::status(limits, window).map(tracked::use_permille);
        let highest = |limits: &KeyLimits| limits.windows.iter().filter_map(tracked::position).max();
        let percent = |limits: &KeyLimits| limits.pressure_permille.map(|permille| permille / 10);
        match self {
            Self::Use => {
                let fullest = |limits: &KeyLimits| tracked::fullest(limits).map(tracked::use_permille);
                fullest(a).cmp(&fullest(b))
            }
            Self::Headroom => tracked::headroom(a).cmp(&tracked::headroom(b)),
            Self::Account => part(a, |key| &key.account).cmp(&part(b, |key| &key.account)),
            Self::Model => part(a, |key| &key.model).cmp(&part(b, |key| &key.model)),
            Self::Tier => a.tier.cmp(&b.tier),
            Self::Window(window) => share(a, window).cmp(&share(b, window)),
            Self::Position => highest(a).cmp(&highest(b)),
            Self::Denied => a.denied_requests.cmp(&b.denied_requests),
            // As it is shown: keys of one deployment, told at different times, differ by a permille.
            Self::Pressure => percent(a).cmp(&percent(b)),
            Self::Live => a.live_reservations.cmp(&b.live_reservations),
        }
    }
}

fn part(limits: &KeyLimits, part: impl FnOnce(&LimitKey) -> &String) -> Option<&str> {
    limits.key.as_ref().map(|key| part(key).as_str())
}

fn widest(keys: &[&Tracked], name: impl Fn(&LimitKey) -> &String) -> usize {
    keys.iter().filter_map(|key| part(&key.limits, &name)).map(|name| name.chars().count()).max().unwrap_or_default()
}

/// Everything that the screen shows.
#[derive(Debug)]
pub(super) struct App {
    target: String,
    keys: BTreeMap<Name, Tracked>,
    /// What came while paused: the newest state of each key.
    waiting: BTreeMap<Name, KeyLimits>,
    paused: bool,
    sort: Sort,
    descending: bool,
    filter: String,
    typing: bool,
    selected: Option<Name>,
    /// Why the server is not heard; `None` while it is.
    lost: Option<String>,
    /// Whether the global switch is in shadow.
    shadow: bool,
    /// Counts connections.
    connection: u64,
    connected_for: u64,
    seconds: u64,
}

/// What to show: the rows that fit, and what stands around them.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) target: &'a str,
    pub(super) rows: Vec<&'a Tracked>,
    /// Index of the selected one among `rows`.
    pub(super) selected: Option<usize>,
    /// Index of the first of `rows` among those that match.
    pub(super) first: usize,
    pub(super) matching: usize,
    /// Characters of the longest account and of the longest model among those that match.
    pub(super) widest: (usize, usize),
    pub(super) keys: usize,
    pub(super) at_ceiling: usize,
    pub(super) live: u64,
    /// Requests denied in the trailing minute by the keys that match, in shadow too.
    pub(super) denied: u64,
    pub(super) shadow: bool,
    pub(super) sort: Sort,
    pub(super) descending: bool,
    pub(super) filter: &'a str,
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) lost: Option<&'a str>,
}

impl App {
    /// Nothing known yet of the server at `target`.
    pub(super) fn new(target: String) -> Self {
        Self {
            target,
            keys: BTreeMap::new(),
            waiting: BTreeMap::new(),
            paused: false,
            sort: Sort::Use,
            descending: true,
            filter: String::new(),
            typing: false,
            selected: None,
            lost: None,
            shadow: false,
            connection: 0,
            connected_for: 0,
            seconds: 0,
        }
    }

    /// The server said something, or went away.
    pub(super) fn on_news(&mut self, news: News) {
        match news {
            News::Connected => {
                self.lost = None;
                self.connection += 1;
                self.connected_for = 0;
            }
            News::Lost(why) => self.lost = Some(why),
            News::Shadow(shadow) => self.shadow = shadow,
            News::Limits(limits) if self.paused => {
                self.waiting.extend(limits.into_iter().map(|limits| (tracked::name(&limits), limits)));
            }
            News::Limits(limits) => limits.into_iter().for_each(|limits| self.put(limits)),
        }
    }

    /// A second went by.
    pub(super) fn on_second(&mut self) -> Asked {
        self.seconds += 1;
        if self.paused {
            return Asked::Nothing;
        }
        if self.seconds.is_multiple_of(SAMPLE_EVERY) {
            self.keys.values_mut().for_each(Tracked::sample);
        }
        if self.lost.is_none() {
            self.connected_for += 1;
            if self.connected_for == SETTLED_AFTER {
                self.keys.retain(|_, key| key.connection == self.connection);
            }
        }
        Asked::Nothing
    }

    /// A key was pressed, or the terminal changed its size.
    pub(super) fn on_input(&mut self, event: Event) -> Asked {
        let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event
        else {
            return Asked::Nothing;
        };
        if code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            return Asked::Quit;
        }
        if self.typing {
            self.on_typed(code);
            return Asked::Nothing;
        }
        match code {
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('r') => self.descending = !self.descending,
            KeyCode::Right | KeyCode::Char('>') => self.sort_by(self.sort.next(1)),
            KeyCode::Left | KeyCode::Char('<') => self.sort_by(self.sort.next(Sort::ALL.len() - 1)),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, _| at + 1),
            KeyCode::PageUp => self.select(|at, _| at.saturating_sub(10)),
            KeyCode::PageDown => self.select(|at, _| at + 10),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, rows| rows),
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        Asked::Nothing
    }

    /// What to show where `rows` rows fit. The selected one is always among them.
    pub(super) fn view(&self, rows: usize) -> View<'_> {
        let matching = self.matching();
        let selected = self.selected_index(&matching);
        let first = selected.saturating_sub(rows / 2).min(matching.len().saturating_sub(rows));
        View {
            target: &self.target,
            rows: matching.iter().skip(first).take(rows).copied().collect(),
            selected: (!matching.is_empty()).then(|| selected - first),
            first,
            matching: matching.len(),
            widest: (widest(&matching, |key| &key.account), widest(&matching, |key| &key.model)),
            keys: self.keys.len(),
            at_ceiling: matching.iter().filter(|key| tracked::at_ceiling(&key.limits)).count(),
            denied: matching.iter().map(|key| key.limits.denied_requests).fold(0, u64::saturating_add),
            shadow: self.shadow,
            live: matching.iter().map(|key| key.limits.live_reservations).sum(),
            sort: self.sort,
            descending: self.descending,
            filter: &self.filter,
            typing: self.typing,
            paused: self.paused,
            lost: self.lost.as_deref(),
        }
    }

    fn put(&mut self, limits: KeyLimits) {
        let key = self.keys.entry(tracked::name(&limits)).or_default();
        let fresh = key.connection == 0;
        key.limits = limits;
        key.connection = self.connection;
        if fresh {
            key.sample();
        }
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        if !self.paused {
            std::mem::take(&mut self.waiting).into_values().for_each(|limits| self.put(limits));
        }
    }

    fn on_typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER_CHARS => self.filter.push(c),
            _ => {}
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.descending = sort.starts_descending();
    }

    /// The keys whose account or model contain the filter, whatever the case, in order.
    fn matching(&self) -> Vec<&Tracked> {
        let filter = self.filter.to_lowercase();
        let wanted = |name: &Name| [&name.0, &name.1].iter().any(|part| part.to_lowercase().contains(&filter));
        let mut keys: Vec<_> = self.keys.iter().filter(|(name, _)| wanted(name)).map(|(_, key)| key).collect();
        // Of the many keys with the same pressure or no denial, the fullest need a look; names that are equal are no such crowd.
        let named = matches!(self.sort, Sort::Account | Sort::Model);
        let fullest =
            |a: &Tracked, b: &Tracked| if named { Ordering::Equal } else { Sort::Use.compare(&b.limits, &a.limits) };
        // Stable: equal ones stay in the order of their names.
        keys.sort_by(|a, b| {
            let order = self.sort.compare(&a.limits, &b.limits);
            let order = if self.descending { order.reverse() } else { order };
            order.then_with(|| fullest(a, b))
        });
        keys
    }

    /// Where the selected key stands; the first one where none was selected or it no longer matches.
    fn selected_index(&self, matching: &[&Tracked]) -> usize {
        let Some((account, model, variant)) = &self.selected else { return 0 };
        let is = |key: &LimitKey| key.account == *account && key.model == *model && key.variant == *variant;
        matching.iter().position(|key| key.limits.key.as_ref().is_some_and(is)).unwrap_or_default()
    }

    fn select(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let matching = self.matching();
        let Some(last) = matching.len().checked_sub(1) else { return };
        let at = to(self.selected_index(&matching), last).min(last);
        self.selected = Some(tracked::name(&matching[at].limits));
    }
}

#[cfg(test)]
pub(super) mod tests;
