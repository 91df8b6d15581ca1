//! What only a disk can do: partials, locks, links that lead out, special files, full disks, batches.

use super::*;
use StoreErrorKind as K;
use std::os::unix::net::UnixListener;

fn top() -> Rig {
    let mut rig = Rig::disk();
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    rig
}

fn hidden(rig: &Rig) -> Vec<Vec<u8>> {
    let is_hidden = |p: &Vec<u8>| super::super::names::split_last(p).1.starts_with(b".fulmar-");
    rig.all().into_keys().filter(is_hidden).collect()
}

fn mode(at: &Path) -> u32 {
    std::fs::symlink_metadata(at).unwrap().mode() & 0o7777
}

#[test]
fn partials_are_hidden_private_and_locked() {
    let mut rig = top();
    let name = [b'n'; 255];
    let file = rig.open(&name, 5000).unwrap();
    rig.send_chunk(file, &noise(1, 5000), 1, false);
    // The partial and its journal.
    assert_eq!((hidden(&rig).len(), rig.all().len()), (2, 2));
    assert!(hidden(&rig).iter().all(|p| mode(&rig.jail().join(path(p))) == 0o600));
    // Another process is kept away by the lock, whatever it calls itself.
    let mut other = FileStore::open(&rig.jail(), FileOptions::default()).unwrap();
    let mut done = Vec::new();
    let location = Location::Jail(Vec::new());
    let dest = Dest {
        location,
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    other.run(9, Job::SetDest(dest), &mut done);
    let mut entry = rig.entry(&name, EntryKind::File);
    entry.size = 1;
    other.run(9, Job::Begin(Box::new(entry.clone())), &mut done);
    let busy = |d: &Done| matches!(d, Done::Began { result: Err(e), .. } if e.kind == K::Busy);
    assert!(done.last().is_some_and(|(_, d)| busy(d)), "{done:?}");
    // The first one gives up but keeps its partial; then the second one may, and starts anew.
    rig.run(Job::Abort { file, keep_partial: true });
    assert_eq!(hidden(&rig).len(), 2);
    other.run(9, Job::Begin(Box::new(entry)), &mut done);
    assert!(matches!(done.last(), Some((9, Done::Began { result: Ok(_), .. }))), "{done:?}");
    drop(other);
    let part = rig.jail().join(path(&super::super::names::partial_name(&name)));
    assert_eq!(std::fs::metadata(part).unwrap().len(), 0);
}

#[test]
fn a_planted_partial_is_not_followed() {
    let mut rig = top();
    let part = rig.jail().join(path(&super::super::names::partial_name(b"f")));
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::write(&outside, b"precious").unwrap();
    std::os::unix::fs::symlink(&outside, &part).unwrap();
    assert_eq!(kind(rig.open(b"f", 3)), K::Forbidden);
    std::fs::remove_file(&part).unwrap();
    std::fs::hard_link(&outside, &part).unwrap();
    assert_eq!(kind(rig.open(b"f", 3)), K::WrongKind);
    std::fs::remove_file(&part).unwrap();
    assert_eq!(std::fs::read(outside).unwrap(), b"precious");
}

#[test]
fn links_that_lead_out_are_refused_everywhere() {
    let mut rig = top();
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"s").unwrap();
    rig.plant(b"real/x", &Seen::File(b"x".to_vec(), META));
    for (name, target) in
        [("abs", outside.as_path()), ("up", Path::new("../outside")), ("in", Path::new("real"))]
    {
        std::os::unix::fs::symlink(target, rig.jail().join(name)).unwrap();
    }
    for out in [b"abs".as_slice(), b"up"] {
        assert_eq!(kind(rig.set_dest(out, true, Overwrite::Always)), K::Forbidden);
        assert_eq!(kind(rig.set_dest(out, false, Overwrite::Always)), K::Forbidden);
        assert_eq!(kind(rig.set_dest(&[out, b"/new"].concat(), true, Overwrite::Always)), K::Forbidden);
        for below in [b"".as_slice(), b"/secret"] {
            let location = Location::Jail([out, below].concat());
            rig.run(Job::AddRoot(SourceRoot { location, name: b"n".to_vec() }));
            let found = walks::walk(&mut rig, 10, false);
            assert!(matches!(&found[..], [Err(e)] if e.error.kind == K::Forbidden), "{found:?}");
        }
    }
    // A link that stays inside may be used as a destination or as a root.
    rig.set_dest(b"in", true, Overwrite::Never).unwrap();
    rig.put_inline(b"y", b"y").unwrap();
    assert_eq!(rig.data(b"real/y").unwrap(), b"y");
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(b"in".to_vec()), name: b"n".to_vec() }));
    assert_eq!(walks::walk(&mut rig, 10, false).len(), 4);
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let mut rig = top();
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    rig.put_dir(b"d").unwrap();
    let file = rig.open(b"d/f", 1).unwrap();
    let (dir, moved) = (rig.jail().join("d"), rig.jail().join("moved"));
    std::fs::rename(&dir, &moved).unwrap();
    std::os::unix::fs::symlink(&outside, &dir).unwrap();
    rig.send_chunk(file, b"x", 0, false);
    rig.commit(file, b"x").unwrap();
    // Handles lead to the directory that was meant; names from now on meet the link.
    assert_eq!(std::fs::read(moved.join("f")).unwrap(), b"x");
    assert!(rig.put_dir_end(b"d").is_err());
    rig.session = 2;
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    assert_eq!(kind(rig.put_inline(b"d/g", b"x")), K::Forbidden);
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn sources_below_a_swapped_directory_are_not_read() {
    let mut rig = top();
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    write_file(&outside.join("big"), &noise(1, 5000), META);
    rig.plant(b"d/big", &Seen::File(noise(1, 5000), META));
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(Vec::new()), name: Vec::new() }));
    let found = walks::walk(&mut rig, 10, false);
    let entry = found.into_iter().map(Result::unwrap).find(|e| e.size == 5000).unwrap();
    let file = walks::open_source(&mut rig, &entry);
    std::fs::rename(rig.jail().join("d"), rig.jail().join("moved")).unwrap();
    std::os::unix::fs::symlink(&outside, rig.jail().join("d")).unwrap();
    let done = rig.run(Job::ReadChunk { file, chunk: 0, budget: Default::default() });
    assert!(
        matches!(&done[..], [Done::SourceFailed { error, .. }] if error.kind == K::Forbidden),
        "{done:?}"
    );
}

