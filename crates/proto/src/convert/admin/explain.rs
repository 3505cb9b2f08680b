//! Explanations on the wire.

use tidegate_core::MAX_TOKENS;
use tidegate_core::key::KeyRef;
use tidegate_core::law::explain::Motion;
use tidegate_core::law::history::{Change, Reason};
use tidegate_core::policy::{Origin, Origins, Source};
use tidegate_core::pressure::{Reading, Signal};
use tidegate_core::state::WindowExplained;
use tidegate_core::window::{PerWindow, Window};

use crate::convert::{self, InvalidField, time};
use crate::v1;

/// What an `ExplainLimit` request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Explain<'a> {
    /// Whose limits.
    pub key: KeyRef<'a>,
    /// One window; `None`: all.
    pub window: Option<Window>,
    /// A limit, TPM, of which to say when it is reached; 1 to 2^40.
    pub target_tpm: Option<u64>,
}

/// What the request asks for.
///
/// # Errors
/// Names the field that is missing, malformed or out of range.
pub fn explain(wire: &v1::ExplainLimitRequest) -> Result<Explain<'_>, InvalidField> {
    let key = convert::limit_key(wire.key.as_ref())?;
    let window = match v1::Window::try_from(wire.window) {
        Ok(v1::Window::Unspecified) => None,
        Ok(v1::Window::Prompt) => Some(Window::Prompt),
        Ok(v1::Window::UncachedPrompt) => Some(Window::UncachedPrompt),
        Ok(v1::Window::Generated) => Some(Window::Generated),
        Err(_) => return Err(InvalidField::new("window", format!("has the unknown value {}", wire.window))),
    };
    if wire.target_tpm.is_some_and(|target| !(1..=MAX_TOKENS).contains(&target)) {
        return Err(InvalidField::new("target_tpm", "must be 1 to 2^40"));
    }
    Ok(Explain { key, window, target_tpm: wire.target_tpm })
}

/// The numbers of one window's explanation: without sentences, profile, target and the next change.
#[must_use]
pub fn wire_explanation(
    window: Window,
    explained: &WindowExplained,
    origins: &Origins,
    pressure: &Reading,
) -> v1::LimitExplanation {
    let status = convert::window_statuses(&PerWindow::from_fn(|_| explained.status)).into_iter().next();
    let status = status.map(|status| v1::WindowStatus { window: convert::window(window).into(), ..status });
    let law = &explained.law;
    v1::LimitExplanation {
        status,
        floor_origin: Some(origin(&origins.floor)),
        ceiling_origin: Some(if origins.floor_won() {
            let source = v1::BoundSource::Floor.into();
            v1::BoundOrigin { source, stated_tpm: origins.ceiling.stated_tpm, ..origin(&origins.floor) }
        } else {
            origin(&origins.ceiling)
        }),
        settled_tokens: law.settled_tokens,
        recommended_tpm: law.recommended_tpm,
        reserve_tpm: law.reserve_tpm,
        proven_tpm: law.proven_tpm,
        next_limit_tpm: law.next_limit_tpm,
        growth_needs_tokens: law.growth_needs_tokens,
        denial_seen: law.denial_seen,
        brake_permille: law.brake_permille.into(),
        motion: motion(law.motion).into(),
        steps: explained.changes.iter().map(step).collect(),
        pressure_permille: match pressure.signal() {
            Signal::Live(permille) => Some(permille),
            Signal::Off | Signal::Stale => None,
        },
        pressure_stale: pressure.signal() == Signal::Stale,
        ..v1::LimitExplanation::default()
    }
}

fn origin(origin: &Origin) -> v1::BoundOrigin {
    let source = match origin.source {
        Source::KeyOverride => v1::BoundSource::KeyOverride,
        Source::ModelOverride => v1::BoundSource::ModelOverride,
        Source::AccountOverride => v1::BoundSource::AccountOverride,
        Source::TierModel => v1::BoundSource::TierModel,
        Source::Model => v1::BoundSource::Model,
        Source::Tier => v1::BoundSource::Tier,
        Source::BuiltIn => v1::BoundSource::BuiltIn,
    };
    v1::BoundOrigin {
        source: source.into(),
        name: origin.name.clone(),
        stated_tpm: origin.stated_tpm,
        expire_time: origin.expires_at.map(time::wire_timestamp),
        reason: origin.reason.clone(),
    }
}

const fn motion(motion: Motion) -> v1::LimitMotion {
    match motion {
        Motion::Grows => v1::LimitMotion::Grows,
        Motion::GrowsAfterDenial => v1::LimitMotion::GrowsAfterDenial,
        Motion::Falls => v1::LimitMotion::Falls,
        Motion::Boosted => v1::LimitMotion::Boosted,
        Motion::AtCeiling => v1::LimitMotion::AtCeiling,
        Motion::Static => v1::LimitMotion::Static,
        Motion::Idle => v1::LimitMotion::Idle,
        Motion::Braked => v1::LimitMotion::Braked,
        Motion::UseTooLow => v1::LimitMotion::UseTooLow,
    }
}

fn step(change: &Change) -> v1::LimitStep {
    v1::LimitStep {
        time: Some(time::wire_timestamp(change.at)),
        limit_before_tpm: change.before_tpm,
        limit_after_tpm: change.after_tpm,
        reason: reason(change.reason).into(),
        start_time: Some(time::wire_timestamp(change.since)),
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Use => "grew by use",
        Reason::UseBraked => "grew by use, slowed by the pressure of the deployment",
        Reason::Return => "grew by use, faster up to what was proven before",
        Reason::Denial => "grew after a denial, with tokens settled",
        Reason::Decay => "fell for want of use",
        Reason::Floor => "lifted to its floor",
        Reason::Ceiling => "cut to its ceiling",
        Reason::Boost => "boosted",
        Reason::BoostEnd => "began to fall when its boost ended",
        Reason::Reset => "reset by an operator",
    }
}
