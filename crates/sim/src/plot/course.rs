//! One key under one policy: what its windows held over time, its limits, and when it was refused.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use tidegate_core::window::{PerWindow, Window};

use super::canvas::{Drawn, FAINT, Figure, GRID, INK, Pen};
use super::words::{self, TimeUnit};
use crate::policy::KeyRules;
use crate::report::{Limits, Report};
use crate::run::{LimitCourse, Record};
use crate::workload::KeyName;

/// Points of a line: one for each pixel of a panel's width.
const COLUMNS: u64 = 900;

/// Space left of the panels, for the labels of their axes.
const LEFT: u32 = 76;
const RIGHT: u32 = 24;
const HEADER: i32 = 100;
const PANEL: i32 = 226;

/// A limit further above the use than this would press the use flat: it is named instead of drawn.
const MOST_HEADROOM: f64 = 4.0;

const USE: RGBColor = RGBColor(0x1d, 0x4e, 0xd8);
const LIMIT: RGBColor = RGBColor(0x11, 0x18, 0x27);
const FLOOR: RGBColor = RGBColor(0x05, 0x96, 0x69);
const CEILING: RGBColor = RGBColor(0xd9, 0x77, 0x06);
const RATE_LIMITED: RGBColor = RGBColor(0xdc, 0x26, 0x26);
const OVERLOADED: RGBColor = RGBColor(0x7c, 0x3a, 0xed);

/// What one key did.
pub(super) struct Course<'a> {
    pub(super) report: &'a Report,
    pub(super) policy: &'static str,
    pub(super) name: &'a KeyName,
    pub(super) rules: &'a KeyRules,
    pub(super) limit: &'a PerWindow<LimitCourse>,
    pub(super) record: &'a Record,
    /// Second of the trace's last arrival.
    pub(super) last_second: u64,
}

/// What a window held in the seconds of one point.
struct Held {
    second: u64,
    least: f64,
    mean: f64,
    most: f64,
}

/// How an entry of the legend looks.
enum Mark {
    Line(RGBColor),
    Dashes(RGBColor),
    Tick(RGBColor),
    Triangle(RGBColor),
}

