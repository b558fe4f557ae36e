//! Dates and times as text, both ways.
//!
//! Invariant: what a format function writes, its parse function reads back to the same number, over the whole range
//! of the type. The calendar is the proleptic Gregorian one with a year 0, computed here because no library at hand
//! covers every i64 of microseconds. The text is ISO 8601 (`2024-02-29T12:00:00.5Z`), the same that Arrow's casts
//! write; a space instead of the `T` is read too.

use std::fmt::Write;

use crate::error::{ErrorCode, KalamError, Result};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Days since 1970-01-01 of a calendar date (Howard Hinnant's algorithm).
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Calendar date of a number of days since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A reader over the text; every method takes what it names from the front, or nothing.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn eat(&mut self, any_of: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        any_of.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    /// A number of `min` to `max` digits.
    fn number(&mut self, min: usize, max: usize) -> Option<i64> {
        let digits = self.0.iter().take(max).take_while(|b| b.is_ascii_digit()).count();
        if digits < min {
            return None;
        }
        let (head, rest) = self.0.split_at(digits);
        self.0 = rest;
        Some(head.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    }

    fn two(&mut self, max: u32) -> Option<u32> {
        self.number(1, 2).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max)
    }

    /// `YYYY-MM-DD`, `YYYY/MM/DD` or `YYYYMMDD`, the year with a sign if it has more than four digits or is negative.
    fn date(&mut self) -> Option<i64> {
        let sign = self.eat(b"+-");
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let compact = sign.is_none() && digits == 8;
        let mut year = if compact { self.number(4, 4)? } else { self.number(1, 7)? };
        if sign == Some(b'-') {
            year = -year;
        }
        let (month, day) = if compact {
            (self.number(2, 2)? as u32, self.number(2, 2)? as u32)
        } else {
            // Two digits could be a year of any century, or a day: not guessed.
            if digits < 4 {
                return None;
            }
            let separator = self.eat(b"-/")?;
            let month = self.two(12)?;
            self.eat(&[separator])?;
            (month, self.two(31)?)
        };
        ((1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day))
            .then(|| days_from_civil(year, month, day))
    }

    /// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff` in microseconds; further digits are rounded.
    fn time(&mut self) -> Option<i64> {
        let hour = self.two(23)?;
        self.eat(b":")?;
        let minute = self.number(2, 2).filter(|m| *m < 60)?;
        let mut us = (i64::from(hour) * 3600 + minute * 60) * SECOND;
        if self.eat(b":").is_some() {
            // Second 60 is a leap second: the first moment of the next minute, as in PostgreSQL.
            us += self.number(2, 2).filter(|s| *s <= 60)? * SECOND;
            if self.eat(b".,").is_some() {
                us += self.fraction()?;
            }
        }
        Some(us)
    }

    fn fraction(&mut self) -> Option<i64> {
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (head, rest) = self.0.split_at(digits);
        self.0 = rest;
        let at = |n: usize| head.get(n).map_or(0, |b| i64::from(b - b'0'));
        let us = (0..6).fold(0, |us, n| us * 10 + at(n));
        (digits > 0).then_some(us + i64::from(at(6) >= 5))
    }

    /// `Z`, `UTC`, `GMT`, `+HH`, `+HHMM`, `+HH:MM`, in seconds east of UTC.
    fn zone(&mut self) -> Option<i64> {
        for name in [&b"Z"[..], b"UTC", b"GMT"] {
            if self.0.len() >= name.len() && self.0[..name.len()].eq_ignore_ascii_case(name) {
                self.0 = &self.0[name.len()..];
                return Some(0);
            }
        }
        let sign = if self.eat(b"+-")? == b'-' { -1 } else { 1 };
        let hours = self.number(2, 2).filter(|h| *h <= 15)?;
        let _ = self.eat(b":");
        let minutes = if self.0.is_empty() { 0 } else { self.number(2, 2).filter(|m| *m < 60)? };
        Some(sign * (hours * 3600 + minutes * 60))
    }

    /// Whether a date may be in front: a time has a colon behind its first digits.
    fn has_date(&self) -> bool {
        self.0.iter().find(|b| !b.is_ascii_digit()).is_some_and(|b| *b != b':')
    }

    fn spaces(&mut self) {
        while self.eat(b" ").is_some() {}
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn invalid(text: &str, what: &str, example: &str) -> KalamError {
    KalamError::new(ErrorCode::InvalidDatetime, format!("'{}' is not a valid {what}", super::scalar::shorten(text)))
        .with_hint(format!("Write it as '{example}'."))
}

/// Days since 1970-01-01 of a date. A time after it is read and dropped, as PostgreSQL does.
pub fn parse_date(text: &str) -> Result<i32> {
    let read = || {
        let mut c = Cursor(text.trim().as_bytes());
        let days = c.date()?;
        if c.eat(b"Tt ").is_some() {
            c.spaces();
            c.time()?;
            c.spaces();
            if !c.0.is_empty() {
                c.zone()?;
            }
        }
        c.end()?;
        i32::try_from(days).ok()
    };
    read().ok_or_else(|| invalid(text, "DATE", "2024-12-31"))
}

/// Microseconds since the epoch of a date with an optional time. With `zoned` a zone in the text is applied (UTC if
/// there is none); without, it is read and ignored, as PostgreSQL does for TIMESTAMP.
pub fn parse_datetime(text: &str, zoned: bool) -> Result<i64> {
    let read = || {
        let mut c = Cursor(text.trim().as_bytes());
        let days = c.date()?;
        let mut us = 0;
        let mut offset = 0;
        if c.eat(b"Tt ").is_some() {
            c.spaces();
            us = c.time()?;
            c.spaces();
        }
        if !c.0.is_empty() {
            offset = c.zone()?;
        }
        c.end()?;
        let offset = if zoned { offset * SECOND } else { 0 };
        // In 128 bits, because the first day of the range only fits together with its time.
        i64::try_from(i128::from(days) * i128::from(DAY) + i128::from(us - offset)).ok()
    };
    read().ok_or_else(|| match zoned {
        true => invalid(text, "DATETIME", "2024-12-31T23:59:59.5Z"),
        false => invalid(text, "TIMESTAMP", "2024-12-31T23:59:59.5"),
    })
}

/// Microseconds since midnight of a time of day. A date before it and a zone behind it are read and dropped, as PostgreSQL
/// does; a date without a time is none.
pub fn parse_time(text: &str) -> Result<i64> {
    let read = || {
        let mut c = Cursor(text.trim().as_bytes());
        if c.has_date() {
            c.date()?;
            c.eat(b"Tt ")?;
            c.spaces();
        }
        let us = c.time()?;
        c.spaces();
        if !c.0.is_empty() {
            c.zone()?;
        }
        c.end()?;
        (us < DAY).then_some(us)
    };
    read().ok_or_else(|| invalid(text, "TIME", "23:59:59.5"))
}

fn write_date(out: &mut String, days: i64) {
    let (year, month, day) = civil_from_days(days);
    let sign = if year < 0 { "-" } else { "" };
    // Writing to a String does not fail.
    let _ = write!(out, "{sign}{:04}-{month:02}-{day:02}", year.unsigned_abs());
}

fn write_time(out: &mut String, us: i64) {
    let (seconds, fraction) = (us / SECOND, us % SECOND);
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = match fraction {
        0 => Ok(()),
        f if f % 1000 == 0 => write!(out, ".{:03}", f / 1000),
        f => write!(out, ".{f:06}"),
    };
}

/// A date: `2024-12-31`.
pub fn format_date(days: i32) -> String {
    let mut out = String::with_capacity(10);
    write_date(&mut out, days.into());
    out
}

/// A date and time: `2024-12-31T23:59:59.500`, with a `Z` at the end if `zoned`.
pub fn format_datetime(us: i64, zoned: bool) -> String {
    let mut out = String::with_capacity(27);
    write_date(&mut out, us.div_euclid(DAY));
    out.push('T');
    write_time(&mut out, us.rem_euclid(DAY));
    if zoned {
        out.push('Z');
    }
    out
}

/// A time of day: `23:59:59.500`.
pub fn format_time(us: i64) -> String {
    let mut out = String::with_capacity(15);
    write_time(&mut out, us);
    out
}

/// Microseconds of midnight at the start of a day.
pub(super) fn day_to_us(days: i32) -> Option<i64> {
    i64::from(days).checked_mul(DAY)
}

/// The day of a moment.
pub(super) fn us_to_day(us: i64) -> i32 {
    // i64::MAX microseconds are 106 751 991 days: always an i32.
    us.div_euclid(DAY) as i32
}

/// The time of day of a moment.
pub(super) fn us_to_time(us: i64) -> i64 {
    us.rem_euclid(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read() {
        let noon = 1_709_208_000 * SECOND;
        for text in [
            "2024-02-29T12:00:00",
            "2024-02-29 12:00",
            " 2024/02/29 12:00:00.000 ",
            "20240229 12:00:00",
            "2024-2-29 12:00:00Z",
        ] {
            assert_eq!(parse_datetime(text, false).unwrap(), noon, "{text}");
        }
        for text in
            ["2024-02-29 14:00:00+02", "2024-02-29 14:00:00 +0200", "2024-02-29T06:30:00-05:30", "2024-02-29 12:00 UTC"]
        {
            assert_eq!(parse_datetime(text, true).unwrap(), noon, "{text}");
        }
        assert_eq!(parse_datetime("2024-02-29 14:00:00+02", false).unwrap(), noon + 7200 * SECOND);
        assert_eq!(parse_datetime("1969-12-31T23:59:59.9999996", true).unwrap(), 0);
        assert_eq!(parse_date("1969-12-31").unwrap(), -1);
        assert_eq!(parse_date("2024-01-02T03:04:05Z").unwrap(), parse_date("2024-01-02").unwrap());
        assert_eq!(parse_time("23:59:59.000001").unwrap(), DAY - SECOND + 1);
        for text in ["2024-02-29T12:00:00", "20240229 12:00", "12:00Z", "12:00:00+02", " 2024/2/29  12:00 +02:00 "] {
            assert_eq!(parse_time(text).unwrap(), 43_200 * SECOND, "{text}");
        }
        assert_eq!(format_datetime(noon + 500_000, true), "2024-02-29T12:00:00.500Z");
        assert_eq!(format_date(parse_date("-0044-03-15").unwrap()), "-0044-03-15");
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        for text in [
            "2023-02-29",
            "2024-13-01",
            "2024-00-10",
            "2024-04-31",
            "24-01-01",
            "",
            "tomorrow",
            "2024-01-01x",
            "99999999-01-01",
        ] {
            let error = parse_date(text).expect_err(text);
            assert_eq!(error.code(), ErrorCode::InvalidDatetime);
            assert!(error.message().contains(text));
        }
        for text in [
            "2024-01-01T24:00",
            "2024-01-01T12",
            "2024-01-01T12:60",
            "2024-01-01T12:00:61",
            "2024-01-01T12:00+99",
            "infinity",
        ] {
            assert!(parse_datetime(text, true).is_err(), "{text}");
        }
        for text in
            ["24:00:00", "23:59:60", "12", "12:5", "12:00:00.", "-1:00", "2024-01-01", "2023-02-29 12:00", "12:00 x"]
        {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_comes_back(us: i64, zoned: bool) {
            prop_assert_eq!(parse_datetime(&format_datetime(us, zoned), zoned)?, us);
        }

        #[test]
        fn every_date_comes_back(days: i32) {
            prop_assert_eq!(parse_date(&format_date(days))?, days);
        }

        #[test]
        fn every_time_comes_back(us in 0..DAY) {
            prop_assert_eq!(parse_time(&format_time(us))?, us);
        }
    }
}
