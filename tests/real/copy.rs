//! `fulmar cp` through a real sshd: what is copied, what is refused, what stays behind.

use crate::names::odd_tree;
use crate::sshd::{Setup, Sshd, has_sshd};
use crate::support::{Lab, Running, assert_same_tree, checked, need, noise, object, one_line, until};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

const WHY: &str = "needs sshd (openssh-server) and ssh";

/// Processes of this lab's remote sides that still run: they have its `home/` in their environment.
fn left_over(lab: &Lab) -> Vec<String> {
    let home = lab.path("home");
    let mark = [b"HOME=", home.as_os_str().as_bytes(), b"\0"].concat();
    processes()
        .into_iter()
        .filter(|(pid, line)| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            contains(line, b"serve") && contains(&environment, &mark)
        })
        .map(|(pid, line)| format!("{pid} {}", String::from_utf8_lossy(&line)))
        .collect()
}

/// Process ids and command lines, the words with a NUL behind each.
fn processes() -> Vec<(u32, Vec<u8>)> {
    let entries = fs::read_dir("/proc").expect("Linux has it");
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?))).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Runs a copy that must end with this code, and must leave nothing running.
fn cp(sshd: &Sshd, lab: &Lab, arguments: &[&str], code: i32) -> std::process::Output {
    let output = sshd.cp(lab, arguments).output().expect("runs");
    let output = checked(arguments, output, code);
    until("the other side's end", || left_over(lab).is_empty());
    output
}

fn fails(sshd: &Sshd, lab: &Lab, arguments: &[&str], code: i32, words: &[&str]) {
    let output = cp(sshd, lab, arguments, code);
    one_line(&output, words);
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

fn mtime(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|m| m.modified()).expect("there")
}

#[test]
fn a_file_goes_up_and_comes_down() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    let content = noise(1, 700_001);
    let path = lab.write("a", &content);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    fs::File::open(&path).and_then(|f| f.set_modified(old)).expect("set");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
    let up = object(&cp(&sshd, &lab, &["-p", "--json", "a", "box:"], 0));
    assert_eq!((&up["command"], &up["files_ok"], &up["bytes"]), (&"cp".into(), &1.into(), &700_001.into()));
    assert_eq!(lab.read("home/a"), content);
    cp(&sshd, &lab, &["-p", "box:a", "b"], 0);
    assert_eq!(lab.read("b"), content);
    for copy in ["home/a", "b"] {
        assert_eq!(mtime(&lab.path(copy)), old);
        let mode = fs::metadata(lab.path(copy)).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }
    // As with scp, what is there is replaced, unless the user says otherwise.
    lab.write("a", "shorter");
    cp(&sshd, &lab, &["-q", "a", "box:a"], 0);
    assert_eq!(lab.read("home/a"), b"shorter");
    fails(&sshd, &lab, &["--overwrite", "never", "b", "box:a"], 5, &["a", "exists"]);
    assert_eq!(lab.read("home/a"), b"shorter");
    assert_eq!(lab.names("home"), ["a"]);
}

#[test]
fn trees_with_odd_names_are_the_same_there_and_back() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    odd_tree(&lab.path("tree"));
    cp(&sshd, &lab, &["-rq", "tree", "box:there"], 0);
    assert_same_tree(&lab.path("tree"), &lab.path("home/there"));
    cp(&sshd, &lab, &["-rq", "box:there", "back/"], 0);
    assert_same_tree(&lab.path("tree"), &lab.path("back"));
    for tree in ["tree", "home/there", "back"] {
        let _ = fs::set_permissions(lab.path(tree).join("read-only"), PermissionsExt::from_mode(0o755));
    }
}

#[test]
fn names_are_data_and_never_commands() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    fs::create_dir(lab.path("back")).expect("made");
    let long = vec![b'n'; 255];
    let names: [&[u8]; 12] = [
        b" lead and trail ",
        b"new\nline\r",
        b"q'u\"o`te",
        b"$(touch pwned)",
        b"`touch pwned`",
        b";touch pwned;#",
        b"|touch pwned",
        b"-oProxyCommand=touch pwned",
        b"--remote-fulmar",
        b"*?[a]{b}\\",
        b"\xff\xfe\x01",
        &long,
    ];
    for name in names {
        fs::write(lab.path(OsStr::from_bytes(name)), name).expect("written");
    }
    let command = |words: Vec<OsString>| {
        let output = sshd.cp(&lab, &["-q", "--"]).args(words).output().expect("runs");
        checked(&["cp"], output, 0);
    };
    let joined = |front: &[u8], name: &[u8]| OsStr::from_bytes(&[front, name].concat()).to_owned();
    // Up and down in one go, and each by its own name as the destination.
    command(names.iter().map(|n| joined(b"./", n)).chain(["box:".into()]).collect());
    command(names.iter().map(|n| joined(b"box:", n)).chain(["back".into()]).collect());
    for name in names {
        let shown = String::from_utf8_lossy(name);
        assert_eq!(lab.read(Path::new("home").join(OsStr::from_bytes(name))), name, "{shown} there");
        assert_eq!(lab.read(Path::new("back").join(OsStr::from_bytes(name))), name, "{shown} back");
    }
    for name in [names[1], names[3], names[7], names[10]] {
        command(
            vec!["back".into(), joined(b"box:./dir ", name)]
                .into_iter()
                .map(|w: OsString| if w == "back" { joined(b"./back/", name) } else { w })
                .collect(),
        );
        assert_eq!(lab.read(Path::new("home").join(joined(b"dir ", name))), name);
    }
    assert!(!lab.has("pwned") && !lab.has("home/pwned") && !Path::new("pwned").exists());
}

