//! Logs what becomes of deployments: one line when reports end or come back, one when a squeeze begins or ends.

use std::collections::HashMap;

use tidegate_core::pressure::{Reading, Signal};
use tidegate_store::DeploymentPressure;

/// Deployments that are looked at, those with the greatest pressure. A look locks each for a moment.
pub(crate) const MOST_WATCHED: usize = 1_000;

/// What was said of a deployment last; nothing is said of one that is neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    stale: bool,
    squeezed: bool,
}

/// A change of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The last report ended: limits neither grow nor are squeezed.
    Stale,
    /// There are reports again.
    Reported,
    /// A water level caps effective limits of some window.
    Squeezed,
    /// No water level is left.
    Relieved,
}

/// Remembers what it said: at most [`MOST_WATCHED`] deployments.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: HashMap<(String, String), Seen>,
}

impl Watch {
    /// Looks at what the deployments say now, and logs what has changed since the last look.
    pub(crate) fn on_look(&mut self, deployments: &[DeploymentPressure]) {
        for (deployment, change) in self.changes(deployments) {
            let DeploymentPressure { model, variant, .. } = deployment;
            let permille = pressure(deployment);
            match change {
                Change::Stale => tracing::warn!(
                    model,
                    variant,
                    "no report of the deployment's pressure counts any more: its limits neither grow nor are squeezed"
                ),
                Change::Reported => {
                    tracing::info!(model, variant, permille, "the deployment's pressure is reported again")
                }
                Change::Squeezed => {
                    tracing::warn!(model, variant, permille, "the deployment is busy: limits are squeezed")
                }
                Change::Relieved => tracing::info!(model, variant, permille, "limits are no longer squeezed"),
            }
        }
    }

    fn changes<'a>(&mut self, deployments: &'a [DeploymentPressure]) -> Vec<(&'a DeploymentPressure, Change)> {
        let mut changes = Vec::new();
        let mut seen = HashMap::with_capacity(self.seen.len());
        for deployment in deployments {
            let name = (deployment.model.clone(), deployment.variant.clone());
            let before = self.seen.get(&name).copied().unwrap_or_default();
            let now = Seen::of(deployment);
            if before.squeezed != now.squeezed {
                changes.push((deployment, if now.squeezed { Change::Squeezed } else { Change::Relieved }));
            }
            if before.stale != now.stale {
                changes.push((deployment, if now.stale { Change::Stale } else { Change::Reported }));
            }
            if now != Seen::default() {
                seen.insert(name, now);
            }
        }
        self.seen = seen;
        changes
    }
}

impl Seen {
    fn of(deployment: &DeploymentPressure) -> Self {
        let any = |is: fn(&Reading) -> bool| deployment.windows.iter().any(|(_, reading)| is(reading));
        Self {
            stale: any(|reading| reading.signal() == Signal::Stale),
            squeezed: any(|reading| reading.water_level_tpm().is_some()),
        }
    }
}

/// The greatest of its windows, permille; 0 where there is none.
fn pressure(deployment: &DeploymentPressure) -> u32 {
    let permille = deployment.windows.iter().map(|(_, reading)| match reading.signal() {
        Signal::Live(permille) => permille,
        Signal::Off | Signal::Stale => 0,
    });
    permille.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_core::law::Bounds;
    use tidegate_core::pressure::Deployment;
    use tidegate_core::time::Timestamp;
    use tidegate_core::window::PerWindow;

    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let (mut watch, mut deployment) = (Watch::default(), Deployment::default());
        let start = Timestamp::from_seconds(1_700_000_000);
        let bounds = PerWindow::from_fn(|_| Bounds::new(1_000, 100_000).expect("a range"));
        let mut said = Vec::new();
        for second in 0..600 {
            let now = start.after(Duration::from_secs(second));
            // Busy for two minutes, calm for six, then silence; one report more at the end.
            let permille = if second < 120 { 1_080 } else { 100 };
            if second < 480 || second == 595 {
                let permille = PerWindow::from_fn(|_| Some(permille));
                deployment.report(now, 1, permille, Duration::from_secs(30)).expect("there is room");
                deployment.on_decision(now, PerWindow::from_fn(|_| 50_000), &bounds);
            }
            let windows = deployment.readings(now);
            let row = DeploymentPressure { model: "m".to_owned(), variant: String::new(), windows };
            said.extend(watch.changes(&[row]).into_iter().map(|(_, change)| change));
        }
        assert_eq!(said, [Change::Squeezed, Change::Relieved, Change::Stale, Change::Reported]);
        assert!(watch.seen.is_empty(), "nothing is kept of what is neither");
    }

    #[test]
    fn what_is_no_longer_known_is_forgotten() {
        let mut watch = Watch::default();
        watch.seen.insert(("m".to_owned(), String::new()), Seen { stale: true, squeezed: false });
        assert!(watch.changes(&[]).is_empty());
        assert!(watch.seen.is_empty());
    }
}
