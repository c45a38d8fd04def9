//! The kernel reads and writes guest memory for us: vectored file I/O on [`Buffers`], without a copy.
//!
//! Decides nothing about offsets, retries or errors' meaning; a short transfer is returned as such.

#![expect(unsafe_code, reason = "iovecs over guest memory are raw pointers by nature")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::memory::Buffers;

/// Most pieces that one call takes (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// A list of iovecs that is reused from request to request, so that I/O does not allocate.
#[derive(Default)]
pub struct IoVecs {
    list: Vec<libc::iovec>,
}

// SAFETY: the pointers are only followed by the kernel inside the calls below, while the `Buffers` they
// were made from is borrowed; between calls the list is plain memory without meaning.
unsafe impl Send for IoVecs {}

/// In place of an offset: where a file is, and the only place that streams have. So one call does what otherwise four
/// would (preadv2(2)), and filters of system calls have three less to let through.
const HERE: libc::off_t = -1;

/// Reads what there is at `file_offset` of `fd`, up to the length of `to`, which is not the guest's, by the same call as
/// [`IoVecs::read_at`]. Returns the bytes read; 0 means the end of the file.
///
/// # Errors
/// The errno of preadv2(2).
pub fn read_at(fd: BorrowedFd<'_>, to: &mut [u8], file_offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(file_offset).map_err(|_| einval())?;
    let piece = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: one iovec for the whole call, of bytes that nobody else has a reference to.
    result(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const piece, 1, offset, 0) })
}

