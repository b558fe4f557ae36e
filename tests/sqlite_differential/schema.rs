//! Tables, their data, and expressions over their columns.
//!
//! Types are those whose meaning SQLite (in STRICT tables) and PostgreSQL share. Numbers with a fraction are quarters,
//! so that every sum of them is exact. Where the two dialects write something differently the text holds a mark
//! (`§pos(`) that [`for_kalam`] and [`for_sqlite`] spell out.

use super::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Int,
    Real,
    Text,
    Bool,
}

#[derive(Debug, Clone)]
pub struct Column {
    /// As it is written in an expression, with its qualifier.
    pub name: String,
    pub ty: Type,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    /// Columns by their bare names. The first is `id`.
    pub columns: Vec<Column>,
    /// The key is `id`; without one `id` may repeat.
    pub keyed: bool,
}

const MARKS: [(&str, &str, &str); 4] = [
    ("§BIGINT", "BIGINT", "INTEGER"),
    ("§DOUBLE", "DOUBLE", "REAL"),
    ("§pos(", "strpos(", "instr("),
    ("§STRICT", "", " STRICT"),
];

pub fn for_kalam(sql: &str) -> String {
    MARKS.iter().fold(sql.to_owned(), |sql, (mark, kalam, _)| sql.replace(mark, kalam))
}

pub fn for_sqlite(sql: &str) -> String {
    MARKS.iter().fold(sql.to_owned(), |sql, (mark, _, sqlite)| sql.replace(mark, sqlite))
}

const WORDS: [&str; 12] = ["a", "b", "ab", "abc", "B", "", "x%y", "a_b", "zebra", "Ab", " a ", "10"];

pub fn literal(r: &mut Random, ty: Type) -> String {
    if r.one_in(9) && ty != Type::Bool {
        let name = match ty {
            Type::Int => "§BIGINT",
            Type::Real => "§DOUBLE",
            _ => "TEXT",
        };
        return format!("CAST(NULL AS {name})");
    }
    match ty {
        Type::Int => number(r.range(-9, 12)),
        Type::Real => quarters(r),
        Type::Text => format!("'{}'", r.pick(&WORDS)),
        Type::Bool => (*r.pick(&["1 = 1", "1 = 2", "NULL IS NULL", "1 < 0", "2 > NULL"])).to_owned(),
    }
}

fn number(n: i64) -> String {
    if n < 0 { format!("({n})") } else { n.to_string() }
}

fn quarters(r: &mut Random) -> String {
    let n = r.range(-40, 40) as f64 / 4.0;
    if n < 0.0 { format!("({n:?})") } else { format!("{n:?}") }
}

/// A value for a column; NULL one time in six.
pub fn value(r: &mut Random, ty: Type) -> String {
    if r.one_in(6) {
        return "NULL".into();
    }
    match ty {
        Type::Int => r.range(-8, 12).to_string(),
        Type::Real => format!("{:?}", r.range(-40, 40) as f64 / 4.0),
        _ => format!("'{}'", r.pick(&WORDS)),
    }
}

/// Names that queries give to tables.
const ALIASES: [&str; 4] = ["a1", "q2", "t0", "q3"];

