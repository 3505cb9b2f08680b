//! Plots, as SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::StudyError;

mod busy;

pub use busy::Busy;

/// Width and height, pixels.
const SIZE: (u32, u32) = (800, 520);

/// One setting of the margin on one trace. Shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Standard deviations, permille.
    pub margin_permille: u32,
    /// Of the oracle's.
    pub goodput: f64,
    /// Of the limit.
    pub p99: f64,
    /// Of the limit.
    pub max: f64,
}

/// Goodput against overshoot on one trace, a curve for each demand.
#[derive(Clone, Copy, Debug)]
pub struct Frontier<'a> {
    /// The trace.
    pub title: &'a str,
    /// Demand, and the points in the order of their margins.
    pub curves: &'a [(u64, &'a [Point])],
    /// Which point is drawn as the default.
    pub default_permille: u32,
}

impl Frontier<'_> {
    /// Writes the plot; makes the folder where there is none.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn write(&self, folder: &Path, file: &str) -> Result<(), StudyError> {
        write(folder, file, |svg| self.draw(svg))
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let family = tidegate_sim::plot::font_family()?;
        root.fill(&WHITE)?;
        let points = || self.curves.iter().flat_map(|(_, points)| points.iter());
        let right = points().map(|point| point.max * 100.0).fold(1.0, f64::max) * 1.05;
        let low = points().map(|point| point.goodput * 100.0).fold(100.0, f64::min) - 1.0;
        let high = points().map(|point| point.goodput * 100.0).fold(100.0, f64::max) + 1.0;
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("{}: z swept, the default circled", self.title), (family, 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right, low..high)?;
        chart
            .configure_mesh()
            .label_style((family, 12))
            .axis_desc_style((family, 14))
            .max_light_lines(0)
            .x_desc("overshoot, % of the limit: p99 filled and joined, max open")
            .y_desc("goodput, % of the oracle's")
            .draw()?;
        for (index, (demand, points)) in self.curves.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let p99 = |point: &Point| (point.p99 * 100.0, point.goodput * 100.0);
            let max = |point: &Point| (point.max * 100.0, point.goodput * 100.0);
            chart
                .draw_series(LineSeries::new(points.iter().map(p99), color.stroke_width(2)))?
                .label(format!("x{demand}"))
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
            chart.draw_series(points.iter().map(|point| Circle::new(p99(point), 3, color.filled())))?;
            chart.draw_series(points.iter().map(|point| Circle::new(max(point), 2, color)))?;
            let default = || points.iter().filter(|point| point.margin_permille == self.default_permille);
            chart.draw_series(default().map(|point| Circle::new(p99(point), 8, color.stroke_width(2))))?;
            chart.draw_series(default().map(|point| Circle::new(max(point), 6, color.stroke_width(1))))?;
        }
        chart
            .configure_series_labels()
            .label_font((family, 12))
            .position(SeriesLabelPosition::LowerRight)
            .border_style(BLACK)
            .background_style(WHITE)
            .draw()?;
        root.present()?;
        drop(chart);
        Ok(())
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Writes what `draw` draws; makes the folder where there is none.
fn write(folder: &Path, file: &str, draw: impl FnOnce(&mut String) -> Drawn) -> Result<(), StudyError> {
    let path = folder.join(file);
    let failed = |reason: String| StudyError::Plot { path: path.clone(), reason };
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let mut svg = String::new();
    draw(&mut svg).map_err(|error| failed(error.to_string()))?;
    std::fs::write(&path, svg).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_an_svg_with_a_circle_around_the_default_alone() {
        let point = |margin_permille| Point { margin_permille, goodput: 0.98, p99: 0.01, max: 0.04 };
        let points = [point(2_000), point(3_000)];
        let folder = tempfile::tempdir().expect("a folder");
        let draw = |default_permille| {
            let frontier = Frontier { title: "a trace", curves: &[(1, &points)], default_permille };
            frontier.write(folder.path(), "new.svg").expect("written");
            std::fs::read_to_string(folder.path().join("new.svg")).expect("reads")
        };
        let svg = draw(3_000);
        assert!(svg.starts_with("<svg") && svg.contains("a trace") && svg.trim_end().ends_with("</svg>"));
        let circles = |svg: &str| svg.matches("<circle").count();
        assert_eq!(circles(&svg), circles(&draw(9_999)) + 2);
    }
}
