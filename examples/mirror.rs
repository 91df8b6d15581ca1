//! Lists what a server has, and fetches all of it, with what went wrong at the end.
//!
//! ```text
//! cargo run --release --example mirror -- HOST:PORT KEY_FILE DEST
//! cargo run --release --example mirror            # of a server of its own
//! ```

use fulmar::{Client, EntryKind, Key, Server, ServerSettings};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [server, key_file, dest] = arguments.as_slice() {
        return mirror(&Client::new(server.as_str(), Key::from_file(key_file)?)?, Path::new(dest));
    }
    let lab = tempfile::tempdir()?;
    let (source, dest) = (lab.path().join("source"), lab.path().join("mirror"));
    std::fs::create_dir_all(source.join("below/empty"))?;
    std::fs::create_dir(&dest)?;
    for n in 0..20_usize {
        std::fs::write(source.join(format!("below/{n}")), "x".repeat(n * 1000))?;
    }
    let mut settings = ServerSettings::default();
    settings.read_only = true;
    let key = Key::from_bytes("any password will do");
    let server = Server::bind(&source, "127.0.0.1:0".parse()?, key.clone(), settings)?;
    let (address, stop) = (server.local_addr(), server.stop_handle());
    let running = std::thread::spawn(move || server.run());
    mirror(&Client::new(address, key)?, &dest)?;
    stop.stop();
    running.join().expect("the server does not panic")?;
    assert_eq!(std::fs::read(dest.join("below/19"))?.len(), 19_000);
    assert!(dest.join("below/empty").is_dir());
    Ok(())
}

fn mirror(client: &Client, dest: &Path) -> Result<(), Box<dyn Error>> {
    for entry in client.list("")? {
        println!("{:>12} {:?} {}", entry.bytes, entry.kind, String::from_utf8_lossy(&entry.path));
    }
    let outcome = client.get(&[""], dest, |_| ())?;
    let files = outcome.entries.iter().filter(|e| e.kind == EntryKind::File && e.error.is_none());
    println!("{} files, {} bytes", files.clone().count(), files.map(|e| e.bytes).sum::<u64>());
    match outcome.failed().next() {
        None => Ok(()),
        Some(entry) => Err(entry.error.clone().unwrap_or_default().into()),
    }
}
