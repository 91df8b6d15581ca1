//! The fuzz targets on a stable toolchain: every input of the committed corpora goes through its target, so that neither
//! targets nor corpora rot between two runs of the fuzzer. With `FULMAR_WRITE_CORPUS=1` the corpora are written anew from
//! tests/vectors first; what the fuzzer found (`found-*`) stays.

#[path = "../fuzz/src/targets/mod.rs"]
#[allow(unreachable_pub, dead_code, reason = "the same file is a module of the library of the fuzz targets")]
mod targets;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What a target does with an input.
type Target = fn(&[u8]);

/// All targets: each has a binary in fuzz/bin and a corpus.
const TARGETS: [(&str, Target); 9] = [
    ("packets", targets::packets),
    ("frames", targets::frames),
    ("messages", targets::messages),
    ("chunks", targets::chunks),
    ("journal", targets::journal),
    ("sim_spec", targets::sim_spec),
    ("handshake", targets::handshake),
    ("sealed", targets::sealed),
    ("session", targets::session),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// Name and bytes of the entries of one list of tests/vectors/wire.json.
fn vectors(list: &str) -> Vec<(String, Vec<u8>)> {
    let all: Value = serde_json::from_str(include_str!("vectors/wire.json")).expect("JSON");
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = all[list].as_array().expect("a list").iter();
    let entries = entries.map(|e| ([text(e, "kind"), text(e, "name")].join(" "), unhex(&text(e, "hex"))));
    entries.collect()
}

fn control(stream: &[u8]) -> Vec<u8> {
    let mut out = vec![4, 0];
    fulmar::wire::buf::put_bytes(&mut out, stream);
    out
}

/// A journal by the letter of docs/PROTOCOL.md, with a slot for every third chunk.
fn journal() -> Vec<u8> {
    let crc32 = fulmar::codec::chunk::crc32;
    let (size, chunk_size) = targets::JOURNAL_LAYOUT;
    let mut out = b"fulmarJ\x01".to_vec();
    out.extend_from_slice(&Sha256::digest(targets::JOURNAL_NAME)[..16]);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&chunk_size.to_le_bytes());
    out.extend_from_slice(&targets::JOURNAL_META.mtime_ns.to_le_bytes());
    out.extend_from_slice(&targets::JOURNAL_META.mtime_s.to_le_bytes());
    out.resize(60, 0);
    let check = crc32(&out).to_le_bytes();
    out.extend_from_slice(&check);
    for n in 0..size.div_ceil(chunk_size.into()) {
        let crc = (n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes();
        let slot = [&crc[..], &crc32(&[&check[..], &n.to_le_bytes(), &crc].concat()).to_le_bytes()].concat();
        out.extend(if n % 3 == 0 { slot } else { vec![0; 8] });
    }
    out
}

/// The inputs made from the vectors.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let frames = || [vectors("frames"), vectors("feedback")].concat();
    let named = |list: &[(&str, &[u8])]| {
        list.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect::<Vec<_>>()
    };
    match target {
        "packets" => {
            let cut = |(name, data): (String, Vec<u8>)| (name, data[..data.len() - 4].to_vec());
            vectors("handshake_packets").into_iter().map(cut).collect()
        }
        "frames" => {
            let refused = vectors("refused").into_iter().filter(|(name, _)| name.starts_with("frame"));
            frames().into_iter().chain(refused).collect()
        }
        "messages" => {
            let refused = vectors("refused").into_iter().filter(|(name, _)| name.starts_with("message"));
            // Type 64, 3 bytes to be skipped, then MANIFEST_END.
            let extension = ("an extension".to_owned(), vec![0x40, 0x40, 3, 1, 2, 3, 4, 0]);
            vectors("messages").into_iter().chain(refused).chain([extension]).collect()
        }
        "chunks" => {
            let text = b"over and over and over and over and over again".repeat(20);
            let zstd = zstd::bulk::compress(&text, 3).expect("compressed");
            let lz4 = lz4_flex::block::compress(&text);
            let size = (text.len() as u16).to_be_bytes();
            let input = |kind: u8, data: &[u8]| [&size[..], &[0, kind], data].concat();
            let all = [input(0, &text), input(1, &lz4), input(2, &zstd), input(0xf2, &text), input(0xf1, &text)];
            all.iter().enumerate().map(|(i, data)| (format!("chunk {i}"), data.clone())).collect()
        }
        "journal" => {
            let whole = journal();
            let torn = whole[..whole.len() / 2 + 3].to_vec();
            named(&[("whole", &whole), ("torn", &torn), ("header", &whole[..64]), ("empty", b"")])
        }
        "sim_spec" => named(&[
            ("all keys", b"loss=5%,burst=3,corrupt=1%,dup=0.5%,reorder=2%,delay=50ms,jitter=10ms,rate=20M,queue=100ms,seed=7"),
            ("both ways", b"loss=10%,loss-in=1%,delay-in=1.5s,rate-in=1G,seed=18446744073709551615"),
            ("outages", b"outage=2s+500ms,outage=5s+1s,outage-in=1s+1s"),
            ("none", b"none"),
            ("wrong", b"loss=200%,delay=-1s"),
        ]),
        "handshake" => {
            let packets: Vec<Vec<u8>> = vectors("handshake_packets").into_iter().map(|(_, d)| d).collect();
            let piece = |d: &Vec<u8>| [&[(d.len() - 4) as u8 | 0x80][..], &d[..d.len() - 4]].concat();
            let all: Vec<u8> = packets.iter().filter(|d| d.len() < 128).flat_map(piece).collect();
            let server = [&[0][..], &all, &all].concat();
            let client = [&[1][..], &all, &all].concat();
            named(&[("to a server", &server), ("to a client", &client)])
        }
        "sealed" => sealed_seeds(),
        "session" => {
            // What they mean is for the fuzzer to find out.
            (0..12u8)
                .map(|kind| {
                    let noise: Vec<u8> = (0..20u8).flat_map(|n| Sha256::digest([kind, n])).collect();
                    (format!("kind {kind}"), [&[kind][..], &noise].concat())
                })
                .collect()
        }
        _ => unreachable!("{target} has no seeds"),
    }
}

