//! The host's side of a console: its descriptors, and the epoll instance that watches them.
//!
//! The instance is itself one descriptor, so that clients come and go without the event loop knowing.
//! Input is watched edge-triggered with the readiness remembered, because it stays unread while the guest
//! has no room; room for output is asked for only when there was none, one event per request. An idle
//! console wakes nobody.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::descriptor::Descriptor;
use super::escape::{Command, EscapeDecoder, HELP};
use super::hub::Hub;
use super::outlet::{Outlet, Pending};
use super::socket::{Client, Listener};
use super::source::Source;
use super::terminal::Terminal;
use super::{ConsoleEvent, Size};
use crate::backend::socket::SocketFile;

/// Most clients of a socket at a time. All see the output and all may type, as on a shared screen.
pub(super) const MAX_CLIENTS: usize = 4;
const BUSY: &[u8] = b"[vmm: console busy, too many clients]\r\n";
/// Most events taken, and most clients admitted, before the event loop sees to something else.
const MAX_BATCH: usize = 16;

/// See the module.
pub(super) struct Host {
    epoll: Epoll,
    sources: Vec<Source>,
    outlets: Vec<Outlet>,
    listener: Option<Listener>,
    terminal: Option<Terminal>,
    /// Kept open for what its being open does.
    held: Option<OwnedFd>,
    last_id: u32,
    /// Whether the backlog is kept for readers to come, delivered or not.
    replays: bool,
    /// What outlets that are gone had lost.
    lost: u64,
}

/// What an epoll event is about: a kind in the upper half, a number in the lower one.
mod token {
    pub(super) const WAKE: u64 = 0;
    pub(super) const LISTENER: u64 = 1 << 32;
    pub(super) const SOURCE: u64 = 2 << 32;
    pub(super) const OUTLET: u64 = 3 << 32;
    pub(super) const KIND: u64 = !ID;
    pub(super) const ID: u64 = 0xffff_ffff;
}

impl Host {
    /// No descriptors yet. `replays`: every new reader begins with what is kept.
    pub(super) fn new(hub: &Hub, replays: bool) -> io::Result<Self> {
        let host = Self {
            epoll: Epoll::new()?,
            sources: Vec::new(),
            outlets: Vec::new(),
            listener: None,
            terminal: None,
            held: None,
            last_id: 0,
            replays,
            lost: 0,
        };
        host.watch(hub.wake_fd(), token::WAKE, EventSet::IN)?;
        // The first round finds out who waits for what.
        hub.wake_again();
        Ok(host)
    }

    /// Readable when [`Self::handle`] has something to do.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Shows the output on `to` as well.
    pub(super) fn add_outlet(&mut self, to: Descriptor, hub: &Hub) {
        let id = self.next_id();
        self.outlets.push(Outlet::new(id, to, hub));
    }

    /// Takes input from `from`.
    pub(super) fn add_source(&mut self, from: Descriptor) -> io::Result<()> {
        let id = self.next_id();
        self.push_source(id, from, None)
    }

    /// Takes keys from `from`, which is `terminal`.
    pub(super) fn add_keyboard(&mut self, from: Descriptor, terminal: Terminal) -> io::Result<()> {
        self.terminal = Some(terminal);
        self.claim_terminal();
        let id = self.next_id();
        self.push_source(id, from, Some(EscapeDecoder::default()))
    }

    /// Keeps the slave of a pseudo-terminal open: without one, its master reports a hang-up and an error
    /// instead of waiting for the next person.
    pub(super) fn hold(&mut self, slave: OwnedFd) {
        self.held = Some(slave);
    }

    /// Lets clients connect.
    pub(super) fn listen(&mut self, listener: Listener) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.watch(listener.as_raw_fd(), token::LISTENER, events)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// The process may be in the foreground again.
    pub(super) fn resume(&mut self, hub: &Hub) {
        if self.claim_terminal() {
            for source in self.sources.iter_mut().filter(|s| s.is_keyboard()) {
                source.has_input();
            }
            hub.wake_again();
        }
    }

    /// The size of the terminal, if there is one.
    pub(super) fn window_size(&self) -> Option<Size> {
        self.outlets.iter().find_map(Outlet::window_size)
    }

