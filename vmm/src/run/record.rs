//! Which pages a machine touches after it has gone on, written down once.

use super::{RunError, Session};
use crate::jail::JailError;
use crate::memory::file;
use crate::snapshot::Source;
use crate::snapshot::working_set::Recording;

impl Session {
    /// What `source` is to be recorded in. This process sees its own pages by what it opens now.
    pub(super) fn begin_recording(
        &self,
        source: Option<&mut Source>,
    ) -> Result<Option<Recording>, RunError> {
        let Some(recording) = source.and_then(|source| source.recording.take()) else {
            return Ok(None);
        };
        if self.has_jail {
            return Err(JailError::Recording.into());
        }
        file::open_page_map();
        Ok(Some(recording))
    }

    /// Writes down what the machine has touched so far, the first time that this is called. Nobody depends on it, so what
    /// goes wrong is only told.
    pub(super) fn finish_recording(&mut self) {
        let (Some(recording), Some(life)) = (self.recording.take(), &self.life) else { return };
        let written = file::touched(life.machine.memory())
            .and_then(|pages| recording.finish(life.machine.memory_bytes(), pages));
        if let Err(error) = written {
            log::warn!("the working set cannot be recorded: {error}");
        }
    }
}
