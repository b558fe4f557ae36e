//! Reads parts of a JSON text without building a tree of it.
//!
//! Invariant: the text is valid JSON (columns of type JSON are checked when they are written, other text before it
//! comes here), and what is returned is a part of it as it was written. Of a key that comes twice the last counts,
//! as in PostgreSQL. On text that is not valid the answer is `None`, never a panic.

use std::borrow::Cow;

/// A JSON value as it is written.
pub type Json<'a> = &'a str;

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A member of an object, or an element of an array if it reads as a number.
    Either(String),
    /// A member of an object.
    Key(String),
    /// An element of an array; from the end if negative.
    Index(i64),
}

/// What a value is: PostgreSQL's word for it.
pub fn kind(json: Json<'_>) -> Option<&'static str> {
    Some(match json.trim_start().as_bytes().first()? {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "boolean",
        b'n' => "null",
        _ => "number",
    })
}

/// The value at a step.
pub fn get<'a>(json: Json<'a>, step: &Step) -> Option<Json<'a>> {
    match (json.trim_start().as_bytes().first()?, step) {
        (b'{', Step::Key(key) | Step::Either(key)) => {
            Items::of(json).filter(|(k, _)| k.is_some_and(|k| unquoted(k) == key.as_str())).last().map(|(_, v)| v)
        }
        (b'[', Step::Index(index)) => element(json, *index),
        (b'[', Step::Either(text)) => element(json, text.parse().ok()?),
        _ => None,
    }
}

/// The value at the end of a path.
pub fn follow<'a>(json: Json<'a>, path: &[Step]) -> Option<Json<'a>> {
    path.iter().try_fold(json.trim(), |json, step| get(json, step))
}

