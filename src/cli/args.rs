//! Role: the command line as clap sees it. Values are still text; `options` checks them.
//! Owns: nothing.
//! Implements: `fulmar --help`, which is the manual.

use super::sync::SyncArgs;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Start:
  fulmar demo                      see it work on this machine
  fulmar serve ~/drop              on the server; prints a key
  fulmar put big.iso server.org    on the client; asks for the key
  fulmar cp big.iso server.org:    no server, no key: ssh does that part

Addresses are HOST[:PORT][/PATH]: a name, an IPv4 address, or an IPv6 address
in brackets; port 5770 (UDP) if none is given; PATH lies below the directory
that the server serves. A PATH with a trailing slash is a directory.

Keys: both sides hold the same secret, a generated key or any password. It
comes from --key-file FILE, else from the file that FULMAR_KEY_FILE names, else
from a prompt on the terminal.

Values: RATE is in bits per second (20mbit, 1gbit, 512kbit), SIZE in bytes
(64KiB, 1MB, 4096), SECONDS may have a fraction (0.5) or a unit (500ms, 2m).

A first SIGINT or SIGTERM ends politely: the peer is told, unfinished files
stay invisible. A second one ends at once.

Exit codes:
  0    done, and confirmed by the receiver
  1    anything not below, such as an I/O error
  2    usage: the command line cannot be carried out as written
  3    the peer cannot be reached, or was lost
  4    authentication: another key, or only one side uses --insecure
  5    refused or not possible there: missing file, file exists, permission,
       no space or quota, server limit
  6    integrity: what arrived is not what was sent, or the source changed
       while it was read
  130  ended by SIGINT (serve: 0)
  143  ended by SIGTERM (serve: 0)
With several files the others go on when one fails; the highest code wins.

Environment: FULMAR_KEY_FILE (see above); every other option likewise, as in
FULMAR_LIMIT=20mbit; FULMAR_CONFIG (see fulmar config --help); RUST_LOG (as in
fulmar=debug); FULMAR_KEYLOG (a file to which the secrets of sessions are
appended, so that Wireshark can decrypt them: for studies only).";

const SERVE_EXAMPLES: &str = "\
Examples:
  fulmar serve                               this directory, key made once
  fulmar serve --key-file k --listen [::]:9000 /srv/drop
  fulmar serve --read-only /srv/mirror
  fulmar serve --limit 100mbit --max-sessions 50 /srv/drop
  fulmar serve --sim loss=10%,corrupt=10%    a server behind a bad link

The address bound is printed to stdout as `listening on ADDR`; everything else
goes to stderr. Without --key-file and FULMAR_KEY_FILE, the key is kept in
$XDG_STATE_HOME/fulmar/server.key (~/.local/state by default) and printed.
SIGINT or SIGTERM: the clients are told, and the exit code is 0.";

const PUT_EXAMPLES: &str = "\
Examples:
  fulmar put a.iso server.org            to a.iso
  fulmar put a.iso server.org/b.iso      to b.iso, or into the directory b.iso
  fulmar put a b dir server.org/in/      into in/, which is made when missing
  fulmar put . server.org/in/            the contents of this directory
  fulmar put --limit 20mbit --json a.iso [2001:db8::1]:9000
  fulmar put --update dir server.org     only what is new or differs
  find . -newer last -print0 | fulmar put -0 --files-from - server.org/in/
  tar c . | fulmar put - server.org/x.tar

Sources work as with cp -r: `dir` and `dir/` copy the directory itself; `.`,
`..`, `/` and `dir/.` copy the contents. A symbolic link named as SRC is
followed; links inside a directory are sent as links.";

const GET_EXAMPLES: &str = "\
Examples:
  fulmar get server.org/a.iso .          to ./a.iso
  fulmar get server.org/a.iso b.iso      to b.iso
  fulmar get server.org/dir out/         to out/dir; out is made when missing
  fulmar get server.org/ mirror/         everything that is served
  fulmar get h/a h/b h/c out/            several paths of one server
  fulmar get --update -n h/dir out/      what would come that is new or differs
  fulmar get server.org/x.tar - | tar x  to stdout; summary and --json to stderr

If DEST is an existing directory, or has a trailing slash, what is got goes
inside; else DEST is its new name. Nothing is ever written outside DEST,
whatever the server sends.";

const PUT_USAGE: &str = "\
fulmar put [OPTIONS] <SRC>... <HOST[:PORT][/PATH]>

