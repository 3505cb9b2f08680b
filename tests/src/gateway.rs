//! A gateway, as the tests need one: it asks, reports, settles, and books every answer in a decision ledger.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{
    Account, Bounds, CheckAndReserveRequest, CheckAndReserveResponse, CreateAccountRequest, CreateTierRequest,
    Decision, DenyReason, GetLimitsRequest, LimitKey, ReleaseRequest, ReleaseResponse, ReportProgressRequest,
    ReportProgressResponse, ServiceTier, SettleOutcome, SettleRequest, SettleResponse, Tier, Window, WindowBounds,
    WindowStatus,
};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::ledger::{Allow, DecisionLedger, Key, Limits, Outcome, Verdict, When};
use crate::server::{Build, Server};

/// Where the test clock starts, seconds since 1970.
pub const TEST_EPOCH_SECONDS: u64 = 1_700_000_000;

/// The metadata with which a call moves the test clock: microseconds since 1970.
const TEST_NOW: &str = "tidegate-test-now-us";

/// Longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// As it is sent.
    pub request: CheckAndReserveRequest,
}

impl Ask {
    /// One prompt token of `account` on model `m`, nothing cached, nothing generated.
    #[must_use]
    pub fn of(account: &str) -> Self {
        let key = LimitKey { account: account.into(), model: "m".into(), variant: String::new() };
        Self {
            request: CheckAndReserveRequest {
                key: Some(key),
                prompt_tokens: 1,
                cached_prompt_tokens: Some(0),
                max_generated_tokens: Some(0),
                ..CheckAndReserveRequest::default()
            },
        }
    }

    /// With this many tokens: prompt, uncached prompt, most generated.
    ///
    /// # Panics
    /// If more are uncached than there are.
    #[must_use]
    pub fn tokens(mut self, prompt: u64, uncached: u64, most_generated: u64) -> Self {
        assert!(uncached <= prompt, "uncached prompt tokens are prompt tokens");
        self.request.prompt_tokens = prompt;
        self.request.cached_prompt_tokens = Some(prompt - uncached);
        self.request.max_generated_tokens = Some(most_generated);
        self
    }

    /// On this model and variant.
    #[must_use]
    pub fn on(mut self, model: &str, variant: &str) -> Self {
        if let Some(key) = &mut self.request.key {
            key.model = model.into();
            key.variant = variant.into();
        }
        self
    }

    /// Of the priority service tier.
    #[must_use]
    pub fn priority(mut self) -> Self {
        self.request.set_service_tier(ServiceTier::Priority);
        self
    }

    /// With this request id.
    #[must_use]
    pub fn id(mut self, request_id: &str) -> Self {
        self.request.request_id = request_id.into();
        self
    }

    /// With this TTL.
    ///
    /// # Panics
    /// If it is longer than the wire can say.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        let ttl = prost_types::Duration::try_from(ttl).expect("a TTL of a test is short");
        self.request.reservation_ttl = Some(ttl);
        self
    }

    /// Its limit key.
    ///
    /// # Panics
    /// If a test took it away.
    #[must_use]
    pub fn key(&self) -> LimitKey {
        self.request.key.clone().expect("asks have a key")
    }
}

#[derive(Clone, Debug)]
enum Time {
    /// Since this instant.
    Wall(Instant),
    /// Calls carry `now`; they are told apart by their order while they come one after the other.
    Test { now: Arc<AtomicU64>, order: Option<Arc<AtomicU64>> },
}

impl Time {
    fn micros(&self) -> u64 {
        match self {
            Self::Wall(start) => u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            Self::Test { now, .. } => now.load(Ordering::SeqCst),
        }
    }
}

/// A client of one server. Clones share its connection, its time and its ledger.
#[derive(Clone, Debug)]
pub struct Gateway {
    limiter: RateLimiterServiceClient<Channel>,
    admin: Option<AdminServiceClient<Channel>>,
    time: Time,
    ledger: Arc<Mutex<DecisionLedger>>,
}

impl Gateway {
    /// A client of `server`, in its time.
    pub async fn of(server: &Server) -> Self {
        let limiter = connect(server.limiter()).await;
        let admin = match server.try_admin().filter(|admin| !admin.starts_with("unix:")) {
            Some(admin) => Some(AdminServiceClient::new(connect(admin).await)),
            None => None,
        };
        let time = match server.build() {
            #[expect(clippy::disallowed_methods, reason = "on real time, the ledger's clock is a real one")]
            Build::Release => Time::Wall(Instant::now()),
            Build::TestClock => Time::Test {
                now: Arc::new(AtomicU64::new(TEST_EPOCH_SECONDS * 1_000_000)),
                order: Some(Arc::new(AtomicU64::new(1))),
            },
        };
        Self { limiter: RateLimiterServiceClient::new(limiter), admin, time, ledger: Arc::default() }
    }

