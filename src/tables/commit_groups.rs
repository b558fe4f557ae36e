//! The chain of commit groups: what waits for one storage transaction together, and what becomes of it.
//!
//! Invariant: at most one group is open, and one is written at a time, in the order of their numbers. A group that is
//! durable moves the watermark to its last `_seq`; one that fails takes the open one along, which was built on it, and
//! every scope that either touched is read again from storage. No `_seq` gets into storage above the ceiling that is
//! stored with it or before it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::{CEILING_KEY, TableStore};
use crate::error::{KalamError, Result};
use crate::storage::record::{self, RecordKind};
use crate::storage::{Durability, Partition, WriteBatch};
use crate::tables::log::ScopeKey;
use crate::tables::segment::Segment;
use crate::tables::seq::Seq;

/// How far the ceiling is set ahead: a second of milliseconds, in `_seq` terms.
const CEILING_AHEAD: Seq = 1000 << 22;

/// Ends when a group is durable, or with why it is not.
pub(in crate::tables) type GroupFuture = Shared<BoxFuture<'static, Result<Durability>>>;

/// The end of the chain.
#[derive(Default)]
pub(in crate::tables) struct Commits {
    open: Option<OpenGroup>,
    last: Option<GroupFuture>,
    next_group: u64,
    /// No `_seq` in storage is above it.
    ceiling: Seq,
    /// Tables that a DDL statement is changing.
    pub frozen: HashSet<u32>,
}

impl Commits {
    /// Nothing was committed yet to a storage with a ceiling.
    pub fn new(ceiling: Seq) -> Self {
        Self { ceiling, ..Self::default() }
    }

    /// Whether a group is open, or being written.
    pub fn are_under_way(&self) -> bool {
        self.last.is_some()
    }
}

struct OpenGroup {
    id: u64,
    batch: WriteBatch,
    durability: Durability,
    last_seq: Seq,
    scopes: HashSet<ScopeKey>,
    /// Segments that the batch writes: their files stay in memory until it is durable.
    segments: Vec<Arc<Segment>>,
    failure: Arc<Mutex<Option<KalamError>>>,
    future: GroupFuture,
}

/// A commit or a rewrite on its way into a group.
pub(in crate::tables) struct Member {
    /// What storage writes for it; nothing for a commit to streams alone.
    pub batch: WriteBatch,
    /// Its last `_seq`; 0: it takes none.
    pub last_seq: Seq,
    pub durability: Durability,
    pub scopes: Vec<ScopeKey>,
    /// Segments that it writes.
    pub segments: Vec<Arc<Segment>>,
}

impl TableStore {
    /// Adds a member to the open group; the first one opens it.
    pub(in crate::tables) fn join(self: &Arc<Self>, commits: &mut Commits, mut member: Member) -> GroupFuture {
        if member.last_seq > commits.ceiling && !member.batch.is_empty() {
            commits.ceiling = member.last_seq + CEILING_AHEAD;
            put_ceiling(&mut member.batch, commits.ceiling);
        }
        let group = match commits.open.take() {
            Some(open) => open,
            None => {
                let id = commits.next_group;
                commits.next_group += 1;
                let failure = Arc::new(Mutex::new(None));
                let run = Arc::clone(self).run_group(id, commits.last.take(), Arc::clone(&failure));
                let future = run.boxed().shared();
                commits.last = Some(future.clone());
                OpenGroup {
                    id,
                    batch: WriteBatch::new(),
                    durability: Durability::Memory,
                    last_seq: 0,
                    scopes: HashSet::new(),
                    segments: Vec::new(),
                    failure,
                    future,
                }
            }
        };
        let group = commits.open.insert(group);
        group.batch.append(member.batch);
        group.durability = group.durability.max(member.durability);
        group.last_seq = group.last_seq.max(member.last_seq);
        group.scopes.extend(member.scopes);
        group.segments.extend(member.segments);
        group.future.clone()
    }

    /// Sets the ceiling to the watermark, where no group is under way: a member of the chain like any other, so one that
    /// comes later sets it higher again, and no earlier.
    pub(super) fn lower_ceiling(self: &Arc<Self>, commits: &mut Commits) -> GroupFuture {
        commits.ceiling = self.snapshot();
        let mut batch = WriteBatch::new();
        put_ceiling(&mut batch, commits.ceiling);
        let (scopes, segments) = (Vec::new(), Vec::new());
        self.join(commits, Member { batch, last_seq: 0, durability: Durability::Relaxed, scopes, segments })
    }

    async fn run_group(
        self: Arc<Self>,
        id: u64,
        previous: Option<GroupFuture>,
        failure: Arc<Mutex<Option<KalamError>>>,
    ) -> Result<Durability> {
        if let Some(previous) = previous {
            // Its own callers hear how it went; a failure has taken this group out of `open`.
            let _ = previous.await;
        }
        let group = self.commits.lock().open.take_if(|open| open.id == id);
        let Some(group) = group else {
            let failed = failure.lock().take();
            return Err(failed.unwrap_or_else(|| KalamError::internal("a commit group was lost")));
        };
        let written = if group.batch.is_empty() {
            Ok(Durability::Memory)
        } else {
            self.backend.commit(group.batch, group.durability).await
        };
        match written {
            Ok(reached) => {
                self.pins.advance(group.last_seq);
                group.segments.iter().for_each(|segment| segment.unpin());
                self.group_count.fetch_add(1, Ordering::Relaxed);
                Ok(reached)
            }
            Err(error) => {
                self.fail(group.scopes, group.last_seq, &error);
                Err(error)
            }
        }
    }

    /// Drops from memory what storage did not take, the open group included: it was built on what failed.
    ///
    /// Storage may have taken the group and lost the answer. Whatever it holds up to `last_seq` is read from it again,
    /// so readers may see that far: then the group is visible to all of them from now on, or to none ever.
    fn fail(&self, mut scopes: HashSet<ScopeKey>, last_seq: Seq, error: &KalamError) {
        let mut commits = self.commits.lock();
        if let Some(open) = commits.open.take() {
            *open.failure.lock() = Some(error.clone());
            scopes.extend(open.scopes);
        }
        // What the open group was to replace it has not: the newest snapshot must not be refused because of it. Older
        // ones stay refused, for what was replaced before that is no longer known.
        let newest = self.snapshot().max(last_seq);
        self.replaced.lock().values_mut().for_each(|at| *at = (*at).min(newest));
        let evicted: HashSet<ScopeKey> = self.restore_streams(scopes.into_iter().collect()).into_iter().collect();
        self.evict(|scope| evicted.contains(scope));
        self.pins.advance(last_seq);
        // The ceiling's record may have been in the failed batch: write it again with the next commit.
        commits.ceiling = self.snapshot();
    }

    /// Ends when every commit submitted so far is durable or has failed.
    pub async fn barrier(&self) {
        loop {
            let last = self.commits.lock().last.clone();
            let Some(last) = last else { return };
            let _ = last.clone().await;
            let mut commits = self.commits.lock();
            if commits.last.as_ref().is_some_and(|f| f.ptr_eq(&last)) {
                commits.last = None;
                return;
            }
        }
    }
}

/// Adds: no `_seq` is above `ceiling`.
fn put_ceiling(batch: &mut WriteBatch, ceiling: Seq) {
    let value = record::seal(RecordKind::Entity, CEILING_KEY, ceiling.to_string().as_bytes());
    batch.put(Partition::Meta, CEILING_KEY, value);
}
