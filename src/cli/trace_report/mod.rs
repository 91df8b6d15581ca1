//! Role: `fulmar report`: traces that `--trace` has written, as one HTML page and a table.
//! Owns: nothing.
//! Implements: `fulmar report --help`; docs/TRACES.md, "The report".

pub mod args;
mod bins;
mod chart;
mod page;
mod read;
mod summary;

use super::exit::{self, Failure};
use super::{terminal, text};
use args::TraceReportArgs;
use read::Run;
use std::path::Path;

/// Sessions shown at most; of more, those that moved most bytes. Beyond, a page is no longer read but searched.
const MAX_RUNS: usize = 12;

/// Runs it; the exit code.
pub fn run(args: &TraceReportArgs) -> Result<u8, Failure> {
    let mut runs = Vec::new();
    for path in &args.traces {
        runs.extend(read::trace(path)?);
    }
    let left_out = keep_largest(&mut runs);
    let title = args.title.clone().unwrap_or_else(|| match args.traces.as_slice() {
        [one] => format!("fulmar report: {}", file_name(one)),
        many => format!("fulmar report: {} traces", many.len()),
    });
    let page = page::page(&title, &runs, left_out)
        .map_err(|error| Failure::new(exit::OTHER, format!("cannot draw the report: {error}")))?;
    if args.output == Path::new("-") {
        terminal::stdout(page.as_bytes());
        return Ok(exit::DONE);
    }
    std::fs::write(&args.output, page).map_err(|error| Failure::io("write", &args.output, &error))?;
    if !args.verbosity.quiet {
        for line in summary::table(&runs) {
            terminal::stdout_line(&line);
        }
        if left_out > 0 {
            terminal::stdout_line(&format!(
                "{} left out: the {MAX_RUNS} largest are shown",
                text::plural(left_out as u64, "session")
            ));
        }
        terminal::stdout_line(&format!("written to {}", text::path(&args.output)));
    }
    Ok(exit::DONE)
}

/// Keeps the sessions that moved most, in the order in which they were read; how many are left out.
fn keep_largest(runs: &mut Vec<Run>) -> usize {
    let left_out = runs.len().saturating_sub(MAX_RUNS);
    if left_out > 0 {
        let mut sizes: Vec<u64> = runs.iter().map(Run::wire_bytes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let least = sizes[MAX_RUNS - 1];
        runs.retain(|run| run.wire_bytes() >= least);
        runs.truncate(MAX_RUNS);
    }
    left_out
}

/// How a trace is called on the page.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| text::path(path), |name| text::path(Path::new(name)))
}

#[cfg(test)]
mod tests;
