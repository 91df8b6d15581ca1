//! Role: the page of `fulmar report`: a table and, for each session, its plots; no script, nothing from outside.
//! Owns: nothing.
//! Implements: docs/TRACES.md, "The report".

use super::bins::{Bin, Points};
use super::chart::{Chart, Shape};
use super::read::{Run, Sequence};
use super::summary::ROWS;
use crate::cli::bench::html::{escape, head, rate_unit};
use crate::cli::bench::plot::{Place, colour};
use crate::cli::text;
use plotters::style::RGBColor;
use std::fmt::Write as _;
use std::ops::Range;

/// What the style of `bench --html` does not have: figures side by side, and a drawing for each width.
const STYLE: &str = "\
body.many{max-width:90rem}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 1rem}
.many .row{grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}
.row figure{margin:.5rem 0;min-width:0}
.key.dot::before{border-top:0;width:.5rem;height:.5rem;border-radius:50%;background:var(--c)}
.key.cross::before{content:'\\00d7';border:0;width:auto;color:var(--c);font-weight:700}
.name{flex-basis:100%;overflow-wrap:anywhere}
.many svg.narrow{display:block}
td,th{vertical-align:top}
.sum td,.sum th{white-space:normal;overflow-wrap:break-word;text-align:left;min-width:9.5rem;max-width:36rem}
.one .sum td{overflow-wrap:anywhere}
.sum th:first-child{overflow-wrap:normal;min-width:6.5rem}
@media(min-width:641px){.sum th:first-child{white-space:nowrap}}
.warn{color:var(--bad)}
";

/// Round trips that the close-up of a sequence shows.
const CLOSE_UP_RTTS: f64 = 8.0;

/// Points of a rate over a whole session at most.
const RATE_STEPS: usize = 100;

/// One curve of one session.
struct Curve {
    name: &'static str,
    colour: RGBColor,
    shape: Shape,
}