    /// Bytes of the output that some reader never got.
    pub(super) fn lost(&self, hub: &Hub) -> u64 {
        self.lost + self.outlets.iter().map(|o| o.lost(hub)).sum::<u64>()
    }

    /// Whether output waits for a reader that may still take it.
    pub(super) fn is_behind(&self) -> bool {
        let behind = |o: &Outlet| matches!(o.pending(), Pending::Room | Pending::Turn);
        self.outlets.iter().any(behind)
    }

    /// Tries output that was refused once more.
    pub(super) fn retry(&mut self, hub: &Hub) {
        self.outlets.iter_mut().for_each(Outlet::retry);
        self.flush(hub);
    }

    /// The file of the socket that it listens on.
    pub(super) fn socket_file(&self) -> Option<&SocketFile> {
        self.listener.as_ref().map(Listener::file)
    }

    /// Closes everything; a terminal is put back, a socket's file removed.
    pub(super) fn shut(&mut self, hub: &Hub) {
        self.lost += self.outlets.iter().map(|o| o.lost_at_end(hub)).sum::<u64>();
        let fds = self.sources.iter().map(Source::as_raw_fd);
        for fd in fds.chain(self.outlets.iter().map(Outlet::as_raw_fd)) {
            self.forget(fd);
        }
        self.sources.clear();
        self.outlets.clear();
        self.listener = None;
        self.terminal = None;
        self.held = None;
        hub.sleep_until(u64::MAX);
    }

    /// Waits up to `timeout_ms` for something to do and does it, within bounds.
    pub(super) fn handle(&mut self, hub: &Hub, timeout_ms: i32) -> Option<ConsoleEvent> {
        let mut events = [EpollEvent::default(); MAX_BATCH];
        // An interrupted wait is a wait without events.
        let count = self.epoll.wait(timeout_ms, &mut events).unwrap_or(0);
        hub.take_wake();
        for event in events.iter().take(count) {
            let id = u32::try_from(event.data() & token::ID).unwrap_or(0);
            match event.data() & token::KIND {
                token::LISTENER => {
                    if let Some(listener) = &mut self.listener {
                        listener.is_ready = true;
                    }
                }
                token::SOURCE => {
                    let source = self.sources.iter_mut().find(|s| s.id == id);
                    source.into_iter().for_each(Source::has_input);
                }
                token::OUTLET => {
                    let outlet = self.outlets.iter_mut().find(|o| o.id == id);
                    outlet.into_iter().for_each(Outlet::has_room);
                }
                _ => {}
            }
        }
        self.accept(hub);
        let event = self.read_sources(hub);
        self.flush(hub);
        event
    }

    /// Writes what the outlets take, and sees to it that somebody comes back for the rest.
    pub(super) fn flush(&mut self, hub: &Hub) {
        // What is written while we look must wake us: nobody knows yet who will wait for it.
        hub.sleep_until(0);
        for outlet in &mut self.outlets {
            if outlet.flush(hub) {
                watch_room(&self.epoll, outlet);
            }
        }
        self.drop_peers(hub, |it| it.is_visitor && it.pending() == Pending::Gone);
        if !self.replays {
            // A reader that is gone for good stays in the list: what it does not get is lost.
            let reading = |o: &&Outlet| o.pending() != Pending::Gone;
            let delivered = self.outlets.iter().filter(reading).map(Outlet::position).min();
            hub.with_screen(|screen| match delivered {
                Some(position) => screen.discard_before(position),
                None => screen.close(),
            });
        }
        let mut wake_at = u64::MAX;
        for outlet in &self.outlets {
            match outlet.pending() {
                Pending::Turn => hub.wake_again(),
                Pending::Output => wake_at = 0,
                Pending::Length(length) => wake_at = wake_at.min(length),
                Pending::Room | Pending::Gone => {}
            }
        }
        hub.sleep_until(wake_at);
    }

