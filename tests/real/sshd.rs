//! A real sshd for tests: on a loopback port of its own, with keys, configuration and home directory of its own.

use crate::support::{FULMAR, Lab, PATIENCE, Running, now, until};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put it; it wants to be started by its whole path.
const SSHD: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"];

/// Whether tests with sshd can run here.
pub(crate) fn has_sshd() -> bool {
    sshd().is_some() && crate::support::works("ssh", &["-V"])
}

fn sshd() -> Option<&'static str> {
    SSHD.into_iter().find(|path| Path::new(path).exists())
}

/// What varies between servers.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// fulmar is found there.
    pub(crate) installed: bool,
    /// Shell code that runs before the command, with its semicolon.
    pub(crate) before: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self { installed: true, before: "" }
    }
}

/// A running sshd. `home/` in the lab is the home directory that its commands see and start in.
#[derive(Debug)]
pub(crate) struct Sshd {
    _process: Running,
    /// For `-F`: knows the server as `box`.
    config: PathBuf,
}

impl Sshd {
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &Setup::default())
    }

    pub(crate) fn start_with(lab: &Lab, setup: &Setup) -> Self {
        fs::create_dir_all(lab.path("home")).expect("made");
        for key in ["host_key", "user_key"] {
            if !lab.has(key) {
                keygen(&lab.path(key));
            }
        }
        fs::copy(lab.path("user_key.pub"), lab.path("authorized_keys")).expect("copied");
        if crate::support::is_root() {
            // Its separated process lives there.
            let _ = fs::create_dir_all("/run/sshd");
        }
        // Between finding a free port and binding it another process may take it.
        for _ in 0..5 {
            let port = free_port();
            let config = server_config(lab, setup, Some(port));
            let mut command = Command::new(sshd().expect("has_sshd was asked"));
            let mut process = Running::start(command.arg("-D").arg("-e").arg("-f").arg(&config));
            let start = now();
            while process.is_running() && start.elapsed() < PATIENCE {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    let config = client_config(lab, setup, port);
                    return Self { _process: process, config };
                }
                until_next_look();
            }
        }
        panic!("sshd does not start");
    }

    /// `fulmar cp` with this server's configuration for ssh.
    pub(crate) fn cp(&self, lab: &Lab, arguments: &[&str]) -> Command {
        let config = self.config.to_str().expect("UTF-8").to_owned();
        let mut all = vec!["cp", "-F", &config];
        all.extend(arguments);
        lab.fulmar(&all)
    }

    /// A connection that later ones share (`ControlMaster`), as long as it is kept.
    pub(crate) fn master(&self, lab: &Lab) -> Running {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&self.config).args(["-M", "-N", "-oControlPersist=no", "box"]);
        let master = Running::start(command.stdin(std::process::Stdio::null()));
        until("the shared connection", || lab.has("control"));
        master
    }

    /// The same for scp, in its old protocol, which runs commands there as fulmar does.
    pub(crate) fn scp(&self, lab: &Lab, arguments: &[&str]) -> Command {
        let mut command = Command::new("scp");
        command.current_dir(lab.path("")).arg("-q").arg("-O").arg("-F").arg(&self.config).args(arguments);
        command
    }
}

fn keygen(path: &Path) {
    let path = path.to_str().expect("UTF-8");
    assert!(crate::support::works("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path]));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn until_next_look() {
    let start = now();
    until("a moment", || start.elapsed().as_millis() >= 10);
}

/// `port`: what it listens on; `None`: for one connection on stdin, which does not know its own address.
fn server_config(lab: &Lab, setup: &Setup, port: Option<u16>) -> PathBuf {
    let at = |name: &str| lab.path(name).display().to_string();
    let bin = Path::new(FULMAR).parent().expect("a directory").display().to_string();
    let path = if setup.installed { format!("{bin}:/usr/bin:/bin") } else { "/usr/bin:/bin".to_owned() };
    let before = setup.before;
    let listen = port.map(|port| format!("Port {port}\nListenAddress 127.0.0.1\n")).unwrap_or_default();
    lab.write(
        if port.is_some() { "sshd_config" } else { "sshd_config_stdin" },
        format!(
            "{listen}HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n\
             SetEnv HOME={} PATH={path}\n\
             ForceCommand {before} cd \"$HOME\" && sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
            at("host_key"),
            at("authorized_keys"),
            at("home"),
        ),
    )
}

/// Three names for the server: `box` is it; `dark` is one that ssh reaches and UDP does not (an address of RFC 5737,
/// which nobody has); `far` has the same address, but its sshd knows a better one.
fn client_config(lab: &Lab, setup: &Setup, port: u16) -> PathBuf {
    let host_key = fs::read_to_string(lab.path("host_key.pub")).expect("there");
    lab.write("known_hosts", format!("box-key {host_key}"));
    let stdin = server_config(lab, setup, None);
    let sshd = sshd().expect("has_sshd was asked");
    fs::set_permissions(lab.path("user_key"), PermissionsExt::from_mode(0o600)).expect("set");
    let at = |name: &str| lab.path(name).display().to_string();
    lab.write(
        "ssh_config",
        format!(
            "Host box\n  HostName 127.0.0.1\n  Port {port}\n\
             Host dark\n  HostName 192.0.2.1\n  ProxyCommand {sshd} -i -f {}\n\
             Host far\n  HostName 192.0.2.1\n  ProxyCommand ssh -F {} -W 127.0.0.1:{port} box\n\
             Host *\n  HostKeyAlias box-key\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile none\n  BatchMode yes\n  \
             ControlPath {}\n",
            stdin.display(),
            at("ssh_config"),
            at("user_key"),
            at("known_hosts"),
            at("control"),
        ),
    )
}
