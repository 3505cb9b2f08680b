//! The run: blocks one after the other, the sides of each by turns.

use std::path::PathBuf;
use std::time::Duration;

use super::programs::Programs;
use super::rows::{Block, Row};
use super::servers::Servers;
use super::side::{Side, Subject};
use super::turn::{Turn, turn};
use super::{Failure, machine, table};

/// Bytes that T1's answer may be longer or shorter than tidegate's: the numbers in it have other digits.
const OTHER_BYTES: f64 = 24.0;

/// How much is measured, and of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds without a disturbance that each block is to have.
    pub rounds: usize,
    /// Time for each side in each round.
    pub length: Duration,
    /// Time of each turn before it counts.
    pub warm_up: Duration,
    /// Where `benches/peers.sh` put the peers.
    pub peers: Option<PathBuf>,
    /// Whether T1 writes as tonic's own listener does.
    pub vectored: bool,
}

/// What the sides of a block came to.
pub(super) struct Seen<'a> {
    pub(super) block: &'a Block,
    pub(super) sides: Vec<Side>,
    /// Of each side that is here, by round; empty where its server is not.
    pub(super) turns: Vec<Vec<Turn>>,
    pub(super) missing: Vec<Option<&'static str>>,
    /// Rounds that were dropped.
    pub(super) dropped: usize,
}

impl Seen<'_> {
    /// Both sides' turns, round by round, or which server is not here.
    pub(super) fn pairs(&self, row: &Row) -> Result<Vec<(Turn, Turn)>, &'static str> {
        let of = |side: &Side| {
            let index = self.sides.iter().position(|known| known == side).ok_or("no such side")?;
            self.missing[index].map_or(Ok(&self.turns[index]), Err)
        };
        let (ours, theirs) = (of(&row.ours)?, of(&row.theirs)?);
        Ok(ours.iter().copied().zip(theirs.iter().copied()).collect())
    }
}

/// Runs `blocks` and gives what there is to say to `on_text`, piece by piece.
///
/// # Errors
/// A program is not there or does not serve; a call fails or is denied; T1 answers with another size than tidegate.
pub fn study(blocks: &[Block], plan: &Plan, mut on_text: impl FnMut(&str)) -> Result<(), Failure> {
    let programs = Programs::find(plan.peers.as_deref(), plan.vectored)?;
    let (machine, rounds, length) = (machine::line(), plan.rounds, plan.length.as_millis());
    on_text(&format!("{machine}; {rounds} rounds of {length} ms for each side\n"));
    let mut failed = None;
    for block in blocks {
        // One that fails is said at its place, and the others are measured all the same.
        match run(&programs, block, plan).and_then(|seen| table::draw(&seen)) {
            Ok(text) => on_text(&text),
            Err(failure) => {
                on_text(&format!("\n### {}\n\n**failed**: {failure}\n", block.name));
                failed = Some(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn run<'a>(programs: &Programs, block: &'a Block, plan: &Plan) -> Result<Seen<'a>, Failure> {
    let mut sides: Vec<Side> = Vec::new();
    for side in block.rows.iter().flat_map(|row| [&row.ours, &row.theirs]) {
        if !sides.contains(side) {
            sides.push(side.clone());
        }
    }
    let mut servers = Servers::new(programs)?;
    let missing: Vec<_> = sides.iter().map(|side| programs.missing(side.subject)).collect();
    let here: Vec<usize> = (0..sides.len()).filter(|index| missing[*index].is_none()).collect();
    for index in &here {
        servers.start(&sides[*index])?;
    }
    let mut seen = Seen { block, turns: vec![Vec::new(); sides.len()], sides, missing, dropped: 0 };
    let Some(first) = here.first() else { return Ok(seen) };
    // The first round makes keys and faults memory in; it counts for nothing.
    let mut tries = 0;
    while seen.turns[*first].len() < plan.rounds && tries <= 2 * plan.rounds {
        let mut round = vec![None; seen.sides.len()];
        for step in 0..here.len() {
            let index = here[(step + tries) % here.len()];
            let side = &seen.sides[index];
            round[index] = Some(turn(programs, servers.of(side)?, side, [plan.warm_up, plan.length])?);
        }
        let disturbed = round.iter().flatten().filter(|turn| turn.is_disturbed).count();
        eprintln!("{}: round {tries}{}", block.name, if disturbed > 0 { ", disturbed" } else { "" });
        tries += 1;
        if tries == 1 {
            continue;
        }
        if disturbed > 0 {
            seen.dropped += 1;
            continue;
        }
        for (turns, turn) in seen.turns.iter_mut().zip(round) {
            turns.extend(turn);
        }
    }
    check(&seen)?;
    Ok(seen)
}

/// Whether what was measured is what was meant.
fn check(seen: &Seen<'_>) -> Result<(), Failure> {
    for (side, turns) in seen.sides.iter().zip(&seen.turns) {
        if let Some(turn) = turns.iter().find(|turn| turn.denied > 0.0) {
            let (who, load) = (side.subject.name(), side.load.join(" "));
            return Err(format!("{who} denied {} calls of {load}: everything is to be allowed", turn.denied).into());
        }
    }
    for row in seen.block.rows.iter().filter(|row| row.theirs.subject == Subject::Empty) {
        let same_answer = view(&row.ours) == view(&row.theirs) && !row.ours.load.iter().any(|word| word == "--call");
        let pairs = seen.pairs(row).unwrap_or_default();
        if let Some((ours, theirs)) = pairs.last().filter(|_| same_answer)
            && (ours.bytes_per_decision - theirs.bytes_per_decision).abs() > OTHER_BYTES
        {
            let (ours, theirs) = (ours.bytes_per_decision, theirs.bytes_per_decision);
            return Err(format!("{}: tidegate answers {ours:.0} bytes, T1 {theirs:.0}", row.what).into());
        }
    }
    Ok(())
}

fn view(side: &Side) -> Option<&String> {
    side.load.iter().skip_while(|word| *word != "--view").nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rows::chosen;

    #[test]
    fn a_denial_or_an_answer_of_another_size_ends_a_run() {
        let blocks = chosen(&["unary 4x32 hot keys WINDOWS".to_owned()]).expect("a row");
        let sides = vec![blocks[0].rows[0].ours.clone(), blocks[0].rows[0].theirs.clone()];
        let turn = Turn { bytes_per_decision: 350.0, ..Turn::at(1.0, 1.0, 1.0) };
        let check = |ours: Turn, theirs: Turn| {
            let (turns, missing) = (vec![vec![ours], vec![theirs]], vec![None; 2]);
            check(&Seen { block: &blocks[0], sides: sides.clone(), turns, missing, dropped: 0 })
        };
        assert!(check(turn, turn).is_ok());
        assert!(check(turn, Turn { bytes_per_decision: 340.0, ..turn }).is_ok());
        let error = check(turn, Turn { bytes_per_decision: 300.0, ..turn }).expect_err("T1 says less");
        assert!(error.to_string().contains("tidegate answers 350 bytes, T1 300"), "{error}");
        let error = check(Turn { denied: 1.0, ..turn }, turn).expect_err("not everything was allowed");
        assert!(error.to_string().contains("denied 1 calls"), "{error}");
    }
}