    /// For calls at the same time: even on the test clock their order is not known.
    #[must_use]
    pub fn concurrent(mut self) -> Self {
        if let Time::Test { order, .. } = &mut self.time {
            *order = None;
        }
        self
    }

    /// On a connection of its own.
    pub async fn reconnected(&self, server: &Server) -> Self {
        Self { limiter: RateLimiterServiceClient::new(connect(server.limiter()).await), ..self.clone() }
    }

    /// Moves the test clock; the next call carries it to the server.
    ///
    /// # Panics
    /// On real time.
    pub fn advance(&self, span: Duration) {
        let Time::Test { now, .. } = &self.time else { panic!("real time passes by itself") };
        now.fetch_add(u64::try_from(span.as_micros()).expect("tests last less than 500,000 years"), Ordering::SeqCst);
    }

    /// Microseconds: since 1970 on the test clock, since the start of this client else.
    #[must_use]
    pub fn now_micros(&self) -> u64 {
        self.time.micros()
    }

    /// The generated client, for calls that this one does not wrap.
    #[must_use]
    pub fn raw(&self) -> RateLimiterServiceClient<Channel> {
        self.limiter.clone()
    }

    /// The admin service's generated client.
    ///
    /// # Panics
    /// If the server has no admin listener on TCP.
    #[must_use]
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        self.admin.clone().expect("the admin service listens on TCP")
    }

    /// `message` as a call of now: with a deadline, and the time on a test clock.
    pub fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(PATIENCE);
        if let Time::Test { now, .. } = &self.time {
            request.metadata_mut().insert(TEST_NOW, now.load(Ordering::SeqCst).into());
        }
        request
    }

    fn when(&self, sent: u64) -> When {
        match &self.time {
            Time::Test { order: Some(order), .. } => When::exactly(sent, order.fetch_add(1, Ordering::SeqCst)),
            time => When::between(sent, time.micros()),
        }
    }

    fn book(&self, book: impl FnOnce(&mut DecisionLedger)) {
        book(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks, and books an ALLOW; not one in shadow that reserved nothing.
    ///
    /// # Errors
    /// The call's.
    pub async fn ask(&self, ask: &Ask) -> Result<CheckAndReserveResponse, Status> {
        let sent = self.time.micros();
        let answer = self.limiter.clone().check_and_reserve(self.call(ask.request.clone())).await?.into_inner();
        let when = self.when(sent);
        if answer.allowed() && answer.shadow_decision.is_none() {
            self.book(|ledger| ledger.allow(allow(&ask.request, &answer, when)));
        }
        Ok(answer)
    }

    /// Asks for what must be allowed.
    ///
    /// # Panics
    /// If it is not.
    pub async fn allow(&self, ask: &Ask) -> CheckAndReserveResponse {
        let answer = self.ask(ask).await.expect("the call is decided");
        assert!(answer.allowed(), "denied: {:?} to {ask:?}", answer);
        answer
    }

    /// Asks for what must be denied.
    ///
    /// # Panics
    /// If it is not.
    pub async fn deny(&self, ask: &Ask) -> CheckAndReserveResponse {
        let answer = self.ask(ask).await.expect("the call is decided");
        assert!(!answer.allowed(), "allowed: {ask:?}");
        answer
    }

    /// Asks, and asks again as it is told to, until the shared store decides; one that is new or back does some seconds later.
    ///
    /// # Panics
    /// If it does not within 20 s, or the call fails.
    pub async fn ask_until_decided(&self, ask: &Ask) -> CheckAndReserveResponse {
        let decided = async {
            loop {
                let answer = self.ask(ask).await.expect("the call is decided");
                if answer.reason() != DenyReason::StoreUnavailable {
                    return answer;
                }
                let wait = answer.retry_after.and_then(|wait| Duration::try_from(wait).ok());
                sleep(wait.expect("it says when to come back")).await;
            }
        };
        timeout(PATIENCE, decided).await.unwrap_or_else(|_| panic!("the store is away: {ask:?}"))
    }

    /// Asks for what must be an error.
    ///
    /// # Panics
    /// If it is decided.
    pub async fn refuse(&self, ask: &Ask) -> Failure {
        Failure::of(&self.ask(ask).await.expect_err("the call is not decided"))
    }

    /// Reports a total of generated tokens.
    ///
    /// # Errors
    /// The call's.
    pub async fn progress(&self, reservation_id: &str, generated: u64) -> Result<ReportProgressResponse, Status> {
        let request = ReportProgressRequest { reservation_id: reservation_id.into(), generated_tokens: generated };
        let sent = self.time.micros();
        let answer = self.limiter.clone().report_progress(self.call(request)).await?.into_inner();
        let when = self.when(sent);
        self.book(|ledger| ledger.progress(reservation_id, when, generated, outcome(answer.outcome())));
        Ok(answer)
    }

    /// Settles with actual counts: prompt, cached, generated.
    ///
    /// # Errors
    /// The call's.
    pub async fn settle(
        &self,
        reservation_id: &str,
        prompt: Option<u64>,
        cached: Option<u64>,
        generated: Option<u64>,
    ) -> Result<SettleResponse, Status> {
        let request = SettleRequest {
            reservation_id: reservation_id.into(),
            prompt_tokens: prompt,
            cached_prompt_tokens: cached,
            generated_tokens: generated,
        };
        let sent = self.time.micros();
        let answer = self.limiter.clone().settle(self.call(request)).await?.into_inner();
        let when = self.when(sent);
        let outcome = outcome(answer.outcome());
        self.book(|ledger| ledger.settle(reservation_id, when, prompt, cached, generated, outcome));
        Ok(answer)
    }

    /// Settles as admitted, with this many tokens generated.
    ///
    /// # Panics
    /// If that has no effect.
    pub async fn settle_as_admitted(&self, reservation_id: &str, generated: u64) {
        let answer = self.settle(reservation_id, None, None, Some(generated)).await.expect("it can be settled");
        assert_eq!(answer.outcome(), SettleOutcome::Applied);
    }

    /// Releases.
    ///
    /// # Errors
    /// The call's.
    pub async fn release(&self, reservation_id: &str) -> Result<ReleaseResponse, Status> {
        let sent = self.time.micros();
        let request = ReleaseRequest { reservation_id: reservation_id.into() };
        let answer = self.limiter.clone().release(self.call(request)).await?.into_inner();
        let when = self.when(sent);
        self.book(|ledger| ledger.release(reservation_id, when, outcome(answer.outcome())));
        Ok(answer)
    }

    /// The windows of an ask's key.
    ///
    /// # Panics
    /// If the call fails.
    pub async fn windows(&self, ask: &Ask) -> Windows {
        let request = GetLimitsRequest { key: Some(ask.key()) };
        let answer = self.limiter.clone().get_limits(self.call(request)).await.expect("limits can be read");
        Windows(answer.into_inner().windows)
    }

    /// Gives `account` a tier of its own with these floors and ceilings, TPM: prompt, uncached prompt, generated.
    ///
    /// # Panics
    /// If the account has one already.
    pub async fn bound(&self, account: &str, floors: [u64; 3], ceilings: [u64; 3]) {
        let tier =
            Tier { name: format!("tier of {account}"), bounds: Some(bounds(floors, ceilings)), ..Tier::default() };
        self.tier(account, tier).await;
    }

    /// Gives `account` limits that do not move, TPM: prompt, uncached prompt, generated.
    ///
    /// # Panics
    /// If the account has a tier of its own already.
    pub async fn fix(&self, account: &str, limits: [u64; 3]) {
        self.bound(account, limits, limits).await;
    }

    /// Creates `tier`, and `account` in it.
    ///
    /// # Panics
    /// If either exists.
    pub async fn tier(&self, account: &str, tier: Tier) {
        let name = tier.name.clone();
        let request = CreateTierRequest { tier: Some(tier), ..CreateTierRequest::default() };
        self.admin().create_tier(self.call(request)).await.expect("the tier is new");
        self.account(account, &name).await;
    }

    /// Creates `account` in the tier of that name.
    ///
    /// # Panics
    /// If it exists, or the tier does not.
    pub async fn account(&self, account: &str, tier: &str) {
        let account = Account { name: account.into(), tier: tier.into(), ..Account::default() };
        let request = CreateAccountRequest { account: Some(account), ..CreateAccountRequest::default() };
        self.admin().create_account(self.call(request)).await.expect("the account is new");
    }

    /// What the ledger thinks of everything so far.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).verdict()
    }
}

