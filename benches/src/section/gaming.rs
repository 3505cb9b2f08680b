//! A client that settles small answers and then sends giants all at once, and what a guard against it costs.

use std::time::Duration;

use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::policy::BUILT_IN_FLOORS;
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::run::{Keep, Record, run};
use tidegate_sim::workload::{Arrival, Workload};

use super::{Conduct, PROGRESS, Scope};
use crate::made_up::{Lengths, request, single_key, steady};
use crate::markdown::{Table, percent, verdict};
use crate::measure::Figures;
use crate::threads::in_order;
use crate::traces::subjects;

/// How long small answers are settled first, seconds; and how many a second.
const SMALL_SECONDS: u64 = 3_600;
const SMALL_PER_SECOND: f64 = 10.0;

/// A salvo: one request each millisecond.
const SALVO_REQUESTS: u64 = 5_000;
const SALVO_SECONDS: u64 = 5;

/// A prompt of no weight: the generated window alone is gamed.
const PROMPT_TOKENS: u64 = 10;

/// The second salvo comes this much later, seconds.
const PAUSE_SECONDS: u64 = 600;

/// What an hour of small answers may buy, in minutes' worth of the limit above it, in any trailing minute.
const BAR: f64 = 2.0;

/// A second salvo that comes further above the limit than this, as a share of it, repeats the first.
const REPEAT: f64 = 0.15;

/// Guard settings whose cost is measured, permille of the limit; 0 is off.
const GUARDS: [u32; 8] = [0, 1_000, 1_250, 1_500, 2_000, 3_000, 5_000, 10_000];

/// What the client does.
#[derive(Clone, Copy, Debug)]
struct Game {
    /// Tokens of a small answer.
    small: u64,
    /// Tokens of a giant one.
    giant: u64,
    /// Between the salvos.
    pause_seconds: u64,
    /// Whether it settles small answers between the salvos, too.
    small_between: bool,
}

/// What a salvo brought.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Salvo {
    /// Giants that were let in.
    admitted: u64,
    /// The most tokens above the limit in any trailing minute, as a multiple of the limit.
    most: f64,
    /// The tokens above the limit in each minute since the salvo, added up, as a multiple of the limit.
    total: f64,
}

impl Game {
    const USUAL: Self = Self { small: 10, giant: 4_096, pause_seconds: PAUSE_SECONDS, small_between: false };

    fn salvos(self) -> [u64; 2] {
        [SMALL_SECONDS, SMALL_SECONDS + self.pause_seconds]
    }

    fn workload(self, seed: u64) -> Workload {
        let [first, second] = self.salvos();
        let seconds = if self.small_between { second } else { first };
        let tokens = SMALL_PER_SECOND * self.small as f64;
        let mut requests = steady(seed, tokens, seconds, PROMPT_TOKENS, &[(0, Lengths::Constant { mean: self.small })]);
        // While a salvo is sent nothing else is, so that what is refused then is a giant.
        let in_salvo = |at: u64| [first, second].iter().any(|start| (*start..start + SALVO_SECONDS).contains(&at));
        requests.retain(|request| !in_salvo(request.at_ms / 1_000));
        for start in [first, second] {
            let giant = |index| request(start * 1_000 + index, PROMPT_TOKENS, self.giant);
            requests.extend((0..SALVO_REQUESTS).map(giant));
        }
        // Long after, so that the record does not end with the last giant.
        requests.push(request((second + 3_600) * 1_000, 1, 1));
        single_key(requests)
    }

    fn play(self, conduct: &Conduct) -> [Salvo; 2] {
        let rules = [KeyRules::fixed(&BUILT_IN_FLOORS)];
        let outcome = run(&self.workload(1), Policy::Forecast, &conduct.setup(&rules, Keep::Course), &|_| {});
        let record = outcome.keys[0].record.clone().unwrap_or_default();
        let [first, second] = self.salvos();
        let limit = BUILT_IN_FLOORS.generated;
        [Salvo::of(&record, limit, first, second), Salvo::of(&record, limit, second, second + 3_600)]
    }
}

impl Salvo {
    /// From the salvo's second until `end`.
    fn of(record: &Record, limit: u64, start: u64, end: u64) -> Self {
        let above = |second: u64| {
            let index = second.checked_sub(record.first_second).and_then(|index| usize::try_from(index).ok());
            let held = index.and_then(|index| record.held.get(index)).map_or(0, |held| held.generated);
            held.saturating_sub(limit) as f64 / limit as f64
        };
        let salvo = start..start + SALVO_SECONDS;
        let refused = record.rate_limited.iter().filter(|second| salvo.contains(second)).count() as u64;
        Self {
            admitted: SALVO_REQUESTS.saturating_sub(refused),
            most: (start..end).map(above).fold(0.0, f64::max),
            total: (start..end).step_by(60).skip(1).map(above).sum(),
        }
    }
}

