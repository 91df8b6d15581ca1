//! Role: the command line of `fulmar bench` as clap sees it. Values are still text; `plan` checks them.
//! Owns: nothing.
//! Implements: `fulmar bench --help`.

use crate::cli::args::{KeyArgs, OutputArgs};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const WINDOW_EXAMPLES: &str = "\
Examples:
  fulmar bench window
  fulmar bench window --rate 20mbit --rtt 600ms --loss 2% --html window.html
  fulmar bench window --values 64KiB,256KiB,1MiB,4MiB --json
  fulmar bench window --server server.org --key-file k --rtt 80ms --rate 100mbit

The bandwidth-delay product (rate x RTT) is marked: below it the window limits
the goodput, above it the link does. What is to be expected is
min(window / RTT, rate) x (1 - loss) x 0.958; the last factor is what headers
of 63 bytes leave of a packet of 1,500.";

const LOSS_EXAMPLES: &str = "\
Examples:
  fulmar bench loss
  fulmar bench loss --values 0%,1%,10%,30% --rate 50mbit --rtt 20ms --runs 3
  fulmar bench loss --cc cubic --csv loss.csv";

const CHUNK_EXAMPLES: &str = "\
Examples:
  fulmar bench chunk
  fulmar bench chunk --values 16KiB,256KiB,4MiB --html chunk.html";

const CC_EXAMPLES: &str = "\
Examples:
  fulmar bench cc
  fulmar bench cc --values adaptive,cubic,fixed:80mbit --loss 5%

`fixed` alone sends at the rate of the link.";

const REPORT_EXAMPLES: &str = "\
Examples:
  fulmar bench window --json > window.json
  fulmar bench report window.json loss.json --html report.html

A file holds one object as --json prints it, or an object with `title` and
`sweeps`, a list of them. Instead of its own figures a point may have `puts`, a
list of objects as `fulmar put --json` prints them.";

const AFTER_HELP: &str = "\
Without --server a link is simulated on virtual time: the same seed gives the
same figures on every machine, in seconds. With --server the same sweep is run
as real uploads of random bytes; --rate, --rtt, --loss and --queue then only
say what the link is like, for what is to be expected and for the sizes.";

/// `fulmar bench`
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// What is varied.
    #[command(subcommand)]
    pub what: BenchCommand,
}

/// The sweeps, and the report.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Goodput, RTT, queue and repairs against the size of the window
    #[command(after_help = WINDOW_EXAMPLES)]
    Window(SweepArgs),
    /// The same against the loss of the link
    #[command(after_help = LOSS_EXAMPLES)]
    Loss(SweepArgs),
    /// The same against the size of chunks
    #[command(after_help = CHUNK_EXAMPLES)]
    Chunk(SweepArgs),
    /// The same for each rate control
    #[command(after_help = CC_EXAMPLES)]
    Cc(SweepArgs),
    /// Make a table, a CSV file or an HTML report of results that were saved
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
}

/// One sweep.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// What to try, with commas between
    #[arg(long, value_name = "LIST")]
    pub values: Option<String>,
    /// Bytes of each upload [default: what the link should carry in --seconds]
    #[arg(long, value_name = "SIZE", conflicts_with = "seconds")]
    pub size: Option<String>,
    /// How long each upload should take; handshake and ramp count, so less than 10 s says little
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    pub seconds: String,
    /// Uploads per value; the median by goodput is shown
    #[arg(long, value_name = "N", default_value = "1")]
    pub runs: String,
    /// Random numbers of the link and of the bytes sent
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: String,
    /// Rate of the link, counting IP bytes [default: 100mbit]
    #[arg(long, value_name = "RATE", help_heading = "Link")]
    pub rate: Option<String>,
    /// Round-trip time of the link [default: 100ms]
    #[arg(long, value_name = "SECONDS", help_heading = "Link")]
    pub rtt: Option<String>,
    /// Loss of the link, each way [default: 1%]
    #[arg(long, value_name = "PERCENT", help_heading = "Link")]
    pub loss: Option<String>,
    /// Longest wait before the bottleneck [default: one RTT]
    #[arg(long, value_name = "SECONDS", help_heading = "Link")]
    pub queue: Option<String>,
    /// At most this many bytes in flight (16KiB or more)
    #[arg(long, value_name = "SIZE", help_heading = "Sender")]
    pub window: Option<String>,
    /// Rate control: adaptive, cubic, fixed (at the link's rate) or fixed:RATE [default: adaptive]
    #[arg(long, value_name = "NAME", help_heading = "Sender")]
    pub cc: Option<String>,
    /// Bytes of a file that are checked and resumed as one (1KiB to 4MiB) [default: 256KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Sender")]
    pub chunk_size: Option<String>,
    /// Upload to this server instead of simulating; it keeps one file, fulmar-bench.bin
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Option<OsString>,
    /// Write what happens to every packet of every upload to this file, for fulmar report; in simulation the time is
    /// virtual, one upload after the other
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where results are written.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct FileArgs {
    /// Write all figures to this file, a line for each upload
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a report with plots to this file, which needs no other
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `fulmar bench report`
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Saved results
    #[arg(required = true, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl BenchCommand {
    /// What is printed.
    pub fn output(&self) -> &OutputArgs {
        match self {
            Self::Window(args) | Self::Loss(args) | Self::Chunk(args) | Self::Cc(args) => &args.output,
            Self::Report(args) => &args.output,
        }
    }
}
