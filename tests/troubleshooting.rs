//! Every error that a user can meet stands in docs/TROUBLESHOOTING.md. The sentences are read from the source text, at
//! the places where errors are made; what is between the placeholders of one of them must be found in the document.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../docs/TROUBLESHOOTING.md");
/// Where errors for users are made: after each of these comes the sentence.
const MARKS: [&str; 13] = [
    "Failure::usage(",
    "Failure::new(",
    "NetError {",
    "message: ",
    "refuse(",
    "refused(",
    "why = ",
    "bad(",
    "wrong_kind(",
    "forbidden(",
    "from_io(",
    "RejectCode::",
    "#[error(",
];
/// Which sources speak to users; what the layers below say only comes inside one of their sentences.
const SOURCES: [&str; 7] =
    ["cli", "net", "store", "units.rs", "impair/spec.rs", "endpoint/admission.rs", "session/event.rs"];
/// Parts of sentences that never stand alone, or that the client replaces by a better one.
const NOT_SHOWN: [&str; 3] =
    ["the key is not this server's", "cannot find the address of the server", "refused so far"];
/// How far behind a mark the sentence begins, at most.
const REACH: usize = 160;
/// Pieces with fewer letters between placeholders say nothing.
const MIN_PIECE: usize = 6;

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            collect(&entry.expect("readable").path(), files);
        }
    } else if !path.to_string_lossy().contains("test") && !path.to_string_lossy().contains("store/memory") {
        files.push(path.into());
    }
}

/// The first string literal of `text`, with line continuations taken out; `None` if a statement ends before it.
fn literal(text: &str) -> Option<String> {
    let start = text.find('"')?;
    if start > REACH || text[..start].contains(';') {
        return None;
    }
    let mut out = String::new();
    let mut chars = text[start + 1..].chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                '\n' => {
                    let rest = chars.as_str().trim_start();
                    chars = rest.chars();
                }
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

/// Lower case, without quotes, with single spaces.
fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| !"`'*".contains(*c)).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// What stands between placeholders and punctuation.
fn pieces(sentence: &str) -> Vec<String> {
    let mut text = String::new();
    let mut depth = 0_u32;
    for c in sentence.chars() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                text.push('|');
            }
            c if depth == 0 => text.push(c),
            _ => {}
        }
    }
    text.split(['|', ';', ':', ','])
        .map(plain)
        .filter(|p| p.chars().filter(|c| c.is_alphabetic()).count() >= MIN_PIECE)
        .collect()
}

#[test]
fn every_error_line_is_explained() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    SOURCES.iter().for_each(|name| collect(&source.join(name), &mut files));
    let document = plain(DOCUMENT);
    let (mut missing, mut count) = (Vec::new(), 0);
    for file in files {
        let text = fs::read_to_string(&file).expect("UTF-8");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for mark in MARKS {
            for (at, _) in text.match_indices(mark) {
                let Some(sentence) = literal(&text[at + mark.len()..]) else { continue };
                if NOT_SHOWN.iter().any(|known| sentence.contains(known)) {
                    continue;
                }
                let pieces = pieces(&sentence);
                count += 1;
                if !pieces.is_empty() && !pieces.iter().any(|piece| document.contains(piece)) {
                    missing.push(format!("{}: {sentence}", file.display()));
                }
            }
        }
    }
    assert!(count > 150, "the sentences are not found any more: only {count}");
    missing.sort_unstable();
    missing.dedup();
    assert!(missing.is_empty(), "not in docs/TROUBLESHOOTING.md:\n{}", missing.join("\n"));
}
