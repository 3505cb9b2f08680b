//! What is compared with what, and what must come out.

use super::Failure;
use super::figure::{Bar, Figure};
use super::side::{Side, Subject};

/// Keys that are all hot.
const HOT: &str = "--keys 64";
/// More keys than caches hold.
const MANY: &str = "--keys 1M";
/// Names nearly all of [`MANY`] before a turn.
const TOUCH: &str = "--keys 1M --call batch --batch 256 --streams 4 --view decision --warm-up 1ms --duration 2500ms";

/// Shapes of a load: connections and streams on each.
const FOUR: &str = "--connections 4 --streams 32";
const MANY_CONNECTIONS: &str = "--connections 64 --streams 1";
/// As many calls in flight as a pipeline may have, over as many connections as [`FOUR`] has.
const PIPELINE: &str = "--call pipeline --connections 4 --in-flight 256";

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) ours: Side,
    pub(super) theirs: Side,
    pub(super) figure: Figure,
    pub(super) bar: Bar,
}

/// Comparisons whose sides take turns in one run.
#[derive(Clone, Debug)]
pub struct Block {
    /// What `--only` calls it.
    pub(super) name: &'static str,
    pub(super) rows: Vec<Row>,
}

impl Block {
    const fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new() }
    }

    fn row(mut self, what: &str, figure: Figure, [ours, theirs]: [Side; 2], bar: Bar) -> Self {
        self.rows.push(Row { what: what.to_owned(), ours, theirs, figure, bar });
        self
    }
}

/// Those that one of `wanted` names: a whole block, or the rows that contain it. All, where nothing is wanted.
///
/// # Errors
/// A word that names nothing.
pub fn chosen(wanted: &[String]) -> Result<Vec<Block>, Failure> {
    let all = blocks();
    let names = |word: &str, block: &Block, row: &Row| block.name == word || row.what.contains(word);
    if let Some(word) =
        wanted.iter().find(|word| !all.iter().any(|block| block.rows.iter().any(|row| names(word, block, row))))
    {
        let blocks: Vec<_> = all.iter().map(|block| block.name).collect();
        return Err(format!("--only {word}: there are {}, and their rows", blocks.join(", ")).into());
    }
    let keep = |mut block: Block| {
        let name = block.name;
        let of_name = Block::new(name);
        block.rows.retain(|row| wanted.is_empty() || wanted.iter().any(|word| names(word, &of_name, row)));
        block
    };
    Ok(all.into_iter().map(keep).filter(|block| !block.rows.is_empty()).collect())
}

fn blocks() -> Vec<Block> {
    let least = Bar::AtLeast;
    vec![
        unary("unary-4x32", "4x32", FOUR, least(0.85, 1.0)),
        many(),
        unary("unary-64x1", "64x1", MANY_CONNECTIONS, least(0.92, 1.0)),
        throttlecrab(),
        pipeline(),
        batch(),
        redis(),
        threads(),
        latency("latency-5k", 5_000),
        latency("latency-20k", 20_000),
    ]
}

fn tidegate(load: &str) -> Side {
    Side::new(Subject::TIDEGATE, load).with(HOT)
}

/// tidegate with all of [`MANY`] in its table.
fn many_keys(load: &str) -> Side {
    Side::new(Subject::MANY_KEYS, load).with(MANY).after(TOUCH)
}

fn t1(load: &str) -> Side {
    Side::new(Subject::Empty, load).with(HOT)
}

/// CheckAndReserve, each call on its own, against T1.
fn unary(name: &'static str, shape: &str, load: &str, bar: Bar) -> Block {
    let pair = |flags: &str| [tidegate(load).with(flags), t1(load).with(flags)];
    let what = |rest: &str| format!("unary {shape} hot keys {rest}");
    Block::new(name)
        .row(&what("FULL"), Figure::Calls, pair("--view full"), bar)
        .row(&what("FULL settled"), Figure::Calls, pair("--view full --settle"), bar)
        .row(&what("WINDOWS"), Figure::Calls, pair("--view windows"), Bar::None)
        .row(&what("DECISION"), Figure::Calls, pair("--view decision"), Bar::None)
        .row(&what("DECISION settled"), Figure::Calls, pair("--view decision --settle"), Bar::None)
}

/// The same for keys that no cache holds.
fn many() -> Block {
    let pair = |flags: &str| [many_keys(FOUR).with(flags), t1(FOUR).with(flags)];
    let bar = Bar::AtLeast(0.75, 0.9);
    Block::new("unary-1M").row("unary 4x32 1M uniform keys FULL", Figure::Calls, pair("--view full"), bar).row(
        "unary 4x32 1M uniform keys FULL settled",
        Figure::Calls,
        pair("--view full --settle"),
        bar,
    )
}

fn throttlecrab() -> Block {
    let view = "--view decision";
    let pair = |load: &str| {
        let theirs = Side::new(Subject::Throttlecrab, load).with(HOT).with("--speak throttlecrab");
        [tidegate(load).with(view), theirs]
    };
    Block::new("throttlecrab").row("unary 4x32 DECISION", Figure::Calls, pair(FOUR), Bar::AtLeast(1.35, 1.6)).row(
        "unary 64x1 DECISION",
        Figure::Calls,
        pair(MANY_CONNECTIONS),
        Bar::AtLeast(1.2, 1.35),
    )
}

