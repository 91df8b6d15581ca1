//! Names that lead elsewhere, from both sides: nothing is ever written, and nothing read, outside the directory.

use crate::support::*;
use crate::together;
use fulmar::session::refusal::Refusal;
use fulmar::transfer::Request;
use fulmar::transfer::job::{BeginEntry, EntryKind, Location, Overwrite, SourceRoot};
use fulmar::wire::message::Message;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// `top/inside` is what a peer may see; `top/outside/secret` is what it must not touch.
struct Walls {
    top: tempfile::TempDir,
}

impl Walls {
    fn new() -> Self {
        let top = tempfile::tempdir().expect("made");
        fs::create_dir(top.path().join("inside")).expect("made");
        fs::create_dir(top.path().join("outside")).expect("made");
        fs::write(top.path().join("outside/secret"), "secret").expect("written");
        Self { top }
    }

    fn inside(&self) -> PathBuf {
        self.top.path().join("inside")
    }

    fn outside(&self) -> PathBuf {
        self.top.path().join("outside")
    }

    fn hold(&self) {
        assert_eq!(names(self.top.path()), ["inside", "outside"]);
        assert_eq!(names(&self.outside()), ["secret"]);
        assert_eq!(fs::read(self.outside().join("secret")).expect("there"), b"secret");
    }
}

/// Paths that no ENTRY may have: the message is a violation.
const UNCLEAN: [&[u8]; 12] = [
    b"",
    b"..",
    b".",
    b"/",
    b"/etc/fulmar-was-here",
    b"../outside/x",
    b"a/../../outside/x",
    b"a/..",
    b"a//b",
    b"a/./b",
    b"a/",
    b"a\0b",
];

/// Paths that are well formed, and forbidden all the same.
fn forbidden() -> Vec<Vec<u8>> {
    vec![
        b".fulmar-0123456789abcdef01234567.part".to_vec(),
        b"d/.fulmar-x/y".to_vec(),
        vec![b'n'; 256],
        [&b"d/"[..], &[b'n'; 300], b"/x"].concat(),
    ]
}

/// An entry with this path ends the session, and nothing is written anywhere.
fn refuses_entry(walls: &Walls, node: &mut Node, peer: &mut Peer, path: &[u8]) {
    peer.say_raw(node, &raw_entry(0, path, b"x"));
    node.pass(ms(100));
    node.expect_violation("path out of bounds", Refusal::Message);
    walls.hold();
    assert!(names(&walls.inside()).is_empty());
}

#[test]
fn unclean_paths_of_a_client_end_its_session() {
    let _together = together();
    for (i, path) in UNCLEAN.iter().enumerate() {
        let walls = Walls::new();
        let mut node = Node::server(&walls.inside());
        let mut peer = Peer::join(&mut node, i as u8 + 1, peer_addr());
        peer.say(&mut node, &[put()]);
        refuses_entry(&walls, &mut node, &mut peer, path);
    }
}

#[test]
fn unclean_paths_of_a_server_end_the_session() {
    let _together = together();
    for path in UNCLEAN {
        let walls = Walls::new();
        let mut node = Node::client(&walls.inside());
        node.connect(get(b""), Vec::new());
        let mut peer = Peer::meet(&mut node);
        refuses_entry(&walls, &mut node, &mut peer, path);
    }
}

#[test]
fn forbidden_names_are_refused_one_by_one() {
    let _together = together();
    for from_server in [false, true] {
        let walls = Walls::new();
        let (mut node, mut peer) = receiving(&walls, from_server);
        let paths = forbidden();
        for (i, path) in paths.iter().enumerate() {
            peer.say(&mut node, &[inline(i as u64, path, b"x")]);
        }
        peer.say(&mut node, &[inline(paths.len() as u64, b"fine", b"x")]);
        node.pass(ms(100));
        assert_eq!(node.failures().len(), paths.len(), "{:?}", node.failures());
        assert_eq!(node.refused(Refusal::Path), paths.len() as u64);
        assert_eq!(names(&walls.inside()).iter().filter(|n| *n != "d").collect::<Vec<_>>(), ["fine"]);
        walls.hold();
    }
}

/// An endpoint that takes in a manifest: a server with a PUT, or a client with a GET of everything.
fn receiving(walls: &Walls, from_server: bool) -> (Node, Peer) {
    if from_server {
        let mut node = Node::client(&walls.inside());
        node.connect(get(b""), Vec::new());
        let peer = Peer::meet(&mut node);
        (node, peer)
    } else {
        let mut node = Node::server(&walls.inside());
        let mut peer = Peer::join(&mut node, 1, peer_addr());
        peer.say(&mut node, &[put()]);
        (node, peer)
    }
}