Arguments:
  <SRC>...              Files and directories to send
  <HOST[:PORT][/PATH]>  The server, and where to put them below its directory";

const GET_USAGE: &str = "\
fulmar get [OPTIONS] <HOST[:PORT]/PATH>... <DEST>

Arguments:
  <HOST[:PORT]/PATH>...  What to get; all paths must be of one server
  <DEST>                 A directory, or a new name";

const ECHO_USAGE: &str = "\
fulmar echo [OPTIONS] <FILE>... <HOST[:PORT]>

Arguments:
  <FILE>...      Files to send and have sent back
  <HOST[:PORT]>  The server";

const LS_EXAMPLES: &str = "\
Examples:
  fulmar ls server.org
  fulmar ls server.org/dir --json | jq -r '.files[].path'

One level is listed. Times are UTC.";

const ECHO_EXAMPLES: &str = "\
Examples:
  fulmar echo photo.jpg server.org
  fulmar echo photo.jpg server.org --sim loss=5% --sim-back loss=20%,corrupt=10%

Each FILE is uploaded, sent back through the impaired way, and saved here as
received_<name>. The digests of the original, of the server's copy and of the
received file are shown and compared; the exit code is 6 if they differ.";

const DEMO_EXAMPLES: &str = "\
Examples:
  fulmar demo
  fulmar demo photo.jpg --sim loss=30%,reorder=10%,delay=20ms

A server and a client in one process, on the loopback interface, each losing
10 % and corrupting 10 % of what it sends. The file is uploaded and sent back;
then the files on the disk are compared by SHA-256. Everything is kept in a
temporary directory that is removed at the end.";

const KEYGEN_EXAMPLES: &str = "\
Examples:
  fulmar keygen                              writes fulmar.key
  fulmar keygen ~/.config/fulmar.key
  fulmar keygen - | ssh server 'umask 077; cat > fulmar.key'

The key has 256 random bits, written as 64 hexadecimal digits. An existing file
is never overwritten.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  fulmar completions bash > ~/.local/share/bash-completion/completions/fulmar
  fulmar completions zsh > ~/.zfunc/_fulmar       (a directory in your fpath)
  fulmar completions fish > ~/.config/fish/completions/fulmar.fish";
const CONFIG_EXAMPLES: &str = "\
Examples:
  fulmar config show                     of put
  fulmar config show serve
  fulmar config show put big.iso lab     with what [host.lab] says
  fulmar config show --json get --limit 1mbit lab/x .

The file is $XDG_CONFIG_HOME/fulmar/config.toml (~/.config by default), or the
one that FULMAR_CONFIG names:

  [defaults]                      # put, get, ls, echo, cp
  limit = \"20mbit\"
  exclude = [\"*.o\", \"*.tmp\"]

  [serve]                         # one command
  max-sessions = 50

  [host.lab]                      # fulmar put x lab
  address = \"lab.example.org:9000\"
  key-file = \"~/lab.key\"

Every option has a variable too: --chunk-size is FULMAR_CHUNK_SIZE. The command
line wins over the variable, then come host, command and defaults.";

/// fulmar moves files over UDP across links that lose, corrupt, delay and reorder packets, at the speed of the link.
#[derive(Debug, Parser)]
#[command(name = "fulmar", version, about, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a directory to many clients at once
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Copy to or from a host that ssh reaches, as scp does; nothing need run there
    #[command(after_help = super::cp::args::EXAMPLES, override_usage = super::cp::args::USAGE)]
    Cp(super::cp::args::CpArgs),
    /// Upload files and directories
    #[command(after_help = PUT_EXAMPLES, override_usage = PUT_USAGE)]
    Put(PutArgs),
    /// Download files and directories
    #[command(after_help = GET_EXAMPLES, override_usage = GET_USAGE)]
    Get(GetArgs),
    /// List what a server has
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Upload files and have them sent back with errors injected
    #[command(after_help = ECHO_EXAMPLES, override_usage = ECHO_USAGE)]
    Echo(EchoArgs),
    /// Show it all on this machine: upload and echo through 10 % loss and 10 % corruption
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Measure goodput against window size, loss, chunk size or rate control, in simulation or on a real link
    Bench(super::bench::args::BenchArgs),
    /// Make a page with plots of what --trace has written
    #[command(after_help = super::trace_report::args::EXAMPLES)]
    Report(super::trace_report::args::TraceReportArgs),
    /// Show in the terminal what serve --dashboard shows
    #[command(after_help = super::top::EXAMPLES)]
    Top(super::top::TopArgs),
    /// Make a key that both sides can use
    #[command(after_help = KEYGEN_EXAMPLES)]
    Keygen(KeygenArgs),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(ManArgs),
    /// Say which value every option has, and where it comes from
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(super::config::show::ConfigArgs),
}

