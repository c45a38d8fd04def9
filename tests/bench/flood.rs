//! Frames from the host to the guest: put into the tap's queue one by one, past the host's own queueing.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd};

use harness::network::interface_counter;

use crate::frame;

/// linux/if_packet.h
const PACKET_VNET_HDR: libc::c_int = 15;
/// linux/if_packet.h
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// A packet socket on a tap of this thread's network.
pub struct Flood {
    socket: File,
    tap: String,
    message: Vec<u8>,
}

impl Flood {
    /// Frames of `size` bytes, or TCP segments in one piece of that size.
    pub fn new(tap: &str, size: usize, is_gso: bool) -> Result<Self, String> {
        let socket = socket_on(tap).map_err(|e| format!("packet socket on {tap}: {e}"))?;
        let message = if is_gso { frame::segments(size) } else { frame::plain(size) };
        Ok(Self { socket, tap: tap.to_owned(), message })
    }

    /// Sends `frames`, none of which may be lost: the guest takes none before all are there.
    pub fn send(mut self, frames: u64) -> Result<(), String> {
        let dropped = interface_counter(&self.tap, "tx_dropped");
        for _ in 0..frames {
            self.socket.write_all(&self.message).map_err(|e| format!("packet socket: {e}"))?;
        }
        match interface_counter(&self.tap, "tx_dropped") - dropped {
            0 => Ok(()),
            lost => Err(format!("{lost} of {frames} frames found no room in the tap")),
        }
    }
}

fn socket_on(interface: &str) -> io::Result<File> {
    // Of all protocols, but no frame is ever read: the socket is bound to none.
    // SAFETY: takes numbers.
    let socket =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else owns it.
    let socket = unsafe { File::from_raw_fd(socket) };
    for option in [PACKET_VNET_HDR, PACKET_QDISC_BYPASS] {
        let on: libc::c_int = 1;
        // SAFETY: the option is an int, which lives through the call.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
    }
    let name = CString::new(interface)?;
    // SAFETY: zeros are a valid address without an interface.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    // SAFETY: reads a string that lives through the call.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    // SAFETY: an address of this family with its size.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
