//! Clauses that sqlparser reads and nothing here carries out: refused, never ignored.
//!
//! The parser's dialect takes what other databases write; a handler, or DataFusion's planner, reads the fields that it
//! knows and passes over the rest, so that PREWHERE would filter nothing and INHERITS inherit nothing. Invariant: every
//! field of the statements below is read by its handler, changes no result, or is refused here, before anything of its
//! text runs. Large statements are taken apart without `..`, so a field that a new sqlparser adds does not compile
//! before it is decided on.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    self, ColumnDef, ColumnOption, CreateIndex, CreateTable, CreateView, Delete, DuplicateTreatment, Expr, FromTable,
    Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, HiveDistributionStyle, IdentityPropertyKind,
    IndexType, Insert, LimitClause, PrimaryKeyConstraint, Query, Select, SelectFlavor, SelectItem, SetExpr, Spanned,
    TableAlias, TableConstraint, TableFactor, TableWithJoins, UniqueConstraint, Update, Value,
    WildcardAdditionalOptions,
};

use super::catalog::{fold, position_of_name};
use super::parser::{position_at, position_of};
use super::walk::visit_expressions;
use crate::error::{ErrorCode, KalamError, Position, Result};

fn refused(clause: &str) -> KalamError {
    KalamError::new(ErrorCode::FeatureNotSupported, format!("{clause} is not supported"))
}

/// Fails with the first clause that is there.
fn refuse<const N: usize>(clauses: [(bool, &str); N], position: Option<Position>) -> Result<()> {
    match clauses.iter().find(|(there, _)| *there) {
        Some((_, clause)) => Err(refused(clause).at(position)),
        None => Ok(()),
    }
}

fn position(part: &impl Spanned) -> Option<Position> {
    position_at(part.span().start)
}

/// Checks a statement, without the queries, tables and expressions in it, which are visited.
pub fn statement(statement: &ast::Statement) -> Result<()> {
    match statement {
        ast::Statement::Insert(insert) => self::insert(insert),
        ast::Statement::Update(update) => self::update(update),
        ast::Statement::Delete(delete) => self::delete(delete),
        ast::Statement::CreateIndex(create) => create_index(create),
        ast::Statement::CreateView(create) => create_view(create),
        ast::Statement::Drop { names, purge, temporary, table, .. } => refuse(
            [
                (*purge, "DROP … PURGE"),
                (*temporary, "DROP TEMPORARY"),
                (table.is_some(), "DROP INDEX … ON (an index's name is its own within the namespace)"),
            ],
            names.first().and_then(position_of_name),
        ),
        _ => Ok(()),
    }
}

fn insert(insert: &Insert) -> Result<()> {
    let Insert {
        insert_token: _,
        // A hint is a comment.
        optimizer_hints: _,
        or: _,
        ignore: _,
        into: _,
        table,
        table_alias: _,
        columns: _,
        overwrite: _,
        source: _,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword: _,
        on: _,
        returning: _,
        output,
        replace_into: _,
        priority,
        insert_alias: _,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = insert;
    let several = multi_table_insert_type.is_some()
        || !multi_table_into_clauses.is_empty()
        || !multi_table_when_clauses.is_empty()
        || multi_table_else_clause.is_some();
    refuse(
        [
            (!assignments.is_empty(), "INSERT … SET"),
            (partitioned.is_some() || !after_columns.is_empty(), "INSERT … PARTITION"),
            (output.is_some(), "INSERT … OUTPUT (use RETURNING)"),
            (priority.is_some(), "INSERT with a priority"),
            (settings.is_some() || format_clause.is_some(), "INSERT with SETTINGS or FORMAT"),
            (several, "INSERT into several tables"),
        ],
        position(table),
    )
}

fn update(update: &Update) -> Result<()> {
    let Update {
        update_token: _,
        optimizer_hints: _,
        table,
        assignments: _,
        from: _,
        selection: _,
        returning: _,
        output,
        or: _,
        order_by: _,
        limit: _,
    } = update;
    refuse([(output.is_some(), "UPDATE … OUTPUT (use RETURNING)")], position(&table.relation))?;
    target(table)
}

fn delete(delete: &Delete) -> Result<()> {
    let Delete {
        delete_token: _,
        optimizer_hints: _,
        tables: _,
        from: FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from),
        using: _,
        selection: _,
        returning: _,
        output,
        order_by: _,
        limit: _,
    } = delete;
    refuse([(output.is_some(), "DELETE … OUTPUT (use RETURNING)")], from.first().and_then(|t| position(&t.relation)))?;
    from.iter().try_for_each(target)
}

