//! `tidegate admin limits explain`.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_proto::v1::{
    BoostedScope, BoundOrigin, BoundSource, ExplainLimitRequest, ExplainLimitResponse, LimitExplanation, LimitMotion,
    LimitStep, Window,
};
use tidegate_server::config::amount::parse_tokens;
use tonic::Response;

use super::Session;
use super::boost::boosted_json;
use super::limits::KeyFlags;
use crate::failure::Failure;
use crate::output::{Rows, grouped, print, print_json, printable};
use crate::words;

/// One key, and what to say of it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    key: KeyFlags,
    /// Say when the limit comes to this one, TPM, if use goes on as in the last minute
    #[arg(long, value_name = "TPM", value_parser = parse_tokens)]
    to: Option<u64>,
    /// Only this window
    #[arg(long, value_name = "WINDOW", value_enum)]
    window: Option<WindowName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum WindowName {
    Prompt,
    UncachedPrompt,
    Generated,
}

impl From<WindowName> for Window {
    fn from(name: WindowName) -> Self {
        match name {
            WindowName::Prompt => Self::Prompt,
            WindowName::UncachedPrompt => Self::UncachedPrompt,
            WindowName::Generated => Self::Generated,
        }
    }
}

/// Explains.
pub(super) async fn run(mut session: Session, args: ExplainArgs) -> Result<(), Failure> {
    let ExplainArgs { key, to, window } = args;
    let request = ExplainLimitRequest {
        key: Some(key.into_wire()),
        window: window.map_or(Window::Unspecified, Window::from).into(),
        target_tpm: to,
    };
    let answer = session.client.explain_limit(request).await;
    let answer = answer.map(Response::into_inner).map_err(session.explain("ExplainLimit"))?;
    if session.json { print_json(&to_json(&answer)) } else { print(&to_text(&answer)) }
}

fn to_text(answer: &ExplainLimitResponse) -> String {
    let mut text =
        format!("tier {}, {} live reservations\n", printable(&answer.tier), grouped(answer.live_reservations));
    let lines = |sentences: &[String], indent: &str| {
        sentences.iter().map(|line| format!("{indent}{}\n", printable(line))).collect::<String>()
    };
    text += &lines(&answer.sentences, "");
    let mut rows = Rows::new(&[
        "WINDOW",
        "#LIMIT TPM",
        "#FLOOR",
        "#CEILING",
        "#USED",
        "#HELD",
        "#FIT NOW",
        "#RESERVE",
        "#PROVEN",
        "NEXT",
    ]);
    for window in &answer.windows {
        rows.push(cells(window));
    }
    text += &format!("\n{rows}");
    for window in &answer.windows {
        let status = window.status.unwrap_or_default();
        text += &format!("\n{}\n{}", words::window(status.window), lines(&window.sentences, "  "));
        if !window.steps.is_empty() {
            text += "  Last changes, the newest first:\n";
            text += &window.steps.iter().map(|step| format!("    {}\n", step_line(step))).collect::<String>();
        }
    }
    text
}

fn cells(window: &LimitExplanation) -> Vec<String> {
    let status = window.status.unwrap_or_default();
    let limit = if status.effective_limit_tpm < status.limit_tpm {
        format!("{} (squeezed to {})", grouped(status.limit_tpm), grouped(status.effective_limit_tpm))
    } else {
        grouped(status.limit_tpm)
    };
    let motion = motion(window.motion).replace('_', " ");
    let next = if window.next_limit_tpm == status.limit_tpm {
        motion
    } else {
        let after = window.next_change_after.as_ref().map(words::duration).unwrap_or_default();
        format!("{motion}, to {} in {}", grouped(window.next_limit_tpm), seconds(after))
    };
    vec![
        words::window(status.window),
        limit,
        grouped(status.floor_tpm),
        grouped(status.ceiling_tpm),
        grouped(status.used_tokens),
        grouped(status.held_tokens),
        grouped(status.remaining_tokens),
        grouped(window.reserve_tpm),
        grouped(window.proven_tpm),
        next,
    ]
}

fn step_line(step: &LimitStep) -> String {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(ToString::to_string).unwrap_or_default();
    let (start, end) = (time(&step.start_time), time(&step.time));
    let when = if start == end || start.is_empty() { end } else { format!("{start} to {end}") };
    let (before, after) = (grouped(step.limit_before_tpm), grouped(step.limit_after_tpm));
    format!("{when}  {before} -> {after}  {}", printable(&step.reason))
}

/// Whole seconds, rounded up.
fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs() + u64::from(span.subsec_nanos() > 0))
}

/// `grows`, `at_ceiling` and so on.
fn motion(value: i32) -> String {
    words::word("LIMIT_MOTION_", value, |value| LimitMotion::try_from(value).ok().map(|known| known.as_str_name()))
}

fn to_json(answer: &ExplainLimitResponse) -> Value {
    let key = answer.key.clone().unwrap_or_default();
    json!({
        "key": { "account": key.account, "model": key.model, "variant": key.variant },
        "known": answer.known,
        "tier": answer.tier,
        "live_reservations": answer.live_reservations,
        "boosts": answer.boosts.iter().map(boosted_json).collect::<Vec<_>>(),
        "sentences": answer.sentences,
        "windows": answer.windows.iter().map(window_json).collect::<Vec<_>>(),
    })
}

fn window_json(window: &LimitExplanation) -> Value {
    let ms = |span: &Option<prost_types::Duration>| span.as_ref().map(words::duration).map(|span| span.as_millis());
    json!({
        "status": window.status.as_ref().map(words::window_json),
        "floor_origin": window.floor_origin.as_ref().map(origin_json),
        "ceiling_origin": window.ceiling_origin.as_ref().map(origin_json),
        "law_profile": window.law_profile,
        "motion": motion(window.motion),
        "sentences": window.sentences,
        "settled_tokens": window.settled_tokens,
        "recommended_tpm": window.recommended_tpm,
        "growth_needs_tokens": window.growth_needs_tokens,
        "reserve_tpm": window.reserve_tpm,
        "proven_tpm": window.proven_tpm,
        "next_limit_tpm": window.next_limit_tpm,
        "next_change_after_ms": ms(&window.next_change_after),
        "target_after_ms": ms(&window.target_after),
        "denial_seen": window.denial_seen,
        "brake_permille": window.brake_permille,
        "pressure_permille": window.pressure_permille,
        "pressure_stale": window.pressure_stale,
        "steps": window.steps.iter().map(step_json).collect::<Vec<_>>(),
    })
}

fn origin_json(origin: &BoundOrigin) -> Value {
    let source = |value| BoundSource::try_from(value).ok().map(|known| known.as_str_name());
    json!({
        "source": words::word("BOUND_SOURCE_", origin.source, source),
        "name": origin.name,
        "stated_tpm": origin.stated_tpm,
        "expire_time": origin.expire_time.as_ref().map(ToString::to_string),
        "reason": origin.reason,
    })
}

fn step_json(step: &LimitStep) -> Value {
    json!({
        "start_time": step.start_time.as_ref().map(ToString::to_string),
        "time": step.time.as_ref().map(ToString::to_string),
        "limit_before_tpm": step.limit_before_tpm,
        "limit_after_tpm": step.limit_after_tpm,
        "reason": step.reason,
    })
}

/// One line for each boosted window of a scope.
pub(super) fn boost_lines(boosted: &BoostedScope) -> impl Iterator<Item = String> {
    boosted.windows.iter().map(|window| {
        let until = window.expire_time.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} is boosted to {} TPM until {until}\n", words::window(window.window), grouped(window.limit_tpm))
    })
}
