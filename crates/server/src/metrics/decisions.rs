//! One counter for each kind of answer, found by its place in an array.

use metrics::{Counter, Label};
use tidegate_core::decision::{Answer, Denial, ServiceTier};
use tidegate_core::window::{PerWindow, Window};

/// `tidegate_decisions_total`: for each service tier, the counters of its answers. The sum over all of them is the number
/// of decisions.
#[derive(Debug)]
pub(super) struct Decisions {
    standard: Answers,
    priority: Answers,
}

#[derive(Debug)]
struct Answers {
    allow: Counter,
    window_full: OfWindow,
    exceeds_current_limit: OfWindow,
    never_fits: OfWindow,
    squeezed: OfWindow,
    shed: OfWindow,
    capacity: Counter,
    unknown_account: Counter,
    account_blocked: Counter,
}

/// A denial counts once, in the first of its binding windows.
#[derive(Debug)]
struct OfWindow {
    of: PerWindow<Counter>,
    none: Counter,
}

impl Decisions {
    /// Registers them all, so that each is on the page from the start.
    pub(super) fn register(counter: impl Fn(Vec<Label>) -> Counter) -> Self {
        Self {
            standard: Answers::register(ServiceTier::Standard, &counter),
            priority: Answers::register(ServiceTier::Priority, &counter),
        }
    }

    /// The counter of `answer`.
    pub(super) fn of(&self, tier: ServiceTier, answer: &Answer) -> &Counter {
        let answers = match tier {
            ServiceTier::Standard => &self.standard,
            ServiceTier::Priority => &self.priority,
        };
        let Err(denied) = &answer.outcome else { return &answers.allow };
        let binding = answer.windows.iter().find(|(_, status)| status.binding).map(|(window, _)| window);
        match denied.denial {
            Denial::WindowFull => answers.window_full.of(binding),
            Denial::ExceedsCurrentLimit => answers.exceeds_current_limit.of(binding),
            Denial::NeverFits => answers.never_fits.of(binding),
            Denial::Squeezed => answers.squeezed.of(binding),
            Denial::Shed => answers.shed.of(binding),
            Denial::Capacity(_) => &answers.capacity,
            Denial::UnknownAccount => &answers.unknown_account,
            Denial::AccountBlocked => &answers.account_blocked,
        }
    }
}

impl Answers {
    fn register(tier: ServiceTier, counter: &impl Fn(Vec<Label>) -> Counter) -> Self {
        let labels = |decision, reason, window: Option<Window>| {
            vec![
                Label::from_static_parts("decision", decision),
                Label::from_static_parts("reason", reason),
                Label::from_static_parts("window", window.map_or("none", Window::name)),
                Label::from_static_parts("service_tier", tier.name()),
            ]
        };
        let denied = |denial: Denial, window| counter(labels(denial.decision_name(), denial.name(), window));
        let of_window = |denial: Denial| OfWindow {
            of: PerWindow::from_fn(|window| denied(denial, Some(window))),
            none: denied(denial, None),
        };
        Self {
            allow: counter(labels("allow", "none", None)),
            window_full: of_window(Denial::WindowFull),
            exceeds_current_limit: of_window(Denial::ExceedsCurrentLimit),
            never_fits: of_window(Denial::NeverFits),
            squeezed: of_window(Denial::Squeezed),
            shed: of_window(Denial::Shed),
            // Which bound it was is in `tidegate_bound_reached_total`.
            capacity: denied(Denial::Capacity(tidegate_core::decision::Bound::Keys), None),
            unknown_account: denied(Denial::UnknownAccount, None),
            account_blocked: denied(Denial::AccountBlocked, None),
        }
    }
}

impl OfWindow {
    fn of(&self, window: Option<Window>) -> &Counter {
        window.map_or(&self.none, |window| &self.of[window])
    }
}
