//! What is written down about a machine while it runs: log lines and metrics.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::plan::path_as_text;

/// Metrics in Firecracker's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// The file or FIFO.
    #[serde(rename = "metrics_path", serialize_with = "path_as_text")]
    pub path: PathBuf,
    /// What else each line says: an object of strings, or null.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub properties: Value,
}

impl MetricsConfig {
    /// Only numbers, to `path`.
    #[must_use]
    pub fn to(path: PathBuf) -> Self {
        Self { path, properties: Value::Null }
    }

    /// Reads the value of the key `metrics`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_json(value: Value) -> Result<Self, &'static str> {
        let Value::Object(mut keys) = value else { return Err("it must be an object") };
        let Some(Value::String(path)) = keys.remove("metrics_path") else {
            return Err("metrics_path is missing: add the path of a file or FIFO");
        };
        let properties = keys.remove("properties").unwrap_or_default();
        let is_fine = match &properties {
            Value::Null => true,
            Value::Object(texts) => texts.values().all(Value::is_string),
            _ => false,
        };
        if !is_fine {
            return Err("properties must be an object of strings");
        }
        if !keys.is_empty() {
            return Err("only metrics_path and properties are known: remove the rest");
        }
        Ok(Self { path: path.into(), properties })
    }
}
