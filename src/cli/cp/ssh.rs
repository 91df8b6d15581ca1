//! Role: the ssh that carries the channel: its command line, its end, and what its failures mean.
//! Owns: the ssh process with its pipes, the lines that it printed.
//! Implements: docs/SSH.md, "Starting the other side".

use super::args::SshArgs;
use super::channel::{self, Answer, Ask};
use super::grammar::Host;
use crate::cli::exit::{self, Failure};
use crate::cli::{terminal, text};
use crate::net::stream::StreamPipe;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is run there. It never varies, so nothing can hide in it: all that varies goes through the channel. The
/// directories are where cargo and people put programs, and where ssh's commands often do not look.
const REMOTE_COMMAND: &str =
    "sh -c 'PATH=\"$PATH:/usr/local/bin:$HOME/.local/bin:$HOME/.cargo/bin\"; exec fulmar serve --once'";
/// What scp gives its ssh too: no terminal, nothing forwarded, nothing run here.
const FIXED_OPTIONS: [&str; 6] = [
    "-x",
    "-oForwardAgent=no",
    "-oPermitLocalCommand=no",
    "-oClearAllForwardings=yes",
    "-oRemoteCommand=none",
    "-oRequestTTY=no",
];
/// How long ssh may take to end after its input was closed: some round trips of a bad link.
const END_WAIT: Duration = Duration::from_secs(5);
/// How long the last lines of an ssh that has ended may take: a master connection that it left may hold the pipe.
const LINES_WAIT: Duration = Duration::from_millis(300);
/// How long `ssh -G` may take once it matters; it only reads configuration.
const CONFIG_WAIT: Duration = Duration::from_secs(2);
/// Lines of ssh that are kept to explain a failure.
const KEPT_LINES: usize = 40;
/// How ssh ends when it does not trust the server.
const UNTRUSTED: &str = "Host key verification failed.";
/// Addresses that are tried at most: each costs a second, and an answer within ten seconds is promised.
const MAX_ADDRESSES: usize = 3;

/// The words of a command line for ssh, without the program and what is run there.
#[derive(Clone, Debug)]
pub struct SshLine {
    program: String,
    words: Vec<OsString>,
    destination: String,
    remote: String,
}

impl SshLine {
    /// From the options. `family`: `-4` or `-6`. `verbose`: how often `-v` was given; the first is for fulmar alone.
    /// There is no `-q`: what ssh says is needed to explain a failure, and not shown all the same.
    pub fn new(args: &SshArgs, host: &Host, family: Option<&str>, verbose: u8) -> Result<Self, Failure> {
        let mut given = shlex::split(&args.ssh).unwrap_or_default().into_iter();
        let program = given.next().ok_or_else(|| {
            Failure::usage(format!(
                "--ssh: `{}` is no command: write it as in 'ssh -i key'",
                text::bytes(args.ssh.as_bytes())
            ))
        })?;
        let mut words: Vec<OsString> = given.map(OsString::from).collect();
        words.extend(FIXED_OPTIONS.map(OsString::from));
        words.extend(family.map(OsString::from));
        if let Some(port) = args.port {
            words.extend(["-p".into(), port.to_string().into()]);
        }
        let paired = |words: &mut Vec<OsString>, flag: &str, value: &OsStr| {
            words.extend([flag.into(), value.to_owned()]);
        };
        args.config.iter().for_each(|file| paired(&mut words, "-F", file));
        args.jump.iter().for_each(|host| paired(&mut words, "-J", host));
        args.identity.iter().for_each(|file| paired(&mut words, "-i", file));
        args.option.iter().for_each(|option| paired(&mut words, "-o", option));
        words.extend((1..verbose).map(|_| "-v".into()));
        let remote = match &args.remote_fulmar {
            None => REMOTE_COMMAND.to_owned(),
            Some(path) => format!("{} serve --once", quoted(path)?),
        };
        Ok(Self { program, words, destination: host.destination(), remote })
    }

