//! Role: one plot over time as an SVG element that follows the page's colours, in the size of its place.
//! Owns: nothing.
//! Implements: the plots of `fulmar report`.

use crate::cli::bench::plot::{colour, inline_svg};
use plotters::prelude::*;
use std::collections::HashSet;

/// Dots are at least so far apart, pixels: nearer ones would only make the page larger.
const DOT_GRID: f64 = 3.0;

/// What is drawn over time.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Joined; a gap where a value is missing.
    Line(Vec<(f64, Option<f64>)>),
    /// The same, dashed.
    Dashed(Vec<(f64, Option<f64>)>),
    /// Single points.
    Dots(Vec<(f64, f64)>),
}

impl Shape {
    /// The highest value.
    pub(super) fn top(&self) -> f64 {
        match self {
            Self::Line(points) | Self::Dashed(points) => {
                points.iter().filter_map(|(_, y)| *y).fold(0.0, f64::max)
            }
            Self::Dots(points) => points.iter().map(|(_, y)| *y).fold(0.0, f64::max),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Line(points) | Self::Dashed(points) => points.iter().all(|(_, y)| y.is_none()),
            Self::Dots(points) => points.is_empty(),
        }
    }
}

/// Where a plot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The whole width of a page.
    Wide,
    /// Half of it, or a phone.
    Narrow,
}

impl Place {
    /// Pixels. What a phone scales down to some 330 pixels is drawn 440 wide, with letters that bear it.
    fn size(self) -> (u32, u32) {
        match self {
            Self::Wide => (880, 300),
            Self::Narrow => (440, 290),
        }
    }

    fn letters(self) -> i32 {
        match self {
            Self::Wide => 13,
            Self::Narrow => 16,
        }
    }
}

/// A plot.
#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    /// Seconds shown.
    pub(super) seconds: f64,
    /// Highest value shown.
    pub(super) top: f64,
    /// Beside the y axis.
    pub(super) y_name: String,
    pub(super) series: Vec<(RGBColor, &'a Shape)>,
}

impl Chart<'_> {
    /// The element.
    ///
    /// # Errors
    /// What the drawing library says; none is known for a drawing into memory.
    pub(super) fn svg(&self, place: Place) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg, place).map_err(|error| error.to_string())?;
        Ok(inline_svg(&svg))
    }

    fn draw(&self, svg: &mut String, place: Place) -> Result<(), Box<dyn std::error::Error + '_>> {
        let size = place.size();
        let letters = place.letters();
        let area = SVGBackend::with_string(svg, size).into_drawing_area();
        let (seconds, top) = (self.seconds.max(1e-3), if self.top > 0.0 { self.top * 1.06 } else { 1.0 });
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(3 * letters + 4)
            .y_label_area_size(4 * letters + 8)
            .build_cartesian_2d(0.0..seconds, 0.0..top)?;
        let text = ("sans-serif", letters).into_font().color(&colour::INK);
        let label = |most: f64| move |value: &f64| format!("{value:.*}", digits(most));
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(colour::GRID)
            .axis_style(colour::EXPECTED)
            .x_label_formatter(&label(seconds))
            .y_label_formatter(&label(top))
            .x_labels(if place == Place::Wide { 10 } else { 5 })
            .y_labels(5)
            .x_desc("time, s")
            .y_desc(self.y_name.as_str())
            .label_style(text.clone())
            .axis_desc_style(text)
            .draw()?;
        for (colour, shape) in &self.series {
            let style = colour.stroke_width(2);
            match shape {
                Shape::Line(points) => {
                    for part in parts(points) {
                        chart.draw_series(LineSeries::new(part, style))?;
                    }
                }
                Shape::Dashed(points) => {
                    for part in parts(points) {
                        chart.draw_series(DashedLineSeries::new(part, 5, 4, style))?;
                    }
                }
                Shape::Dots(points) => {
                    let per_pixel = (seconds / f64::from(size.0), top / f64::from(size.1));
                    let mut seen = HashSet::new();
                    let dots = points.iter().filter(|(x, y)| {
                        let cell = |v: f64, scale: f64| (v / scale / DOT_GRID) as i64;
                        seen.insert((cell(*x, per_pixel.0), cell(*y, per_pixel.1)))
                    });
                    chart.draw_series(dots.map(|point| Circle::new(*point, 2, colour.filled())))?;
                }
            }
        }
        drop(chart);
        area.present()?;
        Ok(())
    }
}

/// Decimals of the labels of an axis that goes so far.
fn digits(most: f64) -> usize {
    match most {
        m if m < 0.1 => 3,
        m if m < 1.0 => 2,
        m if m < 8.0 => 1,
        _ => 0,
    }
}

/// The parts of a line between its gaps.
fn parts(points: &[(f64, Option<f64>)]) -> Vec<Vec<(f64, f64)>> {
    points
        .split(|(_, y)| y.is_none())
        .filter(|part| !part.is_empty())
        .map(|part| part.iter().filter_map(|(x, y)| Some((*x, (*y)?))).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_plots_are_drawn_too() {
        let shapes = [
            Shape::Line(vec![]),
            Shape::Line(vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1e12))]),
            Shape::Dashed(vec![(0.0, Some(0.0))]),
            Shape::Dots(vec![(0.5, 3.0); 1000]),
        ];
        for place in [Place::Wide, Place::Narrow] {
            for (seconds, top) in [(0.0, 0.0), (1e-6, 1e-9), (1e6, 1e15)] {
                let series = shapes.iter().map(|shape| (colour::MEASURED, shape)).collect();
                let svg = Chart { seconds, top, y_name: "a & b".into(), series }.svg(place).expect("drawn");
                assert!(svg.starts_with("<svg ") && svg.contains("a &amp; b") && !svg.contains("http"));
                // Equal dots are drawn once.
                assert!(svg.matches("<circle").count() <= 1, "{}", svg.matches("<circle").count());
            }
        }
    }

    #[test]
    fn lines_have_gaps() {
        let points = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, None), (4.0, Some(3.0))];
        assert_eq!(parts(&points), [vec![(0.0, 1.0), (1.0, 2.0)], vec![(4.0, 3.0)]]);
    }
}
