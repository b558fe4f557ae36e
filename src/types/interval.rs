//! Intervals as text, both ways, and as lengths.
//!
//! No column has this type; expressions do. Months, days and time are kept apart, because a month and a day are not always
//! equally long. Text is PostgreSQL's: `1 year 2 mons 3 days 04:05:06.7`, and for reading ISO 8601 (`P1Y2M3DT4H5M6S`) too.
//! Invariant: what is written is read back to the same interval, to the microsecond. Two intervals are compared by their
//! length, where a month has 30 days and a day 24 hours, as in PostgreSQL.

use std::fmt::Write;

use arrow::datatypes::IntervalMonthDayNano;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY_US: i64 = 86_400_000_000;

/// The length in microseconds; nothing if it is above 292 000 years.
pub fn interval_length(interval: IntervalMonthDayNano) -> Option<i64> {
    let days = i64::from(interval.months) * 30 + i64::from(interval.days);
    days.checked_mul(DAY_US)?.checked_add(interval.nanoseconds.div_euclid(1000))
}

/// What is summed up while text is read. Parts of months and days go over into what is smaller.
#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    nanos: i64,
}

impl Sum {
    fn nanos(&mut self, count: f64, unit: i64) {
        self.nanos = self.nanos.saturating_add((count * unit as f64).round() as i64);
    }

    fn days(&mut self, count: f64) {
        self.days += count.trunc() as i64;
        self.nanos(count.fract(), 24 * HOUR);
    }

    fn months(&mut self, count: f64) {
        self.months += count.trunc() as i64;
        self.days(((count.fract() * 30.0) * 1e6).round() / 1e6);
    }

    fn add(&mut self, count: f64, unit: &str) -> Option<()> {
        match unit {
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => self.nanos(count, 1000),
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => self.nanos(count, 1_000_000),
            "s" | "sec" | "secs" | "second" | "seconds" => self.nanos(count, SECOND),
            "m" | "min" | "mins" | "minute" | "minutes" => self.nanos(count, MINUTE),
            "h" | "hr" | "hrs" | "hour" | "hours" => self.nanos(count, HOUR),
            "d" | "day" | "days" => self.days(count),
            "w" | "week" | "weeks" => self.days(count * 7.0),
            "mon" | "mons" | "month" | "months" => self.months(count),
            "y" | "yr" | "yrs" | "year" | "years" => self.months(((count * 12.0) * 1e6).round() / 1e6),
            "dec" | "decs" | "decade" | "decades" => self.months(count * 120.0),
            "c" | "cent" | "century" | "centuries" => self.months(count * 1200.0),
            "mil" | "mils" | "millennium" | "millennia" => self.months(count * 12_000.0),
            _ => return None,
        }
        Some(())
    }

    fn finish(self) -> Option<IntervalMonthDayNano> {
        let (months, days) = (i32::try_from(self.months).ok()?, i32::try_from(self.days).ok()?);
        Some(IntervalMonthDayNano::new(months, days, self.nanos))
    }
}

/// The interval that a text names; nothing if it names none.
pub fn parse_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(iso) = text.strip_prefix('p') {
        return parse_iso(iso);
    }
    let mut rest = text.strip_prefix('@').unwrap_or(&text).trim_start();
    let mut sum = Sum::default();
    let mut parts = 0;
    while !rest.is_empty() {
        if rest == "ago" && parts > 0 {
            sum = Sum { months: -sum.months, days: -sum.days, nanos: sum.nanos.checked_neg()? };
            break;
        }
        let (sign, unsigned) = match rest.as_bytes()[0] {
            b'-' => (-1.0, rest[1..].trim_start()),
            b'+' => (1.0, rest[1..].trim_start()),
            _ => (1.0, rest),
        };
        let digits = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(unsigned.len());
        let (number, behind) = unsigned.split_at(digits);
        if number.contains(':') {
            sum.nanos = sum.nanos.checked_add((sign as i64).checked_mul(time_of_day(number)?)?)?;
            rest = behind.trim_start();
        } else {
            let count = sign * number.parse::<f64>().ok()?;
            let behind = behind.trim_start();
            let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(letters);
            rest = behind.trim_start();
            // A number alone is one of seconds.
            let is_alone = parts == 0 && rest.is_empty();
            sum.add(count, if unit.is_empty() && is_alone { "s" } else { unit })?;
        }
        parts += 1;
    }
    if parts == 0 { None } else { sum.finish() }
}

