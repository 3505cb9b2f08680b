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

/// `tidegate_shadow_decisions_total`: for each service tier, the denials that shadow answered with ALLOW.
#[derive(Debug)]
pub(super) struct ShadowDecisions {
    standard: ByLimit,
    priority: ByLimit,
}

#[derive(Debug)]
struct Answers {
    allow: Counter,
    by_limit: ByLimit,
    capacity: Counter,
    store_unavailable: Counter,
    unknown_account: Counter,
    account_blocked: Counter,
}

/// Denials by a limit or by pressure.
#[derive(Debug)]
struct ByLimit {
    window_full: OfWindow,
    exceeds_current_limit: OfWindow,
    never_fits: OfWindow,
    squeezed: OfWindow,
    shed: OfWindow,
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
        match denied.denial {
            Denial::WindowFull => answers.by_limit.window_full.of(answer),
            Denial::ExceedsCurrentLimit => answers.by_limit.exceeds_current_limit.of(answer),
            Denial::NeverFits => answers.by_limit.never_fits.of(answer),
            Denial::Squeezed => answers.by_limit.squeezed.of(answer),
            Denial::Shed => answers.by_limit.shed.of(answer),
            Denial::Capacity(_) => &answers.capacity,
            Denial::StoreUnavailable => &answers.store_unavailable,
            Denial::UnknownAccount => &answers.unknown_account,
            Denial::AccountBlocked => &answers.account_blocked,
        }
    }

    /// The counter of what the caller was told where `answer` is a denial in shadow.
    pub(super) const fn allow(&self, tier: ServiceTier) -> &Counter {
        match tier {
            ServiceTier::Standard => &self.standard.allow,
            ServiceTier::Priority => &self.priority.allow,
        }
    }
}

impl ShadowDecisions {
    /// Registers them all, so that each is on the page from the start.
    pub(super) fn register(counter: impl Fn(Vec<Label>) -> Counter) -> Self {
        Self {
            standard: ByLimit::register(ServiceTier::Standard, &counter),
            priority: ByLimit::register(ServiceTier::Priority, &counter),
        }
    }

    /// The counter of `answer`; `None` where no limit denies it.
    pub(super) fn of(&self, tier: ServiceTier, answer: &Answer) -> Option<&Counter> {
        let by_limit = match tier {
            ServiceTier::Standard => &self.standard,
            ServiceTier::Priority => &self.priority,
        };
        let of_window = match answer.outcome.err()?.denial {
            Denial::WindowFull => &by_limit.window_full,
            Denial::ExceedsCurrentLimit => &by_limit.exceeds_current_limit,
            Denial::NeverFits => &by_limit.never_fits,
            Denial::Squeezed => &by_limit.squeezed,
            Denial::Shed => &by_limit.shed,
            Denial::Capacity(_) | Denial::StoreUnavailable | Denial::UnknownAccount | Denial::AccountBlocked => {
                return None;
            }
        };
        Some(of_window.of(answer))
    }
}

impl Answers {
    fn register(tier: ServiceTier, counter: &impl Fn(Vec<Label>) -> Counter) -> Self {
        let denied = |denial: Denial| counter(labels(denial.decision_name(), denial.name(), None, tier));
        Self {
            allow: counter(labels("allow", "none", None, tier)),
            by_limit: ByLimit::register(tier, counter),
            // Which bound it was is in `tidegate_bound_reached_total`.
            capacity: denied(Denial::Capacity(tidegate_core::decision::Bound::Keys)),
            store_unavailable: denied(Denial::StoreUnavailable),
            unknown_account: denied(Denial::UnknownAccount),
            account_blocked: denied(Denial::AccountBlocked),
        }
    }
}

impl ByLimit {
    fn register(tier: ServiceTier, counter: &impl Fn(Vec<Label>) -> Counter) -> Self {
        let of_window = |denial: Denial| {
            let denied = |window| counter(labels(denial.decision_name(), denial.name(), window, tier));
            OfWindow { of: PerWindow::from_fn(|window| denied(Some(window))), none: denied(None) }
        };
        Self {
            window_full: of_window(Denial::WindowFull),
            exceeds_current_limit: of_window(Denial::ExceedsCurrentLimit),
            never_fits: of_window(Denial::NeverFits),
            squeezed: of_window(Denial::Squeezed),
            shed: of_window(Denial::Shed),
        }
    }
}

fn labels(decision: &'static str, reason: &'static str, window: Option<Window>, tier: ServiceTier) -> Vec<Label> {
    vec![
        Label::from_static_parts("decision", decision),
        Label::from_static_parts("reason", reason),
        Label::from_static_parts("window", window.map_or("none", Window::name)),
        Label::from_static_parts("service_tier", tier.name()),
    ]
}

impl OfWindow {
    fn of(&self, answer: &Answer) -> &Counter {
        let binding = answer.windows.iter().find(|(_, status)| status.binding);
        binding.map_or(&self.none, |(window, _)| &self.of[window])
    }
}
