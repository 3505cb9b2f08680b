//! A limit in plain words. One fact a sentence; numbers are tokens, or tokens per minute.

use std::time::Duration;

use tidegate_core::decision::{Denial, ServiceTier};
use tidegate_core::law::explain::{Motion, Reading};
use tidegate_core::policy::{Enforcement, Origin, Origins, Source};
use tidegate_core::pressure::{FROZEN, Signal};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Window;
use tidegate_proto::convert::time::wire_timestamp;
use tidegate_store::KeyExplained;

/// A limit that was asked for, and when it is reached.
pub(super) struct Target {
    pub(super) tpm: u64,
    /// `None`: not within a week.
    pub(super) after: Option<Duration>,
}

/// What is to be said of the key as a whole.
pub(super) fn of_key(said: &KeyExplained, tier: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    if !said.known {
        sentences.push("No traffic yet, or none for long: this is what the first request would find.".to_owned());
    }
    match said.resolved.refused {
        Some(Denial::AccountBlocked) => {
            sentences.push("The account is blocked: every request is answered 403.".to_owned());
        }
        Some(_) => {
            sentences.push("Nobody configured the account, and unknown accounts are refused with 403.".to_owned())
        }
        None if !said.resolved.configured => {
            sentences.push(format!("Nobody configured the account: it has the tier of unknown accounts, {tier}."));
        }
        None => {}
    }
    if said.resolved.enforcement == Enforcement::Shadow {
        sentences.push("Enforcement is in shadow: what a limit would deny is counted and let through.".to_owned());
    }
    sentences
}

/// What is to be said of one window, the most important first.
pub(super) fn of_window(window: Window, said: &KeyExplained, target: Option<&Target>) -> Vec<String> {
    let (explained, origins) = (&said.state.windows[window], &said.origins[window]);
    let status = &explained.status;
    let mut sentences = vec![bounds(status.limit_tpm, origins)];
    if origins.floor_won() {
        sentences.push(floor_won(origins));
    }
    if status.effective_limit_tpm < status.limit_tpm {
        sentences.push(format!(
            "The deployment is busy ({}): Standard requests get {} of it, never less than the floor.",
            pressure(said.pressure[window].signal()),
            tokens(status.effective_limit_tpm)
        ));
    }
    sentences.extend(shed(said, window));
    sentences.push(motion(&explained.law, said, window));
    let idle = explained.law.settled_tokens == 0 && explained.law.motion != Motion::Boosted;
    if idle && status.limit_tpm > status.floor_tpm {
        sentences.extend(held(&explained.law));
    }
    if said.pressure[window].signal() == Signal::Stale && explained.law.motion != Motion::Braked {
        sentences.push("Reports of pressure have stopped: until they return, no limit grows.".to_owned());
    }
    if status.binding {
        let left = tokens(status.remaining_tokens);
        sentences.push(format!("Of the windows in use it is the fullest: requests meet it first; {left} fit now."));
    }
    if let Some(target) = target {
        sentences.push(reached(target, said, window));
    }
    sentences
}

/// Which requests the pressure of the deployment sheds.
fn shed(said: &KeyExplained, window: Window) -> Option<String> {
    let most = |tier| said.pressure[window].sheds_above(&said.resolved.bounds[window], tier);
    let above = |most| format!("requests with which it would carry more than {} tokens", tokens(most));
    let who = match (most(ServiceTier::Standard)?, most(ServiceTier::Priority)) {
        (_, Some(0)) => "all requests, Priority ones too".to_owned(),
        (_, Some(most)) => format!("all Standard requests, and Priority {}", above(most)),
        (0, None) => "all Standard requests".to_owned(),
        (most, None) => format!("Standard {}", above(most)),
    };
    Some(format!("The deployment is busy ({}): refused with 503 are {who}.", pressure(said.pressure[window].signal())))
}

fn bounds(limit: u64, origins: &Origins) -> String {
    let Origins { floor, ceiling } = origins;
    let limit = tokens(limit);
    if origins.floor_won() {
        return format!("The limit is {limit}: its floor, from {}, is its ceiling as well.", origin(floor));
    }
    if (floor.source, &floor.name) == (ceiling.source, &ceiling.name) {
        let (low, high) = (tokens(floor.stated_tpm), tokens(ceiling.stated_tpm));
        return format!(
            "The limit is {limit}, between a floor of {low} and a ceiling of {high}, both from {}.",
            origin(floor)
        );
    }
    format!(
        "The limit is {limit}, between a floor of {} from {} and a ceiling of {} from {}.",
        tokens(floor.stated_tpm),
        origin(floor),
        tokens(ceiling.stated_tpm),
        origin(ceiling)
    )
}

fn floor_won(origins: &Origins) -> String {
    let Origins { floor, ceiling } = origins;
    format!(
        "Its floor of {} exceeds the ceiling of {} that {} states: a floor is a promise and wins.",
        tokens(floor.stated_tpm),
        tokens(ceiling.stated_tpm),
        origin(ceiling)
    )
}

