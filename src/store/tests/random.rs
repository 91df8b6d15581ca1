//! Seeded random operations: the disk store must do what the memory store does.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"\xff", b"..", b".fulmar-x", b"d e"];

fn random_path(rng: &mut StdRng) -> Vec<u8> {
    let depth = rng.random_range(1..4);
    let parts: Vec<&[u8]> = (0..depth)
        .map(|_| NAMES[if rng.random_bool(0.03) { rng.random_range(0..7) } else { rng.random_range(0..4) }])
        .collect();
    parts.join(&b'/')
}

/// What an answer says, without its wording.
fn essence(done: &Done) -> String {
    let text = |r: Option<&StoreError>| r.map(|e| e.kind);
    match done {
        Done::DestSet(r) => format!("dest {:?}", text(r.as_ref().err())),
        Done::Began { file, result } => format!("began {file:?} {:?}", text(result.as_ref().err())),
        Done::SinkFailed { file, error } => format!("failed {file:?} {:?}", error.kind),
        Done::Committed { file, result } => {
            format!("committed {file:?} {:?} {:?}", result.as_ref().ok(), text(result.as_ref().err()))
        }
        other => format!("{other:?}"),
    }
}

fn random_job(rng: &mut StdRng, rig: &mut Rig, open: &mut Vec<(FileId, Vec<u8>)>) -> Vec<Job> {
    let len = rng.random_range(0..3000usize);
    let data = noise(rng.random(), len);
    let some = |open: &[(FileId, Vec<u8>)], rng: &mut StdRng| {
        if open.is_empty() { None } else { Some(open[rng.random_range(0..open.len())].clone()) }
    };
    match rng.random_range(0..20) {
        // Callers set a destination before they begin anything.
        0 if open.is_empty() => {
            let at = if rng.random_bool(0.5) { Vec::new() } else { random_path(rng) };
            // The memory store does not follow links on the way to a destination, the disk does (inside the jail).
            let parts: Vec<&[u8]> = at.split(|&b| b == b'/').collect();
            if (1..=parts.len()).any(|n| matches!(rig.seen(&parts[..n].join(&b'/')), Some(Seen::Link(_)))) {
                return Vec::new();
            }
            let overwrite = if rng.random_bool(0.5) { Overwrite::Always } else { Overwrite::Never };
            let name_prefix = if rng.random_bool(0.2) { b"p_".to_vec() } else { Vec::new() };
            let into_dir = rng.random_bool(0.7);
            vec![Job::SetDest(Dest {
                location: Location::Jail(at),
                into_dir,
                overwrite,
                no_resume: false,
                name_prefix,
            })]
        }
        1..=5 => {
            let mut entry = rig.entry(&random_path(rng), EntryKind::File);
            entry.size = data.len() as u64;
            entry.inline = Some(Inline { sha256: sha256(&data), data: data.into() });
            vec![Job::Begin(Box::new(entry))]
        }
        6..=7 => {
            let kind = if rng.random_bool(0.6) { EntryKind::Dir } else { EntryKind::DirEnd };
            vec![Job::Begin(Box::new(rig.entry(&random_path(rng), kind)))]
        }
        8 => {
            let mut entry = rig.entry(&random_path(rng), EntryKind::Symlink);
            entry.target = random_path(rng);
            vec![Job::Begin(Box::new(entry))]
        }
        9..=11 => {
            let mut entry = rig.entry(&random_path(rng), EntryKind::File);
            entry.size = data.len() as u64;
            open.push((entry.file, data));
            vec![Job::Begin(Box::new(entry))]
        }
        12..=15 => {
            let Some((file, data)) = some(open, rng) else { return Vec::new() };
            (0..data.len().div_ceil(CHUNK as usize) as u64)
                .rev()
                .filter(|_| rng.random_bool(0.8))
                .map(|chunk| {
                    let start = chunk as usize * CHUNK as usize;
                    let plain = Bytes::copy_from_slice(&data[start..data.len().min(start + CHUNK as usize)]);
                    let e = encode_chunk(plain, Compression::Auto);
                    Job::WriteEncoded { file, chunk, codec: e.codec, crc32: e.crc32, data: e.data }
                })
                .collect()
        }
        16..=18 => {
            let Some((file, data)) = some(open, rng) else { return Vec::new() };
            open.retain(|(f, _)| *f != file);
            vec![Job::Commit { file, sha256: sha256(&data) }]
        }
        _ => {
            let Some((file, _)) = some(open, rng) else { return Vec::new() };
            open.retain(|(f, _)| *f != file);
            vec![Job::Abort { file, keep_partial: false }]
        }
    }
}

/// The seeds to try: `FULMAR_SEED=n` for one, `FULMAR_SEEDS=n` for the first n.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match number("FULMAR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FULMAR_SEEDS").unwrap_or(100),
    }
}

fn start(seed: u64) -> (StdRng, Rig, Rig) {
    let (mut disk, mut memory) = (Rig::fast_disk(), Rig::memory());
    disk.set_dest(b"", true, Overwrite::Never).unwrap();
    memory.set_dest(b"", true, Overwrite::Never).unwrap();
    (StdRng::seed_from_u64(seed), disk, memory)
}

#[test]
fn disk_and_memory_agree_job_by_job() {
    for seed in seeds() {
        let (mut rng, mut disk, mut memory) = start(seed);
        let mut open = Vec::new();
        for step in 0..120 {
            for job in random_job(&mut rng, &mut memory, &mut open) {
                let text = format!("seed {seed} step {step}: {job:?}");
                let a: Vec<String> = disk.run_idle(job.clone()).iter().map(essence).collect();
                let b: Vec<String> = memory.run_idle(job).iter().map(essence).collect();
                assert_eq!(a, b, "(disk, memory) {text}");
            }
        }
        for (file, _) in open {
            disk.run(Job::Abort { file, keep_partial: false });
            memory.run(Job::Abort { file, keep_partial: false });
        }
        assert_eq!(disk.all(), memory.all(), "seed {seed}");
    }
}

/// The same with batches on the disk's side: answers come later, but they are the same ones.
#[test]
fn disk_and_memory_agree_in_batches() {
    for seed in seeds() {
        let (mut rng, mut disk, mut memory) = start(seed);
        let (mut open, mut a, mut b) = (Vec::new(), Vec::new(), Vec::new());
        // An end without its beginning may find a directory that is made later in the same batch: left out.
        let mut begun: Vec<Vec<u8>> = Vec::new();
        for _ in 0..120 {
            for job in random_job(&mut rng, &mut memory, &mut open) {
                if matches!(job, Job::SetDest(_)) {
                    a.extend(disk.idle());
                    begun.clear();
                }
                if let Job::Begin(entry) = &job {
                    match entry.kind {
                        EntryKind::Dir => begun.push(entry.path.clone()),
                        EntryKind::DirEnd if !begun.contains(&entry.path) => continue,
                        _ => {}
                    }
                }
                a.extend(disk.run(job.clone()));
                b.extend(memory.run(job));
            }
            if rng.random_bool(0.05) {
                a.extend(disk.idle());
            }
        }
        for (file, _) in open {
            a.extend(disk.run(Job::Abort { file, keep_partial: false }));
            b.extend(memory.run(Job::Abort { file, keep_partial: false }));
        }
        a.extend(disk.idle());
        let sorted = |done: Vec<Done>| {
            let mut all: Vec<String> = done.iter().map(essence).collect();
            all.sort();
            all
        };
        assert_eq!(sorted(a), sorted(b), "(disk, memory) seed {seed}");
        assert_eq!(disk.all(), memory.all(), "seed {seed}");
    }
}
