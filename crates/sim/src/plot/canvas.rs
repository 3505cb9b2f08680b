//! One figure, drawn twice: as SVG text and as PNG bytes.

use std::sync::LazyLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The name under which the font is registered. SVG viewers that do not have it take the next: one as wide, so that texts
/// that were measured here fit there.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Latin, Greek and Cyrillic of DejaVu Sans; see `font/README.md` for its licence.
static FONT: &[u8] = include_bytes!("../../font/DejaVuSans-subset.ttf");

/// `None`: registered, else why not.
static UNREGISTERED: LazyLock<Option<String>> = LazyLock::new(|| {
    let registered = register_font(FAMILY, FontStyle::Normal, FONT);
    registered.err().map(|_| "the font of this crate is damaged".to_owned())
});

/// PNGs have so many pixels for each of a figure's in either direction, for screens that show them.
const PNG_SCALE: u32 = 2;

/// Text, axes and frames.
pub(super) const INK: RGBColor = RGBColor(0x26, 0x2b, 0x33);
/// What explains.
pub(super) const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
/// Lines of a grid.
pub(super) const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);

/// What a backend answers.
pub(super) type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// Something to draw.
pub(super) trait Figure {
    /// Width and height in pixels at scale 1.
    const SIZE: (u32, u32);

    /// Draws on a white area of [`Self::SIZE`] times `pen.scale`.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, pen: Pen) -> Drawn<B>;
}

/// Lengths and texts at a scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pen {
    scale: u32,
}

impl Pen {
    /// A length of a figure in pixels of the backend.
    pub(super) fn px(self, length: u32) -> u32 {
        length * self.scale
    }

    /// The same for coordinates.
    pub(super) fn at(self, x: i32, y: i32) -> (i32, i32) {
        let scale = i32::try_from(self.scale).unwrap_or(1);
        (x * scale, y * scale)
    }

    /// A line's style; `width` in pixels of the figure.
    pub(super) fn line(self, color: impl Color, width: u32) -> ShapeStyle {
        ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: self.px(width) }
    }

    /// A line in the pieces to draw it in. The bitmap backend draws corners of wide lines as mitres of any length: at a
    /// sharp one a spike would cross the picture. So it gets every stretch alone.
    pub(super) fn pieces(self, points: Vec<(f64, f64)>) -> Vec<Vec<(f64, f64)>> {
        if self.scale == 1 { vec![points] } else { points.windows(2).map(<[_]>::to_vec).collect() }
    }

    /// A text's style, anchored at its left and middle.
    pub(super) fn text(self, size: u32, color: RGBColor) -> TextStyle<'static> {
        let font = FontDesc::new(FontFamily::Name(FAMILY), f64::from(self.px(size)), FontStyle::Normal);
        font.color(&color).pos(Pos::new(HPos::Left, VPos::Center))
    }

    /// How wide a text is, in pixels of the figure.
    pub(super) fn width(self, text: &str, size: u32) -> i32 {
        let font = FontDesc::new(FontFamily::Name(FAMILY), f64::from(size), FontStyle::Normal);
        let estimate = i32::try_from(text.len()).unwrap_or(i32::MAX).saturating_mul(i32::try_from(size).unwrap_or(1));
        font.box_size(text).map_or(estimate, |(width, _)| i32::try_from(width).unwrap_or(i32::MAX))
    }
}

/// The figure as SVG.
pub(super) fn svg<F: Figure>(figure: &F) -> Result<String, String> {
    let mut text = String::new();
    draw(figure, SVGBackend::with_string(&mut text, F::SIZE), 1)?;
    Ok(text)
}

/// The figure as PNG.
pub(super) fn png<F: Figure>(figure: &F) -> Result<Vec<u8>, String> {
    let (width, height) = (F::SIZE.0 * PNG_SCALE, F::SIZE.1 * PNG_SCALE);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    draw(figure, BitMapBackend::with_buffer(&mut pixels, (width, height)), PNG_SCALE)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(&pixels).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Makes the crate's font known to plotters, once, and names it: the one family that plots of this process may use.
///
/// # Errors
/// Plotters does not take the font.
pub fn font_family() -> Result<&'static str, String> {
    UNREGISTERED.as_ref().map_or(Ok(FAMILY), |why| Err(why.clone()))
}

fn draw<F: Figure, B: DrawingBackend>(figure: &F, backend: B, scale: u32) -> Result<(), String> {
    font_family()?;
    let area = backend.into_drawing_area();
    let drawn = area.fill(&WHITE).and_then(|()| figure.draw(&area, Pen { scale })).and_then(|()| area.present());
    drawn.map_err(|error| error.to_string())
}
