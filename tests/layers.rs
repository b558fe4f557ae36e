//! The rooms of the house in order, and a check that no room imports one above it.
//!
//! Invariant: every path in `src/` that leads through the crate root (`crate::x`, or enough `super`s to get there) leads
//! to the same room or a lower one. It is checked on the text of the files: comments, strings and character literals
//! are taken out, the rest is read as tokens, and every path is resolved against the module it stands in. Tests inside
//! `src/` are held to it as well: one that needs an upper room belongs in `tests/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lower rooms first. `lib.rs` stands above them all.
const ROOMS: [&str; 12] =
    ["error", "platform", "types", "storage", "schema", "tables", "ingest", "sql", "live", "jobs", "context", "wasm"];

/// One token with the line it stands on. `::` is one token, any other punctuation one character, and a string in plain
/// quotes stands for itself, opening quote and content.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// The tokens of Rust source, without comments, raw strings and character literals.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let c = at(i);
        if c == '\n' {
            line += 1;
            i += 1;
        } else if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                    i += 2;
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    i += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    line += usize::from(at(i) == '\n');
                    i += 1;
                }
            }
        } else if let Some((hashes, open)) = raw_string(&chars, i) {
            // r"…", r#"…"#, br"…", cr"…": ends at a quote followed by as many hashes.
            i = open + 1;
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                line += usize::from(at(i) == '\n');
                i += 1;
            }
            i += 1 + hashes;
        } else if c == '"' {
            let (from, first_line) = (i, line);
            i += 1;
            while i < chars.len() && at(i) != '"' {
                let step = if at(i) == '\\' { 2 } else { 1 };
                line += (i..i + step).filter(|&n| at(n) == '\n').count();
                i += step;
            }
            let content = chars[from..i.min(chars.len())].iter().collect();
            found.push(Token { text: content, line: first_line });
            i += 1;
        } else if c == '\'' {
            // A character literal closes after one character or an escape; anything else is a lifetime or a label.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                line += usize::from(at(i + 1) == '\n');
                i += 3;
            } else {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
        } else if is_word(c) {
            // r#crate is not a keyword but r#type is a name: the prefix is dropped so that both read as written.
            let raw = c == 'r' && at(i + 1) == '#' && is_word(at(i + 2));
            let from = if raw { i + 2 } else { i };
            i = from;
            while is_word(at(i)) {
                i += 1;
            }
            found.push(Token { text: chars[from..i].iter().collect(), line });
        } else if c == ':' && at(i + 1) == ':' {
            found.push(Token { text: "::".into(), line });
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(Token { text: c.into(), line });
            }
            i += 1;
        }
    }
    found
}

/// When a raw string starts at `i`: how many hashes it has and where its opening quote is.
fn raw_string(chars: &[char], i: usize) -> Option<(usize, usize)> {
    let before = i.checked_sub(1).map(|p| chars[p]);
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let mut at = i;
    if matches!(chars.get(at), Some('b' | 'c')) {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some((hashes, at + hashes))
}

/// The module path of a file under `src/`: `storage/record.rs` is `[storage, record]`, `lib.rs` is empty.
fn module_of(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
        path.pop();
    }
    path
}

/// A path that leads through the crate root: the names behind the root (empty for the root itself) and its line.
struct Reference {
    behind_root: Vec<String>,
    line: usize,
}

