use super::*;

fn targets(text: &str) -> Result<Vec<ScrapeTarget>, Vec<String>> {
    let table = text.parse::<toml::Table>().expect("TOML");
    let mut root = Section::root(Some(&table));
    let mut problems = Problems::default();
    let targets = read(&mut root, &mut problems);
    root.finish(&mut problems);
    problems.into_result(targets).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_engine_is_enough() {
    let text = "[[pressure.scrape]]\nurl = \"http://10.0.0.5:8000/metrics\"\nmodel = \"large\"\nengine = \"vllm\"";
    let [target] = &targets(text).expect("right")[..] else { panic!("one target") };
    assert_eq!((target.url.host.as_str(), target.url.port, target.url.path.as_str()), ("10.0.0.5", 8_000, "/metrics"));
    assert_eq!((target.every, target.timeout, target.ttl), (DEFAULT_EVERY, DEFAULT_TIMEOUT, DEFAULT_TTL));
    assert_eq!((target.model.as_str(), target.variant.as_str(), target.gauges.len()), ("large", "", 2));
}

#[test]
fn a_gauge_of_the_file_takes_the_place_of_the_engine_s_and_others_are_added() {
    let text = r#"
        [[pressure.scrape]]
        url = "http://[::1]/m?x=1"
        model = "large"
        variant = "turbo"
        engine = "sglang"
        every = "60s"
        timeout = "30s"
        gauges = [
            { name = "sglang:token_usage", objective = 0.8 },
            { name = "slow", objective = 12, relative_to = "all" },
        ]"#;
    let [target] = &targets(text).expect("right")[..] else { panic!("one target") };
    assert_eq!((target.url.host.as_str(), target.url.port, target.url.path.as_str()), ("::1", 80, "/m?x=1"));
    assert_eq!(target.ttl, Duration::from_secs(90), "one scrape does not age before the next");
    let said: Vec<_> = target
        .gauges
        .iter()
        .map(|gauge| (gauge.names[0].as_str(), gauge.objective_millionths, gauge.relative_to.as_deref()))
        .collect();
    assert_eq!(
        said,
        [
            ("sglang:num_queue_reqs", 250_000, Some("sglang:num_running_reqs")),
            ("sglang:token_usage", 800_000, None),
            ("slow", 12_000_000, Some("all")),
        ]
    );
}

#[test]
fn everything_wrong_is_named() {
    let text = r#"
        [[pressure.scrape]]
        [[pressure.scrape]]
        url = "https://h/metrics"
        model = ""
        engine = "other"
        every = "1ms"
        timeout = "2m"
        ttl = "500ms"
        colour = "red"
        [[pressure.scrape]]
        url = "http://h/metrics"
        model = "m"
        ttl = "2s"
        gauges = [{ name = "a b", objective = 0 }, { name = "g" }]
        [[pressure.scrape]]
        url = "http://h/metrics"
        model = "m"
        engine = "vllm"
        [[pressure.scrape]]
        url = "http://h/metrics"
        model = "m"
        engine = "vllm""#;
    let problems = targets(text).expect_err("wrong").join("\n");
    for path in [
        "pressure.scrape[0].url: is required",
        "pressure.scrape[0].model: is required",
        "pressure.scrape[0].gauges: must name",
        "pressure.scrape[1].url: https",
        "pressure.scrape[1].model: ",
        "pressure.scrape[1].engine: `other`",
        "pressure.scrape[1].every: ",
        "pressure.scrape[1].timeout: ",
        "pressure.scrape[1].ttl: ",
        "pressure.scrape[1].colour: is not a setting",
        "pressure.scrape[2].ttl: must be at least",
        "pressure.scrape[2].gauges[0].name: ",
        "pressure.scrape[2].gauges[0].objective: ",
        "pressure.scrape[2].gauges[1].objective: is required",
        "pressure.scrape[4].url: is scraped",
    ] {
        assert!(problems.contains(path), "{path}\n\n{problems}");
    }
    let one = "[[pressure.scrape]]\nurl = \"http://h/m\"\nmodel = \"m\"\nengine = \"vllm\"\n";
    let many: String = (0..65).map(|n| one.replace("/m\"", &format!("/{n}\""))).collect();
    assert!(targets(&many).expect_err("one too many")[0].contains("at most 64"));
}

#[test]
fn only_plain_urls_are_taken() {
    for bad in ["h:1/metrics", "ftp://h/m", "http://", "http://u:p@h/m", "http://h:0/m", "http://h:70000/m", "/metrics"]
    {
        assert!(url(bad).is_err(), "{bad}");
    }
    assert!(url(&format!("http://h/{}", "x".repeat(240))).is_err());
    assert_eq!(url("http://engine.example:8000").map(|url| url.path), Ok("/".to_owned()));
}

#[test]
fn what_a_url_says_behind_its_question_mark_is_not_shown() {
    let text = r#"[[pressure.scrape]]
        url = "http://10.0.0.5:8000/metrics?token=hunter2"
        model = "large"
        engine = "vllm""#;
    let [target] = &targets(text).expect("right")[..] else { panic!("one target") };
    assert_eq!(target.url.to_string(), "http://10.0.0.5:8000/metrics?...");
    assert!(!format!("{:?}", target.url).contains("hunter2"), "{:?}", target.url);
    assert_eq!(target.url.path, "/metrics?token=hunter2", "but sent");
}
