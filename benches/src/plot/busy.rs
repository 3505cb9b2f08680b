//! A busy deployment over time: how much of its capacity is used, and who is refused.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Drawn, SIZE, write};
use crate::StudyError;

/// A busy deployment, minute by minute.
#[derive(Clone, Copy, Debug)]
pub struct Busy<'a> {
    /// What is served.
    pub title: &'a str,
    /// Use of the capacity, a share, in the fullest window; where nobody reports how busy the deployment is.
    pub unreported: &'a [f64],
    /// The same where it is reported.
    pub reported: &'a [f64],
    /// Requests of small accounts that were then refused with a 503.
    pub small: &'a [u64],
    /// Of big accounts.
    pub big: &'a [u64],
}

impl Busy<'_> {
    /// Writes the plot; makes the folder where there is none.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn write(&self, folder: &Path, file: &str) -> Result<(), StudyError> {
        write(folder, file, |svg| self.draw(svg))
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let family = tidegate_sim::plot::font_family()?;
        let (upper, lower) = root.split_vertically(SIZE.1 * 3 / 5);
        let percent = |minutes: &[f64]| minutes.iter().map(|share| share * 100.0).collect::<Vec<_>>();
        let (unreported, reported) = (percent(self.unreported), percent(self.reported));
        let capacity = vec![100.0; self.reported.len()];
        panel(
            &upper,
            family,
            (self.title, "capacity used, %"),
            &[("pressure not reported", &unreported), ("pressure reported", &reported), ("capacity", &capacity)],
        )?;
        let counts = |minutes: &[u64]| minutes.iter().map(|count| *count as f64).collect::<Vec<_>>();
        let (big, small) = (counts(self.big), counts(self.small));
        panel(
            &lower,
            family,
            ("", "503 a minute"),
            &[("accounts above their floor", &big), ("accounts below it", &small)],
        )?;
        root.present()?;
        Ok(())
    }
}

/// Lines over minutes, drawn as hours.
fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    family: &str,
    (title, unit): (&str, &str),
    lines: &[(&str, &[f64])],
) -> Drawn {
    let minutes = lines.iter().map(|(_, line)| line.len()).max().unwrap_or(1);
    let highest = lines.iter().flat_map(|(_, line)| line.iter().copied()).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (family, 18))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..minutes as f64 / 60.0, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .label_style((family, 12))
        .axis_desc_style((family, 14))
        .max_light_lines(0)
        .x_desc("hours")
        .y_desc(unit)
        .draw()?;
    for (index, (label, line)) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = line.iter().enumerate().map(|(minute, value)| (minute as f64 / 60.0, *value));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font((family, 12))
        .position(SeriesLabelPosition::UpperRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_shows_both_courses_and_names_who_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let busy = Busy {
            title: "a trace",
            unreported: &[0.5, 1.25, 1.3],
            reported: &[0.5, 1.0, 0.9],
            small: &[0, 0, 1],
            big: &[0, 20, 30],
        };
        busy.write(folder.path(), "busy.svg").expect("written");
        let svg = std::fs::read_to_string(folder.path().join("busy.svg")).expect("reads");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["a trace", "pressure not reported", "pressure reported", "accounts below it", "503 a minute"] {
            assert!(svg.contains(text), "{text}");
        }
        // Five lines and as many legends.
        assert!(svg.matches("stroke-width=\"2\"").count() >= 10);
    }
}
