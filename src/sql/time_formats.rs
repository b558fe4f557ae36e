//! Formats of dates and times: those of strftime (`%Y-%m-%d`), and PostgreSQL's patterns (`YYYY-MM-DD`), which become
//! those.
//!
//! Invariant: DataFusion's functions are handed formats of strftime only, so no format comes back as text, and a format
//! that reads part of a time is an error: the library would take the date and leave the time at midnight.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use chrono::format::{Fixed, Item, Numeric, StrftimeItems};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::{ErrorCode, KalamError, Result};

/// PostgreSQL's patterns of numbers, the longest first: in any case, as strftime writes them, and so without padding.
const NUMBERS: [(&str, &str, &str); 14] = [
    ("HH24", "%H", "%-H"),
    ("HH12", "%I", "%-I"),
    ("YYYY", "%Y", "%Y"),
    ("IYYY", "%G", "%G"),
    ("DDD", "%j", "%-j"),
    ("HH", "%I", "%-I"),
    ("YY", "%y", "%y"),
    ("MM", "%m", "%-m"),
    ("MI", "%M", "%-M"),
    ("MS", "%3f", "%3f"),
    ("DD", "%d", "%-d"),
    ("SS", "%S", "%-S"),
    ("US", "%6f", "%6f"),
    ("IW", "%V", "%-V"),
];

/// PostgreSQL's patterns of words, whose case is that of the word.
const WORDS: [(&str, &str); 8] = [
    ("Month", "%B"),
    ("Mon", "%b"),
    ("Day", "%A"),
    ("Dy", "%a"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("am", "%P"),
    ("pm", "%P"),
];

/// What a function does with a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    Writes,
    ReadsDate,
    ReadsTime,
}

/// The functions of dates and times, with formats of both kinds.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let formatted = |inner: Arc<ScalarUDF>| {
        let usage = match inner.name() {
            "to_char" => Use::Writes,
            "to_date" => Use::ReadsDate,
            name if name.starts_with("to_timestamp") || ["to_time", "to_unixtime"].contains(&name) => Use::ReadsTime,
            _ => return inner,
        };
        Arc::new(ScalarUDF::from(Formatted { inner, usage }))
    };
    datafusion_functions::datetime::functions().into_iter().map(formatted).collect()
}

/// A function with formats behind its first argument.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Formatted {
    inner: Arc<ScalarUDF>,
    usage: Use,
}

impl Formatted {
    fn formats(&self, given: &ColumnarValue) -> DfResult<ColumnarValue> {
        let format = |text: &str| match self.format(text) {
            Ok(format) => Ok(format.into_owned()),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        };
        match given {
            ColumnarValue::Scalar(scalar) => match scalar.try_as_str() {
                Some(Some(text)) => Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(format(text)?)))),
                _ => Ok(given.clone()),
            },
            ColumnarValue::Array(array) if array.data_type().is_string() => {
                let texts = cast(array, &DataType::Utf8)?;
                let formats = texts.as_string::<i32>().iter().map(|text| text.map(format).transpose());
                let formats: ArrayRef = Arc::new(formats.collect::<DfResult<StringArray>>()?);
                Ok(ColumnarValue::Array(cast(&formats, array.data_type())?))
            }
            ColumnarValue::Array(_) => Ok(given.clone()),
        }
    }

    fn format<'a>(&self, text: &'a str) -> Result<Cow<'a, str>> {
        let format = strftime(text, self.usage != Use::Writes)?;
        if self.usage == Use::ReadsTime {
            check_time(text, &format)?;
        }
        Ok(format)
    }
}

impl ScalarUDFImpl for Formatted {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        // The format of a length of time is a name.
        let is_length = matches!(args.args.first().map(ColumnarValue::data_type), Some(DataType::Duration(_)));
        if !is_length {
            for format in args.args.iter_mut().skip(1) {
                *format = self.formats(format)?;
            }
        }
        self.inner.invoke_with_args(args)
    }
}