/// Nanoseconds of `hh:mm`, `hh:mm:ss` or `hh:mm:ss.fff`.
fn time_of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hours: i64 = parts.next()?.parse().ok()?;
    let minutes: i64 = parts.next()?.parse().ok().filter(|m| *m < 60)?;
    let seconds: f64 = parts.next().map_or(Some(0.0), |s| s.parse().ok().filter(|s| *s < 60.0))?;
    if parts.next().is_some() {
        return None;
    }
    hours.checked_mul(HOUR)?.checked_add(minutes * MINUTE + (seconds * 1e9).round() as i64)
}

/// What stands behind the `P` of an ISO 8601 duration.
fn parse_iso(text: &str) -> Option<IntervalMonthDayNano> {
    let mut sum = Sum::default();
    let (mut rest, mut in_time, mut parts) = (text, false, 0);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('t').filter(|_| !in_time) {
            (rest, in_time) = (time, true);
            continue;
        }
        let digits = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let count: f64 = rest[..digits].parse().ok()?;
        let unit = match (&rest[digits..=digits], in_time) {
            ("y", false) => "year",
            ("m", false) => "month",
            ("w", false) => "week",
            ("d", false) => "day",
            ("h", true) => "hour",
            ("m", true) => "minute",
            ("s", true) => "second",
            _ => return None,
        };
        sum.add(count, unit)?;
        rest = &rest[digits + 1..];
        parts += 1;
    }
    if parts == 0 { None } else { sum.finish() }
}

/// An interval as text.
pub fn format_interval(interval: IntervalMonthDayNano) -> String {
    let mut out = String::new();
    let mut negative = false;
    for (count, unit) in [(interval.months / 12, "year"), (interval.months % 12, "mon"), (interval.days, "day")] {
        if count == 0 {
            continue;
        }
        let plus = if negative && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        // Writing to a String cannot fail.
        let _ = write!(out, "{}{plus}{count} {unit}{plural}", if out.is_empty() { "" } else { " " });
        negative = count < 0;
    }
    let us = interval.nanoseconds / 1000;
    if us == 0 && !out.is_empty() {
        return out;
    }
    let sign = match us < 0 {
        true => "-",
        false if negative => "+",
        false => "",
    };
    let (seconds, fraction) = (us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let space = if out.is_empty() { "" } else { " " };
    let _ = write!(out, "{space}{sign}{hours:02}:{minutes:02}:{seconds:02}");
    if fraction > 0 {
        out.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse_interval(text).map_or("nothing".into(), format_interval)
    }

    #[test]
    fn text_is_read_and_written_as_postgresql_does() {
        for (text, expected) in [
            ("1 day", "1 day"),
            ("36 hours", "36:00:00"),
            ("1 year 2 mons 3 days 04:05:06.7", "1 year 2 mons 3 days 04:05:06.7"),
            ("1 month -1 day", "1 mon -1 days"),
            ("1 month - 1 day", "1 mon -1 days"),
            ("-1 day 2 hours", "-1 days +02:00:00"),
            ("-1 year -2 months +3 days", "-1 years -2 mons +3 days"),
            ("1 hour 30 minutes", "01:30:00"),
            ("90 min", "01:30:00"),
            ("1.5 days", "1 day 12:00:00"),
            ("1.5 years", "1 year 6 mons"),
            ("0.5 months", "15 days"),
            ("2 weeks", "14 days"),
            ("1 day ago", "-1 days"),
            ("@ 1 minute", "00:01:00"),
            ("04:05", "04:05:00"),
            ("-00:00:00.5", "-00:00:00.5"),
            ("100", "00:01:40"),
            ("0 days", "00:00:00"),
            ("P1Y2M3DT4H5M6.5S", "1 year 2 mons 3 days 04:05:06.5"),
            ("P2W", "14 days"),
            ("PT36H", "36:00:00"),
            ("1h30m", "01:30:00"),
            ("250 milliseconds", "00:00:00.25"),
            ("", "nothing"),
            ("day", "nothing"),
            ("1 fortnight", "nothing"),
            ("2023-12-31", "nothing"),
            ("1 day 5", "nothing"),
            ("1 day 25:61", "nothing"),
            ("P", "nothing"),
            ("P1H", "nothing"),
            ("99999999999 days", "nothing"),
        ] {
            assert_eq!(said(text), expected, "{text}");
            if expected != "nothing" {
                assert_eq!(parse_interval(expected), parse_interval(text), "{text}, read back");
            }
        }
    }

    #[test]
    fn lengths_count_thirty_days_a_month() {
        let length = |text: &str| parse_interval(text).and_then(interval_length);
        assert_eq!(length("1 day"), length("24 hours"));
        assert_eq!(length("1 month"), length("30 days"));
        assert!(length("40 days") > length("1 month"));
        assert_eq!(length("-1 microsecond"), Some(-1));
        assert_eq!(interval_length(IntervalMonthDayNano::new(i32::MAX, i32::MAX, i64::MAX)), None);
    }
}
