//! What the store does to the scopes of streams: ends events by age, puts back what failed.

use std::sync::Arc;

use super::{HotTable, ScopeKey, TableStore};
use crate::platform;
use crate::schema::TableDefinition;

impl TableStore {
    /// Ends the events of a scope that are too old, so that nobody who fetches its hot tier meets them as live rows.
    pub(super) fn expire(&self, scope: &ScopeKey, definition: &TableDefinition) {
        if let Some(ttl) = definition.options.ttl_seconds
            && let Some(hot) = self.loaded(scope)
        {
            hot.set_ttl(ttl);
            hot.expire(platform::now_ms(), self.snapshot() + 1);
        }
    }

    /// Sets how long the events of a stream live that are in memory: whoever touches them does so too.
    pub fn set_ttl(&self, table_no: u32, seconds: u64) {
        let slots = self.slots.lock();
        let of_table = slots.iter().filter(|(scope, _)| scope.table_no == table_no);
        of_table.filter_map(|(_, slot)| slot.hot.lock().clone()).for_each(|hot| hot.set_ttl(seconds));
    }

    /// Drops from memory the events that are too old; returns how many. Nobody sees them any more in any case: this
    /// is for streams that nobody touches.
    pub fn evict_expired(&self) -> u64 {
        self.evict_expired_at(platform::now_ms())
    }

    /// As [`TableStore::evict_expired`], by a clock that shows `now_ms`.
    pub fn evict_expired_at(&self, now_ms: u64) -> u64 {
        let streams: Vec<Arc<HotTable>> =
            self.slots.lock().values().filter_map(|slot| slot.hot.lock().clone()).collect();
        streams.iter().map(|hot| hot.expire(now_ms, self.snapshot() + 1)).sum()
    }

    /// Puts the streams among the scopes of failed commits back to what readers saw. Their rows are nowhere else, so
    /// they cannot be read again from storage as others are. Returns the scopes that are no streams.
    pub(super) fn restore_streams(&self, scopes: Vec<ScopeKey>) -> Vec<ScopeKey> {
        let mut others = Vec::with_capacity(scopes.len());
        for scope in scopes {
            let slot = self.slots.lock().get(&scope).cloned();
            let restored = slot.and_then(|slot| {
                let mut hot = slot.hot.lock();
                let restored = hot.as_ref().filter(|hot| hot.is_stream())?.at_snapshot(self.snapshot()).ok()?;
                *hot = Some(Arc::new(restored));
                Some(())
            });
            if restored.is_none() {
                others.push(scope);
            }
        }
        others
    }
}