/// Where the shared secret comes from.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct KeyArgs {
    /// File with the key: one line, a generated key or any password [env: FULMAR_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// No encryption and no authentication, a CRC-32 in every packet; both sides must say so
    #[arg(long, conflicts_with = "key_file")]
    pub insecure: bool,
}

/// How the link is used.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Link")]
pub struct LinkArgs {
    /// Send at most this much, counting IP bytes (20mbit), and have at most this much sent by get and cp; on serve, for
    /// all sessions together. Or by the clock: '08:00,20mbit 18:00,off', 'Mon-08:00,1mbit Sat-00:00,off'
    #[arg(long, value_name = "RATE")]
    pub limit: Option<String>,
    /// The same, from a file that is read again when it changes: write another rate into it, and that holds a second later
    #[arg(long, value_name = "FILE", conflicts_with = "limit")]
    pub limit_file: Option<PathBuf>,
    /// At most this many bytes in flight (16KiB or more)
    #[arg(long, value_name = "SIZE")]
    pub window: Option<String>,
    /// Rate control: adaptive (models the path), cubic (RFC 9438), fixed (with --rate)
    #[arg(long, value_name = "NAME")]
    pub cc: Option<String>,
    /// The constant rate of --cc fixed
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Give up after so long without hearing from the peer [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Impair what this side sends (loss=10%,corrupt=5%,dup=1%,reorder=2%,delay=50ms,jitter=5ms,
    /// rate=100mbit,burst=4,seed=7 in any selection), and with loss-in= and so on what it receives
    #[arg(long, value_name = "SPEC")]
    pub sim: Option<String>,
    /// Write what happens to every packet, file and session to this file, for fulmar report
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
}

/// How a client connects.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Link")]
pub struct ConnectArgs {
    /// Give up when the server has not answered for so long [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub connect_timeout: Option<String>,
    /// Give up when one segment was sent so often in vain [default: only --timeout gives up]
    #[arg(long, value_name = "N")]
    pub max_retries: Option<String>,
    /// Begin again so often when the server is lost or cannot be reached, going on where it was, after a pause of
    /// 1 s that doubles up to 30 s (a server that restarts within --timeout is found without) [default: 0]
    #[arg(long, value_name = "COUNT")]
    pub retry: Option<String>,
    /// A name for this client in the server's log, at most 64 bytes
    #[arg(long, value_name = "LABEL")]
    pub client_id: Option<String>,
    /// Use IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6', long = "ipv6")]
    pub ipv6: bool,
}

/// How files are cut and packed.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct ChunkArgs {
    /// Bytes of a file that are compressed, checked and resumed as one (1KiB to 4MiB) [default: 256KiB]
    #[arg(long, value_name = "SIZE")]
    pub chunk_size: Option<String>,
    /// Compression: auto (what suits data and link), lz4, zstd or zstd:LEVEL (1 to 19), none [default: auto]
    #[arg(long, value_name = "KIND")]
    pub compress: Option<String>,
}

/// Existing files.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct OverwriteArgs {
    /// Files that exist already: never (refuse them, exit code 5), always (replace them) [default: never]
    #[arg(long, value_name = "WHEN")]
    pub overwrite: Option<String>,
    /// Start anew, whatever an interrupted run of the same command has left
    #[arg(long)]
    pub no_resume: bool,
}

/// When progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressWhen {
    /// Bars on a terminal, a line every few seconds elsewhere.
    #[default]
    Auto,
    /// The same, at once, and with -q too.
    Always,
    /// Not at all.
    Never,
}

/// How much is said.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct VerbosityArgs {
    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more; repeat it for more still
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What a client command prints.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print exactly one JSON object to stdout at the end, on failure too
    #[arg(long)]
    pub json: bool,
    /// Progress on stderr: auto (bars on a terminal, lines elsewhere), always (with -q too), never
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, hide_possible_values = true)]
    pub progress: ProgressWhen,
    /// Amount of output.
    #[command(flatten)]
    pub verbosity: VerbosityArgs,
}

