//! The metadata service of a machine: its file is read, and what changes later outlives a reboot.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::metadata::{DEFAULT_SIZE_LIMIT, MetadataStore, Service, ServiceOptions, StoreError};

use crate::config::MetadataPlan;

/// Bytes of a file. The limit of the metadata counts without spaces, which a file may have; this is a bound when
/// someone names a disk.
const FILE_MAX: u64 = 16 << 20;

/// Why there is no metadata service.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The file cannot be opened or read.
    #[error("metadata {path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("metadata {path:?} is not JSON")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// What is in the file cannot be metadata.
    #[error("metadata {path:?}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The host has no randomness.
    #[error("/dev/urandom cannot be opened")]
    Random(#[source] io::Error),
}

/// A store for at most `limit` bytes, with what is in the file at `path`.
///
/// # Errors
/// [`MetadataError`].
pub fn load(path: Option<&Path>, limit: Option<usize>) -> Result<MetadataStore, MetadataError> {
    let store = MetadataStore::new(limit.unwrap_or(DEFAULT_SIZE_LIMIT));
    if let Some(path) = path {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX).read_to_end(&mut text))
            .map_err(|source| MetadataError::Read { path: path.to_owned(), source })?;
        let value = serde_json::from_slice(&text)
            .map_err(|source| MetadataError::Syntax { path: path.to_owned(), source })?;
        store
            .put(value)
            .map_err(|source| MetadataError::Contents { path: path.to_owned(), source })?;
    }
    Ok(store)
}

/// Starts the service of `plan` for what is in `store`.
///
/// # Errors
/// [`MetadataError::Random`].
pub fn serve(plan: &MetadataPlan, store: MetadataStore) -> Result<Arc<Service>, MetadataError> {
    let options = ServiceOptions { version: plan.version, imds_compat: plan.imds_compat };
    Service::new(options, store).map(Arc::new).map_err(MetadataError::Random)
}

#[cfg(test)]
mod tests {
    use devices::event::chain;

    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn the_file_is_the_metadata() {
        let dir = TestDir::new();
        let path = dir.path().join("m.json");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(Some(&path), Some(20)).map_err(|error| chain(&error))
        };
        // Spaces do not count.
        let spaces = " ".repeat(100);
        let service = open(&format!("{{ \"a\": {spaces} 1 }}")).unwrap();
        assert_eq!(service.get(), serde_json::json!({ "a": 1 }));
        for (text, reason) in [
            ("{", "is not JSON: EOF while parsing an object at line 1 column 1"),
            ("[]", "metadata must be a JSON object"),
            ("{\"a\":\"0123456789012345\"}", "metadata of 24 bytes exceeds the limit of 20"),
        ] {
            let message = open(text).err().unwrap();
            assert!(message.starts_with("metadata ") && message.ends_with(reason), "{message}");
        }
    }

    #[test]
    fn a_file_is_not_needed_but_must_be_there_when_it_is_named() {
        assert!(load(None, None).unwrap().get().is_null());
        let message = chain(&load(Some(Path::new("/nowhere")), None).err().unwrap());
        assert!(message.starts_with("metadata \"/nowhere\" cannot be read: "), "{message}");
    }
}
