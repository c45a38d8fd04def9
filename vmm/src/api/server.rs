//! The API's thread: one epoll over the listener, the clients, and a descriptor by which the main thread says that
//! there is a reply or an event.

mod farewell;
mod life;
mod replies;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use devices::backend::socket::{ByteStream, SocketFile};
use serde_json::json;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use replies::Replies;

use super::connection::{Connection, Heard, InterestIn, Request};
use super::http::{Reply, Status};
use super::routes::{self, For, Target};
use super::{Api, ApiError};
use crate::events::{self, Exit};
use crate::metrics::api::{ApiCounters, Asked};
use crate::requests::{Answer, Code, Command, Message, Outbox, Outcome, Refusal, SnapshotOrder};
use crate::seccomp::Filters;
use crate::snapshot::Draft;
use life::State;

/// Clients at a time (Firecracker's number).
const CONNECTIONS: usize = 10;
/// How many of them may read events or wait for the end, so that the others can still ask for something.
const WATCHERS: usize = 6;
/// A client that has been idle for this long makes room for another one.
const IDLE: Duration = Duration::from_secs(1);
/// It only reads JSON of bounded depth and size.
const STACK: usize = 256 << 10;

const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// The API of a running process. Dropped, it ends, and its socket's file is removed.
pub struct Server {
    to: Sender<Order>,
    bell: Arc<EventFd>,
    file: Option<SocketFile>,
    filters: Filters,
    state: State,
}

/// What the main thread tells the API's.
enum Order {
    /// The outcome of a client's request.
    Answer(u64, Outcome),
    /// The thread is to end, and another one will go on with its work.
    Rest,
    /// The client was let in at a console.
    Leave(u64),
    /// The machine has ended; `None` when it is not known how.
    Finish(Option<Exit>, Duration),
}

impl Server {
    /// Listens for clients of `api`, who wait until [`Self::go_on`]; what they ask for will go to `outbox`, and is
    /// counted in `counters`. The thread will be confined by `filters`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn bind(
        api: &Api,
        outbox: Outbox,
        counters: Arc<ApiCounters>,
        filters: Filters,
    ) -> Result<Self, ApiError> {
        let (listener, file) = api.socket.listen()?;
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(ApiError::Host)?);
        let epoll = Epoll::new().map_err(ApiError::Host)?;
        for (fd, token) in [(listener.as_raw_fd(), LISTENER), (bell.as_raw_fd(), BELL)] {
            epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))
                .map_err(ApiError::Host)?;
        }
        let (to, orders) = channel();
        let replies = Replies { to: to.clone(), bell: bell.clone() };
        let ring = bell.clone();
        events::on_line(move || ring_bell(&ring));
        let worker = Worker {
            epoll,
            listener,
            _file: file.clone(),
            bell: bell.clone(),
            orders,
            replies,
            outbox,
            counters,
            body_limit: api.body_limit,
            clients: [const { None }; CONNECTIONS],
            births: 0,
        };
        Ok(Self { to, bell, file, filters, state: State::AtRest(Box::new(worker)) })
    }
}

/// Makes an eventfd readable. It fails only at 2^64 - 1 rings nobody took: readable all the same.
fn ring_bell(bell: &EventFd) {
    let _ = bell.write(1);
}

struct Client {
    connection: Connection<ByteStream>,
    /// Unlike that of any client before, so that a reply does not reach the wrong one.
    birth: u64,
    watched: InterestIn,
    /// What it was promised to be told.
    waits_for: Option<For>,
    /// What it asked for last, and whether that will go away.
    asked: Option<(Asked, bool)>,
}

struct Worker {
    epoll: Epoll,
    listener: UnixListener,
    _file: Option<SocketFile>,
    bell: Arc<EventFd>,
    orders: Receiver<Order>,
    replies: Replies,
    outbox: Outbox,
    counters: Arc<ApiCounters>,
    body_limit: usize,
    clients: [Option<Client>; CONNECTIONS],
    births: u64,
}