/// A format as strftime writes it. `any_case`: words are read in any case.
fn strftime(format: &str, any_case: bool) -> Result<Cow<'_, str>> {
    if format.contains('%') || !format.contains(|c: char| c.is_ascii_alphabetic()) {
        return Ok(Cow::Borrowed(format));
    }
    let mut out = String::with_capacity(format.len() + 8);
    let mut rest = format;
    while let Some(letter) = rest.chars().next() {
        if let Some((text, after)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
            out.push_str(text);
            rest = after;
        } else if let Some((pattern, length)) = pattern(rest, any_case) {
            out.push_str(pattern);
            rest = &rest[length..];
        } else if letter.is_ascii_alphabetic() {
            let word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let message = format!("the format '{format}' has '{}', which is no pattern", &rest[..word]);
            return Err(KalamError::new(ErrorCode::InvalidValue, message).with_hint(
                "Write it as '%Y-%m-%d %H:%M:%S', or with YYYY YY MM DD HH24 HH12 MI SS MS US Month Mon Day Dy AM; \
                 other letters stand in double quotes.",
            ));
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    Ok(Cow::Owned(out))
}

/// The pattern that a text begins with, as strftime writes it, and how long it is in the text.
fn pattern(text: &str, any_case: bool) -> Option<(&'static str, usize)> {
    let begins = |text: &str, with: &str| text.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with));
    let unpadded = text.strip_prefix("FM");
    let (bare, before) = unpadded.map_or((text, 0), |bare| (bare, 2));
    for (word, strftime) in WORDS {
        if bare.starts_with(word) || (any_case && begins(bare, word)) {
            return Some((strftime, before + word.len()));
        }
    }
    let (number, padded, alone) = NUMBERS.into_iter().find(|(number, ..)| begins(bare, number))?;
    Some((if unpadded.is_some() { alone } else { padded }, before + number.len()))
}

/// Fails if a format reads only a part of a time that does not tell it. `text` is the format as it was given.
fn check_time(text: &str, format: &str) -> Result<()> {
    let (mut hour, mut half, mut noon, mut minute, mut second, mut fraction) =
        (false, false, false, false, false, false);
    for item in StrftimeItems::new(format) {
        match item {
            // The whole moment.
            Item::Numeric(Numeric::Timestamp, _) | Item::Fixed(Fixed::RFC2822 | Fixed::RFC3339) => return Ok(()),
            Item::Numeric(Numeric::Hour, _) => hour = true,
            Item::Numeric(Numeric::Hour12, _) => half = true,
            Item::Numeric(Numeric::Minute, _) => minute = true,
            Item::Numeric(Numeric::Second, _) => second = true,
            Item::Numeric(Numeric::Nanosecond, _)
            | Item::Fixed(Fixed::Nanosecond | Fixed::Nanosecond3 | Fixed::Nanosecond6 | Fixed::Nanosecond9) => {
                fraction = true;
            }
            Item::Fixed(Fixed::LowerAmPm | Fixed::UpperAmPm) => noon = true,
            _ => {}
        }
    }
    let knows_hour = hour || (half && noon);
    let missing = if half && !knows_hour {
        "AM or PM"
    } else if (noon || minute || second || fraction) && !knows_hour {
        "hour"
    } else if knows_hour && !minute {
        "minutes"
    } else if fraction && !second {
        "seconds"
    } else {
        return Ok(());
    };
    let message = format!("the format '{text}' reads a time without its {missing}");
    let error = KalamError::new(ErrorCode::InvalidDatetime, message);
    Err(match missing {
        "minutes" => error.with_hint("Append them to both: to_timestamp(x || ':00', '%Y-%m-%d %H:%M')."),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_those_of_strftime() {
        for (pattern, format) in [
            ("YYYY-MM-DD HH24:MI:SS.MS", "%Y-%m-%d %H:%M:%S.%3f"),
            ("yyyymmdd", "%Y%m%d"),
            ("FMDD. Month YY, HH12 am", "%-d. %B %y, %I %P"),
            ("Dy DD Mon IYYY\"-W\"IW", "%a %d %b %G-W%V"),
            ("%d YYYY", "%d YYYY"),
            ("--", "--"),
            ("Ü DDD", "Ü %j"),
        ] {
            assert_eq!(strftime(pattern, false).expect(pattern), format);
        }
        assert_eq!(strftime("DD-MON-YYYY", true).expect("it is read in any case"), "%d-%b-%Y");
        for wrong in ["DD-MON-YYYY", "Q", "YYYY-MM-DDTHH24", "hello", "FM", "YYYY \"open"] {
            assert_eq!(strftime(wrong, false).expect_err(wrong).code(), ErrorCode::InvalidValue);
        }
    }

    #[test]
    fn a_part_of_a_time_is_an_error() {
        for format in ["%Y-%m-%d", "%F %T", "%F %I:%M %p", "%+", "%s", "%c", "%F %H:%M", "%F %T%.f", "%F %R"] {
            check_time(format, format).expect(format);
        }
        for format in ["%F %H", "%F %I:%M", "%F %M", "%F %H:%S", "%F %p", "%F %H:%M%.f"] {
            check_time(format, format).expect_err(format);
        }
    }
}
