//! Role: the command line of `fulmar report` as clap sees it.
//! Owns: nothing.
//! Implements: `fulmar report --help`.

use crate::cli::args::VerbosityArgs;
use clap::Args;
use std::path::PathBuf;

/// Printed below the options.
pub const EXAMPLES: &str = "\
Examples:
  fulmar put big.iso server.org --trace put.sqlog
  fulmar report put.sqlog                        writes fulmar-report.html
  fulmar report adaptive.sqlog cubic.sqlog -o compare.html

Every command that talks to a peer writes a trace with --trace FILE. The page
needs no other file and no network. Several traces, and several sessions of a
server's trace, stand side by side.";

/// `fulmar report`
#[derive(Clone, Debug, Args)]
pub struct TraceReportArgs {
    /// Traces that --trace has written
    #[arg(required = true, value_name = "FILE")]
    pub traces: Vec<PathBuf>,
    /// The page; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "fulmar-report.html")]
    pub output: PathBuf,
    /// Heading of the page
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Amount of output.
    #[command(flatten)]
    pub verbosity: VerbosityArgs,
}
