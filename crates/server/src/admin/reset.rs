//! Setting one key's limits back to their floors.

use tidegate_core::window::{PerWindow, Window};
use tidegate_proto::convert::admin::{self, WriteOptions};
use tidegate_proto::convert::{self, InvalidField};
use tidegate_proto::error::{self, Object};
use tidegate_proto::v1;
use tidegate_store::{Author, Reset, ResetDone, Store};
use tonic::Status;

use super::Admin;
use super::write::not_durable;

impl<S: Store> Admin<S> {
    /// Sets a key back; one that took effect is logged, once.
    pub(super) async fn reset(
        &self,
        wire: &v1::ResetLimitRequest,
        peer: String,
    ) -> Result<v1::ResetLimitResponse, Status> {
        let options = WriteOptions::parse(wire.options.as_ref())?;
        if options.expected_revision.is_some() {
            let message = "must be unset: a limit has no revision";
            return Err(InvalidField::new("options.expected_revision", message).into());
        }
        let key = convert::limit_key(wire.key.as_ref())?;
        let windows = windows(&wire.windows)?;
        let author = Author {
            rpc: "ResetLimit".to_owned(),
            reason: options.reason.clone(),
            peer,
            unverified_actor: options.actor.clone(),
        };
        let reset = Reset { key: key.to_owned(), windows, drop_holds: wire.drop_holds };
        let done = self.store.reset_limit(self.clock.now(), &reset, author, options.dry_run).await;
        let done = done
            .map_err(|failure| not_durable(&failure))?
            .ok_or_else(|| error::not_found(Object::LimitKey, &key.to_string()))?;
        let ResetDone { mut effect, persisted, dropped_hold_tokens, boosted } = done;
        if !options.dry_run {
            tracing::info!(key = %key, reason = options.reason, unverified_actor = options.actor, persisted, "limit reset");
        }
        let kept = boosted.iter().filter(|(_, boosted)| **boosted);
        let warning = |window: Window| format!("{}: a boost is in force and keeps the limit up", window.name());
        Ok(v1::ResetLimitResponse {
            changes: admin::wire_changes(&effect.finish()),
            persisted,
            warnings: kept.map(|(window, _)| warning(window)).collect(),
            dropped_hold_tokens,
            effect: Some(admin::wire_effect(&effect)),
        })
    }
}

/// The windows that are named; none: all.
fn windows(wire: &[i32]) -> Result<PerWindow<bool>, InvalidField> {
    let mut windows = PerWindow::from_fn(|_| wire.is_empty());
    for window in wire {
        match v1::Window::try_from(*window) {
            Ok(v1::Window::Prompt) => windows.prompt = true,
            Ok(v1::Window::UncachedPrompt) => windows.uncached_prompt = true,
            Ok(v1::Window::Generated) => windows.generated = true,
            Ok(v1::Window::Unspecified) | Err(_) => return Err(InvalidField::new("windows", "names no window")),
        }
    }
    Ok(windows)
}