fn element(json: Json<'_>, index: i64) -> Option<Json<'_>> {
    let index = match usize::try_from(index) {
        Ok(index) => index,
        Err(_) => length(json)?.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    Items::of(json).nth(index).map(|(_, value)| value)
}

/// How many elements an array has.
pub fn length(json: Json<'_>) -> Option<usize> {
    json.trim_start().starts_with('[').then(|| Items::of(json).count())
}

/// Whether a text is a key of an object, an element of an array, or the string itself.
pub fn has(json: Json<'_>, text: &str) -> bool {
    match json.trim_start().as_bytes().first() {
        Some(b'{') => Items::of(json).any(|(key, _)| key.is_some_and(|k| unquoted(k) == text)),
        Some(b'[') => Items::of(json).any(|(_, value)| value.starts_with('"') && unquoted(value) == text),
        Some(b'"') => unquoted(json.trim()) == text,
        _ => false,
    }
}

/// A value as text: strings without quotes, JSON's null as `None`.
pub fn as_text(json: Json<'_>) -> Option<Cow<'_, str>> {
    match json.trim() {
        "null" => None,
        text if text.starts_with('"') => Some(unquoted(text)),
        text => Some(Cow::Borrowed(text)),
    }
}

/// The members of an object with their keys, or the elements of an array.
pub fn members(json: Json<'_>) -> impl Iterator<Item = (Option<Json<'_>>, Json<'_>)> {
    Items::of(json)
}

/// A string without its quotes and escapes.
fn unquoted(json: Json<'_>) -> Cow<'_, str> {
    let inner = json.strip_prefix('"').and_then(|j| j.strip_suffix('"')).unwrap_or(json);
    match inner.contains('\\') {
        true => serde_json::from_str(json).map_or(Cow::Borrowed(inner), Cow::Owned),
        false => Cow::Borrowed(inner),
    }
}

/// The members of an object or the elements of an array.
struct Items<'a> {
    text: &'a str,
    at: usize,
    object: bool,
}

impl<'a> Items<'a> {
    fn of(json: Json<'a>) -> Self {
        let text = json.trim();
        Self { text, at: 1, object: text.starts_with('{') }
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// The value that starts here.
    fn value(&mut self) -> Option<Json<'a>> {
        let first = self.peek()?;
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut depth = 0usize;
        let mut quoted = false;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'\\' if quoted => self.at += 1,
                b'"' => {
                    quoted = !quoted;
                    if !quoted && depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 1 => depth -= 1,
                b'}' | b']' if depth == 1 => {
                    self.at += 1;
                    break;
                }
                // The end of a number or a word.
                b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' | b':' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let value = self.text.get(start..self.at)?;
        (!value.is_empty() && first != b',').then_some(value)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = (Option<Json<'a>>, Json<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.peek()? {
            b'}' | b']' => return None,
            b',' => self.at += 1,
            _ => {}
        }
        let mut key = None;
        if self.object {
            key = Some(self.value()?);
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
        }
        Some((key, self.value()?))
    }
}

/// The steps of `{a,0,"b c"}`, which is how PostgreSQL writes a path.
pub fn braced(path: &str) -> Option<Vec<Step>> {
    let inner = path.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut steps = Vec::new();
    let (mut step, mut quoted) = (String::new(), false);
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => step.extend(letters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => steps.push(Step::Either(std::mem::take(&mut step).trim().to_owned())),
            other => step.push(other),
        }
    }
    if !inner.trim().is_empty() {
        steps.push(Step::Either(step.trim().to_owned()));
    }
    Some(steps)
}

/// The steps of `$.a[0]."b c"`, which is how SQLite and the standard write a path; `[#-1]` is SQLite's last element.
pub fn dollar(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(".\"") {
            let (key, after) = after.split_once('"')?;
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, after) = after.split_at(end);
            if key.is_empty() {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else {
            let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Index(index.trim_start_matches('#').parse().ok()?));
            rest = after;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn parts_are_found_as_they_are_written() {
        let json = r#" { "a" : [1, {"b":"}]\"x"} , [ ] ], "k\n": null ,"t":true,"a2":-1.5e3, "d":1, "d": 2} "#;
        let at = |path: &str| braced(path).and_then(|p| follow(json, &p));
        assert_eq!(at("{a,0}"), Some("1"));
        assert_eq!(at("{a,1}"), Some(r#"{"b":"}]\"x"}"#));
        assert_eq!(at("{a,1,b}").and_then(as_text).as_deref(), Some("}]\"x"));
        assert_eq!(at("{a,-1}"), Some("[ ]"));
        assert_eq!(at("{a,-4}"), None);
        assert_eq!(at("{a,3}"), None);
        assert_eq!(at("{a2}"), Some("-1.5e3"));
        assert_eq!(at("{t}"), Some("true"));
        assert_eq!(at("{d}"), Some("2"));
        assert_eq!(at("{}"), Some(json.trim()));
        assert_eq!(get(json, &Step::Key("k\n".into())).map(as_text), Some(None));
        assert_eq!(length("[1,[2,3],{}]"), Some(3));
        assert_eq!(length(" [ ] "), Some(0));
        assert_eq!(dollar("$.a[1].b").and_then(|p| follow(json, &p)), Some(r#""}]\"x""#));
        assert_eq!(dollar("$.a[#-1]").and_then(|p| follow(json, &p)), Some("[ ]"));
        assert_eq!(dollar("a"), None);
        assert!(has(json, "t") && has(json, "k\n") && !has(json, "b") && has(r#"["x"]"#, "x"));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\{}\\[\\],: \n]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-c\"]{0,2}", inner), 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_part_is_what_a_parser_says(value in tree(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap_or_default();
            match &value {
                Value::Object(members) => for (key, member) in members {
                    let found = get(&text, &Step::Key(key.clone())).unwrap_or_default();
                    prop_assert_eq!(&serde_json::from_str::<Value>(found).ok(), &Some(member.clone()));
                },
                Value::Array(items) => {
                    prop_assert_eq!(length(&text), Some(items.len()));
                    for (i, item) in items.iter().enumerate() {
                        let found = get(&text, &Step::Index(i as i64)).unwrap_or_default();
                        prop_assert_eq!(&serde_json::from_str::<Value>(found).ok(), &Some(item.clone()));
                    }
                },
                Value::String(s) => prop_assert_eq!(as_text(&text).map(Cow::into_owned), Some(s.clone())),
                _ => {}
            }
        }

        #[test]
        fn what_is_no_json_does_no_harm(text in "[\\[\\]{}:,\"\\\\ 1a]{0,12}", i in -3i64..3) {
            let _ = (get(&text, &Step::Index(i)), get(&text, &Step::Key("a".into())), length(&text), has(&text, "a"));
            let _ = (as_text(&text), kind(&text), braced(&text), dollar(&text));
        }
    }
}