#[test]
fn several_sources_patterns_and_homes() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    for name in ["a.txt", "b.txt", ".hidden.txt", "c d.log"] {
        lab.write(Path::new("home").join(name), name);
    }
    fs::create_dir_all(lab.path("home/sub/deep")).expect("made");
    lab.write("home/sub/deep/f.txt", "f");
    fs::create_dir(lab.path("out")).expect("made");
    cp(&sshd, &lab, &["box:*.txt", "box:~/c d.log", "box:s?b/*/f.txt", "out"], 0);
    assert_eq!(lab.names("out"), ["a.txt", "b.txt", "c d.log", "f.txt"]);
    // One fails, the others are copied.
    lab.write("x", "x");
    lab.write("y", "y");
    let output = cp(&sshd, &lab, &["x", "missing", "y", "sub", "box:~/sub/"], 5);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("missing") && said.lines().count() == 2, "{said}");
    assert_eq!(lab.names("home/sub"), ["deep", "x", "y"]);
    let output = cp(&sshd, &lab, &["box:nope", "box:sub", "box:*.zip", "box:sub/x", "out"], 5);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in ["nope: no such file", "sub is a directory: add -r", "*.zip: no such file"] {
        assert!(said.replace("cannot read nope", "nope").contains(words), "`{words}` is missing in {said}");
    }
    assert_eq!(lab.read("out/x"), b"x");
    fails(&sshd, &lab, &["x", "y", "box:a.txt"], 5, &["box", "a.txt is not a directory"]);
    fails(&sshd, &lab, &["x", "box:no/such/x"], 5, &["box", "no/such", "make it first"]);
    fails(&sshd, &lab, &["x", "box:~nobody-is-called-so/x"], 5, &["no user nobody-is-called-so"]);
    fails(&sshd, &lab, &["box:a.txt", "box:b.txt", "nowhere"], 5, &["nowhere", "several sources"]);
}

