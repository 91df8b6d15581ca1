//! The library's face, as a program that embeds fulmar uses it.

use fulmar::{Client, EntryKind, Error, ErrorKind, Key, Server, ServerSettings, Stop, Update};
use std::net::SocketAddr;
use std::thread::JoinHandle;

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

fn served(dir: &std::path::Path, key: &Key) -> (SocketAddr, Stop, JoinHandle<Result<(), Error>>) {
    let server = Server::bind(dir, SocketAddr::from(LOOPBACK), key.clone(), ServerSettings::default());
    let server = server.expect("a free port");
    let (address, stop) = (server.local_addr(), server.stop_handle());
    let running = std::thread::spawn(move || server.run());
    (address, stop, running)
}

#[test]
fn put_list_get() {
    let lab = tempfile::tempdir().expect("a directory");
    let (drop, source, back) = (lab.path().join("drop"), lab.path().join("tree"), lab.path().join("back"));
    std::fs::create_dir(&drop).expect("made");
    std::fs::create_dir(&source).expect("made");
    let big = vec![7; 300_000];
    std::fs::write(source.join("big"), &big).expect("written");
    std::fs::write(source.join("small"), "small").expect("written");
    let key = Key::generate().expect("random");
    let (address, stop, running) = served(&drop, &key);
    let mut client = Client::new(address, key).expect("an address");
    client.settings.impairment = Some("loss=10%,seed=1".into());

    let (mut connected, mut started, mut finished) = (0, Vec::new(), 0);
    let outcome = client.put(&[&source], "in/", |update| match update {
        Update::Connected(_) => connected += 1,
        Update::Started { path, bytes } => started.push((path.to_vec(), bytes)),
        Update::Finished(entry) => finished += usize::from(entry.error.is_none()),
        Update::Progress(stats) => assert!(stats.file_bytes_done <= stats.file_bytes_total),
        _ => {}
    });
    let outcome = outcome.expect("uploaded");
    assert_eq!((connected, finished, outcome.entries.len()), (1, 3, 3));
    assert_eq!(started, [(b"tree/big".to_vec(), 300_000)]);
    assert_eq!(outcome.failed().count(), 0);

    let again = client.put(&[source.join("small")], "in/tree/small", |_| ()).expect("a session");
    assert!(again.failed().next().expect("it exists").error.as_deref().is_some_and(|e| e.contains("small")));
    client.settings.overwrite = true;
    let again = client.put(&[source.join("small")], "in/tree/small", |_| ()).expect("a session");
    assert_eq!(again.failed().count(), 0);

    let listed = client.list("in/tree").expect("listed");
    let shown: Vec<_> = listed.iter().map(|e| (e.path.as_slice(), e.kind, e.bytes)).collect();
    assert_eq!(
        shown,
        [(&b"tree/big"[..], EntryKind::File, 300_000), (&b"tree/small"[..], EntryKind::File, 5)]
    );
    assert_eq!(client.list("nothing").expect_err("missing").kind(), ErrorKind::Refused);

    let got = client.get(&["in/tree/big"], &back, |_| ()).expect("a session");
    assert_eq!(std::fs::read(&back).expect("there"), big);
    assert_eq!(
        got.entries[0].sha256,
        outcome.entries.iter().find(|e| e.path == b"tree/big").expect("sent").sha256
    );

    let stranger = Client::new(address, Key::from_bytes("another")).expect("an address");
    assert_eq!(stranger.list("").expect_err("another key").kind(), ErrorKind::Authentication);
    stop.stop();
    running.join().expect("no panic").expect("a good end");
    client.stop_handle().stop();
    assert_eq!(client.list("").expect_err("stopped").kind(), ErrorKind::Interrupted);
}

#[test]
fn keys_come_from_files_and_from_the_system() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    assert!(Key::from_file(&path).expect_err("missing").to_string().contains("key"));
    std::fs::write(&path, "\n").expect("written");
    assert!(Key::from_file(&path).expect_err("empty").to_string().contains("is empty"));
    std::fs::write(&path, "a password\r\n").expect("written");
    assert_eq!(Key::from_file(&path).expect("read").as_bytes(), Some(&b"a password"[..]));
    let (a, b) = (Key::generate().expect("random"), Key::generate().expect("random"));
    assert!(a.as_bytes().is_some_and(|k| k.len() == 64) && a.as_bytes() != b.as_bytes());
    assert_eq!(Key::insecure().as_bytes(), None);
}
