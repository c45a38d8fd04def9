//! A provider of guest memory, as orchestrators have one: answers the page faults of a machine from a memory file.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::Value;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const PAGE: u64 = 4096;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;

/// A thread that provides pages for one machine.
pub struct Pages {
    provided: Arc<AtomicU64>,
}

impl Pages {
    /// Listens at `socket` and answers from `memory`.
    #[must_use]
    pub fn provide(socket: &Path, memory: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"));
        let file = File::open(memory).unwrap_or_else(|e| panic!("{memory:?}: {e}"));
        let provided = Arc::new(AtomicU64::new(0));
        let count = provided.clone();
        thread::spawn(move || serve(&listener, &file, &count));
        Self { provided }
    }

    /// How many pages were asked for.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.provided.load(Ordering::Relaxed)
    }
}

/// Where a range of guest memory is.
struct Range {
    address: u64,
    len: u64,
    offset: u64,
}

fn serve(listener: &UnixListener, memory: &File, count: &AtomicU64) {
    let (stream, _) = listener.accept().unwrap();
    let mut text = [0; 4096];
    let (len, fd) = stream.recv_with_fd(&mut text).unwrap();
    let mut fd = fd.expect("a descriptor comes with the ranges");
    let ranges: Vec<Value> = serde_json::from_slice(&text[..len]).unwrap();
    let number = |range: &Value, name| range[name].as_u64().unwrap();
    let ranges: Vec<Range> = ranges
        .iter()
        .map(|range| Range {
            address: number(range, "base_host_virt_addr"),
            len: number(range, "size"),
            offset: number(range, "offset"),
        })
        .collect();
    let mut removed: Vec<std::ops::Range<u64>> = Vec::new();
    let mut event = [0; 32];
    loop {
        wait(fd.as_raw_fd());
        match fd.read(&mut event) {
            Ok(32) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // The machine is gone.
            _ => return,
        }
        let word = |at: usize| u64::from_ne_bytes(event[at..at + 8].try_into().unwrap());
        match event[0] {
            EVENT_PAGEFAULT => {
                let address = word(16) & !(PAGE - 1);
                let range = ranges.iter().find(|it| address.wrapping_sub(it.address) < it.len);
                let range = range.expect("a fault in guest memory");
                let mut page = [0; PAGE as usize];
                if removed.iter().any(|it| it.contains(&address)) {
                    give(fd.as_raw_fd(), UFFDIO_ZEROPAGE, &mut [address, PAGE, 0, 0]);
                } else {
                    let offset = range.offset + (address - range.address);
                    memory.read_exact_at(&mut page, offset).unwrap();
                    let mut copy = [address, page.as_ptr() as u64, PAGE, 0, 0];
                    give(fd.as_raw_fd(), UFFDIO_COPY, &mut copy);
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            EVENT_REMOVE => removed.push(word(8)..word(16)),
            other => panic!("event {other:#x} of guest memory"),
        }
    }
}

fn wait(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

/// Two threads may ask for one page, which is there when the second one's turn comes.
fn give<const N: usize>(fd: RawFd, request: libc::c_ulong, argument: &mut [u64; N]) {
    // SAFETY: the argument has the size that the request's number says; a page that is read lives through the call.
    let result = unsafe { libc::ioctl(fd, request, argument.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    let is_known = matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ESRCH));
    assert!(result == 0 || is_known, "request {request:#x}: {error}");
}
