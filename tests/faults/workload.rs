//! The workload, and what a database shows in each of its states.

use std::collections::{BTreeMap, BTreeSet};

pub type Rows = Vec<Vec<String>>;

/// What a database shows: the columns with their types and the sorted rows of every table and view, and the namespaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    pub tables: BTreeMap<String, (Vec<String>, Rows)>,
    pub namespaces: BTreeSet<String>,
}

impl World {
    pub fn create(&mut self, table: &str, columns: &[&str]) {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        self.tables.insert(table.to_owned(), (columns, Vec::new()));
    }

    pub fn rows(&mut self, table: &str) -> &mut Rows {
        &mut self.tables.get_mut(table).expect("a table of the oracle").1
    }

    pub fn columns(&mut self, table: &str) -> &mut Vec<String> {
        &mut self.tables.get_mut(table).expect("a table of the oracle").0
    }

    pub fn add(&mut self, table: &str, rows: impl IntoIterator<Item = Vec<String>>) {
        let all = self.rows(table);
        all.extend(rows);
        all.sort();
    }

    pub fn each(&mut self, table: &str, change: impl Fn(&mut Vec<String>)) {
        let all = self.rows(table);
        all.iter_mut().for_each(change);
        all.sort();
    }

    pub fn keep(&mut self, table: &str, keep: impl Fn(&Vec<String>) -> bool) {
        self.rows(table).retain(keep);
    }
}

