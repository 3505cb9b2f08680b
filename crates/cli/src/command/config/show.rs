//! A plan for people, and as JSON.

use serde_json::{Value, json};
use tidegate_core::policy::{BUILT_IN_DEFAULT_TIER, Enforcement, Kind, Policy, UnknownAccounts};
use tidegate_core::time::Timestamp;

use super::fields::{FieldChange, in_words};
use super::plan::{Action, Plan, Step};
use crate::failure::Failure;
use crate::output::{print, print_json, printable, remark};

/// Shows what differs.
pub(super) fn diff(plan: &Plan, file: &Policy, now: Timestamp) -> Result<(), Failure> {
    for step in &plan.steps {
        print(&step_text(step))?;
    }
    remark_not_compared(file, now);
    print(&if plan.steps.is_empty() { "no differences".to_owned() } else { summary(plan) })
}

/// The same as one JSON object.
pub(super) fn diff_json(plan: &Plan, file: &Policy) -> Result<(), Failure> {
    print_json(&json!({
        "same": plan.steps.is_empty(),
        "differences": steps_json(plan),
        "not_compared": not_compared(file),
    }))
}

/// One object: what would be done, and field by field what the server has and what the file says.
pub(super) fn step_text(step: &Step) -> String {
    let title = printable(&step.title());
    let mut text = match step.action {
        Action::Create => format!("+ {title}"),
        Action::Update(_) => format!("~ {title}"),
        Action::Delete(_) => format!("- {title}"),
        Action::Keep => format!("  {title}: only on the server"),
    };
    for FieldChange { field, server, file } in &step.changes {
        let field = printable(field);
        let (server, file) = (server.as_ref(), in_words(file.as_ref()));
        text.push_str(&match step.action {
            Action::Create => format!("\n    {field}: {file}"),
            Action::Keep => continue,
            _ => format!("\n    {field}: {} -> {file}", in_words(server)),
        });
    }
    text
}

/// The plan in one line.
pub(super) fn summary(plan: &Plan) -> String {
    let create = plan.count(|action| action == Action::Create);
    let change = plan.count(|action| matches!(action, Action::Update(_)));
    let delete = plan.count(|action| matches!(action, Action::Delete(_)));
    let keep = plan.count(|action| action == Action::Keep);
    let kept =
        if keep > 0 { format!("; {keep} only on the server, kept without apply --prune") } else { String::new() };
    format!("{create} to create, {change} to change (server -> file), {delete} to delete{kept}")
}

/// The steps, in the plan's order.
pub(super) fn steps_json(plan: &Plan) -> Vec<Value> {
    plan.steps.iter().map(step_json).collect()
}

/// One step. Values are as the file has them, null where nothing is stated.
pub(super) fn step_json(step: &Step) -> Value {
    let action = match step.action {
        Action::Create => "create",
        Action::Update(_) => "update",
        Action::Delete(_) => "delete",
        Action::Keep => "keep",
    };
    let changes = step.changes.iter();
    let change = |change: &FieldChange| json!({ "field": change.field, "server": change.server, "file": change.file });
    json!({
        "action": action,
        "kind": step.kind.name(),
        "name": step.name,
        "variant": (step.kind == Kind::Model).then_some(&step.variant),
        "fields": changes.map(change).collect::<Vec<_>>(),
    })
}

/// Says what the file states and is not compared: what the admin service does not know of, and what is over.
pub(super) fn remark_not_compared(file: &Policy, now: Timestamp) {
    for over in file.overrides().values().filter(|over| over.expires_at.is_some_and(|expires_at| expires_at <= now)) {
        remark(&format!("Not compared: override {:?} of the file has expired.", over.id));
    }
    let not_compared = not_compared(file);
    if !not_compared.is_empty() {
        let list = not_compared.join(", ");
        remark(&format!(
            "Not compared: {list}. A server reads this at its start; afterwards `tidegate admin enforcement set` moves the \
             switch, and nothing the rest."
        ));
    }
}

fn not_compared(file: &Policy) -> Vec<&'static str> {
    let built_in = Policy::built_in();
    [
        ("default_tier", file.default_tier() != BUILT_IN_DEFAULT_TIER),
        ("unknown_accounts", file.unknown_accounts() != UnknownAccounts::default()),
        ("law_profiles", file.profiles() != built_in.profiles()),
        ("enforcement", file.enforcement().enforcement != Enforcement::On),
    ]
    .into_iter()
    .filter_map(|(name, stated)| stated.then_some(name))
    .collect()
}
