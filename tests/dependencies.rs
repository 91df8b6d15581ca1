//! What comes into the build: only from crates.io, under licences that deny.toml allows, without the crates that it bans.
//! The same as cargo-deny says, as far as it can be said without a network: advisories need one.

use serde_json::Value;
use std::process::Command;

const DENY: &str = include_str!("../deny.toml");

/// The strings of a list in deny.toml that begins so.
fn list(key: &str) -> Vec<&'static str> {
    let (_, rest) = DENY.split_once(key).unwrap_or_else(|| panic!("no {key}"));
    rest[..rest.find(']').expect("its end")].split('"').skip(1).step_by(2).collect()
}

/// Every package of the build for any platform, as far as cargo knows it without a network.
fn packages() -> Vec<Value> {
    let run = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--all-features", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    if !run.status.success() {
        // Packages for other platforms may never have been downloaded; then those for this one must do.
        let host = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
        let host = String::from_utf8_lossy(&host).into_owned();
        let host = host.lines().find_map(|l| l.strip_prefix("host: ")).expect("a host");
        let run = Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        return parse(&run.stdout);
    }
    parse(&run.stdout)
}

fn parse(metadata: &[u8]) -> Vec<Value> {
    let all: Value = serde_json::from_slice(metadata).expect("JSON");
    all["packages"].as_array().expect("a list").clone()
}

/// Whether an SPDX expression can be met with the allowed licences: `OR` needs one side, `AND` both.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ");
    let all_of = |text: &str| -> bool {
        text.split(" AND ").all(|part| {
            let part = part.trim().trim_matches(['(', ')']);
            part.split(" OR ").any(|licence| allowed.contains(&licence.trim().trim_matches(['(', ')'])))
        })
    };
    // Without brackets AND binds closer; with them, as crates write it, the brackets hold an OR.
    if expression.contains('(') { all_of(&expression) } else { expression.split(" OR ").any(all_of) }
}

#[test]
fn licences_are_allowed() {
    let allowed = list("allow = [");
    assert!(allowed.len() > 5);
    for package in packages() {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or("none"));
        assert!(is_allowed(licence, &allowed), "{name}: {licence} is not allowed by deny.toml");
    }
    assert!(is_allowed("MIT", &["MIT"]) && !is_allowed("GPL-3.0", &["MIT"]));
    assert!(is_allowed("GPL-3.0 OR MIT", &["MIT"]) && !is_allowed("GPL-3.0 AND MIT", &["MIT"]));
    assert!(
        is_allowed("(GPL-3.0 OR MIT) AND ISC", &["MIT", "ISC"])
            && !is_allowed("(GPL-3.0 OR MIT) AND ISC", &["MIT"])
    );
}

#[test]
fn everything_comes_from_the_registry() {
    let mut lines = include_str!("../Cargo.lock").lines().chain(include_str!("../fuzz/Cargo.lock").lines());
    assert!(lines.all(|l| !l.starts_with("source")
        || l == "source = \"registry+https://github.com/rust-lang/crates.io-index\""));
}

#[test]
fn banned_crates_are_not_there() {
    let banned = list("deny = [");
    assert!(banned.contains(&"openssl-sys"));
    for name in include_str!("../Cargo.lock").lines().filter_map(|l| l.strip_prefix("name = ")) {
        assert!(!banned.contains(&name.trim_matches('"')), "{name} is banned by deny.toml");
    }
}
