//! `AdminService`: policy and limits, for operators.
//!
//! A write is parsed, given to the [`Store`] and answered; `write` has what the four kinds of objects share, `list` what
//! their lists share, `changes` the audit log. The wire's side of it, masks included, is [`tidegate_proto::convert::admin`].

mod boost;
mod changes;
mod enforcement;
mod explain;
mod list;
mod reset;
pub mod watch;
mod write;

use std::sync::Arc;

use tidegate_core::policy::{Account, Model, Override, Tier};
use tidegate_proto::convert::admin::{self as convert, Entry, Id};
use tidegate_proto::v1;
use tidegate_proto::v1::admin_service_server::AdminService;
use tidegate_store::Store;
use tonic::{Request, Response, Status};

use self::watch::{LimitsStream, Watches};
use self::write::Done;
use crate::clock::Clock;
use crate::connection::Peer;

/// The service over a store. Clones share everything.
#[derive(Debug)]
pub struct Admin<S> {
    store: Arc<S>,
    clock: Clock,
    watches: Watches,
}

impl<S> Admin<S> {
    /// Reads and writes the policy of `store` at the time of `clock`.
    #[must_use]
    pub fn new(store: Arc<S>, clock: Clock) -> Self {
        Self { store, clock, watches: Watches::default() }
    }

    /// The same with `watches`, which end when their process stops.
    #[must_use]
    pub(crate) fn with_watches(self, watches: Watches) -> Self {
        Self { watches, ..self }
    }
}

impl<S> Clone for Admin<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), clock: self.clock.clone(), watches: self.watches.clone() }
    }
}

impl<S: Store> Admin<S> {
    /// The object of this name.
    fn find<E: Entry>(&self, id: Id<'_>) -> Result<E::Wire, Status> {
        E::find(&self.store.policy(), id).map(E::to_wire).ok_or_else(|| id.not_found(E::KIND))
    }
}

#[tonic::async_trait]
impl<S: Store> AdminService for Admin<S> {
    async fn create_tier(
        &self,
        request: Request<v1::CreateTierRequest>,
    ) -> Result<Response<v1::CreateTierResponse>, Status> {
        let peer = peer(&request);
        let v1::CreateTierRequest { tier: object, options } = request.into_inner();
        let Done { object, persisted, warnings, changes, effect } =
            self.create::<Tier>(object.as_ref(), options.as_ref(), peer).await?;
        Ok(Response::new(v1::CreateTierResponse { tier: object, changes, persisted, warnings, effect }))
    }

    async fn get_tier(&self, request: Request<v1::GetTierRequest>) -> Result<Response<v1::GetTierResponse>, Status> {
        let wire = request.get_ref();
        let object = self.find::<Tier>(Id::parse("name", &wire.name, "")?)?;
        Ok(Response::new(v1::GetTierResponse { tier: Some(object) }))
    }

    async fn list_tiers(
        &self,
        request: Request<v1::ListTiersRequest>,
    ) -> Result<Response<v1::ListTiersResponse>, Status> {
        let wire = request.get_ref();
        let page = self.page::<Tier>(b"", wire.page_size, &wire.page_token, |_| true)?;
        Ok(Response::new(v1::ListTiersResponse { tiers: page.rows, next_page_token: page.next_page_token }))
    }

    async fn update_tier(
        &self,
        request: Request<v1::UpdateTierRequest>,
    ) -> Result<Response<v1::UpdateTierResponse>, Status> {
        let peer = peer(&request);
        let v1::UpdateTierRequest { tier: object, update_mask, options } = request.into_inner();
        let done = self.update::<Tier>(object.as_ref(), update_mask.as_ref(), options.as_ref(), peer).await?;
        let Done { object, persisted, warnings, changes, effect } = done;
        Ok(Response::new(v1::UpdateTierResponse { tier: object, changes, persisted, warnings, effect }))
    }

    async fn delete_tier(
        &self,
        request: Request<v1::DeleteTierRequest>,
    ) -> Result<Response<v1::DeleteTierResponse>, Status> {
        let wire = request.get_ref();
        let id = Id::parse("name", &wire.name, "")?;
        let Done { persisted, warnings, changes, effect, .. } =
            self.delete::<Tier>(id, wire.options.as_ref(), peer(&request)).await?;
        Ok(Response::new(v1::DeleteTierResponse { changes, persisted, warnings, effect }))
    }

