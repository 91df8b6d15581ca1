//! Role: turns bytes and numbers from anywhere into text that is safe on a terminal.
//! Owns: nothing.
//! Implements: the output rules of `fulmar --help`.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as text: what is not UTF-8 is replaced, control characters are escaped, so that a name chosen by a peer
/// cannot drive the terminal.
pub fn bytes(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for c in String::from_utf8_lossy(path).chars() {
        push_safe(&mut out, c);
    }
    out
}

/// The same for a local path; an empty one is shown as `.`.
pub fn path(path: &Path) -> String {
    let raw = path.as_os_str().as_bytes();
    if raw.is_empty() { ".".into() } else { bytes(raw) }
}

/// A message on one line, control characters escaped and runs of line ends turned into single spaces.
pub fn one_line(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for part in message.split(['\n', '\r']).map(str::trim).filter(|p| !p.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        for c in part.chars() {
            push_safe(&mut out, c);
        }
    }
    out
}

fn push_safe(out: &mut String, c: char) {
    // Direction overrides and exotic line ends can disguise a file name as another one.
    let deceptive = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || deceptive {
        let _ = write!(out, "{}", c.escape_default());
    } else {
        out.push(c);
    }
}

/// An I/O error without the "(os error N)" that the standard library adds.
pub fn io_error(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.find(" (os error") {
        text.truncate(at);
    }
    text.chars().enumerate().map(|(i, c)| if i == 0 { c.to_ascii_lowercase() } else { c }).collect()
}

/// Lower-case hexadecimal.
pub fn hex(raw: &[u8]) -> String {
    raw.iter().fold(String::with_capacity(raw.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Base64 of RFC 4648 section 4, with padding.
pub fn base64(raw: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(raw.len().div_ceil(3) * 4);
    for group in raw.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                out.push(char::from(ALPHABET[(word >> (18 - 6 * place)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// A count with thousands set apart by commas.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Seconds since 1970 as `YYYY-MM-DD HH:MM:SS` in UTC.
pub fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years are counted from 1 March, so that the leap day comes last; 719,468 days lie between 0000-03-01 and
    // 1970-01-01, and 146,097 days make the 400-year cycle of the Gregorian calendar.
    let days = i128::from(days) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i128::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(bytes(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(bytes("a\u{202e}gpj.exe".as_bytes()), "a\\u{202e}gpj.exe");
        assert_eq!(bytes("größe".as_bytes()), "größe");
        assert_eq!(bytes(b"\xff"), "\u{fffd}");
        assert_eq!(one_line("one\ntwo\r\n\tthree\n"), "one two three");
    }

    #[test]
    fn base64_matches_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn numbers_and_dates() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(2_000, "file"), "2,000 files");
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_763_833_240), "2025-11-22 17:40:40");
        assert!(utc(i64::MIN).contains(':') && utc(i64::MAX).contains(':'));
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
