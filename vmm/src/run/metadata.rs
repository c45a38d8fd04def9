//! Requests about what the guest is told.

use devices::metadata::{MetadataStore, StoreError};

use crate::requests::{Answer, Code, MetadataCommand, Outcome, Refusal};

pub(super) fn obey(store: &MetadataStore, command: MetadataCommand) -> Outcome {
    match command {
        MetadataCommand::Show => return Ok(Answer::Value(store.get())),
        MetadataCommand::Put(value) => store.put(value),
        MetadataCommand::Patch(patch) => store.patch(&patch),
    }
    .map(|()| Answer::Done)
    .map_err(|error| match error {
        StoreError::TooLarge { .. } => {
            let message = format!("The MMDS patch request doesn't fit: {error}.");
            Refusal::new(Code::MetadataTooLarge, message)
        }
        StoreError::Empty => {
            Refusal::new(Code::BadValue, "The MMDS data store is not initialized.")
        }
        StoreError::NotAnObject => Refusal::new(Code::BadValue, error.to_string()),
    })
}
