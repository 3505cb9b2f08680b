//! The last changes of a key's limits, and why each came: for people, never for decisions.
//!
//! Nothing is kept for a key whose limits never moved. Of each window the last [`MOST_CHANGES`] changes are kept. A fall that
//! goes on, and a rise of less than 1 %, are added to the change before where that has the same reason: an evening of slow
//! decay is one line.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{Boosts, Bounds, EPOCH_SECONDS, Law, LawParams, Level, epoch_at, level};
use crate::room::push_room;
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

/// Most changes that are remembered of one window.
pub const MOST_CHANGES: usize = 8;
/// The most memory that the changes of a key take, bytes.
pub const MOST_BYTES: usize = Window::ALL.len() * (MOST_CHANGES * size_of::<Change>() + size_of::<VecDeque<Change>>());

/// The largest rise, in steps, that is less than 1 %.
const SMALL: Level = 3;

/// Why a limit moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// The tokens settled in a minute recommended more.
    #[n(0)]
    Use,
    /// The same, but the pressure that this minute saw slowed it.
    #[n(1)]
    UseBraked,
    /// The same, and faster, as the account had proven as much before.
    #[n(2)]
    Return,
    /// A request that would fit an empty window was denied, and tokens were settled: up to the reserve.
    #[n(3)]
    Denial,
    /// Use no longer carries it: it follows the reserve down.
    #[n(4)]
    Decay,
    /// An operator, or the end of an override, set the floor above it.
    #[n(5)]
    Floor,
    /// An operator, or the end of an override, set the ceiling below it.
    #[n(6)]
    Ceiling,
    /// An operator boosted it.
    #[n(7)]
    Boost,
    /// A boost ended, and it begins to sink.
    #[n(8)]
    BoostEnd,
    /// An operator set it back to its floor.
    #[n(9)]
    Reset,
}

/// One change of a limit, or several that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// When the first of them took effect.
    #[n(0)]
    pub since: Timestamp,
    /// When the last of them took effect. A limit that nobody looked at sinks unseen: then when that was seen.
    #[n(1)]
    pub at: Timestamp,
    /// The limit before, TPM; to 0.3 % where bounds changed.
    #[n(2)]
    pub before_tpm: u64,
    /// The limit after, TPM.
    #[n(3)]
    pub after_tpm: u64,
    /// Why.
    #[n(4)]
    pub reason: Reason,
}

/// The last changes of a key's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Option<Box<PerWindow<VecDeque<Change>>>>);

impl<C> Encode<C> for History {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(if self.0.is_some() { Window::ALL.len() as u64 } else { 0 })?;
        for changes in self.0.iter().flat_map(|changes| Window::ALL.map(|window| &changes[window])) {
            e.array(changes.len() as u64)?;
            changes.iter().try_for_each(|change| change.encode(e, ctx))?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for History {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let Some(windows) = d.array()?.filter(|windows| *windows > 0) else { return Ok(Self::default()) };
        if windows != Window::ALL.len() as u64 {
            return Err(decode::Error::message("a history of another number of windows"));
        }
        let mut history = Box::<PerWindow<VecDeque<Change>>>::default();
        for window in Window::ALL {
            let kept: VecDeque<Change> = d.array_iter_with(ctx)?.take(MOST_CHANGES).collect::<Result<_, _>>()?;
            history[window] = kept;
        }
        Ok(Self(Some(history)))
    }
}

/// What applies when a limit moves.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// The instant.
    pub now: Timestamp,
    /// The phase of the key.
    pub phase_seconds: u64,
    /// Floors and ceilings.
    pub bounds: &'a PerWindow<Bounds>,
    /// How limits move.
    pub params: &'a LawParams,
    /// What is boosted, or was.
    pub boosts: &'a Boosts,
}

impl History {
    /// The changes of `window`, the newest first.
    pub fn newest_first(&self, window: Window) -> impl Iterator<Item = &Change> {
        self.0.iter().flat_map(move |changes| changes[window].iter().rev())
    }

