//! The rows of deployments. Their labels are names that reporters make up, so they are not registered, which would be for
//! ever, but drawn from what the store knows now: at most [`MOST_DEPLOYMENTS`] of them.

use std::fmt::Write as _;

use tidegate_core::pressure::{Reading, Signal};
use tidegate_store::DeploymentPressure;

use super::catalogue::{self, Described};

/// Deployments on the page, those with the greatest pressure.
pub(crate) const MOST_DEPLOYMENTS: usize = 100;

/// Draws them, with the heads of their metrics even where there are none.
pub(super) fn draw(page: &mut String, deployments: &[DeploymentPressure]) {
    rows(page, &catalogue::PRESSURE, deployments, |reading| match reading.signal() {
        Signal::Live(permille) => Some(permille.into()),
        Signal::Off | Signal::Stale => None,
    });
    rows(page, &catalogue::PRESSURE_STALE, deployments, |reading| match reading.signal() {
        Signal::Live(_) => Some(0),
        Signal::Stale => Some(1),
        Signal::Off => None,
    });
    rows(page, &catalogue::WATER_LEVEL, deployments, Reading::water_level_tpm);
}

fn rows(
    page: &mut String,
    metric: &Described,
    deployments: &[DeploymentPressure],
    value: impl Fn(&Reading) -> Option<u64>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "# HELP {} {}", metric.name, metric.meaning);
    let _ = writeln!(page, "# TYPE {} {}", metric.name, metric.kind.name());
    for deployment in deployments {
        let (model, variant) = (escaped(&deployment.model), escaped(&deployment.variant));
        for (window, reading) in deployment.windows.iter() {
            if let Some(value) = value(reading) {
                let labels = format!("model=\"{model}\",variant=\"{variant}\",window=\"{}\"", window.name());
                let _ = writeln!(page, "{}{{{labels}}} {value}", metric.name);
            }
        }
    }
    page.push('\n');
}

/// As a label's value. A name has no line breaks.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}
