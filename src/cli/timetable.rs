//! Role: a rate limit that changes with the hour and the day of the week. Pure functions: time is an argument.
//! Owns: nothing.
//! Implements: the timetables of `--limit` and `--limit-file`, in the manner of rclone's `--bwlimit`.

use crate::units;

/// Minutes of a day, and of a week, which begins on Monday at 00:00.
const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;
/// As rclone writes them, in the order of ISO 8601.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Longest timetable: each hour of a week has room twice.
const MAX_ENTRIES: usize = 400;
/// Smallest rate, as everywhere: see `options::MIN_RATE_BITS_PER_SEC`.
const MIN_BITS_PER_SEC: u64 = super::options::MIN_RATE_BITS_PER_SEC;

/// What `--limit` says: one rate, or which rate from when on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// Minute of the week, bits per second from then on (`None`: no limit); ascending, never empty. One that stands
    /// alone holds always.
    steps: Vec<(u32, Option<u64>)>,
}

impl Timetable {
    /// Reads `20mbit`, `off`, or `08:00,512kbit 12:00,10mbit Sat-00:00,off`.
    ///
    /// # Errors
    /// What is wrong, without the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [rate] = words[..]
            && !rate.contains(',')
        {
            return Ok(Self { steps: vec![(0, parse_rate(rate)?)] });
        }
        if !text.contains(',') {
            // More than one word: `20 mbit`.
            return Ok(Self { steps: vec![(0, parse_rate(text)?)] });
        }
        if words.len() > MAX_ENTRIES {
            return Err(format!("a timetable has at most {MAX_ENTRIES} entries"));
        }
        let mut steps = Vec::new();
        for word in words {
            let shown = units::quoted(word);
            let (when, rate) = word.split_once(',').ok_or_else(|| {
                format!("`{shown}` is no entry of a timetable: write them as in 08:00,20mbit 18:00,off")
            })?;
            let rate = parse_rate(rate)?;
            let (day, time) = match when.split_once('-') {
                Some((day, time)) => (Some(day), time),
                None => (None, when),
            };
            let minute =
                minute(time).ok_or_else(|| format!("`{shown}`: the time is HH:MM, from 00:00 to 23:59"))?;
            let days = match day {
                None => 0..7,
                Some(day) => {
                    let day = DAYS.iter().position(|d| d.eq_ignore_ascii_case(day)).ok_or_else(|| {
                        format!("`{shown}`: the day is one of Mon, Tue, Wed, Thu, Fri, Sat, Sun")
                    })?;
                    day..day + 1
                }
            };
            steps.extend(days.map(|day| (day as u32 * DAY + minute, rate)));
        }
        // Of two entries for the same minute the later one counts; sorting keeps their order.
        steps.sort_by_key(|(minute, _)| *minute);
        Ok(Self { steps })
    }

    /// Whether it says the same at all times.
    pub fn is_constant(&self) -> bool {
        self.steps.iter().all(|(_, rate)| *rate == self.steps[0].1)
    }

    /// The limit in bits per second at a minute of the week (0: Monday, 00:00); `None`: there is none. Before the first
    /// entry of a week, the last one of the week before holds.
    pub fn rate_at(&self, minute_of_week: u32) -> Option<u64> {
        let minute = minute_of_week % WEEK;
        let begun = self.steps.partition_point(|(from, _)| *from <= minute);
        let at = begun.checked_sub(1).unwrap_or(self.steps.len() - 1);
        self.steps[at].1
    }
}

/// Minute of the week. `day`: 0 is Monday.
pub fn minute_of_week(day: u32, hour: u32, minute: u32) -> u32 {
    (day * DAY + hour * 60 + minute) % WEEK
}

fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text.trim().eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let bits = units::parse_rate(text).map_err(|error| error.to_string())?;
    if bits < MIN_BITS_PER_SEC {
        return Err(format!("`{}` is too slow: give 1kbit or more", units::quoted(text)));
    }
    Ok(Some(bits))
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str, below: u32| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|n| plain && *n < below)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: u64 = 1_000_000;

    fn at(table: &str, day: u32, hour: u32, minute: u32) -> Option<u64> {
        Timetable::parse(table).expect(table).rate_at(minute_of_week(day, hour, minute))
    }

    #[test]
    fn one_rate_holds_always() {
        for (text, expected) in
            [("20mbit", Some(20 * MBIT)), (" 20 mbit\n", Some(20 * MBIT)), ("off", None), ("OFF", None)]
        {
            let table = Timetable::parse(text).expect(text);
            assert!(table.is_constant());
            assert_eq!([table.rate_at(0), table.rate_at(WEEK - 1)], [expected; 2], "{text}");
        }
    }

    #[test]
    fn the_latest_entry_that_has_begun_counts_every_day() {
        let table = "08:00,512kbit 12:00,10mbit 13:00,512kbit 18:00,30mbit 23:00,off";
        for day in 0..7 {
            for (hour, minute, expected) in [
                (0, 0, None),
                (7, 59, None),
                (8, 0, Some(512_000)),
                (11, 59, Some(512_000)),
                (12, 0, Some(10 * MBIT)),
                (13, 0, Some(512_000)),
                (22, 59, Some(30 * MBIT)),
                (23, 0, None),
            ] {
                assert_eq!(at(table, day, hour, minute), expected, "{day} {hour}:{minute}");
            }
        }
        assert!(!Timetable::parse(table).expect("valid").is_constant());
    }

    #[test]
    fn days_may_be_named_and_the_week_is_a_circle() {
        let table = "Mon-08:00,1mbit fri-18:30,10mbit SUN-20:00,off";
        assert_eq!(at(table, 0, 7, 59), None, "since Sunday");
        assert_eq!(at(table, 0, 8, 0), Some(MBIT));
        assert_eq!(at(table, 4, 18, 29), Some(MBIT));
        assert_eq!(at(table, 4, 18, 30), Some(10 * MBIT));
        assert_eq!(at(table, 6, 23, 59), None);
        // A day of its own beside those for all.
        let mixed = "9:00,1mbit 17:00,off Sat-09:00,off";
        assert_eq!([at(mixed, 4, 10, 0), at(mixed, 5, 10, 0)], [Some(MBIT), None]);
        assert_eq!(at(mixed, 6, 10, 0), Some(MBIT));
        // Order does not matter.
        assert_eq!(at("18:00,off 08:00,1mbit", 2, 9, 0), Some(MBIT));
    }

    #[test]
    fn what_is_no_timetable_is_said() {
        for (text, words) in [
            ("", "not a rate"),
            ("fast", "not a rate"),
            ("999", "too slow"),
            ("08:00,0", "too slow"),
            ("08:00,1mbit noon", "`noon` is no entry"),
            ("24:00,1mbit", "HH:MM"),
            ("8:60,1mbit", "HH:MM"),
            ("8,1mbit", "HH:MM"),
            ("+8:00,1mbit", "HH:MM"),
            ("Day-08:00,1mbit", "Mon, Tue"),
            ("08:00,", "not a rate"),
            ("08:00,quick", "not a rate"),
        ] {
            let error = Timetable::parse(text).expect_err(text);
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
        let long = "08:00,1mbit ".repeat(MAX_ENTRIES + 1);
        assert!(Timetable::parse(&long).expect_err("too long").contains("at most"));
    }
}
