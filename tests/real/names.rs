//! Trees with everything that a file system lets a name, a mode and a time be.

use crate::support::{Lab, assert_same_tree};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn set(path: &Path, mode: u32, mtime: SystemTime) {
    fs::File::open(path).and_then(|f| f.set_modified(mtime)).expect("time set");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode set");
}

/// The sources of this program, among things with odd names.
pub(crate) fn odd_tree(root: &Path) {
    fs::create_dir(root).expect("made");
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &root.join("src"));
    let long = "n".repeat(255);
    let names: Vec<&[u8]> = vec![
        b" leading and trailing ",
        b"new\nline",
        b"tab\tand \x1b[31mescape",
        b"-rf",
        b"--json",
        b"*?[a]{b}$(c)`d`'e'\"f\"\\g",
        b"\xff\xfe not UTF-8",
        "größe ☃".as_bytes(),
        b".hidden",
        b"...",
        b"a:b",
        long.as_bytes(),
    ];
    let old = SystemTime::UNIX_EPOCH + Duration::new(1, 1);
    for (n, name) in names.iter().enumerate() {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, vec![b'x'; n * 997]).expect("written");
        let mode = [0o600, 0o644, 0o755, 0o400, 0o640][n % 5];
        set(&path, mode, old + Duration::new(86_400 * 365 * 4 * n as u64, n as u32));
        let inner = root.join("dirs").join(OsStr::from_bytes(name));
        fs::create_dir_all(&inner).expect("made");
        fs::write(inner.join("f"), *name).expect("written");
    }
    fs::write(root.join("empty file"), "").expect("written");
    fs::create_dir(root.join("empty directory")).expect("made");
    for (target, link) in [
        ("src", "to a directory"),
        ("no/such/thing", "dangling"),
        ("/etc/passwd", "absolute"),
        ("../../..", "outward"),
        (".", "loop"),
    ] {
        symlink(target, root.join(link)).expect("linked");
    }
    symlink(OsStr::from_bytes(b"\xff\n"), root.join("odd target")).expect("linked");
    let locked = root.join("read-only");
    fs::create_dir(&locked).expect("made");
    fs::write(locked.join("inside"), "x").expect("written");
    set(&locked, 0o555, old);
    set(&root.join("empty directory"), 0o700, old - Duration::from_secs(86_400));
}

#[test]
fn a_tree_is_the_same_there_and_back() {
    let lab = Lab::new();
    odd_tree(&lab.path("tree"));
    let server = lab.serve(&[]);
    let put = lab.json(&["put", "tree", &server.address], 0);
    assert_same_tree(&lab.path("tree"), &lab.path("drop/tree"));
    let get = lab.json(&["get", &server.at("tree"), "back"], 0);
    assert_same_tree(&lab.path("tree"), &lab.path("back"));
    assert_eq!(put["files_ok"], get["files_ok"]);
    // Names that are not text are there in full.
    let exact = |object: &serde_json::Value| {
        let files = object["files"].as_array().expect("a list");
        // base64 of "tree/\xff\xfe not UTF-8"
        files.iter().filter(|f| f["path_b64"] == "dHJlZS///iBub3QgVVRGLTg=").count()
    };
    assert_eq!((exact(&put), exact(&get)), (1, 1));
    let leftovers = |dir: &str| lab.names(dir).into_iter().filter(|n| n.starts_with(".fulmar-")).count();
    assert_eq!(leftovers("drop") + leftovers("drop/tree") + leftovers("back"), 0);
    unlock(&lab);
}

#[test]
fn a_tree_crosses_a_bad_link() {
    let lab = Lab::new();
    odd_tree(&lab.path("tree"));
    let server = lab.serve(&["--sim", "loss=10%,corrupt=5%,reorder=5%,dup=2%,seed=3"]);
    let sim = "loss=10%,corrupt=5%,reorder=5%,dup=2%,seed=4";
    lab.run(&["put", "-q", "--sim", sim, "tree", &server.address], 0);
    lab.run(&["get", "-q", "--sim", sim, &server.at("tree"), "back"], 0);
    assert_same_tree(&lab.path("tree"), &lab.path("back"));
    unlock(&lab);
}

#[test]
fn a_file_that_is_named_like_an_option_can_be_sent() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("-rf", "content");
    lab.run(&["put", "--", "-rf", &server.address], 0);
    lab.run(&["get", &server.at("-rf"), "back"], 0);
    assert_eq!(lab.read("back"), b"content");
}

#[test]
fn a_link_named_as_source_is_followed_and_one_inside_is_not() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("secret", "content");
    symlink("secret", lab.path("link")).expect("linked");
    fs::create_dir(lab.path("dir")).expect("made");
    symlink("../secret", lab.path("dir/inside")).expect("linked");
    lab.run(&["put", "link", "dir", &server.at("in/")], 0);
    assert_eq!(lab.read("drop/in/link"), b"content");
    assert!(!fs::symlink_metadata(lab.path("drop/in/link")).expect("there").is_symlink());
    assert_eq!(fs::read_link(lab.path("drop/in/dir/inside")).expect("a link"), Path::new("../secret"));
}

/// Directories that nobody may write to cannot be removed with the rest.
fn unlock(lab: &Lab) {
    for tree in ["tree", "drop/tree", "back"] {
        let _ = fs::set_permissions(lab.path(tree).join("read-only"), PermissionsExt::from_mode(0o755));
    }
}