impl Worker {
    /// Works until the end, or until it is to rest; then it is given back.
    fn run(mut self: Box<Self>) -> Option<Box<Self>> {
        let mut ready = [EpollEvent::default(); CONNECTIONS + 2];
        loop {
            let count = match self.epoll.wait(self.timeout_ms(), &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("the API cannot be served any more: {error}");
                    return None;
                }
            };
            let now = Instant::now();
            for event in ready.iter().take(count) {
                match event.data() {
                    LISTENER => self.accept(now),
                    BELL => {
                        // Fails only when nobody rang.
                        let _ = self.bell.read();
                    }
                    birth => self.serve(birth, event.event_set(), now),
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Answer(birth, outcome) => self.answer(birth, outcome, now),
                    Order::Leave(birth) => self.leave(birth),
                    Order::Rest => return Some(self),
                    Order::Finish(exit, patience) => {
                        self.finish(exit.as_ref(), patience);
                        return None;
                    }
                }
            }
            self.add_events(now);
            for place in 0..CONNECTIONS {
                if self.tell_ready(place, now) {
                    self.settle(place, now);
                }
            }
            self.expire(now);
        }
    }

    /// Milliseconds until patience with some client ends; -1 when nothing is owed, so that nobody wakes up.
    fn timeout_ms(&self) -> i32 {
        let clients = self.clients.iter().flatten();
        let first = clients.filter_map(|client| client.connection.deadline()).min();
        first.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1)
        })
    }

    /// Takes one new client; the next one comes with the next round.
    fn accept(&mut self, now: Instant) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return log::warn!("an API client cannot be accepted: {error}"),
        };
        if let Err(error) = stream.set_nonblocking(true) {
            return log::warn!("an API client cannot be served: {error}");
        }
        let mut connection = Connection::new(ByteStream::from(stream), now);
        let Some(place) = self.make_room(now) else {
            let message = "Too many open connections.";
            let refusal = Refusal::new(Code::TooManyConnections, message);
            connection.refuse(&routes::refuse(Status::Unavailable, &refusal), now);
            // As much as fits at once, which is all of it.
            connection.speak(now);
            return;
        };
        self.births += 1;
        let watched = connection.interest();
        let (fd, birth) = (connection.stream().as_raw_fd(), self.births);
        match self.watch(ControlOperation::Add, fd, watched, birth) {
            Ok(()) => {
                let client = Client { connection, birth, watched, waits_for: None, asked: None };
                if let Some(place) = self.clients.get_mut(place) {
                    *place = Some(client);
                }
            }
            Err(error) => log::warn!("an API client cannot be served: {error}"),
        }
    }

    /// A free place, if need be that of the client that has been idle for longest.
    fn make_room(&mut self, now: Instant) -> Option<usize> {
        let free = self.clients.iter().position(Option::is_none);
        free.or_else(|| {
            self.clients.iter().position(|client| {
                client.as_ref().is_some_and(|client| client.connection.is_idle_for(IDLE, now))
            })
        })
    }

    fn place_of(&self, birth: u64) -> Option<usize> {
        self.clients.iter().position(|it| it.as_ref().is_some_and(|it| it.birth == birth))
    }

    fn serve(&mut self, birth: u64, ready: EventSet, now: Instant) {
        let Some(place) = self.place_of(birth) else { return };
        let is_gone = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if is_gone || ready.contains(EventSet::IN) {
            loop {
                let Some(Some(client)) = self.clients.get_mut(place) else { return };
                let heard = client.connection.listen(self.body_limit, now);
                // Of a client that has said something and left, all is heard: it may be a request.
                let is_rest =
                    is_gone && heard == Heard::Nothing && client.connection.may_say_more();
                self.act(place, heard, now);
                if !is_rest {
                    break;
                }
            }
        }
        if is_gone && let Some(slot) = self.clients.get_mut(place) {
            *slot = None;
        }
        self.settle(place, now);
    }

    fn act(&mut self, place: usize, heard: Heard, now: Instant) {
        let watchers = self.clients.iter().flatten().filter(|it| it.is_watcher()).count();
        let Some(slot) = self.clients.get_mut(place) else { return };
        let Some(client) = slot else { return };
        match heard {
            Heard::Nothing => {}
            Heard::Gone => *slot = None,
            Heard::Error(error) => {
                let code = match error {
                    super::http::HttpError::BodyTooLong { .. } => Code::BodyTooLarge,
                    _ => Code::MalformedRequest,
                };
                let refusal = Refusal::new(code, error.to_string());
                let reply = routes::refuse(Status::BadRequest, &refusal);
                client.connection.refuse(&reply, now);
            }
            Heard::Request(request) => {
                log::info!(
                    "The API server received a {} request on {:?}.",
                    request.method.name(),
                    request.path
                );
                let (replies, birth) = (self.replies.clone(), client.birth);
                let Request { method, path, body, upgrades } = request;
                let asked = Asked::new(method.name(), &path);
                self.counters.count(asked);
                let target = routes::route(method, &path, &body);
                let is_deprecated = target.is_ok() && routes::is_deprecated(&path, &body);
                client.asked = Some((asked, is_deprecated));
                match target {
                    Ok(Target::Owner(command)) => {
                        let reply = replies.answering(birth);
                        self.outbox.send(Message::Command(Box::new(command), reply));
                    }
                    Ok(Target::Metrics) => {
                        self.outbox.send(Message::Metrics(replies.answering(birth)));
                    }
                    Ok(Target::Events | Target::Wait(_)) if watchers >= WATCHERS => {
                        let message = "Too many clients read events or wait for something.";
                        let refusal = Refusal::new(Code::TooManyConnections, message);
                        let reply = routes::refuse(Status::Unavailable, &refusal);
                        client.answer(reply, &self.counters, now);
                    }
                    Ok(Target::Console(device)) if upgrades => {
                        match client.connection.stream().try_clone() {
                            Ok(stream) => self.outbox.send(replies.visit(device, stream, birth)),
                            Err(error) => {
                                let refusal = Refusal::new(Code::HostFailure, error.to_string());
                                let reply = routes::reply(Err(refusal));
                                client.answer(reply, &self.counters, now);
                            }
                        }
                    }
                    Ok(Target::Console(_)) => {
                        let message = "A console needs the header Upgrade: vmm-console, and nothing behind the request.";
                        let refusal = Refusal::new(Code::MalformedRequest, message);
                        client.answer(routes::reply(Err(refusal)), &self.counters, now);
                    }
                    Ok(Target::Events) => client.connection.start_stream(now),
                    Ok(Target::Wait(what)) => {
                        client.waits_for = Some(what);
                        self.tell_ready(place, now);
                    }
                    Ok(Target::Now(answer)) => {
                        client.answer(routes::reply(Ok(answer)), &self.counters, now);
                    }
                    Err(refusal) => {
                        client.answer(routes::reply(Err(refusal)), &self.counters, now);
                    }
                }
            }
        }
    }

    fn answer(&mut self, birth: u64, outcome: Outcome, now: Instant) {
        let Some(place) = self.place_of(birth) else { return };
        let outcome = match outcome {
            Ok(Answer::NeedsFiles(order, disks)) => match Draft::begin(order.place.clone(), &disks)
            {
                Ok(draft) => {
                    let order = SnapshotOrder { draft: Some(Arc::new(draft)), ..order };
                    let reply = self.replies.clone().answering(birth);
                    let command = Box::new(Command::Snapshot(order));
                    return self.outbox.send(Message::Command(command, reply));
                }
                Err(error) => Err(Refusal::from(&error)),
            },
            outcome => outcome,
        };
        if let Some(Some(client)) = self.clients.get_mut(place) {
            client.answer(routes::reply(outcome), &self.counters, now);
        }
        self.settle(place, now);
    }

    /// Lets go of a client that is at a console from now on: its connection lives on there.
    fn leave(&mut self, birth: u64) {
        let Some(slot) = self.place_of(birth).and_then(|place| self.clients.get_mut(place)) else {
            return;
        };
        if let Some(client) = slot.take() {
            let fd = client.connection.stream().as_raw_fd();
            // It is in there; closing it would not take it out while the console has it.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }

    /// Sends what can be sent, goes on with what was already received, and watches for the rest.
    fn settle(&mut self, place: usize, now: Instant) {
        loop {
            let Some(slot) = self.clients.get_mut(place) else { return };
            let Some(client) = slot else { return };
            if !client.connection.speak(now) {
                *slot = None;
                return;
            }
            if client.connection.takes_leave() {
                // Fails when the client has gone, which the next round notices.
                let _ = client.connection.stream().shutdown(Shutdown::Write);
            }
            let heard = client.connection.next_request(self.body_limit);
            if heard == Heard::Nothing {
                break;
            }
            self.act(place, heard, now);
        }
        let Some(Some(client)) = self.clients.get(place) else { return };
        let (fd, birth) = (client.connection.stream().as_raw_fd(), client.birth);
        let interest = client.connection.interest();
        if interest != client.watched {
            match self.watch(ControlOperation::Modify, fd, interest, birth) {
                Ok(()) => {
                    if let Some(Some(client)) = self.clients.get_mut(place) {
                        client.watched = interest;
                    }
                }
                Err(error) => {
                    log::warn!("an API client cannot be served: {error}");
                    if let Some(slot) = self.clients.get_mut(place) {
                        *slot = None;
                    }
                }
            }
        }
    }

    fn watch(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        interest: InterestIn,
        birth: u64,
    ) -> io::Result<()> {
        let mut set = EventSet::empty();
        set.set(EventSet::IN, interest.input);
        set.set(EventSet::OUT, interest.output);
        self.epoll.ctl(operation, fd, EpollEvent::new(set, birth))
    }

    /// Gives each reader of events the lines that it has not seen.
    fn add_events(&mut self, now: Instant) {
        for place in 0..CONNECTIONS {
            let Some(Some(client)) = self.clients.get_mut(place) else { continue };
            let Some(next) = client.connection.next_line() else { continue };
            let (lines, after) = events::since(next);
            if !lines.is_empty() {
                client.connection.add_lines(lines.iter().map(AsRef::as_ref), after, now);
            }
            self.settle(place, now);
        }
    }

    /// Answers the client at `place` if that the guest is ready is what it waits for, and so it is.
    fn tell_ready(&mut self, place: usize, now: Instant) -> bool {
        let Some(Some(client)) = self.clients.get_mut(place) else { return false };
        if client.waits_for != Some(For::Ready) {
            return false;
        }
        let Some(by) = events::ready() else { return false };
        client.waits_for = None;
        client.answer(Reply::json(Status::Ok, &json!({ "by": by })), &self.counters, now);
        true
    }

    /// Ends connections that patience has ended with.
    fn expire(&mut self, now: Instant) {
        for place in 0..CONNECTIONS {
            let Some(slot) = self.clients.get_mut(place) else { continue };
            let Some(client) = slot else { continue };
            if client.connection.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            if client.connection.is_mid_request() {
                let message = "The rest of the request did not come in time.";
                let refusal = Refusal::new(Code::RequestTimeout, message);
                let reply = routes::refuse(Status::Timeout, &refusal);
                client.connection.refuse(&reply, now);
                self.settle(place, now);
            } else {
                *slot = None;
            }
        }
    }
}

impl Client {
    fn is_watcher(&self) -> bool {
        self.waits_for.is_some() || self.connection.is_streaming()
    }

    /// Answers what was asked last, and counts how that went.
    fn answer(&mut self, mut reply: Reply, counters: &ApiCounters, now: Instant) {
        if let Some((asked, is_deprecated)) = self.asked.take() {
            reply.deprecated = is_deprecated;
            counters.count_outcome(asked, reply.status.is_success(), is_deprecated);
        }
        self.connection.answer(&reply, now);
    }
}
