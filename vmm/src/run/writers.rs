//! Snapshots whose memory is written by processes of their own: who asked for one is answered when that has ended.

use super::Session;
use crate::memory::mapped;
use crate::requests::{Answer, Outcome, Refusal, ReplyTo, Saved};
use crate::snapshot::SnapshotError;

/// Such a snapshot. Dropped, it leaves no files.
pub(super) struct Writing {
    saved: Saved,
    reply: ReplyTo,
}

impl Session {
    /// Answers who asked, now or as soon as all is written. There are as many that are written at a time as clients ask.
    pub(super) fn answer(&mut self, reply: ReplyTo, outcome: Outcome) {
        match outcome {
            Ok(Answer::Saved(saved)) if saved.writer.is_some() => {
                self.writing.push(Writing { saved, reply });
            }
            outcome => reply(outcome),
        }
    }

    /// One of those who write has ended, or several.
    pub(super) fn hear_of_writers(&mut self) {
        for Writing { saved, reply } in std::mem::take(&mut self.writing) {
            match saved.writer.as_ref().and_then(|writer| writer.end()) {
                None => self.writing.push(Writing { saved, reply }),
                Some(Ok(())) => reply(Ok(Answer::Saved(Saved { writer: None, ..saved }))),
                Some(Err(source)) => {
                    let path = saved.draft.memory_path();
                    // Its files are gone before anybody is told.
                    drop(saved);
                    reply(Err(Refusal::from(&SnapshotError::Write { path, source })));
                }
            }
        }
    }

    /// Whether nobody writes any more who would find the kernel's file changed. Otherwise they are told to end, and what
    /// was asked for is asked for again.
    pub(super) fn writers_are_gone(&self) -> bool {
        if self.writing.is_empty() {
            return true;
        }
        self.stop_writers();
        mapped::ask();
        false
    }

    /// They end soon, and nobody waits for that.
    pub(super) fn stop_writers(&self) {
        self.writing.iter().filter_map(|it| it.saved.writer.as_ref()).for_each(|it| it.stop());
    }
}
