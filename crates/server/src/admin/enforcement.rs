//! The global switch between enforcing limits and shadow.

use tidegate_core::policy::{PolicyWrite, Written};
use tidegate_proto::convert::admin::{self, WriteOptions};
use tidegate_proto::v1;
use tidegate_store::{Author, Store};
use tonic::Status;

use super::Admin;
use super::write::not_written;

impl<S: Store> Admin<S> {
    /// Turns the switch; a turn that took effect is logged, once.
    pub(super) async fn turn(
        &self,
        wire: &v1::UpdateEnforcementRequest,
        peer: String,
    ) -> Result<v1::UpdateEnforcementResponse, Status> {
        let options = WriteOptions::parse(wire.options.as_ref())?;
        let entry = Written::Enforcement(admin::turned_switch(wire)?);
        let write = PolicyWrite::Update { entry, expected_revision: options.expected_revision };
        let author = Author {
            rpc: "UpdateEnforcement".to_owned(),
            reason: options.reason.clone(),
            peer,
            unverified_actor: options.actor.clone(),
        };
        let written = self.store.write_policy(self.clock.now(), write, author, options.dry_run).await;
        let written = written.map_err(not_written)?;
        let switch = match written.result.written {
            Some(Written::Enforcement(switch)) => switch,
            _ => self.store.policy().enforcement(),
        };
        if !options.dry_run {
            tracing::warn!(
                enforcement = switch.enforcement.name(),
                revision = switch.revision,
                reason = options.reason,
                unverified_actor = options.actor,
                persisted = written.persisted,
                "enforcement switched"
            );
        }
        Ok(v1::UpdateEnforcementResponse {
            enforcement: Some(admin::wire_switch(switch)),
            persisted: written.persisted,
        })
    }
}