/// Names and contents below a directory.
fn listing(root: &Path) -> Vec<(OsString, Vec<u8>)> {
    fn walk(at: &Path, root: &Path, out: &mut Vec<(OsString, Vec<u8>)>) {
        for entry in fs::read_dir(at).expect("a directory") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(root).expect("below").as_os_str().to_owned();
            if path.is_dir() {
                out.push((name, b"directory".to_vec()));
                walk(&path, root, out);
            } else {
                out.push((name, fs::read(&path).expect("readable")));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out.sort();
    out
}

/// The same copies by fulmar and by scp, into two places that were the same before.
#[test]
fn the_grammar_is_that_of_scp() {
    need!(has_sshd() && crate::support::works("sh", &["-c", "command -v scp"]), "needs sshd and scp");
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    // Many logins: all through one connection, as people do it.
    let _master = sshd.master(&lab);
    let cases: &[&[&str]] = &[
        &["file", "to:have"],
        &["file", "to:have/"],
        &["file", "to:new"],
        &["file", "to:have/new"],
        &["file", "to:taken"],
        &["-r", "dir", "to:have"],
        &["-r", "dir", "to:new"],
        &["-r", "dir", "to:new/"],
        &["-r", "dir/", "to:have/"],
        &["-r", "dir", "file", "to:have"],
        &["-r", "dir", "to:link"],
        &["file", "to:filelink"],
        &["-r", "dir", "to:taken"],
        &["file", "dir/inner", "to:taken"],
        &["file", "dir/inner", "to:none"],
        &["dir", "to:have"],
        &["file", "to:none/x"],
    ];
    let prepare = |root: &Path| {
        let _ = fs::remove_dir_all(root);
        fs::create_dir_all(root.join("have")).expect("made");
        fs::write(root.join("taken"), "taken").expect("written");
        fs::write(root.join("have/real"), "real").expect("written");
        symlink("have", root.join("link")).expect("linked");
        symlink("have/real", root.join("filelink")).expect("linked");
    };
    for base in ["", "home/"] {
        fs::create_dir_all(lab.path(format!("{base}dir/in"))).expect("made");
        lab.write(format!("{base}file"), "file");
        lab.write(format!("{base}dir/inner"), "inner");
        lab.write(format!("{base}dir/in/most"), "most");
    }
    for upload in [true, false] {
        for case in cases {
            let mut codes = Vec::new();
            for place in ["ours", "theirs"] {
                prepare(&lab.path(if upload { format!("home/{place}") } else { place.to_owned() }));
                let words: Vec<String> = case
                    .iter()
                    .map(|word| match word.strip_prefix("to:") {
                        Some(name) if upload => format!("box:{place}/{name}"),
                        Some(name) => format!("{place}/{name}"),
                        None if upload || word.starts_with('-') => (*word).to_owned(),
                        None => format!("box:{word}"),
                    })
                    .collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let mut command =
                    if place == "ours" { sshd.cp(&lab, &words) } else { sshd.scp(&lab, &words) };
                codes.push(command.output().expect("runs").status.code() == Some(0));
            }
            let at = |place: &str| lab.path(if upload { format!("home/{place}") } else { place.to_owned() });
            assert_eq!(codes[0], codes[1], "up: {upload}, {case:?}: fulmar ok, scp ok");
            assert_eq!(listing(&at("ours")), listing(&at("theirs")), "up: {upload}, {case:?}");
        }
    }
    // What scp refuses in this protocol: the contents of a directory, and a new directory for a file.
    cp(&sshd, &lab, &["-qr", "dir/.", "box:contents"], 0);
    assert_eq!(listing(&lab.path("home/contents")), listing(&lab.path("dir")));
    cp(&sshd, &lab, &["-q", "box:dir/inner", "made/"], 0);
    assert_eq!(lab.read("made/inner"), b"inner");
}

#[test]
fn no_key_and_no_name_is_on_a_command_line() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    let file = lab.write("secret-name", noise(1, 400_000));
    let mut copy = Running::start(&mut sshd.cp(&lab, &["-l", "4000", "secret-name", "box:other-name"]));
    let mut seen = Vec::new();
    until("the remote side", || {
        seen = processes();
        !left_over(&lab).is_empty()
    });
    let mut remote = 0;
    while copy.is_running() {
        for (pid, line) in processes() {
            let is_ours =
                contains(&line, b"fulmar serve --once") || contains(&line, b"fulmar\0serve\0--once");
            let digits = line.split(|b| !b.is_ascii_hexdigit()).map(<[u8]>::len).max().unwrap_or(0);
            if pid != copy.id() && is_ours {
                remote += 1;
                assert!(digits < 32, "{}", String::from_utf8_lossy(&line));
                assert!(!contains(&line, b"secret-name") && !contains(&line, b"other-name"));
            }
        }
    }
    assert_eq!(copy.code(), Some(0), "{:?}", copy.stderr.all());
    assert!(remote > 0);
    assert_eq!(lab.read("home/other-name"), fs::read(file).expect("readable"));
    until("the other side's end", || left_over(&lab).is_empty());
}

#[test]
fn whatever_ends_one_side_ends_the_other() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    // Some seconds at the rate below; both breaks come before that.
    let content = noise(3, 12_000_000);
    lab.write("big", &content);
    let begin = || {
        let options = ["--limit", "16mbit", "--chunk-size", "16KiB", "--progress", "always", "big", "box:"];
        let copy = Running::start(&mut sshd.cp(&lab, &options));
        // The first line of progress comes after a second.
        copy.stderr.wait_for(&["cp: ", "loss"]);
        copy
    };
    let copy = begin();
    // Killed, not asked.
    drop(copy);
    until("the other side's end", || left_over(&lab).is_empty());
    assert!(lab.visible("home").is_empty());
    // The connection breaks.
    let mut copy = begin();
    let ssh = processes().into_iter().find(|(pid, line)| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(copy.id()) && contains(line, b"ssh")
    });
    let pid = i32::try_from(ssh.expect("a child of the copy").0).expect("small");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    assert_eq!(copy.code(), Some(3), "{:?}", copy.stderr.all());
    copy.stderr.wait_for(&["ssh connection to box ended", "same command again"]);
    until("the other side's end", || left_over(&lab).is_empty());
    assert!(lab.visible("home").is_empty());
    // And the next run goes on.
    let object = object(&cp(&sshd, &lab, &["--chunk-size", "16KiB", "--json", "big", "box:"], 0));
    assert!(object["files"][0]["resumed_bytes"].as_u64() > Some(0), "{object}");
    assert_eq!(lab.read("home/big"), content);
    assert_eq!(lab.names("home"), ["big"]);
}

