//! The metadata: one JSON object, written by the host, read by the guest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Why the metadata stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Something else than an object.
    #[error("metadata must be a JSON object")]
    NotAnObject,
    /// A change to what is not there yet.
    #[error("there is no metadata yet: put some before changing it")]
    Empty,
    /// More than the limit.
    #[error("metadata of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Bytes of the new metadata as JSON text.
        size: usize,
        /// What was allowed.
        limit: usize,
    },
}

/// The metadata of a machine. Clones are cheap and mean the same metadata.
#[derive(Clone)]
pub struct MetadataStore(Arc<Store>);

struct Store {
    value: Mutex<Value>,
    limit: usize,
}

impl MetadataStore {
    /// A store without metadata, for at most `limit` bytes of it as JSON text.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Store { value: Mutex::new(Value::Null), limit }))
    }

    /// All metadata; null before any was put.
    #[must_use]
    pub fn get(&self) -> Value {
        self.lock().clone()
    }

    /// Replaces the metadata.
    ///
    /// # Errors
    /// [`StoreError`], and nothing is changed.
    pub fn put(&self, value: Value) -> Result<(), StoreError> {
        self.check(&value)?;
        *self.lock() = value;
        Ok(())
    }

    /// Merges `patch` into the metadata (RFC 7396): its values replace, its nulls remove.
    ///
    /// # Errors
    /// [`StoreError`], and nothing is changed.
    pub fn patch(&self, patch: &Value) -> Result<(), StoreError> {
        if !patch.is_object() {
            return Err(StoreError::NotAnObject);
        }
        let mut value = self.lock();
        if value.is_null() {
            return Err(StoreError::Empty);
        }
        let mut merged = value.clone();
        merge(&mut merged, patch);
        self.check(&merged)?;
        *value = merged;
        Ok(())
    }

    /// Calls `f` with the value at `pointer` (RFC 6901).
    pub(super) fn look_up<T>(&self, pointer: &str, f: impl FnOnce(Option<&Value>) -> T) -> T {
        let value = self.lock();
        // Without metadata there is nothing, not even a root.
        f(value.pointer(pointer).filter(|_| !value.is_null()))
    }

    fn check(&self, value: &Value) -> Result<(), StoreError> {
        if !value.is_object() {
            return Err(StoreError::NotAnObject);
        }
        let (size, limit) = (value.to_string().len(), self.0.limit);
        if size > limit { Err(StoreError::TooLarge { size, limit }) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Value> {
        self.0.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As deep as `patch` is, which the parser of JSON limits to 128.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn put_replaces_and_patch_merges() {
        let store = MetadataStore::new(1000);
        assert_eq!(store.get(), Value::Null);
        assert_eq!(store.patch(&json!({})), Err(StoreError::Empty));
        store.put(json!({ "a": 1, "b": { "c": [1, 2], "d": "x" } })).unwrap();
        store.patch(&json!({ "b": { "c": [3], "d": null, "e": { "f": null } }, "g": 2 })).unwrap();
        assert_eq!(store.get(), json!({ "a": 1, "b": { "c": [3], "e": {} }, "g": 2 }));
        store.clone().put(json!({ "h": 3 })).unwrap();
        assert_eq!(store.get(), json!({ "h": 3 }));
    }

    /// The examples of RFC 7396, appendix A, that begin and end with an object.
    #[test]
    fn merging_is_as_specified() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} and {patch}");
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        // As long as `{"a":"12345"}`.
        let store = MetadataStore::new(13);
        store.put(json!({ "a": "12345" })).unwrap();
        let too_large = Err(StoreError::TooLarge { size: 14, limit: 13 });
        assert_eq!(store.put(json!({ "a": "123456" })), too_large);
        assert_eq!(store.patch(&json!({ "a": "654321" })), too_large);
        assert_eq!(store.put(json!([1])), Err(StoreError::NotAnObject));
        assert_eq!(store.patch(&Value::Null), Err(StoreError::NotAnObject));
        assert_eq!(store.get(), json!({ "a": "12345" }));
    }
}
