//! Single values: reading them from text, writing them as text, and converting numbers.
//!
//! Invariant: nothing is changed silently. A result is the exact value, or the value rounded to the type's scale as
//! PostgreSQL rounds, or an error that names the value and the type. Rounding: DECIMAL and text round half away from
//! zero, floating point to integer rounds half to even.

use std::fmt::{Display, Write};

use serde::de::IgnoredAny;

use super::data_type::KalamDataType;
use crate::error::{ErrorCode, KalamError, Result};

/// A value for a message: whole if short, else its first characters.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

/// "'x' is not a valid INT".
pub(super) fn invalid(text: &str, ty: &KalamDataType) -> KalamError {
    KalamError::new(ErrorCode::InvalidText, format!("'{}' is not a valid {ty}", shorten(text)))
}

/// "3000000000 is out of range for INT".
pub(super) fn out_of_range(value: impl Display, ty: &KalamDataType) -> KalamError {
    let value = shorten(&value.to_string());
    let error = KalamError::new(ErrorCode::OutOfRange, format!("{value} is out of range for {ty}"));
    match ty {
        KalamDataType::SmallInt => error.with_hint("SMALLINT holds -32768 to 32767. INT or BIGINT hold more."),
        KalamDataType::Int => error.with_hint("INT holds -2147483648 to 2147483647. BIGINT holds more."),
        KalamDataType::BigInt => {
            error.with_hint("BIGINT holds -9223372036854775808 to 9223372036854775807. DECIMAL(38,0) holds more.")
        }
        _ => error,
    }
}

/// TRUE and FALSE in the words that PostgreSQL takes.
pub(super) fn parse_bool(text: &str) -> Result<bool> {
    let t = text.trim();
    let is = |words: &[&str]| words.iter().any(|w| t.eq_ignore_ascii_case(w));
    if is(&["true", "t", "yes", "y", "on", "1"]) {
        Ok(true)
    } else if is(&["false", "f", "no", "n", "off", "0"]) {
        Ok(false)
    } else {
        Err(invalid(text, &KalamDataType::Boolean).with_hint("Write 'true' or 'false'."))
    }
}

/// Least and greatest value of an integer type.
fn int_bounds(ty: &KalamDataType) -> (i64, i64) {
    match ty {
        KalamDataType::SmallInt => (i16::MIN.into(), i16::MAX.into()),
        KalamDataType::Int => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    }
}

/// An integer that the type can hold.
pub(super) fn check_int(value: i64, ty: &KalamDataType) -> Result<i64> {
    let (min, max) = int_bounds(ty);
    if (min..=max).contains(&value) { Ok(value) } else { Err(out_of_range(value, ty)) }
}

/// An integer from text.
pub(super) fn parse_int(text: &str, ty: &KalamDataType) -> Result<i64> {
    let t = text.trim();
    match t.parse::<i64>() {
        Ok(value) => check_int(value, ty),
        Err(e) => match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => Err(out_of_range(t, ty)),
            _ => Err(invalid(text, ty)),
        },
    }
}

/// An integer from floating point: half to even.
pub(super) fn float_to_int(value: f64, ty: &KalamDataType) -> Result<i64> {
    let rounded = value.round_ties_even();
    // 2^63 is the first f64 that an i64 does not hold; NaN is in no range.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        check_int(rounded as i64, ty).map_err(|_| out_of_range(format_f64(value), ty))
    } else {
        Err(out_of_range(format_f64(value), ty))
    }
}

/// An integer from a decimal: half away from zero.
pub(super) fn decimal_to_int(unscaled: i128, scale: u8, ty: &KalamDataType) -> Result<i64> {
    rescale(unscaled, scale, 0)
        .and_then(|n| i64::try_from(n).ok())
        .and_then(|n| check_int(n, ty).ok())
        .ok_or_else(|| out_of_range(format_decimal(unscaled, scale), ty))
}

/// A 64-bit floating point number from text.
pub(super) fn parse_f64(text: &str) -> Result<f64> {
    let t = text.trim();
    let value: f64 = t.parse().map_err(|_| invalid(text, &KalamDataType::Double))?;
    if value.is_infinite() && t.bytes().any(|b| b.is_ascii_digit()) {
        return Err(out_of_range(t, &KalamDataType::Double));
    }
    Ok(value)
}

/// A 32-bit floating point number from text.
pub(super) fn parse_f32(text: &str) -> Result<f32> {
    let t = text.trim();
    let value: f32 = t.parse().map_err(|_| invalid(text, &KalamDataType::Float))?;
    if value.is_infinite() && t.bytes().any(|b| b.is_ascii_digit()) {
        return Err(out_of_range(t, &KalamDataType::Float));
    }
    Ok(value)
}

/// A 32-bit floating point number; one that is finite stays finite.
pub(super) fn f64_to_f32(value: f64) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() {
        return Err(out_of_range(format_f64(value), &KalamDataType::Float));
    }
    Ok(narrow)
}

const POWERS: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut n = 1;
    while n < 39 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// 10 to the power of `n`, if an i128 holds it.
