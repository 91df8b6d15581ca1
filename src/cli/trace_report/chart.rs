//! Role: one plot over time as an SVG element that follows the page's colours, in the size of its place.
//! Owns: nothing.
//! Implements: the plots of `fulmar report`.

use crate::cli::bench::plot::{Place, colour, inline_svg};
use plotters::prelude::*;
use std::collections::HashSet;
use std::ops::Range;

/// Dots are at least so far apart, pixels: nearer ones would only make the page larger.
const DOT_GRID: f64 = 3.0;

/// Least width of a range, as a share of where it begins: finer marks would be one number to the drawing library.
const LEAST_WIDTH: f64 = 1e-6;

/// What is drawn over time.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Joined; a gap where a value is missing.
    Line(Vec<(f64, Option<f64>)>),
    /// The same, dashed.
    Dashed(Vec<(f64, Option<f64>)>),
    /// Single points.
    Dots(Vec<(f64, f64)>),
    /// Single points that must be told from dots.
    Crosses(Vec<(f64, f64)>),
}

impl Shape {
    /// The highest value.
    pub(super) fn top(&self) -> f64 {
        self.range().end
    }

    /// From the lowest to the highest value.
    pub(super) fn range(&self) -> Range<f64> {
        let around = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(f64::INFINITY..0.0, |range: Range<f64>, y| range.start.min(y)..range.end.max(y))
        };
        match self {
            Self::Line(points) | Self::Dashed(points) => around(&mut points.iter().filter_map(|(_, y)| *y)),
            Self::Dots(points) | Self::Crosses(points) => around(&mut points.iter().map(|(_, y)| *y)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Line(points) | Self::Dashed(points) => points.iter().all(|(_, y)| y.is_none()),
            Self::Dots(points) | Self::Crosses(points) => points.is_empty(),
        }
    }
}

/// A plot.
#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    /// Seconds shown.
    pub(super) seconds: Range<f64>,
    /// Values shown.
    pub(super) values: Range<f64>,
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
        let (seconds, values) = (spread(&self.seconds, 1e-3, 0.0), spread(&self.values, 1.0, 0.06));
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(3 * letters + 4)
            .y_label_area_size(4 * letters + 8)
            .build_cartesian_2d(seconds.clone(), values.clone())?;
        let text = ("sans-serif", letters).into_font().color(&colour::INK);
        let label = |range: &Range<f64>| {
            let digits = digits(range.end - range.start);
            move |value: &f64| format!("{value:.digits$}")
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(colour::GRID)
            .axis_style(colour::EXPECTED)
            .x_label_formatter(&label(&seconds))
            .y_label_formatter(&label(&values))
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
                    for part in parts(&inside(points, &seconds, &values)) {
                        chart.draw_series(LineSeries::new(part, style))?;
                    }
                }
                Shape::Dashed(points) => {
                    for part in parts(&inside(points, &seconds, &values)) {
                        chart.draw_series(DashedLineSeries::new(part, 5, 4, style))?;
                    }
                }
                Shape::Dots(points) => {
                    let dots = apart(points, &seconds, &values, size);
                    chart.draw_series(dots.into_iter().map(|at| Circle::new(at, 2, colour.filled())))?;
                }
                Shape::Crosses(points) => {
                    let dots = apart(points, &seconds, &values, size);
                    chart
                        .draw_series(dots.into_iter().map(|at| Cross::new(at, 3, colour.stroke_width(1))))?;
                }
            }
        }
        drop(chart);
        area.present()?;
        Ok(())
    }
}

/// A range that can be drawn: finite, with some width, also beside where it lies, and room above it.
fn spread(range: &Range<f64>, least: f64, room: f64) -> Range<f64> {
    let start = if range.start.is_finite() { range.start } else { 0.0 };
    let width = range.end - start;
    if width.is_finite() && width > start.abs() * LEAST_WIDTH {
        return start..range.end + room * width;
    }
    start..start + least.max(start.abs() * LEAST_WIDTH)
}

/// The points inside the plot, of those that would cover each other only one.
fn apart(
    points: &[(f64, f64)],
    seconds: &Range<f64>,
    values: &Range<f64>,
    size: (u32, u32),
) -> Vec<(f64, f64)> {
    let mut seen = HashSet::new();
    let cell = |at: f64, range: &Range<f64>, pixels: u32| {
        ((at - range.start) / (range.end - range.start) * f64::from(pixels) / DOT_GRID) as i64
    };
    let inside = points.iter().filter(|(x, y)| seconds.contains(x) && values.contains(y));
    inside
        .filter(|(x, y)| seen.insert((cell(*x, seconds, size.0), cell(*y, values, size.1))))
        .copied()
        .collect()
}

/// Decimals of the labels of an axis that is so long.
fn digits(most: f64) -> usize {
    match most {
        m if m < 0.1 => 3,
        m if m < 1.0 => 2,
        m if m < 8.0 => 1,
        _ => 0,
    }
}

/// A line whose points all lie in the plot: what is beyond is drawn at the edge, what is no number is a gap. The drawing
/// library counts pixels in 32 bits.
fn inside(
    points: &[(f64, Option<f64>)],
    seconds: &Range<f64>,
    values: &Range<f64>,
) -> Vec<(f64, Option<f64>)> {
    let at_edge = |v: f64, range: &Range<f64>| v.clamp(range.start, range.end);
    points
        .iter()
        .map(|(x, y)| (at_edge(*x, seconds), y.filter(|y| y.is_finite()).map(|y| at_edge(y, values))))
        .collect()
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
            let odd = [0.0..0.0, 0.0..1e-9, 0.0..1e15, 1e12..1e12 + 1e-3, f64::INFINITY..0.0, 0.0..f64::NAN];
            for (seconds, values) in odd.iter().flat_map(|x| odd.iter().map(|y| (x.clone(), y.clone()))) {
                let series = shapes.iter().map(|shape| (colour::MEASURED, shape)).collect();
                let chart = Chart { seconds, values, y_name: "a & b".into(), series };
                let svg = chart.svg(place).expect("drawn");
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
