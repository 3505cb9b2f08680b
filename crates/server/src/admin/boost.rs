//! Boosts: limits raised now, until an instant.

use tidegate_core::policy::{PolicyWrite, Written};
use tidegate_proto::convert::admin::{self, WriteOptions};
use tidegate_proto::v1;
use tidegate_store::{Author, Store};
use tonic::Status;

use super::Admin;
use super::write::not_written;

impl<S: Store> Admin<S> {
    /// Raises limits; a boost that took effect is logged, once.
    pub(super) async fn raise(&self, wire: &v1::BoostRequest, peer: String) -> Result<v1::BoostResponse, Status> {
        let options = WriteOptions::parse(wire.options.as_ref())?;
        let entry = Written::Boost(admin::boost(wire)?);
        let write = PolicyWrite::Update { entry, expected_revision: options.expected_revision };
        let author = Author {
            rpc: "Boost".to_owned(),
            reason: options.reason.clone(),
            peer,
            unverified_actor: options.actor.clone(),
        };
        let object = write.title();
        let written = self.store.write_policy(self.clock.now(), write, author, options.dry_run).await;
        let mut written = written.map_err(not_written)?;
        if !options.dry_run {
            tracing::info!(
                object,
                reason = options.reason,
                unverified_actor = options.actor,
                persisted = written.persisted,
                "limits boosted"
            );
        }
        let boosted = match &written.result.written {
            Some(Written::Boost(boost)) => Some(admin::wire_boost(boost)),
            _ => None,
        };
        Ok(v1::BoostResponse {
            changes: admin::wire_changes(&written.effect.finish()),
            persisted: written.persisted,
            warnings: written.result.warnings.iter().map(ToString::to_string).collect(),
            effect: Some(admin::wire_effect(&written.effect)),
            boosted,
        })
    }
}
