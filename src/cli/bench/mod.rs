//! Role: `fulmar bench`: the same upload over a list of values, in simulation or against a real server.
//! Owns: the sweep that is running.
//! Implements: `fulmar bench --help`.

pub mod args;
pub mod html;
pub mod plan;
pub mod plot;
pub mod result;
pub mod server;
pub mod simulate;
pub mod table;

use super::exit::{self, Failure, complain};
use super::{terminal, text, trace};
use args::{BenchArgs, BenchCommand, FileArgs, ReportArgs, SweepArgs};
use plan::{Kind, Plan, Setting};
use result::{Point, Run, Saved, Sweep};
use server::Uplink;
use std::path::Path;
use std::time::Duration;

/// Largest file of results that is read: thousands of sweeps.
const MAX_REPORT_BYTES: u64 = 64 << 20;

/// Runs it; the exit code.
pub fn run(args: &BenchArgs) -> Result<u8, Failure> {
    match &args.what {
        BenchCommand::Window(args) => sweep(Kind::Window, args),
        BenchCommand::Loss(args) => sweep(Kind::Loss, args),
        BenchCommand::Chunk(args) => sweep(Kind::Chunk, args),
        BenchCommand::Cc(args) => sweep(Kind::Cc, args),
        BenchCommand::Report(args) => report(args),
    }
}

fn sweep(kind: Kind, args: &SweepArgs) -> Result<u8, Failure> {
    let plan = Plan::new(kind, args)?;
    // A long sweep should not end with a file that cannot be written.
    for path in [&args.files.csv, &args.files.html].into_iter().flatten() {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| Failure::io("write", path, &error))?;
    }
    let trace = trace::open(args.trace.as_deref(), false)?;
    let uplink = args.server.as_deref().map(|server| Uplink::new(args, server)).transpose()?;
    let say = |line: String| {
        if !args.output.json && !args.output.verbosity.quiet {
            terminal::stdout_line(&line);
        }
    };
    let mut sweep = Sweep {
        command: "bench".into(),
        sweep: kind.name().into(),
        link_kind: uplink
            .as_ref()
            .map_or_else(|| "simulation".into(), |u| format!("server {}", u.authority())),
        link: plan.known.clone(),
        bdp_bytes: plan.known.bdp_bytes(),
        window_bytes: args.window.as_ref().and_then(|_| plan.settings[0].window_bytes),
        cc: plan.cc.clone(),
        chunk_bytes: (kind != Kind::Chunk).then(|| u64::from(plan.settings[0].chunk_bytes)),
        seed: plan.seed,
        ..Sweep::default()
    };
    if kind == Kind::Loss {
        sweep.link.loss_pct = None;
    }
    say(table::head(&sweep));
    let mut last: Option<(f64, u64)> = None;
    let mut virtual_time = Duration::ZERO;
    for setting in &plan.settings {
        let mut point = Point {
            value: setting.label.clone(),
            number: setting.number,
            expected_bits_per_sec: plan.expected_bits_per_sec(setting),
            ..Point::default()
        };
        let bytes = plan.size_for(point.expected_bits_per_sec.or_else(|| guess(setting, last)));
        for n in 0..plan.runs {
            let seed = plan.seed.wrapping_add(n);
            let part = trace.as_ref().map(|trace| trace.part().labelled(&label(&plan, setting, seed)));
            point.runs.push(match &uplink {
                None => simulate::upload(&plan, setting, seed, bytes, part.map(|part| (part, virtual_time))),
                Some(uplink) => uplink.upload(setting, seed, bytes, part)?,
            });
            virtual_time +=
                point.runs.last().map_or(Duration::ZERO, |run| Duration::from_secs_f64(run.elapsed_s));
            if uplink.as_ref().and_then(Uplink::interrupted).is_some() {
                break;
            }
        }
        last = Some((setting.number.unwrap_or(1.0), point.median().goodput_bits_per_sec));
        say(table::row(&point));
        sweep.points.push(point);
        if let Some(code) = uplink.as_ref().and_then(Uplink::interrupted) {
            sweep.error = Some("interrupted".into());
            sweep.exit_code = code;
            break;
        }
    }
    if uplink.is_some() {
        measure_link(&plan, &mut sweep);
    }
    sweep.conclude();
    finish(vec![sweep], None, &args.files, args.output.json)
}

/// What a trace calls an upload.
fn label(plan: &Plan, setting: &Setting, seed: u64) -> String {
    let seed = if plan.runs > 1 { format!(", seed {seed}") } else { String::new() };
    format!("{} {}{seed}", plan.kind.name(), setting.label)
}

/// What to expect of a link of which nothing is known, from the value before: a larger window may carry as much
/// more.
fn guess(setting: &Setting, last: Option<(f64, u64)>) -> Option<u64> {
    let (number, goodput) = last?;
    let growth = match (setting.window_bytes, setting.number) {
        (Some(_), Some(this)) if number > 0.0 => (this / number).clamp(1.0, 4.0),
        _ => 1.0,
    };
    Some((goodput as f64 * growth) as u64)
}