pub(super) fn markdown(scope: &Scope) -> String {
    format!(
        "## Gaming\n\nAn hour of small answers, {SMALL_PER_SECOND} a second, then {SALVO_REQUESTS} requests for giants within \
         {SALVO_SECONDS} s, no declared maximum; the same salvo again 10 minutes later, nothing in between. Limit: {} generated \
         tokens a minute. \"Most\": tokens above the limit in any trailing minute, in minutes' worth of the limit; at most \
         {BAR} is the bar. \"Total\": the same over the consecutive minutes since the salvo, added up. A second salvo repeats the \
         first if it comes more than 15 % above the limit.\n\n{}\nWhat happens between the salvos (small answers of 10 tokens, \
         progress each second):\n\n{}\n### What the guard costs\n\n`forecast`, progress each second, one seed. Short answers: one \
         key, Poisson arrivals with prompts of 1,000 tokens of which 200 are uncached and answers of 20 tokens, that ask for 1.5 \
         times the generated limit. The last two columns are the first salvo's \"most\" at this setting.\n\n{}",
        BUILT_IN_FLOORS.generated,
        games(scope),
        pauses(scope),
        guards(scope),
    )
}

const COLUMNS: [&str; 7] = [
    "giants admitted, first",
    "most, first",
    "total, first",
    "giants admitted, second",
    "most, second",
    "total, second",
    "bar met, not repeated",
];

fn cells([first, second]: &[Salvo; 2]) -> [String; 7] {
    let met = first.most <= BAR && second.most <= BAR;
    [
        first.admitted.to_string(),
        format!("{:.2}", first.most),
        format!("{:.2}", first.total),
        second.admitted.to_string(),
        format!("{:.2}", second.most),
        format!("{:.2}", second.total),
        format!("{}, {}", verdict(met), verdict(second.most <= REPEAT)),
    ]
}

fn games(scope: &Scope) -> Table {
    let mut jobs = Vec::new();
    for progress_every in [Some(PROGRESS), None] {
        for giant in [4_096, 16_384] {
            jobs.extend([1, 10, 50].map(|small| (progress_every, Game { small, giant, ..Game::USUAL })));
        }
    }
    let results = in_order("gaming", &jobs, scope.threads, |(progress_every, game)| {
        game.play(&Conduct { progress_every: *progress_every, ..Conduct::usual() })
    });
    let [a, b, c, d, e, f, g] = COLUMNS;
    let mut table = Table::new(&["progress", "small", "giant", a, b, c, d, e, f, g]);
    for ((progress_every, game), salvos) in jobs.iter().zip(&results) {
        let progress =
            progress_every.map_or_else(|| "none".to_owned(), |every: Duration| format!("{} s", every.as_secs()));
        let [a, b, c, d, e, f, g] = cells(salvos);
        table.row([progress, game.small.to_string(), game.giant.to_string(), a, b, c, d, e, f, g]);
    }
    table
}

fn pauses(scope: &Scope) -> Table {
    let mut jobs = Vec::new();
    for (name, pause_seconds, small_between) in [
        ("10 min of nothing", 600, false),
        ("10 min of small answers", 600, true),
        ("60 min of small answers", 3_600, true),
    ] {
        jobs.extend([4_096, 16_384].map(|giant| (name, Game { giant, pause_seconds, small_between, ..Game::USUAL })));
    }
    let results = in_order("gaming, pauses", &jobs, scope.threads, |(_, game)| game.play(&Conduct::usual()));
    let [a, b, c, d, e, f, g] = COLUMNS;
    let mut table = Table::new(&["between", "giant", a, b, c, d, e, f, g]);
    for ((name, game), salvos) in jobs.iter().zip(&results) {
        let [a, b, c, d, e, f, g] = cells(salvos);
        table.row([(*name).to_owned(), game.giant.to_string(), a, b, c, d, e, f, g]);
    }
    table
}

