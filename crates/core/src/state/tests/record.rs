//! A key that is written down and read back decides as if nothing had happened.

use std::format;
use std::string::String;

use super::*;
use crate::state::Restored;

/// What a store keeps of a key: everything at first, then what changed.
#[derive(Default)]
struct Disk {
    head: Vec<u8>,
    items: Vec<Vec<u8>>,
}

impl Disk {
    /// Most noted items that are written by themselves.
    const MOST: usize = 12;
    /// Items written at a time, so that some are written in several pieces.
    const PIECE: usize = 3;

    fn write(&mut self, state: &mut KeyState) {
        let noted = state.take_noted().filter(|noted| noted.len() <= Self::MOST);
        if noted.is_none() {
            self.items.clear();
            state.note_items();
            let mut after = None;
            loop {
                let items = state.items_after(after, Self::PIECE);
                if items.is_empty() {
                    break;
                }
                after = items.last().copied();
                self.push(state, &items);
            }
        }
        self.push(state, &noted.unwrap_or_default());
        self.head.clear();
        state.write_head(&mut self.head);
    }

    fn push(&mut self, state: &KeyState, items: &[Item]) {
        let mut bytes = Vec::new();
        state.write_items(items, &mut bytes);
        self.items.push(bytes);
    }

    fn read(&self, fallback: &Prior) -> KeyState {
        let mut restored = Restored::read_head(&self.head).expect("a head");
        self.items.iter().for_each(|items| restored.read_items(items).expect("items"));
        // The keys of these tests have no phase.
        KeyState { phase_seconds: 0, ..restored.finish(request(1, 0, 0).key, fallback) }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Ask { request_id: Option<u128>, prompt: u64, cached: Option<u64>, declared: Option<u64> },
    Progress { which: usize, more: u64 },
    Settle { which: usize, generated: Option<u64> },
    Release { which: usize },
    Windows,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let ask = (prop::option::of(0_u128..40), 1_u64..300, prop::option::of(0_u64..300), prop::option::of(0_u64..400));
    prop_oneof![
        5 => ask.prop_map(|(request_id, prompt, cached, declared)| Step::Ask { request_id, prompt, cached, declared }),
        3 => (0_usize..8, 0_u64..150).prop_map(|(which, more)| Step::Progress { which, more }),
        3 => (0_usize..12, prop::option::of(0_u64..500)).prop_map(|(which, generated)| Step::Settle { which, generated }),
        1 => (0_usize..12).prop_map(|which| Step::Release { which }),
        1 => Just(Step::Windows),
    ]
}

/// Milliseconds: often within a second, now and then past every TTL and memory.
pub(super) fn wait() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0_u64..400, 6 => 0_u64..9_000, 1 => 30_000_u64..200_000, 1 => 900_000_u64..2_000_000]
}

/// What a gateway has: the newest reservation last, each with its total.
pub(super) type Tickets = Vec<(Ticket, u64)>;