    /// Takes note of the limits that the law has moved from `before` to `after`.
    #[cold]
    pub fn on_moved(&mut self, before: &Law, after: &Law, applied: &Applied<'_>) {
        for window in Window::ALL {
            if before.windows[window].p != after.windows[window].p {
                let reason = reason(window, before, after, applied);
                self.push(window, before, after, applied, reason);
            }
        }
    }

    /// Takes note of the limits that an operator set back.
    #[cold]
    pub fn on_reset(&mut self, before: &Law, after: &Law, applied: &Applied<'_>) {
        for window in Window::ALL {
            if before.windows[window].p != after.windows[window].p {
                self.push(window, before, after, applied, Reason::Reset);
            }
        }
    }

    fn push(&mut self, window: Window, before: &Law, after: &Law, applied: &Applied<'_>, reason: Reason) {
        let bounds = &applied.bounds[window];
        let (from, to) = (before.windows[window].p, after.windows[window].p);
        let at = match reason {
            _ if before.epoch == after.epoch => applied.now,
            // What an epoch earned moved the limit when it closed.
            Reason::Use | Reason::UseBraked | Reason::Return | Reason::Denial => applied.epoch_start(before.epoch + 1),
            Reason::Decay | Reason::BoostEnd => applied.epoch_start(after.epoch),
            // What somebody wrote has moved it since the last look.
            Reason::Floor | Reason::Ceiling | Reason::Boost | Reason::Reset => applied.now,
        };
        let at = at.min(applied.now);
        let change = Change {
            since: at,
            at,
            before_tpm: match reason {
                Reason::Floor | Reason::Ceiling => level::tokens(from),
                _ => before.limit_tpm(window, bounds),
            },
            after_tpm: after.limit_tpm(window, bounds),
            reason,
        };
        let changes = &mut self.0.get_or_insert_default()[window];
        match changes.back_mut() {
            Some(last) if last.reason == reason && last.goes_on(from, to) => {
                last.at = at;
                last.after_tpm = change.after_tpm;
            }
            _ => {
                if changes.len() >= MOST_CHANGES {
                    changes.pop_front();
                }
                push_room(changes);
                changes.push_back(change);
            }
        }
    }
}

impl Change {
    fn goes_on(&self, from: Level, to: Level) -> bool {
        self.reason == Reason::Decay || (from < to && to - from <= SMALL)
    }
}

impl Applied<'_> {
    /// When `epoch` begins for the key.
    #[must_use]
    pub const fn epoch_start(&self, epoch: u64) -> Timestamp {
        Timestamp::from_seconds(epoch.saturating_mul(EPOCH_SECONDS).saturating_sub(self.phase_seconds))
    }
}

fn reason(window: Window, before: &Law, after: &Law, applied: &Applied<'_>) -> Reason {
    let (bounds, steps) = (&applied.bounds[window], applied.params.steps());
    let (old, new) = (&before.windows[window], &after.windows[window]);
    let lifts = || applied.boosts.lifts().iter().filter(|lift| lift.window == window);
    let end = |expires_at: Timestamp| epoch_at(expires_at, applied.phase_seconds);
    if new.p > old.p {
        if lifts().any(|lift| before.epoch <= end(lift.expires_at) && new.p == lift.level(bounds)) {
            Reason::Boost
        } else if old.p < bounds.floor_level() && new.p == bounds.floor_level() {
            Reason::Floor
        } else if old.den && level::of_tokens(old.recommended(steps.headroom_permille)) < new.p {
            Reason::Denial
        } else if old.br > steps.slow_permille {
            Reason::UseBraked
        } else if new.p - old.p > steps.growth {
            Reason::Return
        } else {
            Reason::Use
        }
    } else if new.p == bounds.ceiling_level() {
        Reason::Ceiling
    } else if lifts().any(|lift| {
        let end = end(lift.expires_at);
        before.epoch <= end && end < after.epoch && lift.level(bounds) >= old.p
    }) {
        Reason::BoostEnd
    } else {
        Reason::Decay
    }
}
