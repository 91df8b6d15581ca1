//! Every exit code, with one clear line on stderr and nothing left behind.

use crate::support::{Lab, Running, Signal, is_root, need, noise, one_line, until, works};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user and group `nobody` of Linux distributions.
const NOBODY: u32 = 65_534;

#[test]
fn code_0_is_confirmed_by_the_receiver() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "content");
    lab.run(&["put", "a", &server.address], 0);
    server.logs(&["stored a", "7 bytes"]);
    assert_eq!(lab.read("drop/a"), b"content");
}

#[test]
fn code_1_an_io_error() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("drop/a", "content");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = lab.client(&["ls", &server.address]).stdout(full).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    one_line(&output, &["stdout", "no space"]);
}

#[test]
fn code_1_the_port_is_in_use() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let output = lab.fulmar(&["serve", "drop", "--listen", &server.address]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    one_line(&output, &[&port, "in use", "--listen"]);
    assert!(output.stdout.is_empty());
}

#[test]
fn code_2_usage() {
    let lab = Lab::new();
    lab.write("a", "content");
    lab.fails(&["put", "--limit", "fast", "a", "127.0.0.1"], 2, &["--limit", "fast"]);
    lab.fails(&["put", "--nonsense", "a", "127.0.0.1"], 2, &["--nonsense"]);
    lab.fails(&["get", "--retry", "often", "127.0.0.1/a", "b"], 2, &["--retry", "often"]);
    lab.fails(&["serve", "--quota", "much", "drop"], 2, &["--quota", "much"]);
    lab.fails(&["put", "--key-file", "none", "a", "127.0.0.1"], 2, &["key file none"]);
}

#[test]
fn code_3_nobody_answers() {
    let lab = Lab::new();
    lab.key_file("k", "key");
    lab.write("a", "content");
    // Nothing answers there while the socket is held.
    let deaf = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = deaf.local_addr().expect("bound").to_string();
    let begin = ["--key-file", "k", "--connect-timeout", "0.5"];
    for command in [&["put", "a", &address][..], &["get", &format!("{address}/a"), "b"], &["ls", &address]] {
        lab.fails(&[command, &begin].concat(), 3, &[&address, "UDP"]);
    }
    // A port that nobody has is the same: a forged ICMP message must not end a transfer.
    drop(deaf);
    lab.fails(&[&["put", "a", &address][..], &begin].concat(), 3, &[&address]);
    assert!(!lab.has("b"));
}

#[test]
fn code_3_the_peer_is_lost() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, 4_000_000));
    let put = ["put", "--limit", "4mbit", "--sim"];
    let options = ["outage=500ms:60s", "--timeout", "1", "big", &server.address];
    lab.fails(&[&put[..], &options].concat(), 3, &["nothing heard for 1s"]);
    let options = ["loss=50%,seed=1", "--max-retries", "2", "big", &server.at("b")];
    lab.fails(&[&put[..], &options].concat(), 3, &["sent 3 times", "--max-retries"]);
    assert!(lab.visible("drop").is_empty());
}

#[test]
fn code_4_another_key() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "content");
    lab.key_file("wrong", "not the key\n");
    // If it took as long as 2 s, this would be a 3.
    let options = ["--key-file", "wrong", "--connect-timeout", "2"];
    for command in
        [&["put", "a", &server.address][..], &["get", &server.at("a"), "b"], &["ls", &server.address]]
    {
        lab.fails(&[command, &options].concat(), 4, &["key", "--key-file"]);
    }
    assert!(lab.names("drop").is_empty() && !lab.has("b"));
    lab.run(&["put", "-q", "a", &server.address], 0);
}

#[test]
fn code_4_only_one_side_is_insecure() {
    let lab = Lab::new();
    lab.write("a", "content");
    let server = lab.serve(&[]);
    let options = ["--connect-timeout", "2", "a"];
    lab.fails(&[&["put", "--insecure"][..], &options, &[&server.address]].concat(), 4, &["--insecure"]);
    let open = lab.serve(&["--insecure"]);
    lab.fails(&[&["put"][..], &options, &[&open.address]].concat(), 4, &["--insecure"]);
    assert!(lab.names("drop").is_empty());
    lab.run(&["put", "-q", "--insecure", "a", &open.address], 0);
    assert_eq!(lab.read("drop/a"), b"content");
}

#[test]
fn code_5_missing_existing_and_forbidden() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "new");
    lab.write("drop/a", "old");
    lab.fails(&["put", "missing", &server.address], 5, &["missing", "no such file"]);
    lab.fails(&["get", &server.at("missing"), "b"], 5, &["missing"]);
    lab.fails(&["ls", &server.at("missing")], 5, &["missing"]);
    lab.fails(&["put", "a", &server.address], 5, &["exists", "--overwrite always"]);
    lab.fails(&["get", &server.at("a"), "a"], 5, &["exists", "--overwrite always"]);
    assert_eq!((lab.read("a"), lab.read("drop/a")), (b"new".to_vec(), b"old".to_vec()));
    assert_eq!(lab.names("drop"), ["a"]);
    assert!(!lab.has("b"));
}