/// Fills in what was not said of a real link from what was measured: the smallest RTT, the mean loss, and as rate
/// what the best upload had.
fn measure_link(plan: &Plan, sweep: &mut Sweep) {
    let runs: Vec<Run> = sweep.points.iter().map(Point::median).filter(|run| run.error.is_none()).collect();
    if runs.is_empty() {
        return;
    }
    let link = &mut sweep.link;
    let is_known = link.rate_bits_per_sec.is_some() && link.rtt_ms.is_some() && link.loss_pct.is_some();
    link.rtt_ms = link.rtt_ms.or_else(|| runs.iter().filter_map(|run| run.min_rtt_ms).min_by(f64::total_cmp));
    link.loss_pct.get_or_insert_with(|| runs.iter().map(|run| run.loss_pct).sum::<f64>() / runs.len() as f64);
    let passed = (1.0 - link.loss_pct.unwrap_or(0.0) / 100.0) * result::HEADER_SHARE;
    let best = runs.iter().map(|run| run.goodput_bits_per_sec).max().unwrap_or(0);
    if passed > 0.0 {
        link.rate_bits_per_sec.get_or_insert((best as f64 / passed) as u64);
    }
    if !is_known {
        sweep.link_kind.push_str(" (link as measured)");
    }
    sweep.bdp_bytes = sweep.link.bdp_bytes();
    for (point, setting) in sweep.points.iter_mut().zip(&plan.settings) {
        point.expected_bits_per_sec = sweep.link.expected_bits_per_sec(setting.window_bytes);
    }
}

/// Reads saved results and shows them again.
fn report(args: &ReportArgs) -> Result<u8, Failure> {
    let mut sweeps = Vec::new();
    let mut title = None;
    for path in &args.from {
        match read(path)? {
            Saved::One(sweep) => sweeps.push(*sweep),
            Saved::Many { title: this, sweeps: these } => {
                title = title.or(Some(this).filter(|title| !title.is_empty()));
                sweeps.extend(these);
            }
        }
    }
    sweeps.iter_mut().for_each(Sweep::take_puts);
    if !args.output.json && !args.output.verbosity.quiet {
        for sweep in &sweeps {
            terminal::stdout_line(&table::head(sweep));
            sweep.points.iter().for_each(|point| {
                terminal::stdout_line(&table::row(point));
            });
        }
    }
    finish(sweeps, title, &args.files, args.output.json)
}

fn read(path: &Path) -> Result<Saved, Failure> {
    let failed = |error: std::io::Error| Failure::io("read", path, &error);
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_REPORT_BYTES {
        let shown = text::path(path);
        return Err(Failure::new(
            exit::REFUSED,
            format!("{shown} is too large for results of `fulmar bench`"),
        ));
    }
    let content = std::fs::read(path).map_err(failed)?;
    let saved = serde_json::from_slice(&content).ok().filter(|saved| match saved {
        Saved::One(sweep) => sweep.command == "bench",
        Saved::Many { sweeps, .. } => sweeps.iter().all(|sweep| sweep.command == "bench"),
    });
    saved.ok_or_else(|| {
        Failure::usage(format!(
            "{} does not hold results: it must be an object as `fulmar bench --json` prints it; \
             see fulmar bench report --help",
            text::path(path)
        ))
    })
}

/// Writes the files, prints the object, says what went wrong. Returns the exit code.
fn finish(sweeps: Vec<Sweep>, title: Option<String>, files: &FileArgs, is_json: bool) -> Result<u8, Failure> {
    let write = |path: &Path, content: String| {
        std::fs::write(path, content).map_err(|error| Failure::io("write", path, &error))
    };
    if let Some(path) = &files.csv {
        write(path, table::csv(&sweeps))?;
    }
    if let Some(path) = &files.html {
        let title = title.clone().unwrap_or_else(|| match sweeps.as_slice() {
            [one] => format!("fulmar bench {}", one.column()),
            _ => "fulmar bench".into(),
        });
        let page = html::page(&title, &sweeps)
            .map_err(|error| Failure::new(exit::OTHER, format!("cannot draw the report: {error}")))?;
        write(path, page)?;
    }
    if is_json {
        let object = match sweeps.as_slice() {
            [one] if title.is_none() => serde_json::to_string(one),
            many => serde_json::to_string(&serde_json::json!({
                "command": "bench",
                "title": title,
                "sweeps": many,
                "exit_code": many.iter().map(|s| s.exit_code).max().unwrap_or(0),
            })),
        };
        terminal::stdout_line(&object.expect("strings and numbers serialise into memory"));
    }
    for error in sweeps.iter().filter_map(|sweep| sweep.error.as_deref()) {
        complain(error);
    }
    Ok(sweeps.iter().map(|sweep| sweep.exit_code).max().unwrap_or(exit::DONE))
}
