//! Creating, updating and deleting policy objects of any kind.

use std::time::Duration;

use tidegate_core::policy::{Kind, PolicyWrite, WriteError};
use tidegate_proto::convert::admin::{self, Entry, Id, WriteOptions};
use tidegate_proto::error;
use tidegate_proto::v1;
use tidegate_store::{Author, NotDurable, PolicyError, PolicyWritten, Store};
use tonic::Status;

use super::Admin;

/// How often a write that stated no revision, or left the name to the server, is tried when others write in between.
const ATTEMPTS: usize = 8;

/// What a write's answer says.
pub(super) struct Done<W> {
    /// The object as it is now; `None` once it was deleted.
    pub(super) object: Option<W>,
    pub(super) persisted: bool,
    pub(super) warnings: Vec<String>,
    pub(super) changes: Vec<v1::LimitChange>,
    pub(super) effect: Option<v1::WriteEffect>,
}

impl<S: Store> Admin<S> {
    pub(super) async fn create<E: Entry>(
        &self,
        wire: Option<&E::Wire>,
        options: Option<&v1::WriteOptions>,
        peer: String,
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse_for_create(options)?;
        let author = author("Create", E::KIND, &options, peer);
        let wanted = admin::create::<E>(wire)?;
        let mut attempt = 1;
        loop {
            let mut entry = wanted.clone();
            let made_name = entry.make_name(&self.store.policy());
            let write = PolicyWrite::Create(entry.into_written());
            match self.store.write_policy(self.clock.now(), write, author.clone(), options.dry_run).await {
                // Somebody else was given this very name.
                Err(PolicyError::Refused(WriteError::AlreadyExists { .. })) if made_name && attempt < ATTEMPTS => {
                    attempt += 1
                }
                result => return done::<E>("create", wanted.id(), result, &options),
            }
        }
    }

    /// Reads, merges and writes back at the revision that was read, so that of two updates at once none is lost.
    pub(super) async fn update<E: Entry>(
        &self,
        wire: Option<&E::Wire>,
        mask: Option<&prost_types::FieldMask>,
        options: Option<&v1::WriteOptions>,
        peer: String,
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse(options)?;
        let author = author("Update", E::KIND, &options, peer);
        let mut attempt = 1;
        loop {
            let policy = self.store.policy();
            let (current, wire) = admin::find_for_update::<E>(&policy, wire)?;
            let revision = current.revision();
            if let Some(expected) = options.expected_revision.filter(|expected| *expected != revision) {
                return Err(admin::write_error(&WriteError::Stale { expected, actual: revision }));
            }
            let entry = admin::update(current, wire, mask)?.into_written();
            let write = PolicyWrite::Update { entry, expected_revision: Some(revision) };
            match self.store.write_policy(self.clock.now(), write, author.clone(), options.dry_run).await {
                Err(PolicyError::Refused(WriteError::Stale { .. }))
                    if options.expected_revision.is_none() && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return done::<E>("update", current.id(), result, &options),
            }
        }
    }

    pub(super) async fn delete<E: Entry>(
        &self,
        id: Id<'_>,
        options: Option<&v1::WriteOptions>,
        peer: String,
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse(options)?;
        let write = PolicyWrite::Delete {
            kind: E::KIND,
            name: id.name.to_owned(),
            variant: id.variant.to_owned(),
            expected_revision: options.expected_revision,
        };
        let author = author("Delete", E::KIND, &options, peer);
        let result = self.store.write_policy(self.clock.now(), write, author, options.dry_run).await;
        done::<E>("delete", id, result, &options)
    }
}

/// Who writes, for the audit log; the call is a verb and the kind of object, such as `UpdateTier`.
fn author(verb: &str, kind: Kind, options: &WriteOptions, peer: String) -> Author {
    let kind = match kind {
        Kind::Tier => "Tier",
        Kind::Account => "Account",
        Kind::Model => "Model",
        Kind::Override => "Override",
    };
    Author {
        rpc: format!("{verb}{kind}"),
        reason: options.reason.clone(),
        peer,
        unverified_actor: options.actor.clone(),
    }
}

/// The error of a write that was refused, or of which it is not known whether the disk has it.
pub(super) fn not_written(failure: PolicyError) -> Status {
    match failure {
        PolicyError::Refused(refused) => admin::write_error(&refused),
        PolicyError::NotDurable(failure) => not_durable(&failure),
    }
}

/// UNAVAILABLE: the store may do better in a moment.
pub(super) fn not_durable(failure: &NotDurable) -> Status {
    /// The disk is tried again within as much.
    const RETRY_AFTER: Duration = Duration::from_secs(5);
    tracing::warn!(%failure, "policy not written");
    error::unavailable(error::STORE_UNAVAILABLE, failure.to_string(), RETRY_AFTER)
}

/// The answer to a write of the object `id`; a write that took effect is logged, once.
fn done<E: Entry>(
    verb: &'static str,
    id: Id<'_>,
    result: Result<PolicyWritten, PolicyError>,
    options: &WriteOptions,
) -> Result<Done<E::Wire>, Status> {
    let PolicyWritten { result, persisted, mut effect } = result.map_err(not_written)?;
    let entry = result.written.and_then(E::from_written);
    // A name that the server made is in the entry alone.
    let id = entry.as_ref().map_or(id, E::id);
    if !options.dry_run {
        tracing::info!(
            verb,
            kind = E::KIND.name(),
            name = id.name,
            variant = (E::KIND == Kind::Model).then_some(id.variant),
            revision = entry.as_ref().map(E::revision),
            reason = options.reason,
            unverified_actor = options.actor,
            persisted,
            "policy written"
        );
    }
    let warnings = result.warnings.iter().map(ToString::to_string).collect();
    let changes = admin::wire_changes(&effect.finish());
    let effect = Some(admin::wire_effect(&effect));
    Ok(Done { object: entry.as_ref().map(E::to_wire), persisted, warnings, changes, effect })
}