    fn command(&self, extra: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.words).args(extra).arg("--").arg(&self.destination);
        command
    }
}

/// A path for the remote shell: one word, whatever is in it; a `~/` in front stays what it is.
fn quoted(path: &str) -> Result<String, Failure> {
    let bad = || {
        Failure::usage(format!("--remote-fulmar: `{}` is no path of a program", text::bytes(path.as_bytes())))
    };
    if path.is_empty() || path.starts_with('-') || path.contains(['\n', '\0']) {
        return Err(bad());
    }
    let (home, rest) = match path.strip_prefix("~/") {
        Some(rest) => ("~/", rest),
        None => ("", path),
    };
    Ok(format!("{home}'{}'", rest.replace('\'', "'\\''")))
}

/// What ssh's configuration says about a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The name or address that ssh connects to.
    pub host_name: Option<String>,
    /// `inet` or `inet6` if it uses only one.
    pub family: Option<String>,
    /// It goes through another host or program.
    pub proxied: bool,
}

impl Resolved {
    /// From the output of `ssh -G`.
    fn parse(output: &str) -> Self {
        let mut resolved = Self::default();
        for (key, value) in output.lines().filter_map(|line| line.split_once(' ')) {
            match key {
                "hostname" => resolved.host_name = Some(value.trim().to_owned()),
                "addressfamily" if value != "any" => resolved.family = Some(value.to_owned()),
                "proxyjump" | "proxycommand" if value != "none" => resolved.proxied = true,
                _ => {}
            }
        }
        resolved
    }
}

/// Lines that ssh, and what it runs, print on stderr.
#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// They are shown as they come.
    live: bool,
    quiet: bool,
}