fn sealed_seeds() -> Vec<(String, Vec<u8>)> {
    let packet = |payload: &[u8]| [&(payload.len() as u16).to_be_bytes()[..], payload].concat();
    let mut all: Vec<(String, Vec<u8>)> = [vectors("frames"), vectors("feedback")]
        .concat()
        .into_iter()
        .map(|(name, payload)| (name, packet(&payload)))
        .collect();
    for (name, message) in vectors("messages") {
        all.push((name, packet(&control(&message))));
    }
    // A PUT of a tree, all in one packet.
    let stream: Vec<u8> = vectors("messages")
        .into_iter()
        .filter(|(name, _)| name.contains("PUT, new name") || name.contains("ENTRY") || name.contains("END"))
        .flat_map(|(_, message)| message)
        .collect();
    all.push(("a whole PUT".into(), packet(&control(&stream))));
    all
}

fn write_corpora() {
    for (target, _) in TARGETS {
        let folder = folder().join("corpus").join(target);
        fs::create_dir_all(&folder).expect("made");
        for old in fs::read_dir(&folder).expect("a directory") {
            let path = old.expect("an entry").path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seed-")) {
                fs::remove_file(path).expect("removed");
            }
        }
        for (i, (name, data)) in seeds(target).iter().enumerate() {
            let name: String =
                name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            fs::write(folder.join(format!("seed-{i:02}-{name}")), data).expect("written");
        }
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    static WRITE: std::sync::Once = std::sync::Once::new();
    WRITE.call_once(|| {
        if std::env::var_os("FULMAR_WRITE_CORPUS").is_some() {
            write_corpora();
        }
    });
    let entries = fs::read_dir(folder().join("corpus").join(target)).expect("a corpus");
    let mut all: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .map(|p| (p.clone(), fs::read(p).expect("read")))
        .collect();
    all.sort();
    all
}

