//! `tidegate config apply`: shows the plan, asks, and carries it out.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use tidegate_core::policy::{Account, Kind, Model, Override, Policy, Tier};
use tidegate_proto::v1::{WriteEffect, WriteOptions};
use tonic::{Code, Status};

use super::object::{Object, Write, Written, of_kind};
use super::plan::{Action, Plan, Step};
use super::{EXAMPLES, Server, now, read, show};
use crate::command::admin::write::effect as effect_json;
use crate::confirm::ConfirmFlags;
use crate::failure::Failure;
use crate::output::{grouped, print, print_json, remark};
use crate::status::explain;
use crate::target::AdminTarget;

/// Most objects that a message names.
const MOST_NAMED: usize = 20;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ApplyArgs {
    /// The file, TOML
    file: PathBuf,

    /// Delete what only the server has, too
    #[arg(long)]
    prune: bool,

    #[command(flatten)]
    confirm: ConfirmFlags,

    /// Show the plan and what each write alone would do to the limits, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    /// Who, for the audit log
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    actor: String,

    /// Print one JSON object instead of text; the plan goes to standard error
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminTarget,
}

pub(super) async fn run(args: ApplyArgs) -> Result<ExitCode, Failure> {
    let file = read(&args.file)?;
    let mut server = Server::connect(&args.admin).await?;
    let now = now();
    let plan = Plan::of(&mut server, &file, now, args.prune).await?;
    if let [first, others @ ..] = &plan.exchange[..] {
        let names: Vec<_> = others.iter().chain([first]).map(|name| format!("{name:?}")).collect();
        return Err(Failure::Failed(format!(
            "override {first:?} of the file has the scope that {} has on the server, and so around: each scope has one \
             override at a time, so no order of writes can do that. Give one of them a new id. Nothing was changed.",
            names.join(", that of ")
        )));
    }
    if let Some(step) = plan.steps.iter().find(|step| step.action == Action::Keep && step.in_the_way_of.is_some()) {
        let (title, other) = (step.title(), step.in_the_way_of.as_deref().unwrap_or_default());
        return Err(Failure::Failed(format!(
            "{title}, only on the server, has the scope of the file's override {other:?}: delete it, or say --prune. \
             Nothing was changed."
        )));
    }
    show::remark_not_compared(&file, now);
    let apply = Apply { server, file: &file, plan: &plan, args: &args };
    apply.run().await?;
    Ok(ExitCode::SUCCESS)
}

struct Apply<'a> {
    server: Server,
    file: &'a Policy,
    plan: &'a Plan,
    args: &'a ApplyArgs,
}

/// A step and what its write answered, or why that is not known before earlier steps are done.
type Done<'a> = (&'a Step, Result<Written, String>);

/// What ended it before the last step.
enum End {
    Refused(Status),
    Interrupted,
}

impl<'a> Apply<'a> {
    async fn run(mut self) -> Result<(), Failure> {
        let (looked, refused) = self.look().await;
        let mut effects = looked.iter().peekable();
        for step in &self.plan.steps {
            let mut text = show::step_text(step);
            let answer = effects.next_if(|(looked, _)| std::ptr::eq(*looked, step));
            if let Some((_, answer)) = answer.filter(|_| self.args.dry_run) {
                text.push_str(&match answer {
                    Ok(written) => format!("\n    = {}", effect_words(&written.effect)),
                    Err(why) => format!("\n    = not known before earlier steps are done; now: {why}"),
                });
            }
            self.say(&text)?;
        }
        let writes = self.plan.writes().count();
        self.say(&if writes == 0 { self.nothing_to_do() } else { show::summary(self.plan) })?;
        self.warn(&looked, true);
        if let Some((step, status)) = refused {
            return self.stopped(step, End::Refused(status), &[], true);
        }
        if self.args.dry_run || writes == 0 {
            return self.finished(&looked);
        }
        self.args.confirm.confirm(&format!("This would be written to {}.", self.server.target))?;
        self.write_all().await
    }

