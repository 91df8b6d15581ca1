//! `serve --quota`, and disks that have a quota of their own.

use crate::support::{FULMAR, Lab, Server, Signal, is_root, need, noise, until, works};
use std::path::PathBuf;
use std::process::Command;

#[test]
fn what_exceeds_the_quota_is_code_5_and_the_rest_goes_on() {
    let lab = Lab::new();
    lab.write("drop/there", noise(1, 4_000_000));
    let server = lab.serve(&["--quota", "10MB"]);
    lab.write("big", noise(2, 8_000_000));
    lab.write("fits", noise(3, 3_000_000));
    lab.write("small", b"small");
    lab.fails(&["put", "big", &server.address], 5, &["big", "quota"]);
    assert_eq!(lab.names("drop"), ["there"]);
    let object = lab.json(&["put", "big", "fits", "small", &server.at("in/")], 5);
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&2.into(), &1.into()));
    assert_eq!(lab.visible("drop/in"), ["fits", "small"]);
    // Somebody makes room; the server believes it when it looks again, which a restart does.
    std::fs::remove_file(lab.path("drop/there")).expect("removed");
    server.stop();
    let server = lab.serve(&["--quota", "12MB"]);
    lab.run(&["put", "-q", "big", &server.address], 0);
    server.stop();
}

#[test]
fn what_an_abandoned_upload_has_left_counts() {
    let lab = Lab::new();
    let server = lab.serve(&["--quota", "10MB", "--timeout", "1"]);
    lab.write("big", noise(2, 8_000_000));
    lab.write("other", noise(3, 6_000_000));
    let mut client = lab.start(&["put", "--limit", "16mbit", "big", &server.address]);
    let partial = || {
        use std::os::unix::fs::MetadataExt;
        let names = lab.names("drop").into_iter().filter(|name| name.ends_with(".part"));
        names.filter_map(|n| lab.path("drop").join(n).metadata().ok()).map(|m| m.blocks() * 512).sum::<u64>()
    };
    until("five megabytes", || partial() > 5_000_000);
    client.signal(Signal::KILL);
    client.end();
    server.logs(&["ended", "nothing heard for 1s"]);
    lab.fails(&["put", "other", &server.address], 5, &["other", "quota"]);
    // Its own next run needs room for the rest alone.
    lab.run(&["put", "-q", "big", &server.address], 0);
    assert_eq!(lab.names("drop"), ["big"]);
    server.stop();
}

const MOUNT: &str = "mount -t tmpfs -o size=40m,mode=777,usrquota,usrquota_block_hardlimit=2m tmpfs \"$1\" && shift \
                     && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";

/// A quota of the file system (EDQUOT), not of the server.
#[test]
fn a_disk_quota_is_code_5_and_resume_works_when_it_is_raised() {
    let probe = "mount -t tmpfs -o usrquota,usrquota_block_hardlimit=2m tmpfs /tmp";
    need!(
        is_root() && works("unshare", &["--mount", "sh", "-c", probe]) && works("setpriv", &["--version"]),
        "needs root, and a kernel whose tmpfs has quotas"
    );
    let lab = Lab::new();
    // Somebody else than root must be able to go there.
    for path in [lab.path(""), lab.path("state")] {
        std::fs::create_dir_all(&path).expect("made");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    }
    let shell =
        ["--mount", "sh", "-c", MOUNT, "sh", "drop", FULMAR, "serve", "drop", "--listen", "127.0.0.1:0"];
    let server = Server::start(&mut lab.isolate(Command::new("unshare"), &shell));
    let seen = PathBuf::from(format!("/proc/{}/root", server.process.id()));
    let inside = seen.join(lab.path("drop").strip_prefix("/").expect("absolute"));
    lab.write("big", noise(1, 6_000_000));
    lab.write("small", noise(2, 100_000));
    lab.fails(&["put", "big", &server.address], 5, &["big", "quota"]);
    lab.run(&["put", "-q", "small", &server.address], 0);
    assert!(!inside.join("big").exists() && inside.join("small").exists());
    server.stop();
}
