use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::app::News;
use super::super::app::tests::{connected, key};
use super::*;

fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    terminal.draw(|frame| draw(frame, app)).expect("in memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn busy() -> App {
    let mut held = key("initech", "small", 300, 1_000);
    held.windows[2].held_tokens = 400;
    held.windows[0].effective_limit_tpm = 500;
    connected(vec![key("acme", "large", 950, 1_000), key("globex", "large", 2_000, 4_000), held])
}

#[test]
fn at_80_by_24_names_windows_denials_and_pressure_fit() {
    let lines = screen(&busy(), 80, 24);
    let expected = [
        " tidegate top  http://127.0.0.1:7438  connected",
        " 3 keys, 1 at ceiling, 32 live, 325 denied/min; by use ▾",
        "ACCOUNT    MODEL     PROMPT         UNCACHED       GENERATED       DENIED  PRESS",
        "acme       large     ▏···     10/1k ▏···      5/1k ███▊    950/1k      95    90%",
        "globex     large     ▏···     10/1k ▏···      5/1k ██··     2k/4k     200    90%",
        "initech    small     ▏···    10/500 ▏···      5/1k █▏▒·    300/1k      30",
    ];
    assert_eq!(lines[..6], expected, "{lines:#?}");
    assert_eq!(lines[6..22].concat(), "");
    assert_eq!(lines[22], " acme large  tier tier-1, enforcement inherit, 9 live");
    assert!(lines[23].contains("q quit") && lines[23].contains("/ filter"), "{}", lines[23]);
}

#[test]
fn at_200_by_50_everything_is_there_and_the_selected_key_in_full() {
    let lines = screen(&busy(), 200, 50);
    for name in [
        "ACCOUNT",
        "VARIANT",
        "TIER",
        "PROMPT",
        "UNCACHED",
        "GENERATED",
        "FLOOR..CEIL",
        "LIMIT, 10 MIN",
        "DENIED",
        "PRESS",
        "LIVE",
    ] {
        assert!(lines[2].contains(name), "{name}: {}", lines[2]);
    }
    assert!(lines[4].contains("───────────●") && lines[4].contains('█'), "at its ceiling: {}", lines[4]);
    assert!(
        lines[43].contains(" acme large  tier tier-1, enforcement inherit, 95 denied a minute, 9 live "),
        "{lines:#?}"
    );
    assert!(lines[47].starts_with("generated") && lines[47].contains("950"), "{lines:#?}");
    assert!(lines[44].contains("CEILING"), "{}", lines[44]);
}

#[test]
fn shadow_is_said_on_top_and_at_each_key_that_is_in_it() {
    let mut app = busy();
    let mut spared = key("spared", "m", 20, 1_000);
    spared.set_enforcement(Enforcement::Shadow);
    app.on_news(News::Shadow(true));
    app.on_news(News::Limits(vec![spared]));
    let lines = screen(&app, 80, 24);
    assert!(lines[0].ends_with("connected   ENFORCEMENT SHADOW"), "{}", lines[0]);
    assert!(lines[6].starts_with("spared") && lines[6].ends_with("~2"), "{lines:#?}");
    app.on_news(News::Shadow(false));
    assert!(!screen(&app, 80, 24)[0].contains("SHADOW"));
}

#[test]
fn what_is_wrong_is_said_on_top() {
    let mut app = busy();
    app.on_news(News::Lost("the server\u{1b}stopped".into()));
    let lines = screen(&app, 80, 24);
    assert!(lines[0].contains("NOT CONNECTED: the server\\u{1b}stopped"), "{}", lines[0]);
    let lines = screen(&connected(Vec::new()), 80, 24);
    assert_eq!(lines[3], " No keys yet: nobody has asked.");
}

#[test]
fn no_size_and_no_number_breaks_it() {
    let mut app = busy();
    let mut huge = key(&"\u{1f600}".repeat(64), "\u{1b}[31m", u64::MAX, u64::MAX);
    huge.windows.iter_mut().for_each(|status| status.held_tokens = u64::MAX);
    let mut none = key("none", "m", u64::MAX, 0);
    none.windows[0].floor_tpm = 9_000;
    app.on_news(News::Limits(vec![huge, none, Default::default()]));
    for (width, height) in [(1, 1), (2, 50), (20, 5), (79, 24), (120, 30), (500, 3), (500, 200)] {
        screen(&app, width, height);
    }
}

#[test]
fn amounts_are_short() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (1_250, "1.2k"),
        (36_000, "36k"),
        (999_999, "999k"),
        (3_600_000, "3.6M"),
        (1 << 40, "1T"),
    ] {
        assert_eq!(short(number), text);
    }
}

#[test]
fn of_long_models_the_end_is_seen_at_80_columns_and_all_of_it_where_there_is_room() {
    let app = connected(vec![key("a", "some-model-4-5-20251101", 900, 1_000), key("a", "some-model-4-6", 5, 1_000)]);
    let lines = screen(&app, 80, 24);
    assert!(lines[3].starts_with("a        some-…51101 ") && lines[4].contains("some-…l-4-6 "), "{lines:#?}");
    assert!(lines[22].contains("some-model-4-5-20251101"), "the selected one in full: {}", lines[22]);
    let lines = screen(&app, 200, 50);
    assert!(lines[3].contains("some-model-4-5-20251101 "), "{}", lines[3]);
}