impl Lines {
    fn take(&mut self, line: String) {
        if self.live && !self.quiet {
            terminal::stderr_line(&line);
        }
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

/// A running ssh.
#[derive(Debug)]
pub struct Ssh {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    /// Read from stdout, and not used.
    buffer: Vec<u8>,
    lines: Arc<Mutex<Lines>>,
    reader: std::sync::mpsc::Receiver<()>,
    config: Option<Child>,
    host: String,
}

impl Ssh {
    /// Starts ssh, and beside it `ssh -G`, which tells the address.
    pub fn start(line: &SshLine, host: &Host, quiet: bool, live: bool) -> Result<Self, Failure> {
        let failed = |error: &io::Error| {
            let what = text::bytes(line.program.as_bytes());
            let hint = if error.kind() == ErrorKind::NotFound {
                "; install it, or name another one with --ssh"
            } else {
                ""
            };
            Failure::new(exit::OTHER, format!("cannot run {what}: {}{hint}", text::io_error(error)))
        };
        let mut child = line
            .command(&[])
            .arg(&line.remote)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(&e))?;
        let config = line
            .command(&["-G"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(&e));
        let lines = Arc::new(Mutex::new(Lines { live, quiet, ..Lines::default() }));
        let (tell, reader) = std::sync::mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let theirs = lines.clone();
            let read = move || {
                read_lines(stderr, &theirs);
                let _ = tell.send(());
            };
            std::thread::Builder::new().name("ssh-stderr".into()).spawn(read).map_err(|e| failed(&e))?;
        }
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let host = text::bytes(host.destination().as_bytes());
        Ok(Self { child, stdin, stdout, buffer: Vec::new(), lines, reader, config: config.ok(), host })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the other side what to do, and waits for its answer: as long as ssh needs, which may ask for a password.
    pub fn ask(&mut self, ask: &Ask) -> Result<channel::Ready, Failure> {
        // If ssh has ended already, its own words say more than a broken pipe.
        let sent = self.stdin.as_mut().map(|stdin| channel::write_message(stdin, ask));
        if let Some(Err(error)) = sent
            && error.kind() == ErrorKind::InvalidInput
        {
            return Err(Failure::usage(text::io_error(&error)));
        }
        let Some(mut stdout) = self.stdout.take() else { return Err(self.explain(&[])) };
        let noise = match channel::read_greeting(&mut stdout, &mut self.buffer) {
            Ok(noise) => noise,
            Err((_, noise)) => return Err(self.explain(&noise)),
        };
        if !noise.is_empty() {
            log::debug!("before it answered, {} printed {} bytes", self.host, noise.len());
        }
        let answer: io::Result<Answer> = channel::read_message(&mut stdout, &mut self.buffer);
        self.stdout = Some(stdout);
        match answer {
            Ok(Answer::Ready(ready)) => {
                self.show_lines();
                Ok(ready)
            }
            Ok(Answer::Failed { exit_code, message }) => {
                // A failure is one, whatever the other side calls it.
                let exit_code = if (exit::OTHER..=exit::INTEGRITY).contains(&exit_code) {
                    exit_code
                } else {
                    exit::OTHER
                };
                Err(Failure::new(exit_code, format!("{}: {}", self.host, text::one_line(&message))))
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(Failure::new(
                exit::OTHER,
                format!(
                    "fulmar on {} answers what this version does not understand: bring both up to date",
                    self.host
                ),
            )),
            Err(_) => Err(self.explain(&[])),
        }
    }

    /// Logged in: what ssh had to say is shown, and what comes from now on.
    fn show_lines(&self) {
        let mut lines = self.lines();
        if !lines.live && !lines.quiet {
            lines.kept.iter().for_each(|line| terminal::stderr_line(line));
        }
        lines.live = true;
    }

    /// Addresses for UDP, the likeliest first. `seen`: what the server's sshd says its own address is; behind a NAT
    /// that is not how it is reached.
    pub fn addresses(
        &mut self,
        host: &Host,
        port: u16,
        seen: Option<std::net::IpAddr>,
    ) -> (Vec<SocketAddr>, bool) {
        use std::net::ToSocketAddrs;
        let resolved = self.config.take().map(config_of).unwrap_or_default();
        let name = resolved.host_name.as_deref().unwrap_or(&host.name);
        let mut found: Vec<SocketAddr> = match (name, port).to_socket_addrs() {
            Ok(found) => found.collect(),
            Err(error) => {
                log::debug!("no address for {}: {error}", text::bytes(name.as_bytes()));
                Vec::new()
            }
        };
        found.retain(|address| match resolved.family.as_deref() {
            Some("inet") => address.is_ipv4(),
            Some("inet6") => address.is_ipv6(),
            _ => true,
        });
        found.dedup();
        if let Some(seen) = seen.map(|ip| SocketAddr::new(ip.to_canonical(), port)) {
            match found.iter().position(|address| address.ip() == seen.ip()) {
                // A name may have several addresses; this is the one that ssh has reached.
                Some(at) => found.swap(0, at),
                None => {
                    found.truncate(MAX_ADDRESSES - 1);
                    found.push(seen);
                }
            }
        }
        found.truncate(MAX_ADDRESSES);
        log::info!("UDP goes to {found:?}");
        (found, resolved.proxied)
    }

    /// The channel as a pipe for datagrams. `on_end`: see `StreamPipe::new`.
    pub fn stream(&mut self, on_end: Arc<AtomicI32>) -> Result<StreamPipe, Failure> {
        let ends = self.stdout.take().zip(self.stdin.take());
        let pipe = ends.map(|(stdout, stdin)| {
            StreamPipe::new(stdout.into(), stdin.into(), std::mem::take(&mut self.buffer), on_end)
        });
        match pipe {
            Some(Ok(pipe)) => Ok(pipe),
            Some(Err(e)) => {
                Err(Failure::new(exit::OTHER, format!("cannot use ssh's channel: {}", text::io_error(&e))))
            }
            None => Err(Failure::new(exit::OTHER, "ssh's channel is closed".to_owned())),
        }
    }

    /// The last thing that ssh said, if it has ended by itself.
    pub fn ended_with(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten()?;
        Some(self.last_line(&[]).unwrap_or_else(|| "without a word".into()))
    }

    /// Ends the other side and waits for ssh, but not for ever.
    pub fn finish(mut self) {
        self.close();
    }

    fn close(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        self.stdout = None;
        if let Some(mut config) = self.config.take() {
            end(&mut config, Duration::ZERO);
        }
        end(&mut self.child, END_WAIT)
    }

    /// ssh has ended, or talks to something that is not fulmar: why, in one sentence.
    fn explain(&mut self, noise: &[u8]) -> Failure {
        let status = self.close();
        let _ = self.reader.recv_timeout(LINES_WAIT);
        let host = self.host.clone();
        let last = self.last_line(noise);
        let said = last.as_deref().map_or(String::new(), |line| format!(": {line}"));
        let has = |words: &[&str]| {
            let lines = self.lines();
            words.iter().any(|word| lines.kept.iter().any(|line| line.contains(word)))
        };
        match status.and_then(|status| status.code()) {
            Some(255) if has(&["REMOTE HOST IDENTIFICATION HAS CHANGED", UNTRUSTED]) => {
                // Which key, and in which file: that is worth several lines.
                let lines = self.lines();
                let told = |line: &&String| line.trim() != UNTRUSTED;
                for line in lines.kept.iter().filter(told).filter(|_| !lines.live) {
                    exit::complain(&format!("ssh: {line}"));
                }
                Failure::new(
                    exit::AUTHENTICATION,
                    format!(
                        "ssh does not trust the host key of {host}: run `ssh {host}` once and compare the key's fingerprint"
                    ),
                )
            }
            Some(255)
                if has(&[
                    "Permission denied",
                    "Too many authentication failures",
                    "authentication methods",
                ]) =>
            {
                Failure::new(
                    exit::AUTHENTICATION,
                    format!("ssh could not log in to {host}{said}; check that `ssh {host}` works"),
                )
            }
            Some(255) => Failure::new(
                exit::UNREACHABLE,
                format!("ssh could not reach {host}{said}; check that `ssh {host}` works"),
            ),
            Some(126 | 127) => Failure::new(
                exit::REFUSED,
                format!(
                    "fulmar is not installed on {host}, or not where its shell looks: install it there too (cargo \
                     install, or copy this binary to /usr/local/bin), or say where it is with --remote-fulmar PATH"
                ),
            ),
            Some(2) if has(&["--once"]) => Failure::new(
                exit::REFUSED,
                format!("fulmar on {host} is too old for fulmar cp: bring it up to date"),
            ),
            Some(code) => Failure::new(
                exit::OTHER,
                format!(
                    "`fulmar serve --once` on {host} ended with exit code {code} before it answered{said}"
                ),
            ),
            None => Failure::new(
                exit::UNREACHABLE,
                format!("the ssh connection to {host} ended{said}; run the same command again"),
            ),
        }
    }

    /// The last line that says something: of stderr or, failing that, of what came instead of an answer.
    fn last_line(&self, noise: &[u8]) -> Option<String> {
        let lines = self.lines();
        let said = lines.kept.iter().rev().find(|line| !line.trim().is_empty() && !line.starts_with("debug"));
        let said = said.map(|line| {
            let line = text::one_line(line);
            line.strip_prefix("ssh: ").unwrap_or(&line).trim_end_matches('.').to_owned()
        });
        said.or_else(|| {
            let noise = String::from_utf8_lossy(noise);
            let last = noise.lines().rev().find(|line| !line.trim().is_empty())?;
            Some(text::one_line(&last.chars().take(200).collect::<String>()))
        })
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.close();
    }
}

fn read_lines(stderr: impl Read, lines: &Mutex<Lines>) {
    let mut stderr = BufReader::new(stderr);
    let mut raw = Vec::new();
    while matches!(stderr.read_until(b'\n', &mut raw), Ok(1..)) {
        let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
        lines.lock().unwrap_or_else(PoisonError::into_inner).take(text::one_line(&line));
        raw.clear();
    }
}

/// The configuration of a host; nothing if this ssh cannot tell it.
fn config_of(mut child: Child) -> Resolved {
    let mut output = String::new();
    let stdout = child.stdout.take();
    if end(&mut child, CONFIG_WAIT).is_some_and(|status| status.success())
        && let Some(mut stdout) = stdout
    {
        let _ = stdout.read_to_string(&mut output);
    }
    Resolved::parse(&output)
}

/// Waits for the end of a process; after `limit` it is killed, and there is no status of its own.
fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    if let Ok(fd) = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(limit).ok();
        let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref()));
    }
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command as Cmd};
    use clap::Parser;

    fn line(options: &[&str]) -> Result<Vec<String>, Failure> {
        let words = ["fulmar", "cp"].iter().chain(options).chain(&["a", "u@h:b"]);
        let Cmd::Cp(args) = Cli::try_parse_from(words).expect("clap takes it").command else {
            unreachable!()
        };
        let host = Host { user: Some("u".into()), name: "h".into() };
        let line = SshLine::new(&args.ssh, &host, None, 0)?;
        let mut command = line.command(&[]);
        command.arg(&line.remote);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Ok(words.map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn the_remote_command_is_constant_and_last() {
        let words = line(&[]).expect("valid");
        assert_eq!(words[0], "ssh");
        assert_eq!(&words[words.len() - 3..], ["--", "u@h", REMOTE_COMMAND]);
        let options =
            ["--ssh", "my-ssh -i 'a b'", "-P", "77", "-o", "X=y z", "-o", "Z=1", "-J", "j", "-F", "f"];
        let words = line(&options).expect("valid");
        assert_eq!(&words[..3], ["my-ssh", "-i", "a b"]);
        for pair in [["-p", "77"], ["-o", "X=y z"], ["-o", "Z=1"], ["-J", "j"], ["-F", "f"]] {
            assert!(words.windows(2).any(|w| w == pair), "{pair:?} in {words:?}");
        }
        assert!(!words.iter().any(|word| word == "-v" || word == "-q"));
        assert_eq!(line(&["--ssh", " "]).expect_err("empty").exit_code, 2);
        assert_eq!(line(&["--ssh", "'ssh"]).expect_err("open quote").exit_code, 2);
    }

    #[test]
    fn a_remote_path_is_one_word() {
        let remote =
            |path| line(&["--remote-fulmar", path]).map(|words| words.last().cloned().unwrap_or_default());
        assert_eq!(remote("/opt/fulmar").as_deref(), Ok("'/opt/fulmar' serve --once"));
        assert_eq!(remote("~/bin/fulmar").as_deref(), Ok("~/'bin/fulmar' serve --once"));
        assert_eq!(remote("a b;$(c)'d").as_deref(), Ok("'a b;$(c)'\\''d' serve --once"));
        for bad in ["", "-x", "a\nb"] {
            let words = [format!("--remote-fulmar={bad}")];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(line(&words).expect_err("no path").exit_code, 2);
        }
    }

    #[test]
    fn what_ssh_says_about_a_host() {
        let output =
            "host h\nuser ada\nhostname server.example\nport 22\naddressfamily inet\nproxyjump none\n";
        let expected = Resolved {
            host_name: Some("server.example".into()),
            family: Some("inet".into()),
            proxied: false,
        };
        assert_eq!(Resolved::parse(output), expected);
        assert!(Resolved::parse("hostname h\nproxyjump gate\n").proxied);
        assert_eq!(Resolved::parse(""), Resolved::default());
    }
}
