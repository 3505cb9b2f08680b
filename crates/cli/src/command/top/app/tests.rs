use ratatui::crossterm::event::KeyModifiers;
use tidegate_proto::v1::{LimitKey, WindowStatus};

use super::*;

/// A key whose generated window, of 1,000 to 4,000 TPM, has its limit at `limit` and `used` of it used.
pub(in super::super) fn key(account: &str, model: &str, used: u64, limit: u64) -> KeyLimits {
    let status = |window: Window, used_tokens, limit_tpm| WindowStatus {
        window: window.into(),
        limit_tpm,
        effective_limit_tpm: limit_tpm,
        floor_tpm: 1_000,
        ceiling_tpm: 4_000,
        used_tokens,
        remaining_tokens: limit_tpm.saturating_sub(used_tokens),
        ..WindowStatus::default()
    };
    KeyLimits {
        key: Some(LimitKey { account: account.into(), model: model.into(), variant: String::new() }),
        windows: vec![
            status(Window::Prompt, 10, 1_000),
            status(Window::UncachedPrompt, 5, 1_000),
            status(Window::Generated, used, limit),
        ],
        tier: "tier-1".into(),
        live_reservations: used / 100,
        denied_requests: used / 10,
        pressure_permille: (used >= 500).then_some(900),
        ..KeyLimits::default()
    }
}

pub(in super::super) fn connected(keys: Vec<KeyLimits>) -> App {
    let mut app = App::new("http://127.0.0.1:7438".to_owned());
    app.on_news(News::Connected);
    app.on_news(News::Limits(keys));
    app
}

fn press(app: &mut App, code: KeyCode) -> Asked {
    app.on_input(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn write(app: &mut App, text: &str) {
    for c in text.chars() {
        press(app, KeyCode::Char(c));
    }
}

fn accounts(app: &App, rows: usize) -> Vec<String> {
    app.view(rows).rows.iter().map(|key| tracked::name(&key.limits).0).collect()
}

fn three() -> App {
    connected(vec![key("a", "large", 100, 1_000), key("b", "small", 900, 1_000), key("c", "large", 500, 4_000)])
}

#[test]
fn the_fullest_key_is_first_and_changes_reorder() {
    let mut app = three();
    assert_eq!(accounts(&app, 10), ["b", "c", "a"]);
    app.on_news(News::Limits(vec![key("a", "large", 990, 1_000)]));
    assert_eq!(accounts(&app, 10), ["a", "b", "c"]);
    let view = app.view(10);
    assert_eq!((view.keys, view.at_ceiling, view.live), (3, 1, 9 + 9 + 5));
}

#[test]
fn every_column_sorts_both_ways() {
    let mut app = three();
    let mut seen = Vec::new();
    for _ in 0..Sort::ALL.len() {
        press(&mut app, KeyCode::Right);
        let order = accounts(&app, 10);
        press(&mut app, KeyCode::Char('r'));
        let reversed = accounts(&app, 10);
        seen.push((app.view(0).sort.name(), order.concat()));
        if !matches!(app.view(0).sort, Sort::Tier | Sort::Model | Sort::Window(_) | Sort::Position | Sort::Pressure) {
            assert_eq!(reversed.into_iter().rev().collect::<Vec<_>>(), order, "{}", app.view(0).sort.name());
        }
    }
    let says = |name: &str| seen.iter().find(|(column, _)| *column == name).map(|(_, order)| order.as_str());
    assert_eq!(says("headroom"), Some("bca"), "the least left first");
    assert_eq!(says("denied"), Some("bca"), "whom most is denied first");
    assert_eq!(says("pressure"), Some("bca"), "the busiest first, the unknown last");
    assert_eq!(says("account"), Some("abc"));
    assert_eq!(says("model"), Some("acb"));
    assert_eq!(says("floor..ceiling"), Some("cba"), "of equal places the fullest first");
    assert_eq!(says("use"), Some("bca"), "and all the way round");
    press(&mut app, KeyCode::Left);
    assert_eq!(app.view(0).sort, Sort::Live);
}

#[test]
fn a_filter_matches_account_or_model_until_it_is_cleared() {
    let mut app = three();
    press(&mut app, KeyCode::Char('/'));
    write(&mut app, "LARq");
    assert_eq!(accounts(&app, 10), [""; 0], "q is a letter while typing");
    press(&mut app, KeyCode::Backspace);
    assert_eq!(accounts(&app, 10), ["c", "a"]);
    press(&mut app, KeyCode::Enter);
    assert!(!app.view(0).typing);
    assert_eq!(app.view(0).filter, "LAR");
    press(&mut app, KeyCode::Esc);
    assert_eq!(accounts(&app, 10).len(), 3);
    press(&mut app, KeyCode::Char('/'));
    write(&mut app, &"x".repeat(1_000));
    assert_eq!(app.view(0).filter.len(), FILTER_CHARS);
}

#[test]
fn the_selection_stays_with_its_key_and_on_the_screen() {
    let mut app = connected((0..100).map(|n| key(&format!("a{n:02}"), "m", 1_000 - n, 1_000)).collect());
    let selected = |app: &App| {
        let view = app.view(10);
        let row = view.rows[view.selected.expect("one is selected")];
        tracked::name(&row.limits).0
    };
    assert_eq!(selected(&app), "a00");
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::PageDown);
    assert_eq!((selected(&app).as_str(), app.view(10).first), ("a11", 6));
    app.on_news(News::Limits(vec![key("a11", "m", 1, 1_000)]));
    assert_eq!((selected(&app).as_str(), app.view(10).first), ("a11", 90), "it fell to the end");
    press(&mut app, KeyCode::Home);
    press(&mut app, KeyCode::Up);
    assert_eq!(selected(&app), "a00");
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Down);
    assert_eq!(selected(&app), "a11");
    let mut empty = connected(Vec::new());
    press(&mut empty, KeyCode::Down);
    assert_eq!(empty.view(10).selected, None);
}

