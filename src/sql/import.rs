//! Rows that do not come as SQL: objects from JavaScript, Arrow, files.
//!
//! Invariant: an import is one statement. Its rows are decoded, converted and encoded first; the table it may create
//! and the commit come last, so bad input leaves nothing behind. What it holds until then counts against the memory of
//! queries, as the rows of any other statement do: its rows, what of them goes into the log, and a file that has to be there
//! whole.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::catalog::{Names, table_id};
use super::defaults::default_column;
use super::errors::from_datafusion;
use super::executor::{ExecuteOptions, Execution, Session, SqlExecutor, StatementResult};
use super::handlers::dml::{Target, checked_batch};
use super::handlers::table::create_filled;
use super::memory::HeldRows;
use super::params::Params;
use super::parser::parse_name;
use super::transaction::refused;
use crate::error::{ErrorCode, KalamError, Result};
use crate::ingest::{self, CsvBatch, CsvDecoder, CsvOptions, Format};
use crate::platform;
use crate::schema::{
    CachedTableData, NewColumn, Privilege, TableDefinition, TableOptions, TableType, is_reserved_namespace,
};
use crate::tables::{PreparedRows, prepare_rows};
use crate::types::{KalamDataType, coerce_array};

/// How a file is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Its format.
    pub format: Format,
    /// Whether a table that is not there is created with the file's columns.
    pub create: bool,
    /// How a CSV file is written.
    pub csv: CsvOptions,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportProgress {
    /// Bytes taken.
    pub bytes: u64,
    /// Rows decoded.
    pub rows: u64,
    /// Rows of the whole file, if it says.
    pub total_rows: Option<u64>,
}

/// Inserts columns of a table, given by name, as one statement.
pub async fn insert_columns(
    executor: &SqlExecutor,
    session: &Session,
    options: &ExecuteOptions,
    table: &str,
    batches: Vec<RecordBatch>,
) -> Result<StatementResult> {
    let mut sink = Sink::open(executor, session, table, false).await?;
    let params = Params::default();
    let mut execution = executor.execution(session, &params, options).await?;
    let entered = execution.enter().await?;
    let inserted = async {
        for batch in &batches {
            sink.add(&execution, batch)?;
        }
        sink.commit(&execution).await
    }
    .await;
    execution.leave(entered, inserted).await
}

/// A table or view by its name as SQL writes it.
pub async fn describe_table(executor: &SqlExecutor, session: &Session, name: &str) -> Result<Arc<CachedTableData>> {
    let namespace = session.namespace();
    let names = Names { registry: executor.registry(), namespace: &namespace };
    // The name is all the text there is: a position in it would mislead.
    names.table(&parse_name(name)?).await.map_err(KalamError::without_position)
}

/// The table that rows go to and what of them is ready.
struct Sink {
    name: String,
    /// `None` until the columns of a table to be created are known.
    table: Option<Arc<CachedTableData>>,
    create: bool,
    id: crate::schema::TableId,
    prepared: Vec<PreparedRows>,
    rows: usize,
    /// The memory of `prepared`, until it is committed.
    held: HeldRows,
}

impl Sink {
    async fn open(executor: &SqlExecutor, session: &Session, name: &str, create: bool) -> Result<Self> {
        let parsed = parse_name(name)?;
        let namespace = session.namespace();
        let names = Names { registry: executor.registry(), namespace: &namespace };
        let id = table_id(&parsed, &namespace)?;
        let table = match names.writable(&parsed).await {
            Ok(table) => Some(table),
            Err(error) if create && error.code() == ErrorCode::TableNotFound => {
                executor.role(session).await?.require(Privilege::Administer, "CREATE TABLE")?;
                if is_reserved_namespace(&id.namespace) {
                    let message = format!("the namespace '{}' is reserved", id.namespace);
                    return Err(KalamError::new(ErrorCode::InvalidName, message));
                }
                None
            }
            Err(error) => return Err(error.without_position()),
        };
        let (create, held) = (table.is_none(), executor.held_rows());
        Ok(Self { name: name.to_owned(), create, table, id, prepared: Vec::new(), rows: 0, held })
    }