/// The table that a statement changes has the names of its columns.
fn target(table: &TableWithJoins) -> Result<()> {
    match &table.relation {
        TableFactor::Table { alias: Some(TableAlias { name, columns, .. }), .. } => {
            refuse([(!columns.is_empty(), "other names for the columns of the table to change")], position_of(name))
        }
        _ => Ok(()),
    }
}

fn create_index(create: &CreateIndex) -> Result<()> {
    let CreateIndex {
        name: _,
        table_name: _,
        using: _,
        columns,
        unique: _,
        // No index keeps writers waiting.
        concurrently: _,
        if_not_exists: _,
        include: _,
        nulls_distinct: _,
        with: _,
        predicate: _,
        index_options: _,
        alter_options: _,
    } = create;
    let fill = columns.iter().find(|c| c.column.with_fill.is_some());
    refuse([(fill.is_some(), "WITH FILL")], fill.and_then(|c| position(&c.column)))
}

fn create_view(create: &CreateView) -> Result<()> {
    refuse([(create.comment.is_some(), "CREATE VIEW … COMMENT")], position_of_name(&create.name))
}

/// Checks a CREATE TABLE, without the query in it.
pub fn create_table(create: &CreateTable) -> Result<()> {
    let CreateTable {
        or_replace: _,
        temporary: _,
        external: _,
        dynamic,
        global,
        if_not_exists: _,
        transient,
        volatile,
        iceberg,
        snapshot,
        name,
        columns,
        constraints,
        hive_distribution,
        hive_formats,
        table_options: _,
        file_format,
        location,
        query: _,
        // Rows have an id of their own where there is no key, and types are strict.
        without_rowid: _,
        strict: _,
        like: _,
        clone: _,
        version,
        comment,
        on_commit,
        on_cluster,
        primary_key,
        order_by,
        // Says where rows lie, nothing of what they are.
        partition_by: _,
        cluster_by,
        clustered_by,
        inherits,
        partition_of,
        for_values,
        copy_grants,
        enable_schema_evolution,
        change_tracking,
        data_retention_time_in_days,
        max_data_extension_time_in_days,
        default_ddl_collation,
        with_aggregation_policy,
        with_row_access_policy,
        with_storage_lifecycle_policy,
        with_tags,
        external_volume,
        base_location,
        catalog,
        catalog_sync,
        storage_serialization_policy,
        target_lag,
        warehouse,
        refresh_mode,
        initialize,
        require_user,
        diststyle,
        distkey,
        sortkey,
        backup,
    } = create;
    let at = position_of_name(name);
    let parents = inherits.iter().flatten().chain(partition_of);
    let parent = parents.map(position_of_name).next().flatten();
    refuse(
        [(inherits.is_some(), "INHERITS"), (partition_of.is_some() || for_values.is_some(), "PARTITION OF")],
        parent,
    )?;
    let kind = *dynamic || global.is_some() || *transient || *volatile || *iceberg || *snapshot;
    let policy = with_aggregation_policy.is_some()
        || with_row_access_policy.is_some()
        || with_storage_lifecycle_policy.is_some()
        || with_tags.is_some()
        || *copy_grants;
    let retention = data_retention_time_in_days.is_some() || max_data_extension_time_in_days.is_some();
    let file = hive_formats.is_some() || file_format.is_some() || location.is_some();
    let lake = external_volume.is_some()
        || base_location.is_some()
        || catalog.is_some()
        || catalog_sync.is_some()
        || storage_serialization_policy.is_some();
    let refresh = target_lag.is_some()
        || warehouse.is_some()
        || refresh_mode.is_some()
        || initialize.is_some()
        || *require_user
        || enable_schema_evolution.is_some()
        || change_tracking.is_some();
    let distributed = diststyle.is_some() || distkey.is_some() || sortkey.is_some() || backup.is_some();
    refuse(
        [
            (kind, "CREATE TABLE with GLOBAL, LOCAL, TRANSIENT, VOLATILE, DYNAMIC, ICEBERG or SNAPSHOT"),
            (on_commit.is_some(), "ON COMMIT (there are no temporary tables)"),
            (on_cluster.is_some(), "ON CLUSTER"),
            (primary_key.is_some(), "PRIMARY KEY behind the columns (write it between the parentheses)"),
            (order_by.is_some(), "CREATE TABLE … ORDER BY"),
            (cluster_by.is_some() || clustered_by.is_some(), "CLUSTER BY"),
            (*hive_distribution != HiveDistributionStyle::NONE, "PARTITIONED BY and SKEWED BY"),
            (file, "CREATE TABLE with STORED AS, ROW FORMAT or LOCATION"),
            (comment.is_some(), "COMMENT"),
            (version.is_some(), "CREATE TABLE of a version"),
            (default_ddl_collation.is_some(), "a default collation"),
            (policy, "CREATE TABLE with policies, tags or grants"),
            (retention, "CREATE TABLE with a retention"),
            (lake, "CREATE TABLE with a catalog or a volume"),
            (refresh, "CREATE TABLE with refreshes, evolution or tracking"),
            (distributed, "CREATE TABLE with DISTSTYLE, DISTKEY, SORTKEY or BACKUP"),
        ],
        at,
    )?;
    columns.iter().try_for_each(column)?;
    constraints.iter().try_for_each(|constraint| match constraint {
        TableConstraint::PrimaryKey(key) => primary(key, at),
        TableConstraint::Unique(key) => unique(key, at),
        // Those that there are not are refused by the handler.
        _ => Ok(()),
    })
}