fn guards(scope: &Scope) -> String {
    let subjects = subjects(&scope.traces);
    let settings = GUARDS.map(|guard_permille| {
        let name =
            if guard_permille == 0 { "off".to_owned() } else { format!("{:.1}", f64::from(guard_permille) / 1e3) };
        (name, ForecastDefaults { guard_permille, ..ForecastDefaults::default() })
    });
    let short = short_answers();
    let limits = KeyRules::fixed(&BUILT_IN_FLOORS);
    let mut traffic: Vec<(String, Workload, Vec<KeyRules>)> = Vec::new();
    for subject in &subjects {
        for demand in super::DEMANDS {
            traffic.push((format!("{} x{demand}", subject.name()), subject.workload(demand, 1), subject.rules()));
        }
    }
    traffic.push(("short answers".to_owned(), short, vec![limits]));

    let jobs: Vec<_> =
        settings.iter().flat_map(|(_, forecast)| traffic.iter().map(move |traffic| (*forecast, traffic))).collect();
    let figures = in_order("gaming, cost", &jobs, scope.threads, |(forecast, (_, workload, rules))| {
        let conduct = Conduct { forecast: *forecast, ..Conduct::usual() };
        Figures::of(&conduct.report(workload, rules, &[Policy::Forecast])[0])
    });
    let games: Vec<_> = settings
        .iter()
        .flat_map(|(_, forecast)| [4_096, 16_384].map(|giant| (*forecast, Game { giant, ..Game::USUAL })))
        .collect();
    let salvos = in_order("gaming, guards", &games, scope.threads, |(forecast, game)| {
        game.play(&Conduct { forecast: *forecast, ..Conduct::usual() })[0].most
    });

    let mut table = Table::new(&["guard", "traffic", "goodput %", "false denials %", "giants of 4,096", "of 16,384"]);
    for (index, (name, _)) in settings.iter().enumerate() {
        for (place, (of, ..)) in traffic.iter().enumerate() {
            let figures = figures[index * traffic.len() + place];
            let most = |at: usize| if place == 0 { format!("{:.2}", salvos[index * 2 + at]) } else { String::new() };
            let (first, second) = (most(0), most(1));
            table.row([
                name.clone(),
                of.clone(),
                percent(figures.goodput),
                percent(figures.false_denials),
                first,
                second,
            ]);
        }
    }
    table.to_string()
}

/// Answers of 20 tokens to prompts of 1,000, most of them cached: 1.5 times the generated limit for half an hour.
fn short_answers() -> Workload {
    let per_second = 1.5 * BUILT_IN_FLOORS.generated as f64 / 60.0;
    let requests = steady(1, per_second, 1_800, 1_000, &[(0, Lengths::Constant { mean: 20 })]);
    let cached = |request: Arrival| Arrival { uncached_prompt_tokens: 200, ..request };
    single_key(requests.into_iter().map(cached).collect())
}

#[cfg(test)]
mod tests {
    use tidegate_core::window::Tokens;

    use super::*;

    #[test]
    fn a_salvo_is_counted_above_the_limit_and_minute_by_minute() {
        let held = |second: u64| match second {
            130 => 500, // The peak, between two minutes.
            160 => 300,
            220 => 150,
            280 => 100,
            _ => 0,
        };
        let record = Record {
            first_second: 3,
            held: (3..400).map(|second| Tokens::new(0, 0, held(second))).collect(),
            // Two before, three within the five seconds, one after.
            rate_limited: vec![98, 99, 100, 104, 104, 105],
            ..Record::default()
        };
        let salvo = Salvo::of(&record, 100, 100, 390);
        assert_eq!(salvo, Salvo { admitted: SALVO_REQUESTS - 3, most: 4.0, total: 2.5 });
        assert_eq!(Salvo::of(&record, 100, 300, 9_999).total, 0.0, "what is not recorded is not there");
    }

    #[test]
    fn a_game_is_an_hour_of_small_answers_and_two_salvos() {
        let count = |game: Game, tokens| {
            game.workload(1).requests.iter().filter(|request| request.generated_tokens == tokens).count()
        };
        let small = count(Game::USUAL, 10);
        assert!((35_000..37_000).contains(&small), "{small}");
        assert_eq!(count(Game::USUAL, 4_096), 10_000);
        let busy = Game { small_between: true, ..Game::USUAL };
        assert!(count(busy, 10) > small + 5_000);
        let workload = busy.workload(1);
        let in_salvo = workload.requests.iter().filter(|request| (3_600_000..3_605_000).contains(&request.at_ms));
        assert_eq!(in_salvo.filter(|request| request.generated_tokens == 4_096).count(), 5_000);
        let small_in_salvo = |request: &&Arrival| request.generated_tokens == 10 && request.at_ms / 5_000 == 720;
        assert_eq!(
            workload.requests.iter().filter(small_in_salvo).count(),
            0,
            "a refused request would pass for a giant"
        );
    }

    #[test]
    fn a_client_that_everybody_lets_in_breaks_the_bar() {
        let game = Game { pause_seconds: 600, ..Game::USUAL };
        let rules = [KeyRules::fixed(&BUILT_IN_FLOORS)];
        let conduct = Conduct::usual();
        let outcome = run(&game.workload(1), Policy::ChargeAfter, &conduct.setup(&rules, Keep::Course), &|_| {});
        let record = outcome.keys[0].record.clone().unwrap_or_default();
        let salvo = Salvo::of(&record, BUILT_IN_FLOORS.generated, game.salvos()[0], game.salvos()[1]);
        // 5,000 streams of 40 tokens a second make 12,000,000 a minute: 333 limits. In all they ask for 569.
        assert_eq!(salvo.admitted, SALVO_REQUESTS);
        assert!((325.0..335.0).contains(&salvo.most), "{salvo:?}");
        assert!((560.0..569.0).contains(&salvo.total), "{salvo:?}");
    }
}
