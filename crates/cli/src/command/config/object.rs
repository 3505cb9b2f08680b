//! The four kinds of objects, and the calls that read and write each.

use tidegate_core::policy::{Account, Model, Override, Tier};
use tidegate_core::time::Timestamp;
use tidegate_proto::convert::admin::{Entry, Id};
use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::{self, WriteEffect, WriteOptions};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::fields::{self, Fields};

/// Rows asked for at a time: the most that the service gives.
const PAGE_SIZE: u32 = 1_000;

type Client = AdminServiceClient<Channel>;

/// Account, model and variant.
pub(super) type Scope = (String, Option<String>, Option<String>);

/// What a write's answer says.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) effect: WriteEffect,
    pub(super) persisted: bool,
    pub(super) warnings: Vec<String>,
}

/// One write, by what it does; `wire` is the object as it shall be.
pub(super) enum Write<'a, W> {
    Create(W),
    Update(W),
    Delete(Id<'a>),
}

/// A kind of object, as the admin service reads and writes it.
pub(super) trait Object: Entry {
    /// A page of the server's, ordered by name, and what asks for the next; empty after the last.
    async fn page(client: &mut Client, page_token: String) -> Result<(Vec<Self::Wire>, String), Status>;

    /// Writes it.
    async fn write(
        client: &mut Client,
        write: Write<'_, Self::Wire>,
        options: Option<WriteOptions>,
    ) -> Result<Written, Status>;

    /// What it states.
    fn fields(wire: &Self::Wire) -> Fields;

    /// The revision that the server gave it.
    fn revision_of(wire: &Self::Wire) -> u64;

    /// Whether it is no longer in force at `now`.
    fn has_expired(&self, _now: Timestamp) -> bool {
        false
    }

    /// The scope of an override that is in force at `now`; each has at most one.
    fn scope(_wire: &Self::Wire, _now: Timestamp) -> Option<Scope> {
        None
    }
}

/// The three calls that write objects of one kind; their messages differ in name alone.
macro_rules! write_calls {
    ($field:ident, $create:ident $create_call:ident, $update:ident $update_call:ident, $delete:ident $delete_call:ident,
     |$id:ident| { $($named:tt)* }) => {
        async fn write(
            client: &mut Client,
            write: Write<'_, Self::Wire>,
            options: Option<WriteOptions>,
        ) -> Result<Written, Status> {
            match write {
                Write::Create(wire) => {
                    written!(client.$create_call(v1::$create { $field: Some(wire), options }))
                }
                // No mask: every field that can change.
                Write::Update(wire) => {
                    written!(client.$update_call(v1::$update { $field: Some(wire), update_mask: None, options }))
                }
                Write::Delete($id) => written!(client.$delete_call(v1::$delete { $($named)*, options })),
            }
        }
    };
}

/// What the answer of any write says.
macro_rules! written {
    ($call:expr) => {
        $call.await.map(Response::into_inner).map(|answer| Written {
            effect: answer.effect.unwrap_or_default(),
            persisted: answer.persisted,
            warnings: answer.warnings,
        })
    };
}

impl Object for Tier {
    async fn page(client: &mut Client, page_token: String) -> Result<(Vec<v1::Tier>, String), Status> {
        let page = client.list_tiers(v1::ListTiersRequest { page_size: PAGE_SIZE, page_token }).await?.into_inner();
        Ok((page.tiers, page.next_page_token))
    }

    write_calls!(
        tier,
        CreateTierRequest create_tier,
        UpdateTierRequest update_tier,
        DeleteTierRequest delete_tier,
        |id| { name: id.name.to_owned() }
    );

    fn fields(wire: &v1::Tier) -> Fields {
        fields::of_tier(wire)
    }

    fn revision_of(wire: &v1::Tier) -> u64 {
        wire.revision
    }
}

impl Object for Account {
    async fn page(client: &mut Client, page_token: String) -> Result<(Vec<v1::Account>, String), Status> {
        let request = v1::ListAccountsRequest { page_size: PAGE_SIZE, page_token, ..Default::default() };
        let page = client.list_accounts(request).await?.into_inner();
        Ok((page.accounts, page.next_page_token))
    }

    write_calls!(
        account,
        CreateAccountRequest create_account,
        UpdateAccountRequest update_account,
        DeleteAccountRequest delete_account,
        |id| { name: id.name.to_owned() }
    );

    fn fields(wire: &v1::Account) -> Fields {
        fields::of_account(wire)
    }

    fn revision_of(wire: &v1::Account) -> u64 {
        wire.revision
    }
}

impl Object for Model {
    async fn page(client: &mut Client, page_token: String) -> Result<(Vec<v1::Model>, String), Status> {
        let page = client.list_models(v1::ListModelsRequest { page_size: PAGE_SIZE, page_token }).await?.into_inner();
        Ok((page.models, page.next_page_token))
    }

    write_calls!(
        model,
        CreateModelRequest create_model,
        UpdateModelRequest update_model,
        DeleteModelRequest delete_model,
        |id| { name: id.name.to_owned(), variant: id.variant.to_owned() }
    );

    fn fields(wire: &v1::Model) -> Fields {
        fields::of_model(wire)
    }

    fn revision_of(wire: &v1::Model) -> u64 {
        wire.revision
    }
}

impl Object for Override {
    async fn page(client: &mut Client, page_token: String) -> Result<(Vec<v1::Override>, String), Status> {
        let request = v1::ListOverridesRequest { page_size: PAGE_SIZE, page_token, account: String::new() };
        let page = client.list_overrides(request).await?.into_inner();
        Ok((page.overrides, page.next_page_token))
    }

    write_calls!(
        r#override,
        CreateOverrideRequest create_override,
        UpdateOverrideRequest update_override,
        DeleteOverrideRequest delete_override,
        |id| { override_id: id.name.to_owned() }
    );

    fn fields(wire: &v1::Override) -> Fields {
        fields::of_override(wire)
    }

    fn revision_of(wire: &v1::Override) -> u64 {
        wire.revision
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    fn scope(wire: &v1::Override, now: Timestamp) -> Option<Scope> {
        let seconds = |time: &prost_types::Timestamp| u64::try_from(time.seconds).unwrap_or(0);
        if wire.expire_time.as_ref().is_some_and(|time| Timestamp::from_seconds(seconds(time)) <= now) {
            return None;
        }
        let v1::Scope { account, model, variant } = wire.scope.clone().unwrap_or_default();
        Some((account, model, variant))
    }
}

/// Runs `$body` with `$object` being the type of `$kind`.
macro_rules! of_kind {
    ($kind:expr, $object:ident => $body:expr) => {
        match $kind {
            Kind::Tier => {
                type $object = Tier;
                $body
            }
            Kind::Account => {
                type $object = Account;
                $body
            }
            Kind::Model => {
                type $object = Model;
                $body
            }
            Kind::Override => {
                type $object = Override;
                $body
            }
        }
    };
}
pub(super) use of_kind;