fn column(column: &ColumnDef) -> Result<()> {
    let at = position_of(&column.name);
    column.options.iter().try_for_each(|option| match &option.option {
        ColumnOption::PrimaryKey(key) => primary(key, at),
        ColumnOption::Unique(key) => unique(key, at),
        ColumnOption::Comment(_) => refuse([(true, "COMMENT")], at),
        ColumnOption::Generated { sequence_options, .. } => {
            refuse([(sequence_options.as_ref().is_some_and(|o| !o.is_empty()), NO_SEQUENCE)], at)
        }
        ColumnOption::Identity(IdentityPropertyKind::Autoincrement(p) | IdentityPropertyKind::Identity(p)) => {
            refuse([(p.parameters.is_some() || p.order.is_some(), NO_SEQUENCE)], at)
        }
        _ => Ok(()),
    })
}

/// What START, INCREMENT and the like are told.
const NO_SEQUENCE: &str = "a start, step or order of generated ids (they are SNOWFLAKE_ID())";

fn primary(key: &PrimaryKeyConstraint, at: Option<Position>) -> Result<()> {
    key_clauses(key.index_type.as_ref(), !key.index_options.is_empty(), at)?;
    refuse([(key.characteristics.is_some(), "PRIMARY KEY with DEFERRABLE or ENFORCED")], at)
}

fn unique(key: &UniqueConstraint, at: Option<Position>) -> Result<()> {
    key_clauses(key.index_type.as_ref(), !key.index_options.is_empty(), at)
}