/// One step, and all that it answers.
pub(super) fn run(key: &mut Key, tickets: &mut Tickets, step: &Step) -> String {
    let newest = |which: usize, tickets: &Tickets| tickets.len().checked_sub(which + 1);
    match step {
        Step::Ask { request_id, prompt, cached, declared } => {
            let request = Request {
                cached_prompt_tokens: cached.map(|cached| cached.min(*prompt)),
                max_generated_tokens: *declared,
                ttl: Duration::from_secs(120),
                ..request(*prompt, 0, 0)
            };
            let answer = key.try_ask(&request, *request_id);
            if let Ok(Answer { outcome: Ok(_), .. }) = &answer {
                tickets.push((ticket(answer.as_ref().expect("answered"), &request), 0));
            }
            format!("{answer:?}")
        }
        Step::Progress { which, more } => {
            let Some(which) = newest(*which, tickets) else { return String::new() };
            let (ticket, total) = &mut tickets[which];
            *total += more;
            let (ticket, total) = (*ticket, *total);
            format!("{:?}", key.call(|state, now, rules| state.report_progress(now, rules, &ticket, total)))
        }
        Step::Settle { which, generated } => {
            let Some(which) = newest(*which, tickets) else { return String::new() };
            let counts = SettleCounts { generated_tokens: *generated, ..SettleCounts::default() };
            format!("{:?}", key.settle_counts(&tickets[which].0, &counts))
        }
        Step::Release { which } => {
            let Some(which) = newest(*which, tickets) else { return String::new() };
            format!("{:?}", key.release(&tickets[which].0))
        }
        Step::Windows => format!("{:?}", key.windows()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_key_read_back_answers_every_later_call_as_the_one_that_went_on(
        before in prop::collection::vec((wait(), step(), any::<bool>()), 0..80),
        after in prop::collection::vec((wait(), step()), 1..40),
    ) {
        let ceiling = LIMIT.map(|limit| 5 * limit);
        let (mut key, mut tickets, mut disk) = (Key::between(LIMIT, ceiling), Tickets::new(), Disk::default());
        for (wait, step, write) in before {
            key.now += wait;
            run(&mut key, &mut tickets, &step);
            if write {
                disk.write(&mut key.state);
            }
        }
        disk.write(&mut key.state);
        // What a stream that begins is expected to do is worked out anew; the one that goes on might do so a little later.
        key.state.beginning = None;
        let mut back = Key { state: disk.read(&key.fallback), ..key.clone() };
        let mut back_tickets = tickets.clone();
        prop_assert_eq!(key.state.reservations(), back.state.reservations());
        for (wait, step) in after {
            key.now += wait;
            back.now += wait;
            prop_assert_eq!(run(&mut key, &mut tickets, &step), run(&mut back, &mut back_tickets, &step));
        }
        prop_assert_eq!(key.windows(), back.windows());
        prop_assert_eq!(&key.state.holds, &back.state.holds);
        let explained = |key: &mut Key| format!("{:?}", key.call(|state, _, rules| state.explain(rules)));
        prop_assert_eq!(explained(&mut key), explained(&mut back));
    }

    #[test]
    fn a_key_is_written_as_the_derived_encoders_write_it(
        settled in 0_u64..50,
        steps in prop::collection::vec((wait(), step()), 0..80),
        scale in prop_oneof![Just(1_u64), Just(1_000), Just(1 << 24)],
    ) {
        let limit = LIMIT.map(|limit| limit * scale);
        let (mut key, mut tickets) = (Key::between(limit, limit.map(|limit| 5 * limit)), Tickets::new());
        for answer in 0..settled {
            let ticket = key.admit(&request(7 * scale, 0, 100 * scale));
            key.now += 61_000;
            key.settle(&ticket, (70 + answer) * scale).expect("live");
        }
        key.state.note_items();
        for (wait, step) in steps {
            key.now += wait;
            run(&mut key, &mut tickets, &step);
        }
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            bytes
        };
        prop_assert_eq!(written(&|out| key.state.write_head(out)), key.state.derived_head());
        let all = key.state.derived_items(&key.state.items_after(None, usize::MAX));
        prop_assert_eq!(&written(&|out| key.state.write_all_items(out)), &all);
        prop_assert_eq!(&written(&|out| key.state.write_items(&key.state.items_after(None, usize::MAX), out)), &all);
        // Of these, some are gone.
        let noted = key.state.take_noted().expect("few");
        prop_assert_eq!(written(&|out| key.state.write_items(&noted, out)), key.state.derived_items(&noted));
    }

    #[test]
    fn what_is_no_record_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..400) {
        let mut key = Key::new(LIMIT);
        let ticket = key.admit(&request(10, 0, 50));
        key.now += 1_500;
        key.progress(&ticket, 20).expect("live");
        let (mut head, mut items) = (Vec::new(), Vec::new());
        key.state.write_head(&mut head);
        key.state.write_items(&key.state.items_after(None, usize::MAX), &mut items);
        if let Ok(mut restored) = Restored::read_head(&bytes) {
            let _ = restored.read_items(&bytes);
        }
        prop_assert!(Restored::read_head(&head[..cut.min(head.len() - 1)]).is_err(), "a head that is cut off");
        let mut restored = Restored::read_head(&head).expect("a head");
        let cut = cut.clamp(1, items.len() - 1);
        // Where the cut is between two items, it is a shorter list.
        let whole = (0..=2).any(|most| {
            let mut first = Vec::new();
            key.state.write_items(&key.state.items_after(None, most), &mut first);
            first.len() == cut
        });
        prop_assert_eq!(restored.read_items(&items[..cut]).is_ok(), whole);
    }
}

/// The format of version 1: what was written once is read for good. If this fails, a field has changed its number or its
/// form, and old data directories are no longer read.
#[test]
fn a_head_and_items_of_version_1_are_read() {
    let mut key = Key::between(LIMIT, LIMIT.map(|limit| 2 * limit));
    let first = key.admit(&request(100, 30, 200));
    key.try_ask(&request(50, 0, 80), Some(9)).expect("a new request id");
    key.now += 1_500;
    key.progress(&first, 40).expect("live");
    let ticket = key.admit(&request(20, 0, 10));
    key.release(&ticket).expect("live");
    let (mut head, mut items) = (Vec::new(), Vec::new());
    key.state.write_head(&mut head);
    key.state.write_items(&key.state.items_after(None, usize::MAX), &mut items);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(format!("{}\n{}\n", hex(&head), hex(&items)), include_str!("record.v1.txt"));
}
