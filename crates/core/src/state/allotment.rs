//! A key of which this process may count a part alone: the rest of its limits is the fleet's (`crate::fleet`).
//!
//! The allotment stands in the place of the effective limit where it is asked what fits. Limits that are published, the law,
//! and what a stated number is held against stay those of the whole.

use core::time::Duration;

use super::expectation::GeneratedAsk;
use super::reserve::Wish;
use super::{KeyState, Rules};
use crate::decision::Denial;
use crate::law::Law;
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, WINDOW, Window};

/// What this process may count of each window of a key, in the coming minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allotment {
    /// As if it were the limit, TPM; what is above the effective limit counts as that.
    pub allotted: Tokens,
    /// What counts elsewhere in the fleet, as far as it is known.
    pub elsewhere: Tokens,
    /// In how long a request that the fleet has no room for will find some, as far as the fleet knows: when what the others have leaves.
    /// Zero where that is not known.
    pub frees_in: PerWindow<Duration>,
    /// What becomes of a request that does not fit it, and would fit the limit.
    pub beyond: Beyond,
}

/// See [`Allotment::beyond`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Nothing yet: [`Short`] says what it would take.
    Ask,
    /// It is denied as by a full window: the fleet has no more.
    Deny,
    /// It is denied because nobody knows what the fleet has.
    Unavailable,
}

/// A request that is not decided, because the allotment is too small for it; nothing changed but the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// How much more would have to be allotted for it to fit now.
    pub missing: Tokens,
    /// How much that is altogether; 0 in windows in which nothing is missing.
    pub wanted: Tokens,
    /// What it asks for.
    pub ask: Tokens,
}

/// What a process saw of a window since it was asked last, for a law that is kept elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighted {
    /// Tokens settled.
    pub settled: u64,
    /// Whether a request that fits the limit was denied.
    pub denied: bool,
    /// The greatest pressure, permille.
    pub pressure: u16,
}

/// How long to wait where nothing that is known here will make room.
const ELSEWHERE: Duration = Duration::from_secs(1);

impl Allotment {
    /// What is enforced here of what is enforced everywhere.
    pub(super) fn of(allotment: Option<&Self>, effective: &Tokens) -> Tokens {
        let Some(allotment) = allotment else { return *effective };
        Tokens::from_fn(|window| effective[window].min(allotment.allotted[window]))
    }

    /// What this process could come to count, if it asked.
    pub(super) fn at_most(allotment: Option<&Self>, effective: &Tokens) -> Tokens {
        let here = Self::of(allotment, effective);
        match allotment {
            Some(Self { elsewhere, beyond: Beyond::Ask | Beyond::Deny, .. }) => {
                Tokens::from_fn(|window| here[window].max(effective[window].saturating_sub(elsewhere[window])))
            }
            Some(_) | None => here,
        }
    }

    /// What counts elsewhere.
    pub(super) fn elsewhere(allotment: Option<&Self>) -> Tokens {
        allotment.map_or(Tokens::default(), |allotment| allotment.elsewhere)
    }
}

impl Beyond {
    /// The denial of a request that does not fit; `None` where somebody is to be asked first.
    pub(super) const fn denial(self) -> Option<Denial> {
        match self {
            Self::Ask => None,
            Self::Deny => Some(Denial::WindowFull),
            Self::Unavailable => Some(Denial::StoreUnavailable),
        }
    }
}

impl KeyState {
    /// How much more than `here` it takes for `wish` to fit, in the windows in which it does not.
    pub(super) fn short(&self, wish: &Wish, windows: &PerWindow<bool>, here: &Tokens, rules: &Rules<'_>) -> Short {
        let [prompt, uncached] = self.prompt.sum();
        let wanted = |window: Window| match window {
            Window::Prompt => prompt.saturating_add(wish.ask.prompt),
            Window::UncachedPrompt => uncached.saturating_add(wish.ask.uncached_prompt),
            Window::Generated => self.generated_wanted(wish.generated(), rules),
        };
        let more = |window: Window| wanted(window).max(here[window].saturating_add(1));
        let wanted = Tokens::from_fn(|window| if windows[window] { more(window) } else { 0 });
        let missing = wanted.map_with(here, |wanted, here| wanted.saturating_sub(*here));
        Short { missing, wanted, ask: wish.ask }
    }

    /// The least that must be allotted for this ask to fit.
    fn generated_wanted(&self, ask: GeneratedAsk, rules: &Rules<'_>) -> u64 {
        let peak = self.generated_peak(rules.forecast).saturating_add(ask.tokens);
        if ask.tokens == 0 {
            return peak;
        }
        peak.max(self.least_for(self.holds.reach().saturating_add(ask.reach), rules.forecast))
    }

    /// How long until `wish` fits (contract C12) in the windows that are in its way: by what leaves anywhere, where the fleet has said; else what
    /// is allotted, by what leaves here; [`ELSEWHERE`] where that is not enough.
    pub(super) fn wait_for_allotment(
        &self,
        wish: &Wish,
        binding: &PerWindow<bool>,
        limits: &Tokens,
        rules: &Rules<'_>,
    ) -> Duration {
        let frees_in = |window: Window| rules.allotment.map_or(Duration::ZERO, |allotment| allotment.frees_in[window]);
        let frees_in = Window::ALL.into_iter().filter(|window| binding[*window]).map(frees_in).max();
        if let Some(frees_in) = frees_in.filter(|frees_in| !frees_in.is_zero()) {
            return frees_in.min(WINDOW);
        }
        let here = Allotment::of(rules.allotment.as_ref(), limits);
        let never = here.iter().any(|(window, here)| wish.ask[window] > *here);
        let wait = if never { WINDOW } else { self.wait(wish, &here, rules) };
        if wait >= WINDOW { ELSEWHERE } else { wait }
    }

    /// Takes over what the fleet's law came to: its epoch and its levels. What this process saw and has not said yet stays.
    pub fn follow_law(&mut self, now: Timestamp, law: &Law, rules: &Rules<'_>) {
        self.now = self.now.max(now);
        let before = self.law;
        self.law.epoch = law.epoch;
        for window in Window::ALL {
            let (own, known) = (&mut self.law.windows[window], &law.windows[window]);
            (own.p, own.v, own.q) = (known.p, known.v, known.q);
        }
        self.law.advance(law.epoch, rules.bounds, rules.law);
        if Window::ALL.into_iter().any(|window| before.windows[window].p != self.law.windows[window].p) {
            self.history.on_moved(&before, &self.law, &self.applied(rules));
        }
    }

    /// Takes what the law of the fleet is to know, since this was called last.
    pub fn take_sighted(&mut self) -> PerWindow<Sighted> {
        PerWindow::from_fn(|window| {
            let state = &mut self.law.windows[window];
            let (settled, denied, pressure) = (state.u, state.den, state.br);
            (state.u, state.den, state.br) = (0, false, 0);
            Sighted { settled, denied, pressure }
        })
    }
}
