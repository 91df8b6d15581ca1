//! Single files up and down, whatever their size and whatever the options.

use crate::support::{Lab, need, noise, sha256sum, works};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Up, down, and compared, here and by a program that knows nothing of us.
fn there_and_back(lab: &Lab, address: &str, name: &str, content: &[u8], options: &[&str]) {
    let back = format!("back_{name}");
    let file = lab.write(name, content);
    let target = format!("{address}/{name}");
    let put = lab.json(&[&["put"], options, &[name, address]].concat(), 0);
    let get = lab.json(&[&["get"], options, &[&target, &back]].concat(), 0);
    assert!(lab.read(format!("drop/{name}")) == content, "{name} on the server");
    assert!(lab.read(&back) == content, "{name} back here");
    let digest = sha256sum(&file);
    for object in [&put, &get] {
        assert_eq!(object["files"][0]["sha256"], digest, "{name}");
        assert_eq!(object["bytes"], content.len());
    }
    for copy in [format!("drop/{name}"), back] {
        assert_eq!(sha256sum(&lab.path(&copy)), digest, "{copy}");
    }
}

#[test]
fn files_of_every_size() {
    need!(works("sha256sum", &["--version"]), "needs sha256sum");
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let chunk = 256 * KIB;
    for size in [0, 1, KIB - 1, KIB, KIB + 1, chunk, chunk + 1, MIB, 20 * MIB] {
        there_and_back(&lab, &server.address, &format!("f{size}"), &noise(size as u64, size), &[]);
    }
    assert_eq!(lab.names("drop").len(), 9);
}

#[test]
fn every_option_moves_the_same_bytes() {
    need!(works("sha256sum", &["--version"]), "needs sha256sum");
    let lab = Lab::new();
    let server = lab.serve(&["--limit", "400mbit", "--window", "2MiB", "--chunk-size", "64KiB"]);
    let cases: &[(&str, &[&str])] = &[
        ("limit", &["--limit", "40mbit"]),
        ("window", &["--window", "32KiB"]),
        ("small_chunks", &["--chunk-size", "1KiB"]),
        ("big_chunks", &["--chunk-size", "4MiB"]),
        ("lz4", &["--compress", "lz4"]),
        ("zstd", &["--compress", "zstd"]),
        ("zstd_level", &["--compress", "zstd:19"]),
        ("plain", &["--compress", "none"]),
        ("auto", &["--compress", "auto"]),
        ("cubic", &["--cc", "cubic"]),
        ("fixed", &["--cc", "fixed", "--rate", "50mbit"]),
        ("retries", &["--max-retries", "50", "--timeout", "30", "--connect-timeout", "5"]),
        ("ipv4", &["-4", "--client-id", "a label"]),
        ("bad_link", &["--sim", "loss=10%,corrupt=5%,dup=2%,reorder=5%,delay=5ms,jitter=2ms,burst=3,seed=7"]),
        ("bad_way_in", &["--sim", "loss-in=10%,corrupt-in=5%,dup-in=2%,reorder-in=5%,delay-in=5ms"]),
    ];
    // Half of it shrinks, half does not.
    let mut content = noise(1, 300 * KIB);
    content.extend(b"all work and no play makes jack a dull boy\n".iter().cycle().take(300 * KIB));
    for (name, options) in cases {
        there_and_back(&lab, &server.address, name, &content, options);
    }
}

#[test]
fn compression_is_worth_it_and_can_be_turned_off() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("text", b"all work and no play makes jack a dull boy\n".repeat(20_000));
    lab.write("noise", noise(3, 860_000));
    let ratio = |name: &str, kind: &str| {
        let target = server.at(&format!("{name}_{kind}"));
        let object = lab.json(&["put", "--compress", kind, name, &target], 0);
        (
            object["compression_ratio"].as_f64().expect("a number"),
            object["wire_bytes_sent"].as_u64().expect("bytes"),
        )
    };
    let (auto, wire) = ratio("text", "auto");
    assert!(auto > 5.0 && wire < 200_000, "{auto} {wire}");
    let (zstd, wire) = ratio("text", "zstd:9");
    assert!(zstd > 20.0 && wire < 100_000, "{zstd} {wire}");
    let (none, wire) = ratio("text", "none");
    assert!(none == 1.0 && wire > 860_000, "{none} {wire}");
    let (kept, _) = ratio("noise", "auto");
    assert_eq!(kept, 1.0);
    assert_eq!(lab.read("drop/text_auto"), lab.read("text"));
}

#[test]
fn several_sources_and_places() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    for name in ["a", "b", "c"] {
        lab.write(name, name);
    }
    lab.run(&["put", "a", "b", &server.at("in/")], 0);
    lab.run(&["put", "c", &server.at("in/deep/er/")], 0);
    lab.run(&["put", "a", &server.at("new name")], 0);
    lab.run(&["put", "c", &server.at("in")], 0);
    assert_eq!(lab.visible("drop/in"), ["a", "b", "c", "deep"]);
    assert_eq!(lab.read("drop/in/deep/er/c"), b"c");
    assert_eq!(lab.read("drop/new name"), b"a");
    lab.run(&["get", &server.at("in/a"), &server.at("new name"), "out/"], 0);
    assert_eq!(lab.visible("out"), ["a", "new name"]);
    lab.run(&["get", &server.address, "mirror/"], 0);
    assert_eq!(lab.visible("mirror"), ["in", "new name"]);
    std::fs::create_dir(lab.path("here")).expect("made");
    lab.run(&["get", &server.at("in/b"), "here"], 0);
    assert_eq!(lab.read("here/b"), b"b");
    lab.run(&["put", "out", "mirror/in/deep/.", &server.at("more/")], 0);
    assert_eq!(lab.visible("drop/more"), ["er", "out"]);
}
