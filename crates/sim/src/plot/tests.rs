use std::io::Cursor;

use tidegate_core::law::{Bounds, LawParams};
use tidegate_core::window::{PerWindow, Tokens};

use super::policies::{Frame, Labels, Policies};
use super::*;
use crate::report::PolicyReport;
use crate::run::{KeyOutcome, LimitCourse, Outcome, Record};
use crate::workload::{Arrival, KeyName};

/// A key that filled its window, was refused in both ways, and whose limits moved.
fn key_outcome(asked: u64) -> KeyOutcome {
    let seconds = 600;
    let record = Record {
        first_second: 3,
        held: (0..seconds).map(|second| Tokens::new(second * 10, second * 5, second)).collect(),
        limits: vec![(3, Tokens::new(4_000, 3_000, 500)), (300, Tokens::new(6_000, 3_000, 500))],
        rate_limited: vec![10, 10, 400],
        overloaded: vec![200, 500],
    };
    let course = LimitCourse { first: 4_000, last: 6_000, peak: 6_000 };
    KeyOutcome {
        asked: Tokens::new(asked, asked, asked),
        limit: PerWindow::new(course, course, LimitCourse { first: 500, last: 500, peak: 500 }),
        record: Some(record),
        ..KeyOutcome::default()
    }
}

fn policy(policy: &'static str, goodput: f64, overshoot: f64, keys: &[KeyOutcome]) -> PolicyReport {
    let outcome = Outcome {
        requests: 1,
        admitted: 1,
        tokens: Tokens::default(),
        tokens_denied: Tokens::default(),
        keys: keys.to_vec(),
        served: Vec::new(),
    };
    PolicyReport {
        policy,
        requests: 1,
        admitted: 1,
        denied: 0,
        goodput: Some(goodput),
        overshoot_p99: Some(overshoot),
        overshoot_max: Some(overshoot),
        overshoot_first: Some(overshoot),
        false_denials: None,
        windows: Vec::new(),
        outcome,
    }
}

fn report(limits: Limits, policies: Vec<PolicyReport>) -> Report {
    Report { trace: "some trace.csv.gz".to_owned(), limits, scale: 1.0, policies }
}

fn workload(keys: usize) -> Workload {
    let last = Arrival {
        at_ms: 600_000,
        key: 0,
        prompt_tokens: 1,
        uncached_prompt_tokens: 1,
        generated_tokens: 1,
        duration_ms: 1_000,
        max_generated_tokens: None,
    };
    let name = |index| KeyName { account: format!("../../{index}"), model: "m".to_owned() };
    Workload { keys: (0..keys).map(name).collect(), requests: vec![last] }
}

fn rules(keys: usize) -> Vec<KeyRules> {
    let bounds = PerWindow::new((4_000, 9_000), (3_000, 3_000), (500, 700));
    let bounds = bounds.map(|(floor, ceiling)| Bounds::new(floor, ceiling).expect("floor <= ceiling"));
    vec![KeyRules { bounds, law: LawParams::DEFAULT }; keys]
}

/// Red, green and blue of every pixel, and the picture's size.
fn decode(png: &[u8]) -> (Vec<[u8; 3]>, (u32, u32)) {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().expect("it is a PNG");
    let mut bytes = vec![0; reader.output_buffer_size().expect("it fits in memory")];
    let frame = reader.next_frame(&mut bytes).expect("it is whole");
    (bytes.as_chunks::<3>().0.to_vec(), (frame.width, frame.height))
}