#[test]
fn links_that_a_peer_sends_lead_nowhere() {
    let _together = together();
    for from_server in [false, true] {
        let walls = Walls::new();
        let absolute = walls.outside().into_os_string().into_encoded_bytes();
        let (mut node, mut peer) = receiving(&walls, from_server);
        let mut file = 0;
        let mut say = |node: &mut Node, build: &dyn Fn(u64) -> Message| {
            peer.say(node, &[build(file)]);
            file += 1;
        };
        say(&mut node, &|n| dir(n, b"d"));
        for (name, target) in [
            (&b"l"[..], &b"../outside"[..]),
            (b"abs", &absolute),
            (b"d/up", b"../../outside"),
            (b"self", b"."),
        ] {
            say(&mut node, &|n| link(n, name, target));
            // While the link is still staged, when it is there, and over it.
            for round in 0..2 {
                for below in ["x", "secret", "new/deep", "new"] {
                    let path = [name, b"/", below.as_bytes()].concat();
                    say(&mut node, &|n| inline(n, &path, b"through the link"));
                    say(&mut node, &|n| streamed(n, &path, 100_000, 1024));
                    say(&mut node, &|n| dir(n, &path));
                    say(&mut node, &|n| link(n, &path, b"/etc/passwd"));
                }
                node.pass(ms(100 * round));
            }
            say(&mut node, &|n| dir(n, name));
            say(&mut node, &|n| Message::Entry(Box::new(entry(n, EntryKind::DirEnd, name))));
        }
        node.pass(ms(1000));
        assert!(node.refused(Refusal::Path) > 50, "{}", node.endpoint.refusals());
        // `self` points to the directory itself: even there, nothing goes through a link.
        assert!(!walls.inside().join("x").exists());
        walls.hold();
    }
}

#[test]
fn requests_for_paths_outside_are_refused() {
    let _together = together();
    let walls = Walls::new();
    symlink("../outside", walls.inside().join("door")).expect("linked");
    symlink("../outside/secret", walls.inside().join("peephole")).expect("linked");
    let paths: [&[u8]; 11] = [
        b"..",
        b"../outside/secret",
        b"a/../../outside",
        b"./x",
        b"door/secret",
        b"door",
        b"peephole",
        b"./../outside/secret",
        b"../outside/./secret",
        b"door/./secret",
        b"./door/secret",
    ];
    let mut joined = 0;
    for path in paths {
        for kind in 0..3 {
            let mut node = Node::server(&walls.inside());
            joined += 1;
            let mut peer = Peer::join(&mut node, joined, peer_addr());
            let request = match kind {
                0 => get(path),
                1 => Request::List { path: path.to_vec() },
                _ => Request::Put {
                    dest: path.to_vec(),
                    into_dir: true,
                    overwrite: Overwrite::Always,
                    no_resume: false,
                },
            };
            peer.say(&mut node, &[Message::Request { client_id: String::new(), request }]);
            if kind == 2 {
                peer.say(&mut node, &[inline(0, b"x", b"x"), inline(1, b"secret", b"x")]);
            }
            node.pass(ms(300));
            let told = peer.read(&mut node);
            let leaked = told.iter().any(|m| {
                matches!(m, Message::Entry(e) if e.path.ends_with(b"secret") || e.inline.is_some() || e.size > 0)
            });
            assert!(!leaked, "{}: {told:?}", String::from_utf8_lossy(path));
            walls.hold();
        }
    }
}

/// A server sends only what was asked for: the destination may well be a home directory.
#[test]
fn a_server_cannot_add_files_that_nobody_asked_for() {
    let _together = together();
    for (asked, sent) in [
        (&b"notes.txt"[..], &b".bashrc"[..]),
        (b"notes.txt", b".ssh/authorized_keys"),
        (b"deep/in/notes.txt", b"deep/in/notes.txt"),
        (b"/notes.txt/", b"notes"),
        (b"../notes.txt", b"notes.txt"),
        (b"in/./a/b", b"a/evil"),
        (b"in/./a/b", b"b"),
        (b"./a/b", b"a"),
        (b"in/./../b", b"b"),
    ] {
        for kind in [EntryKind::File, EntryKind::Dir, EntryKind::Symlink] {
            let walls = Walls::new();
            let mut node = Node::client(&walls.inside());
            node.connect(get(asked), Vec::new());
            let mut peer = Peer::meet(&mut node);
            let e = BeginEntry { target: b"x".to_vec(), ..entry(0, kind, sent) };
            peer.say(&mut node, &[Message::Entry(Box::new(e))]);
            node.pass(ms(100));
            node.expect_violation("not asked for", Refusal::OutOfPlace);
            assert!(names(&walls.inside()).is_empty());
        }
    }
    // What was asked for comes, under its own name and below it.
    let walls = Walls::new();
    let mut node = Node::client(&walls.inside());
    node.connect(get(b"/deep/in/tree/"), Vec::new());
    let mut peer = Peer::meet(&mut node);
    peer.say(&mut node, &[dir(0, b"tree"), inline(1, b"tree/.bashrc", b"x")]);
    node.pass(ms(100));
    assert_eq!(names(&walls.inside().join("tree")), [".bashrc"]);
    let mut node = Node::client(&walls.inside());
    node.connect(get(b"deep/./in/kept"), Vec::new());
    let mut peer = Peer::meet(&mut node);
    peer.say(&mut node, &[inline(0, b"in/kept", b"x")]);
    node.pass(ms(100));
    assert_eq!(names(&walls.inside().join("in")), ["kept"]);
}

