//! The rows of a part of an index in its order, a few at a time: who takes only the first of them reads no more.
//!
//! Invariant: a walk gives the rows of the moment it was begun at, each once. It keeps that moment's chunks, and where in the
//! index it is: rows that come later are not visible to it. If entries have gone meanwhile (rows went to a segment, or a
//! commit was taken back), the rest is searched for in those chunks, with the same bounds.

use std::sync::Arc;

use super::chunk::Chunk;
use super::hot::{Chunks, HotTable, Located, Segments, locate};
use super::index::{IndexRange, IndexedRow};
use super::index_access::IndexAccess;
use super::request::Request;
use super::seq::Seq;
use crate::error::Result;

/// Entries that are looked at before the host may run.
const MAX_ENTRIES: usize = 8192;

/// Rows of the first step: a page of a list reads no more.
const FIRST_ROWS: usize = 64;

/// A walk; see the module's comment.
pub(super) struct IndexWalk {
    hot: Arc<HotTable>,
    access: Arc<IndexAccess>,
    /// What is left of the ranges, the next one last.
    ranges: Vec<IndexRange>,
    chunks: Chunks,
    /// The losses of the indexes when it was begun.
    losses: u64,
    snapshot: Seq,
    oldest: Seq,
    /// Rows of the last step.
    rows: usize,
}

impl IndexWalk {
    /// Begins at the rows that are visible to a request and have a `_seq` from `oldest` on. With it the segments of that
    /// moment.
    pub fn begin(
        hot: &Arc<HotTable>,
        access: &Arc<IndexAccess>,
        request: &Request,
        oldest: Seq,
    ) -> Result<(Self, Segments)> {
        let (chunks, segments, losses) = hot.indexed(access.index.index_id)?;
        let mut ranges = access.ranges.clone();
        if !access.is_backward() {
            ranges.reverse();
        }
        let (hot, access, snapshot) = (Arc::clone(hot), Arc::clone(access), request.snapshot);
        Ok((Self { hot, access, ranges, chunks, losses, snapshot, oldest, rows: 0 }, segments))
    }

    /// The next rows, more with each step; there may be none of them in a step. `None` at the end.
    pub fn step(&mut self) -> Result<Option<Located>> {
        self.rows = (self.rows * 2).clamp(FIRST_ROWS, MAX_ENTRIES);
        if self.ranges.is_empty() {
            return Ok(None);
        }
        let (chunks, snapshot, oldest, wanted) = (&self.chunks, self.snapshot, self.oldest, self.rows);
        let (ranges, access, losses) = (&mut self.ranges, &self.access, self.losses);
        let visible = |chunk: &Chunk, row: usize| chunk.visible(row, snapshot) && chunk.seqs.value(row) >= oldest;
        self.hot.with_indexes(|indexes| {
            let mut found = Vec::new();
            let mut left = MAX_ENTRIES;
            while left > 0
                && found.len() < wanted
                && let Some(range) = ranges.last_mut()
            {
                let take = |position: u64| {
                    if let Some((chunk, row)) = locate(chunks, position).filter(|(chunk, row)| visible(chunk, *row)) {
                        found.push((Arc::clone(chunk), row));
                    }
                    left -= 1;
                    left > 0 && found.len() < wanted
                };
                match indexes.walk(access, losses, snapshot, range, take) {
                    Some(true) => {
                        ranges.pop();
                    }
                    Some(false) => {}
                    None => {
                        if !access.is_backward() {
                            ranges.reverse();
                        }
                        let rest = access.of_ranges(std::mem::take(ranges));
                        let rest = indexes.search(chunks, &rest, visible, usize::MAX)?;
                        found.extend(rest.into_iter().map(|IndexedRow { chunk, row, .. }| (chunk, row)));
                        break;
                    }
                }
            }
            Ok(Some(found))
        })
    }

    /// All rows that are left.
    pub fn rest(mut self) -> Result<Located> {
        let mut rows = Vec::new();
        while let Some(more) = self.step()? {
            rows.extend(more);
        }
        Ok(rows)
    }
}