fn key_clauses(index_type: Option<&IndexType>, options: bool, at: Option<Position>) -> Result<()> {
    let other = index_type.is_some_and(|index_type| *index_type != IndexType::BTree);
    refuse([(other, "a key that is not USING BTREE"), (options, "a key with options of its index")], at)
}

/// Checks a query, without what is in it.
pub fn query(query: &Query) -> Result<()> {
    let Query {
        with,
        body,
        order_by: _,
        limit_clause,
        fetch,
        // There is nothing to lock: see COMPAT.md.
        locks: _,
        for_clause,
        settings,
        format_clause,
        pipe_operators: _,
    } = query;
    let at = position(body.as_ref());
    let change = match body.as_ref() {
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        _ => None,
    };
    if let Some(change) = change {
        return Err(refused(&format!("{change} within a query"))
            .with_hint("Run it as a statement of its own; BEGIN … COMMIT makes several statements one.")
            .at(at));
    }
    if let Some(fetch) = fetch {
        refuse([(fetch.with_ties, "FETCH … WITH TIES"), (fetch.percent, "FETCH … PERCENT")], at)?;
    }
    let from = with.iter().flat_map(|with| &with.cte_tables).find_map(|cte| cte.from.as_ref());
    refuse([(from.is_some(), "FROM behind a query of WITH")], from.and_then(position_of))?;
    let by = matches!(limit_clause, Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty());
    refuse(
        [
            (by, "LIMIT … BY"),
            (for_clause.is_some(), "FOR BROWSE, FOR JSON and FOR XML"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
        ],
        at,
    )
}

/// Checks a SELECT, without what is in it.
pub fn select(select: &Select) -> Result<()> {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    let at = position(select);
    if let Some(into) = into {
        return Err(refused("SELECT … INTO")
            .with_hint("CREATE TABLE … AS SELECT … makes a table of a query.")
            .at(position_of_name(&into.name)));
    }
    if top.is_some() {
        return Err(refused("SELECT TOP").with_hint("Write LIMIT at the end.").at(at));
    }
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    if let Some(modifier) = modifiers.first() {
        return Err(refused(&format!("GROUP BY … {modifier}"))
            .with_hint("Write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…).")
            .at(position(group_by)));
    }
    refuse([(prewhere.is_some(), "PREWHERE (write WHERE)")], prewhere.as_ref().and_then(position))?;
    refuse(
        [
            (select_modifiers.as_ref().is_some_and(|m| m.is_any_set()), "a modifier of MySQL's SELECT"),
            (exclude.is_some(), "EXCLUDE behind the SELECT list"),
            (!lateral_views.is_empty(), "LATERAL VIEW"),
            (!connect_by.is_empty(), "CONNECT BY (write WITH RECURSIVE)"),
            (!cluster_by.is_empty(), "CLUSTER BY"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!sort_by.is_empty(), "SORT BY (write ORDER BY)"),
            (value_table_mode.is_some(), "SELECT AS STRUCT and AS VALUE"),
            (*flavor == SelectFlavor::FromFirstNoSelect, "FROM without SELECT (write SELECT * FROM …)"),
        ],
        at,
    )?;
    projection.iter().try_for_each(|item| match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => wildcard(options),
        _ => Ok(()),
    })
}

fn wildcard(options: &WildcardAdditionalOptions) -> Result<()> {
    let at = position_at(options.wildcard_token.0.span.start);
    refuse([(options.opt_ilike.is_some(), "* ILIKE"), (options.opt_rename.is_some(), "* RENAME")], at)
}