#[test]
fn an_echo_brings_back_plain_files_only() {
    let _together = together();
    for bad in [dir(0, b"d"), inline(0, b"d/f", b"x"), link(0, b"f", b"x")] {
        let walls = Walls::new();
        let source = walls.outside().join("secret").into_os_string().into_encoded_bytes();
        let mut node = Node::client(&walls.inside());
        let request = Request::Echo {
            sim_back: String::new(),
            keep: false,
            overwrite: Overwrite::Never,
            no_resume: false,
        };
        let root = SourceRoot { location: Location::Local(source), name: b"f".to_vec() };
        node.connect(request, vec![root]);
        let mut peer = Peer::meet(&mut node);
        peer.say(&mut node, &[bad]);
        node.pass(ms(100));
        node.expect_violation("not asked for", Refusal::OutOfPlace);
        walls.hold();
    }
}

/// While `f` runs, `inside/d` is now a directory, now a link to `outside`, thousands of times.
fn while_swapping(walls: &Walls, f: impl FnOnce()) {
    let (real, door) = (walls.inside().join("d"), walls.inside().join("e"));
    fs::create_dir(&real).expect("made");
    fs::write(real.join("secret"), "public").expect("written");
    symlink("../outside", &door).expect("linked");
    let stop = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &real, CWD, &door, RenameFlags::EXCHANGE).expect("swapped");
                swaps += 1;
            }
            swaps
        });
        f();
        stop.store(true, Ordering::Relaxed);
        swapper.join().expect("no panic")
    });
    assert!(swaps > 1000, "{swaps} swaps");
    walls.hold();
}

/// Rounds of each race; each takes some milliseconds.
const ROUNDS: u8 = 120;

#[test]
fn uploads_lose_no_race_against_a_link() {
    let _together = together();
    let walls = Walls::new();
    let mut node = Node::server(&walls.inside());
    let mut stored = 0;
    while_swapping(&walls, || {
        for round in 0..ROUNDS {
            let mut peer = Peer::join(&mut node, round, addr(round, 1));
            let dest = [&b""[..], b"d", b"d/sub"][usize::from(round) % 3].to_vec();
            let request =
                Request::Put { dest, into_dir: true, overwrite: Overwrite::Always, no_resume: false };
            peer.say(&mut node, &[Message::Request { client_id: String::new(), request }]);
            peer.say(
                &mut node,
                &[
                    inline(0, b"d/small", b"x"),
                    streamed(1, b"d/large", 50_000, 1024),
                    dir(2, b"d/sub"),
                    link(3, b"d/link", b"x"),
                    inline(4, b"secret", b"overwritten"),
                    inline(5, b"d/secret", b"overwritten"),
                ],
            );
            node.pass(ms(100));
            stored += peer
                .read(&mut node)
                .iter()
                .filter(|m| matches!(m, Message::Result { result: Ok(_), .. }))
                .count();
        }
    });
    assert!(stored > 0, "some were not refused");
}

#[test]
fn downloads_lose_no_race_against_a_link() {
    let _together = together();
    let walls = Walls::new();
    let mut node = Node::server(&walls.inside());
    let mut seen = 0;
    while_swapping(&walls, || {
        for round in 0..ROUNDS {
            let mut peer = Peer::join(&mut node, round, addr(round, 1));
            let path = [&b"d/secret"[..], b"d", b""][usize::from(round) % 3];
            peer.say(&mut node, &[Message::Request { client_id: String::new(), request: get(path) }]);
            node.pass(ms(100));
            for message in peer.read(&mut node) {
                if let Message::Entry(e) = message
                    && let Some(contents) = e.inline
                {
                    assert_eq!(&contents.data[..], b"public");
                    seen += 1;
                }
            }
        }
    });
    assert!(seen > 0, "some were served");
}
