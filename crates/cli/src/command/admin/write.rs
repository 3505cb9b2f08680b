//! What every write takes, and what is told about it afterwards.

use prost_types::FieldMask;
use serde_json::{Value, json};
use tidegate_proto::v1::{self, LimitChange, WriteEffect, WriteOptions};

use super::Session;
use super::listing::Listing;
use crate::confirm::ConfirmFlags;
use crate::failure::Failure;
use crate::output::{Rows, grouped, print, print_json, remark};
use crate::words;

/// How to write.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Audit")]
pub(super) struct WriteFlags {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) reason: String,

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

    /// Refuse unless the object still has this revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,

    /// Show what the write would change, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl WriteFlags {
    /// As the wire wants them.
    pub(super) fn to_wire(&self) -> Option<WriteOptions> {
        Some(WriteOptions {
            expected_revision: self.expected_revision,
            dry_run: self.dry_run,
            reason: self.reason.clone(),
            actor: self.actor.clone(),
        })
    }

    /// The same, but refused if somebody wrote since `revision` was read; a stated revision must agree with it.
    pub(super) fn to_wire_at(&self, revision: u64) -> Option<WriteOptions> {
        let expected_revision = self.expected_revision.or(Some(revision));
        self.to_wire().map(|options| WriteOptions { expected_revision, ..options })
    }
}

/// How to write what cannot be undone.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct FinalWriteFlags {
    #[command(flatten)]
    confirm: ConfirmFlags,
    #[command(flatten)]
    pub(super) write: WriteFlags,
}

impl FinalWriteFlags {
    /// Asks as [`ConfirmFlags::confirm`] does, but for a dry run, which changes nothing.
    ///
    /// # Errors
    /// As there; then nothing was sent.
    pub(super) fn confirm(&self, consequence: &str) -> Result<(), Failure> {
        if self.write.dry_run { Ok(()) } else { self.confirm.confirm(consequence) }
    }
}

/// What a write's answer says besides the object.
pub(super) struct Written {
    pub(super) changes: Vec<LimitChange>,
    pub(super) effect: Option<WriteEffect>,
    pub(super) persisted: bool,
    pub(super) warnings: Vec<String>,
    pub(super) dry_run: bool,
}

/// The answer to a write: what all have in common, though their messages differ.
pub(super) trait WriteAnswer {
    /// What it says besides the object.
    fn written(&self, dry_run: bool) -> Written;
}

macro_rules! write_answers {
    ($($answer:ident)*) => {
        $(impl WriteAnswer for v1::$answer {
            fn written(&self, dry_run: bool) -> Written {
                Written {
                    changes: self.changes.clone(),
                    effect: self.effect,
                    persisted: self.persisted,
                    warnings: self.warnings.clone(),
                    dry_run,
                }
            }
        })*
    };
}

write_answers! {
    CreateTierResponse UpdateTierResponse DeleteTierResponse
    CreateAccountResponse UpdateAccountResponse DeleteAccountResponse
    CreateModelResponse UpdateModelResponse DeleteModelResponse
    CreateOverrideResponse UpdateOverrideResponse DeleteOverrideResponse
    BoostResponse ResetLimitResponse
}

impl Written {
    /// Shows the object as it is now; warnings go to standard error (with --json, into the object too).
    pub(super) fn print<Item>(
        &self,
        session: &Session,
        listing: &Listing<Item>,
        item: Option<&Item>,
    ) -> Result<(), Failure> {
        if session.json {
            print_json(&json!({
                "object": item.map(listing.json),
                "persisted": self.persisted,
                "warnings": self.warnings,
                "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
                "effect": self.effect.as_ref().map(effect),
                "dry_run": self.dry_run,
            }))?;
        } else {
            match item {
                Some(item) => listing.print_one(session, item)?,
                None => print(if self.dry_run { "would be deleted" } else { "deleted" })?,
            }
            self.print_effect()?;
        }
        for warning in &self.warnings {
            remark(&format!("warning: {warning}"));
        }
        if self.dry_run {
            remark("Dry run: nothing was changed.");
        } else if !self.persisted {
            remark("The write is in force, but lost at the next restart: the server has no durable store.");
        }
        Ok(())
    }