pub enum Work {
    Sql(String),
    /// A CSV file into a table, created if it is not there.
    Csv(&'static str, String),
}

pub struct Step {
    pub work: Work,
    pub change: Box<dyn Fn(&mut World) + Send + Sync>,
}

pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

pub fn int(cell: &str) -> i64 {
    cell.parse().expect("an integer of the oracle")
}

/// The workload; see the module's comment.
pub fn workload() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut sql = |text: &str, change: fn(&mut World)| {
        steps.push(Step { work: Work::Sql(text.to_owned()), change: Box::new(change) });
    };
    sql("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, n INT NOT NULL DEFAULT 7)", |w| {
        w.create("default.t", &["id INT", "name TEXT", "n INT"]);
    });
    sql("INSERT INTO t VALUES (1, 'one', 10), (2, 'two', 20), (3, 'three', 30)", |w| {
        w.add("default.t", [row(["1", "one", "10"]), row(["2", "two", "20"]), row(["3", "three", "30"])]);
    });
    sql("CREATE NAMESPACE shop", |w| {
        w.namespaces.insert("shop".into());
    });
    sql("CREATE TABLE shop.bag (a INT, b TEXT)", |w| w.create("shop.bag", &["a INT", "b TEXT"]));
    sql("INSERT INTO shop.bag VALUES (1, 'x'), (1, 'x'), (2, NULL)", |w| {
        w.add("shop.bag", [row(["1", "x"]), row(["1", "x"]), row(["2", "NULL"])]);
    });
    sql("INSERT INTO t (id, name) VALUES (4, 'four')", |w| w.add("default.t", [row(["4", "four", "7"])]));
    sql("UPDATE t SET n = n + 1", |w| w.each("default.t", |r| r[2] = (int(&r[2]) + 1).to_string()));
    sql("UPDATE shop.bag SET b = 'y' WHERE a = 1", |w| {
        w.each("shop.bag", |r| {
            if r[0] == "1" {
                r[1] = "y".into();
            }
        });
    });
    sql("DELETE FROM t WHERE id = 2", |w| w.keep("default.t", |r| r[0] != "2"));
    sql("CREATE VIEW big AS SELECT id, n FROM t WHERE n > 10", |w| w.create("default.big", &["id INT", "n INT"]));
    sql("ALTER TABLE t ADD COLUMN note TEXT DEFAULT 'none'", |w| {
        w.columns("default.t").push("note TEXT".into());
        w.each("default.t", |r| r.push("none".into()));
    });
    sql("INSERT INTO t VALUES (5, 'five', 50, 'new')", |w| w.add("default.t", [row(["5", "five", "50", "new"])]));
    sql("ALTER TABLE t RENAME COLUMN name TO title", |w| w.columns("default.t")[1] = "title TEXT".into());
    sql("UPDATE t SET id = id + 100 WHERE id >= 4", |w| {
        w.each("default.t", |r| {
            if int(&r[0]) >= 4 {
                r[0] = (int(&r[0]) + 100).to_string();
            }
        });
    });
    sql("ALTER TABLE t ALTER COLUMN id TYPE BIGINT", |w| w.columns("default.t")[0] = "id BIGINT".into());
    sql("INSERT INTO t VALUES (5000000000, 'far', 1, NULL)", |w| {
        w.add("default.t", [row(["5000000000", "far", "1", "NULL"])]);
    });
    sql("ALTER TABLE t DROP COLUMN note", |w| {
        w.columns("default.t").pop();
        w.each("default.t", |r| drop(r.pop()));
    });
    sql("CREATE TABLE copy AS SELECT id, n FROM t WHERE n > 10", |w| {
        w.create("default.copy", &["id BIGINT", "n INT"]);
        let rows: Rows = w.rows("default.t").iter().filter(|r| int(&r[2]) > 10).map(|r| row([&r[0], &r[2]])).collect();
        w.add("default.copy", rows);
    });
    sql("STORAGE FLUSH ALL", |_| {});
    sql("INSERT INTO t VALUES (200, 'hot', 9)", |w| w.add("default.t", [row(["200", "hot", "9"])]));
    // Rows of segments, of memory, and a key of each that moves.
    sql("UPDATE t SET n = n + 1", |w| w.each("default.t", |r| r[2] = (int(&r[2]) + 1).to_string()));
    sql("DELETE FROM t WHERE id = 3", |w| w.keep("default.t", |r| r[0] != "3"));
    sql("STORAGE FLUSH TABLE t", |_| {});
    sql("UPDATE t SET id = id + 1 WHERE id = 200", |w| {
        w.each("default.t", |r| {
            if r[0] == "200" {
                r[0] = "201".into();
            }
        });
    });
    sql("ALTER TABLE t ADD COLUMN extra INT DEFAULT 3", |w| {
        w.columns("default.t").push("extra INT".into());
        w.each("default.t", |r| r.push("3".into()));
    });
    sql("ALTER TABLE t DROP COLUMN extra", |w| {
        w.columns("default.t").pop();
        w.each("default.t", |r| drop(r.pop()));
    });
    sql("STORAGE COMPACT TABLE t", |_| {});
    sql("DELETE FROM t WHERE id = 201", |w| w.keep("default.t", |r| r[0] != "201"));
    sql("STORAGE COMPACT ALL", |_| {});
    sql("DELETE FROM shop.bag", |w| w.keep("shop.bag", |_| false));
    sql("INSERT INTO shop.bag SELECT id, title FROM t WHERE id < 1000", |w| {
        let rows: Rows =
            w.rows("default.t").iter().filter(|r| int(&r[0]) < 1000).map(|r| row([&r[0], &r[1]])).collect();
        w.add("shop.bag", rows);
    });
    sql("ALTER TABLE copy RENAME TO kept", |w| {
        let table = w.tables.remove("default.copy").expect("there");
        w.tables.insert("default.kept".into(), table);
    });
    sql("CREATE OR REPLACE VIEW big AS SELECT title FROM t WHERE n > 20", |w| w.create("default.big", &["title TEXT"]));
    let csv: String = (0..40).map(|n| format!("{n},row {n}\n")).collect();
    steps.push(Step {
        work: Work::Csv("shop.loaded", format!("k,v\n{csv}")),
        change: Box::new(|w| {
            w.create("shop.loaded", &["k BIGINT", "v TEXT"]);
            w.add("shop.loaded", (0..40).map(|n| vec![n.to_string(), format!("row {n}")]));
        }),
    });
    steps.push(Step {
        work: Work::Csv("shop.loaded", "k,v\n77,again\n".into()),
        change: Box::new(|w| w.add("shop.loaded", [row(["77", "again"])])),
    });
    // More than one stored value holds.
    let long: &'static str = Box::leak(
        (0..90_000u64)
            .map(|n| format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .collect::<String>()
            .into_boxed_str(),
    );
    steps.push(Step {
        work: Work::Sql(format!("INSERT INTO shop.bag VALUES (9, '{long}')")),
        change: Box::new(move |w| w.add("shop.bag", [row(["9", long])])),
    });
    let mut sql = |text: &str, change: fn(&mut World)| {
        steps.push(Step { work: Work::Sql(text.to_owned()), change: Box::new(change) });
    };
    sql("DELETE FROM shop.bag WHERE a = 9", |w| w.keep("shop.bag", |r| r[0] != "9"));
    sql("DROP VIEW big", |w| drop(w.tables.remove("default.big")));
    sql("DROP TABLE shop.loaded", |w| drop(w.tables.remove("shop.loaded")));
    sql("CREATE TABLE shop.loaded (z INT PRIMARY KEY)", |w| w.create("shop.loaded", &["z INT"]));
    sql("DROP TABLE shop.loaded", |w| drop(w.tables.remove("shop.loaded")));
    sql("DROP TABLE shop.bag", |w| drop(w.tables.remove("shop.bag")));
    sql("DROP NAMESPACE shop", |w| {
        w.namespaces.remove("shop");
    });
    sql("UPDATE t SET title = 'end' WHERE id = 1", |w| {
        w.each("default.t", |r| {
            if r[0] == "1" {
                r[1] = "end".into();
            }
        });
    });
    steps
}

/// The views of the workload, computed as their definitions say.
pub fn with_views(mut world: World) -> World {
    let Some((columns, _)) = world.tables.get("default.big").cloned() else { return world };
    let t = world.rows("default.t").clone();
    if columns.len() == 2 {
        world.columns("default.big")[0] = world.columns("default.t")[0].clone();
    }
    let mut rows: Rows = if columns.len() == 2 {
        t.iter().filter(|r| int(&r[2]) > 10).map(|r| row([&r[0], &r[2]])).collect()
    } else {
        t.iter().filter(|r| int(&r[2]) > 20).map(|r| row([&r[1]])).collect()
    };
    rows.sort();
    *world.rows("default.big") = rows;
    world
}