#[test]
fn every_input_goes_through_its_target() {
    for (target, run) in TARGETS {
        let inputs = corpus(target);
        assert!(inputs.len() >= 2, "{target} has no corpus");
        for (path, data) in inputs {
            println!("{}", path.display());
            run(&data);
        }
        // Each has its binary.
        let binary = folder().join("bin").join(format!("{target}.rs"));
        assert!(fs::read_to_string(binary).expect("a target").contains(&format!("targets::{target}")));
    }
}

/// An input with some bytes changed, taken out, put in, or taken from another input.
fn mutate(rng: &mut StdRng, inputs: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut data = inputs[rng.random_range(0..inputs.len())].1.clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=data.len());
        let end = (at + rng.random_range(0..16)).min(data.len());
        match rng.random_range(0..6) {
            0 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
            1 if at < data.len() => {
                data[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff][rng.random_range(0..8)]
            }
            2 => drop(data.drain(at..end)),
            3 => drop(
                data.splice(at..at, (0..rng.random_range(0..9)).map(|_| rng.random()).collect::<Vec<u8>>()),
            ),
            4 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[rng.random_range(0..inputs.len())].1;
                let from = rng.random_range(0..=other.len());
                let piece = other[from..(from + rng.random_range(0..64)).min(other.len())].to_vec();
                data.splice(at..end, piece);
            }
        }
    }
    data
}

/// A little of what the fuzzer does, without its eye for coverage. `FULMAR_SEED` and `FULMAR_FUZZ_RUNS` make it another or more.
#[test]
fn mutated_inputs_go_through_their_targets() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let (seed, runs) = (number("FULMAR_SEED", 1), number("FULMAR_FUZZ_RUNS", 300));
    for (target, run) in TARGETS {
        let inputs = corpus(target);
        for n in 0..runs {
            let data =
                mutate(&mut StdRng::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(n)), &inputs);
            if let Err(panic) = std::panic::catch_unwind(|| run(&data)) {
                println!("{target}, FULMAR_SEED={seed}, run {n}: {data:02x?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn the_corpora_are_those_of_the_vectors() {
    for (target, _) in TARGETS {
        let here: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, data)| data).collect();
        for (name, data) in seeds(target) {
            assert!(
                here.contains(&data),
                "{target}: {name} is not in the corpus: run with FULMAR_WRITE_CORPUS=1"
            );
        }
    }
}

/// The corpora reach every kind of frame and message, also through sealed packets.
#[test]
fn every_kind_of_frame_and_message_is_reached() {
    let kinds = |target: &str, of: fn(&[u8]) -> Vec<String>| -> Vec<String> {
        let mut all: Vec<String> = corpus(target).iter().flat_map(|(_, data)| of(data)).collect();
        all.sort();
        all.dedup();
        all
    };
    let frames = [
        "Close",
        "Control",
        "Extension",
        "Feedback",
        "Floor",
        "Padding",
        "PathChallenge",
        "PathResponse",
        "Ping",
        "Segment",
    ];
    assert_eq!(kinds("frames", targets::frame_kinds), frames);
    assert_eq!(kinds("sealed", |data| data.get(2..).map(targets::frame_kinds).unwrap_or_default()), frames);
    let messages = [
        "Abandon",
        "Continue",
        "Digest",
        "Entry",
        "EntryFailed",
        "Have",
        "ManifestEnd",
        "Offer",
        "Options",
        "RemovalEnd",
        "Removed",
        "Request",
        "RequestFailed",
        "Resend",
        "Result",
        "StreamEnd",
        "Unchanged",
        "Want",
    ];
    assert_eq!(kinds("messages", targets::message_kinds), messages);
}
