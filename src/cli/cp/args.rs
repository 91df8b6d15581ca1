//! Role: the command line of `fulmar cp` as clap sees it.
//! Owns: nothing.
//! Implements: `fulmar cp --help`.

use crate::cli::args::{ChunkArgs, ConnectArgs, LinkArgs, OutputArgs};
use crate::cli::sync::SyncArgs;
use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// Shown after the options.
pub const EXAMPLES: &str = "\
Examples:
  fulmar cp big.iso server:                  to the home directory there
  fulmar cp -r dir ada@server.org:/srv/in/   as with scp
  fulmar cp 'server:logs/*.gz' server:b .    the server finds what matches
  fulmar cp -P 2222 -o User=ada a [2001:db8::1]:a
  fulmar cp --port-range 60000-60010 a server:
  fulmar cp -rn --update --delete site/. server:/srv/www/
                                             what an update would do there

Log in as with ssh; fulmar must be installed there too, and needs no key and no
running server: ssh starts `fulmar serve --once` for this one copy, a one-time
key goes through ssh, and the files go over UDP to the address of the server.

PATH is relative to the home directory, or absolute, or begins with ~ or ~user.
No shell reads it: quotes, $, spaces and line ends are parts of a name. In a
source *, ? and [...] match names, unless a file has exactly that name; \\ before
one of them takes it literally. A local name with a colon is written
as ./a:b.

DEST: an existing directory takes what is copied inside, else DEST is the new
name, for a directory as well as for a file; several sources need a directory.
One with a trailing slash is made when it is missing. Files that are there are replaced (--update skips what is equal),
times and modes are kept (--no-preserve does not), a copy that was interrupted
goes on where it ended. A symbolic link named as SRC
is followed; links inside a directory are copied as links.";

/// Before the options.
pub const USAGE: &str = "\
fulmar cp [OPTIONS] <SRC>... <DEST>

Arguments:
  <SRC>...  What to copy: PATH here, or [user@]host:PATH
  <DEST>    Where to: PATH here, or [user@]host:PATH; one side is remote";

/// What to do when UDP does not get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Fallback {
    /// Fail, and say what to open.
    #[default]
    None,
    /// Copy over the ssh connection.
    Ssh,
}

/// `fulmar cp`
#[derive(Clone, Debug, Args)]
pub struct CpArgs {
    /// The sources, then DEST. One list for clap, so that options may stand anywhere between them.
    #[arg(value_name = "SRC", hide = true)]
    pub paths: Vec<OsString>,
    /// Copy directories with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep modification times and modes, as is done without it too; sets aside a no-preserve of the environment or of
    /// config.toml. Access times are not kept
    #[arg(short = 'p', conflicts_with_all = ["preserve", "no_preserve"])]
    pub keep: bool,
    /// Compress always, as --compress zstd does; without it fulmar decides by data and link
    #[arg(short = 'C', conflicts_with = "compress")]
    pub compress_always: bool,
    /// Send at most this much, in kbit/s as with scp, or with a unit (20mbit); the same as --limit
    #[arg(short = 'l', value_name = "RATE", conflicts_with_all = ["limit", "limit_file"])]
    pub kbit: Option<String>,
    /// Files that exist already: always (replace them), never (refuse them, exit code 5) [default: always]
    #[arg(long, value_name = "WHEN", help_heading = "Files")]
    pub overwrite: Option<String>,
    /// Start anew, whatever an interrupted run of the same command has left
    #[arg(long, help_heading = "Files")]
    pub no_resume: bool,
    /// A list of sources.
    #[command(flatten)]
    pub list: crate::cli::files_from::FilesFromArgs,
    /// Comparing first.
    #[command(flatten)]
    pub sync: SyncArgs,
    /// Ssh.
    #[command(flatten)]
    pub ssh: SshArgs,
    /// Chunks.
    #[command(flatten)]
    pub chunk: ChunkArgs,
    /// Link.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Connecting.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How the other side is reached and started.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ssh")]
pub struct SshArgs {
    /// The ssh to run, with options if need be ('ssh -i key'); no shell reads it
    #[arg(long, short = 'S', value_name = "CMD", default_value = "ssh")]
    pub ssh: String,
    /// Port of the ssh server
    #[arg(short = 'P', value_name = "PORT")]
    pub port: Option<u16>,
    /// Option for ssh, as in ssh_config(5); may be given several times
    #[arg(short = 'o', value_name = "OPTION")]
    pub option: Vec<OsString>,
    /// Private key for ssh
    #[arg(short = 'i', value_name = "FILE")]
    pub identity: Vec<OsString>,
    /// Configuration file for ssh
    #[arg(short = 'F', value_name = "FILE")]
    pub config: Option<OsString>,
    /// Jump hosts for ssh; UDP does not jump, so the server must be reachable by UDP all the same
    #[arg(short = 'J', value_name = "HOST")]
    pub jump: Option<OsString>,
    /// Where fulmar is on the other side, if its shell does not find it
    #[arg(long, value_name = "PATH")]
    pub remote_fulmar: Option<String>,
    /// UDP ports that the other side may use, for firewalls (60000-60010, or one)
    #[arg(long, value_name = "A-B")]
    pub port_range: Option<String>,
    /// When UDP does not get through: none (say so and end), ssh (copy over the ssh connection) [default: none]
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub fallback: Fallback,
}
