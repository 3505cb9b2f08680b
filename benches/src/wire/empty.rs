//! What a call alone costs: the generated service, whose handlers answer a constant.
//!
//! Each constant is the message that tidegate answers to `tidegate bench` under the runner's limits, prepared once and cloned: its encoded
//! size is within some bytes of the real one, which the runner checks in every run.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::rate_limiter_service_server::RateLimiterService;
use tidegate_proto::v1::{
    BatchCheckAndReserveRequest, BatchCheckAndReserveResponse, BatchSettleRequest, BatchSettleResponse,
    CheckAndReserveRequest, CheckAndReserveResponse, CheckAndReserveResult, Decision, GetLimitsRequest,
    GetLimitsResponse, HttpHeader, PipelineRequest, PipelineResponse, ReleaseRequest, ReleaseResponse,
    ReportPressureRequest, ReportPressureResponse, ReportProgressRequest, ReportProgressResponse, ResponseView,
    SettleOutcome, SettleRequest, SettleResponse, SettleResult, Tokens, Window, WindowStatus, check_and_reserve_result,
    settle_result,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Characters of a reservation id for names as `tidegate bench` has them.
const RESERVATION_ID: usize = 179;
/// The limit of every window, tokens a minute.
pub const LIMIT_TPM: u64 = 1_000_000_000_000;
/// A use of it as a minute of load leaves it.
const USED_TOKENS: u64 = 150_000_000;

/// Answers every call alike.
#[derive(Clone, Debug)]
pub struct Empty(Arc<Constants>);

#[derive(Debug)]
struct Constants {
    full: CheckAndReserveResponse,
    headers: CheckAndReserveResponse,
    windows: CheckAndReserveResponse,
    decision: CheckAndReserveResponse,
}

impl Default for Empty {
    fn default() -> Self {
        let decision = CheckAndReserveResponse {
            decision: Decision::Allow.into(),
            reservation_id: "A".repeat(RESERVATION_ID),
            http_status: 200,
            reserved: Some(Tokens { prompt: 1_000, uncached_prompt: 1_000, generated: 256 }),
            ..CheckAndReserveResponse::default()
        };
        let headers = CheckAndReserveResponse { headers: headers(), ..decision.clone() };
        let windows = CheckAndReserveResponse { windows: windows(), ..decision.clone() };
        let full = CheckAndReserveResponse { headers: headers.headers.clone(), ..windows.clone() };
        Self(Arc::new(Constants { full, headers, windows, decision }))
    }
}

fn windows() -> Vec<WindowStatus> {
    let status = |window: Window| WindowStatus {
        window: window.into(),
        limit_tpm: LIMIT_TPM,
        used_tokens: USED_TOKENS,
        held_tokens: 0,
        remaining_tokens: LIMIT_TPM - USED_TOKENS,
        reset_after: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        binding: false,
        floor_tpm: LIMIT_TPM,
        ceiling_tpm: LIMIT_TPM,
        effective_limit_tpm: LIMIT_TPM,
    };
    [Window::Prompt, Window::UncachedPrompt, Window::Generated].map(status).to_vec()
}

fn headers() -> Vec<HttpHeader> {
    let (limit, left) = (LIMIT_TPM / 60, (LIMIT_TPM - USED_TOKENS) / 60);
    let header = |name: &str, value: String| HttpHeader { name: name.to_owned(), value };
    let windows = ["prompt", "cache-adjusted-prompt", "generated"];
    let limits = windows.map(|window| header(&format!("x-ratelimit-limit-tokens-{window}"), limit.to_string()));
    let remaining = windows.map(|window| header(&format!("x-ratelimit-remaining-tokens-{window}"), left.to_string()));
    let members = |member: &dyn Fn(&str) -> String| ["prompt", "uncached_prompt", "generated"].map(member).join(", ");
    let policy = members(&|window| format!("\"{window}\";q={LIMIT_TPM};qu=\"tokens\";w=60"));
    let state = members(&|window| format!("\"{window}\";r={};t=60", LIMIT_TPM - USED_TOKENS));
    let rest = [
        header("x-ratelimit-over-limit", "no".to_owned()),
        header("ratelimit-policy", policy),
        header("ratelimit", state),
    ];
    limits.into_iter().chain(remaining).chain(rest).collect()
}

impl Empty {
    fn check(&self, request: &CheckAndReserveRequest) -> CheckAndReserveResponse {
        let answer = match request.view() {
            ResponseView::Unspecified | ResponseView::Full => &self.0.full,
            ResponseView::Headers => &self.0.headers,
            ResponseView::Windows => &self.0.windows,
            ResponseView::Decision => &self.0.decision,
        };
        answer.clone()
    }

    fn pipelined(&self, request: &PipelineRequest) -> PipelineResponse {
        let applied = SettleOutcome::Applied.into();
        let answer = request.call.as_ref().map(|call| match call {
            Call::CheckAndReserve(call) => Answer::CheckAndReserve(self.check(call)),
            Call::ReportProgress(_) => Answer::ReportProgress(ReportProgressResponse { outcome: applied }),
            Call::Settle(_) => Answer::Settle(settled()),
            Call::Release(_) => Answer::Release(ReleaseResponse { outcome: applied }),
            Call::GetLimits(_) => Answer::GetLimits(GetLimitsResponse { windows: self.0.windows.windows.clone() }),
        });
        PipelineResponse { call_id: request.call_id, answer }
    }
}

fn settled() -> SettleResponse {
    SettleResponse { outcome: SettleOutcome::Applied.into(), clamped: false }
}

#[tonic::async_trait]
impl RateLimiterService for Empty {
    type PipelineStream = Answers;

    async fn check_and_reserve(
        &self,
        request: Request<CheckAndReserveRequest>,
    ) -> Result<Response<CheckAndReserveResponse>, Status> {
        Ok(Response::new(self.check(request.get_ref())))
    }

    async fn report_progress(
        &self,
        _: Request<ReportProgressRequest>,
    ) -> Result<Response<ReportProgressResponse>, Status> {
        Ok(Response::new(ReportProgressResponse { outcome: SettleOutcome::Applied.into() }))
    }

    async fn settle(&self, _: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        Ok(Response::new(settled()))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        Ok(Response::new(ReleaseResponse { outcome: SettleOutcome::Applied.into() }))
    }

    async fn get_limits(&self, _: Request<GetLimitsRequest>) -> Result<Response<GetLimitsResponse>, Status> {
        Ok(Response::new(GetLimitsResponse { windows: self.0.windows.windows.clone() }))
    }

    async fn batch_check_and_reserve(
        &self,
        request: Request<BatchCheckAndReserveRequest>,
    ) -> Result<Response<BatchCheckAndReserveResponse>, Status> {
        let answered =
            |call| CheckAndReserveResult { result: Some(check_and_reserve_result::Result::Response(self.check(call))) };
        let results = request.get_ref().requests.iter().map(answered).collect();
        Ok(Response::new(BatchCheckAndReserveResponse { results }))
    }

    async fn batch_settle(
        &self,
        request: Request<BatchSettleRequest>,
    ) -> Result<Response<BatchSettleResponse>, Status> {
        let result = |_| SettleResult { result: Some(settle_result::Result::Response(settled())) };
        let results = request.get_ref().requests.iter().map(result).collect();
        Ok(Response::new(BatchSettleResponse { results }))
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Ok(Response::new(Answers { empty: self.clone(), calls: request.into_inner() }))
    }

    async fn report_pressure(
        &self,
        _: Request<ReportPressureRequest>,
    ) -> Result<Response<ReportPressureResponse>, Status> {
        Ok(Response::new(ReportPressureResponse {}))
    }
}

/// The calls of a stream, each answered where it is read: faster than a task and a channel.
#[derive(Debug)]
pub struct Answers {
    empty: Empty,
    calls: Streaming<PipelineRequest>,
}

impl Stream for Answers {
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let call = Pin::new(&mut self.calls).poll_next(cx);
        call.map(|call| call.map(|call| call.map(|call| self.empty.pipelined(&call))))
    }
}
