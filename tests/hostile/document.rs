//! docs/SECURITY.md names a test for each claim, and each of them exists.

const DOCUMENT: &str = include_str!("../../docs/SECURITY.md");

#[test]
fn every_test_that_the_document_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for code in DOCUMENT.split('`').skip(1).step_by(2) {
        let Some((file, test)) = code.split_once(".rs::") else { continue };
        let path = root.join(format!("{file}.rs"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{code}: {e}"));
        let at = source.find(&format!("fn {test}()")).unwrap_or_else(|| panic!("{code}: no such function"));
        let before: Vec<&str> = source[..at].lines().rev().take(4).collect();
        assert!(before.iter().any(|line| line.trim() == "#[test]"), "{code} is no test");
        named += 1;
    }
    assert!(named > 60, "the names are written in another way now: {named}");
}

/// No hostile test goes unnamed.
#[test]
fn the_document_names_every_hostile_test() {
    for (file, source) in [
        ("packets", include_str!("packets.rs")),
        ("handshake", include_str!("handshake.rs")),
        ("paths", include_str!("paths.rs")),
        ("bombs", include_str!("bombs.rs")),
        ("secrets", include_str!("secrets.rs")),
    ] {
        for after in source.split("#[test]\nfn ").skip(1) {
            let name = after.split('(').next().unwrap_or_default();
            let reference = format!("`tests/hostile/{file}.rs::{name}`");
            assert!(DOCUMENT.contains(&reference), "{reference} holds no claim");
        }
    }
}