#[test]
fn special_files_are_named_and_not_sent() {
    let mut rig = top();
    let _socket = UnixListener::bind(rig.jail().join("socket")).unwrap();
    let fifo = rig.jail().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    rig.plant(b"x", &Seen::File(b"x".to_vec(), META));
    let location = Location::Local(rig.jail().into_os_string().into_vec());
    rig.run(Job::AddRoot(SourceRoot { location, name: b"n".to_vec() }));
    let location = Location::Local(fifo.into_os_string().into_vec());
    rig.run(Job::AddRoot(SourceRoot { location, name: b"pipe".to_vec() }));
    let (good, bad): (Vec<_>, Vec<_>) = walks::walk(&mut rig, 3, false).into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (3, 3));
    assert!(bad.into_iter().all(|e| e.unwrap_err().error.kind == K::Forbidden));
    // Nor are they taken for an existing file that may be replaced by a directory.
    assert_eq!(kind(rig.put_inline(b"pipe", b"x")), K::Exists);
}

#[test]
fn local_roots_may_be_links() {
    let mut rig = top();
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    write_file(&outside.join("f"), b"x", META);
    let link = rig.jail().parent().unwrap().join("link");
    std::os::unix::fs::symlink("outside", &link).unwrap();
    let flink = rig.jail().parent().unwrap().join("flink");
    std::os::unix::fs::symlink("outside/f", &flink).unwrap();
    for (root, count) in [(&link, 3), (&flink, 1)] {
        let location = Location::Local(root.clone().into_os_string().into_vec());
        rig.run(Job::AddRoot(SourceRoot { location, name: b"n".to_vec() }));
        assert_eq!(walks::walk(&mut rig, 10, false).into_iter().filter(Result::is_ok).count(), count);
    }
    let location = Location::Local(b"/no/such/place".to_vec());
    rig.run(Job::AddRoot(SourceRoot { location, name: b"n".to_vec() }));
    let found = walks::walk(&mut rig, 10, false);
    assert!(matches!(&found[..], [Err(e)] if e.error.kind == K::NotFound && e.path == b"n"), "{found:?}");
}

