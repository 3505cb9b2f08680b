//! Creating, updating and deleting policy objects of any kind.

use tidegate_core::policy::{Kind, PolicyWrite, WriteError};
use tidegate_proto::convert::admin::{self, Entry, Id, WriteOptions};
use tidegate_proto::v1;
use tidegate_store::{PolicyWritten, Store};
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
}

impl<S: Store> Admin<S> {
    pub(super) async fn create<E: Entry>(
        &self,
        wire: Option<&E::Wire>,
        options: Option<&v1::WriteOptions>,
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse_for_create(options)?;
        let wanted = admin::create::<E>(wire)?;
        let mut attempt = 1;
        loop {
            let mut entry = wanted.clone();
            let made_name = entry.make_name(&self.store.policy());
            let write = PolicyWrite::Create(entry.into_written());
            match self.store.write_policy(self.clock.now(), write).await {
                // Somebody else was given this very name.
                Err(WriteError::AlreadyExists { .. }) if made_name && attempt < ATTEMPTS => attempt += 1,
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
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse(options)?;
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
            match self.store.write_policy(self.clock.now(), write).await {
                Err(WriteError::Stale { .. }) if options.expected_revision.is_none() && attempt < ATTEMPTS => {
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
    ) -> Result<Done<E::Wire>, Status> {
        let options = WriteOptions::parse(options)?;
        let write = PolicyWrite::Delete {
            kind: E::KIND,
            name: id.name.to_owned(),
            variant: id.variant.to_owned(),
            expected_revision: options.expected_revision,
        };
        let result = self.store.write_policy(self.clock.now(), write).await;
        done::<E>("delete", id, result, &options)
    }
}

/// The answer to a write of the object `id`; a write that took effect is logged, once.
fn done<E: Entry>(
    verb: &'static str,
    id: Id<'_>,
    result: Result<PolicyWritten, WriteError>,
    options: &WriteOptions,
) -> Result<Done<E::Wire>, Status> {
    let PolicyWritten { result, persisted } = result.map_err(|refused| admin::write_error(&refused))?;
    let entry = result.written.and_then(E::from_written);
    // A name that the server made is in the entry alone.
    let id = entry.as_ref().map_or(id, E::id);
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
    let warnings = result.warnings.iter().map(ToString::to_string).collect();
    Ok(Done { object: entry.as_ref().map(E::to_wire), persisted, warnings })
}
