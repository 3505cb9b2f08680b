//! The watch behind the screen: connects, follows, and connects again when the server goes away.

use std::time::Duration;

use tidegate_proto::v1::admin_service_client::AdminServiceClient;
use tidegate_proto::v1::{Enforcement, WatchLimitsRequest};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::app::News;
use crate::failure::Failure;
use crate::status::explain;
use crate::target::{Target, connect};

/// Pause before the next attempt; doubles each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// News as they come. At most 16 wait; then the server is not read.
pub(super) struct Feed(Receiver<News>);

impl Feed {
    /// Connects once, so that a wrong target ends the command, and follows from then on.
    ///
    /// # Errors
    /// Nobody is there, or the server refuses to be watched.
    pub(super) async fn connect(
        target: Target,
        timeout: Duration,
        request: WatchLimitsRequest,
    ) -> Result<Self, Failure> {
        let mut client = AdminServiceClient::new(connect(&target, timeout).await?);
        let watch = client.watch_limits(request.clone()).await;
        let first = watch.map_err(|status| explain("WatchLimits", &target, &status))?.into_inner();
        let (sender, receiver) = channel(16);
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let mut watch = Some(first);
            loop {
                let why = match watch.take() {
                    Some(answers) => {
                        pause = FIRST_PAUSE;
                        match follow(answers, &sender).await {
                            Some(why) => why,
                            None => return,
                        }
                    }
                    None => match again(&target, timeout, &request).await {
                        Ok(answers) => {
                            watch = Some(answers);
                            continue;
                        }
                        Err(why) => why,
                    },
                };
                if sender.send(News::Lost(why)).await.is_err() {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
        Ok(Self(receiver))
    }

    /// The next news; `None`: there will be none any more.
    pub(super) async fn next(&mut self) -> Option<News> {
        self.0.recv().await
    }

    /// The next news, if they are here.
    pub(super) fn try_next(&mut self) -> Option<News> {
        self.0.try_recv().ok()
    }
}

type Answers = tonic::Streaming<tidegate_proto::v1::WatchLimitsResponse>;

async fn again(target: &Target, timeout: Duration, request: &WatchLimitsRequest) -> Result<Answers, String> {
    let channel: Channel = connect(target, timeout).await.map_err(|_| "nobody answers".to_owned())?;
    let watch = AdminServiceClient::new(channel).watch_limits(request.clone()).await;
    watch.map(tonic::Response::into_inner).map_err(|status| reason(&status))
}

/// Passes on what the server says until it stops; `None`: nobody listens.
async fn follow(mut answers: Answers, sender: &Sender<News>) -> Option<String> {
    sender.send(News::Connected).await.ok()?;
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                sender.send(News::Shadow(answer.enforcement() == Enforcement::Shadow)).await.ok()?;
                sender.send(News::Limits(answer.limits)).await.ok()?;
            }
            Ok(None) => return Some("the server stopped".to_owned()),
            Err(status) => return Some(reason(&status)),
        }
    }
}

/// In a few words: transport errors say little that helps.
fn reason(status: &Status) -> String {
    match status.code() {
        Code::Unknown | Code::Internal | Code::Cancelled => "the connection broke".to_owned(),
        Code::Unavailable if status.details().is_empty() => "the connection broke".to_owned(),
        _ => status.message().to_owned(),
    }
}