#[test]
fn pictures_show_text_and_every_kind_of_mark() {
    let keys = [key_outcome(5)];
    let report = report(Limits::Adaptive, vec![policy("forecast", 0.9, 0.1, &keys)]);
    let (workload, rules) = (workload(1), rules(1));
    let record = keys[0].record.as_ref().expect("recorded");
    let course = |record| course::Course {
        report: &report,
        policy: "forecast",
        name: &workload.keys[0],
        rules: &rules[0],
        limit: &keys[0].limit,
        record,
        last_second: 600,
    };
    let (pixels, (width, height)) = decode(&canvas::png(&course(record)).expect("draws"));
    assert_eq!((width, height), (2_000, 1_760));
    let count = |pixels: &[[u8; 3]], color: [u8; 3]| pixels.iter().filter(|pixel| **pixel == color).count();
    let header = &pixels[..(width * 60) as usize];
    assert!(count(header, [0x26, 0x2b, 0x33]) > 100, "the title is written in ink");
    for (what, color) in [
        ("use", [0x1d, 0x4e, 0xd8]),
        ("limit", [0x11, 0x18, 0x27]),
        ("floor", [0x05, 0x96, 0x69]),
        ("ceiling", [0xd9, 0x77, 0x06]),
    ] {
        assert!(count(&pixels, color) > 500, "{what} is drawn");
    }
    // The legend has one of each kind of refusal; the lowest panel has them where they happened.
    let calm = Record { rate_limited: Vec::new(), overloaded: Vec::new(), ..record.clone() };
    let (calm, _) = decode(&canvas::png(&course(&calm)).expect("draws"));
    for color in [[0xdc, 0x26, 0x26], [0x7c, 0x3a, 0xed]] {
        assert!(count(&pixels, color) > count(&calm, color) + 30, "{color:x?}");
    }

    let svg = canvas::svg(&course(record)).expect("draws");
    for text in ["../../0, m", "429 (3)", "503 (2)", "some trace.csv.gz", "generated: tokens per minute"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn a_day_has_a_point_for_each_pixel() {
    let day = 86_400;
    let mut key = key_outcome(1);
    let record = key.record.insert(Record {
        held: (0..day).map(|second| Tokens::new(second % 97, 1, second)).collect(),
        limits: vec![(0, Tokens::new(4_000, 3_000, 500))],
        rate_limited: (0..day).collect(),
        ..Record::default()
    });
    let report = report(Limits::Adaptive, Vec::new());
    let course = course::Course {
        report: &report,
        policy: "forecast",
        name: &workload(1).keys[0],
        rules: &rules(1)[0],
        limit: &key.limit,
        record,
        last_second: day,
    };
    let svg = canvas::svg(&course).expect("draws");
    assert!(svg.contains("(mean, least and most of 96 s)") && svg.contains("429 (86,400)"));
    assert!(svg.contains("hours from the start of the trace"));
    assert!(svg.len() < 400_000, "{} bytes", svg.len());
}

#[test]
fn the_busiest_keys_come_first() {
    let mut keys: Vec<_> = [7, 100, 7, 300].map(key_outcome).to_vec();
    let mut rules = rules(4);
    // The same tokens fill more of smaller limits.
    rules[0] = KeyRules::fixed(&Tokens::new(4_000, 3_000, 1));
    keys[1].record = None;
    let report = report(Limits::Static, vec![policy("forecast", 0.9, 0.1, &keys)]);
    assert_eq!(busiest_keys(&report, &rules), [0, 3, 2], "and one without requests is none of them");
}

#[test]
fn traces_of_one_name_do_not_share_files() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let report = report(Limits::Static, vec![policy("forecast", 0.9, 0.1, &[key_outcome(1)])]);
    let mut plots = Plots::create(&folder.path().join("a/b")).expect("makes both");
    for _ in 0..2 {
        let mut drawn = 0;
        let written = plots.write(&report, &workload(1), &rules(1), |_| drawn += 1).expect("writes");
        assert_eq!((written, drawn), (Written { files: 4, keys_left_out: 0 }, 2));
    }
    let entries = fs::read_dir(folder.path().join("a/b")).expect("readable");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII")).collect();
    names.sort();
    let of = |stem: &str| {
        ["forecast.key-01.png", "forecast.key-01.svg", "policies.png", "policies.svg"]
            .map(|end| format!("{stem}.{end}"))
    };
    assert_eq!(names, [of("some-trace-2"), of("some-trace")].concat());
}

#[test]
fn names_of_traces_do_not_choose_the_folder() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut plots = Plots::create(folder.path()).expect("is there");
    for (trace, stem) in [
        ("day.csv.gz", "day"),
        ("day.csv", "day-2"),
        ("../../etc/x.csv", "-..-etc-x"),
        ("..", "trace"),
        ("", "trace-2"),
        ("a b\n\u{fc}.gz", "a-b--"),
        (&"x".repeat(300), &"x".repeat(100)),
    ] {
        assert_eq!(plots.free_stem(trace), stem, "{trace}");
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // A folder stands where the file should go.
    fs::create_dir(folder.path().join("some-trace.policies.svg")).expect("makes it");
    let mut plots = Plots::create(folder.path()).expect("is there");
    let report = report(Limits::Static, vec![policy("forecast", 0.9, 0.1, &[])]);
    let error = plots.write(&report, &workload(0), &[], |_| ()).expect_err("cannot be replaced").to_string();
    assert!(error.contains("some-trace.policies.svg"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    let file = folder.path().join("file");
    fs::write(&file, "").expect("writes");
    assert!(Plots::create(&file).expect_err("is a file").to_string().contains("file"));
}

#[test]
fn labels_of_equal_points_keep_apart() {
    let sheet = Frame { left: 50, top: 20, right: 800, bottom: 500 };
    let mut labels = Labels::default();
    let mut placed = Vec::new();
    for _ in 0..8 {
        let label = labels.place((60, 30), (120, 18), 12, &sheet);
        assert!(label.left >= sheet.left && label.top >= sheet.top, "{label:?}");
        assert!(!placed.iter().any(|other: &Frame| other.meets(&label)), "{label:?} among {placed:?}");
        placed.push(label);
    }
}

#[test]
fn policies_are_named_where_they_stand() {
    let names = ["oracle", "max-tokens", "fixed-1024", "charge-after", "plain-sum", "forecast"];
    let policies = names.map(|name| policy(name, 1.0, 0.0, &[])).to_vec();
    let svg = canvas::svg(&Policies { report: &report(Limits::Static, policies) }).expect("draws");
    for name in names {
        assert!(svg.contains(&format!("{name} 100 %")), "{name}");
    }
    let huge = vec![policy("charge-after", 1.3, 700.0, &[])];
    canvas::png(&Policies { report: &report(Limits::Static, huge) }).expect("draws whatever the numbers");
}

#[test]
fn numbers_are_short() {
    for (tokens, text) in [(0.0, "0"), (950.0, "950"), (1_500.0, "1.5k"), (3_600_000.0, "3.6M"), (2e9, "2G")] {
        assert_eq!(words::amount(tokens), text);
    }
    for (tokens, text) in [(0, "0"), (7, "7"), (999, "999"), (36_049, "36k"), (3_614_999, "3.61M")] {
        assert_eq!(words::rough_amount(tokens), text);
    }
    for (share, text) in [(0.0, "0 %"), (0.005, "0.5 %"), (1.2, "120 %")] {
        assert_eq!(words::percent(share), text);
    }
    assert_eq!((words::count(31_692), words::count(999)), ("31,692".to_owned(), "999".to_owned()));
    assert_eq!((words::shortened("abc", 3), words::shortened("abcd", 3)), ("abc".to_owned(), "ab\u{2026}".to_owned()));
}