    async fn create_account(
        &self,
        request: Request<v1::CreateAccountRequest>,
    ) -> Result<Response<v1::CreateAccountResponse>, Status> {
        let peer = peer(&request);
        let v1::CreateAccountRequest { account: object, options } = request.into_inner();
        let Done { object, persisted, warnings, changes, effect } =
            self.create::<Account>(object.as_ref(), options.as_ref(), peer).await?;
        Ok(Response::new(v1::CreateAccountResponse { account: object, changes, persisted, warnings, effect }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let wire = request.get_ref();
        let object = self.find::<Account>(Id::parse("name", &wire.name, "")?)?;
        Ok(Response::new(v1::GetAccountResponse { account: Some(object) }))
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        let wire = request.get_ref();
        let tier = |account: &Account| wire.tier.is_empty() || account.tier == wire.tier;
        let page = self.page::<Account>(wire.tier.as_bytes(), wire.page_size, &wire.page_token, tier)?;
        Ok(Response::new(v1::ListAccountsResponse { accounts: page.rows, next_page_token: page.next_page_token }))
    }

    async fn update_account(
        &self,
        request: Request<v1::UpdateAccountRequest>,
    ) -> Result<Response<v1::UpdateAccountResponse>, Status> {
        let peer = peer(&request);
        let v1::UpdateAccountRequest { account: object, update_mask, options } = request.into_inner();
        let done = self.update::<Account>(object.as_ref(), update_mask.as_ref(), options.as_ref(), peer).await?;
        let Done { object, persisted, warnings, changes, effect } = done;
        Ok(Response::new(v1::UpdateAccountResponse { account: object, changes, persisted, warnings, effect }))
    }

    async fn delete_account(
        &self,
        request: Request<v1::DeleteAccountRequest>,
    ) -> Result<Response<v1::DeleteAccountResponse>, Status> {
        let wire = request.get_ref();
        let id = Id::parse("name", &wire.name, "")?;
        let Done { persisted, warnings, changes, effect, .. } =
            self.delete::<Account>(id, wire.options.as_ref(), peer(&request)).await?;
        Ok(Response::new(v1::DeleteAccountResponse { changes, persisted, warnings, effect }))
    }

    async fn create_model(
        &self,
        request: Request<v1::CreateModelRequest>,
    ) -> Result<Response<v1::CreateModelResponse>, Status> {
        let peer = peer(&request);
        let v1::CreateModelRequest { model: object, options } = request.into_inner();
        let Done { object, persisted, warnings, changes, effect } =
            self.create::<Model>(object.as_ref(), options.as_ref(), peer).await?;
        Ok(Response::new(v1::CreateModelResponse { model: object, changes, persisted, warnings, effect }))
    }

    async fn get_model(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::GetModelResponse>, Status> {
        let wire = request.get_ref();
        let object = self.find::<Model>(Id::parse("name", &wire.name, &wire.variant)?)?;
        Ok(Response::new(v1::GetModelResponse { model: Some(object) }))
    }

    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let wire = request.get_ref();
        let page = self.page::<Model>(b"", wire.page_size, &wire.page_token, |_| true)?;
        Ok(Response::new(v1::ListModelsResponse { models: page.rows, next_page_token: page.next_page_token }))
    }

    async fn update_model(
        &self,
        request: Request<v1::UpdateModelRequest>,
    ) -> Result<Response<v1::UpdateModelResponse>, Status> {
        let peer = peer(&request);
        let v1::UpdateModelRequest { model: object, update_mask, options } = request.into_inner();
        let done = self.update::<Model>(object.as_ref(), update_mask.as_ref(), options.as_ref(), peer).await?;
        let Done { object, persisted, warnings, changes, effect } = done;
        Ok(Response::new(v1::UpdateModelResponse { model: object, changes, persisted, warnings, effect }))
    }

    async fn delete_model(
        &self,
        request: Request<v1::DeleteModelRequest>,
    ) -> Result<Response<v1::DeleteModelResponse>, Status> {
        let wire = request.get_ref();
        let id = Id::parse("name", &wire.name, &wire.variant)?;
        let Done { persisted, warnings, changes, effect, .. } =
            self.delete::<Model>(id, wire.options.as_ref(), peer(&request)).await?;
        Ok(Response::new(v1::DeleteModelResponse { changes, persisted, warnings, effect }))
    }

    async fn create_override(
        &self,
        request: Request<v1::CreateOverrideRequest>,
    ) -> Result<Response<v1::CreateOverrideResponse>, Status> {
        let peer = peer(&request);
        let v1::CreateOverrideRequest { r#override: object, options } = request.into_inner();
        let Done { object, persisted, warnings, changes, effect } =
            self.create::<Override>(object.as_ref(), options.as_ref(), peer).await?;
        Ok(Response::new(v1::CreateOverrideResponse { r#override: object, changes, persisted, warnings, effect }))
    }

    async fn get_override(
        &self,
        request: Request<v1::GetOverrideRequest>,
    ) -> Result<Response<v1::GetOverrideResponse>, Status> {
        let wire = request.get_ref();
        let object = self.find::<Override>(Id::parse("override_id", &wire.override_id, "")?)?;
        Ok(Response::new(v1::GetOverrideResponse { r#override: Some(object) }))
    }

    async fn list_overrides(
        &self,
        request: Request<v1::ListOverridesRequest>,
    ) -> Result<Response<v1::ListOverridesResponse>, Status> {
        let wire = request.get_ref();
        let account = |entry: &Override| wire.account.is_empty() || entry.scope.account == wire.account;
        let page = self.page::<Override>(wire.account.as_bytes(), wire.page_size, &wire.page_token, account)?;
        Ok(Response::new(v1::ListOverridesResponse { overrides: page.rows, next_page_token: page.next_page_token }))
    }

    async fn update_override(
        &self,
        request: Request<v1::UpdateOverrideRequest>,
    ) -> Result<Response<v1::UpdateOverrideResponse>, Status> {
        let peer = peer(&request);
        let v1::UpdateOverrideRequest { r#override: object, update_mask, options } = request.into_inner();
        let done = self.update::<Override>(object.as_ref(), update_mask.as_ref(), options.as_ref(), peer).await?;
        let Done { object, persisted, warnings, changes, effect } = done;
        Ok(Response::new(v1::UpdateOverrideResponse { r#override: object, changes, persisted, warnings, effect }))
    }

    async fn delete_override(
        &self,
        request: Request<v1::DeleteOverrideRequest>,
    ) -> Result<Response<v1::DeleteOverrideResponse>, Status> {
        let wire = request.get_ref();
        let id = Id::parse("override_id", &wire.override_id, "")?;
        let Done { persisted, warnings, changes, effect, .. } =
            self.delete::<Override>(id, wire.options.as_ref(), peer(&request)).await?;
        Ok(Response::new(v1::DeleteOverrideResponse { changes, persisted, warnings, effect }))
    }

    async fn get_enforcement(
        &self,
        _: Request<v1::GetEnforcementRequest>,
    ) -> Result<Response<v1::GetEnforcementResponse>, Status> {
        let switch = convert::wire_switch(self.store.policy().enforcement());
        Ok(Response::new(v1::GetEnforcementResponse { enforcement: Some(switch) }))
    }

    async fn update_enforcement(
        &self,
        request: Request<v1::UpdateEnforcementRequest>,
    ) -> Result<Response<v1::UpdateEnforcementResponse>, Status> {
        let peer = peer(&request);
        self.turn(request.get_ref(), peer).await.map(Response::new)
    }

    async fn list_limits(
        &self,
        request: Request<v1::ListLimitsRequest>,
    ) -> Result<Response<v1::ListLimitsResponse>, Status> {
        self.limits(request.into_inner()).await.map(Response::new)
    }

    type WatchLimitsStream = LimitsStream;

    async fn watch_limits(
        &self,
        request: Request<v1::WatchLimitsRequest>,
    ) -> Result<Response<Self::WatchLimitsStream>, Status> {
        self.watch(request.into_inner()).map(Response::new)
    }

    async fn explain_limit(
        &self,
        request: Request<v1::ExplainLimitRequest>,
    ) -> Result<Response<v1::ExplainLimitResponse>, Status> {
        self.explain(request.get_ref()).await.map(Response::new)
    }

    async fn reset_limit(
        &self,
        request: Request<v1::ResetLimitRequest>,
    ) -> Result<Response<v1::ResetLimitResponse>, Status> {
        let peer = peer(&request);
        self.reset(request.get_ref(), peer).await.map(Response::new)
    }

    async fn boost(&self, request: Request<v1::BoostRequest>) -> Result<Response<v1::BoostResponse>, Status> {
        let peer = peer(&request);
        self.raise(request.get_ref(), peer).await.map(Response::new)
    }

    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<v1::ListChangesResponse>, Status> {
        self.changes(request.get_ref()).await.map(Response::new)
    }
}

/// Who calls, as the server sees it; "" where it does not.
fn peer<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests;