/// Floors and ceilings, TPM, as the wire has them: prompt, uncached prompt, generated.
#[must_use]
pub fn bounds(floors: [u64; 3], ceilings: [u64; 3]) -> WindowBounds {
    let of = |window: usize| Some(Bounds { floor_tpm: Some(floors[window]), ceiling_tpm: Some(ceilings[window]) });
    WindowBounds { prompt: of(0), uncached_prompt: of(1), generated: of(2) }
}

async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
    endpoint.tcp_nodelay(true).connect().await.unwrap_or_else(|error| panic!("{address}: {error:?}"))
}

/// An ALLOW as the ledger books it.
///
/// # Panics
/// If the answer lacks a window or `reserved`.
#[must_use]
pub fn allow(request: &CheckAndReserveRequest, answer: &CheckAndReserveResponse, when: When) -> Allow {
    let key: Key = request.key.clone().map(|key| (key.account, key.model, key.variant)).expect("it was allowed");
    let reserved = answer.reserved.expect("an ALLOW says what it reserved");
    let limits = [Window::Prompt, Window::UncachedPrompt, Window::Generated].map(|window| {
        let status = answer.window(window);
        Limits {
            floor: status.floor_tpm,
            effective: status.effective_limit_tpm,
            limit: status.limit_tpm,
            ceiling: status.ceiling_tpm,
        }
    });
    Allow {
        key,
        reservation: answer.reservation_id.clone(),
        when,
        prompt: request.prompt_tokens,
        cached: request.cached_prompt_tokens,
        max_generated: request.max_generated_tokens,
        reserved: [reserved.prompt, reserved.uncached_prompt, reserved.generated],
        replayed: answer.replayed,
        limits,
    }
}