fn pow10(n: u32) -> Option<i128> {
    POWERS.get(n as usize).copied()
}

/// A decimal at another scale, half away from zero; `None` if it has no room.
pub(super) fn rescale(unscaled: i128, from: u8, to: u8) -> Option<i128> {
    shift(unscaled, i64::from(to) - i64::from(from))
}

/// `value` times 10 to the power of `by`, half away from zero.
fn shift(value: i128, by: i64) -> Option<i128> {
    if value == 0 || by == 0 {
        return Some(value);
    }
    let power = u32::try_from(by.unsigned_abs()).ok().and_then(pow10);
    if by > 0 {
        return value.checked_mul(power?);
    }
    // A divisor beyond every i128 leaves 0.
    let Some(power) = power else { return Some(0) };
    let (quotient, rest) = (value / power, value % power);
    Some(if rest.unsigned_abs() >= power.unsigned_abs() / 2 { quotient + value.signum() } else { quotient })
}

/// A decimal whose digits the type has room for.
fn check_decimal(unscaled: Option<i128>, precision: u8) -> Option<i128> {
    unscaled.filter(|u| pow10(precision.into()).is_some_and(|limit| u.unsigned_abs() < limit.unsigned_abs()))
}

fn decimal_error(value: impl Display, precision: u8, scale: u8) -> KalamError {
    out_of_range(value, &KalamDataType::Decimal { precision, scale })
        .with_hint(format!("It holds up to {} digits before the point.", precision - scale))
}

/// A decimal from another decimal.
pub(super) fn decimal_to_decimal(unscaled: i128, from: u8, precision: u8, scale: u8) -> Result<i128> {
    check_decimal(rescale(unscaled, from, scale), precision)
        .ok_or_else(|| decimal_error(format_decimal(unscaled, from), precision, scale))
}

/// A decimal from an integer.
pub(super) fn int_to_decimal(value: i64, precision: u8, scale: u8) -> Result<i128> {
    check_decimal(rescale(value.into(), 0, scale), precision).ok_or_else(|| decimal_error(value, precision, scale))
}

/// A decimal from floating point: of the shortest digits that mean that number, so 1.005 is 1.005 and not
/// 1.00499999999999989….
pub(super) fn float_to_decimal(value: f64, precision: u8, scale: u8) -> Result<i128> {
    let exact = if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        rescale(value as i128, 0, scale)
    } else if value.is_finite() {
        read_decimal(format!("{value:e}").as_bytes(), scale).flatten()
    } else {
        None
    };
    check_decimal(exact, precision).ok_or_else(|| decimal_error(format_f64(value), precision, scale))
}

/// A decimal from text: digits, a point, an exponent.
pub(super) fn parse_decimal(text: &str, precision: u8, scale: u8) -> Result<i128> {
    let t = text.trim();
    match read_decimal(t.as_bytes(), scale) {
        None => Err(invalid(text, &KalamDataType::Decimal { precision, scale })),
        Some(value) => check_decimal(value, precision).ok_or_else(|| decimal_error(t, precision, scale)),
    }
}

/// `None`: not a number. `Some(None)`: a number beyond i128 at this scale.
fn read_decimal(text: &[u8], scale: u8) -> Option<Option<i128>> {
    let (negative, mut rest) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    // The first 38 significant digits; further ones only move the point, and the first of them may round.
    let (mut value, mut kept, mut digits) = (0i128, 0u32, 0usize);
    let (mut exponent, mut dropped) = (0i64, None);
    let mut fraction = false;
    while let Some((&b, tail)) = rest.split_first() {
        match b {
            b'0'..=b'9' => {
                digits += 1;
                if kept < 38 {
                    value = value * 10 + i128::from(b - b'0');
                    kept += u32::from(value != 0);
                    exponent -= i64::from(fraction);
                } else {
                    dropped.get_or_insert(b);
                    exponent += i64::from(!fraction);
                }
            }
            b'.' if !fraction => fraction = true,
            b'e' | b'E' if digits > 0 => {
                let written: &str = std::str::from_utf8(tail).ok()?;
                // Exponents beyond i64 still are numbers; they overflow or vanish below.
                let valid = written.strip_prefix(['+', '-']).unwrap_or(written);
                if valid.is_empty() || !valid.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let limit = if written.starts_with('-') { -1_000_000 } else { 1_000_000 };
                exponent += written.parse::<i64>().unwrap_or(limit).clamp(-1_000_000, 1_000_000);
                rest = &[];
                continue;
            }
            _ => return None,
        }
        rest = tail;
    }
    if digits == 0 {
        return None;
    }
    let by = exponent + i64::from(scale);
    let mut scaled = shift(value, by);
    if by == 0 && dropped.is_some_and(|d| d >= b'5') {
        scaled = scaled.and_then(|v| v.checked_add(1));
    } else if by > 0 && dropped.is_some() {
        scaled = None;
    }
    Some(scaled.map(|v| if negative { -v } else { v }))
}

