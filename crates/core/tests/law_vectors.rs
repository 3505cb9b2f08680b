//! The law, bit for bit, against two others: an oracle that closes every minute by itself, and recorded vectors of the
//! specification's reference program, which is not part of this repository.
//!
//! A vector is one JSON line `{"params", "events", "after"}`. Events are `["settle", epoch, tokens, pressure_permille]`,
//! `["deny", epoch, ask]`, `["advance", epoch]` and `["bounds", epoch, floor, ceiling]`; after each one the state
//! `[p, v, q, epoch, u, den, br]` and the limit. `data/law_vectors.jsonl` holds some; `TIDEGATE_LAW_VECTORS` names a file
//! with more.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of small random numbers and of floats in the range of the target"
)]

use std::fmt::Debug;

use serde_json::Value;
use tidegate_core::MAX_TOKENS;
use tidegate_core::law::{Bounds, Law, LawParams, MaxStep, Steps, WindowLaw};
use tidegate_core::window::{PerWindow, Window};

#[path = "support/law_oracle.rs"]
mod law_oracle;
use law_oracle::{Cap, Numbers, Oracle};

const CASES: u64 = 10_000;

#[test]
fn the_law_equals_the_oracle_on_10_000_random_cases() {
    for seed in 0..CASES {
        compare_with_oracle(seed);
    }
}

#[test]
fn the_law_equals_the_recorded_vectors() {
    let checked = check_vectors(include_str!("data/law_vectors.jsonl"));
    assert!(checked >= 100, "only {checked} vectors recorded");
}

#[test]
fn the_law_equals_the_vectors_of_the_environment() {
    let Ok(path) = std::env::var("TIDEGATE_LAW_VECTORS") else {
        eprintln!("skipped: TIDEGATE_LAW_VECTORS is not set");
        return;
    };
    let checked = check_vectors(&std::fs::read_to_string(&path).expect("TIDEGATE_LAW_VECTORS names a readable file"));
    assert!(checked > 0, "{path} holds no vector");
    eprintln!("{checked} vectors of {path} agree");
}

/// SplitMix64: the same cases on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0, from.len() as u64 - 1) as usize]
    }

    fn bounds(&mut self) -> Bounds {
        let floor = match self.within(0, 3) {
            0 => self.pick(&[1, 2, 60, 36_000, 900_000, MAX_TOKENS / 3, MAX_TOKENS]),
            _ => self.within(1, 4_000_000),
        };
        let ceiling = match self.within(0, 2) {
            0 => self.within(floor, MAX_TOKENS),
            _ => floor.saturating_mul(self.within(1, 50)).min(MAX_TOKENS),
        };
        Bounds::new(floor, ceiling).expect("1 <= floor <= ceiling <= MAX_TOKENS")
    }

    /// Valid by [`LawParams`]'s own judgement: tries until it accepts.
    fn params(&mut self) -> LawParams {
        loop {
            let stop = self.within(1, 1_000) as u16;
            let growth = self.within(0, 60) as i32;
            let return_growth = if growth == 0 { 0 } else { growth + self.within(0, 60) as i32 };
            let steps = Steps {
                headroom_permille: self.pick(&[1_001, 1_250, 1_333, 1_500, 2_000, 9_999]),
                growth,
                return_growth,
                rise: return_growth + self.within(0, 60) as i32,
                decay: self.within(1, 12) as i32,
                reserve: self.within(0, 300) as i32,
                memory_half_life_epochs: self.pick(&[1, 7, 60, 239, 241, 1_440, 20_160]),
                slow_permille: self.within(0, u64::from(stop) - 1) as u16,
                stop_permille: stop,
                max_step: match self.within(0, 3) {
                    0 => MaxStep::Tokens(self.within(1, 50_000)),
                    1 => MaxStep::PermilleOfFloor(self.within(0, 400) as u32),
                    _ => MaxStep::Off,
                },
            };
            if let Ok(params) = LawParams::try_from(steps) {
                return params;
            }
        }
    }

    fn tokens(&mut self, limit: u64) -> u64 {
        match self.within(0, 5) {
            0 => 0,
            1 => self.within(1, 3),
            2 => limit,
            _ => self.within(0, limit.saturating_mul(3)),
        }
    }
}

fn numbers(params: &LawParams) -> Numbers {
    let steps = params.steps();
    Numbers {
        gamma_permille: steps.headroom_permille.into(),
        g: steps.growth.into(),
        gf: steps.return_growth.into(),
        a: steps.rise.into(),
        d: steps.decay.into(),
        r: steps.reserve.into(),
        memory_epochs: steps.memory_half_life_epochs.into(),
        slow: steps.slow_permille.into(),
        stop: steps.stop_permille.into(),
        cap: match steps.max_step {
            MaxStep::Off => Cap::None,
            MaxStep::Tokens(tokens) => Cap::Tokens(tokens.into()),
            MaxStep::PermilleOfFloor(permille) => Cap::PermilleOfFloor(permille.into()),
        },
    }
}