fn outcome(outcome: SettleOutcome) -> Outcome {
    match outcome {
        SettleOutcome::Applied => Outcome::Applied,
        SettleOutcome::Late => Outcome::Late,
        SettleOutcome::Duplicate => Outcome::Duplicate,
        SettleOutcome::Unspecified => panic!("an answer without an outcome"),
    }
}

/// What the tests read in an answer.
pub trait Answer {
    /// Whether it is an ALLOW.
    fn allowed(&self) -> bool;
    /// One window's status.
    fn window(&self, window: Window) -> &WindowStatus;
    /// A header's value.
    fn header(&self, name: &str) -> Option<&str>;
    /// How long to wait.
    fn wait(&self) -> Option<Duration>;
    /// The windows that stood in the way.
    fn binding(&self) -> Vec<Window>;
}

impl Answer for CheckAndReserveResponse {
    fn allowed(&self) -> bool {
        self.decision() == Decision::Allow
    }

    fn window(&self, window: Window) -> &WindowStatus {
        let found = self.windows.iter().find(|status| status.window() == window);
        found.unwrap_or_else(|| panic!("no status of {window:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name == name).map(|header| header.value.as_str())
    }

    fn wait(&self) -> Option<Duration> {
        self.retry_after.map(|wait| Duration::try_from(wait).expect("a wait is not negative"))
    }

    fn binding(&self) -> Vec<Window> {
        self.windows.iter().filter(|status| status.binding).map(WindowStatus::window).collect()
    }
}

/// The windows of a key. Compared with `==` to show that nothing changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows(Vec<WindowStatus>);

impl Windows {
    fn of(&self, window: Window) -> &WindowStatus {
        let found = self.0.iter().find(|status| status.window() == window);
        found.unwrap_or_else(|| panic!("no status of {window:?}"))
    }

    /// Of all prompt tokens.
    #[must_use]
    pub fn prompt(&self) -> &WindowStatus {
        self.of(Window::Prompt)
    }

    /// Of the uncached ones.
    #[must_use]
    pub fn uncached(&self) -> &WindowStatus {
        self.of(Window::UncachedPrompt)
    }

    /// Of the generated tokens.
    #[must_use]
    pub fn generated(&self) -> &WindowStatus {
        self.of(Window::Generated)
    }

    /// The published limits: prompt, uncached prompt, generated.
    #[must_use]
    pub fn limits(&self) -> [u64; 3] {
        [self.prompt(), self.uncached(), self.generated()].map(|status| status.limit_tpm)
    }

    /// What is used: prompt, uncached prompt, generated.
    #[must_use]
    pub fn used(&self) -> [u64; 3] {
        [self.prompt(), self.uncached(), self.generated()].map(|status| status.used_tokens)
    }
}

/// A gRPC error as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status code.
    pub code: Code,
    /// `ErrorInfo.reason`; empty where there is none.
    pub reason: String,
    /// The first `BadRequest` field; empty where there is none.
    pub field: String,
    /// The message.
    pub message: String,
}

impl Failure {
    /// Reads a status.
    ///
    /// # Panics
    /// If it carries an `ErrorInfo` of another domain.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        assert!(info.is_none_or(|info| info.domain == "tidegate"), "{info:?}");
        let field = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self {
            code: status.code(),
            reason: info.map_or_else(String::new, |info| info.reason.clone()),
            field: field.map_or_else(String::new, |violation| violation.field.clone()),
            message: status.message().to_owned(),
        }
    }
}