#[test]
fn deep_trees_need_few_handles() {
    let mut rig = top();
    let deep = vec![b"d".as_slice(); 300].join(&b'/');
    rig.put_inline(&[&deep[..], b"/f"].concat(), b"x").unwrap();
    rig.plant(b"d/d/z", &Seen::File(b"z".to_vec(), META));
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(b"d".to_vec()), name: b"n".to_vec() }));
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let job = Job::NextEntries { max_entries: 300, inline_max_bytes: 10, list_only: false };
    rig.run(job);
    let after = std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests of this process open files too.
    assert!(after < before + 150, "{before} {after}");
    let rest = walks::walk(&mut rig, 1000, false);
    assert_eq!(rest.into_iter().map(Result::unwrap).filter(|e| e.kind == EntryKind::File).count(), 2);
}

#[test]
fn batches_answer_when_full_or_idle() {
    let mut rig = top();
    let mut answered = 0;
    for i in 0..200 {
        let mut entry = rig.entry(format!("d{}/f{i}", i % 40).as_bytes(), EntryKind::File);
        entry.inline = Some(Inline { data: Bytes::new(), sha256: sha256(b"") });
        let done = rig.run(Job::Begin(Box::new(entry)));
        assert!(done.iter().all(|d| matches!(d, Done::Committed { result: Ok(Some(_)), .. })), "{done:?}");
        answered += done.len();
    }
    assert!(answered > 0 && answered < 200, "{answered}");
    answered += rig.idle().len();
    assert_eq!(answered, 200);
    assert!(hidden(&rig).is_empty());
    assert_eq!(rig.all().len(), 240);
    // What was not synced when its session ended never was there.
    let mut entry = rig.entry(b"late", EntryKind::File);
    entry.inline = Some(Inline { data: Bytes::new(), sha256: sha256(b"") });
    assert!(rig.run(Job::Begin(Box::new(entry))).is_empty());
    rig.run(Job::EndSession);
    assert!(rig.idle().is_empty());
    assert_eq!(rig.all().len(), 240);
}

#[test]
fn directories_get_mode_and_time_last() {
    let mut rig = top();
    let meta = Meta { mode: 0o500, ..META };
    for kind in [EntryKind::Dir, EntryKind::File, EntryKind::DirEnd] {
        let mut entry = rig.entry(if kind == EntryKind::File { b"d/f" } else { b"d" }, kind);
        entry.meta = meta;
        if kind == EntryKind::File {
            entry.inline = Some(Inline { data: Bytes::new(), sha256: sha256(b"") });
        }
        rig.run(Job::Begin(Box::new(entry)));
    }
    assert_eq!(mode(&rig.jail().join("d")), 0o700);
    assert_eq!(rig.idle().len(), 3);
    let found = std::fs::metadata(rig.jail().join("d")).unwrap();
    assert_eq!(
        (found.mode() & 0o7777, found.mtime(), found.mtime_nsec()),
        (0o500, META.mtime_s, 123_456_789)
    );
}

#[test]
fn stale_scratch_space_is_removed_and_used_space_is_not() {
    let mut rig = top();
    let stale = rig.jail().join(".fulmar-scratch-0123456789abcdef");
    std::fs::create_dir_all(stale.join("7/d")).unwrap();
    std::fs::write(stale.join("7/d/f"), b"x").unwrap();
    let location = Location::Scratch(b"1".to_vec());
    let dest = Dest {
        location,
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    rig.set_dest_full(dest).unwrap();
    rig.put_inline(b"f", b"x").unwrap();
    drop(FileStore::open(&rig.jail(), FileOptions::default()).unwrap());
    assert!(!stale.exists());
    assert!(rig.all().keys().any(|p| p.ends_with(b"/1/f")));
    let Backing::Disk(store, dir) = rig.backing else { panic!() };
    drop(store);
    assert_eq!(std::fs::read_dir(dir.path().join("jail")).unwrap().count(), 0);
}

#[test]
fn unwritable_and_unreadable_places_are_permission_errors() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root is not stopped by modes");
        return;
    }
    let mut rig = top();
    std::fs::create_dir(rig.jail().join("ro")).unwrap();
    std::fs::set_permissions(rig.jail().join("ro"), std::fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(kind(rig.put_inline(b"ro/f", b"x")), K::Permission);
    assert_eq!(kind(rig.open(b"ro/f", 1)), K::Permission);
    assert_eq!(kind(rig.put_dir(b"ro/d")), K::Permission);
    assert_eq!(kind(rig.put_link(b"ro/l", b"t")), K::Permission);
    rig.plant(b"secret", &Seen::File(b"x".to_vec(), Meta { mode: 0, ..META }));
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(b"secret".to_vec()), name: b"n".to_vec() }));
    let found = walks::walk(&mut rig, 10, false);
    assert!(matches!(&found[..], [Err(e)] if e.error.kind == K::Permission), "{found:?}");
}

