//! Role: the report: one page that needs no other file, no script and no network, light and dark.
//! Owns: nothing.
//! Implements: `fulmar bench --html`.

use super::plot::{Chart, Line, Place, colour};
use super::result::{Point, Run, Sweep};
use super::table;
use crate::units;
use plotters::style::RGBColor;
use std::fmt::Write as _;

/// The page's style. The colours inside the charts are attributes; here they become the page's own.
const STYLE: &str = "\
:root{color-scheme:light dark;--page:#ffffff;--card:#f6f7f9;--ink:#1f242c;--soft:#6b7280;--grid:#d9dde3;\
--measured:#1f5fbf;--second:#b45309;--mark:#9d174d;--bad:#b91c1c}
@media (prefers-color-scheme:dark){:root{--page:#14171c;--card:#1c2027;--ink:#e6e9ee;--soft:#9aa3b2;\
--grid:#343b47;--measured:#79b0ff;--second:#ffb066;--mark:#ff8fc0;--bad:#ff8a8a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--page);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2.5rem 0 .25rem}
p{margin:.25rem 0 1rem;color:var(--soft)}
figure{margin:1rem 0;padding:.75rem;background:var(--card);border-radius:.5rem}
figcaption{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-weight:600}
.key{font-weight:400;white-space:nowrap}
.key::before{content:'';display:inline-block;width:1.5rem;margin-right:.4rem;vertical-align:middle;\
border-top:3px solid var(--c)}
.key.dashed::before{border-top-style:dashed}
svg{display:block;width:100%;height:auto}
svg text{font-family:system-ui,sans-serif}
svg.narrow{display:none}
@media(max-width:640px){svg.wide{display:none}svg.narrow{display:block}body{padding:1rem .75rem 2rem}\
figure{padding:.5rem}}
svg [fill='#1F5FBF']{fill:var(--measured)}svg [stroke='#1F5FBF']{stroke:var(--measured)}
svg [fill='#B45309']{fill:var(--second)}svg [stroke='#B45309']{stroke:var(--second)}
svg [fill='#6B7280']{fill:var(--soft)}svg [stroke='#6B7280']{stroke:var(--soft)}
svg [fill='#9D174D']{fill:var(--mark)}svg [stroke='#9D174D']{stroke:var(--mark)}
svg [fill='#1F242C']{fill:var(--ink)}svg [stroke='#D9DDE3']{stroke:var(--grid)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
td.bad{color:var(--bad);text-align:left;white-space:normal}
footer{margin-top:3rem;color:var(--soft);font-size:.9rem}
";

/// The page.
///
/// # Errors
/// What the drawing library says; none is known.
pub fn page(title: &str, sweeps: &[Sweep]) -> Result<String, String> {
    let mut out = head(title, "", "bench");
    for sweep in sweeps {
        section(&mut out, sweep)?;
    }
    let _ = write!(
        out,
        "<footer>fulmar {}. Goodput counts file bytes, from the first packet to the receiver's confirmation. \
         Where a value has several uploads, the median by goodput is shown. Expected: min(window / RTT, rate) \
         &times; (1 &minus; loss) &times; 0.958.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    Ok(out)
}

/// Everything down to the heading, with this style beside the common one.
pub(in crate::cli) fn head(title: &str, style: &str, class: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         img-src data:\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n\
         <style>\n{STYLE}{style}</style>\n</head>\n<body class=\"{class}\">\n<h1>{title}</h1>\n"
    )
}

fn section(out: &mut String, sweep: &Sweep) -> Result<(), String> {
    let _ = write!(
        out,
        "<section>\n<h2>{}</h2>\n<p>{}</p>\n",
        escape(&sweep.heading()),
        escape(&table::link(sweep))
    );
    let medians: Vec<Run> = sweep.points.iter().map(Point::median).collect();
    let of = |value: &dyn Fn(&Run) -> Option<f64>| -> Vec<Option<f64>> {
        medians.iter().map(|run| if run.error.is_none() { value(run) } else { None }).collect()
    };
    let goodput = of(&|run| Some(run.goodput_bits_per_sec as f64));
    let expected: Vec<Option<f64>> =
        sweep.points.iter().map(|p| p.expected_bits_per_sec.map(|bits| bits as f64)).collect();
    let (scale, unit) = rate_unit(goodput.iter().chain(&expected).flatten().copied().fold(0.0, f64::max));
    let scaled = |values: Vec<Option<f64>>| values.into_iter().map(|v| v.map(|v| v / scale)).collect();
    figure(
        out,
        sweep,
        &format!("Goodput, {unit}"),
        vec![
            ("measured", line(colour::MEASURED, false, scaled(goodput))),
            ("expected", line(colour::EXPECTED, true, scaled(expected))),
        ],
    )?;
    let rtt = of(&|run| run.rtt_ms.or(run.min_rtt_ms));
    let queue = of(&|run| run.queue_ms);
    figure(
        out,
        sweep,
        "Delay, ms",
        vec![
            ("mean RTT", line(colour::MEASURED, false, rtt)),
            ("mean queue", line(colour::SECOND, false, queue)),
        ],
    )?;
    let repaired = of(&|run| Some(run.repaired_pct()));
    let lost = of(&|run| Some(run.loss_pct));
    figure(
        out,
        sweep,
        "Packets, %",
        vec![
            ("repairs of those sent", line(colour::MEASURED, false, repaired)),
            ("lost", line(colour::EXPECTED, true, lost)),
        ],
    )?;
    rows(out, sweep);
    out.push_str("</section>\n");
    Ok(())
}

fn line(colour: RGBColor, is_dashed: bool, values: Vec<Option<f64>>) -> Line {
    Line { colour, is_dashed, values }
}

/// A chart with its legend; curves without a single value are left out, and a chart without a curve too.
fn figure(out: &mut String, sweep: &Sweep, what: &str, lines: Vec<(&str, Line)>) -> Result<(), String> {
    let lines: Vec<_> = lines.into_iter().filter(|(_, l)| l.values.iter().any(Option::is_some)).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let mark = sweep.bdp_bytes.filter(|bytes| sweep.sweep == "window" && *bytes > 0);
    let _ = write!(out, "<figure>\n<figcaption>{}", escape(what));
    for (name, line) in &lines {
        let class = if line.is_dashed { "key dashed" } else { "key" };
        let colour = match line.colour {
            colour::MEASURED => "measured",
            colour::SECOND => "second",
            _ => "soft",
        };
        let _ = write!(out, "<span class=\"{class}\" style=\"--c:var(--{colour})\">{name}</span>");
    }
    if mark.is_some() {
        out.push_str("<span class=\"key dashed\" style=\"--c:var(--mark)\">bandwidth-delay product</span>");
    }
    out.push_str("</figcaption>\n");
    // Points go by value on the x axis, whatever order they were given in.
    let places = places(sweep);
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| places[*a].total_cmp(&places[*b]));
    let chart = Chart {
        x: order.iter().map(|i| places[*i]).collect(),
        labels: order.iter().map(|i| sweep.points[*i].value.clone()).collect(),
        x_name: match sweep.sweep.as_str() {
            "window" => "window".into(),
            "loss" => "loss of the link, each way".into(),
            "chunk" => "chunk size".into(),
            _ => String::new(),
        },
        y_name: what.to_owned(),
        lines: lines
            .into_iter()
            .map(|(_, line)| Line { values: order.iter().map(|i| line.values[*i]).collect(), ..line })
            .collect(),
        is_joined: has_order(sweep),
        mark: mark.map(|bytes| ((bytes as f64).log2(), format!("BDP {}", units::format_bytes(bytes)))),
    };
    for (place, class) in [(Place::Wide, "wide"), (Place::Narrow, "narrow")] {
        out.push_str(&chart.svg(place)?.replacen("<svg ", &format!("<svg class=\"{class}\" "), 1));
    }
    out.push_str("</figure>\n");
    Ok(())
}

/// Whether all values are numbers that lie on a scale.
fn has_order(sweep: &Sweep) -> bool {
    matches!(sweep.sweep.as_str(), "window" | "chunk" | "loss")
        && sweep.points.iter().all(|p| p.number.is_some())
}

/// Where each point lies: bytes by their logarithm, percent as they are, names one after the other.
fn places(sweep: &Sweep) -> Vec<f64> {
    let numbers: Option<Vec<f64>> =
        sweep.points.iter().map(|p| p.number.filter(|n| n.is_finite() && *n >= 0.0)).collect();
    match (sweep.sweep.as_str(), numbers) {
        ("window" | "chunk", Some(numbers)) => numbers.iter().map(|n| n.max(1.0).log2()).collect(),
        ("loss", Some(numbers)) => numbers,
        _ => (0..sweep.points.len()).map(|i| i as f64).collect(),
    }
}

/// The unit in which a chart's largest rate is easy to read.
pub(in crate::cli) fn rate_unit(most: f64) -> (f64, &'static str) {
    match most {
        m if m >= 1e9 => (1e9, "Gbit/s"),
        m if m >= 1e6 => (1e6, "Mbit/s"),
        _ => (1e3, "kbit/s"),
    }
}

fn rows(out: &mut String, sweep: &Sweep) {
    let has_errors = sweep.points.iter().flat_map(|p| &p.runs).any(|run| run.error.is_some());
    let _ = write!(out, "<div class=\"scroll\"><table>\n<tr><th>{}</th>", escape(sweep.column()));
    for name in table::headings() {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str(if has_errors { "<th></th></tr>\n" } else { "</tr>\n" });
    for point in &sweep.points {
        let _ = write!(out, "<tr><td>{}</td>", escape(&point.value));
        for cell in table::cells(point) {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        if has_errors {
            let error = point.runs.iter().find_map(|run| run.error.as_deref()).unwrap_or_default();
            let _ = write!(out, "<td class=\"bad\">{}</td>", escape(error));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

/// Text that may hold anything, inside an element.
pub(in crate::cli) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::cli::text::one_line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(kind: &str, values: &[(&str, Option<f64>)]) -> Sweep {
        let points = values.iter().map(|(value, number)| Point {
            value: (*value).into(),
            number: *number,
            expected_bits_per_sec: Some(2_000_000),
            runs: vec![Run { goodput_bits_per_sec: 1_000_000, packets_sent: 9, ..Run::default() }],
            ..Point::default()
        });
        Sweep { sweep: kind.into(), points: points.collect(), bdp_bytes: Some(1_250_000), ..Sweep::default() }
    }

    /// What would make a browser fetch something.
    pub(crate) fn assert_self_contained(page: &str) {
        for forbidden in ["http://", "https://", "<script", "src=", "@import", "url(", "//"] {
            let at = page.find(forbidden);
            assert!(at.is_none(), "{forbidden}: {:?}", at.map(|at| &page[at..(at + 60).min(page.len())]));
        }
        // The empty icon keeps browsers from asking for one.
        assert_eq!(page.matches("href=").count(), page.matches("href=\"data:,\"").count());
    }

    #[test]
    fn page_has_plots_marks_and_nothing_from_outside() {
        let windows = sweep("window", &[("16 KiB", Some(16384.0)), ("4 MiB", Some(4_194_304.0))]);
        let names = sweep("profile", &[("<b>lte", None), ("dsl", None)]);
        let page = page("A & B <x>", &[windows, names]).expect("drawn");
        assert_eq!(page.matches("<svg ").count(), 8, "four plots, for two widths");
        assert!(page.contains("BDP 1.2 MiB") && page.contains("16 KiB"));
        assert!(page.contains("A &amp; B &lt;x&gt;") && !page.contains("<b>"));
        assert!(page.contains("prefers-color-scheme:dark"));
        assert_self_contained(&page);
    }

    #[test]
    fn every_colour_of_the_charts_is_the_pages() {
        let page = page("t", &[sweep("window", &[("16 KiB", Some(16384.0)), ("1 MiB", Some(1_048_576.0))])]);
        let page = page.expect("drawn");
        let drawn = page.split("</style>").nth(1).expect("a body");
        for attribute in ["fill=\"#", "stroke=\"#"] {
            for (at, _) in drawn.match_indices(attribute) {
                let colour = &drawn[at + attribute.len() - 1..at + attribute.len() + 6];
                // Transparent lines of the mesh have opacity 0.
                let tag = &drawn[drawn[..at].rfind('<').expect("a tag")..at];
                let is_clear = tag.contains("opacity=\"0\"");
                let rule = format!("[{}='{colour}']", attribute.trim_end_matches("=\"#"));
                assert!(is_clear || STYLE.contains(&rule), "{rule} in {tag}");
            }
        }
    }
}
