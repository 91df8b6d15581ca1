//! Role: draws one chart as an SVG element that stands inside an HTML page and follows its colours.
//! Owns: nothing.
//! Implements: the plots of `fulmar bench --html`.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// Where a plot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// The whole width of a page.
    Wide,
    /// Half of it, or a phone.
    Narrow,
}

impl Place {
    /// Pixels; the page scales them. What a phone scales down to some 330 pixels is drawn 440 wide, with letters that
    /// bear it.
    pub(in crate::cli) fn size(self) -> (u32, u32) {
        match self {
            Self::Wide => (880, 300),
            Self::Narrow => (440, 290),
        }
    }

    /// Height of letters, in pixels of the drawing.
    pub(in crate::cli) fn letters(self) -> i32 {
        match self {
            Self::Wide => 14,
            Self::Narrow => 16,
        }
    }

    /// Labels on the x axis beyond which only every n-th is written.
    fn max_x_labels(self) -> usize {
        match self {
            Self::Wide => 14,
            Self::Narrow => 5,
        }
    }
}

/// Room at both sides of a value that stands alone; half of what lies between two of them.
const SINGLE_ROOM: f64 = 0.5;

/// The colours of the light page. The page's style sheet names each of them and gives the dark ones, so that
/// a chart taken out of the page still has colours.
pub mod colour {
    use plotters::style::RGBColor;
    /// What was measured.
    pub const MEASURED: RGBColor = RGBColor(0x1f, 0x5f, 0xbf);
    /// A second thing that was measured.
    pub const SECOND: RGBColor = RGBColor(0xb4, 0x53, 0x09);
    /// What was expected.
    pub const EXPECTED: RGBColor = RGBColor(0x6b, 0x72, 0x80);
    /// The bandwidth-delay product.
    pub const MARK: RGBColor = RGBColor(0x9d, 0x17, 0x4d);
    /// Text.
    pub const INK: RGBColor = RGBColor(0x1f, 0x24, 0x2c);
    /// Lines of the grid.
    pub const GRID: RGBColor = RGBColor(0xd9, 0xdd, 0xe3);
}

/// One curve; `None` is a gap.
pub struct Line {
    /// Its colour.
    pub colour: RGBColor,
    /// Dashed, without dots.
    pub is_dashed: bool,
    /// One value for each tick.
    pub values: Vec<Option<f64>>,
}

/// One chart.
pub struct Chart {
    /// Where each value lies on the x axis, ascending.
    pub x: Vec<f64>,
    /// What is written there.
    pub labels: Vec<String>,
    /// Below the x axis.
    pub x_name: String,
    /// Beside the y axis.
    pub y_name: String,
    /// The curves.
    pub lines: Vec<Line>,
    /// The values have an order, so that a line between two of them means something. Else they lie one apart.
    pub is_joined: bool,
    /// A vertical line and its label.
    pub mark: Option<(f64, String)>,
}

/// Inside HTML the element needs no name space, and an address in the page would look like a reference.
pub(in crate::cli) fn inline_svg(svg: &str) -> String {
    svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", " role=\"img\"", 1)
}

/// An x axis with ticks exactly where the values are.
#[derive(Clone)]
struct Ticks {
    range: Range<f64>,
    at: Vec<f64>,
}

