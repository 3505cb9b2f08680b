//! `tidegate top`: what each key uses and may use, live.
//!
//! [`feed`] brings what the server says, [`app`] is the state that it and the keyboard change, [`draw`] shows that state,
//! [`screen`] owns the terminal. Only the last knows that there is one.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use tidegate_proto::v1::WatchLimitsRequest;
use tidegate_server::config::amount::parse_duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::app::{App, Asked};
use self::feed::Feed;
use self::screen::{Screen, keyboard};
use crate::failure::Failure;
use crate::target::AdminTarget;

mod app;
mod draw;
mod feed;
mod once;
mod screen;
mod tracked;

const EXAMPLES: &str = "\
Examples:
  tidegate top
  tidegate top --target http://127.0.0.1:7438 --model large
  tidegate top --once --json | jq '.keys[] | select(.at_ceiling)'

Keys: up and down select, left and right choose what to sort by, r reverses, / filters, p pauses,
q quits.
USED/LIMIT is of the trailing minute and of what is enforced now, yellow where a busy deployment
squeezes it, magenta at its ceiling. DENIED counts requests of the trailing minute, with ~ where
shadow let them through. PRESS is how busy the deployment is, 100% at its objective.
Without a terminal, use --once.";

/// Watch what each key uses and may use, live
///
/// Shows every key that the server holds, the fullest first. Reconnects when the server goes away.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TopArgs {
    /// Only this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,

    /// Only this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Only this variant; "" is the regular one
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,

    /// How often to look, 100ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,

    /// Print one snapshot and exit
    #[arg(long)]
    once: bool,

    /// Print the snapshot as one JSON object
    #[arg(long, requires = "once")]
    json: bool,

    #[command(flatten)]
    admin: AdminTarget,
}

/// Prints a snapshot, or shows the live view until told to quit.
pub(crate) async fn run(args: TopArgs) -> Result<ExitCode, Failure> {
    if args.once {
        return once::run(&args).await;
    }
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::Usage("top needs a terminal; use `tidegate top --once` for a snapshot".to_owned()));
    }
    let broken = |error: io::Error| Failure::Failed(format!("terminal: {error}"));
    let mut feed = Feed::connect(args.admin.target.clone(), args.admin.timeout, args.watch()).await?;
    let mut app = App::new(args.admin.target.to_string());
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal).into_iter();
    let mut end = || ends.next().unwrap_or_else(|| Err(io::ErrorKind::Other.into())).map_err(broken);
    let (mut terminated, mut interrupted, mut hung_up) = (end()?, end()?, end()?);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::open().map_err(broken)?;
    let mut keys = keyboard();
    loop {
        screen.draw(&app).map_err(broken)?;
        let asked = tokio::select! {
            biased;
            _ = terminated.recv() => Asked::Quit,
            _ = interrupted.recv() => Asked::Quit,
            _ = hung_up.recv() => Asked::Quit,
            key = keys.recv() => match key {
                Some(key) => app.on_input(key.map_err(broken)?),
                None => Asked::Quit,
            },
            _ = seconds.tick() => app.on_second(),
            news = feed.next() => match news {
                Some(news) => {
                    app.on_news(news);
                    // Whatever else has come is drawn with it.
                    while let Some(more) = feed.try_next() {
                        app.on_news(more);
                    }
                    Asked::Nothing
                }
                None => return Err(Failure::Failed("the watch broke off".to_owned())),
            },
        };
        if asked == Asked::Quit {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

impl TopArgs {
    fn watch(&self) -> WatchLimitsRequest {
        WatchLimitsRequest {
            account: self.account.clone(),
            model: self.model.clone(),
            variant: self.variant.clone(),
            // At most a minute: the conversion cannot fail.
            interval: self.interval.try_into().ok(),
        }
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(60);
    if allowed.contains(&every) { Ok(every) } else { Err("must be from 100ms to 1m".to_owned()) }
}