    /// Defines the table to be created, if it is to be and is not yet.
    async fn define(&mut self, execution: &Execution<'_>, columns: Vec<NewColumn>) -> Result<()> {
        if self.table.is_some() {
            return Ok(());
        }
        let number = execution.executor.registry().next_table_no().await?;
        let definition = TableDefinition::new(
            self.id.clone(),
            number,
            TableType::Shared,
            columns,
            &[],
            TableOptions::default(),
            platform::now_ms(),
            &execution.user,
        )?;
        self.table = Some(Arc::new(CachedTableData::new(definition)));
        Ok(())
    }

    fn table(&self) -> Result<&Arc<CachedTableData>> {
        self.table.as_ref().ok_or_else(|| KalamError::internal("rows before their table"))
    }

    /// Converts and encodes rows whose columns are named as the table's.
    fn add(&mut self, execution: &Execution<'_>, batch: &RecordBatch) -> Result<()> {
        let table = Arc::clone(self.table()?);
        let definition = table.definition();
        for field in batch.schema_ref().fields() {
            if definition.column(field.name()).is_none() {
                let names: Vec<&str> = definition.columns_in_order().map(|c| c.name.as_str()).collect();
                return Err(KalamError::new(
                    ErrorCode::ColumnNotFound,
                    format!("column '{}' of '{}' does not exist", field.name(), self.id),
                )
                .with_hint(format!("There are: {}.", names.join(", "))));
            }
        }
        let rows = batch.num_rows();
        let columns = definition
            .columns_in_order()
            .map(|column| match batch.column_by_name(&column.name) {
                // A NULL for a NOT NULL column with a default means the default: the row's object had no such key.
                Some(array)
                    if array.null_count() == rows && rows > 0 && !column.nullable && !column.default.is_none() =>
                {
                    default_column(execution, column, rows)
                }
                Some(array) => coerce_array(array, &column.data_type, &column.name),
                None => default_column(execution, column, rows),
            })
            .collect::<Result<Vec<ArrayRef>>>()
            .map_err(|e| if self.rows == 0 { e } else { e.in_context(format_args!("after row {}", self.rows)) })?;
        let checked = checked_batch(&table, columns, rows, self.rows + 1)?;
        self.held.add(&checked).map_err(from_datafusion)?;
        let prepared = prepare_rows(definition, &checked, None)?;
        let encoded = prepared.iter().map(PreparedRows::encoded_bytes).sum();
        self.held.add_encoded(encoded).map_err(from_datafusion)?;
        self.prepared.extend(prepared);
        self.rows += rows;
        Ok(())
    }

    async fn commit(self, execution: &Execution<'_>) -> Result<StatementResult> {
        if self.create && execution.transaction.is_some() {
            return refused();
        }
        let table = Arc::clone(self.table()?);
        if self.create {
            return create_filled(execution, table.definition().as_ref().clone(), self.prepared).await;
        }
        let target = Target::find(execution, &parse_name(&self.name)?).await?;
        if target.definition() != table.definition().as_ref() {
            return Err(KalamError::new(
                ErrorCode::Conflict,
                format!("the definition of '{}' was changed while rows were read", self.id),
            ));
        }
        target.commit(execution, self.prepared, Vec::new(), Vec::new()).await
    }
}

/// Imports a file that arrives in pieces.
pub struct Importer {
    executor: Arc<SqlExecutor>,
    session: Arc<Session>,
    execute: ExecuteOptions,
    options: ImportOptions,
    sink: Sink,
    csv: CsvDecoder,
    /// The bytes of a file that is decoded when all of it is there, and their memory.
    whole: Vec<u8>,
    whole_held: HeldRows,
    progress: ImportProgress,
}

impl Importer {
    /// An import into a table.
    pub async fn open(
        executor: Arc<SqlExecutor>,
        session: Arc<Session>,
        table: &str,
        options: ImportOptions,
        execute: ExecuteOptions,
    ) -> Result<Self> {
        let sink = Sink::open(&executor, &session, table, options.create).await?;
        let csv = CsvDecoder::new(options.csv);
        let whole_held = executor.held_rows();
        Ok(Self {
            executor,
            session,
            execute,
            options,
            sink,
            csv,
            whole: Vec::new(),
            whole_held,
            progress: ImportProgress::default(),
        })
    }

