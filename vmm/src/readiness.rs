//! Signs that a guest is ready: the first of them after a start counts, whoever notices it.
//!
//! Three things tell: a write to the boot timer, which a vCPU thread reports; `READY=1` on a port of the socket device
//! ([`Notify`], systemd's protocol); a text on a console ([`Patterns`]). Who wants to know looks at
//! [`crate::events`].

use std::sync::Arc;

use devices::backend::console::{Overhear, Stage};
use devices::backend::vsock::{Service, Session};

use crate::boot_timer;
use crate::boot_trace::{self, Stage as BootStage};
use crate::events::{self, Event, ReadySign};

/// `by` has told that the guest is ready.
pub fn announce(by: ReadySign) {
    boot_trace::mark(BootStage::Userspace);
    boot_timer::reached(by == ReadySign::BootTimer);
    events::emit(Event::Ready { by });
}

/// What the guest says when it is ready (`sd_notify(3)`).
const READY: &[u8] = b"READY=1";

/// A port of the host at which programs of the guest tell how they are, as systemd does when its credential
/// `vmm.notify_socket` is `vsock-stream:2:PORT`. Of what they say only the line `READY=1` counts.
pub struct Notify;

impl Service for Notify {
    fn connect(&self) -> Box<dyn Session> {
        Box::new(Line::new(|| announce(ReadySign::Vsock)))
    }
}

/// How much of a line has been heard. The end of the connection ends a line as well.
struct Line<F: Fn()> {
    /// Bytes of the line so far, all of them as in [`READY`]; `None` when it is another line.
    matched: Option<usize>,
    ready: F,
}

impl<F: Fn()> Line<F> {
    fn new(ready: F) -> Self {
        Self { matched: Some(0), ready }
    }

    fn end(&mut self) {
        if self.matched.replace(0) == Some(READY.len()) {
            (self.ready)();
        }
    }
}

impl<F: Fn() + Send> Session for Line<F> {
    fn receive(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte == b'\n' {
                self.end();
            } else {
                self.matched =
                    self.matched.filter(|at| READY.get(*at) == Some(byte)).map(|at| at + 1);
            }
        }
        true
    }
}

impl<F: Fn()> Drop for Line<F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Looks for a text in what the devices of a console say, each by itself.
pub struct Patterns {
    early: Pattern,
    late: Pattern,
}

impl Patterns {
    /// Looks for `text`, which is not empty.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text: Arc<[u8]> = text.as_bytes().into();
        Self { early: Pattern::new(text.clone()), late: Pattern::new(text) }
    }
}

impl Overhear for Patterns {
    fn hear(&mut self, stage: Stage, bytes: &[u8]) {
        let pattern = match stage {
            Stage::Early => &mut self.early,
            Stage::Late => &mut self.late,
        };
        if pattern.occurs_in(bytes) {
            announce(ReadySign::Console);
        }
    }
}

/// A text to be found in a stream that comes in pieces, by the method of Knuth, Morris and Pratt: no byte is looked at
/// again, and none is kept.
struct Pattern {
    text: Arc<[u8]>,
    /// For each length of a match, that of the longest other match which ends at the same place.
    borders: Box<[usize]>,
    matched: usize,
}

impl Pattern {
    fn new(text: Arc<[u8]>) -> Self {
        let mut pattern = Self { text: text.clone(), borders: Box::new([]), matched: 0 };
        let mut borders = vec![0];
        // The text without its first byte, searched for the text itself.
        for byte in text.iter().skip(1) {
            pattern.borders = borders.clone().into();
            pattern.advance(*byte);
            borders.push(pattern.matched);
        }
        Self { text, borders: borders.into(), matched: 0 }
    }

    /// Takes the next bytes of the stream. Whether the text ends in them.
    fn occurs_in(&mut self, bytes: &[u8]) -> bool {
        let mut is_found = false;
        for byte in bytes {
            self.advance(*byte);
            is_found |= self.matched == self.text.len();
        }
        is_found
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.text.get(self.matched) != Some(&byte) {
            self.matched = self.borders.get(self.matched - 1).copied().unwrap_or(0);
        }
        if self.text.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Mutex;

    use super::*;

    /// How often `pieces`, sent over a connection that ends then, say that the guest is ready.
    fn notified(pieces: &[&str]) -> usize {
        let count = Arc::new(Mutex::new(0));
        let mut line = Line::new(|| *count.lock().unwrap() += 1);
        for piece in pieces {
            assert!(line.receive(piece.as_bytes()));
        }
        drop(line);
        *count.lock().unwrap()
    }

    #[test]
    fn a_line_that_says_ready_counts_and_no_other() {
        for said in [
            &["READY=1"][..],
            &["READY=1\n"],
            &["READ", "Y=1", "\n"],
            &["STATUS=Starting\nREADY=1\nX_SYSTEMD_HOSTNAME=vm\n"],
            &["READY=0\n", "READY=1"],
        ] {
            assert_eq!(notified(said), 1, "{said:?}");
        }
        for said in [
            &[""][..],
            &["READY=10"],
            &["READY=1 \n"],
            &[" READY=1\n"],
            &["NOTREADY=1\n"],
            &["READY=", "\n1\n"],
            &["READY"],
        ] {
            assert_eq!(notified(said), 0, "{said:?}");
        }
    }

    fn occurs(text: &str, pieces: &[&str]) -> bool {
        let mut pattern = Pattern::new(text.as_bytes().into());
        let found = Rc::new(Cell::new(false));
        for piece in pieces {
            found.set(found.get() | pattern.occurs_in(piece.as_bytes()));
        }
        found.get()
    }

    #[test]
    fn a_text_is_found_across_pieces() {
        assert!(occurs("login:", &["vm log", "in", ": "]));
        assert!(occurs("a", &["", "ba"]));
        assert!(!occurs("login:", &["log", " in:"]));
    }

    #[test]
    fn a_text_is_found_wherever_a_search_finds_it() {
        // Every stream of eight letters and every text of up to five, of two letters each.
        let word = |bits: usize, len: usize| -> String {
            (0..len).map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' }).collect()
        };
        for (bits, len) in (1..=5).flat_map(|len| (0..1 << len).map(move |bits| (bits, len))) {
            let text = word(bits, len);
            for stream in (0..256).map(|bits| word(bits, 8)) {
                let (first, second) = stream.split_at(3);
                assert_eq!(
                    occurs(&text, &[first, second]),
                    stream.contains(&text),
                    "{text} {stream}"
                );
            }
        }
    }
}