#[test]
fn what_is_wrong_with_ssh_is_said_in_one_sentence() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start_with(&lab, &Setup { installed: false, ..Setup::default() });
    lab.write("a", "content");
    fails(&sshd, &lab, &["a", "box:"], 5, &["fulmar is not installed on box", "--remote-fulmar"]);
    fails(&sshd, &lab, &["--remote-fulmar", "/no/fulmar", "a", "box:"], 5, &["not installed on box"]);
    cp(&sshd, &lab, &["--remote-fulmar", crate::support::FULMAR, "-q", "a", "box:"], 0);
    assert_eq!(lab.read("home/a"), b"content");
    fails(&sshd, &lab, &["-P", "1", "a", "box:"], 3, &["could not reach box", "refused"]);
    fails(&sshd, &lab, &["a", "no-such-host.invalid:"], 3, &["could not reach no-such-host.invalid"]);
    fails(&sshd, &lab, &["--ssh", "/no/ssh", "a", "box:"], 1, &["/no/ssh", "--ssh"]);
    let output = cp(&sshd, &lab, &["-o", "UserKnownHostsFile=none", "a", "box:"], 4);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("does not trust the host key of box"), "{said}");
    lab.write("authorized_keys", "");
    fails(&sshd, &lab, &["a", "box:"], 4, &["could not log in to box", "Permission denied", "publickey"]);
}

#[test]
fn what_a_login_shell_prints_does_no_harm() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let before = "echo Welcome to box; printf '\\001\\000\\000\\002{}'; echo careful >&2;";
    let sshd = Sshd::start_with(&lab, &Setup { before, ..Setup::default() });
    lab.write("a", "content");
    let output = sshd.cp(&lab, &["-q", "a", "box:"]).output().expect("runs");
    checked(&["cp"], output, 0);
    let output = sshd.cp(&lab, &["box:a", "b"]).output().expect("runs");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).trim()), (Some(0), "careful"));
    assert_eq!(lab.read("b"), b"content");
    let refuse = "echo This account is closed; exit 7;";
    let sshd = Sshd::start_with(&lab, &Setup { before: refuse, ..Setup::default() });
    fails(&sshd, &lab, &["a", "box:"], 1, &["exit code 7", "This account is closed"]);
}

#[test]
fn without_udp_there_is_the_way_over_ssh() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    let content = noise(5, 2_000_000);
    lab.write("a", &content);
    let short = ["--connect-timeout", "0.5"];
    let words = ["no answer by UDP from 192.0.2.1", "--port-range", "--fallback ssh"];
    fails(&sshd, &lab, &[&short[..], &["a", "dark:"]].concat(), 3, &words);
    assert!(lab.visible("home").is_empty());
    let over_ssh = [&short[..], &["-q", "--fallback", "ssh"]].concat();
    cp(&sshd, &lab, &[&over_ssh[..], &["a", "dark:"]].concat(), 0);
    assert_eq!(lab.read("home/a"), content);
    cp(&sshd, &lab, &[&over_ssh[..], &["dark:a", "b"]].concat(), 0);
    assert_eq!(lab.read("b"), content);
    odd_tree(&lab.path("tree"));
    cp(&sshd, &lab, &[&over_ssh[..], &["-r", "tree", "dark:"]].concat(), 0);
    assert_same_tree(&lab.path("tree"), &lab.path("home/tree"));
    for tree in ["tree", "home/tree"] {
        let _ = fs::set_permissions(lab.path(tree).join("read-only"), PermissionsExt::from_mode(0o755));
    }
    // The address that ssh names leads nowhere, the one that the server sees does.
    cp(&sshd, &lab, &["-q", "far:a", "c"], 0);
    assert_eq!(lab.read("c"), content);
}

#[test]
fn ports_can_be_chosen() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    lab.write("a", "content");
    let taken = std::net::UdpSocket::bind("[::]:0").expect("bound");
    let port = taken.local_addr().expect("bound").port().to_string();
    fails(&sshd, &lab, &["--port-range", &port, "a", "box:"], 1, &[&port, "--port-range"]);
    drop(taken);
    let output = sshd.cp(&lab, &["-v", "--port-range", &port, "a", "box:"]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("UDP goes to [127.0.0.1:{port}]")), "{said}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(lab.read("home/a"), b"content");
}

#[test]
fn serve_once_does_nothing_by_itself() {
    let lab = Lab::new();
    // Whoever started it is gone.
    let output = lab.fulmar(&["serve", "--once"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let garbage = fs::File::open(lab.write("garbage", "GET / HTTP/1.1\r\n\r\n")).expect("there");
    let output = lab.fulmar(&["serve", "--once"]).stdin(garbage).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    one_line(&output, &["was not told what to do"]);
    lab.fails(&["serve", "--once", "drop"], 2, &["--once"]);
}
