//! Uploads files with a progress line, as a program that embeds fulmar would.
//!
//! ```text
//! cargo run --release --example upload -- HOST:PORT KEY_FILE FILE...
//! cargo run --release --example upload            # to a server of its own, over a bad link
//! ```

use fulmar::{Client, Key, Server, ServerSettings, Update};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [server, key_file, files @ ..] = arguments.as_slice() {
        return upload(Client::new(server.as_str(), Key::from_file(key_file)?)?, files);
    }
    let lab = tempfile::tempdir()?;
    let (drop, file) = (lab.path().join("drop"), lab.path().join("numbers.txt"));
    std::fs::create_dir(&drop)?;
    std::fs::write(&file, (0..500_000).map(|n| format!("{n}\n")).collect::<String>())?;
    let key = Key::generate()?;
    let server = Server::bind(&drop, "127.0.0.1:0".parse()?, key.clone(), ServerSettings::default())?;
    let (address, stop) = (server.local_addr(), server.stop_handle());
    let running = std::thread::spawn(move || server.run());
    let mut client = Client::new(address, key)?;
    client.settings.impairment = Some("loss=10%,delay=10ms".into());
    upload(client, std::slice::from_ref(&file))?;
    stop.stop();
    running.join().expect("the server does not panic")?;
    assert_eq!(std::fs::read(drop.join("in/numbers.txt"))?, std::fs::read(file)?);
    Ok(())
}

fn upload<P: Into<PathBuf> + Clone>(client: Client, files: &[P]) -> Result<(), Box<dyn Error>> {
    let files: Vec<PathBuf> = files.iter().cloned().map(Into::into).collect();
    let outcome = client.put(&files, "in/", |update| match update {
        Update::Connected(server) => println!("connected to {server}"),
        Update::Progress(s) => println!("{} of {} bytes", s.file_bytes_done, s.file_bytes_total),
        Update::Finished(entry) => println!("{}: done", String::from_utf8_lossy(&entry.path)),
        _ => {}
    })?;
    for entry in outcome.failed() {
        println!("{}: {}", String::from_utf8_lossy(&entry.path), entry.error.as_deref().unwrap_or_default());
    }
    let s = &outcome.stats;
    println!(
        "{} packets, of them {} repairs, {:.1} % lost",
        s.packets_sent,
        s.packets_repaired,
        s.loss_pct()
    );
    Ok(())
}