/// A small file system of its own, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut mount = std::process::Command::new("mount");
        let ok =
            mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status().is_ok_and(|s| s.success());
        if !ok {
            println!("skipped: needs root (mount does not work here)");
        }
        ok.then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mounted_rig(options: &str) -> Option<(Rig, Mounted)> {
    let mut rig = Rig::disk();
    let Backing::Disk(store, dir) = &mut rig.backing else { panic!() };
    std::fs::remove_dir(dir.path().join("jail")).unwrap();
    let mounted = Mounted::tmpfs(dir.path().join("jail"), options)?;
    **store = FileStore::open(&mounted.0, FileOptions::default()).unwrap();
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    Some((rig, mounted))
}

#[test]
fn a_full_disk_is_one_clear_error() {
    if !is_root("mount a small tmpfs") {
        return;
    }
    let Some((mut rig, _mounted)) = mounted_rig("size=256k") else { return };
    let error = rig.open(b"big", 1 << 20).unwrap_err();
    assert_eq!(error.kind, K::NoSpace);
    assert!(error.message.contains("free some space"), "{error}");
    assert!(rig.all().is_empty());
    // Room at first, filled by others meanwhile.
    let data = noise(1, 200_000);
    let file = rig.open(b"big", data.len() as u64).unwrap();
    std::fs::write(rig.jail().join("other"), noise(2, 150_000)).unwrap();
    let failed = (0..196).find_map(|chunk| {
        rig.send_chunk(file, &data, chunk, false).into_iter().find_map(|d| match d {
            Done::SinkFailed { error, .. } => Some(error),
            _ => None,
        })
    });
    assert_eq!(failed.unwrap().kind, K::NoSpace);
    assert!(rig.run_idle(Job::Commit { file, sha256: [0; 32] }).is_empty());
    // What had come stays, for when there is room again.
    assert_eq!((rig.all().len(), hidden(&rig).len()), (3, 2), "{:?}", rig.all().keys());
    let error = rig.put_inline(b"small", &noise(3, 150_000)).unwrap_err();
    assert_eq!(error.kind, K::NoSpace);
    assert_eq!(rig.all().len(), 3);
    std::fs::remove_file(rig.jail().join("other")).unwrap();
    let mut entry = rig.entry(b"big", EntryKind::File);
    entry.size = data.len() as u64;
    let file = entry.file;
    let done = rig.run(Job::Begin(Box::new(entry)));
    let [Done::Began { result: Ok(have), .. }] = &done[..] else { panic!("{done:?}") };
    assert!(have[0].end - have[0].start > 20, "{have:?}");
    rig.run(Job::Abort { file, keep_partial: true });
    rig.put_big(b"big", &data).unwrap();
    assert_eq!(rig.all().len(), 1);
}

#[test]
fn a_read_only_file_system_is_a_permission_error() {
    if !is_root("mount a tmpfs read-only") {
        return;
    }
    let Some((mut rig, mounted)) = mounted_rig("size=256k") else { return };
    let file = rig.open(b"f", 5000).unwrap();
    rig.run(Job::Abort { file, keep_partial: false });
    let remount = ["-o", "remount,ro"];
    let ok = std::process::Command::new("mount").args(remount).arg(&mounted.0).status().unwrap().success();
    assert!(ok);
    assert_eq!(kind(rig.put_inline(b"f", b"x")), K::Permission);
    assert_eq!(kind(rig.open(b"f", 1)), K::Permission);
    assert_eq!(kind(rig.put_dir(b"d")), K::Permission);
    assert_eq!(kind(rig.put_link(b"l", b"t")), K::Permission);
    assert_eq!(kind(rig.set_dest(b"new/dir", true, Overwrite::Never)), K::Permission);
}