    /// Shows a key that was set back.
    pub(super) fn print_reset(&self, session: &Session, dropped_hold_tokens: u64) -> Result<(), Failure> {
        if session.json {
            print_json(&json!({
                "dropped_hold_tokens": dropped_hold_tokens,
                "persisted": self.persisted,
                "warnings": self.warnings,
                "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
                "effect": self.effect.as_ref().map(effect),
                "dry_run": self.dry_run,
            }))?;
        } else {
            let verb = if self.dry_run { "would be reset" } else { "reset" };
            print(&format!("{verb}; held tokens dropped: {}", grouped(dropped_hold_tokens)))?;
            self.print_effect()?;
        }
        for warning in &self.warnings {
            remark(&format!("warning: {warning}"));
        }
        if self.dry_run {
            remark("Dry run: nothing was changed.");
        }
        Ok(())
    }

    /// The effect in a sentence; of a dry run, the largest changes as a table as well.
    pub(super) fn print_effect(&self) -> Result<(), Failure> {
        let Some(effect) = self.effect else { return Ok(()) };
        if self.dry_run && !self.changes.is_empty() {
            let columns = ["ACCOUNT", "MODEL", "VARIANT", "WINDOW", "#LIMIT TPM", "#FLOOR TPM", "#CEILING TPM"];
            let mut rows = Rows::new(&columns);
            for change in &self.changes {
                let key = change.key.clone().unwrap_or_default();
                rows.push([
                    key.account,
                    key.model,
                    key.variant,
                    words::window(change.window),
                    turn(change.limit_before_tpm, change.limit_after_tpm),
                    turn(change.floor_before_tpm, change.floor_after_tpm),
                    turn(change.ceiling_before_tpm, change.ceiling_after_tpm),
                ]);
            }
            print(&format!("\n{rows}"))?;
        }
        if effect.keys == 0 {
            remark("No key that the server holds is concerned.");
            return Ok(());
        }
        if (effect.limits_raised, effect.limits_lowered, effect.limits_released) == (0, 0, 0) {
            remark(&format!("Known keys: {}; none of their limits moves.", grouped(effect.keys)));
            return Ok(());
        }
        let noun = if effect.keys == 1 { "key" } else { "keys" };
        remark(&format!(
            "{} known {noun}: {} limits raised by {} TPM, {} lowered by {} TPM, {} free to sink to a lower floor",
            grouped(effect.keys),
            grouped(effect.limits_raised),
            grouped(effect.gained_tpm),
            grouped(effect.limits_lowered),
            grouped(effect.lost_tpm),
            grouped(effect.limits_released),
        ));
        Ok(())
    }
}

/// `10 -> 20`, or one number where nothing changes.
fn turn(before: u64, after: u64) -> String {
    if before == after { grouped(after) } else { format!("{} -> {}", grouped(before), grouped(after)) }
}

/// The effect as JSON, with the names of the wire.
pub(in crate::command) fn effect(effect: &WriteEffect) -> Value {
    json!({
        "keys": effect.keys,
        "limits_raised": effect.limits_raised,
        "limits_lowered": effect.limits_lowered,
        "limits_released": effect.limits_released,
        "gained_tpm": effect.gained_tpm,
        "lost_tpm": effect.lost_tpm,
    })
}

/// A mask of these paths. None at all would mean every field, so that is refused.
pub(super) fn mask(paths: Vec<String>) -> Result<Option<FieldMask>, Failure> {
    if paths.is_empty() {
        return Err(Failure::Usage("nothing to change: name at least one field by its flag, see --help".to_owned()));
    }
    Ok(Some(FieldMask { paths }))
}

fn change(change: &LimitChange) -> Value {
    let key = change.key.clone().unwrap_or_default();
    json!({
        "key": { "account": key.account, "model": key.model, "variant": key.variant },
        "window": words::window(change.window),
        "limit_tpm": [change.limit_before_tpm, change.limit_after_tpm],
        "floor_tpm": [change.floor_before_tpm, change.floor_after_tpm],
        "ceiling_tpm": [change.ceiling_before_tpm, change.ceiling_after_tpm],
    })
}