/// The same until `to` is full.
///
/// # Errors
/// As [`read_at`]; `UnexpectedEof` when the file has less.
pub fn read_all_at(fd: BorrowedFd<'_>, mut to: &mut [u8], mut file_offset: u64) -> io::Result<()> {
    while !to.is_empty() {
        match read_at(fd, to, file_offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                to = to.get_mut(count..).unwrap_or_default();
                file_offset = file_offset.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `from`, which is not the guest's, to `fd` at `file_offset`, by the same call as [`IoVecs::write_at`].
///
/// # Errors
/// The errno of pwritev2(2); `WriteZero` when the file takes no more.
pub fn write_all_at(fd: BorrowedFd<'_>, mut from: &[u8], mut file_offset: u64) -> io::Result<()> {
    while !from.is_empty() {
        let offset = libc::off_t::try_from(file_offset).map_err(|_| einval())?;
        let piece = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        // SAFETY: one iovec for the whole call, of bytes that the kernel only reads.
        let written = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const piece, 1, offset, 0) };
        match result(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                from = from.get(count..).unwrap_or_default();
                file_offset = file_offset.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl IoVecs {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads at `file_offset` of `fd` into `len` bytes of `to` from `start` on. Returns the bytes read;
    /// 0 means the end of the file.
    ///
    /// # Errors
    /// The errno of preadv2(2); `EFAULT` when the buffer is not RAM.
    pub fn read_at(
        &mut self,
        fd: BorrowedFd<'_>,
        file_offset: u64,
        to: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> io::Result<usize> {
        let offset = libc::off_t::try_from(file_offset).map_err(|_| einval())?;
        let count = self.fill(to, start, len)?;
        // SAFETY: the `count` iovecs point into guest RAM that `to` keeps mapped during the call; the
        // kernel may write there at any time, as the guest itself may.
        let n = unsafe { libc::preadv2(fd.as_raw_fd(), self.list.as_ptr(), count, offset, 0) };
        result(n)
    }

    /// Writes `len` bytes of `from` from `start` on to `fd` at `file_offset`. Returns the bytes written.
    ///
    /// # Errors
    /// The errno of pwritev2(2); `EFAULT` when the buffer is not RAM.
    pub fn write_at(
        &mut self,
        fd: BorrowedFd<'_>,
        file_offset: u64,
        from: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> io::Result<usize> {
        let offset = libc::off_t::try_from(file_offset).map_err(|_| einval())?;
        let count = self.fill(from, start, len)?;
        // SAFETY: as in `read_at`; the kernel only reads.
        let n = unsafe { libc::pwritev2(fd.as_raw_fd(), self.list.as_ptr(), count, offset, 0) };
        result(n)
    }

    /// One preadv2(2) into all of `to`: one frame of a tap, or what a stream has.
    ///
    /// # Errors
    /// The errno of preadv2(2), `WouldBlock` among them.
    pub fn read(&mut self, fd: BorrowedFd<'_>, to: &Buffers<'_>) -> io::Result<usize> {
        let count = self.fill_whole(to)?;
        // SAFETY: as in `read_at`.
        let n = unsafe { libc::preadv2(fd.as_raw_fd(), self.list.as_ptr(), count, HERE, 0) };
        result(n)
    }

    /// One preadv2(2) of what a stream has, at most `len` bytes, into `to` from `start` on.
    ///
    /// # Errors
    /// The errno of preadv2(2), `WouldBlock` among them; `EFAULT` when the buffer is not RAM.
    pub fn read_part(
        &mut self,
        fd: BorrowedFd<'_>,
        to: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> io::Result<usize> {
        let count = self.fill(to, start, len)?;
        // SAFETY: as in `read_at`.
        let n = unsafe { libc::preadv2(fd.as_raw_fd(), self.list.as_ptr(), count, HERE, 0) };
        result(n)
    }

    /// One pwritev2(2) of what a stream takes of the `len` bytes of `from` from `start` on.
    ///
    /// # Errors
    /// The errno of pwritev2(2), `WouldBlock` among them; `EFAULT` when the buffer is not RAM.
    pub fn write_part(
        &mut self,
        fd: BorrowedFd<'_>,
        from: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> io::Result<usize> {
        let count = self.fill(from, start, len)?;
        // SAFETY: as in `write_at`.
        let n = unsafe { libc::pwritev2(fd.as_raw_fd(), self.list.as_ptr(), count, HERE, 0) };
        result(n)
    }

    /// One preadv2(2) into all of `to` and, beyond its end, into `spill`: for sources that cut off what
    /// does not fit. A result larger than `to.len()` tells how much lies in `spill`.
    ///
    /// # Errors
    /// The errno of preadv2(2), `WouldBlock` among them; `EINVAL` when `to` has too many pieces.
    pub fn read_and_spill(
        &mut self,
        fd: BorrowedFd<'_>,
        to: &Buffers<'_>,
        spill: &mut [u8],
    ) -> io::Result<usize> {
        self.fill_whole(to)?;
        self.list.push(libc::iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() });
        let count = libc::c_int::try_from(self.list.len()).map_err(|_| einval())?;
        // SAFETY: as in `read_at`; the last iovec is `spill`, borrowed mutably for the whole call.
        let n = unsafe { libc::preadv2(fd.as_raw_fd(), self.list.as_ptr(), count, HERE, 0) };
        result(n)
    }

    /// One pwritev2(2) of all of `from`.
    ///
    /// # Errors
    /// The errno of pwritev2(2), `WouldBlock` among them.
    pub fn write(&mut self, fd: BorrowedFd<'_>, from: &Buffers<'_>) -> io::Result<usize> {
        let count = self.fill_whole(from)?;
        // SAFETY: as in `write_at`.
        let n = unsafe { libc::pwritev2(fd.as_raw_fd(), self.list.as_ptr(), count, HERE, 0) };
        result(n)
    }

    /// The pieces of host memory that `len` bytes of `buffers` from `start` on lie in, for a call that is
    /// made elsewhere (a ring); at most `IOV_MAX` of them. Whoever makes that call keeps the guest's
    /// memory mapped until it is over, and this list untouched until the kernel has read it.
    ///
    /// # Errors
    /// `EFAULT` when the buffer is not RAM.
    pub(crate) fn point_at(
        &mut self,
        buffers: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> io::Result<&[libc::iovec]> {
        self.fill(buffers, start, len)?;
        Ok(&self.list)
    }

    /// Empties the list, before [`Self::append`].
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// Appends the pieces of all of `buffers` and returns where in the list they are, under the terms of
    /// [`Self::point_at`].
    ///
    /// # Errors
    /// `EFAULT` when the buffer is not RAM; `EINVAL` when it has more pieces than one call takes. The list is
    /// as before then.
    pub(crate) fn append(&mut self, buffers: &Buffers<'_>) -> io::Result<Range<usize>> {
        let start = self.list.len();
        let appended = self.extend(buffers, 0, buffers.len());
        let pieces = start..self.list.len();
        match appended {
            Ok(covered) if covered == buffers.len() => Ok(pieces),
            result => {
                self.list.truncate(start);
                Err(result.err().unwrap_or_else(einval))
            }
        }
    }

    /// What [`Self::append`] listed.
    pub(crate) fn pieces(&self, range: Range<usize>) -> &[libc::iovec] {
        self.list.get(range).unwrap_or_default()
    }

    /// Reads at `file_offset` of `fd` into what [`Self::point_at`] listed, as far as that needs no waiting
    /// for the disk.
    ///
    /// # Errors
    /// The errno of preadv2(2): `WouldBlock` when it would have to wait, `EOPNOTSUPP` where the file
    /// cannot tell.
    ///
    /// # Safety
    /// The guest's memory has stayed mapped since the list was made.
    pub(crate) unsafe fn read_without_waiting(
        &self,
        fd: BorrowedFd<'_>,
        file_offset: u64,
    ) -> io::Result<usize> {
        let offset = libc::off_t::try_from(file_offset).map_err(|_| einval())?;
        let count = libc::c_int::try_from(self.list.len()).map_err(|_| einval())?;
        let (list, flags) = (self.list.as_ptr(), libc::RWF_NOWAIT);
        // SAFETY: the `count` iovecs point into guest RAM that the caller has kept mapped.
        let n = unsafe { libc::preadv2(fd.as_raw_fd(), list, count, offset, flags) };
        result(n)
    }

    /// Points the list at all of the buffer: a frame cannot be sent in two calls.
    fn fill_whole(&mut self, buffers: &Buffers<'_>) -> io::Result<libc::c_int> {
        self.list.clear();
        self.append(buffers)?;
        self.count()
    }

    /// Points the list at the buffer; at most [`IOV_MAX`] entries, the rest is a short transfer.
    fn fill(&mut self, buffers: &Buffers<'_>, start: usize, len: usize) -> io::Result<libc::c_int> {
        self.list.clear();
        self.extend(buffers, start, len)?;
        self.count()
    }

    fn count(&self) -> io::Result<libc::c_int> {
        libc::c_int::try_from(self.list.len()).map_err(|_| einval())
    }

    /// Appends at most [`IOV_MAX`] pieces of `len` bytes of `buffers` from `start` on; returns their length.
    fn extend(&mut self, buffers: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        let (most, mut covered) = (self.list.len() + IOV_MAX, 0);
        buffers
            .visit(start, len, |slice| {
                if self.list.len() < most {
                    let guard = slice.ptr_guard_mut();
                    let (iov_base, iov_len) = (guard.as_ptr().cast(), slice.len());
                    self.list.push(libc::iovec { iov_base, iov_len });
                    covered += iov_len;
                }
            })
            .map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(covered)
    }
}

fn einval() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn result(n: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