impl Ranged for Ticks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.at.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Chart {
    /// The element.
    ///
    /// # Errors
    /// What the drawing library says; none is known for a drawing into memory.
    pub(in crate::cli) fn svg(&self, place: Place) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg, place).map_err(|error| error.to_string())?;
        Ok(inline_svg(&svg))
    }

    fn draw(&self, svg: &mut String, place: Place) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(svg, place.size()).into_drawing_area();
        let top = self.lines.iter().flat_map(|l| &l.values).flatten().copied().fold(0.0, f64::max);
        let top = if top > 0.0 { top * 1.12 } else { 1.0 };
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(self.ticks(), 0.0..top)?;
        let text = ("sans-serif", place.letters()).into_font().color(&colour::INK);
        let step = self.x.len().div_ceil(place.max_x_labels()).max(1);
        let label = |x: &f64| match self.x.iter().position(|at| at == x) {
            Some(i) if i.is_multiple_of(step) => self.labels[i].clone(),
            _ => String::new(),
        };
        let digits = if top < 2.0 {
            2
        } else if top < 20.0 {
            1
        } else {
            0
        };
        let y_label = |y: &f64| format!("{y:.digits$}");
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(colour::GRID)
            .axis_style(colour::EXPECTED)
            .x_label_formatter(&label)
            .y_label_formatter(&y_label)
            .y_labels(6)
            .x_desc(self.x_name.as_str())
            .y_desc(self.y_name.as_str())
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .draw()?;
        if let Some((x, name)) = &self.mark {
            let style = colour::MARK.stroke_width(2);
            chart.draw_series(DashedLineSeries::new([(*x, 0.0), (*x, top)], 6, 4, style))?;
            // On the side with more room.
            let range = self.ticks().range;
            let is_right = *x < (range.start + range.end) / 2.0;
            let (anchor, dx) = if is_right { (HPos::Left, 6) } else { (HPos::Right, -6) };
            let style = ("sans-serif", place.letters())
                .into_font()
                .color(&colour::MARK)
                .pos(Pos::new(anchor, VPos::Top));
            chart.draw_series(std::iter::once(
                EmptyElement::at((*x, top)) + Text::new(name.clone(), (dx, 2), style),
            ))?;
        }
        for line in &self.lines {
            let points: Vec<(f64, f64)> =
                self.x.iter().zip(&line.values).filter_map(|(x, y)| Some((*x, (*y)?))).collect();
            let style = line.colour.stroke_width(2);
            if line.is_dashed && !self.is_joined {
                for (x, y) in points {
                    let ends = [(x - SINGLE_ROOM / 2.0, y), (x + SINGLE_ROOM / 2.0, y)];
                    chart.draw_series(DashedLineSeries::new(ends, 5, 5, style))?;
                }
            } else if line.is_dashed {
                chart.draw_series(DashedLineSeries::new(points, 5, 5, style))?;
            } else {
                if self.is_joined {
                    chart.draw_series(LineSeries::new(points.clone(), style))?;
                }
                let dots = points.into_iter().map(|point| Circle::new(point, 4, line.colour.filled()));
                chart.draw_series(dots)?;
            }
        }
        drop(chart);
        area.present()?;
        Ok(())
    }

    /// The axis, with some room at both ends.
    fn ticks(&self) -> Ticks {
        let (first, last) = (self.x.first().copied().unwrap_or(0.0), self.x.last().copied().unwrap_or(1.0));
        let mark = self.mark.as_ref().map(|(x, _)| *x);
        let (first, last) = (mark.map_or(first, |x| first.min(x)), mark.map_or(last, |x| last.max(x)));
        let is_spread = self.is_joined && last > first;
        let room = if is_spread { (last - first) * 0.04 } else { SINGLE_ROOM };
        Ticks { range: first - room..last + room, at: self.x.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Vec<f64>, values: Vec<Option<f64>>) -> Chart {
        Chart {
            labels: x.iter().map(|x| format!("<{x}>")).collect(),
            x,
            x_name: "x & more".into(),
            y_name: "y".into(),
            lines: vec![Line { colour: colour::MEASURED, is_dashed: false, values }],
            is_joined: true,
            mark: Some((2.0, "here".into())),
        }
    }

    #[test]
    fn is_an_svg_element_without_references() {
        let svg =
            chart(vec![1.0, 2.0, 3.0], vec![Some(1.0), None, Some(5.0)]).svg(Place::Wide).expect("drawn");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("http"));
        assert!(svg.contains("&lt;3&gt;") && svg.contains("x &amp; more"));
        assert!(svg.contains("#1F5FBF"));
    }

    #[test]
    fn odd_charts_are_drawn_too() {
        for (x, values) in [
            (vec![], vec![]),
            (vec![7.0], vec![Some(0.0)]),
            (vec![7.0], vec![None]),
            (vec![1.0, 1.0], vec![Some(1e12), Some(1e-9)]),
        ] {
            for is_joined in [true, false] {
                let chart = Chart { is_joined, ..chart(x.clone(), values.clone()) };
                for place in [Place::Wide, Place::Narrow] {
                    chart.svg(place).expect("drawn");
                }
            }
        }
    }
}