    fn push_source(
        &mut self,
        id: u32,
        from: Descriptor,
        keys: Option<EscapeDecoder>,
    ) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let watched = self.watch(from.as_raw_fd(), token::SOURCE | u64::from(id), events);
        let is_watched = match watched {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error),
        };
        self.sources.push(Source::new(id, from, keys, is_watched));
        Ok(())
    }

    fn accept(&mut self, hub: &Hub) {
        for _ in 0..MAX_BATCH {
            let Some(client) = self.listener.as_mut().and_then(Listener::accept) else {
                return;
            };
            if self.is_full(hub) {
                // The socket is new and empty: there is room for one line.
                let _ = client.output.write(BUSY);
                continue;
            }
            let id = self.next_id();
            match self.push_source(id, client.input, None) {
                Ok(()) => {
                    let cursor = hub.newcomer(&[], true);
                    self.outlets.push(Outlet::visitor(id, client.output, cursor));
                }
                Err(error) => log::warn!("console: a client cannot be watched: {error}"),
            }
        }
        hub.wake_again();
    }

    /// Lets one more client in, which is told `words` first.
    pub(super) fn attach(&mut self, client: Client, words: &[u8], hub: &Hub) -> io::Result<()> {
        if self.is_full(hub) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let id = self.next_id();
        self.push_source(id, client.input, None)?;
        let cursor = hub.newcomer(words, self.replays);
        self.outlets.push(Outlet::visitor(id, client.output, cursor));
        // The next round writes and reads.
        hub.wake_again();
        Ok(())
    }

    fn is_full(&mut self, hub: &Hub) -> bool {
        if self.outlets.len() >= MAX_CLIENTS {
            // One that left input behind, unread, must not keep others out.
            self.drop_peers(hub, |it| it.is_visitor && it.is_hung_up());
        }
        self.outlets.len() >= MAX_CLIENTS
    }

    fn read_sources(&mut self, hub: &Hub) -> Option<ConsoleEvent> {
        let mut command = None;
        let mut ended = Vec::new();
        for source in self.sources.iter_mut().filter(|s| s.ready && !s.ended) {
            if source.is_keyboard() && !self.terminal.as_mut().is_some_and(Terminal::claim) {
                // The next key, or the signal that we go on, brings us back.
                source.ready = false;
                continue;
            }
            command = source.read(hub).or(command);
            // A client that has said its last word may still read.
            if source.ended && source.is_hung_up() {
                ended.push(source.id);
            } else if command == Some(Command::Quit) {
                break;
            }
        }
        for id in ended {
            self.drop_peer(id, hub);
        }
        match command? {
            Command::Quit => Some(ConsoleEvent::Quit),
            Command::Help => {
                self.outlets.iter_mut().for_each(|o| o.say(HELP));
                None
            }
        }
    }

    fn claim_terminal(&mut self) -> bool {
        self.terminal.as_mut().is_some_and(Terminal::claim)
    }

    /// Forgets every peer whose outlet is like that.
    fn drop_peers(&mut self, hub: &Hub, is_unwanted: impl Fn(&Outlet) -> bool) {
        while let Some(id) = self.outlets.iter().find(|o| is_unwanted(o)).map(|o| o.id) {
            self.drop_peer(id, hub);
        }
    }

    /// Forgets source and outlet number `id`.
    fn drop_peer(&mut self, id: u32, hub: &Hub) {
        let mut lost = 0;
        for outlet in self.outlets.iter().filter(|o| o.id == id) {
            self.forget(outlet.as_raw_fd());
            lost += outlet.lost(hub);
        }
        for source in self.sources.iter().filter(|s| s.id == id && s.is_watched) {
            self.forget(source.as_raw_fd());
        }
        self.lost += lost;
        self.outlets.retain(|o| o.id != id);
        self.sources.retain(|s| s.id != id);
    }

    fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    fn watch(&self, fd: RawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
    }

    /// Takes a descriptor off the instance. Closing it is not enough while somebody else shares the open
    /// file: the instance would go on reporting it. One that is not watched is no error.
    fn forget(&self, fd: RawFd) {
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }
}

/// Asks for one event when `outlet` takes more. Hang-ups and errors come as such an event too, and the
/// next write finds out.
fn watch_room(epoll: &Epoll, outlet: &mut Outlet) {
    let operation = if std::mem::replace(&mut outlet.is_watched, true) {
        ControlOperation::Modify
    } else {
        ControlOperation::Add
    };
    let token = token::OUTLET | u64::from(outlet.id);
    let event = EpollEvent::new(EventSet::OUT | EventSet::ONE_SHOT, token);
    if let Err(error) = epoll.ctl(operation, outlet.as_raw_fd(), event) {
        log::warn!("console: output cannot be watched: {error}");
    }
}
