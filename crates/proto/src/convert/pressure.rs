//! `ReportPressureRequest` into what the core takes of a reporter.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_core::key::{NameError, parse_name, parse_variant};
use tidegate_core::pressure::{DEFAULT_TTL, DeploymentReport, LONGEST_TTL, MAX_PERMILLE, Report, SHORTEST_TTL};
use tidegate_core::window::{PerWindow, Window};

use super::{InvalidField, time};
use crate::v1;

/// Most pressures in a report.
pub const MAX_PRESSURES: usize = 256;

/// A pressure report, parsed. Where it names a window of a deployment more than once, the largest counts, so their order does
/// not matter. A report without pressures is well formed and says nothing.
///
/// # Errors
/// Names the first field that is missing, malformed or out of range.
pub fn report_pressure(wire: &v1::ReportPressureRequest) -> Result<Report<'_>, InvalidField> {
    let reporter =
        parse_name(&wire.reporter).map_err(|error: NameError| InvalidField::new("reporter", error.to_string()))?;
    if wire.reports.len() > MAX_PRESSURES {
        return Err(InvalidField::new("reports", format!("must have at most {MAX_PRESSURES} elements")));
    }
    let mut deployments = BTreeMap::<(&str, &str), PerWindow<Option<u32>>>::new();
    for (index, pressure) in wire.reports.iter().enumerate() {
        let refused = |field: &str, message: String| InvalidField::new(format!("reports[{index}].{field}"), message);
        let model = parse_name(&pressure.model).map_err(|error| refused("model", error.to_string()))?;
        let variant = parse_variant(&pressure.variant).map_err(|error| refused("variant", error.to_string()))?;
        let windows = windows(pressure.window)
            .ok_or_else(|| refused("window", format!("has the unknown value {}", pressure.window)))?;
        if pressure.pressure_permille > MAX_PERMILLE {
            return Err(refused("pressure_permille", format!("must be at most {MAX_PERMILLE}")));
        }
        let permille = deployments.entry((model, variant)).or_default();
        for window in windows {
            permille[*window] = permille[*window].max(Some(pressure.pressure_permille));
        }
    }
    let deployments = deployments
        .into_iter()
        .map(|((model, variant), permille)| DeploymentReport { model, variant, permille })
        .collect();
    Ok(Report { reporter, ttl: ttl(wire.ttl.as_ref())?, deployments })
}

/// The windows that a pressure is about; `None` for a value that this version does not know.
fn windows(wire: i32) -> Option<&'static [Window]> {
    Some(match v1::Window::try_from(wire).ok()? {
        v1::Window::Unspecified => &Window::ALL,
        v1::Window::Prompt => &[Window::Prompt],
        v1::Window::UncachedPrompt => &[Window::UncachedPrompt],
        v1::Window::Generated => &[Window::Generated],
    })
}

fn ttl(wire: Option<&prost_types::Duration>) -> Result<Duration, InvalidField> {
    let Some(wire) = wire else { return Ok(DEFAULT_TTL) };
    let ttl = time::duration(wire, "ttl")?;
    if ttl < SHORTEST_TTL || ttl > LONGEST_TTL {
        return Err(InvalidField::new("ttl", format!("must be {SHORTEST_TTL:?} to {LONGEST_TTL:?}")));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(model: &str, variant: &str, window: v1::Window, permille: u32) -> v1::Pressure {
        v1::Pressure {
            model: model.into(),
            variant: variant.into(),
            window: window.into(),
            pressure_permille: permille,
        }
    }

    fn wire(reports: Vec<v1::Pressure>) -> v1::ReportPressureRequest {
        v1::ReportPressureRequest { reporter: "gateway-1".into(), reports, ttl: None }
    }

    #[test]
    fn a_pressure_without_a_window_is_about_all_and_the_largest_counts() {
        let all = v1::Window::Unspecified;
        let wire = wire(vec![
            pressure("opus", "", v1::Window::Generated, 900),
            pressure("opus", "turbo", all, 0),
            pressure("opus", "", all, 500),
            pressure("opus", "", v1::Window::Prompt, 400),
            pressure("haiku", "", v1::Window::UncachedPrompt, 1_000_000),
        ]);
        let report = report_pressure(&wire).expect("well formed");
        assert_eq!((report.reporter, report.ttl), ("gateway-1", Duration::from_secs(60)));
        let said = |model, variant| {
            let found = report.deployments.iter().find(|said| (said.model, said.variant) == (model, variant));
            found.expect("reported").permille
        };
        assert_eq!(said("opus", ""), PerWindow::new(Some(500), Some(500), Some(900)));
        assert_eq!(said("opus", "turbo"), PerWindow::new(Some(0), Some(0), Some(0)));
        assert_eq!(said("haiku", ""), PerWindow::new(None, Some(1_000_000), None));
        assert_eq!(report.deployments.len(), 3);
    }

    #[test]
    fn each_bad_field_is_named() {
        let good = || pressure("opus", "", v1::Window::Prompt, 900);
        let bad = |change: fn(&mut v1::ReportPressureRequest)| {
            let mut wire = wire(vec![good(), good()]);
            change(&mut wire);
            report_pressure(&wire).expect_err("refused").field.into_owned()
        };
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(bad(|wire| wire.reporter.clear()), "reporter");
        assert_eq!(bad(|wire| wire.reporter = "x".repeat(257)), "reporter");
        assert_eq!(bad(|wire| wire.reports = vec![v1::Pressure::default(); 257]), "reports");
        assert_eq!(bad(|wire| wire.reports[1].model.clear()), "reports[1].model");
        assert_eq!(bad(|wire| wire.reports[0].variant = "\n".into()), "reports[0].variant");
        assert_eq!(bad(|wire| wire.reports[1].window = 4), "reports[1].window");
        assert_eq!(bad(|wire| wire.reports[1].pressure_permille = 1_000_001), "reports[1].pressure_permille");
        assert_eq!(bad(|wire| wire.ttl = Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 })), "ttl");
        for ttl in [seconds(601), seconds(-1)] {
            let wire = v1::ReportPressureRequest { ttl, ..wire(vec![good()]) };
            assert_eq!(report_pressure(&wire).expect_err("refused").field, "ttl");
        }
        for ttl in [seconds(1), seconds(600)] {
            let wire = v1::ReportPressureRequest { ttl, ..wire(vec![good(); 256]) };
            report_pressure(&wire).expect("at the bound");
        }
    }
}
