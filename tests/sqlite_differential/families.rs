//! Families of queries that one block of a query does not reach: subqueries in odd places and within each other, limits
//! and set operations below others, expressions around aggregates, frames of windows.

use super::query::{Block, Generator};
use super::schema::{Column, Scope, Type, any_type, condition, expr, literal};

impl Generator<'_> {
    /// One of the families.
    pub fn family(&mut self) -> Block {
        match self.r.below(9) {
            0 => self.having(),
            1 => self.sorted_by_subquery(),
            2 => self.joined_on_subquery(),
            3 => self.distinct_sorted(),
            4 => self.around_aggregates(),
            5 => self.limited(),
            6 => self.framed(),
            7 => self.windowed_groups(),
            _ => self.nested(),
        }
    }

    fn aliased(&mut self) -> (String, Scope) {
        let table = self.table();
        let alias = self.name("a");
        (format!("{} AS {alias}", table.name), Scope::of(&alias, &table.columns))
    }

    /// A subquery of one column: a set operation, a limited one, one with a subquery of its own, or a derived table.
    fn column_of(&mut self, outer: &Scope, ty: Type) -> String {
        let table = self.table();
        let alias = self.name("q");
        let inner = Scope::of(&alias, &table.columns);
        let both = inner.and(outer);
        let filter = self.correlation(&inner, outer);
        let value = expr(self.r, &inner, ty, 1);
        let name = &table.name;
        match self.r.below(6) {
            0 => {
                let op = *self.r.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
                let other = self.table();
                let alias2 = self.name("q");
                let scope = Scope::of(&alias2, &other.columns);
                let filter2 = self.correlation(&scope, outer);
                let value2 = expr(self.r, &scope, ty, 1);
                format!(
                    "SELECT {value} FROM {name} AS {alias}{filter} {op} SELECT {value2} FROM {} AS {alias2}{filter2}",
                    other.name
                )
            }
            1 => {
                let (n, m) = (self.r.below(4), self.r.below(3));
                let direction = *self.r.pick(&["NULLS FIRST", "DESC NULLS LAST"]);
                let sorted = format!(
                    "SELECT {value} AS v FROM {name} AS {alias}{filter} ORDER BY 1 {direction} LIMIT {n} OFFSET {m}"
                );
                if self.r.one_in(2) { sorted } else { format!("SELECT v FROM ({sorted}) AS {alias}d") }
            }
            2 => {
                let deeper = self.condition(&both, 1);
                let value = expr(self.r, &both, ty, 1);
                format!("SELECT {value} FROM {name} AS {alias} WHERE {deeper}")
            }
            3 => {
                let key = self.r.pick(&inner.columns).name.clone();
                let call = *self.r.pick(&["max", "min"]);
                format!("SELECT {call}({value}) FROM {name} AS {alias}{filter} GROUP BY {key}")
            }
            4 => {
                let inner = format!("SELECT DISTINCT {value} AS v FROM {name} AS {alias}{filter}");
                format!("SELECT {alias}d.v FROM ({inner}) AS {alias}d WHERE {alias}d.v IS NOT NULL")
            }
            _ => {
                let other = self.table();
                let alias2 = self.name("q");
                let kind = *self.r.pick(&["JOIN", "LEFT JOIN"]);
                format!(
                    "SELECT {value} FROM {name} AS {alias} {kind} {} AS {alias2} ON {alias}.k = {alias2}.k{filter}",
                    other.name
                )
            }
        }
    }

    /// A condition about [`Self::column_of`].
    fn asking(&mut self, scope: &Scope) -> String {
        let ty = any_type(self.r);
        let left = expr(self.r, scope, ty, 1);
        let negation = *self.r.pick(&["", "NOT "]);
        let subquery = self.column_of(scope, ty);
        match self.r.below(4) {
            0 => format!("{negation}EXISTS ({subquery})"),
            1 => format!("({left} {negation}IN ({subquery})) IS {negation}NULL"),
            2 => format!(
                "CASE WHEN {left} {negation}IN ({subquery}) THEN {} ELSE 1 = 2 END",
                condition(self.r, scope, 0)
            ),
            _ => format!("{left} {negation}IN ({subquery})"),
        }
    }

    /// A scalar subquery of [`Self::column_of`].
    fn value_of(&mut self, scope: &Scope, ty: Type) -> String {
        let call = *self.r.pick(&["max", "min"]);
        let alias = self.name("v");
        let (column, table) = (self.column_of(scope, ty), self.table());
        match self.r.below(3) {
            0 => format!("(SELECT {call}({alias}.k) FROM {} AS {alias} WHERE {})", table.name, {
                let inner = Scope::of(&alias, &table.columns).and(scope);
                self.asking(&inner)
            }),
            _ => {
                let name = self.name("w");
                format!("(WITH {name}(v) AS ({column}) SELECT {call}({alias}.v) FROM {name} AS {alias})")
            }
        }
    }

    fn nested(&mut self) -> Block {
        let (from, scope) = self.from();
        let filter = if self.r.one_in(2) { format!(" WHERE {}", self.asking(&scope)) } else { String::new() };
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for _ in 0..1 + self.r.below(3) {
            let ty = any_type(self.r);
            let (item, ty) = match self.r.below(3) {
                0 => (self.asking(&scope), Type::Bool),
                1 => (self.value_of(&scope, Type::Int), Type::Int),
                _ => (expr(self.r, &scope, ty, 2), ty),
            };
            let name = self.name("x");
            items.push(format!("{item} AS {name}"));
            columns.push(Column { name, ty });
        }
        Block { sql: format!("SELECT {} FROM {from}{filter}", items.join(", ")), columns }
    }

    fn having(&mut self) -> Block {
        let (from, scope) = self.from();
        let key = self.r.pick(&scope.columns).clone();
        let group = Scope { columns: vec![key.clone()] };
        let (call, ty) = self.aggregate(&scope);
        let asked = match self.r.below(3) {
            0 => self.asking(&group),
            1 => format!("count(*) >= {}", self.value_of(&group, Type::Int)),
            _ => format!("count(*) {}IN (SELECT k FROM {})", self.r.pick(&["", "NOT "]), self.table().name),
        };
        let sql = format!("SELECT {0} AS x1, {call} AS x2 FROM {from} GROUP BY {0} HAVING {asked}", key.name);
        Block { sql, columns: vec![Column { name: "x1".into(), ty: key.ty }, Column { name: "x2".into(), ty }] }
    }

    /// Rows of a query that a subquery sorts and LIMIT cuts.
    fn sorted_by_subquery(&mut self) -> Block {
        let (from, scope) = self.aliased();
        let by = match self.r.below(2) {
            0 => self.value_of(&scope, Type::Int),
            _ => self.scalar(&scope, Type::Int),
        };
        let all: Vec<String> = scope.columns.iter().map(|c| format!("{} NULLS FIRST", c.name)).collect();
        let n = self.r.below(9);
        let items: Vec<String> = scope.columns.iter().map(|c| c.name.clone()).collect();
        let sql = format!(
            "SELECT d.* FROM (SELECT {} FROM {from} ORDER BY {by} NULLS FIRST, {} LIMIT {n}) AS d",
            items.join(", "),
            all.join(", ")
        );
        Block { sql, columns: scope.columns }
    }

    /// An outer or inner join with a subquery in its condition, of one side or of both.
    fn joined_on_subquery(&mut self) -> Block {
        let ((left, a), (right, b)) = (self.aliased(), self.aliased());
        let kind = *self.r.pick(&["JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let side = if self.r.one_in(2) { &a } else { &b };
        let asked = match self.r.below(3) {
            0 => {
                let value = self.scalar(side, Type::Int);
                format!("{} <= {value}", side.columns[0].name)
            }
            1 => self.asking(&a.and(&b)),
            _ => self.asking(side),
        };
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for c in a.columns.iter().take(2).chain(b.columns.iter().take(2)) {
            let name = self.name("x");
            items.push(format!("{} AS {name}", c.name));
            columns.push(Column { name, ty: c.ty });
        }
        let mut on = format!("{} = {} AND {asked}", a.columns[1].name, b.columns[1].name);
        if kind != "FULL JOIN" && self.r.one_in(4) {
            on = asked;
        }
        Block { sql: format!("SELECT {} FROM {left} {kind} {right} ON {on}", items.join(", ")), columns }
    }

    fn distinct_sorted(&mut self) -> Block {
        let (from, scope) = self.from();
        let types: Vec<Type> = (0..1 + self.r.below(2)).map(|_| any_type(self.r)).collect();
        let columns: Vec<Column> =
            types.iter().enumerate().map(|(i, &ty)| Column { name: format!("x{}", i + 1), ty }).collect();
        let items: Vec<String> =
            columns.iter().map(|c| format!("{} AS {}", expr(self.r, &scope, c.ty, 2), c.name)).collect();
        let out = Scope::of("d", &columns);
        let by = expr(self.r, &out, Type::Int, 1);
        let all: Vec<String> = out.columns.iter().map(|c| format!("{} DESC NULLS LAST", c.name)).collect();
        let n = self.r.below(7);
        // A key that is a number alone would be a place.
        let sql = format!(
            "SELECT e.* FROM (SELECT d.* FROM (SELECT DISTINCT {} FROM {from}) AS d ORDER BY coalesce({by}, 0), {} LIMIT {n}) AS e",
            items.join(", "),
            all.join(", ")
        );
        Block { sql, columns }
    }

    /// Groups of expressions that may be NULL, and expressions of aggregates.
    fn around_aggregates(&mut self) -> Block {
        let (from, scope) = self.from();
        let ty = any_type(self.r);
        let key = match self.r.below(3) {
            0 => format!("nullif({}, {})", expr(self.r, &scope, ty, 1), literal(self.r, ty)),
            1 => format!("CASE WHEN {} THEN {} END", condition(self.r, &scope, 1), expr(self.r, &scope, ty, 1)),
            _ => scope.column(self.r, ty).unwrap_or_else(|| format!("nullif({0}, {0})", literal(self.r, ty))),
        };
        let mut columns = vec![Column { name: "x1".into(), ty }];
        let mut items = vec![format!("{key} AS x1")];
        for _ in 0..1 + self.r.below(3) {
            let numeric = *self.r.pick(&[Type::Int, Type::Real]);
            let (a, b) = (expr(self.r, &scope, numeric, 1), expr(self.r, &scope, numeric, 1));
            let (item, ty) = match self.r.below(5) {
                0 => (format!("CASE WHEN count(*) > {} THEN max({a}) ELSE min({b}) END", self.r.below(4)), numeric),
                1 => (format!("coalesce(sum({a}), 0) + count({b})"), numeric),
                2 => (format!("nullif(count(DISTINCT {a}), {})", self.r.below(3)), Type::Int),
                3 => (format!("max({a}) IS DISTINCT FROM min({b})"), Type::Bool),
                _ => (format!("sum(CASE WHEN {} THEN 1 ELSE 0 END)", condition(self.r, &scope, 1)), Type::Int),
            };
            let name = self.name("x");
            items.push(format!("{item} AS {name}"));
            columns.push(Column { name, ty });
        }
        let filter = if self.r.one_in(3) { format!(" WHERE {}", condition(self.r, &scope, 2)) } else { String::new() };
        Block { sql: format!("SELECT {} FROM {from}{filter} GROUP BY {key}", items.join(", ")), columns }
    }

    /// A join with a derived table that LIMIT and OFFSET cut.
    fn limited(&mut self) -> Block {
        let ((left, a), (right, b)) = (self.aliased(), self.aliased());
        let by: Vec<String> = b.columns.iter().map(|c| format!("{} NULLS FIRST", c.name)).collect();
        let name = self.name("d");
        let (n, m) = (self.r.below(8), self.r.below(4));
        let table = self.r.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let bare: Vec<Column> = b
            .columns
            .iter()
            .map(|c| Column { name: c.name.split('.').next_back().unwrap_or_default().to_owned(), ty: c.ty })
            .collect();
        let d = Scope::of(&name, &bare);
        let on = format!("{} = {}", a.columns[1].name, d.columns[1].name);
        let from = format!(
            "{left} {table} (SELECT * FROM {right} ORDER BY {} LIMIT {n} OFFSET {m}) AS {name} ON {on}",
            by.join(", ")
        );
        self.select_from(&from, &a.and(&d), 1)
    }

    /// Aggregates over frames by rows, by values and by groups of equal rows.
    fn framed(&mut self) -> Block {
        let (from, scope) = self.from();
        let all: Vec<String> = scope.columns.iter().map(|c| format!("{} NULLS FIRST", c.name)).collect();
        let by = scope.column(self.r, Type::Int).unwrap_or_else(|| scope.columns[0].name.clone());
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for c in scope.columns.iter().take(2) {
            let name = self.name("x");
            items.push(format!("{} AS {name}", c.name));
            columns.push(Column { name, ty: c.ty });
        }
        let mut tells = true;
        for _ in 0..1 + self.r.below(2) {
            let partition = match self.r.below(3) {
                0 => String::new(),
                _ => format!("PARTITION BY {} ", self.r.pick(&scope.columns).name),
            };
            let (low, high) = (self.r.below(4), self.r.below(4));
            let bounds = match self.r.below(5) {
                0 => format!("BETWEEN {low} PRECEDING AND {high} FOLLOWING"),
                1 => format!("BETWEEN {} PRECEDING AND {low} PRECEDING", low + high),
                2 => format!("BETWEEN {low} FOLLOWING AND {} FOLLOWING", low + high),
                3 => format!("BETWEEN CURRENT ROW AND {high} FOLLOWING"),
                _ => "BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW".to_owned(),
            };
            let value = scope.column(self.r, Type::Int).unwrap_or_else(|| "1".into());
            let filter = match self.r.one_in(4) {
                true => format!(" FILTER (WHERE {value} > {})", self.r.below(5)),
                false => String::new(),
            };
            let call = match self.r.below(3) {
                0 => format!("sum({value}){filter}"),
                1 => format!("count({value}){filter}"),
                _ => format!("{}({value}){filter}", self.r.pick(&["min", "max"])),
            };
            let whole = format!("{partition}ORDER BY {}", all.join(", "));
            let direction = *self.r.pick(&["NULLS FIRST", "DESC NULLS LAST"]);
            // Which of the rows that are alike comes first, two windows need not agree on: one at the most may tell.
            let kind = self.r.below(if tells { 6 } else { 2 });
            tells &= kind < 2;
            let item = match kind {
                0 => format!("{call} OVER ({partition}ORDER BY {by} {direction} RANGE {bounds})"),
                1 => format!("{call} OVER ({partition}ORDER BY {by} {direction} GROUPS {bounds})"),
                2 => format!("ntile({}) OVER ({whole})", 1 + self.r.below(5)),
                3 => format!("nth_value({value}, {}) OVER ({whole})", 1 + self.r.below(3)),
                4 => format!("lag({value}, {}, -99) OVER ({whole})", self.r.below(3)),
                _ => format!("{call} OVER ({whole} ROWS {bounds})"),
            };
            let name = self.name("x");
            items.push(format!("{item} AS {name}"));
            columns.push(Column { name, ty: Type::Int });
        }
        let filter = if self.r.one_in(3) { format!(" WHERE {}", condition(self.r, &scope, 1)) } else { String::new() };
        Block { sql: format!("SELECT {} FROM {from}{filter}", items.join(", ")), columns }
    }

    /// Windows over groups.
    fn windowed_groups(&mut self) -> Block {
        let (from, scope) = self.from();
        let key = self.r.pick(&scope.columns).clone();
        let value = scope.column(self.r, Type::Int).unwrap_or_else(|| "1".into());
        let over = match self.r.below(3) {
            0 => "ORDER BY count(*), 1".to_owned(),
            1 => format!("PARTITION BY count(*) ORDER BY {} NULLS FIRST", key.name),
            _ => format!("ORDER BY {} NULLS FIRST", key.name),
        };
        let call = *self.r.pick(&["rank()", "sum(count(*))", "count(*)", "sum(sum(§v))", "max(count(§v))"]);
        let call = call.replace("§v", &value);
        let sql = format!(
            "SELECT {0} AS x1, count({value}) AS x2, {call} OVER ({over}) AS x3 FROM {from} GROUP BY {0}",
            key.name
        );
        let column = |name: &str, ty| Column { name: name.into(), ty };
        Block { sql, columns: vec![column("x1", key.ty), column("x2", Type::Int), column("x3", Type::Int)] }
    }
}