fn origin(origin: &Origin) -> String {
    let name = &origin.name;
    let mut text = match origin.source {
        Source::KeyOverride => format!("override {name} of this key"),
        Source::ModelOverride => format!("override {name} of the account on this model"),
        Source::AccountOverride => format!("override {name} of the account"),
        Source::TierModel => format!("tier {name} on this model"),
        Source::Model => format!("model {name}"),
        Source::Tier => format!("tier {name}"),
        Source::BuiltIn => "the built-in default".to_owned(),
    };
    if let Some(end) = origin.expires_at {
        text += &format!(" until {}", instant(end));
    }
    text
}

fn motion(law: &Reading, said: &KeyExplained, window: Window) -> String {
    let (settled, next) = (tokens(law.settled_tokens), tokens(law.next_limit_tpm));
    let closes = minutes_and_seconds(said.state.epoch_closes_after);
    match law.motion {
        Motion::Grows => format!("It grows to {next} in {closes}: {settled} tokens were settled in this minute."),
        Motion::GrowsAfterDenial => {
            format!(
                "It grows to {next} in {closes}: a request that could fit was denied, and {settled} tokens were settled."
            )
        }
        Motion::Falls => format!("It falls to {next} in {closes}: use no longer carries it."),
        Motion::Boosted => match law.boost {
            Some(lift) => format!(
                "A boost to {} holds it up until {}; then the law takes it down gently.",
                tokens(lift.limit_tpm),
                instant(lift.expires_at)
            ),
            None => "A boost holds it up.".to_owned(),
        },
        Motion::AtCeiling => "It is at its ceiling: only a higher ceiling lets it grow.".to_owned(),
        Motion::Static => format!("It does not grow: that is what the law profile {:?} says.", said.law_profile),
        Motion::Idle => {
            let needs = law
                .growth_needs_tokens
                .map_or_else(String::new, |needs| format!("; it grows from {} tokens in a minute on", tokens(needs)));
            format!("It does not move: no token was settled in this minute{needs}.")
        }
        Motion::Braked => match said.pressure[window].signal() {
            Signal::Stale => {
                "Use would make it grow, but reports of pressure have stopped: limits are frozen.".to_owned()
            }
            _ if law.brake_permille == FROZEN => {
                "Use would make it grow, but no report of pressure counted when tokens were settled.".to_owned()
            }
            signal => format!(
                "Use would make it grow, but the deployment was too busy when tokens were settled ({} then, {} now).",
                permille(u32::from(law.brake_permille)),
                pressure(signal)
            ),
        },
        Motion::UseTooLow => {
            let needs = law.growth_needs_tokens.map_or_else(String::new, tokens);
            format!("It does not move: {settled} tokens were settled in this minute, and it grows from {needs} on.")
        }
    }
}

/// How long the reserve carries a limit that nobody uses.
fn held(law: &Reading) -> Option<String> {
    let reserve = tokens(law.reserve_tpm);
    match law.held_epochs {
        0 => None,
        1 => Some(format!("Without use it stays for another minute: the reserve is at {reserve}.")),
        minutes => Some(format!("Without use it stays for {minutes} minutes more: the reserve is at {reserve}.")),
    }
}

fn reached(target: &Target, said: &KeyExplained, window: Window) -> String {
    let status = &said.state.windows[window].status;
    let (wanted, rate) = (tokens(target.tpm), tokens(said.state.course.rate[window]));
    match target.after {
        Some(Duration::ZERO) => format!("It is {wanted} now."),
        Some(after) => {
            let minutes = after.as_secs().div_ceil(60);
            format!("If use goes on at {rate} tokens a minute, it comes to {wanted} in {minutes} min.")
        }
        None if target.tpm > status.ceiling_tpm => format!("It never comes to {wanted}: that is above its ceiling."),
        None if target.tpm < status.floor_tpm => format!("It never comes to {wanted}: that is below its floor."),
        None => format!("If use goes on at {rate} tokens a minute, it does not come to {wanted} within a week."),
    }
}

fn pressure(signal: Signal) -> String {
    match signal {
        Signal::Off => "nobody reports pressure".to_owned(),
        Signal::Stale => "reports of pressure have stopped".to_owned(),
        Signal::Live(value) => permille(value),
    }
}

fn permille(value: u32) -> String {
    format!("pressure {value} permille")
}

fn minutes_and_seconds(span: Duration) -> String {
    format!("{} s", span.as_secs() + u64::from(span.subsec_nanos() > 0))
}

fn instant(at: Timestamp) -> String {
    wire_timestamp(at).to_string()
}

/// `1234567` as `1,234,567`.
fn tokens(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped_by_thousands() {
        assert_eq!([7, 900, 36_000, 3_600_000].map(tokens), ["7", "900", "36,000", "3,600,000"]);
    }
}