impl Course<'_> {
    /// Seconds on the axis: to a minute after the last arrival, when its window has emptied.
    fn span(&self) -> u64 {
        self.last_second + 60
    }

    /// Seconds that share a point of a line.
    fn step(&self) -> u64 {
        (self.span() / COLUMNS).max(1)
    }

    /// What the window held, one point for each pixel.
    fn held(&self, window: Window) -> Vec<Held> {
        let step = usize::try_from(self.step()).unwrap_or(usize::MAX);
        let points = self.record.held.chunks(step).zip((self.record.first_second..).step_by(step));
        let points = points.map(|(chunk, second)| {
            let values = || chunk.iter().map(|held| held[window]);
            let sum: u128 = values().map(u128::from).sum();
            Held {
                // In the middle of its seconds.
                second: second + (chunk.len() as u64 - 1) / 2,
                least: values().min().unwrap_or(0) as f64,
                mean: sum as f64 / chunk.len() as f64,
                most: values().max().unwrap_or(0) as f64,
            }
        });
        points.filter(|point| point.second <= self.span()).collect()
    }

    /// Corners of the limit's stairs.
    fn stairs(&self, window: Window) -> Vec<(u64, u64)> {
        let mut corners: Vec<(u64, u64)> = Vec::new();
        for (second, limits) in &self.record.limits {
            if let Some((_, before)) = corners.last().copied() {
                corners.push((*second, before));
            }
            corners.push((*second, limits[window]));
        }
        corners.extend(corners.last().copied().map(|(_, last)| (self.span(), last)));
        corners
    }

    fn draw_header<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, pen: Pen) -> Drawn<B> {
        let title = format!("{}, {}", words::shortened(&self.name.account, 48), words::shortened(&self.name.model, 32));
        area.draw(&Text::new(title, pen.at(24, 24), pen.text(18, INK)))?;
        let limits = match self.report.limits {
            Limits::Static => "static",
            Limits::Adaptive => "adaptive",
        };
        let trace = words::shortened(&self.report.trace, 72);
        let subtitle = format!("{trace}: policy {}, {limits} limits, scale {}", self.policy, self.report.scale);
        area.draw(&Text::new(subtitle, pen.at(24, 48), pen.text(13, FAINT)))?;

        let mut used = "tokens in the trailing minute".to_owned();
        if self.step() > 1 {
            used += &format!(" (mean, least and most of {} s)", self.step());
        }
        let mut entries = vec![(Mark::Line(USE), used)];
        if self.report.limits == Limits::Static {
            entries.push((Mark::Line(LIMIT), "limit = floor = ceiling".to_owned()));
        } else {
            entries.push((Mark::Line(LIMIT), "limit".to_owned()));
            entries.push((Mark::Dashes(FLOOR), "floor".to_owned()));
            entries.push((Mark::Dashes(CEILING), "ceiling".to_owned()));
        }
        entries.push((Mark::Tick(RATE_LIMITED), format!("429 ({})", words::count(self.record.rate_limited.len()))));
        entries.push((Mark::Triangle(OVERLOADED), format!("503 ({})", words::count(self.record.overloaded.len()))));
        let (mut x, y) = (24, 76);
        for (mark, text) in entries {
            match mark {
                Mark::Line(color) => {
                    area.draw(&PathElement::new(vec![pen.at(x, y), pen.at(x + 22, y)], pen.line(color, 2)))?;
                }
                Mark::Dashes(color) => {
                    for dash in [0, 8, 16] {
                        let ends = vec![pen.at(x + dash, y), pen.at(x + dash + 5, y)];
                        area.draw(&PathElement::new(ends, pen.line(color, 2)))?;
                    }
                }
                Mark::Tick(color) => {
                    let ends = vec![pen.at(x + 16, y - 7), pen.at(x + 16, y + 7)];
                    area.draw(&PathElement::new(ends, pen.line(color, 2)))?;
                }
                Mark::Triangle(color) => {
                    let filled = ShapeStyle::from(&color).filled();
                    area.draw(&TriangleMarker::new(pen.at(x + 15, y), pen.px(6), filled))?;
                }
            }
            area.draw(&Text::new(text.clone(), pen.at(x + 28, y), pen.text(13, INK)))?;
            x += 28 + pen.width(&text, 13) + 22;
        }
        Ok(())
    }

    fn draw_panel<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, window: Window, pen: Pen) -> Drawn<B> {
        let unit = TimeUnit::of(self.span());
        let (held, stairs) = (self.held(window), self.stairs(window));
        let bounds = self.rules.bounds[window];
        let peak = self.record.held.iter().map(|held| held[window]).max().unwrap_or(0);
        let limit_peak = self.limit[window].peak as f64;
        let mut top = (peak as f64).max(1.0);
        let mut beyond = Vec::new();
        let mut take_in = |name: &str, tpm: f64| {
            let fits = tpm <= top * MOST_HEADROOM;
            if fits {
                top = top.max(tpm);
            } else {
                beyond.push(format!("{name} {}", words::amount(tpm)));
            }
            fits
        };
        let (floor, ceiling) = (bounds.floor_tpm() as f64, bounds.ceiling_tpm() as f64);
        take_in("limit", limit_peak);
        let moves = self.report.limits == Limits::Adaptive;
        let (floor_shown, ceiling_shown) = (moves && take_in("floor", floor), moves && take_in("ceiling", ceiling));

        let mut heading = format!("{}: tokens per minute; peak {}", window.name(), words::rough_amount(peak));
        if !beyond.is_empty() {
            heading += &format!("; above this panel: {}", beyond.join(", "));
        }
        area.draw(&Text::new(heading, pen.at(24, 10), pen.text(13, INK)))?;

        let end = self.span() as f64 / unit.seconds;
        let mut chart = ChartBuilder::on(area)
            .margin_top(pen.px(22))
            .margin_right(pen.px(RIGHT))
            .margin_bottom(pen.px(8))
            .y_label_area_size(pen.px(LEFT))
            .build_cartesian_2d(0.0..end, 0.0..top * 1.08)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(pen.line(GRID, 1))
            .axis_style(pen.line(FAINT, 1))
            .set_all_tick_mark_size(pen.px(4))
            .x_labels(12)
            .y_labels(6)
            .label_style(pen.text(12, INK))
            .y_label_formatter(&|tokens| words::amount(*tokens))
            .draw()?;

        let time = |second: u64| second as f64 / unit.seconds;
        let means: Vec<_> = held.iter().map(|point| (time(point.second), point.mean)).collect();
        if let (Some((first, _)), Some((last, _))) = (means.first(), means.last()) {
            let below = means.iter().copied().chain([(*last, 0.0), (*first, 0.0)]).collect::<Vec<_>>();
            chart.draw_series([Polygon::new(below, USE.mix(0.10))])?;
        }
        if self.step() > 1 {
            let most = held.iter().map(|point| (time(point.second), point.most));
            let least = held.iter().rev().map(|point| (time(point.second), point.least));
            chart.draw_series([Polygon::new(most.chain(least).collect::<Vec<_>>(), USE.mix(0.30))])?;
        }
        chart.draw_series(pen.pieces(means).into_iter().map(|piece| PathElement::new(piece, pen.line(USE, 1))))?;
        for (shown, tpm, color) in [(floor_shown, floor, FLOOR), (ceiling_shown, ceiling, CEILING)] {
            if shown {
                let ends = [(0.0, tpm), (end, tpm)];
                chart.draw_series(DashedLineSeries::new(ends, pen.px(7), pen.px(5), pen.line(color, 1)))?;
            }
        }
        if limit_peak <= top {
            let stairs = stairs.into_iter().map(|(second, tpm)| (time(second), tpm as f64)).collect();
            chart
                .draw_series(pen.pieces(stairs).into_iter().map(|piece| PathElement::new(piece, pen.line(LIMIT, 1))))?;
        }
        Ok(())
    }

    /// The lowest panel: a row of ticks for 429, a row of triangles for 503, and the axis of time.
    fn draw_refusals<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, pen: Pen) -> Drawn<B> {
        let unit = TimeUnit::of(self.span());
        let end = self.span() as f64 / unit.seconds;
        let mut chart = ChartBuilder::on(area)
            .margin_right(pen.px(RIGHT))
            .margin_bottom(pen.px(10))
            .x_label_area_size(pen.px(44))
            .y_label_area_size(pen.px(LEFT))
            .build_cartesian_2d(0.0..end, 0.0..2.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(pen.line(GRID, 1))
            .axis_style(pen.line(FAINT, 1))
            .set_all_tick_mark_size(pen.px(4))
            .x_labels(12)
            .y_labels(0)
            .label_style(pen.text(12, INK))
            .axis_desc_style(pen.text(13, INK))
            .x_label_formatter(&|time| words::plain(*time))
            .x_desc(format!("{} from the start of the trace", unit.name))
            .draw()?;
        let right = Pos::new(HPos::Right, VPos::Center);
        for (text, level) in [("429", 1.5), ("503", 0.5)] {
            let (x, y) = chart.backend_coord(&(0.0, level));
            // Coordinates of the whole drawing, as this area is not at its top.
            let (left, top) = area.get_base_pixel();
            let spot = (x - left - pen.at(8, 0).0, y - top);
            area.draw(&Text::new(text, spot, pen.text(12, INK).pos(right)))?;
        }
        let columns = |seconds: &[u64]| {
            let mut columns: Vec<u64> =
                seconds.iter().map(|second| (second * COLUMNS).checked_div(self.span()).unwrap_or(0)).collect();
            columns.dedup();
            let width = end / COLUMNS as f64;
            columns.into_iter().map(move |column| (column as f64 + 0.5) * width).collect::<Vec<_>>()
        };
        let ticks = columns(&self.record.rate_limited).into_iter();
        chart.draw_series(
            ticks.map(|time| PathElement::new(vec![(time, 1.2), (time, 1.8)], pen.line(RATE_LIMITED, 1))),
        )?;
        let filled = ShapeStyle::from(&OVERLOADED).filled();
        let triangles = columns(&self.record.overloaded).into_iter();
        chart.draw_series(triangles.map(|time| TriangleMarker::new((time, 0.5), pen.px(4), filled)))?;
        Ok(())
    }
}

impl Figure for Course<'_> {
    const SIZE: (u32, u32) = (1_000, 880);

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, pen: Pen) -> Drawn<B> {
        let (header, mut rest) = area.split_vertically(pen.at(0, HEADER).1);
        self.draw_header(&header, pen)?;
        for window in Window::ALL {
            let (panel, below) = rest.split_vertically(pen.at(0, PANEL).1);
            self.draw_panel(&panel, window, pen)?;
            rest = below;
        }
        self.draw_refusals(&rest, pen)
    }
}