/// Tables with data: the statements that make them.
pub fn tables(r: &mut Random) -> (Vec<Table>, Vec<String>) {
    let mut tables = Vec::new();
    let mut statements = Vec::new();
    for t in 0..3 + r.below(2) {
        let name = format!("t{t}");
        let keyed = !r.one_in(4);
        let mut columns = vec![Column { name: "id".into(), ty: Type::Int }];
        // The first two are in every table: what joins and USING go by.
        columns.push(Column { name: "k".into(), ty: Type::Int });
        columns.push(Column { name: "s".into(), ty: Type::Text });
        for (c, alias) in ALIASES.iter().enumerate().take(1 + r.below(4)) {
            let ty = *r.pick(&[Type::Int, Type::Int, Type::Real, Type::Text]);
            // What a query calls a table, a column may be called too.
            let name = if r.one_in(5) { (*alias).to_owned() } else { format!("c{c}") };
            columns.push(Column { name, ty });
        }
        let defined: Vec<String> = columns
            .iter()
            .map(|c| {
                let ty = match c.ty {
                    Type::Int => "§BIGINT",
                    Type::Real => "§DOUBLE",
                    _ => "TEXT",
                };
                let key = if c.name == "id" && keyed { " PRIMARY KEY" } else { "" };
                format!("{} {ty}{key}", c.name)
            })
            .collect();
        statements.push(format!("CREATE TABLE {name} ({})§STRICT", defined.join(", ")));
        let table = Table { name, columns, keyed };
        let rows = *r.pick(&[0, 1, 5, 12, 30, 60]);
        for from in (0..rows).step_by(10) {
            let values: Vec<String> = (from..rows.min(from + 10)).map(|id| row(r, &table, id as i64)).collect();
            statements.push(format!("INSERT INTO {} VALUES {}", table.name, values.join(", ")));
        }
        tables.push(table);
    }
    (tables, statements)
}

/// A row of values; without a key, its `id` may be one that is there.
pub fn row(r: &mut Random, table: &Table, id: i64) -> String {
    let id = if table.keyed { id } else { r.range(0, 20) };
    let values: Vec<String> = table.columns[1..].iter().map(|c| value(r, c.ty)).collect();
    format!("({id}, {})", values.join(", "))
}

/// What an expression may use.
#[derive(Clone, Default)]
pub struct Scope {
    pub columns: Vec<Column>,
}

impl Scope {
    /// The columns of a table under an alias.
    pub fn of(alias: &str, columns: &[Column]) -> Self {
        let column = |c: &Column| Column { name: format!("{alias}.{}", c.name), ty: c.ty };
        Self { columns: columns.iter().map(column).collect() }
    }

    pub fn and(&self, other: &Scope) -> Self {
        Self { columns: self.columns.iter().chain(&other.columns).cloned().collect() }
    }

    pub fn column(&self, r: &mut Random, ty: Type) -> Option<String> {
        let fitting: Vec<&Column> = self.columns.iter().filter(|c| c.ty == ty).collect();
        (!fitting.is_empty()).then(|| r.pick(&fitting).name.clone())
    }
}

pub fn any_type(r: &mut Random) -> Type {
    *r.pick(&[Type::Int, Type::Int, Type::Real, Type::Text, Type::Text])
}

