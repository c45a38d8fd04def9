//! Where Firecracker's lines go: to the end of a file, or into a FIFO. Never waits.
//!
//! A line that cannot be written counts as missed, and what it would have told is told by the next one. One that is
//! taken in part is gone on with before any other.

use std::fs::File;
use std::io::{self, Write};

use serde_json::Value;

use super::Snapshot;
use super::firecracker::{self, Counts};
use crate::config::{EventSink, EventSinkError, MetricsConfig};

/// See the module.
pub struct Sink<W = File> {
    to: W,
    /// What each line has besides the numbers, as JSON.
    properties: String,
    /// What is left of the last line.
    rest: Vec<u8>,
    before: Counts,
    missed: u64,
}

impl Sink {
    /// Opens what `config` says.
    ///
    /// # Errors
    /// The host's answer.
    pub fn open(config: &MetricsConfig) -> Result<Self, EventSinkError> {
        let to = EventSink::Path(config.path.clone()).open()?;
        Ok(Self::new(to, config))
    }
}

impl<W: Write> Sink<W> {
    fn new(to: W, config: &MetricsConfig) -> Self {
        let properties = match &config.properties {
            Value::Null => String::new(),
            all => format!(",\"properties\":{all}"),
        };
        Self { to, properties, rest: Vec::new(), before: Counts::default(), missed: 0 }
    }

    /// How many lines were missed.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Tells of `snapshot`.
    ///
    /// # Errors
    /// The host's answer; the line is missed.
    pub fn tell(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let told = self.write_rest().and_then(|()| {
            let (line, now) = firecracker::line(snapshot, &self.properties, &self.before);
            self.rest = line.into_bytes();
            self.rest.push(b'\n');
            let whole = self.rest.len();
            match self.write_rest() {
                Err(error) if self.rest.len() == whole => {
                    self.rest.clear();
                    Err(error)
                }
                // The reader has the beginning, and will get the rest.
                _ => {
                    self.before = now;
                    Ok(())
                }
            }
        });
        self.missed += u64::from(told.is_err());
        told
    }

    /// Another machine has taken the place of that of `old`.
    pub fn move_on(&mut self, old: &Snapshot, new: &Snapshot) {
        self.before = self.before.moved(old, new);
    }

    /// Writes what is left of a line.
    fn write_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.to.write(&self.rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::life_cycle::Phase;
    use crate::metrics::tests::full;

    /// Takes what it has room for.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn narrow(room: usize) -> Sink<Narrow> {
        let properties = serde_json::json!({"customer": "a \"b\""});
        let config = MetricsConfig { path: PathBuf::new(), properties };
        Sink::new(Narrow { taken: Vec::new(), room }, &config)
    }

    /// The lines taken so far; the last one must have ended.
    fn lines(sink: &Sink<Narrow>) -> Vec<Value> {
        let text = str::from_utf8(&sink.to.taken).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn what_a_missed_line_had_is_told_by_the_next_one() {
        let mut sink = narrow(0);
        let nothing = Snapshot::new("x", Phase::Running);
        assert!(sink.tell(&full()).is_err() && sink.tell(&full()).is_err());
        assert_eq!((sink.missed(), lines(&sink).len()), (2, 0));
        sink.to.room = usize::MAX;
        sink.tell(&full()).unwrap();
        let told = lines(&sink);
        assert_eq!(told[0]["block"]["read_count"], 15);
        assert_eq!(told[0]["properties"]["customer"], "a \"b\"");
        sink.move_on(&full(), &nothing);
        sink.tell(&nothing).unwrap();
        assert_eq!(sink.missed(), 2);
    }

    #[test]
    fn a_line_that_was_taken_in_part_is_ended_first() {
        let mut sink = narrow(100);
        sink.tell(&full()).unwrap();
        assert_eq!(sink.to.taken.len(), 100);
        assert!(sink.tell(&full()).is_err(), "there is still no room");
        assert_eq!((sink.to.taken.len(), sink.missed()), (100, 1));
        sink.to.room = usize::MAX;
        sink.tell(&full()).unwrap();
        let reads =
            lines(&sink).iter().map(|it| it["block"]["read_count"].clone()).collect::<Vec<_>>();
        assert_eq!(reads, [15, 0]);
    }
}