#[test]
fn many_sources_share_few_handles() {
    let mut rig = top();
    for i in 0..300 {
        rig.plant(format!("s/{i:03}").as_bytes(), &Seen::File(noise(i, 3000), META));
    }
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(b"s".to_vec()), name: b"n".to_vec() }));
    let entries: Vec<_> = walks::walk(&mut rig, 1000, false).into_iter().map(Result::unwrap).collect();
    let files: Vec<_> = entries.iter().filter(|e| e.kind == EntryKind::File).cloned().collect();
    let ids: Vec<FileId> = files.iter().map(|e| walks::open_source(&mut rig, e)).collect();
    for chunk in 0..3 {
        for &file in &ids {
            let done = rig.run(Job::ReadChunk { file, chunk, budget: Default::default() });
            assert!(matches!(&done[..], [Done::Chunk { .. }]), "{done:?}");
        }
    }
    for (i, &file) in ids.iter().enumerate() {
        let done = rig.run(Job::FinishSource { file });
        let expected = sha256(&noise(i as u64, 3000));
        assert!(matches!(&done[..], [Done::SourceDigest { sha256, .. }] if *sha256 == expected), "{done:?}");
    }
}

#[test]
fn a_directory_that_vanishes_is_an_error_of_its_own() {
    let mut rig = top();
    rig.put_dir(b"d").unwrap();
    rig.put_inline(b"d/a", b"x").unwrap();
    std::fs::remove_dir_all(rig.jail().join("d")).unwrap();
    assert_eq!(kind(rig.put_inline(b"d/b", b"x")), K::NotFound);
    rig.put_inline(b"e", b"x").unwrap();
}

#[test]
fn deep_and_locked_scratch_trees_are_removed() {
    let mut rig = top();
    let location = Location::Scratch(b"1".to_vec());
    let dest = Dest {
        location,
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    rig.set_dest_full(dest).unwrap();
    let deep = vec![b"d".as_slice(); 1500].join(&b'/');
    rig.put_inline(&[&deep[..], b"/f"].concat(), b"x").unwrap();
    for i in 0..20 {
        rig.put_inline(format!("d/d/{i}/f").as_bytes(), b"x").unwrap();
    }
    rig.put_link(b"d/l", b"/etc").unwrap();
    let mut end = rig.entry(b"d/d", EntryKind::DirEnd);
    end.meta.mode = 0;
    rig.begin(end).unwrap();
    rig.run(Job::RemoveScratch(b"1".to_vec()));
    let [area] = &hidden(&rig)[..] else { panic!() };
    assert_eq!(std::fs::read_dir(rig.jail().join(path(area))).unwrap().count(), 0);
}

#[test]
fn links_do_not_lead_to_hidden_files() {
    let mut rig = top();
    let file = rig.open(b"f", 10).unwrap();
    let part = hidden(&rig).remove(0);
    rig.put_link(b"peek", &part).unwrap();
    std::fs::create_dir(rig.jail().join(".fulmar-dir")).unwrap();
    rig.put_link(b"dir", b".fulmar-dir").unwrap();
    for name in [b"peek".as_slice(), b"dir"] {
        rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(name.to_vec()), name: b"n".to_vec() }));
        let found = walks::walk(&mut rig, 10, false);
        assert!(matches!(&found[..], [Err(e)] if e.error.kind == K::Forbidden), "{found:?}");
    }
    rig.run(Job::Abort { file, keep_partial: false });
    assert_eq!(kind(rig.set_dest(b"dir", true, Overwrite::Never)), K::Forbidden);
}

#[test]
fn very_large_directories_are_walked_in_runs() {
    let mut rig = Rig::fast_disk();
    for i in 0..66_000 {
        std::fs::File::create(rig.jail().join(format!("{i}"))).unwrap();
    }
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(Vec::new()), name: Vec::new() }));
    let entries = walks::walk(&mut rig, 1000, false);
    let names: std::collections::BTreeSet<Vec<u8>> = entries.into_iter().map(|e| e.unwrap().path).collect();
    assert_eq!(names.len(), 66_000);
}

