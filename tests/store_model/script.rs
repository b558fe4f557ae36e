//! What a case does, and the oracle: what it leads to.

use std::collections::BTreeMap;

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub enum Step {
    /// Inserts rows with these keys: fails as a whole when one is there.
    Insert(Vec<i64>),
    /// Statements awaited together, each inserting one row.
    Together(Vec<i64>),
    /// `UPDATE … SET v = v + n WHERE k % m = 0`.
    Update(i64, i64),
    /// `UPDATE … SET k = k + n`: moves every key.
    Shift(i64),
    /// `DELETE … WHERE k < n`.
    Delete(i64),
    /// `INSERT … ON CONFLICT DO UPDATE SET v = v + 1`: refused as a whole when a key comes twice.
    Upsert(Vec<i64>),
    /// The same, one statement for each key, awaited together.
    UpsertTogether(Vec<i64>),
    /// `TRUNCATE` of both tables.
    Truncate,
    /// `INSERT`, `TRUNCATE` and `INSERT` awaited together.
    TruncateTogether(i64, i64),
    /// `ALTER COLUMN v TYPE BIGINT USING v + n`.
    Rewrite(i64),
    /// `BEGIN`, statements on both tables, something that somebody else does after some of them, and the end.
    Transaction { changes: Vec<Change>, beside: Beside, after: usize, commit: bool },
    /// Storage fails for the next so many commits.
    Fail(u32),
    /// The process dies at a call of storage from now; if it is a commit, it is stored or not.
    Die { calls: u64, stored: bool },
    /// Closes and opens again, or loses the process without closing.
    Reopen { clean: bool },
    /// `STORAGE FLUSH` of one table or of all.
    Flush(u8),
    /// `STORAGE COMPACT ALL`.
    Compact,
    /// Awaited together: inserts of keys from 30 on, an update of those below, a flush and a compaction.
    Race(Vec<i64>, i64),
    /// A snapshot is kept, and must show the same rows whatever comes.
    Pin,
    /// The oldest snapshot is let go.
    Unpin,
    /// What waits in a journal is carried over, as in a pause.
    CarryOver,
    /// A column with a default comes.
    AddColumn,
    /// The oldest of them goes.
    DropColumn,
    /// The type of `k` or `v` becomes a wider one.
    Widen(bool),
}

/// A statement of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// Inserts rows with these keys into both tables.
    Insert(Vec<i64>),
    /// `UPDATE … SET v = v + n WHERE k % m = 0`, of one table.
    Update(bool, i64, i64),
    /// `DELETE … WHERE k < n`, of one table.
    Delete(bool, i64),
}

/// What somebody else does beside a transaction.
#[derive(Debug, Clone, Copy)]
pub enum Beside {
    Nothing,
    Flush,
    Compact,
    /// Inserts a row with a key that no transaction inserts into both tables, in one of its own.
    Insert(i64),
}

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => prop::collection::vec(0..60i64, 1..5).prop_map(Change::Insert),
        2 => (any::<bool>(), 1..100i64, 1..5i64).prop_map(|(keyed, n, m)| Change::Update(keyed, n, m)),
        1 => (any::<bool>(), 0..60i64).prop_map(|(keyed, n)| Change::Delete(keyed, n)),
    ]
}