/// Every path in the tokens that starts with `crate`, `self` or `super` and reaches the crate root, use trees unfolded.
fn references(tokens: &[Token], module: &[String]) -> Vec<Reference> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // Inline modules that are open here, each with the brace depth at which it closes.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => {
                inline.push((text(i + 1).into(), depth));
                depth += 1;
                i += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.last().is_some_and(|(_, at)| *at == depth) {
                    inline.pop();
                }
            }
            "crate" | "self" | "super" if text(i.wrapping_sub(1)) != "::" && text(i.wrapping_sub(1)) != "." => {
                let here: Vec<String> =
                    module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect();
                // Bare `crate` and `super` matter too, as `use crate as k`; a visibility (`pub(crate)`, `pub(in …)`)
                // imports nothing, and `extern crate` is looked for elsewhere.
                let before = text(i.wrapping_sub(1));
                let visibility = matches!(before, "in" | "extern") || (before == "(" && text(i + 1) == ")");
                let bare = text(i) == "crate" || text(i + 1) == "as";
                if !visibility && (text(i + 1) == "::" || bare) {
                    walk(tokens, &mut i, Some(here), None, &mut found);
                    continue;
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Follows one path, or one branch of a use tree, from token `i` on. `here` is the module that `self` and `super` start
/// from; `from` is the module that a branch's prefix has reached, and whether it came there through the crate root.
fn walk(
    tokens: &[Token],
    i: &mut usize,
    here: Option<Vec<String>>,
    from: Option<(Vec<String>, bool)>,
    found: &mut Vec<Reference>,
) {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let line = tokens.get(*i).map_or(0, |token| token.line);
    // Once a path has stood at the root, where it goes from there is what counts.
    let mut through_root = from.as_ref().is_some_and(|(_, through)| *through);
    let mut reached = from.map(|(module, _)| module);
    loop {
        match text(*i) {
            "crate" => reached = Some(Vec::new()),
            "self" => reached = reached.or_else(|| here.clone()),
            "super" => {
                let mut module = reached.or_else(|| here.clone()).unwrap_or_default();
                module.pop();
                reached = Some(module);
            }
            "{" => {
                *i += 1;
                while *i < tokens.len() && text(*i) != "}" {
                    walk(tokens, i, here.clone(), reached.clone().map(|module| (module, through_root)), found);
                    if text(*i) == "as" {
                        *i += 2;
                    }
                    if text(*i) == "," {
                        *i += 1;
                    }
                }
                *i += 1;
                return;
            }
            name => {
                if let Some(module) = &mut reached {
                    module.push(name.into());
                }
            }
        }
        through_root |= reached.as_ref().is_some_and(Vec::is_empty);
        *i += 1;
        if text(*i) != "::" {
            break;
        }
        *i += 1;
        // `Vec::<T>::new` and the like: generic arguments are read as paths of their own.
        if text(*i) == "<" {
            break;
        }
    }
    if through_root && let Some(module) = reached {
        found.push(Reference { behind_root: module, line });
    }
}

/// What is wrong with one file, as lines of text. `module` is where its content stands in the crate. `macros` maps exported macros, which live at the crate root whatever
/// module they are written in, to the room they are written in.
fn violations_in(file: &Path, module: &[String], source: &str, macros: &BTreeMap<String, String>) -> Vec<String> {
    let rank = |room: &str| ROOMS.iter().position(|name| *name == room);
    let Some(own) = module.first() else {
        return Vec::new(); // lib.rs stands above all rooms.
    };
    let Some(own_rank) = rank(own) else {
        return vec![format!("src/{}: room `{own}` is not declared in tests/layers.rs", file.display())];
    };
    let tokens = tokens(source);
    let mut found = Vec::new();
    for window in tokens.windows(3) {
        if window[0].text == "extern" && window[1].text == "crate" && window[2].text == "self" {
            found.push(format!(
                "src/{}:{}: `extern crate self` gives the crate root a second name",
                file.display(),
                window[0].line
            ));
        }
    }
    for (path, _, line) in moved_modules(&tokens) {
        if path.starts_with('/') || path.contains("..") {
            found.push(format!("src/{}:{line}: the module at `{path}` lies outside of its room", file.display()));
        }
    }
    for reference in references(&tokens, module) {
        let at = format!("src/{}:{}", file.display(), reference.line);
        match reference.behind_root.first() {
            None => found.push(format!("{at}: takes the crate root itself; name the room")),
            Some(name) if name == "*" => found.push(format!("{at}: imports everything from the crate root")),
            Some(name) => {
                let room = macros.get(name).unwrap_or(name);
                match rank(room) {
                    None => found.push(format!("{at}: `crate::{name}` is no room; import it from the room it is in")),
                    Some(other) if other > own_rank => {
                        found.push(format!(
                            "{at}: `{own}` imports `{}`, which is above it",
                            reference.behind_root.join("::")
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    found
}

/// The Rust files under a folder, relative to it, with their text.
fn sources(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push((path.strip_prefix(root).expect("it was found under the root").to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}

/// The modules that `#[path = "…"] mod name;` takes from another file: its path, the name, the line.
fn moved_modules(tokens: &[Token]) -> Vec<(String, String, usize)> {
    let mut found = Vec::new();
    for (i, window) in tokens.windows(6).enumerate() {
        let texts: Vec<&str> = window.iter().map(|token| token.text.as_str()).collect();
        if let ["#", "[", "path", "=", path, "]"] = texts[..]
            && let Some(at) = tokens[i..].iter().position(|token| token.text == "mod")
            && let Some(name) = tokens.get(i + at + 1)
        {
            found.push((path.trim_start_matches('"').to_string(), name.text.clone(), window[0].line));
        }
    }
    found
}

/// Where the content of every file stands in the crate: as its path says, unless a `#[path]` puts it elsewhere.
fn modules(files: &[(PathBuf, String)]) -> BTreeMap<PathBuf, Vec<String>> {
    let mut found: BTreeMap<PathBuf, Vec<String>> =
        files.iter().map(|(file, _)| (file.clone(), module_of(file))).collect();
    for (file, text) in files {
        for (path, name, _) in moved_modules(&tokens(text)) {
            let target = file.with_file_name(path);
            if let Some(module) = found.get_mut(&target) {
                *module = module_of(file).into_iter().chain([name]).collect();
            }
        }
    }
    found
}

/// The macros that files export, with the room of each.
fn exported_macros<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (file, source) in files {
        let Some(room) = module_of(file).into_iter().next() else { continue };
        let tokens = tokens(source);
        for window in tokens.windows(3) {
            if window[0].text == "macro_rules" && window[1].text == "!" {
                found.insert(window[2].text.clone(), room.clone());
            }
        }
    }
    found
}

#[test]
fn no_room_imports_one_above_it() {
    let files = sources(Path::new("src"));
    let macros = exported_macros(files.iter().map(|(file, text)| (file.as_path(), text.as_str())));
    let modules = modules(&files);
    let found: Vec<String> =
        files.iter().flat_map(|(file, text)| violations_in(file, &modules[file], text, &macros)).collect();
    assert!(files.len() > 5, "only {} files found: the check looked in the wrong place", files.len());
    assert!(found.is_empty(), "the layering is broken:\n{}", found.join("\n"));
}

/// What the check says about a piece of source, as `line: rest` without the file.
fn check(file: &str, source: &str) -> Vec<String> {
    let file = Path::new(file);
    let macros = BTreeMap::from([("bail".to_string(), "error".to_string()), ("plan".to_string(), "sql".to_string())]);
    let prefix = format!("src/{}:", file.display());
    violations_in(file, &module_of(file), source, &macros)
        .into_iter()
        .map(|text| text.replacen(&prefix, "", 1))
        .collect()
}

#[test]
fn imports_that_go_up_are_found() {
    for (file, source, expected) in [
        ("storage/memory.rs", "use crate::sql::Plan;", "`storage` imports `sql::Plan`"),
        ("storage/memory.rs", "use crate::{error::KalamError, sql::{self}};", "`storage` imports `sql`"),
        (
            "storage/memory.rs",
            "use crate::{error::KalamError, sql::{plan::{Cache}}};",
            "`storage` imports `sql::plan::Cache`",
        ),
        ("storage/memory.rs", "fn f() { crate::tables::scan(); }", "`storage` imports `tables::scan`"),
        ("storage/memory.rs", "fn f() -> Result<crate::context::Config, ()> {}", "`storage` imports `context::Config`"),
        ("storage/memory.rs", "use super::super::schema::Column;", "`storage` imports `schema::Column`"),
        ("storage/mod.rs", "use super::schema;", "`storage` imports `schema`"),
        ("storage/mod.rs", "mod deep { use super::super::schema; }", "`storage` imports `schema`"),
        ("storage/mod.rs", "use self::super::live::Feed;", "`storage` imports `live::Feed`"),
        ("storage/mod.rs", "mod deep { fn f() {} } use super::jobs;", "`storage` imports `jobs`"),
        ("storage/mod.rs", "#[cfg(test)] mod tests { use crate::wasm::Engine; }", "`storage` imports `wasm::Engine`"),
        ("storage/mod.rs", "use super::{error, live};", "`storage` imports `live`"),
        ("error.rs", "use super::platform;", "`error` imports `platform`"),
        ("error.rs", "let c = '\"'; crate::sql::x(); let d = '\"';", "`error` imports `sql::x`"),
        ("error.rs", "fn f<'a>(x: &'a str) { crate::sql::x('\\'') }", "`error` imports `sql::x`"),
        ("error.rs", "fn f() { Vec::<crate::types::Value>::new() }", "`error` imports `types::Value`"),
        ("types/mod.rs", "use crate::plan;", "`types` imports `plan`"),
        ("types/mod.rs", "use crate as k;", "takes the crate root itself"),
        ("types/mod.rs", "use super as top;", "takes the crate root itself"),
        ("types/mod.rs", "use crate::*;", "imports everything from the crate root"),
        ("types/mod.rs", "use crate::KalamError;", "`crate::KalamError` is no room"),
        ("types/mod.rs", "#[path = \"../sql/x.rs\"] mod x;", "lies outside of its room"),
        ("types/mod.rs", "extern crate self as kalamdb;", "a second name"),
        ("attic/mod.rs", "", "room `attic` is not declared"),
    ] {
        let found = check(file, source);
        assert!(found.iter().any(|text| text.contains(expected)), "{file}: {source}\nfound: {found:?}");
        assert_eq!(found.len(), 1, "{file}: {source}\nfound: {found:?}");
    }
}

#[test]
fn a_file_stands_where_its_path_attribute_puts_it() {
    let declaring = "#[cfg(test)]\n#[path = \"value_tests.rs\"]\nmod tests;";
    let files = [
        (PathBuf::from("types/value.rs"), declaring.to_string()),
        (PathBuf::from("types/value_tests.rs"), String::new()),
    ];
    let modules = modules(&files);
    assert_eq!(modules[Path::new("types/value_tests.rs")], ["types", "value", "tests"]);
    assert_eq!(check("types/value.rs", declaring), Vec::<String>::new());
    // Two steps up from there is the room, three are the root.
    let of = |source| violations_in(&files[1].0, &modules[&files[1].0], source, &BTreeMap::new()).len();
    assert_eq!(of("use super::super::sql;"), 0);
    assert_eq!(of("use super::super::super::sql;"), 1);
}

#[test]
fn the_line_is_named() {
    let source = "/* one\n two */\nlet s = \"three\nfour\";\nlet r = r#\"five\n\"six\"#;\nuse crate::sql::x;\n";
    assert_eq!(check("error.rs", source), ["7: `error` imports `sql::x`, which is above it"]);
}

#[test]
fn what_goes_down_or_only_looks_like_a_path_is_left_alone() {
    for (file, source) in [
        ("sql/mod.rs", "use crate::{error::KalamError, storage::{StorageBackend, memory::*}, types::Value as V};"),
        ("sql/plan/cache.rs", "use super::super::parse; use super::{self, Key}; use self::inner::x; mod inner {}"),
        ("sql/plan/cache.rs", "use super::super::super::tables::scan;"),
        ("sql/mod.rs", "mod tests { use super::*; use super::super::tables; }"),
        ("sql/mod.rs", "pub(crate) fn f(&self) { self.x.live(); Self::new(); super::error::bail(); }"),
        ("sql/mod.rs", "pub(in crate::sql) struct X; pub(super) struct Y; pub(in super::super) struct Z;"),
        ("error.rs", "// use crate::sql;\n/* crate::sql /* nested */ crate::live */ fn f() {}"),
        ("error.rs", "let a = \"crate::sql::x\"; let b = r#\"use crate::sql; \"quoted\" \"#; let c = b\"crate::sql\";"),
        ("error.rs", "let a = \"\\\\\"; let b = \"\\\" crate::sql::x\";"),
        ("error.rs", "macro_rules! bail { () => { $crate::error::KalamError::new() } } crate::bail!();"),
        ("error.rs", "use sqlparser::parser; use other_crate::sql; my::crate_::sql();"),
        ("lib.rs", "pub mod sql; use crate::wasm::Engine;"),
    ] {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}
