//! Random queries and changes of data over random tables.

use super::random::Random;
use super::schema::{Column, Scope, Table, Type, any_type, condition, expr, literal, row, value};

/// A statement, and how its outcome is compared.
pub struct Statement {
    pub sql: String,
    /// The table that it changes.
    pub changes: Option<String>,
    /// Whether its rows come in an order.
    pub ordered: bool,
}

pub struct Generator<'a> {
    pub r: &'a mut Random,
    pub tables: &'a [Table],
    /// Whether the engine has INSERT … ON CONFLICT.
    pub on_conflict: bool,
    names: usize,
    /// A table that subqueries do not read.
    avoid: Option<String>,
    next_id: i64,
}

/// A query block and what it gives.
pub struct Block {
    pub sql: String,
    pub columns: Vec<Column>,
}

impl<'a> Generator<'a> {
    /// Keys of new rows begin behind `next_id`.
    pub fn new(r: &'a mut Random, tables: &'a [Table], on_conflict: bool, next_id: i64) -> Self {
        Self { r, tables, on_conflict, names: 0, avoid: None, next_id: 1000 + next_id }
    }

    pub fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    pub fn statement(&mut self) -> Statement {
        self.names = 0;
        if self.r.one_in(4) { self.change() } else { self.query() }
    }

    /// A SELECT with everything around it.
    fn query(&mut self) -> Statement {
        let mut with = String::new();
        let mut block = match self.r.below(18) {
            0 => self.set_operation(),
            1 => {
                let (clause, block) = self.common_table();
                with = clause;
                block
            }
            2 => {
                let block = self.block(1);
                let name = self.name("d");
                let scope = Scope::of(&name, &block.columns);
                self.select_from(&format!("({}) AS {name}", block.sql), &scope, 1)
            }
            3 => self.recursive(),
            4 => self.using_star(),
            12.. => self.family(),
            _ => self.block(2),
        };
        let mut ordered = false;
        if self.r.one_in(2) {
            let keys: Vec<String> = (1..=block.columns.len())
                .map(|i| format!("{i}{} NULLS {}", self.r.pick(&["", " DESC"]), self.r.pick(&["FIRST", "LAST"])))
                .collect();
            block.sql += &format!(" ORDER BY {}", keys.join(", "));
            ordered = true;
            if self.r.one_in(2) {
                block.sql += &format!(" LIMIT {}", self.r.below(8));
                if self.r.one_in(3) {
                    block.sql += &format!(" OFFSET {}", self.r.below(4));
                }
            }
        }
        Statement { sql: with + &block.sql, changes: None, ordered }
    }