/// Run with `cargo test --release --lib store:: -- --ignored --nocapture`; `FULMAR_DIR` names another disk.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn ten_thousand_small_files() {
    use std::time::Instant;
    let base = std::env::var_os("FULMAR_DIR").unwrap_or_else(|| "/tmp".into());
    for per_dir in [10_000, 100, 2] {
        let dir = tempfile::tempdir_in(&base).unwrap();
        let mut store = FileStore::open(dir.path(), FileOptions::default()).unwrap();
        let mut done = Vec::new();
        let location = Location::Jail(Vec::new());
        let dest = Dest {
            location,
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix: Vec::new(),
        };
        store.run(1, Job::SetDest(dest), &mut done);
        let data = Bytes::from(noise(1, 4096));
        let digest = sha256(&data);
        let mut rig = Rig::memory();
        let start = Instant::now();
        for i in 0..10_000 {
            let dir = format!("d{}", i / per_dir);
            if i % per_dir == 0 {
                let entry = rig.entry(dir.as_bytes(), EntryKind::Dir);
                store.run(1, Job::Begin(Box::new(entry)), &mut done);
            }
            let at = format!("{dir}/f{i}");
            let mut entry = rig.entry(at.as_bytes(), EntryKind::File);
            (entry.size, entry.inline) = (4096, Some(Inline { data: data.clone(), sha256: digest }));
            store.run(1, Job::Begin(Box::new(entry)), &mut done);
        }
        store.idle(&mut done);
        let took = start.elapsed();
        assert_eq!(done.len(), 10_001 + 10_000 / per_dir);
        let start = Instant::now();
        let location = Location::Jail(Vec::new());
        store.run(2, Job::AddRoot(SourceRoot { location, name: Vec::new() }), &mut done);
        let mut found = 0;
        loop {
            done.clear();
            let job = Job::NextEntries { max_entries: 1000, inline_max_bytes: 8192, list_only: false };
            store.run(2, job, &mut done);
            let Some((_, Done::Entries { entries, end })) = done.pop() else { panic!() };
            found += entries.len();
            if end {
                break;
            }
        }
        println!(
            "{base:?} {per_dir} per directory: stored in {took:?}, {found} read in {:?}",
            start.elapsed()
        );
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn sha256_speed() {
    use sha2::Digest;
    use std::time::Instant;
    let data = noise(1, 256 * 1024);
    let start = Instant::now();
    let mut a = ring::digest::Context::new(&ring::digest::SHA256);
    (0..1024).for_each(|_| a.update(&data));
    let ring = start.elapsed();
    let digest = a.finish();
    let start = Instant::now();
    let mut b = sha2::Sha256::new();
    (0..1024).for_each(|_| b.update(&data));
    println!("256 MiB: ring {ring:?}, sha2 {:?}", start.elapsed());
    assert_eq!(digest.as_ref(), b.finalize().as_slice());
}

#[test]
fn temporary_files_of_a_living_process_stay_and_those_of_a_dead_one_go() {
    let mut first = top();
    let jail = first.jail();
    std::fs::write(jail.join(".fulmar-00000000deadbeef-1.tmp"), b"left").unwrap();
    std::fs::write(jail.join(".fulmar-not-ours"), b"stays").unwrap();
    let inline = |rig: &mut Rig, at: &[u8]| {
        let data = Bytes::from_static(b"some bytes");
        let inline = Some(Inline { sha256: sha256(&data), data });
        Job::Begin(Box::new(BeginEntry { size: 10, inline, ..rig.entry(at, EntryKind::File) }))
    };
    // Begun, and not named yet.
    let job = inline(&mut first, b"one");
    assert!(first.run(job).is_empty());
    let before = hidden(&first);
    assert!(before.len() == 2 && before.contains(&b".fulmar-not-ours".to_vec()), "{before:?}");
    let mut second = FileStore::open(&jail, FileOptions::default()).unwrap();
    let mut done = Vec::new();
    let dest = Dest {
        location: Location::Jail(Vec::new()),
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    second.run(1, Job::SetDest(dest), &mut done);
    second.run(1, inline(&mut first, b"two"), &mut done);
    assert!(before.iter().all(|name| hidden(&first).contains(name)), "{:?}", hidden(&first));
    second.idle(&mut done);
    first.idle();
    assert_eq!(hidden(&first), [b".fulmar-not-ours"]);
    assert!(jail.join("one").exists() && jail.join("two").exists());
}