pub fn beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        3 => Just(Beside::Nothing),
        1 => Just(Beside::Flush),
        1 => Just(Beside::Compact),
        2 => (1000..1010i64).prop_map(Beside::Insert),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let transaction = (prop::collection::vec(change(), 1..5), beside(), 0..4usize, prop::bool::weighted(0.8));
    prop_oneof![
        4 => transaction.prop_map(|(changes, beside, after, commit)| {
            Step::Transaction { changes, beside, after, commit }
        }),
        3 => (0..12u64, any::<bool>()).prop_map(|(calls, stored)| Step::Die { calls, stored }),
        3 => prop::collection::vec(0..60i64, 1..12).prop_map(Step::Insert),
        2 => prop::collection::vec(0..60i64, 1..6).prop_map(Step::Together),
        2 => (1..100i64, 1..5i64).prop_map(|(n, m)| Step::Update(n, m)),
        1 => prop_oneof![Just(1i64), Just(7), Just(-3)].prop_map(Step::Shift),
        1 => (0..60i64).prop_map(Step::Delete),
        2 => prop::collection::vec(0..60i64, 1..12).prop_map(Step::Upsert),
        1 => prop::collection::vec(0..20i64, 1..8).prop_map(Step::UpsertTogether),
        1 => Just(Step::Truncate),
        1 => (0..60i64, 0..60i64).prop_map(|(a, b)| Step::TruncateTogether(a, b)),
        1 => (1..100i64).prop_map(Step::Rewrite),
        2 => (1..3u32).prop_map(Step::Fail),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
        3 => (0..3u8).prop_map(Step::Flush),
        2 => Just(Step::Compact),
        2 => (prop::collection::vec(30..60i64, 1..6), 1..100i64).prop_map(|(keys, n)| Step::Race(keys, n)),
        1 => Just(Step::Pin),
        1 => Just(Step::Unpin),
        1 => Just(Step::CarryOver),
        1 => Just(Step::AddColumn),
        1 => Just(Step::DropColumn),
        1 => any::<bool>().prop_map(Step::Widen),
    ]
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Oracle {
    /// Rows of `keyed (k BIGINT PRIMARY KEY, v BIGINT)`.
    pub keyed: BTreeMap<i64, i64>,
    /// Rows of `bag (k BIGINT, v BIGINT)`, counted.
    pub bag: BTreeMap<(i64, i64), usize>,
}

impl Oracle {
    /// A row in both tables.
    pub fn add(&mut self, k: i64, v: i64) {
        self.keyed.insert(k, v);
        *self.bag.entry((k, v)).or_default() += 1;
    }

    pub fn insert(&self, keys: &[i64]) -> Option<Oracle> {
        let mut next = self.clone();
        for &k in keys {
            if next.keyed.insert(k, 0).is_some() {
                return None;
            }
        }
        Some(next)
    }

    pub fn bag_rows(&self) -> Vec<(i64, i64)> {
        self.bag.iter().flat_map(|(row, n)| std::iter::repeat_n(*row, *n)).collect()
    }

    pub fn map(&self, change: impl Fn(i64, i64) -> Option<(i64, i64)>) -> Oracle {
        let mut next = Oracle::default();
        for (&k, &v) in &self.keyed {
            if let Some((k, v)) = change(k, v) {
                next.keyed.insert(k, v);
            }
        }
        for (&(k, v), &n) in &self.bag {
            if let Some(row) = change(k, v) {
                *next.bag.entry(row).or_default() += n;
            }
        }
        next
    }
}

/// A change that may have happened.
pub type Maybe = Box<dyn Fn(&mut Oracle)>;

pub fn insert_maybe(k: i64) -> Maybe {
    Box::new(move |o: &mut Oracle| {
        o.keyed.entry(k).or_insert(1);
    })
}

impl Change {
    /// Its statements, and the state that they lead to; `None` if a key is there.
    pub fn apply(&self, before: &Oracle) -> (Vec<String>, Option<Oracle>) {
        let name = |keyed: bool| if keyed { "keyed" } else { "bag" };
        match self {
            Change::Insert(keys) => {
                let values: Vec<String> = keys.iter().map(|k| format!("({k}, 0)")).collect();
                let texts = ["keyed", "bag"].map(|table| format!("INSERT INTO {table} VALUES {}", values.join(", ")));
                let next = before.insert(keys).map(|mut next| {
                    keys.iter().for_each(|k| *next.bag.entry((*k, 0)).or_default() += 1);
                    next
                });
                (texts.to_vec(), next)
            }
            Change::Update(keyed, n, m) => {
                let text = format!("UPDATE {} SET v = v + {n} WHERE k % {m} = 0", name(*keyed));
                let next = before.map(|k, v| Some(if k % m == 0 { (k, v + n) } else { (k, v) }));
                (vec![text], Some(only(before, name(*keyed), next)))
            }
            Change::Delete(keyed, n) => {
                let text = format!("DELETE FROM {} WHERE k < {n}", name(*keyed));
                let next = before.map(|k, v| (k >= *n).then_some((k, v)));
                (vec![text], Some(only(before, name(*keyed), next)))
            }
        }
    }
}

/// The part of `next` that a statement on one table changes.
pub fn only(before: &Oracle, table: &str, next: Oracle) -> Oracle {
    match table {
        "keyed" => Oracle { keyed: next.keyed, bag: before.bag.clone() },
        _ => Oracle { keyed: before.keyed.clone(), bag: next.bag },
    }
}
