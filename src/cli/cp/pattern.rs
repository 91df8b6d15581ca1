//! Role: matches one name against one pattern of the shell: `*`, `?`, `[...]` and `\`. Pure functions.
//! Owns: nothing.
//! Implements: the PATH rules of `fulmar cp --help`, after POSIX.1-2017, Shell and Utilities, 2.13.
//!
//! Names are bytes. Crates for patterns match either text, which leaves out names that are not UTF-8, or bytes, where
//! `?` takes half a letter; here a byte that belongs to no letter is one of its own.

/// A letter, or a byte that belongs to none.
type Unit = u32;
/// Such bytes come after all letters.
const STRAY: Unit = 0x11_0000;

/// A pattern that can be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
    /// It begins with a dot, without which no hidden name is matched.
    dotted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Exactly(Unit),
    /// `?`
    AnyOne,
    /// `*`
    AnyMany,
    /// `[...]`: one that is in a range, or, if negated, in none.
    OneOf {
        ranges: Vec<(Unit, Unit)>,
        negated: bool,
    },
}

/// Whether there is anything in it that does not stand for itself.
pub fn has_pattern(raw: &[u8]) -> bool {
    raw.iter().any(|b| b"*?[\\".contains(b))
}

fn units(raw: &[u8]) -> Vec<Unit> {
    let letters = |chunk: &std::str::Utf8Chunk<'_>| {
        let stray = chunk.invalid().iter().map(|byte| STRAY + Unit::from(*byte));
        chunk.valid().chars().map(Unit::from).chain(stray).collect::<Vec<_>>()
    };
    raw.utf8_chunks().flat_map(|chunk| letters(&chunk)).collect()
}

impl Pattern {
    /// Reads a pattern for one name. A bracket that is never closed stands for itself, and so does a backslash at the
    /// end.
    pub fn new(raw: &[u8]) -> Self {
        let units = units(raw);
        let mut parts = Vec::with_capacity(units.len());
        let mut at = 0;
        while let Some(unit) = units.get(at).copied() {
            at += 1;
            let part = match char::from_u32(unit) {
                Some('?') => Part::AnyOne,
                // Two stars match what one does, and cost more.
                Some('*') if parts.last() == Some(&Part::AnyMany) => continue,
                Some('*') => Part::AnyMany,
                Some('\\') if at < units.len() => {
                    at += 1;
                    Part::Exactly(units[at - 1])
                }
                Some('[') => match bracket(&units[at..]) {
                    Some((part, used)) => {
                        at += used;
                        part
                    }
                    None => Part::Exactly(unit),
                },
                _ => Part::Exactly(unit),
            };
            parts.push(part);
        }
        let dotted = parts.first() == Some(&Part::Exactly('.'.into()));
        Self { parts, dotted }
    }

    /// Whether the whole name matches. The time is at most the product of both lengths.
    pub fn is_match(&self, name: &[u8]) -> bool {
        if name.starts_with(b".") && !self.dotted {
            return false;
        }
        let name = units(name);
        let (mut part, mut at) = (0, 0);
        // After the last star: where it stands, and what it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.parts.get(part) {
                Some(Part::AnyMany) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(one) if one.takes(name[at]) => (part, at) = (part + 1, at + 1),
                _ => match &mut star {
                    Some((after, taken)) => {
                        *taken += 1;
                        (part, at) = (*after + 1, *taken);
                    }
                    None => return false,
                },
            }
        }
        self.parts[part..].iter().all(|rest| *rest == Part::AnyMany)
    }
}

impl Part {
    fn takes(&self, unit: Unit) -> bool {
        match self {
            Self::Exactly(this) => *this == unit,
            Self::AnyOne => true,
            Self::AnyMany => false,
            Self::OneOf { ranges, negated } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&unit)) != *negated
            }
        }
    }
}

/// What stands after a `[`, and how much of it there is.
fn bracket(units: &[Unit]) -> Option<(Part, usize)> {
    let is = |at: usize, c: char| units.get(at) == Some(&Unit::from(c));
    let negated = is(0, '!') || is(0, '^');
    let first = usize::from(negated);
    let mut at = first;
    let mut ranges = Vec::new();
    // A closing bracket that comes first is one of the letters.
    while !(is(at, ']') && at > first) {
        let from = one(units, &mut at)?;
        let to = if is(at, '-') && !is(at + 1, ']') {
            at += 1;
            one(units, &mut at)?
        } else {
            from
        };
        ranges.push((from, to));
    }
    Some((Part::OneOf { ranges, negated }, at + 1))
}

/// The next letter inside brackets.
fn one(units: &[Unit], at: &mut usize) -> Option<Unit> {
    if units.get(*at) == Some(&Unit::from('\\')) && *at + 1 < units.len() {
        *at += 1;
    }
    *at += 1;
    units.get(*at - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_shell() {
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"*", b"", true),
            (b"*", b"a\nb", true),
            (b"*", b".hidden", false),
            (b".*", b".hidden", true),
            (b"\\.*", b".hidden", true),
            (b"[.]*", b".hidden", false),
            (b"?hidden", b".hidden", false),
            (b"*.txt", b"a.txt", true),
            (b"*.txt", b".txt", false),
            (b"*.txt", b"a.txt.gz", false),
            (b"*a*b*", b"xaxxbx", true),
            (b"*a*b*", b"xbxxax", false),
            (b"**b", b"aab", true),
            (b"?", "é".as_bytes(), true),
            (b"??", "é".as_bytes(), false),
            (b"?", b"\xff", true),
            (b"??", b"\xff\xfe", true),
            (b"[!b]", b"\xff", true),
            ("[é-ü]".as_bytes(), "ö".as_bytes(), true),
            ("[é-ü]".as_bytes(), b"o", false),
            (b"[a-c]x", b"bx", true),
            (b"[a-c]x", b"dx", false),
            (b"[^a-c]x", b"dx", true),
            (b"[]]", b"]", true),
            (b"[!]]", b"]", false),
            (b"[a-]", b"-", true),
            (b"[\\]x]", b"]", true),
            (b"[z-a]", b"m", false),
            (b"[", b"[", true),
            (b"[a", b"[a", true),
            (b"[!", b"[!", true),
            (b"a[1]", b"a[1]", false),
            (b"a\\[1\\]", b"a[1]", true),
            (b"\\*", b"*", true),
            (b"\\*", b"a", false),
            (b"a\\", b"a\\", true),
            (b"\xff*", b"\xffx", true),
            (b"", b"", true),
            (b"", b"a", false),
        ];
        for (pattern, name, expected) in cases {
            let shown = format!("{} {}", String::from_utf8_lossy(pattern), String::from_utf8_lossy(name));
            assert_eq!(Pattern::new(pattern).is_match(name), *expected, "{shown}");
        }
        assert!(has_pattern(b"a[") && has_pattern(b"\\a") && !has_pattern(b"a]{}$"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::new(&b"*a".repeat(100));
        assert!(!pattern.is_match(&[b'a'; 99]));
        assert!(!Pattern::new(&[b"*a".repeat(100), b"b".to_vec()].concat()).is_match(&[b'a'; 255]));
    }
}
