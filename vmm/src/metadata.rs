//! The metadata service of a machine: its file is read, and what changes later outlives a reboot.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use devices::metadata::{MetadataStore, Service, ServiceOptions, StoreError};

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

/// Starts the service of `plan`.
///
/// # Errors
/// [`MetadataError`].
pub fn open(plan: &MetadataPlan) -> Result<Arc<Service>, MetadataError> {
    let store = MetadataStore::new(plan.size_limit);
    if let Some(path) = &plan.path {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX).read_to_end(&mut text))
            .map_err(|source| MetadataError::Read { path: path.clone(), source })?;
        let value = serde_json::from_slice(&text)
            .map_err(|source| MetadataError::Syntax { path: path.clone(), source })?;
        store
            .put(value)
            .map_err(|source| MetadataError::Contents { path: path.clone(), source })?;
    }
    let options = ServiceOptions { version: plan.version, imds_compat: plan.imds_compat };
    Service::new(options, store).map(Arc::new).map_err(MetadataError::Random)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use devices::event::chain;
    use devices::metadata::Version;

    use super::*;
    use crate::test_dir::TestDir;

    fn plan(path: Option<PathBuf>) -> MetadataPlan {
        MetadataPlan {
            path,
            version: Version::V1,
            address: Ipv4Addr::new(169, 254, 169, 254),
            imds_compat: false,
            size_limit: 20,
        }
    }

    #[test]
    fn the_file_is_the_metadata() {
        let dir = TestDir::new();
        let path = dir.path().join("m.json");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            open(&plan(Some(path.clone()))).map_err(|error| chain(&error))
        };
        // Spaces do not count.
        let spaces = " ".repeat(100);
        let service = open(&format!("{{ \"a\": {spaces} 1 }}")).unwrap();
        assert_eq!(service.store().get(), serde_json::json!({ "a": 1 }));
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
        assert!(open(&plan(None)).unwrap().store().get().is_null());
        let message = chain(&open(&plan(Some("/nowhere".into()))).err().unwrap());
        assert!(message.starts_with("metadata \"/nowhere\" cannot be read: "), "{message}");
    }
}
