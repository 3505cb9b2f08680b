//! `tidegate health`: is the limiter answering? For probes in an image without a shell.

use std::process::ExitCode;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::failure::Failure;
use crate::output::print;
use crate::status::explain;
use crate::target::{LimiterTarget, connect};

const EXAMPLES: &str = "\
Examples:
  tidegate health
  tidegate health --target unix:/run/tidegate.sock --timeout 1s

Exit codes: 0 ready, 1 not ready or nobody answers, 2 wrong usage.";

/// Exit 0 when the limiter is answering decisions
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    limiter: LimiterTarget,
}

/// Asks the standard gRPC health service for the server as a whole.
pub(crate) async fn run(args: HealthArgs) -> Result<ExitCode, Failure> {
    let target = &args.limiter.target;
    let mut client = HealthClient::new(connect(target, args.limiter.timeout).await?);
    let answer = client.check(HealthCheckRequest { service: String::new() }).await;
    match answer.map_err(|status| explain("Health/Check", target, &status))?.into_inner().status() {
        ServingStatus::Serving => print("ready").map(|()| ExitCode::SUCCESS),
        _ => Err(Failure::Failed(format!("{target} is not ready"))),
    }
}
