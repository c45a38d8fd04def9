//! VMClock: a page by which programs of the guest learn that their machine was interrupted, or is a copy.
//!
//! No clock is in it: the guest has kvm-clock. What there is are numbers that become others when a snapshot goes on, which a
//! program that maps the page (`/dev/vmclock0`, Linux 6.13) compares with what it saw before, without a system call.
//! Places and bits are those of Linux (`include/uapi/linux/vmclock-abi.h`); UAPI.13 says the same in words, but for the
//! numbers of two bits. Which device names the page is in `acpi`.

const MAGIC: u64 = 0x4b4c_4356;
/// Bytes of memory that the structure may grow to, in the upper half of its word.
const SIZE: u64 = 4096 << 32;
/// Version 1, and no clock.
const KIND: u64 = 1 | 0xff << 16;
/// `vm_generation_counter` is there, and each change is followed by a notification of the device.
const FLAGS: u64 = 1 << 8 | 1 << 9;

/// The structure of a machine that nothing has happened to, whose `id` is zero, or of one that goes on from a snapshot: an
/// `id` that no other has makes its numbers others than they ever were.
///
/// Nobody finds `seq_count` odd: no guest runs while it and the rest change.
#[must_use]
pub fn page(id: [u8; 16]) -> Vec<u8> {
    let [disruptions, generation] = *id.as_chunks::<8>().0 else { return Vec::new() };
    let [disruptions, generation] = [disruptions, generation].map(u64::from_le_bytes);
    let sequence = disruptions << 33;
    // A clock of which nothing is known stands between the flags and the generation.
    let (rest, clock) = ([disruptions, FLAGS], [0; 9]);
    let first = [MAGIC | SIZE, KIND | sequence];
    let words = [&first[..], &rest, &clock, &[generation]].concat();
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
