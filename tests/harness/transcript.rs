//! What a process said, collected by a thread while the test goes on.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::patience;

/// Bytes in the order they came; clones see the same.
#[derive(Clone)]
pub struct Transcript(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
}

impl Transcript {
    /// Collects from `source` until it ends or fails.
    #[must_use]
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let collector = Self(shared.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match source.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => collector.add(&buffer[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    // A terminal whose other side is gone says EIO.
                    Err(_) => break,
                }
            }
            collector.0.state.lock().unwrap().closed = true;
            collector.0.changed.notify_all();
        });
        Self(shared)
    }

    /// Everything so far. Bytes that are no text show as replacement characters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Everything so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()
    }

    /// Waits until `look` finds something in what came from byte `start` on. `None`: it did not within
    /// [`patience`], or the source ended without.
    pub fn wait<T>(&self, start: usize, mut look: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience();
        let mut state = self.0.state.lock().unwrap();
        loop {
            if let Some(found) = look(state.bytes.get(start..).unwrap_or_default()) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for the end of the source; all output is there then.
    pub fn wait_closed(&self) -> bool {
        let deadline = Instant::now() + patience();
        let mut state = self.0.state.lock().unwrap();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
        }
        true
    }

    fn add(&self, bytes: &[u8]) {
        self.0.state.lock().unwrap().bytes.extend_from_slice(bytes);
        self.0.changed.notify_all();
    }
}

/// Where `text` ends in `bytes`, at its first occurrence.
#[must_use]
pub fn end_of(bytes: &[u8], text: &str) -> Option<usize> {
    let text = text.as_bytes();
    bytes.windows(text.len()).position(|window| window == text).map(|start| start + text.len())
}

/// The last `count` lines, for a message that a person reads.
#[must_use]
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_text_is_there_or_cannot_come_any_more() {
        let (reader, writer) = std::io::pipe().unwrap();
        let transcript = Transcript::of(reader);
        thread::spawn(move || {
            use std::io::Write;
            (&writer).write_all(b"one two").unwrap();
        });
        assert_eq!(transcript.wait(0, |bytes| end_of(bytes, "one")), Some(3));
        assert_eq!(transcript.wait(3, |bytes| end_of(bytes, "two")), Some(4));
        assert_eq!(transcript.wait(3, |bytes| end_of(bytes, "one")), None);
        assert!(transcript.wait_closed());
    }

    #[test]
    fn the_tail_is_whole_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
