//! The table "Parameters" of the document has the values of the code. Most of these constants are private, so the
//! declarations are read from the source text.

use super::DOCUMENT;
use std::path::Path;

/// One constant's declaration, without its type: what stands between `=` and the `;` at the line's end.
fn declaration(source: &str, name: &str) -> Option<String> {
    let start = source.find(&format!("const {name}:"))?;
    let (_, value) = source[start..].split_once(" = ")?;
    Some(value.split_once(";\n")?.0.to_owned())
}

/// The numbers of an expression: a literal, a product, quotient, shift or power of literals and constants, a `Duration`
/// (in microseconds), or a list of these.
fn evaluate(source: &str, text: &str) -> Vec<f64> {
    let text = text.trim().trim_matches(|c| "[]()".contains(c));
    if text.contains(", ") {
        return text.split(", ").flat_map(|item| evaluate(source, item)).collect();
    }
    for (call, micros) in [("from_micros", 1.0), ("from_millis", 1e3), ("from_secs", 1e6)] {
        if let Some(n) = text.strip_prefix("Duration::").and_then(|t| t.strip_prefix(call)) {
            return evaluate(source, n).iter().map(|n| n * micros).collect();
        }
    }
    let binary = |op: &str, apply: fn(f64, f64) -> f64| {
        let (a, b) = text.rsplit_once(op)?;
        Some(vec![apply(evaluate(source, a)[0], evaluate(source, b)[0])])
    };
    if let Some(found) = binary(" << ", |a, b| a * b.exp2())
        .or_else(|| binary(" + ", |a, b| a + b))
        .or_else(|| binary(" * ", |a, b| a * b))
        .or_else(|| binary(" / ", |a, b| a / b))
    {
        return found;
    }
    let literal = text.replace('_', "");
    if let Some(hex) = literal.strip_prefix("0x") {
        return vec![u32::from_str_radix(hex, 16).expect("a hexadecimal literal").into()];
    }
    match literal.parse() {
        Ok(n) => vec![n],
        Err(_) => {
            let other = declaration(source, text).unwrap_or_else(|| panic!("what is {text}?"));
            evaluate(source, &other)
        }
    }
}

/// The numbers of a cell of the table: `8,192`, `2^23`, `1/32 RTT`, `4 MiB`, `0.5 ms`, `0, 100, 250`.
fn documented(cell: &str) -> Vec<f64> {
    let number = |text: &str| -> f64 {
        let text = text.replace(',', "");
        match text.split_once('^') {
            Some((base, power)) => base.parse::<f64>().expect("a base").powf(power.parse().expect("a power")),
            None => text.strip_prefix("1/").unwrap_or(&text).parse().expect("a number"),
        }
    };
    let cell = cell.strip_suffix(" RTT").unwrap_or(cell);
    let units = [(" KiB", 1024.0), (" MiB", 1048576.0), (" ms", 1e3), (" s", 1e6)];
    match units.iter().find_map(|(unit, factor)| Some(number(cell.strip_suffix(unit)?) * factor)) {
        Some(n) => vec![n],
        None => cell.split(", ").map(number).collect(),
    }
}

#[test]
fn the_table_of_parameters() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (_, table) = DOCUMENT.split_once("## Parameters").expect("the section");
    let table = table.split("\n## ").next().unwrap_or_default();
    // Where constants come from that others are made of.
    let shared = ["wire/mod.rs", "codec/aead.rs"];
    let elsewhere: String =
        shared.iter().map(|f| std::fs::read_to_string(folder.join(f)).expect("UTF-8")).collect();
    let mut compared = 0;
    for line in table.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, value, places) = (cells[1].trim_matches('`'), cells[2], cells[3]);
        for place in places.split(", ") {
            let file = [format!("{place}.rs"), format!("{place}/mod.rs")].map(|f| folder.join(f));
            let path = file.iter().find(|f| f.exists()).unwrap_or_else(|| panic!("{name}: no {place}"));
            let source = std::fs::read_to_string(path).expect("UTF-8");
            let found = declaration(&source, name).unwrap_or_else(|| panic!("{name} is not in {place}"));
            let all = source + &elsewhere;
            if let Some(text) = found.strip_prefix("*b\"") {
                assert_eq!(value.trim_matches('`'), text.trim_matches('"'), "{name}");
            } else {
                assert_eq!(documented(value), evaluate(&all, &found), "{name}: {found}");
            }
            compared += 1;
        }
    }
    assert!(compared > 90, "the table is written in another way now: {compared}");
}