#[test]
fn code_5_no_permission() {
    need!(is_root() || !lab_is_shared(), "needs root, or a user who is not root");
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), PermissionsExt::from_mode(0o755)).expect("set");
    lab.key_file("k", "key");
    fs::set_permissions(lab.path("k"), PermissionsExt::from_mode(0o644)).expect("set");
    lab.write("open", "content");
    let closed = lab.write("closed", "content");
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).expect("set");
    fs::set_permissions(lab.path("drop"), PermissionsExt::from_mode(0o555)).expect("set");
    // Rights mean nothing to root: run as nobody, from a place that nobody can read.
    let as_nobody = |arguments: &[&str]| {
        let mut command = if is_root() {
            let program = lab.path("fulmar");
            if !program.exists() {
                fs::copy(crate::support::FULMAR, &program).expect("copied");
            }
            let mut command = Command::new(program);
            command.uid(NOBODY).gid(NOBODY);
            command
        } else {
            Command::new(crate::support::FULMAR)
        };
        command.env("FULMAR_KEY_FILE", lab.path("k"));
        let mut command = lab.isolate(command, arguments);
        command.env("FULMAR_KEY_FILE", lab.path("k")).env("RUST_LOG", "error");
        command
    };
    let server = crate::support::Server::start(&mut as_nobody(&["serve", "drop", "--listen", "127.0.0.1:0"]));
    for (file, word) in [("closed", "closed"), ("open", "permission")] {
        let output = as_nobody(&["put", file, &server.address]).output().expect("runs");
        let output = crate::support::checked(&[file], output, 5);
        one_line(&output, &[word, "permission"]);
    }
    fs::set_permissions(lab.path("drop"), PermissionsExt::from_mode(0o755)).expect("set");
    assert!(lab.names("drop").is_empty());
}

/// Whether a file of ours can be read without any right to it.
fn lab_is_shared() -> bool {
    let lab = Lab::new();
    let path = lab.write("x", "x");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).expect("set");
    fs::File::open(path).is_ok()
}

#[test]
fn code_6_the_source_changed_while_it_was_read() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    // Larger than all that is read ahead.
    let file = fs::File::create(lab.path("big")).expect("made");
    file.set_len(1 << 30).expect("sparse");
    let options = ["--limit", "100mbit", "--compress", "none", "--progress", "never"];
    let mut client = lab.start(&[&["put"], &options[..], &["big", &server.address]].concat());
    server.logs(&["receiving big"]);
    file.set_len(1 << 20).expect("cut");
    assert_eq!(client.code(), Some(6));
    let lines = client.stderr.all();
    assert!(lines.len() == 1 && lines[0].contains("big") && lines[0].contains("changed"), "{lines:?}");
    assert!(lab.visible("drop").is_empty());
}

#[test]
fn codes_130_and_143_by_signal() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, 4_000_000));
    lab.write("drop/down", noise(2, 4_000_000));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (up, down) = (format!("up{code}"), format!("down{code}"));
        let put: Running = lab.start(&["put", "--limit", "2mbit", "big", &server.at(&up)]);
        server.logs(&["put to", &up]);
        let get = lab.start(&["get", "--sim", "rate-in=2mbit", &server.at("down"), &down]);
        // The partials are there when the first bytes are.
        for place in ["", "drop"] {
            until("the partial", || lab.names(place).iter().any(|n| n.starts_with(".fulmar-")));
        }
        for mut client in [put, get] {
            client.signal(signal);
            assert_eq!(client.code(), Some(code));
            let lines = client.stderr.all();
            assert!(lines.len() == 1 && lines[0].contains("interrupted"), "{lines:?}");
        }
        assert!(!lab.has(format!("drop/{up}")) && !lab.has(&down));
        for (place, name) in [("", &down), ("drop", &up)] {
            let partial = lab.names(place).into_iter().find(|n| n.starts_with(".fulmar-"));
            let partial = partial.unwrap_or_else(|| panic!("the partial of {name} is kept"));
            fs::remove_file(lab.path(place).join(partial)).expect("removed");
        }
    }
    // The server was told.
    server.logs(&["ended", "the peer ended the session"]);
}

#[test]
fn the_others_go_on_and_the_highest_code_wins() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    for name in ["a", "b", "c"] {
        lab.write(name, name);
    }
    lab.write("drop/b", "old");
    let object = lab.json(&["put", "a", "missing", "b", "c", &server.at("")], 5);
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&2.into(), &2.into()));
    assert_eq!(lab.visible("drop"), ["a", "b", "c"]);
    assert_eq!(lab.read("drop/b"), b"old");
    let output = lab.run(&["get", &server.at("a"), &server.at("gone"), &server.at("c"), "out/"], 5);
    one_line(&output, &["gone"]);
    assert_eq!(lab.visible("out"), ["a", "c"]);
}

#[test]
fn a_shell_sees_the_codes() {
    need!(works("sh", &["-c", "true"]), "needs sh");
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let line = format!("\"$0\" get {}/nothing x; test $? = 5", server.address);
    let mut shell = lab.isolate(Command::new("sh"), &["-c", &line, crate::support::FULMAR]);
    shell.env("FULMAR_KEY_FILE", lab.path("state/fulmar/server.key"));
    assert_eq!(shell.output().expect("runs").status.code(), Some(0));
}

#[test]
fn what_fails_before_the_first_answer_counts_too() {
    need!(works("mkfifo", &["--version"]), "needs mkfifo");
    let lab = Lab::new();
    // Files leave as soon as the keys agree; the server's next word comes much later.
    let server = lab.serve(&["--sim", "delay=300ms"]);
    fs::create_dir(lab.path("tree")).expect("made");
    assert!(works("mkfifo", &[lab.path("tree/pipe").to_str().expect("UTF-8")]));
    lab.fails(&["put", "tree/.", &server.at("alone/")], 5, &["pipe"]);
    lab.write("tree/file", "content");
    let object = lab.json(&["put", "tree", &server.address], 5);
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&1.into(), &1.into()));
    assert_eq!(lab.names("drop/tree"), ["file"]);
}