    pub fn table(&mut self) -> &'a Table {
        loop {
            let table = self.r.pick(self.tables);
            if self.avoid.as_ref() != Some(&table.name) {
                return table;
            }
        }
    }

    /// A FROM clause and its columns.
    pub fn from(&mut self) -> (String, Scope) {
        let table = self.table();
        let alias = self.name("a");
        let mut sql = format!("{} AS {alias}", table.name);
        let mut scope = Scope::of(&alias, &table.columns);
        for _ in 0..*self.r.pick(&[0, 0, 0, 1, 1, 1, 2]) {
            let (other, columns) = if self.r.one_in(6) {
                let block = self.block(0);
                (format!("({})", block.sql), block.columns)
            } else {
                let table = self.table();
                (table.name.clone(), table.columns.clone())
            };
            let alias = self.name("a");
            let right = Scope::of(&alias, &columns);
            let both = scope.and(&right);
            let joined = match self.r.below(8) {
                0 => format!(" CROSS JOIN {other} AS {alias}"),
                1 => format!(", {other} AS {alias}"),
                n => {
                    let kind = match n {
                        2..=4 => "JOIN",
                        5 | 6 => "LEFT JOIN",
                        _ => *self.r.pick(&["RIGHT JOIN", "FULL JOIN"]),
                    };
                    let ty = any_type(self.r);
                    let mut on = match (scope.column(self.r, ty), right.column(self.r, ty)) {
                        (Some(a), Some(b)) => format!("{a} = {b}"),
                        _ => condition(self.r, &both, 0),
                    };
                    if self.r.one_in(4) && kind != "FULL JOIN" {
                        on = format!("{on} AND {}", condition(self.r, &both, 1));
                    }
                    format!(" {kind} {other} AS {alias} ON {on}")
                }
            };
            // In PostgreSQL a comma binds less than JOIN: the sides of a JOIN behind it see nothing before it.
            if sql.contains(", ") && !joined.starts_with(',') {
                continue;
            }
            sql += &joined;
            scope = both;
        }
        (sql, scope)
    }

    /// A block of up to four columns.
    fn block(&mut self, depth: usize) -> Block {
        if self.r.one_in(10) {
            return self.using();
        }
        let (from, scope) = self.from();
        self.select_from(&from, &scope, depth)
    }

    /// `JOIN … USING`: its column is that of both.
    fn using(&mut self) -> Block {
        let (left, right) = (self.table(), self.table());
        let (a, b) = (self.name("a"), self.name("a"));
        let column = *self.r.pick(&["k", "s", "id"]);
        let kind = *self.r.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let ty = if column == "s" { Type::Text } else { Type::Int };
        let mut columns = vec![Column { name: column.into(), ty }];
        let mut items = vec![column.to_owned()];
        for (alias, table) in [(&a, left), (&b, right)] {
            let c = self.r.pick(&table.columns).clone();
            let name = self.name("x");
            items.push(format!("{alias}.{} AS {name}", c.name));
            columns.push(Column { name, ty: c.ty });
        }
        let from = format!("{} AS {a} {kind} {} AS {b} USING ({column})", left.name, right.name);
        Block { sql: format!("SELECT {} FROM {from}", items.join(", ")), columns }
    }

    /// What `*` means over a USING column, the first of both: elsewhere the two engines order columns differently.
    fn using_star(&mut self) -> Block {
        let (left, right) = (self.table(), self.table());
        let kind = *self.r.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let columns = left.columns.iter().chain(&right.columns[1..]).cloned().collect();
        let filter = match self.r.below(2) {
            0 => String::new(),
            _ => format!(" WHERE id % 3 <> {}", self.r.below(3)),
        };
        let sql = format!("SELECT * FROM {} AS a {kind} {} AS b USING (id){filter}", left.name, right.name);
        Block { sql, columns }
    }

    pub fn select_from(&mut self, from: &str, scope: &Scope, depth: usize) -> Block {
        let filter = match self.r.below(3) {
            0 => String::new(),
            _ => format!(" WHERE {}", self.condition(scope, depth)),
        };
        match self.r.below(6) {
            0 | 1 => self.grouped(from, scope, &filter, depth),
            2 if depth > 0 => self.windowed(from, scope, &filter),
            _ => {
                let mut columns = Vec::new();
                let mut items = Vec::new();
                for _ in 0..1 + self.r.below(4) {
                    let ty = if self.r.one_in(8) { Type::Bool } else { any_type(self.r) };
                    let name = self.name("x");
                    let item = if depth > 0 && self.r.one_in(6) {
                        if ty == Type::Bool { self.condition(scope, 1) } else { self.scalar(scope, ty) }
                    } else {
                        expr(self.r, scope, ty, 2)
                    };
                    items.push(format!("{item} AS {name}"));
                    columns.push(Column { name, ty });
                }
                let distinct = if self.r.one_in(6) { "DISTINCT " } else { "" };
                Block { sql: format!("SELECT {distinct}{} FROM {from}{filter}", items.join(", ")), columns }
            }
        }
    }

    pub fn aggregate(&mut self, scope: &Scope) -> (String, Type) {
        let distinct = if self.r.one_in(4) { "DISTINCT " } else { "" };
        let numeric = *self.r.pick(&[Type::Int, Type::Real]);
        let any = any_type(self.r);
        let (call, ty) = match self.r.below(7) {
            0 => ("count(*)".to_owned(), Type::Int),
            1 => (format!("count({distinct}{})", expr(self.r, scope, any, 1)), Type::Int),
            2 => (format!("min({})", expr(self.r, scope, any, 1)), any),
            3 => (format!("max({})", expr(self.r, scope, any, 1)), any),
            4 => (format!("avg({})", expr(self.r, scope, numeric, 1)), Type::Real),
            5 => {
                let text = expr(self.r, scope, Type::Text, 1);
                (format!("string_agg({text}, ',' ORDER BY {text} NULLS FIRST)"), Type::Text)
            }
            _ => (format!("sum({distinct}{})", expr(self.r, scope, numeric, 1)), numeric),
        };
        if self.r.one_in(5) {
            return (format!("{call} FILTER (WHERE {})", condition(self.r, scope, 1)), ty);
        }
        (call, ty)
    }

    fn grouped(&mut self, from: &str, scope: &Scope, filter: &str, depth: usize) -> Block {
        let keys: Vec<(String, Type)> = (0..self.r.below(3))
            .map(|_| {
                let ty = any_type(self.r);
                let key = match scope.column(self.r, ty) {
                    Some(column) if !self.r.one_in(3) => column,
                    _ => format!("coalesce({}, {})", expr(self.r, scope, ty, 1), literal(self.r, ty)),
                };
                (key, ty)
            })
            .collect();
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for (key, ty) in &keys {
            let name = self.name("x");
            items.push(format!("{key} AS {name}"));
            columns.push(Column { name, ty: *ty });
        }
        for _ in 0..1 + self.r.below(3) {
            let (call, ty) = self.aggregate(scope);
            let name = self.name("x");
            items.push(format!("{call} AS {name}"));
            columns.push(Column { name, ty });
        }
        let mut sql = format!("SELECT {} FROM {from}{filter}", items.join(", "));
        if !keys.is_empty() {
            let keys: Vec<&str> = keys.iter().map(|(k, _)| k.as_str()).collect();
            sql += &format!(" GROUP BY {}", keys.join(", "));
        }
        if !keys.is_empty() && depth > 0 && self.r.one_in(3) {
            let (call, ty) = self.aggregate(scope);
            sql += &format!(" HAVING {call} {} {}", self.r.pick(&["=", "<>", "<", ">="]), literal(self.r, ty));
        }
        Block { sql, columns }
    }

    fn windowed(&mut self, from: &str, scope: &Scope, filter: &str) -> Block {
        let order: Vec<String> = scope.columns.iter().map(|c| format!("{} NULLS FIRST", c.name)).collect();
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for column in scope.columns.iter().take(2) {
            let name = self.name("x");
            items.push(format!("{} AS {name}", column.name));
            columns.push(Column { name, ty: column.ty });
        }
        // Which of the rows that are alike comes first, two windows need not agree on: one at the most may tell.
        let mut tells = true;
        for _ in 0..1 + self.r.below(2) {
            let partition = match self.r.below(3) {
                0 => String::new(),
                _ => format!("PARTITION BY {} ", self.r.pick(&scope.columns).name),
            };
            let ty = any_type(self.r);
            let numeric = *self.r.pick(&[Type::Int, Type::Real]);
            let direction = *self.r.pick(&["ASC NULLS FIRST", "DESC NULLS LAST"]);
            let by = scope.column(self.r, ty).unwrap_or_else(|| scope.columns[0].name.clone());
            // By every column: rows that are alike in all of them give the same, whichever comes first.
            let whole = format!("{partition}ORDER BY {}", order.join(", "));
            let frame = *self.r.pick(&[
                "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
                "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING",
                "ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING",
                "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            ]);
            // Functions of rows take columns only: only they are the same in rows that are alike.
            let column = |g: &mut Self, ty| scope.column(g.r, ty).unwrap_or_else(|| literal(g.r, ty));
            let kind = *self.r.pick(if tells { &[0, 1, 2, 3, 4, 5, 6, 7, 8] } else { &[1, 2, 3, 4, 8][..] });
            tells &= matches!(kind, 1..=4 | 8);
            let (call, ty) = match kind {
                0 => (format!("row_number() OVER ({whole})"), Type::Int),
                1 => (format!("rank() OVER ({partition}ORDER BY {by} {direction})"), Type::Int),
                2 => (format!("dense_rank() OVER ({partition}ORDER BY {by} {direction})"), Type::Int),
                3 => (format!("sum({}) OVER ({partition}ORDER BY {by} {direction})", column(self, numeric)), numeric),
                4 => (format!("count({}) OVER ({partition}ORDER BY {by} {direction})", column(self, ty)), Type::Int),
                5 => (format!("sum({}) OVER ({whole} {frame})", column(self, numeric)), numeric),
                6 => {
                    let call = *self.r.pick(&["min", "max", "first_value", "last_value"]);
                    (format!("{call}({}) OVER ({whole} {frame})", column(self, ty)), ty)
                }
                7 => {
                    let call = *self.r.pick(&["lag", "lead"]);
                    let n = self.r.range(1, 3);
                    (format!("{call}({}, {n}) OVER ({whole})", column(self, ty)), ty)
                }
                _ => (format!("count(*) OVER ({})", partition.trim_end()), Type::Int),
            };
            let name = self.name("x");
            items.push(format!("{call} AS {name}"));
            columns.push(Column { name, ty });
        }
        Block { sql: format!("SELECT {} FROM {from}{filter}", items.join(", ")), columns }
    }

    /// A scalar subquery, correlated half of the time.
    pub fn scalar(&mut self, outer: &Scope, ty: Type) -> String {
        let table = self.table();
        let alias = self.name("q");
        let inner = Scope::of(&alias, &table.columns);
        // By its key a row is one value, which no aggregate has to say.
        if table.keyed && self.r.one_in(3) {
            let key = outer.column(self.r, Type::Int).unwrap_or_else(|| self.r.range(0, 12).to_string());
            let value = expr(self.r, &inner, ty, 1);
            return format!("(SELECT {value} FROM {} AS {alias} WHERE {alias}.id = {key})", table.name);
        }
        let call = match ty {
            Type::Int => self.r.pick(&["max", "min", "sum", "count"]),
            _ => self.r.pick(&["max", "min"]),
        };
        let filter = self.correlation(&inner, outer);
        format!("(SELECT {call}({}) FROM {} AS {alias}{filter})", expr(self.r, &inner, ty, 1), table.name)
    }

    /// ` WHERE …` of a subquery.
    pub fn correlation(&mut self, inner: &Scope, outer: &Scope) -> String {
        let ty = any_type(self.r);
        let correlated = match (inner.column(self.r, ty), outer.column(self.r, ty)) {
            (Some(a), Some(b)) if !self.r.one_in(3) => {
                let op = if self.r.one_in(5) { *self.r.pick(&["<", "<>", ">="]) } else { "=" };
                Some(format!("{a} {op} {b}"))
            }
            _ => None,
        };
        let plain = self.r.one_in(2).then(|| condition(self.r, inner, 1));
        match (correlated, plain) {
            (Some(a), Some(b)) => format!(" WHERE {a} AND {b}"),
            (Some(a), None) | (None, Some(a)) => format!(" WHERE {a}"),
            _ => String::new(),
        }
    }

    /// A condition, with subqueries.
    pub fn condition(&mut self, scope: &Scope, depth: usize) -> String {
        if depth == 0 || !self.r.one_in(3) {
            return condition(self.r, scope, 2);
        }
        let table = self.table();
        let alias = self.name("q");
        let inner = Scope::of(&alias, &table.columns);
        let negation = *self.r.pick(&["", "NOT "]);
        let ty = any_type(self.r);
        let asked = match self.r.below(4) {
            0 => {
                let filter = self.correlation(&inner, scope);
                format!("{negation}EXISTS (SELECT 1 FROM {} AS {alias}{filter})", table.name)
            }
            1 => {
                let filter = self.correlation(&inner, &Scope::default());
                let column = inner.column(self.r, ty).unwrap_or_else(|| literal(self.r, ty));
                let left = expr(self.r, scope, ty, 1);
                format!("{left} {negation}IN (SELECT {column} FROM {} AS {alias}{filter})", table.name)
            }
            2 => {
                let filter = self.correlation(&inner, scope);
                let column = inner.column(self.r, ty).unwrap_or_else(|| literal(self.r, ty));
                let left = expr(self.r, scope, ty, 1);
                format!("{left} {negation}IN (SELECT {column} FROM {} AS {alias}{filter})", table.name)
            }
            _ => {
                let op = *self.r.pick(&["=", "<", ">=", "<>"]);
                let left = expr(self.r, scope, ty, 1);
                format!("{left} {op} {}", self.scalar(scope, ty))
            }
        };
        match self.r.below(8) {
            0 | 1 => format!("({asked} OR {})", condition(self.r, scope, 1)),
            2 | 3 => format!("({asked} AND {})", condition(self.r, scope, 1)),
            4 => format!("NOT ({asked} AND {})", condition(self.r, scope, 1)),
            5 => format!("({asked}) IS {negation}{}", self.r.pick(&["TRUE", "FALSE"])),
            _ => asked,
        }
    }

    /// A block whose columns have given types.
    fn typed(&mut self, types: &[Type]) -> String {
        let (from, scope) = self.from();
        let items: Vec<String> = types.iter().map(|&ty| expr(self.r, &scope, ty, 2)).collect();
        let filter = match self.r.below(2) {
            0 => String::new(),
            _ => format!(" WHERE {}", self.condition(&scope, 1)),
        };
        format!("SELECT {} FROM {from}{filter}", items.join(", "))
    }

    fn set_operation(&mut self) -> Block {
        let types: Vec<Type> = (0..1 + self.r.below(3)).map(|_| any_type(self.r)).collect();
        let op = *self.r.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
        let mut sql = self.typed(&types);
        for _ in 0..1 + self.r.below(2) {
            sql += &format!(" {op} {}", self.typed(&types));
        }
        let columns = types.iter().map(|&ty| Column { name: String::new(), ty }).collect();
        Block { sql, columns }
    }

    fn common_table(&mut self) -> (String, Block) {
        let block = self.block(1);
        let name = self.name("w");
        let with = format!("WITH {name} AS ({}) ", block.sql);
        let (a, b) = (self.name("a"), self.name("a"));
        let (left, right) = (Scope::of(&a, &block.columns), Scope::of(&b, &block.columns));
        if self.r.one_in(2) {
            return (with, self.select_from(&format!("{name} AS {a}"), &left, 1));
        }
        let column = self.r.below(block.columns.len());
        let on = format!("{} = {}", left.columns[column].name, right.columns[column].name);
        let from = format!("{name} AS {a} JOIN {name} AS {b} ON {on}");
        (with, self.select_from(&from, &left.and(&right), 0))
    }

    fn recursive(&mut self) -> Block {
        let table = self.table();
        let to = self.r.range(1, 6);
        let sql = format!(
            "WITH RECURSIVE n(i, t) AS (SELECT 0, 'x' UNION ALL SELECT i + 1, t || 'y' FROM n WHERE i < {to}) \
             SELECT n.i, n.t, count(q.id) FROM n LEFT JOIN {} AS q ON q.k = n.i GROUP BY n.i, n.t",
            table.name
        );
        let column = |name: &str, ty| Column { name: name.into(), ty };
        Block { sql, columns: vec![column("i", Type::Int), column("t", Type::Text), column("c", Type::Int)] }
    }

    /// INSERT, UPDATE or DELETE.
    fn change(&mut self) -> Statement {
        let table = self.table();
        let scope = Scope::of(&table.name, &table.columns);
        let sql = match self.r.below(8) {
            0 | 1 => {
                let mut given = Vec::new();
                let rows: Vec<String> = (0..1 + self.r.below(4))
                    .map(|_| {
                        // Sometimes a key that is there. Not twice: PostgreSQL refuses that of ON CONFLICT DO UPDATE.
                        let there = if self.r.one_in(6) { Some(self.r.range(0, 40)) } else { None };
                        let id = there.filter(|id| !given.contains(id)).unwrap_or_else(|| self.fresh());
                        given.push(id);
                        row(self.r, table, id)
                    })
                    .collect();
                let conflict = match self.on_conflict && table.keyed && self.r.one_in(2) {
                    true => self.conflict(table),
                    false => String::new(),
                };
                format!("INSERT INTO {} VALUES {}{conflict}", table.name, rows.join(", "))
            }
            2 => {
                // Ids above all that are there, by the number of the row.
                let other = self.table();
                let from = Scope::of("o", &other.columns);
                let start = self.fresh();
                self.next_id += 100;
                let order: Vec<String> = from.columns.iter().map(|c| format!("{} NULLS FIRST", c.name)).collect();
                let items: Vec<String> = table.columns[1..].iter().map(|c| expr(self.r, &from, c.ty, 1)).collect();
                let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
                let id = format!("{start} + row_number() OVER (ORDER BY {})", order.join(", "));
                format!(
                    "INSERT INTO {} ({}) SELECT {id}, {} FROM {} AS o WHERE {} AND o.id < 30",
                    table.name,
                    names.join(", "),
                    items.join(", "),
                    other.name,
                    condition(self.r, &from, 1),
                )
            }
            3 | 4 => {
                let mut sets = Vec::new();
                for column in table.columns[1..].iter() {
                    if self.r.one_in(2) || sets.is_empty() {
                        let new = if self.r.one_in(6) {
                            // SQLite's subqueries in SET see the rows that the statement has changed so far.
                            self.avoid = Some(table.name.clone());
                            let scalar = self.scalar(&scope, column.ty);
                            self.avoid = None;
                            scalar
                        } else {
                            expr(self.r, &scope, column.ty, 2)
                        };
                        sets.push(format!("{} = {}", column.name, bounded(&new, column.ty)));
                    }
                }
                let filter = self.filter(&scope);
                format!("UPDATE {} SET {}{filter}", table.name, sets.join(", "))
            }
            5 => {
                // From a query that has one row per key, so what is set is one value.
                let other = self.table();
                let column = self.r.pick(&table.columns[1..]).clone();
                let fitting: Vec<&Column> = other.columns.iter().filter(|c| c.ty == column.ty).collect();
                let new = match fitting.first() {
                    Some(_) => format!("max({})", self.r.pick(&fitting).name),
                    None => format!("max({})", value(self.r, column.ty)),
                };
                format!(
                    "UPDATE {0} SET {1} = o.v FROM (SELECT k, {new} AS v FROM {2} GROUP BY k) AS o WHERE {0}.k = o.k AND {3}",
                    table.name,
                    column.name,
                    other.name,
                    condition(self.r, &scope, 1),
                )
            }
            6 => {
                let column = self.r.pick(&table.columns[1..]).clone();
                let id = self.r.range(0, 30);
                format!("UPDATE {} SET {} = {} WHERE id = {id}", table.name, column.name, value(self.r, column.ty))
            }
            _ => {
                let filter = match self.r.one_in(2) {
                    true => format!(" WHERE id = {}", self.r.range(0, 30)),
                    false => format!("{} AND id % 5 = {}", self.filter(&scope), self.r.below(5)),
                };
                format!("DELETE FROM {}{filter}", table.name)
            }
        };
        Statement { sql, changes: Some(table.name.clone()), ordered: false }
    }

    fn fresh(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn filter(&mut self, scope: &Scope) -> String {
        format!(" WHERE ({})", self.condition(scope, 1))
    }

    fn conflict(&mut self, table: &Table) -> String {
        if self.r.one_in(2) {
            return " ON CONFLICT DO NOTHING".into();
        }
        let column = self.r.pick(&table.columns[1..]).name.clone();
        let filter = match self.r.one_in(3) {
            true => format!(" WHERE excluded.{column} IS NOT NULL"),
            false => String::new(),
        };
        format!(" ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column}{filter}")
    }
}

/// Numbers stay small over many statements, so that sums of them stay exact.
fn bounded(new: &str, ty: Type) -> String {
    match ty {
        Type::Int => format!("({new}) % 100"),
        Type::Real => format!("CASE WHEN abs({new}) < 1000 THEN {new} END"),
        _ => format!("substr({new}, 1, 12)"),
    }
}