    /// Takes the next bytes of the file.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<ImportProgress> {
        self.progress.bytes += bytes.len() as u64;
        if self.options.format == Format::Csv {
            let batches = self.csv.push(bytes)?;
            self.add_csv(batches).await?;
        } else {
            self.whole_held.add_bytes(bytes.len()).map_err(from_datafusion)?;
            self.whole.extend_from_slice(bytes);
        }
        Ok(self.progress)
    }

    /// Decodes what is left and commits. `report` hears how far it is.
    pub async fn finish(mut self, mut report: impl FnMut(ImportProgress)) -> Result<StatementResult> {
        if self.options.format == Format::Csv {
            let batches = self.csv.finish()?;
            self.add_csv(batches).await?;
            report(self.progress);
        } else {
            let whole = Bytes::from(std::mem::take(&mut self.whole));
            let batches = ingest::open(self.options.format, whole)?;
            self.progress.total_rows = batches.total_rows;
            for batch in batches {
                let batch = batch?;
                self.add(&batch).await?;
                report(self.progress);
                platform::yield_to_host().await;
                self.check().await?;
            }
            // The file went with its last batch.
            self.whole_held = self.executor.held_rows();
        }
        if self.sink.table.is_none() {
            return Err(KalamError::new(ErrorCode::InvalidData, "the file holds no row, so its columns are not known"));
        }
        let params = Params::default();
        let mut execution = self.executor.execution(&self.session, &params, &self.execute).await?;
        let entered = execution.enter().await?;
        let committed = self.sink.commit(&execution).await;
        execution.leave(entered, committed).await
    }

    async fn check(&self) -> Result<()> {
        let params = Params::default();
        self.executor.execution(&self.session, &params, &self.execute).await?.request().check()
    }

    async fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let params = Params::default();
        let execution = self.executor.execution(&self.session, &params, &self.execute).await?;
        let columns = batch
            .schema_ref()
            .fields()
            .iter()
            .map(|f| Ok(NewColumn::new(f.name(), KalamDataType::from_arrow_field(f)?)))
            .collect::<Result<Vec<_>>>()?;
        self.sink.define(&execution, columns).await?;
        self.sink.add(&execution, batch)?;
        self.progress.rows += batch.num_rows() as u64;
        Ok(())
    }

    async fn add_csv(&mut self, batches: Vec<CsvBatch>) -> Result<()> {
        let params = Params::default();
        let execution = self.executor.execution(&self.session, &params, &self.execute).await?;
        for mut batch in batches {
            let columns = self.csv.columns().unwrap_or_default();
            let columns = columns.iter().map(|(name, t)| NewColumn::new(name, *t)).collect();
            self.sink.define(&execution, columns).await?;
            if let Some(table) = &self.sink.table {
                let column = |name: &str| table.definition().column(name);
                batch.keep_empties(|name| column(name).is_some_and(|c| c.data_type == KalamDataType::Text))?;
            }
            let added = self.sink.add(&execution, &batch.batch);
            if let Err(error) = added {
                return Err(at_line(&self.sink, &batch, error));
            }
            self.progress.rows += batch.batch.num_rows() as u64;
            platform::yield_to_host().await;
        }
        Ok(())
    }
}

/// Finds the first row of a batch that does not convert and says in which line of the file it stands.
fn at_line(sink: &Sink, batch: &CsvBatch, error: KalamError) -> KalamError {
    let Some(table) = &sink.table else { return error };
    let bad_row = |column: &ArrayRef, data_type: &KalamDataType, nullable: bool| {
        let fits = |from: usize, len: usize| {
            let part = column.slice(from, len);
            (nullable || part.null_count() == 0) && coerce_array(&part, data_type, "").is_ok()
        };
        // Halving finds the first bad row in a logarithmic number of conversions.
        let (mut from, mut len) = (0, column.len());
        if fits(from, len) {
            return None;
        }
        while len > 1 {
            let half = len / 2;
            if fits(from, half) {
                from += half;
                len -= half;
            } else {
                len = half;
            }
        }
        Some(from)
    };
    let row = batch
        .batch
        .schema_ref()
        .fields()
        .iter()
        .zip(batch.batch.columns())
        .filter_map(|(field, array)| {
            let column = table.definition().column(field.name())?;
            bad_row(array, &column.data_type, column.nullable)
        })
        .min();
    match row {
        Some(row) => error.in_context(format_args!("line {}", batch.line(row))),
        None => error,
    }
}
