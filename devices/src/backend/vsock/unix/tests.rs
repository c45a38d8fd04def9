use std::io::{ErrorKind, Read};
use std::sync::Mutex;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::backend::vsock::Session;
use crate::memory::{GuestMemory, Segment};
use crate::test_util::guest_memory;

struct Setup {
    path: PathBuf,
    _endpoint: UnixEndpoint,
    backend: Box<dyn Backend>,
    memory: GuestMemory,
}

impl Setup {
    fn new(name: &str) -> Self {
        Self::with(name, BTreeMap::new())
    }

    fn with(name: &str, services: BTreeMap<u32, Arc<dyn Service>>) -> Self {
        let path = std::env::temp_dir().join(format!("vmm-vsock-{}-{name}", std::process::id()));
        let endpoint = UnixEndpoint::bind(&path, services).unwrap();
        let backend = endpoint.backends().open().unwrap();
        Self { path, _endpoint: endpoint, backend, memory: guest_memory(1 << 20) }
    }

    fn program(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    fn poll(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.backend.poll(&mut events);
        events
    }

    /// The one connection that is asked for.
    fn incoming(&mut self) -> (StreamId, u32, Box<dyn Stream>) {
        let found = self.poll().into_iter().find_map(|event| match event {
            Event::Incoming { id, port, stream } => Some((id, port, stream)),
            Event::Ready(..) => None,
        });
        found.unwrap()
    }

    fn read(&self, stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
        let room = [Segment { address: GuestAddress(0), len: 100 }];
        let count = stream.read(&Buffers::new(&self.memory, &room))?;
        let mut bytes = vec![0; count];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        Ok(bytes)
    }
}

fn readiness_of(events: &[Event], wanted: StreamId) -> Option<Readiness> {
    events.iter().find_map(|event| match event {
        Event::Ready(id, news) if *id == wanted => Some(*news),
        _ => None,
    })
}

fn text(program: &mut UnixStream) -> String {
    let mut bytes = [0; 100];
    let count = program.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn a_program_connects_and_is_told_when_the_guest_accepts() {
    let mut setup = Setup::new("connect");
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\nfor the guest").unwrap();
    let (_, port, mut stream) = setup.incoming();
    assert_eq!(port, 52);
    assert_eq!(setup.read(&mut *stream).unwrap(), b"for the guest");
    assert_eq!(setup.read(&mut *stream).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.accepted(1 << 30).unwrap();
    assert_eq!(text(&mut program), "OK 1073741824\n");
}

#[test]
fn a_line_in_pieces_is_put_together() {
    let mut setup = Setup::new("pieces");
    let mut program = setup.program();
    for piece in ["CON", "NECT", " 5"] {
        program.write_all(piece.as_bytes()).unwrap();
        assert!(setup.poll().is_empty());
    }
    program.write_all(b"2\n").unwrap();
    assert_eq!(setup.incoming().1, 52);
}

#[test]
fn news_come_once_until_there_are_more() {
    let mut setup = Setup::new("edges");
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\n").unwrap();
    let (id, _, _stream) = setup.incoming();
    setup.poll();
    assert!(setup.poll().is_empty(), "nothing has changed");
    program.write_all(b"x").unwrap();
    assert!(readiness_of(&setup.poll(), id).unwrap().readable);
    assert!(setup.poll().is_empty(), "what is not read is no news");
    drop(program);
    assert!(readiness_of(&setup.poll(), id).unwrap().hung_up);
}

#[test]
fn a_half_closed_program_can_still_hear() {
    let mut setup = Setup::new("half");
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\n").unwrap();
    let (id, _, mut stream) = setup.incoming();
    setup.poll();
    program.shutdown(Shutdown::Write).unwrap();
    let news = readiness_of(&setup.poll(), id).unwrap();
    assert_eq!((news.readable, news.hung_up), (true, false));
    assert_eq!(setup.read(&mut *stream).unwrap(), b"");
    assert_eq!(stream.write_bytes(b"heard").unwrap(), 5);
    stream.shut_down(Shutdown::Write);
    assert_eq!((text(&mut program), text(&mut program)), ("heard".to_owned(), String::new()));
}

#[test]
fn a_program_that_leaves_with_the_line_is_heard_to_leave() {
    let mut setup = Setup::new("leave");
    setup.program().write_all(b"CONNECT 52\n").unwrap();
    let mut events = setup.poll();
    let id = match events[0] {
        Event::Incoming { id, .. } => id,
        Event::Ready(..) => panic!("no connection"),
    };
    let keep = events.remove(0);
    events.extend(setup.poll());
    assert!(
        events
            .iter()
            .any(|event| { matches!(event, Event::Ready(of, news) if *of == id && news.hung_up) })
    );
    drop(keep);
}

#[test]
fn room_is_news_only_for_those_who_watch_it() {
    let mut setup = Setup::new("room");
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\n").unwrap();
    let (id, _, mut stream) = setup.incoming();
    setup.poll();
    let chunk = vec![7; 1 << 16];
    let mut sent = 0;
    while let Ok(count) = stream.write_bytes(&chunk) {
        sent += count;
    }
    stream.watch_room(true);
    let mut got = vec![0; sent];
    program.read_exact(&mut got).unwrap();
    assert!(readiness_of(&setup.poll(), id).unwrap().writable);
    stream.watch_room(false);
    stream.write_bytes(b"x").unwrap();
    text(&mut program);
    assert!(setup.poll().is_empty());
}

#[test]
fn other_languages_are_hung_up_on() {
    let mut setup = Setup::new("http");
    let mut program = setup.program();
    program.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(setup.poll().is_empty());
    let end = program.read(&mut [0]);
    assert!(end.is_err() || end.unwrap() == 0, "closed");
}

#[test]
fn silent_programs_make_way_for_others() {
    let mut setup = Setup::new("silent");
    let mut silent: Vec<UnixStream> = Vec::new();
    for _ in 0..MAX_GREETING + 5 {
        silent.push(setup.program());
        assert!(setup.poll().is_empty());
    }
    let mut open = 0;
    for program in &mut silent {
        program.set_nonblocking(true).unwrap();
        open += usize::from(program.read(&mut [0]).is_err());
    }
    assert_eq!(open, MAX_GREETING);
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(setup.incoming().1, 52);
}

#[test]
fn a_crowd_is_accepted_in_turns() {
    let mut setup = Setup::new("crowd");
    let crowd: Vec<UnixStream> = (0..100).map(|_| setup.program()).collect();
    for mut program in &crowd {
        program.write_all(b"CONNECT 1\n").unwrap();
    }
    let mut found = 0;
    let mut keep = Vec::new();
    while found < crowd.len() {
        let events = setup.poll();
        let new = events.iter().filter(|event| matches!(event, Event::Incoming { .. })).count();
        assert!((1..=MAX_ACCEPTS).contains(&new), "{new}");
        found += new;
        keep.extend(events);
    }
}

#[test]
fn the_guest_connects_to_a_program() {
    let mut setup = Setup::new("guest");
    let path = format!("{}_52", setup.path.display());
    let listener = UnixListener::bind(&path).unwrap();
    let (_, mut stream) = setup.backend.connect(52).unwrap();
    let (mut program, _) = listener.accept().unwrap();
    stream.write_bytes(b"hello").unwrap();
    assert_eq!(text(&mut program), "hello");
    program.write_all(b"world").unwrap();
    assert_eq!(setup.read(&mut *stream).unwrap(), b"world");
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(setup.backend.connect(52).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn nobody_waits_for_a_program_that_accepts_nobody() {
    let mut setup = Setup::new("overrun");
    let path = format!("{}_9", setup.path.display());
    let _listener = socket::listen(Path::new(&path), 0).unwrap();
    let mut streams = Vec::new();
    let error = loop {
        match setup.backend.connect(9) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn data_that_wraps_over_pieces_of_guest_memory_goes_in_one_call() {
    let mut setup = Setup::new("pieces-of-memory");
    let mut program = setup.program();
    program.write_all(b"CONNECT 52\n").unwrap();
    let (_, _, mut stream) = setup.incoming();
    setup.memory.write_slice(b"headerone two three", GuestAddress(0x100)).unwrap();
    let piece = |address, len| Segment { address: GuestAddress(address), len };
    let pieces = [piece(0x100, 10), piece(0x10a, 4), piece(0x10e, 5)];
    let from = Buffers::new(&setup.memory, &pieces);
    assert_eq!(stream.write(&from, 6, 13).unwrap(), 13);
    assert_eq!(text(&mut program), "one two three");
}

#[test]
fn a_port_that_the_path_has_no_room_for_is_nobodys() {
    let dir = std::env::temp_dir();
    let name = format!("{}-", std::process::id());
    let fill = socket::MAX_PATH - dir.as_os_str().len() - 1 - name.len() - 3;
    let path = dir.join(name + &"x".repeat(fill));
    let endpoint = UnixEndpoint::bind(&path, BTreeMap::new()).unwrap();
    let mut backend = endpoint.backends().open().unwrap();
    let error = |error: io::Error| error.raw_os_error();
    assert_eq!(backend.connect(52).err().and_then(error), Some(libc::ENOENT));
    assert_eq!(backend.connect(520).err().and_then(error), Some(libc::ENAMETOOLONG));
}

/// Collects what the guest says, up to the word "stop".
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

struct Recording {
    recorder: Recorder,
    said: String,
}

impl Service for Recorder {
    fn connect(&self) -> Box<dyn Session> {
        Box::new(Recording { recorder: self.clone(), said: String::new() })
    }
}

impl Session for Recording {
    fn receive(&mut self, bytes: &[u8]) -> bool {
        self.said.push_str(str::from_utf8(bytes).unwrap());
        !self.said.ends_with("stop")
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.recorder.0.lock().unwrap().push(std::mem::take(&mut self.said));
    }
}

#[test]
fn a_service_of_this_process_hears_the_guest() {
    let recorder = Recorder::default();
    let service: Arc<dyn Service> = Arc::new(recorder.clone());
    let mut setup = Setup::with("service", BTreeMap::from([(9999, service)]));
    let (_, mut stream) = setup.backend.connect(9999).unwrap();
    setup.memory.write_slice(b"READY=1\n", GuestAddress(0)).unwrap();
    let pieces = [Segment { address: GuestAddress(0), len: 8 }];
    assert_eq!(stream.write(&Buffers::new(&setup.memory, &pieces), 0, 8).unwrap(), 8);
    assert_eq!(setup.read(&mut *stream).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(stream.only_listens());
    assert!(stream.write_bytes(b"stop").is_err(), "the service ends it");
    drop(stream);
    assert_eq!(*recorder.0.lock().unwrap(), ["READY=1\nstop"]);
    assert!(setup.poll().is_empty());
}
