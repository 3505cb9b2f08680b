//! The calls as gRPC brings them.

use tidegate_proto::error;
use tidegate_proto::v1::rate_limiter_service_server::RateLimiterService;
use tidegate_proto::v1::{
    BatchCheckAndReserveRequest, BatchCheckAndReserveResponse, BatchSettleRequest, BatchSettleResponse,
    CheckAndReserveRequest, CheckAndReserveResponse, GetLimitsRequest, GetLimitsResponse, PipelineRequest,
    PipelineResponse, ReleaseRequest, ReleaseResponse, ReportPressureRequest, ReportPressureResponse,
    ReportProgressRequest, ReportProgressResponse, SettleRequest, SettleResponse,
};
use tidegate_store::Store;
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};

use super::Limiter;

#[tonic::async_trait]
impl<S: Store> RateLimiterService for Limiter<S> {
    async fn check_and_reserve(
        &self,
        request: Request<CheckAndReserveRequest>,
    ) -> Result<Response<CheckAndReserveResponse>, Status> {
        self.check(request.get_ref()).await.map(Response::new)
    }

    async fn report_progress(
        &self,
        request: Request<ReportProgressRequest>,
    ) -> Result<Response<ReportProgressResponse>, Status> {
        self.progress(request.get_ref()).await.map(Response::new)
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        self.settled(request.get_ref()).await.map(Response::new)
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        self.released(request.get_ref()).await.map(Response::new)
    }

    async fn get_limits(&self, request: Request<GetLimitsRequest>) -> Result<Response<GetLimitsResponse>, Status> {
        self.limits(request.get_ref()).await.map(Response::new)
    }

    async fn batch_check_and_reserve(
        &self,
        request: Request<BatchCheckAndReserveRequest>,
    ) -> Result<Response<BatchCheckAndReserveResponse>, Status> {
        self.check_all(&request.get_ref().requests).await.map(Response::new)
    }

    async fn batch_settle(
        &self,
        request: Request<BatchSettleRequest>,
    ) -> Result<Response<BatchSettleResponse>, Status> {
        self.settle_all(&request.get_ref().requests).await.map(Response::new)
    }

    type PipelineStream = Empty<Result<PipelineResponse, Status>>;

    /// Never called: its stream is read as it comes, before it gets here.
    async fn pipeline(&self, _: Request<Streaming<PipelineRequest>>) -> Result<Response<Self::PipelineStream>, Status> {
        Err(error::unimplemented("this way to the pipeline"))
    }

    async fn report_pressure(
        &self,
        request: Request<ReportPressureRequest>,
    ) -> Result<Response<ReportPressureResponse>, Status> {
        self.pressure(request.get_ref()).await.map(Response::new)
    }
}