fn pipeline() -> Block {
    let unary = || t1(FOUR).with("--view full");
    let pair = |ours: Side, flags: &str| [ours.with(flags), unary()];
    let (hot, many) = (Bar::AtLeast(5.0, 8.0), Bar::AtLeast(3.0, 4.0));
    let of = Figure::Decisions;
    Block::new("pipeline")
        .row("Pipeline hot keys FULL", of, pair(tidegate(PIPELINE), "--view full"), hot)
        .row("Pipeline 1M uniform keys FULL", of, pair(many_keys(PIPELINE), "--view full"), many)
        .row("Pipeline hot keys WINDOWS", of, pair(tidegate(PIPELINE), "--view windows"), Bar::None)
        .row("Pipeline hot keys DECISION", of, pair(tidegate(PIPELINE), "--view decision"), Bar::None)
        .row("Pipeline 1M uniform keys DECISION", of, pair(many_keys(PIPELINE), "--view decision"), Bar::None)
        .row("Pipeline hot keys FULL settled: calls", Figure::Calls, settled(), Bar::None)
}

fn settled() -> [Side; 2] {
    [tidegate(PIPELINE).with("--view full --settle"), t1(FOUR).with("--view full --settle")]
}

fn batch() -> Block {
    let load = |size: &str| format!("--call batch --connections 4 --streams 4 --batch {size}");
    let pair = |size: &str, view: &str| [tidegate(&load(size)).with(view), t1(FOUR).with("--view full")];
    let of = Figure::Decisions;
    Block::new("batch")
        .row("batches of 64 FULL", of, pair("64", "--view full"), Bar::AtLeast(5.0, 8.0))
        .row("batches of 256 FULL", of, pair("256", "--view full"), Bar::AtLeast(7.0, 10.0))
        .row("batches of 64 DECISION", of, pair("64", "--view decision"), Bar::None)
        .row("batches of 256 DECISION", of, pair("256", "--view decision"), Bar::None)
        .row("batches of 64 FULL settled", of, pair("64", "--view full --settle"), Bar::None)
}

fn redis() -> Block {
    let redis = |load: &str| Side::new(Subject::Redis, load).with(HOT);
    let ours = |load: &str| tidegate(load).with("--view decision");
    let clients = |number: &str| redis(number).with("--speak redis");
    let piped = |script: &str| {
        [ours(PIPELINE), redis("--connections 4 --call pipeline --in-flight 64").with("--speak").with(script)]
    };
    let (unary, of) = (Bar::AtLeast(1.6, 2.0), Figure::Decisions);
    let lean = [ours(FOUR), redis("--connections 128").with("--speak redis-lean")];
    Block::new("redis")
        .row("unary 4x32 DECISION; 128 clients", of, [ours(FOUR), clients("--connections 128")], unary)
        .row("unary 64x1 DECISION; 64 clients", of, [ours(MANY_CONNECTIONS), clients("--connections 64")], unary)
        .row("Pipeline DECISION; 4 clients; 64 each", of, piped("redis"), Bar::AtLeast(10.0, 15.0))
        .row("unary 4x32 DECISION; 128 clients; lean script", of, lean, Bar::None)
        .row("Pipeline DECISION; 4 clients; 64 each; lean script", of, piped("redis-lean"), Bar::None)
}

/// Two threads against one: decisions for each second of processor time.
fn threads() -> Block {
    let on = |threads| Side::new(Subject::Tidegate { threads, process: 0 }, FOUR).with(HOT).on_all_cores();
    let pair = |flags: &str| [on(2).with(flags), on(1).with(flags)];
    let bar = Bar::AtLeast(0.8, 0.95);
    Block::new("threads").row("2 threads against 1 FULL", Figure::DecisionsOfProcessor, pair("--view full"), bar).row(
        "2 threads against 1 DECISION",
        Figure::DecisionsOfProcessor,
        pair("--view decision"),
        bar,
    )
}

fn latency(name: &'static str, rate: u32) -> Block {
    let load = format!("--connections 4 --rate {rate} --view full");
    let pair = |unix: bool| [tidegate(&load), t1(&load)].map(|side| if unix { side.unix() } else { side });
    let what = |quantile: &str, socket: &str| format!("{quantile} at {rate} calls/s {socket}");
    let (median, tail) = (Bar::AtMost(1.15, 1.05), Bar::AtMost(1.3, 1.1));
    Block::new(name)
        .row(&what("p50", "TCP"), Figure::P50, pair(false), median)
        .row(&what("p99", "TCP"), Figure::P99, pair(false), tail)
        .row(&what("p50", "Unix socket"), Figure::P50, pair(true), median)
        .row(&what("p99", "Unix socket"), Figure::P99, pair(true), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_rows_are_chosen_by_their_names() {
        let chosen = |words: &[&str]| chosen(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let rows = |blocks: &[Block]| blocks.iter().map(|block| block.rows.len()).sum::<usize>();
        let all = chosen(&[]).expect("all");
        assert_eq!(rows(&chosen(&["redis"]).expect("a block")), 5);
        let settled = chosen(&["FULL settled"]).expect("rows");
        assert!(rows(&settled) > 2 && rows(&settled) < rows(&all));
        assert!(chosen(&["redis", "nonsense"]).expect_err("no such row").to_string().contains("--only nonsense"));
    }

    #[test]
    fn no_two_rows_are_called_the_same() {
        for block in blocks() {
            let mut names: Vec<_> = block.rows.iter().map(|row| &row.what).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", block.name);
        }
    }
}
