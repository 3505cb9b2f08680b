//! Goodput against overshoot, a point for each policy.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::canvas::{Drawn, FAINT, Figure, GRID, INK, Pen};
use super::words;
use crate::report::{PolicyReport, Report};

/// Overshoot is drawn evenly up to about here, and by its logarithm above.
const LINEAR_SHARE: f64 = 0.01;

/// Overshoots that get a label on the axis.
const TICKS: [f64; 13] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// The axis ends at least here, so that differences of a permille do not look like chasms.
const LEAST_END: f64 = 0.1;

const COLORS: [RGBColor; 6] = [
    RGBColor(0x6b, 0x72, 0x80),
    RGBColor(0xd9, 0x77, 0x06),
    RGBColor(0x05, 0x96, 0x69),
    RGBColor(0xdc, 0x26, 0x26),
    RGBColor(0x7c, 0x3a, 0xed),
    RGBColor(0x1d, 0x4e, 0xd8),
];

const TEXT_SIZE: u32 = 14;

/// All policies of a report under static limits.
pub(super) struct Policies<'a> {
    pub(super) report: &'a Report,
}

/// Where an overshoot stands on the axis.
fn place(share: f64) -> f64 {
    (1.0 + share / LINEAR_SHARE).log10()
}

/// An axis with labels at chosen places.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        // Within a drawing, and so within an i32.
        #[expect(clippy::cast_possible_truncation)]
        let offset = (f64::from(last - first) * share).round() as i32;
        first + offset
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        words::plain(*value)
    }
}

impl Policies<'_> {
    fn points(&self) -> Vec<(&PolicyReport, f64, f64)> {
        let known = |policy: &'_ PolicyReport| Some((place(policy.overshoot_p99?), policy.goodput?));
        self.report.policies.iter().filter_map(|policy| known(policy).map(|(x, y)| (policy, x, y))).collect()
    }
}

impl Figure for Policies<'_> {
    const SIZE: (u32, u32) = (860, 560);

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, pen: Pen) -> Drawn<B> {
        let points = self.points();
        let farthest = points.iter().map(|(_, x, _)| *x).fold(place(LEAST_END), f64::max);
        let highest = points.iter().map(|(_, _, y)| *y).fold(1.0, f64::max);
        let title = words::shortened(&self.report.trace, 80);
        area.draw(&Text::new(title, pen.at(24, 24), pen.text(18, INK)))?;
        let subtitle = format!("static limits, scale {}; better is up and left", self.report.scale);
        area.draw(&Text::new(subtitle, pen.at(24, 48), pen.text(13, FAINT)))?;

        let ticks = TICKS.into_iter().map(place).filter(|tick| *tick <= farthest * 1.12);
        let x = Axis { range: -0.04 * farthest..farthest * 1.12, ticks: ticks.collect() };
        let tenths = (0..=10).map(|tenth| f64::from(tenth) / 10.0);
        let y = Axis { range: 0.0..highest * 1.08, ticks: tenths.collect() };
        let mut chart = ChartBuilder::on(area)
            .margin_top(pen.px(68))
            .margin_right(pen.px(24))
            .margin_bottom(pen.px(14))
            .margin_left(pen.px(14))
            .x_label_area_size(pen.px(52))
            .y_label_area_size(pen.px(74))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(pen.line(GRID, 1))
            .axis_style(pen.line(FAINT, 1))
            .set_all_tick_mark_size(pen.px(4))
            .label_style(pen.text(12, INK))
            .axis_desc_style(pen.text(13, INK))
            .x_desc("overshoot p99, share of the limit (linear below 1 %, logarithmic above)")
            .y_desc("goodput, share of the oracle's")
            .x_label_formatter(&|x| words::percent((10_f64.powf(*x) - 1.0) * LINEAR_SHARE))
            .y_label_formatter(&|y| words::percent(*y))
            .draw()?;

        let mut labels = Labels::default();
        let spots: Vec<_> = points.iter().map(|(policy, x, y)| (policy, chart.backend_coord(&(*x, *y)))).collect();
        let radius = i32::try_from(pen.px(6)).unwrap_or(6);
        for (_, spot) in &spots {
            labels.take(Frame {
                left: spot.0 - radius,
                top: spot.1 - radius,
                right: spot.0 + radius,
                bottom: spot.1 + radius,
            });
        }
        let (across, down) = chart.plotting_area().get_pixel_range();
        let sheet = Frame { left: across.start, top: down.start, right: across.end, bottom: down.end };
        for ((policy, spot), color) in spots.into_iter().zip(COLORS.into_iter().cycle()) {
            area.draw(&Circle::new(spot, pen.px(6), ShapeStyle::from(&color).filled()))?;
            let text = format!("{} {}", policy.policy, words::percent(policy.goodput.unwrap_or(0.0)));
            let width = pen.at(pen.width(&text, TEXT_SIZE), 0).0;
            let label = labels.place(spot, (width, pen.at(0, 18).1), radius * 2, &sheet);
            let middle = (label.left, (label.top + label.bottom) / 2);
            if label.is_far_from(spot, radius * 4) {
                let near = (spot.0.clamp(label.left - radius / 2, label.right + radius / 2), middle.1);
                area.draw(&PathElement::new(vec![spot, near], pen.line(color.mix(0.5), 1)))?;
            }
            area.draw(&Text::new(text, middle, pen.text(TEXT_SIZE, color)))?;
        }
        Ok(())
    }
}

/// A rectangle, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Frame {
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn is_far_from(&self, (x, y): (i32, i32), distance: i32) -> bool {
        let reach = Self { left: x - distance, top: y - distance, right: x + distance, bottom: y + distance };
        !self.meets(&reach)
    }
}

/// Places that are taken.
#[derive(Debug, Default)]
pub(super) struct Labels {
    taken: Vec<Frame>,
}

impl Labels {
    pub(super) fn take(&mut self, place: Frame) {
        self.taken.push(place);
    }

    /// A free place for a label of this size near `spot`, within `sheet`: to its right, to its left, else above or
    /// below, ever further away; to its right if nothing is free.
    pub(super) fn place(&mut self, spot: (i32, i32), size: (i32, i32), gap: i32, sheet: &Frame) -> Frame {
        let at = |left: i32, row: i32| {
            let top = spot.1 - size.1 / 2 + row * size.1;
            Frame { left, top, right: left + size.0, bottom: top + size.1 }
        };
        let rows = (0..8).flat_map(|row| [row, -row]);
        let candidates = rows.flat_map(|row| [at(spot.0 + gap, row), at(spot.0 - gap - size.0, row)]);
        let fits = |place: &Frame| {
            let across = place.left >= sheet.left && place.right <= sheet.right;
            let inside = across && place.top >= sheet.top && place.bottom <= sheet.bottom;
            inside && !self.taken.iter().any(|taken| taken.meets(place))
        };
        let mut candidates = candidates.filter(fits);
        let found = candidates.next().unwrap_or_else(|| at(spot.0 + gap, 0));
        self.taken.push(found);
        found
    }
}