#[test]
fn a_pause_keeps_the_picture_and_catches_up() {
    let mut app = three();
    press(&mut app, KeyCode::Char('p'));
    for used in 0..1_000 {
        app.on_news(News::Limits(vec![key("a", "large", used, 1_000)]));
    }
    assert_eq!((accounts(&app, 10), app.waiting.len()), (vec!["b".into(), "c".into(), "a".into()], 1));
    press(&mut app, KeyCode::Char('p'));
    assert_eq!((accounts(&app, 10), app.waiting.len()), (vec!["a".into(), "b".into(), "c".into()], 0));
}

#[test]
fn a_lost_server_is_said_and_keys_that_it_no_longer_names_go() {
    let mut app = three();
    app.on_news(News::Lost("the server stopped".into()));
    for _ in 0..100 {
        app.on_second();
    }
    assert_eq!((app.view(0).lost, app.view(0).keys), (Some("the server stopped"), 3), "the last picture stays");
    app.on_news(News::Connected);
    app.on_news(News::Limits(vec![key("b", "small", 1, 1_000)]));
    assert_eq!((app.view(0).lost, app.view(0).keys), (None, 3));
    for _ in 0..SETTLED_AFTER {
        app.on_second();
    }
    assert_eq!(accounts(&app, 10), ["b"]);
}

#[test]
fn a_course_is_bounded() {
    let mut app = three();
    for _ in 0..10 * SAMPLE_EVERY * u64::from(tracked::COURSE_POINTS) {
        app.on_second();
    }
    let view = app.view(10);
    let course: Vec<_> = view.rows[1].course(Window::Generated).collect();
    assert_eq!(course, vec![1_000; usize::from(tracked::COURSE_POINTS)]);
}

#[test]
fn q_and_ctrl_c_quit_also_while_typing() {
    let mut app = three();
    assert_eq!(press(&mut app, KeyCode::Char('x')), Asked::Nothing);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Asked::Quit);
    press(&mut app, KeyCode::Char('/'));
    let ctrl_c = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert_eq!(app.on_input(ctrl_c), Asked::Quit);
}

#[test]
fn of_one_deployment_the_fullest_key_is_first_whenever_it_was_told() {
    let told = |account: &str, used, permille| {
        let limits = key(account, "large", used, 1_000);
        KeyLimits { pressure_permille: Some(permille), ..limits }
    };
    let mut app = connected(vec![told("a", 10, 1_305), told("b", 900, 1_301), told("c", 500, 1_303)]);
    app.sort_by(Sort::Pressure);
    assert_eq!(accounts(&app, 10), ["b", "c", "a"]);
}