/// One random life of a key; each window has an oracle of its own.
fn compare_with_oracle(seed: u64) {
    let mut random = Random(seed);
    let params = random.params();
    let mut bounds = PerWindow::from_fn(|_| random.bounds());
    let mut law = Law::new(0, &bounds);
    let mut oracles = bounds.map(|b| Oracle::new(numbers(&params), b.floor_tpm().into(), b.ceiling_tpm().into()));
    let mut epoch = 0u64;
    for event in 0..random.within(5, 60) {
        // Seldom long enough for all to be forgotten: `law/tests.rs` compares long jumps.
        let gap = random.pick(&[0, 0, 0, 1, 1, 1, 1, 2, 5, 60]);
        epoch += gap;
        // A clock that is behind moves no time.
        let told = if random.within(0, 9) == 0 { epoch.saturating_sub(3) } else { epoch };
        if random.within(0, 9) == 0 {
            bounds = PerWindow::from_fn(|_| random.bounds());
            for window in Window::ALL {
                let b = &bounds[window];
                oracles[window].rebound(b.floor_tpm().into(), b.ceiling_tpm().into());
            }
        }
        law.advance(told, &bounds, &params);
        for window in Window::ALL {
            oracles[window].wait_until(told.into());
        }
        if random.within(0, 3) > 0 {
            let tokens = PerWindow::from_fn(|window| random.tokens(law.limit_tpm(window, &bounds[window])));
            let pressure = PerWindow::from_fn(|_| random.pick(&[0, 0, 0, 300, 600, 775, 850, 1_000, u16::MAX]));
            law.on_settled(tokens, pressure);
            for window in Window::ALL {
                oracles[window].settle(tokens[window].into(), pressure[window].into());
            }
        }
        if random.within(0, 2) == 0 {
            let window = random.pick(&Window::ALL);
            let ask = random.within(1, law.limit_tpm(window, &bounds[window]) * 2);
            law.on_denied(window, ask, &bounds[window]);
            oracles[window].deny(ask.into());
        }
        for window in Window::ALL {
            let (oracle, state) = (&oracles[window], law.windows[window]);
            let expected = [
                oracle.p,
                oracle.v,
                oracle.q,
                oracle.now,
                oracle.seen.tokens,
                oracle.seen.denied.into(),
                oracle.seen.pressure,
                oracle.limit(),
            ];
            let actual = numbers_of(&state, law.epoch, law.limit_tpm(window, &bounds[window])).map(i128::from);
            assert_eq!(actual, expected, "seed {seed}, event {event}, {window:?}: {params:?}, {bounds:?}");
        }
    }
}

/// `[p, v, q, epoch, u, den, br, limit]`.
fn numbers_of(state: &WindowLaw, epoch: u64, limit: u64) -> [i64; 8] {
    let wide = |count: u64| i64::try_from(count).expect("the cases stay far below 2^63");
    [
        state.p.into(),
        state.v.into(),
        state.q.into(),
        wide(epoch),
        wide(state.u),
        state.den.into(),
        state.br.into(),
        wide(limit),
    ]
}

/// Number of vectors in `lines`; panics at the first that disagrees.
fn check_vectors(lines: &str) -> usize {
    for (number, line) in lines.lines().enumerate() {
        let vector = serde_json::from_str(line).expect("a vector is one JSON line");
        check_vector(number + 1, &vector);
    }
    lines.lines().count()
}

fn check_vector(number: usize, vector: &Value) {
    let param = |name: &str| integer::<u64>(&vector["params"][name]);
    let small = |name: &str| integer::<i32>(&vector["params"][name]);
    let steps = Steps {
        growth: small("g"),
        return_growth: small("gf"),
        rise: small("a"),
        decay: small("d"),
        reserve: small("R"),
        slow_permille: integer(&vector["params"]["slow"]),
        stop_permille: integer(&vector["params"]["stop"]),
        max_step: if param("amax") == 0 { MaxStep::Off } else { MaxStep::Tokens(param("amax")) },
        ..*LawParams::DEFAULT.steps()
    };
    let params = LawParams::try_from(steps).expect("vectors have valid parameters");
    // The windows are independent: the same life in all three has to come out the same.
    let same = |bounds: Bounds| PerWindow::from_fn(|_| bounds);
    let bounds_of = |floor, ceiling| Bounds::new(floor, ceiling).expect("vectors have valid bounds");
    let mut bounds = bounds_of(param("lo"), param("hi"));
    let mut law = Law::new(0, &same(bounds));
    let events = vector["events"].as_array().expect("events is a list");
    let after = vector["after"].as_array().expect("after is a list");
    assert_eq!(events.len(), after.len(), "vector {number}");
    for (index, (event, after)) in events.iter().zip(after).enumerate() {
        let kind = event[0].as_str().expect("an event begins with its kind");
        if kind == "bounds" {
            bounds = bounds_of(integer(&event[2]), integer(&event[3]));
        }
        law.advance(integer(&event[1]), &same(bounds), &params);
        match kind {
            "settle" => {
                let (tokens, pressure) = (integer(&event[2]), integer(&event[3]));
                law.on_settled(PerWindow::from_fn(|_| tokens), PerWindow::from_fn(|_| pressure));
            }
            "deny" => Window::ALL.into_iter().for_each(|window| law.on_denied(window, integer(&event[2]), &bounds)),
            other => assert!(["advance", "bounds"].contains(&other), "vector {number}: unknown event {other}"),
        }
        let mut expected: Vec<i64> =
            after["state"].as_array().expect("state is a list").iter().map(integer::<i64>).collect();
        expected.push(integer(&after["limit"]));
        for window in Window::ALL {
            let actual = numbers_of(&law.windows[window], law.epoch, law.limit_tpm(window, &bounds));
            assert_eq!(actual.as_slice(), expected, "vector {number}, event {index}: {event}, {window:?}");
        }
    }
}

fn integer<T: TryFrom<i64, Error: Debug>>(value: &Value) -> T {
    T::try_from(value.as_i64().expect("an integer")).expect("within the range of its field")
}