/// Checks an item of FROM, without what is in it.
pub fn table_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table {
            name,
            alias: _,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            let at = position_of_name(name);
            not_sampled(sample.is_some(), at)?;
            refuse(
                [
                    (!with_hints.is_empty() || !index_hints.is_empty(), "a hint at a table"),
                    (version.is_some(), "a table as it was at some time"),
                    (*with_ordinality, NO_ORDINALITY),
                    (!partitions.is_empty(), "PARTITION (…)"),
                    (json_path.is_some(), "a path behind a table"),
                    (args.as_ref().is_some_and(|args| args.settings.is_some()), "SETTINGS"),
                ],
                at,
            )
        }
        TableFactor::Derived { sample, subquery, .. } => not_sampled(sample.is_some(), position(subquery.as_ref())),
        TableFactor::Function { name, with_ordinality, .. } => {
            refuse([(*with_ordinality, NO_ORDINALITY)], position_of_name(name))
        }
        _ => Ok(()),
    }
}

const NO_ORDINALITY: &str = "WITH ORDINALITY (row_number() OVER () counts rows)";

fn not_sampled(sampled: bool, at: Option<Position>) -> Result<()> {
    match sampled {
        true => Err(refused("TABLESAMPLE").with_hint("WHERE random() < 0.1 keeps a tenth of the rows.").at(at)),
        false => Ok(()),
    }
}

/// Checks an expression, without what is in it.
pub fn expression(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Function(Function { name, parameters, .. }) => refuse(
            [(*parameters != FunctionArguments::None, "a function with two lists of arguments")],
            position_of_name(name),
        ),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedByteStringLiteral(_)
            | Value::DoubleQuotedByteStringLiteral(_)
            | Value::TripleSingleQuotedByteStringLiteral(_)
            | Value::TripleDoubleQuotedByteStringLiteral(_) => {
                Err(refused("a literal B'…'").with_hint("X'41' writes bytes.").at(position_at(value.span.start)))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Checks that what belongs to aggregate functions, and OVER, stands at functions that take it: DataFusion's planner
/// passes over what is written at any other.
pub fn calls(statement: &ast::Statement, state: &SessionState) -> Result<()> {
    let checked = visit_expressions(statement, |expr| match expr {
        Expr::Function(function) => call(function, state).map_or_else(ControlFlow::Break, ControlFlow::Continue),
        _ => ControlFlow::Continue(()),
    });
    match checked {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn call(function: &Function, state: &SessionState) -> Result<()> {
    let [part] = function.name.0.as_slice() else { return Ok(()) };
    let Some(name) = part.as_ident().map(fold) else { return Ok(()) };
    let windowed = state.window_functions().contains_key(&name);
    if state.aggregate_functions().contains_key(&name) || !(windowed || state.scalar_functions().contains_key(&name)) {
        return Ok(());
    }
    let list = match &function.args {
        FunctionArguments::List(list) => Some(list),
        _ => None,
    };
    let distinct = list.is_some_and(|list| list.duplicate_treatment == Some(DuplicateTreatment::Distinct));
    let ordered = list.is_some_and(|list| list.clauses.iter().any(|c| matches!(c, FunctionArgumentClause::OrderBy(_))));
    let nulls = function.null_treatment.is_some()
        || list.is_some_and(|list| {
            list.clauses.iter().any(|c| matches!(c, FunctionArgumentClause::IgnoreOrRespectNulls(_)))
        });
    let misplaced = [
        (distinct, "DISTINCT", "aggregate"),
        (ordered, "ORDER BY", "aggregate"),
        (function.filter.is_some(), "FILTER", "aggregate"),
        (!function.within_group.is_empty(), "WITHIN GROUP", "aggregate"),
        (nulls && !windowed, "IGNORE or RESPECT NULLS", "window"),
        (function.over.is_some() && !windowed, "OVER", "window"),
    ];
    match misplaced.into_iter().find(|(there, ..)| *there) {
        None => Ok(()),
        Some((_, clause, kind)) => {
            let message = format!("{clause} is given to {name}, which is no {kind} function");
            Err(KalamError::new(ErrorCode::WrongObjectType, message).at(position_of_name(&function.name)))
        }
    }
}