/// The nearest f64 of a decimal.
pub(super) fn decimal_to_f64(unscaled: i128, scale: u8) -> f64 {
    // Both exact in f64, so the division rounds once.
    if unscaled.unsigned_abs() < (1 << 53) && scale <= 22 {
        return unscaled as f64 / POWERS[scale as usize] as f64;
    }
    // The text of a decimal is a number that Rust reads to the nearest f64.
    format_decimal(unscaled, scale).parse().unwrap_or(f64::NAN)
}

/// A decimal as text, with all digits of its scale.
pub(super) fn format_decimal(unscaled: i128, scale: u8) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = unscaled.unsigned_abs();
    match pow10(scale.into()).map(i128::unsigned_abs) {
        Some(power) if scale > 0 => {
            format!("{sign}{}.{:0width$}", digits / power, digits % power, width = scale.into())
        }
        _ => format!("{sign}{digits}"),
    }
}

/// A floating point number as PostgreSQL writes it: the fewest digits that mean it.
pub(super) fn format_f64(value: f64) -> String {
    format_float(value, value.is_nan(), value.is_infinite(), value < 0.0, value.abs())
}

/// As [`format_f64`], with the fewest digits that mean it among 32-bit numbers.
pub(super) fn format_f32(value: f32) -> String {
    format_float(value, value.is_nan(), value.is_infinite(), value < 0.0, value.abs().into())
}

fn format_float(
    value: impl Display + std::fmt::LowerExp,
    nan: bool,
    infinite: bool,
    negative: bool,
    size: f64,
) -> String {
    if nan {
        return "NaN".into();
    }
    if infinite {
        return if negative { "-Infinity" } else { "Infinity" }.into();
    }
    if size != 0.0 && !(1e-4..1e15).contains(&size) {
        let text = format!("{value:e}");
        // Rust writes 1e300, PostgreSQL 1e+300.
        return match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
            _ => text,
        };
    }
    value.to_string()
}

/// A UUID from text, with or without hyphens.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    match uuid::Uuid::try_parse(text.trim()) {
        Ok(id) => Ok(id.into_bytes()),
        Err(_) => {
            Err(invalid(text, &KalamDataType::Uuid).with_hint("Write it as '018f4b1c-5e7a-7c3d-9b2a-1f2e3d4c5b6a'."))
        }
    }
}

/// A UUID as text.
pub(super) fn format_uuid(bytes: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*bytes).hyphenated().to_string()
}

/// Bytes from text, in PostgreSQL's two forms: `\x` and hexadecimal digits, or characters with `\\` and `\ooo`.
pub(super) fn parse_bytes(text: &str) -> Result<Vec<u8>> {
    let error = || {
        invalid(text, &KalamDataType::Bytes).with_hint("Write '\\x' and hexadecimal digits, or double each backslash.")
    };
    if let Some(hex) = text.strip_prefix("\\x") {
        let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        let digits: Vec<u8> =
            hex.bytes().filter(|b| !b.is_ascii_whitespace()).map(digit).collect::<Option<_>>().ok_or_else(error)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(error()) };
        return Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        out.push(match (b, tail) {
            (b'\\', [b'\\', ..]) => {
                rest = &tail[1..];
                b'\\'
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                rest = &tail[3..];
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            (b'\\', _) => return Err(error()),
            _ => b,
        });
    }
    Ok(out)
}

/// Bytes as text: `\x` and hexadecimal digits.
pub(super) fn format_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + bytes.len() * 2);
    out.push_str("\\x");
    for b in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// An embedding from text: `[1, 2.5, 3]`.
pub(super) fn parse_embedding(text: &str, dimension: u32) -> Result<Vec<f32>> {
    let ty = KalamDataType::Embedding(dimension);
    let error = || invalid(text, &ty).with_hint("Write it as '[0.1, 0.2, 0.3]'.");
    let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(error)?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    // JSON has no NaN, so an element may come quoted.
    inner.split(',').map(|n| parse_f32(n.trim().trim_matches('"'))).collect::<Result<_>>().map_err(|_| error())
}

/// An embedding as text.
pub(super) fn format_embedding(vector: &[f32]) -> String {
    let mut out = String::from("[");
    for (n, x) in vector.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        out.push_str(&format_f32(*x));
    }
    out.push(']');
    out
}

/// An embedding that has its column's dimension.
pub(super) fn check_dimension(vector: &[f32], dimension: u32) -> Result<()> {
    if vector.len() == dimension as usize {
        return Ok(());
    }
    Err(KalamError::new(
        ErrorCode::WrongDimension,
        format!("{} has dimension {}, expected {dimension}", shorten(&format_embedding(vector)), vector.len()),
    ))
}

/// Text that is JSON (for FILE: a JSON object).
pub(super) fn check_json(text: &str, ty: &KalamDataType) -> Result<()> {
    if let Err(e) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(KalamError::new(ErrorCode::InvalidText, format!("'{}' is not valid JSON: {e}", shorten(text))));
    }
    if matches!(ty, KalamDataType::File) && !text.trim_start().starts_with('{') {
        return Err(invalid(text, ty).with_hint("A FILE is a JSON object that refers to a stored file."));
    }
    Ok(())
}