/// One kind of plot: its heading, what it shows, and the curves of a session in its own units.
struct Kind {
    heading: &'static str,
    hint: &'static str,
    y: fn(f64) -> (f64, &'static str),
    y_what: &'static str,
    curves: fn(&Run) -> Vec<Curve>,
}

const KINDS: [Kind; 5] = [
    Kind {
        heading: "Rate",
        hint: "What went over the wire, and the rate that the sender allowed itself.",
        y: rate_unit,
        y_what: "rate",
        curves: rate,
    },
    Kind {
        heading: "Window",
        hint: "The congestion window, and the bytes that were in flight.",
        y: byte_unit,
        y_what: "",
        curves: window,
    },
    Kind {
        heading: "Round-trip time",
        hint: "Smoothed, as the session measured it.",
        y: |_| (1.0, "ms"),
        y_what: "RTT",
        curves: rtt,
    },
    Kind {
        heading: "Queue delay",
        hint: "How much longer than the shortest way packets took on the way out, as rate control saw it.",
        y: |_| (1.0, "ms"),
        y_what: "delay",
        curves: queue,
    },
    Kind {
        heading: "Losses and repairs",
        hint: "Packets declared lost, and packets that carried something again.",
        y: |_| (1.0, "packets/s"),
        y_what: "",
        curves: repairs,
    },
];

/// The page. `left_out`: sessions that are not shown.
///
/// # Errors
/// What the drawing library says; none is known.
pub(super) fn page(title: &str, runs: &[Run], left_out: usize) -> Result<String, String> {
    let mut out = head(title, STYLE, if runs.len() > 1 { "many" } else { "one" });
    summary(&mut out, runs);
    if left_out > 0 {
        let _ = writeln!(out, "<p class=\"warn\">{} left out.</p>", text::plural(left_out as u64, "session"));
    }
    for run in runs.iter().filter(|run| run.left_out > 0) {
        let _ = writeln!(
            out,
            "<p class=\"warn\">{}: {} records are missing, because the disk was too slow or the trace too \
             large; the table is complete, the plots are not.</p>",
            escape(&run.name),
            text::count(run.left_out)
        );
    }
    let seconds = runs.iter().map(Run::duration_s).fold(0.0, f64::max);
    sequences(&mut out, runs, seconds)?;
    for kind in &KINDS {
        let curves: Vec<Vec<Curve>> = runs.iter().map(|run| shown((kind.curves)(run))).collect();
        let top = curves.iter().flatten().map(|c| c.shape.top()).fold(0.0, f64::max);
        let (scale, unit) = (kind.y)(top);
        if curves.iter().all(Vec::is_empty) {
            continue;
        }
        let y_name =
            if kind.y_what.is_empty() { unit.to_owned() } else { format!("{}, {unit}", kind.y_what) };
        section(&mut out, kind.heading, kind.hint);
        for (run, curves) in runs.iter().zip(curves) {
            let curves: Vec<Curve> =
                curves.into_iter().map(|c| Curve { shape: scaled(c.shape, scale), ..c }).collect();
            figure(&mut out, run, runs.len() > 1, &curves, (0.0..seconds, 0.0..top / scale), &y_name)?;
        }
        out.push_str("</div>\n</section>\n");
    }
    let _ = write!(
        out,
        "<footer>fulmar {}. Rates count UDP payload. Each point of a line is the mean or the sum over an equal \
         step of time.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    Ok(out)
}

fn section(out: &mut String, heading: &str, hint: &str) {
    let _ = write!(out, "<section>\n<h2>{heading}</h2>\n<p>{hint}</p>\n<div class=\"row\">\n");
}

fn summary(out: &mut String, runs: &[Run]) {
    out.push_str("<div class=\"scroll\"><table class=\"sum\">\n<tr><th></th>");
    for run in runs {
        let _ = write!(out, "<th>{}</th>", escape(&run.name));
    }
    out.push_str("</tr>\n");
    for (name, value) in &ROWS {
        let _ = write!(out, "<tr><th>{name}</th>");
        for run in runs {
            let _ = write!(out, "<td>{}</td>", escape(&value(run)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

/// The time-sequence plots, whole and close up: not all sessions need to show the same, so each has its own scale.
fn sequences(out: &mut String, runs: &[Run], seconds: f64) -> Result<(), String> {
    section(
        out,
        "Sequence",
        "Where in the data the session was at each time. A sender shows what it sent first, what it sent again, \
         and, at the time of sending, what was lost; a receiver shows the numbers of packets that came and that \
         were missing.",
    );
    let top_of = |kind: Sequence| {
        let those = runs.iter().filter(|run| run.sequence() == kind);
        those.flat_map(sequence).map(|c| c.shape.top()).fold(0.0, f64::max)
    };
    let in_units = |run: &Run| {
        let top = top_of(run.sequence());
        let (scale, unit) = byte_unit(top);
        let (scale, y_name) = match run.sequence() {
            Sequence::Numbers => (1.0, "packet number".to_owned()),
            Sequence::Chunks => (scale, format!("offset in data, {unit}")),
            Sequence::Control => (scale, format!("offset in small files, {unit}")),
        };
        let curves = shown(sequence(run)).into_iter();
        let curves: Vec<Curve> = curves.map(|c| Curve { shape: scaled(c.shape, scale), ..c }).collect();
        (curves, top / scale, y_name)
    };
    let many = runs.len() > 1;
    for run in runs {
        let (curves, top, y_name) = in_units(run);
        figure(out, run, many, &curves, (0.0..seconds, 0.0..top), &y_name)?;
    }
    out.push_str("</div>\n</section>\n");
    let mut close_ups = runs
        .iter()
        .filter_map(|run| {
            let seconds = close_up(run)?;
            let (curves, _, y_name) = in_units(run);
            let clip = |c: Curve| Curve { shape: clipped(c.shape, &seconds), ..c };
            let curves = shown(curves.into_iter().map(clip).collect());
            let ranges = curves.iter().map(|c| c.shape.range());
            // Nothing may have happened just then.
            let values = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
            Some((run, curves, (seconds, values), y_name))
        })
        .peekable();
    if close_ups.peek().is_none() {
        return Ok(());
    }
    let hint = "Some round trips from the middle of that: repairs follow a round trip after what was lost.";
    section(out, "Sequence, close up", hint);
    for (run, curves, ranges, y_name) in close_ups {
        figure(out, run, many, &curves, ranges, &y_name)?;
    }
    out.push_str("</div>\n</section>\n");
    Ok(())
}

/// The seconds of a close-up: some round trips from the middle, if the session took many more.
fn close_up(run: &Run) -> Option<Range<f64>> {
    let width = CLOSE_UP_RTTS * run.rtt.get()?.max(run.bins.width_s() * 1e3) / 1e3;
    let middle = run.duration_s() / 2.0;
    (run.duration_s() > 3.0 * width).then_some(middle - width / 2.0..middle + width / 2.0)
}

/// What of it lies in these seconds.
fn clipped(shape: Shape, seconds: &Range<f64>) -> Shape {
    let line = |points: Vec<(f64, Option<f64>)>| {
        points.into_iter().filter(|(x, _)| seconds.contains(x)).collect::<Vec<_>>()
    };
    let dots =
        |points: Vec<(f64, f64)>| points.into_iter().filter(|(x, _)| seconds.contains(x)).collect::<Vec<_>>();
    match shape {
        Shape::Line(points) => Shape::Line(line(points)),
        Shape::Dashed(points) => Shape::Dashed(line(points)),
        Shape::Dots(points) => Shape::Dots(dots(points)),
        Shape::Crosses(points) => Shape::Crosses(dots(points)),
    }
}

fn figure(
    out: &mut String,
    run: &Run,
    is_one_of_many: bool,
    curves: &[Curve],
    (seconds, values): (Range<f64>, Range<f64>),
    y_name: &str,
) -> Result<(), String> {
    out.push_str("<figure>\n<figcaption>");
    if is_one_of_many {
        let _ = write!(out, "<span class=\"name\">{}</span>", escape(&run.name));
    }
    for Curve { name, colour, shape } in curves {
        let class = match shape {
            Shape::Line(_) => "key",
            Shape::Dashed(_) => "key dashed",
            Shape::Dots(_) => "key dot",
            Shape::Crosses(_) => "key cross",
        };
        let colour = match *colour {
            colour::MEASURED => "measured",
            colour::SECOND => "second",
            colour::MARK => "mark",
            _ => "soft",
        };
        let _ = write!(out, "<span class=\"{class}\" style=\"--c:var(--{colour})\">{name}</span>");
    }
    if curves.is_empty() {
        out.push_str("<span class=\"key\">nothing to show</span>");
    }
    out.push_str("</figcaption>\n");
    // The first curve is the one that nothing may cover.
    let series = curves.iter().rev().map(|c| (c.colour, &c.shape)).collect();
    let chart = Chart { seconds, values, y_name: y_name.to_owned(), series };
    if !is_one_of_many {
        out.push_str(&chart.svg(Place::Wide)?.replacen("<svg ", "<svg class=\"wide\" ", 1));
    }
    out.push_str(&chart.svg(Place::Narrow)?.replacen("<svg ", "<svg class=\"narrow\" ", 1));
    out.push_str("</figure>\n");
    Ok(())
}

/// Without the curves that have nothing in them.
fn shown(curves: Vec<Curve>) -> Vec<Curve> {
    curves.into_iter().filter(|c| !c.shape.is_empty()).collect()
}

fn scaled(shape: Shape, scale: f64) -> Shape {
    let line = |points: Vec<(f64, Option<f64>)>| -> Vec<_> {
        points.into_iter().map(|(x, y)| (x, y.map(|y| y / scale))).collect()
    };
    let dots = |points: Vec<(f64, f64)>| points.into_iter().map(|(x, y)| (x, y / scale)).collect();
    match shape {
        Shape::Line(points) => Shape::Line(line(points)),
        Shape::Dashed(points) => Shape::Dashed(line(points)),
        Shape::Dots(points) => Shape::Dots(dots(points)),
        Shape::Crosses(points) => Shape::Crosses(dots(points)),
    }
}

/// The unit in which a chart's largest number of bytes is easy to read.
fn byte_unit(most: f64) -> (f64, &'static str) {
    match most {
        m if m >= 1024.0 * 1024.0 * 1024.0 => (1024.0 * 1024.0 * 1024.0, "GiB"),
        m if m >= 1024.0 * 1024.0 => (1024.0 * 1024.0, "MiB"),
        _ => (1024.0, "KiB"),
    }
}

/// A curve of one value per step.
fn steps(run: &Run, value: impl Fn(&Bin) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    let half = run.bins.width_s() / 2.0;
    run.bins.iter().map(|(x, bin)| (x + half, value(bin))).collect()
}

/// A curve of a figure that is told only now and then: steps without a value are no gaps.
fn gauge(run: &Run, value: impl Fn(&Bin) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    steps(run, value).into_iter().filter(|(_, y)| y.is_some()).collect()
}

fn per_second(run: &Run, count: impl Fn(&Bin) -> f64) -> Vec<(f64, Option<f64>)> {
    // Trains leave in bursts: over steps that are too short, a rate is all peaks.
    let values: Vec<f64> = run.bins.iter().map(|(_, bin)| count(bin)).collect();
    let group = values.len().div_ceil(RATE_STEPS).max(1);
    let width = run.bins.width_s();
    let points = values.chunks(group).enumerate().map(|(i, some)| {
        let (from, seconds) = ((i * group) as f64 * width, some.len() as f64 * width);
        (from + seconds / 2.0, Some(some.iter().sum::<f64>() / seconds))
    });
    points.collect()
}

fn points(points: &Points) -> Vec<(f64, f64)> {
    points.iter().map(|(x, y)| (x, y as f64)).collect()
}

fn sequence(run: &Run) -> Vec<Curve> {
    let kind = run.sequence();
    let span = |bin: &Bin| match kind {
        Sequence::Chunks => bin.fresh[0].get(),
        Sequence::Control => bin.fresh[1].get(),
        Sequence::Numbers => bin.numbers.get(),
    };
    let width = run.bins.width_s();
    let path = run.bins.iter().filter_map(|(x, bin)| {
        let (from, to) = span(bin)?;
        Some([(x, Some(from as f64)), (x + width, Some(to as f64))])
    });
    let path = Shape::Line(path.flatten().collect());
    let curve = |name, colour, shape| Curve { name, colour, shape };
    if kind == Sequence::Numbers {
        return vec![
            curve("received", colour::MEASURED, path),
            curve("missing", colour::MARK, Shape::Crosses(points(&run.missing))),
        ];
    }
    let stream = usize::from(kind == Sequence::Control);
    vec![
        curve("sent first", colour::MEASURED, path),
        curve("sent again", colour::SECOND, Shape::Dots(points(&run.repairs[stream]))),
        curve("lost", colour::MARK, Shape::Crosses(points(&run.lost[stream]))),
    ]
}

fn rate(run: &Run) -> Vec<Curve> {
    let sent = per_second(run, |bin| 8.0 * bin.sent_bytes as f64);
    let received = per_second(run, |bin| 8.0 * bin.received_bytes as f64);
    let mut curves = vec![
        Curve { name: "sent", colour: colour::MEASURED, shape: Shape::Line(sent) },
        Curve { name: "received", colour: colour::SECOND, shape: Shape::Line(received) },
    ];
    if run.sequence() != Sequence::Numbers {
        let most = curves.iter().map(|c| c.shape.top()).fold(0.0, f64::max);
        // Where nothing limits it, the allowed rate can be out of all proportion to what is sent.
        let allowed = gauge(run, |bin| bin.pacing.get().map(|rate| rate.min(1.5 * most)));
        curves.push(Curve { name: "allowed", colour: colour::EXPECTED, shape: Shape::Dashed(allowed) });
    }
    curves
}

fn window(run: &Run) -> Vec<Curve> {
    vec![
        Curve {
            name: "window",
            colour: colour::SECOND,
            shape: Shape::Line(gauge(run, |bin| bin.window.get())),
        },
        Curve {
            name: "in flight",
            colour: colour::MEASURED,
            shape: Shape::Line(gauge(run, |bin| bin.in_flight.get())),
        },
    ]
}

fn rtt(run: &Run) -> Vec<Curve> {
    let line = gauge(run, |bin| bin.rtt.get());
    let mut curves = vec![Curve { name: "smoothed RTT", colour: colour::MEASURED, shape: Shape::Line(line) }];
    if let Some(min) = run.min_rtt_ms {
        let flat = Shape::Dashed(vec![(0.0, Some(min)), (run.duration_s(), Some(min))]);
        curves.push(Curve { name: "smallest", colour: colour::EXPECTED, shape: flat });
    }
    curves
}

fn queue(run: &Run) -> Vec<Curve> {
    let line = gauge(run, |bin| bin.queue.get());
    vec![Curve { name: "queue delay", colour: colour::MEASURED, shape: Shape::Line(line) }]
}

fn repairs(run: &Run) -> Vec<Curve> {
    let any = |count: fn(&Bin) -> u64| run.bins.iter().any(|(_, bin)| count(bin) > 0);
    let curve = |name, colour, count: fn(&Bin) -> u64| {
        let line = if any(count) { per_second(run, |bin| count(bin) as f64) } else { Vec::new() };
        Curve { name, colour, shape: Shape::Line(line) }
    };
    vec![curve("lost", colour::MARK, |bin| bin.lost), curve("repairs", colour::SECOND, |bin| bin.repairs)]
}