    /// Asks the server what each write would do, in a dry run of all, otherwise of those that may well be refused: so that nothing
    /// is half-done where that can be known. Ends at one that is refused whatever is done before it.
    async fn look(&mut self) -> (Vec<Done<'a>>, Option<(&'a Step, Status)>) {
        let (plan, all) = (self.plan, self.args.dry_run);
        let mut looked = Vec::new();
        let mut accounts = 0;
        for step in plan.writes() {
            // Refused before the steps that it waits for are done, which says nothing.
            if !all && plan.waits(step) {
                continue;
            }
            // Of accounts the file knows all that a server does, so one is asked for as to reason and actor.
            accounts += u64::from(step.kind == Kind::Account);
            if !all && step.kind == Kind::Account && accounts > 1 {
                continue;
            }
            match self.write(step, true).await {
                Ok(written) => looked.push((step, Ok(written))),
                // In a dry run.
                Err(status) if plan.waits(step) => looked.push((step, Err(status.message().to_owned()))),
                Err(status) => return (looked, Some((step, status))),
            }
        }
        (looked, None)
    }

    async fn write_all(mut self) -> Result<(), Failure> {
        let plan = self.plan;
        let mut done = Vec::new();
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        for step in plan.writes() {
            let written = tokio::select! {
                written = self.write(step, false) => written.map_err(End::Refused),
                _ = &mut interrupt => Err(End::Interrupted),
            };
            match written {
                Ok(written) => done.push((step, Ok(written))),
                Err(end) => return self.stopped(step, end, &done, false),
            }
        }
        self.warn(&done, false);
        self.finished(&done)
    }

    async fn write(&mut self, step: &Step, dry_run: bool) -> Result<Written, Status> {
        let expected_revision = match step.action {
            Action::Update(revision) | Action::Delete(revision) => Some(revision),
            // In a Create: it must not exist.
            Action::Create | Action::Keep => Some(0),
        };
        let ApplyArgs { reason, actor, .. } = self.args.clone();
        let options = Some(WriteOptions { expected_revision, dry_run, reason, actor });
        of_kind!(step.kind, Kinded => {
            let client = &mut self.server.client;
            match step.action {
                Action::Delete(_) => Kinded::write(client, Write::Delete(step.id()), options).await,
                action => {
                    let wire = wire_of::<Kinded>(self.file, step)?;
                    let write = if action == Action::Create { Write::Create(wire) } else { Write::Update(wire) };
                    Kinded::write(client, write, options).await
                }
            }
        })
    }

    /// The plan, for people: with --json beside the result.
    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.args.json {
            remark(text);
            return Ok(());
        }
        print(text)
    }

    fn nothing_to_do(&self) -> String {
        let keep = self.plan.steps.len();
        let kept = if keep > 0 { format!(" ({keep} only on the server, kept without --prune)") } else { String::new() };
        format!("nothing to do: the server has all that the file says{kept}")
    }

    fn finished(&self, done: &[Done<'_>]) -> Result<(), Failure> {
        if self.args.json {
            return print_json(&self.json(done, None));
        }
        if done.is_empty() {
            return Ok(());
        }
        if self.args.dry_run {
            remark("Dry run: nothing was changed. Each effect is that of its write alone.");
            return Ok(());
        }
        let written = || done.iter().filter_map(|(_, written)| written.as_ref().ok());
        let effect = effect_words(&sum(written().map(|written| &written.effect)));
        let counted = if done.len() > 1 { " (a limit counts with each write that moved it)" } else { "" };
        print(&format!("applied {}: {effect}{counted}", done.len()))?;
        if written().any(|written| !written.persisted) {
            remark("The writes are in force, but lost at the next restart: the server has no durable store.");
        }
        Ok(())
    }

    /// Says how far it came: what is written stays written.
    fn stopped(&self, step: &Step, end: End, done: &[Done<'_>], looking: bool) -> Result<(), Failure> {
        let (why, code) = match end {
            End::Refused(status) => (explain(&call(step), &self.server.target, &status), Some(status.code())),
            End::Interrupted => (Failure::Failed("interrupted".to_owned()), None),
        };
        if self.args.json {
            print_json(&self.json(done, Some((step, &why))))?;
        } else {
            self.warn(done, false);
        }
        let mut text = format!("stopped at {}: {why}", step.title());
        if matches!(code, Some(Code::Aborted | Code::AlreadyExists | Code::NotFound)) {
            text.push_str("\nSomebody else has written since the plan was made.");
        }
        if looking {
            text.push_str("\nNothing was changed.");
        } else {
            // An answer that did not come says nothing of the write.
            let sent = matches!(
                code,
                None | Some(Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Unknown)
            );
            let applied: Vec<_> = done.iter().map(|(step, _)| *step).collect();
            let left: Vec<_> = self.plan.writes().skip(done.len() + usize::from(sent)).collect();
            text.push_str(&format!("\nApplied: {}", names(&applied)));
            if sent {
                text.push_str(&format!("\nNot known whether it was applied: {}", step.title()));
            }
            text.push_str(&format!("\nNot applied: {}", names(&left)));
            if !matches!(code, Some(Code::InvalidArgument | Code::FailedPrecondition)) {
                text.push_str("\nThe same command again makes a new plan and goes on from there.");
            }
        }
        Err(match why {
            Failure::Usage(_) if done.is_empty() => Failure::Usage(text),
            _ => Failure::Failed(text),
        })
    }

    /// The server's warnings. Of those in advance, the ones that it would give when the step's turn comes, too.
    fn warn(&self, done: &[Done<'_>], in_advance: bool) {
        for (step, written) in done.iter().filter(|(step, _)| !in_advance || self.plan.is_known_in_advance(step)) {
            for warning in written.iter().flat_map(|written| &written.warnings) {
                remark(&format!("warning: {}: {warning}", step.title()));
            }
        }
    }

    fn json(&self, done: &[Done<'_>], stopped: Option<(&Step, &Failure)>) -> Value {
        let one = |(step, written): &Done<'_>| {
            let mut value = show::step_json(step);
            value["effect"] = written.as_ref().ok().map(|written| effect_json(&written.effect)).into();
            value["warnings"] = written.as_ref().map(|written| written.warnings.clone()).unwrap_or_default().into();
            value
        };
        let persisted = done.iter().all(|(_, written)| written.as_ref().is_ok_and(|written| written.persisted));
        // Of what was written.
        let persisted = (!done.is_empty() && !self.args.dry_run).then_some(persisted);
        json!({
            "plan": show::steps_json(self.plan),
            "dry_run": self.args.dry_run,
            "applied": if self.args.dry_run { 0 } else { done.len() },
            "persisted": persisted,
            "writes": done.iter().map(one).collect::<Vec<_>>(),
            "stopped": stopped.map(|(step, why)| json!({ "at": show::step_json(step), "error": why.to_string() })),
        })
    }
}

/// The object of the file that the step writes.
fn wire_of<E: Object>(file: &Policy, step: &Step) -> Result<E::Wire, Status> {
    let found = E::find(file, step.id()).map(E::to_wire);
    found.ok_or_else(|| Status::internal("the plan names what the file does not have"))
}

/// The RPC that carries out the step.
fn call(step: &Step) -> String {
    let verb = match step.action {
        Action::Create => "Create",
        Action::Update(_) => "Update",
        Action::Delete(_) => "Delete",
        Action::Keep => "Keep",
    };
    let kind = match step.kind {
        Kind::Tier => "Tier",
        Kind::Account => "Account",
        Kind::Model => "Model",
        Kind::Override => "Override",
    };
    format!("{verb}{kind}")
}

fn names(steps: &[&Step]) -> String {
    let named = steps.iter().take(MOST_NAMED).map(|step| step.title()).collect::<Vec<_>>().join(", ");
    match steps.len() {
        0 => "nothing".to_owned(),
        all if all > MOST_NAMED => format!("{all}: {named} and {} more", all - MOST_NAMED),
        all => format!("{all}: {named}"),
    }
}

/// What a write does to limits; keys are left out, as several writes may concern the same.
fn effect_words(effect: &WriteEffect) -> String {
    if (effect.limits_raised, effect.limits_lowered, effect.limits_released) == (0, 0, 0) {
        return "no limit of a known key moves".to_owned();
    }
    format!(
        "{} limits raised by {} TPM, {} lowered by {} TPM, {} free to sink to a lower floor",
        grouped(effect.limits_raised),
        grouped(effect.gained_tpm),
        grouped(effect.limits_lowered),
        grouped(effect.lost_tpm),
        grouped(effect.limits_released),
    )
}

fn sum<'a>(effects: impl Iterator<Item = &'a WriteEffect>) -> WriteEffect {
    effects.fold(WriteEffect::default(), |sum, effect| WriteEffect {
        keys: sum.keys.saturating_add(effect.keys),
        limits_raised: sum.limits_raised.saturating_add(effect.limits_raised),
        limits_lowered: sum.limits_lowered.saturating_add(effect.limits_lowered),
        limits_released: sum.limits_released.saturating_add(effect.limits_released),
        gained_tpm: sum.gained_tpm.saturating_add(effect.gained_tpm),
        lost_tpm: sum.lost_tpm.saturating_add(effect.lost_tpm),
    })
}