/// An expression without subqueries.
pub fn expr(r: &mut Random, scope: &Scope, ty: Type, depth: usize) -> String {
    if depth == 0 || r.one_in(3) {
        return match scope.column(r, ty) {
            Some(column) if !r.one_in(5) => column,
            _ => literal(r, ty),
        };
    }
    let d = depth - 1;
    macro_rules! e {
        ($ty:expr) => {
            expr(r, scope, $ty, d)
        };
    }
    let choice = r.below(12);
    match (ty, choice) {
        (Type::Bool, _) => condition(r, scope, depth),
        (_, 0) => format!("CASE WHEN {} THEN {} ELSE {} END", condition(r, scope, d), e!(ty), e!(ty)),
        (_, 1) => format!("CASE WHEN {} THEN {} END", condition(r, scope, d), e!(ty)),
        (_, 2) => {
            let of = any_type(r);
            format!(
                "CASE {} WHEN {} THEN {} WHEN {} THEN {} ELSE {} END",
                e!(of),
                e!(of),
                e!(ty),
                e!(of),
                e!(ty),
                e!(ty)
            )
        }
        (_, 3) => format!("coalesce({}, {})", e!(ty), e!(ty)),
        (_, 4) => format!("nullif({}, {})", e!(ty), e!(ty)),
        (Type::Int, 5) => format!("length({})", e!(Type::Text)),
        (Type::Int, 6) => format!("abs({})", e!(Type::Int)),
        (Type::Int, 7) => format!("({} / {})", e!(Type::Int), r.pick(&["2", "3", "(-4)", "7"])),
        (Type::Int, 8) => format!("({} % {})", e!(Type::Int), r.pick(&["2", "3", "(-4)", "7"])),
        (Type::Int, 9) => format!("§pos({}, {})", e!(Type::Text), literal(r, Type::Text)),
        (Type::Int, 10) => format!("(- {})", e!(Type::Int)),
        (Type::Int, _) => format!("({} {} {})", e!(Type::Int), r.pick(&["+", "-"]), e!(Type::Int)),
        (Type::Real, 5) => format!("abs({})", e!(Type::Real)),
        (Type::Real, 6) => format!("({} / {})", e!(Type::Real), r.pick(&["2.0", "0.5", "(-4.0)"])),
        (Type::Real, 7) => format!("CAST({} AS §DOUBLE)", e!(Type::Int)),
        (Type::Real, 8) => format!("({} * {})", e!(Type::Real), r.pick(&["2", "0.5", "(-1.5)"])),
        (Type::Real, 9) => format!("({} {} {})", e!(Type::Real), r.pick(&["+", "-"]), e!(Type::Int)),
        (Type::Real, _) => format!("({} {} {})", e!(Type::Real), r.pick(&["+", "-"]), e!(Type::Real)),
        (Type::Text, 5) => format!("upper({})", e!(Type::Text)),
        (Type::Text, 6) => format!("lower({})", e!(Type::Text)),
        (Type::Text, 7) => format!("substr({}, {}, {})", e!(Type::Text), r.range(1, 3), r.range(0, 3)),
        (Type::Text, 8) => format!("replace({}, 'a', {})", e!(Type::Text), literal(r, Type::Text)),
        (Type::Text, 9) => format!("trim({})", e!(Type::Text)),
        (Type::Text, 10) => format!("CAST({} AS TEXT)", e!(Type::Int)),
        (Type::Text, _) => format!("({} || {})", e!(Type::Text), e!(Type::Text)),
    }
}

/// A condition, with the third truth value.
pub fn condition(r: &mut Random, scope: &Scope, depth: usize) -> String {
    let d = depth.saturating_sub(1);
    let ty = any_type(r);
    macro_rules! e {
        ($ty:expr) => {
            expr(r, scope, $ty, d.min(2))
        };
    }
    let negation = *r.pick(&["", "", "NOT "]);
    match r.below(if depth == 0 { 7 } else { 12 }) {
        0 | 1 => format!("{} {} {}", e!(ty), r.pick(&["=", "<>", "<", "<=", ">", ">="]), e!(ty)),
        2 => format!("{} IS {negation}NULL", e!(ty)),
        3 => format!("{} {negation}BETWEEN {} AND {}", e!(ty), e!(ty), e!(ty)),
        4 => {
            let items: Vec<String> = (0..1 + r.below(4)).map(|_| literal(r, ty)).collect();
            format!("{} {negation}IN ({})", e!(ty), items.join(", "))
        }
        5 => format!("{} {negation}LIKE '{}'", e!(Type::Text), r.pick(&["a%", "%b", "_b%", "%", "", "A_", "%a%b%"])),
        6 => format!("{} IS {negation}DISTINCT FROM {}", e!(ty), e!(ty)),
        7 | 8 => format!("({} AND {})", condition(r, scope, d), condition(r, scope, d)),
        9 | 10 => format!("({} OR {})", condition(r, scope, d), condition(r, scope, d)),
        _ => match r.below(3) {
            0 => format!("({}) IS {negation}TRUE", condition(r, scope, d)),
            1 => format!("({}) IS {negation}FALSE", condition(r, scope, d)),
            _ => format!("NOT ({})", condition(r, scope, d)),
        },
    }
}