/// `fulmar serve`
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The directory to serve; clients cannot leave it
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:5770")]
    pub listen: String,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Link.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Chunks.
    #[command(flatten)]
    pub chunk: ChunkArgs,
    /// Clients' --overwrite always: always (granted), never (refused) [default: always]
    #[arg(long, value_name = "WHEN", help_heading = "Limits")]
    pub overwrite: Option<String>,
    /// Sessions at once; more are refused [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_sessions: Option<String>,
    /// Largest file that is accepted [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub max_file_size: Option<String>,
    /// Refuse files that would make the directory larger than this, unfinished ones included [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub quota: Option<String>,
    /// Remove what interrupted uploads have left when nobody went on with them for so long [default: 7d]
    #[arg(long, value_name = "SECONDS", help_heading = "Limits")]
    pub partial_ttl: Option<String>,
    /// Refuse everything that writes: put and echo
    #[arg(long, help_heading = "Limits")]
    pub read_only: bool,
    /// Let clients remove what their source lacks (put --delete)
    #[arg(long, conflicts_with = "read_only", help_heading = "Limits")]
    pub allow_delete: bool,
    /// Refuse to impair the way back of an echo
    #[arg(long, help_heading = "Limits")]
    pub no_echo_sim: bool,
    /// Watching it.
    #[command(flatten)]
    pub watch: super::watch::WatchArgs,
    /// Serve with so many processes on the one port, for machines with many cores [default: 1]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub workers: Option<String>,
    /// Which of the workers this process is: what --workers gives to those that it starts
    #[arg(long, value_name = "INDEX", hide = true)]
    pub worker: Option<String>,
    /// Serve one copy and end: what fulmar cp starts over ssh; told on stdin what to do, so no other option goes with it
    #[arg(long, exclusive = true)]
    pub once: bool,
    /// Amount of output.
    #[command(flatten)]
    pub verbosity: VerbosityArgs,
}

/// `fulmar put`
#[derive(Clone, Debug, Args)]
pub struct PutArgs {
    /// The sources, then the target. One list for clap, so that options may stand anywhere between them.
    #[arg(value_name = "SRC", hide = true)]
    pub paths: Vec<OsString>,
    /// A list of sources.
    #[command(flatten)]
    pub list: super::files_from::FilesFromArgs,
    /// Overwriting.
    #[command(flatten)]
    pub overwrite: OverwriteArgs,
    /// Comparing first.
    #[command(flatten)]
    pub sync: SyncArgs,
    /// Chunks.
    #[command(flatten)]
    pub chunk: ChunkArgs,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
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

/// `fulmar get`
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// The sources, then DEST. One list for clap, so that options may stand anywhere between them.
    #[arg(value_name = "HOST[:PORT]/PATH", hide = true)]
    pub paths: Vec<OsString>,
    /// A list of sources.
    #[command(flatten)]
    pub list: super::files_from::FilesFromArgs,
    /// Overwriting.
    #[command(flatten)]
    pub overwrite: OverwriteArgs,
    /// Comparing first.
    #[command(flatten)]
    pub sync: SyncArgs,
    /// Chunks.
    #[command(flatten)]
    pub chunk: ChunkArgs,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
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

/// `fulmar ls`
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// What to list
    #[arg(value_name = "HOST[:PORT][/PATH]")]
    pub target: OsString,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
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

/// `fulmar echo`
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// The files, then the server. One list for clap, so that options may stand anywhere between them.
    #[arg(value_name = "FILE", hide = true)]
    pub paths: Vec<OsString>,
    /// How the server impairs the way back
    #[arg(long, value_name = "SPEC", default_value = "corrupt=10%")]
    pub sim_back: String,
    /// Keep the server's copy, under the file's own name
    #[arg(long)]
    pub keep: bool,
    /// Overwriting.
    #[command(flatten)]
    pub overwrite: OverwriteArgs,
    /// Chunks.
    #[command(flatten)]
    pub chunk: ChunkArgs,
    /// Key.
    #[command(flatten)]
    pub key: KeyArgs,
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

/// `fulmar demo`
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// The file to send [default: 64 MiB of pseudo-random bytes, made for this]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How each side impairs what it sends
    #[arg(long, value_name = "SPEC", default_value = "loss=10%,corrupt=10%")]
    pub sim: String,
    /// Write what happens to every packet and file of the client to this file, for fulmar report
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `fulmar keygen`
#[derive(Clone, Debug, Args)]
pub struct KeygenArgs {
    /// The file to make, or - for stdout
    #[arg(default_value = "fulmar.key", value_name = "FILE")]
    pub file: PathBuf,
}

/// `fulmar completions`
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `fulmar man`
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Where the pages go
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
